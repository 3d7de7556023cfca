//! What the driver hears of the results: not every row, which would cost more than the tasks, but
//! for each partition how many there were, their sum and a digest of them in any order.

use std::marker::PhantomData;

use drizzle::connectors::{ConnectorError, Fingerprint};
use drizzle::dataflow::{Owned, Row, Sink, SinkContext, SinkWriter};
use drizzle::node::{Collect, Outlet};
use drizzle::scheduler::{BatchId, Instant};

/// One result: the sum of a task, or of a reducer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summed {
    /// The task or the reducer's key.
    pub key: u64,
    /// The offset that was taken.
    pub offset: u64,
    /// The sum.
    pub sum: u64,
}

/// Any number of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub rows: u64,
    /// The sum of their sums.
    pub sum: u64,
    /// The sum of their hashes: any result that is missing, doubled or different changes it.
    pub digest: u64,
}

impl Tally {
    /// Takes a result into account.
    pub fn add(&mut self, row: &Summed) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row.sum);
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for part in [row.key, row.offset, row.sum] {
            word = (word ^ part).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
        }
        self.digest = self.digest.wrapping_add(word);
    }

    /// Takes the results of another one into account.
    pub fn merge(&mut self, other: &Tally) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// Bytes of a tally as the driver collects it.
const TALLY_BYTES: usize = 24;

fn encode(tally: &Tally, _now: Instant, out: &mut Vec<u8>) {
    for word in [tally.rows, tally.sum, tally.digest] {
        out.extend(word.to_le_bytes());
    }
}

/// Reads tallies; bytes that are no whole tally are ignored, since only this module writes them.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Tally> + '_ {
    bytes.chunks_exact(TALLY_BYTES).map(|bytes| {
        let (words, _) = bytes.as_chunks::<8>();
        let [rows, sum, digest] = [0, 1, 2].map(|index| u64::from_le_bytes(words[index]));
        Tally { rows, sum, digest }
    })
}

type Encode = fn(&Tally, Instant, &mut Vec<u8>);
type CollectTallies = Collect<Owned<Tally>, Encode>;

/// A sink that tallies its rows and hands the driver one tally of each partition at the end.
pub struct Tallies<R> {
    inner: CollectTallies,
    row: PhantomData<fn() -> R>,
}

impl<R> Tallies<R> {
    /// Tallies for the driver.
    pub fn new(outlet: &Outlet) -> Tallies<R> {
        Tallies { inner: Collect::new(outlet, encode as Encode), row: PhantomData }
    }
}

impl<R> Clone for Tallies<R> {
    fn clone(&self) -> Tallies<R> {
        Tallies { inner: self.inner.clone(), row: PhantomData }
    }
}

impl<R> Sink<R> for Tallies<R>
where
    R: Row,
    for<'r, 'a> Summed: From<&'r R::Of<'a>>,
{
    type Writer = TallyWriter<<CollectTallies as Sink<Owned<Tally>>>::Writer>;

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("tallies").finish()
    }

    fn open(&self, context: &SinkContext) -> Result<Self::Writer, ConnectorError> {
        let inner = self.inner.open(context)?;
        Ok(TallyWriter { inner, tally: Tally::default(), last: (BatchId(0), Instant(0)) })
    }
}

/// The tally of one partition.
pub struct TallyWriter<W> {
    inner: W,
    tally: Tally,
    /// Batch and time of the last row.
    last: (BatchId, Instant),
}

impl<R, W> SinkWriter<R> for TallyWriter<W>
where
    R: Row,
    W: SinkWriter<Owned<Tally>>,
    for<'r, 'a> Summed: From<&'r R::Of<'a>>,
{
    fn write(
        &mut self,
        batch: BatchId,
        now: Instant,
        record: &R::Of<'_>,
    ) -> Result<(), ConnectorError> {
        self.tally.add(&Summed::from(record));
        self.last = (batch, now);
        Ok(())
    }

    fn end_batch(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        let (batch, now) = self.last;
        self.inner.write(batch, now, &self.tally)?;
        self.inner.close()
    }
}
