//! A job of three stages with a source of its own, a custom aggregate, places where it can be told to
//! fail, and the same computation in a plain loop.

use std::collections::BTreeMap;
use std::ops::Range;

use drizzle::connectors::ConnectorError;
use drizzle::dataflow::{
    Aggregate, Choice, Combining, EventTimes, InputCounters, Limit, Owned, Reread, Sink,
    SinkContext, SinkWriter, Source, SourceReader, Stamp, WindowResult,
};
use drizzle::scheduler::plan::Pacing;
use drizzle::scheduler::{BatchId, Instant, PartitionId};

pub const SMALL_MS: u64 = 50;
pub const LARGE_MS: u64 = 200;
pub const OUT_OF_ORDERNESS_MS: u64 = 30;
pub const PARTITIONS: u32 = 5;
/// Records of a source partition that ends.
pub const LENGTH: u64 = 700;

/// A record of the source, made from where it stands and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub sensor: u64,
    pub time: u64,
    pub is_good: bool,
}

pub fn reading(partition: u64, offset: u64) -> Reading {
    let mut word = partition.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ offset;
    for _ in 0..2 {
        word = (word ^ (word >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    let back = (word >> 40) % 50; // some are beyond the bound, so late now and then
    Reading {
        sensor: (word >> 8) % 23,
        time: (offset * 2 + partition).saturating_sub(back),
        is_good: !(word >> 50).is_multiple_of(4),
    }
}

/// Something that goes wrong in user code or in a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    OpenFails,
    OpenPanics,
    ReadFails,
    CloseFails,
    FilterPanics,
    MapPanics,
    AggregatePanics,
    SinkFails,
    SinkOpenPanics,
    SinkClosePanics,
}

/// Readings of several partitions; an offset counts them.
#[derive(Clone, Debug)]
pub struct Readings {
    pub length: u64,
    pub batch: u64,
    pub pacing: Pacing,
    pub trouble: Trouble,
}

impl Source for Readings {
    type Record = Owned<Reading>;
    type Reader = Readings;

    fn partition_count(&self) -> u32 {
        PARTITIONS
    }
    fn pacing(&self) -> Pacing {
        self.pacing
    }
    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        self.length
    }
    fn out_of_orderness_ms(&self) -> u64 {
        OUT_OF_ORDERNESS_MS
    }
    fn open(&self) -> Result<Readings, ConnectorError> {
        match self.trouble {
            Trouble::OpenFails => Err(ConnectorError::Other("nobody is there".to_owned())),
            Trouble::OpenPanics => panic!("the door is stuck"),
            _ => Ok(self.clone()),
        }
    }
}

impl SourceReader for Readings {
    type Record = Owned<Reading>;

    fn first_offset(&self, partition: PartitionId) -> u64 {
        u64::from(partition.0)
    }

    fn choose(&mut self, partition: PartitionId, from: u64, _limit: &Limit) -> Choice {
        let to = (from + self.batch + u64::from(partition.0)).min(self.length);
        Choice { to, ended: to == self.length, asserted: None }
    }

    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&Reading, &Stamp),
    {
        for offset in range {
            if self.trouble == Trouble::ReadFails && offset == 300 {
                return Err(ConnectorError::Other("the cable is cut".to_owned()));
            }
            counters.lines += 1;
            counters.ok += 1;
            let record = reading(u64::from(partition.0), offset);
            emit(&record, &times.stamp(record.time));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        match self.trouble {
            Trouble::CloseFails => Err(ConnectorError::Other("the disk is full".to_owned())),
            _ => Ok(()),
        }
    }
}

/// The largest of some counts, and their sum.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub trouble: Trouble,
}

impl Aggregate<Owned<(u32, u64)>> for Load {
    type Value = u64;
    type Accumulator = (u64, u64);
    type Output = (u64, u64);

    const COMBINING: Combining = Combining::WithinPartition;

