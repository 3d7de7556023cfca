//! Inputs held in memory and read over and over: pass k adds k times their span to all event times,
//! so that a few hundred megabytes become a stream of any length whose reading costs what reading
//! memory costs.
//!
//! An offset of a partition counts bytes (of lines) or records, over all passes.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::PartitionId;
use drizzle_scheduler::plan::Pacing;

use super::lines::whole_lines;
use super::{ConnectorError, Fingerprint, LineReader, Lines};
use crate::dataflow::{
    Choice, EventTimes, InputCounters, Limit, Owned, Reread, Row, Source, SourceReader, Stamp,
};
use crate::formats::Chunk;

/// Largest event time that a replay may reach, in milliseconds.
const MAX_TIME_MS: u64 = 1 << 62;

/// An input in memory: the bytes of lines, or records. Clones share it.
#[derive(Debug)]
pub struct Replay<T> {
    held: Arc<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    partitions: Vec<Box<[T]>>,
    passes: NonZeroU64,
    span_ms: u64,
    fingerprint: u64,
}

impl<T> Clone for Replay<T> {
    fn clone(&self) -> Self {
        Replay { held: Arc::clone(&self.held) }
    }
}

impl<T> Replay<T> {
    /// These partitions, each in `passes` passes, `span_ms` of event time apart. `fingerprint` tells
    /// what they hold: it is not computed from it.
    ///
    /// # Errors
    /// If event times or offsets would become too large to be numbered.
    pub fn new(
        partitions: Vec<Box<[T]>>,
        passes: NonZeroU64,
        span_ms: u64,
        fingerprint: u64,
    ) -> Result<Replay<T>, ConnectorError> {
        let longest = partitions.iter().map(|partition| partition.len() as u64).max().unwrap_or(0);
        let fits = |number: Option<u64>| number.is_some_and(|number| number < MAX_TIME_MS);
        if !fits(passes.get().checked_mul(span_ms)) || !fits(passes.get().checked_mul(longest)) {
            let text = "so many passes over the input are more than can be numbered";
            return Err(ConnectorError::Other(text.to_owned()));
        }
        Ok(Replay { held: Arc::new(Held { partitions, passes, span_ms, fingerprint }) })
    }

    /// What each partition holds.
    pub fn partitions(&self) -> &[Box<[T]>] {
        &self.held.partitions
    }

    /// How much later a pass is than the one before, in milliseconds.
    pub fn span_ms(&self) -> u64 {
        self.held.span_ms
    }

    fn identity(&self) -> u64 {
        Fingerprint::new("replay")
            .number(self.held.partitions.len() as u64)
            .number(self.held.passes.get())
            .number(self.held.span_ms)
            .number(self.held.fingerprint)
            .finish()
    }

    fn partition(&self, partition: PartitionId) -> &[T] {
        &self.held.partitions[partition.index()]
    }

    /// Chooses from `from` on: within a pass, up to where `end` says that a batch may end.
    fn choose_within_pass(
        &self,
        partition: PartitionId,
        from: u64,
        end: impl FnOnce(&[T]) -> usize,
    ) -> Choice {
        let items = self.partition(partition);
        let all = self.held.passes.get() * items.len() as u64;
        if from >= all {
            return Choice { to: from, ended: true, asserted: None };
        }
        let rest = &items[(from % items.len() as u64) as usize..];
        let to = from + end(rest) as u64;
        Choice { to, ended: to == all, asserted: None }
    }

    /// The items from an offset to the end of its pass, and what the pass adds to event times.
    fn items_from(&self, partition: PartitionId, from: u64) -> (&[T], u64) {
        let items = self.partition(partition);
        let (pass, first) = (from / items.len() as u64, from % items.len() as u64);
        (&items[first as usize..], pass * self.held.span_ms)
    }
}

/// Lines in memory, each ended by a newline.
impl Lines for Replay<u8> {
    type Reader = Replay<u8>;

    fn partition_count(&self) -> u32 {
        self.held.partitions.len() as u32
    }

    fn pacing(&self) -> Pacing {
        Pacing::Unpaced
    }

    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        self.identity()
    }

    fn open(&self) -> Result<Replay<u8>, ConnectorError> {
        Ok(self.clone())
    }
}

impl LineReader for Replay<u8> {
    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        self.choose_within_pass(partition, from, |rest| whole_lines(rest, limit.bytes))
    }

    fn read_chunks<F: FnMut(Chunk<'_>)>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        mut each: F,
    ) -> Result<(), ConnectorError> {
        let length = (range.end - range.start) as usize;
        let (bytes, shift_ms) = self.items_from(partition, range.start);
        each(Chunk::start_of(bytes, length).later(shift_ms));
        Ok(())
    }
}

/// A record that knows when it happened.
pub trait TimedRecord: Copy + Send + Sync + 'static {
    /// Its event time in milliseconds.
    fn event_time(&self) -> u64;
}

impl<R: TimedRecord> Replay<R> {
    /// The records as a source of those that `keep` holds for; the others are counted as
    /// `NAME.filtered`, and their event times count.
    pub fn keep<P>(self, keep: P) -> ReplayedRecords<R, P>
    where
        P: Fn(&R) -> bool + Clone + Send + Sync + 'static,
    {
        ReplayedRecords { replay: self, keep }
    }
}

/// Records in memory, parsed before, as a source and as a core reads it.
#[derive(Clone, Debug)]
pub struct ReplayedRecords<R, P> {
    replay: Replay<R>,
    keep: P,
}

impl<R, P> Source for ReplayedRecords<R, P>
where
    R: TimedRecord,
    P: Fn(&R) -> bool + Clone + Send + Sync + 'static,
{
    type Record = Owned<R>;
    type Reader = ReplayedRecords<R, P>;

    fn partition_count(&self) -> u32 {
        self.replay.held.partitions.len() as u32
    }

    fn pacing(&self) -> Pacing {
        Pacing::Unpaced
    }

    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        self.replay.identity()
    }

    fn out_of_orderness_ms(&self) -> u64 {
        0
    }

    fn open(&self) -> Result<ReplayedRecords<R, P>, ConnectorError> {
        Ok(self.clone())
    }
}

/// Records that are looked at before any of them is sent on.
const AT_A_TIME: usize = 256;

impl<R, P> SourceReader for ReplayedRecords<R, P>
where
    R: TimedRecord,
    P: Fn(&R) -> bool + Clone + Send + Sync + 'static,
{
    type Record = Owned<R>;

    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        let records = (limit.bytes / size_of::<R>().max(1) as u64).max(1);
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        self.replay.choose_within_pass(partition, from, |rest| rest.len().min(records))
    }

    /// A record's own time is that of the first pass; its stamp has the pass's.
    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&<Owned<R> as Row>::Of<'_>, &Stamp),
    {
        let (records, shift_ms) = self.replay.items_from(partition, range.start);
        let records = &records[..(range.end - range.start) as usize];
        counters.lines += records.len() as u64;
        counters.ok += records.len() as u64;
        let mut kept = [(0, Stamp::ZERO); AT_A_TIME];
        for records in records.chunks(AT_A_TIME) {
            // Written always and counted if kept: no branch that depends on the data.
            let mut count = 0;
            for (index, record) in records.iter().enumerate() {
                kept[count] = (index, times.stamp(record.event_time() + shift_ms));
                count += usize::from((self.keep)(record));
            }
            counters.filtered += (records.len() - count) as u64;
            for (index, stamp) in &kept[..count] {
                emit(&records[*index], stamp);
            }
        }
        Ok(())
    }
}