    fn value(&self, count: &(u32, u64)) -> u64 {
        count.1
    }
    fn zero(&self) -> (u64, u64) {
        (0, 0)
    }
    fn add(&self, load: &mut (u64, u64), count: u64) {
        assert!(self.trouble != Trouble::AggregatePanics, "too heavy");
        self.merge(load, (count, count));
    }
    fn merge(&self, load: &mut (u64, u64), other: (u64, u64)) {
        *load = (load.0.max(other.0), load.1 + other.1);
    }
    fn output(&self, load: &(u64, u64)) -> (u64, u64) {
        *load
    }
}

pub type Loads = WindowResult<u32, (u64, u64)>;

pub fn encode(row: &Loads, _now: Instant, out: &mut Vec<u8>) {
    out.extend(u64::from(row.key).to_le_bytes());
    for word in [row.window_start, row.value.0, row.value.1] {
        out.extend(word.to_le_bytes());
    }
}

/// A sink around another one that fails when told to.
#[derive(Clone)]
pub struct Troubled<S> {
    pub inner: S,
    pub trouble: Trouble,
}

impl<S: Sink<Owned<Loads>>> Sink<Owned<Loads>> for Troubled<S> {
    type Writer = Troubled<S::Writer>;

    fn fingerprint(&self) -> u64 {
        self.inner.fingerprint()
    }
    fn open(&self, context: &SinkContext) -> Result<Self::Writer, ConnectorError> {
        assert!(self.trouble != Trouble::SinkOpenPanics, "no pencil");
        Ok(Troubled { inner: self.inner.open(context)?, trouble: self.trouble })
    }
}

impl<W: SinkWriter<Owned<Loads>>> SinkWriter<Owned<Loads>> for Troubled<W> {
    fn write(&mut self, batch: BatchId, now: Instant, row: &Loads) -> Result<(), ConnectorError> {
        match self.trouble {
            Trouble::SinkFails => Err(ConnectorError::Other("the paper is out".to_owned())),
            _ => self.inner.write(batch, now, row),
        }
    }
    fn end_batch(&mut self, batch: BatchId) -> Result<(), ConnectorError> {
        self.inner.end_batch(batch)
    }
    fn close(&mut self) -> Result<(), ConnectorError> {
        assert!(self.trouble != Trouble::SinkClosePanics, "the lid is stuck");
        self.inner.close()
    }
}

/// (largest count, sum of counts) by (room, window start).
pub type Results = BTreeMap<(u64, u64), (u64, u64)>;

/// The whole job in a plain loop over what was taken of each partition.
#[derive(Debug, Default)]
pub struct Sequential {
    pub results: Results,
    pub good: u64,
    pub late: u64,
    pub small_windows: u64,
}

pub fn sequential(taken: impl IntoIterator<Item = (u64, Range<u64>)>) -> Sequential {
    let mut sequential = Sequential::default();
    let mut counts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (partition, offsets) in taken {
        let mut largest = 0;
        for record in offsets.map(|offset| reading(partition, offset)) {
            let start = record.time / SMALL_MS * SMALL_MS;
            let is_late = start + SMALL_MS + OUT_OF_ORDERNESS_MS <= largest;
            largest = largest.max(record.time);
            if record.is_good {
                sequential.good += 1;
                match is_late {
                    true => sequential.late += 1,
                    false => *counts.entry((record.sensor, start)).or_default() += 1,
                }
            }
        }
    }
    sequential.small_windows = counts.len() as u64;
    for ((sensor, start), count) in counts {
        let window = (sensor % 4, start / LARGE_MS * LARGE_MS);
        let (most, sum) = sequential.results.entry(window).or_default();
        *most = count.max(*most);
        *sum += count;
    }
    sequential
}

/// Every record of every partition.
pub fn everything() -> Sequential {
    sequential((0..u64::from(PARTITIONS)).map(|partition| (partition, partition..LENGTH)))
}
