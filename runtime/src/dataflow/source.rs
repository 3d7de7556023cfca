//! The contract of sources: `choose(limit) -> range`, then `read(range)`, the same bytes each time.

use std::ops::Range;

use drizzle_scheduler::plan::Pacing;
use drizzle_scheduler::{Instant, PartitionId, Watermark};

use crate::connectors::ConnectorError;
use crate::dataflow::{Row, Stamp};

/// An input that several cores read, each its own partitions.
///
/// The number of partitions depends on the input alone, never on workers, so that lateness, which
/// is decided per source partition, is the same in every run.
pub trait Source: Clone + Send + Sync + 'static {
    /// What it yields.
    type Record: Row;
    /// One core's way to read it.
    type Reader: SourceReader<Record = Self::Record>;

    /// How many partitions it has, at least 1.
    fn partition_count(&self) -> u32;
    /// Whether batches wait for their start time.
    fn pacing(&self) -> Pacing;
    /// Hash over what must be equal on every node (length of a file, seed of a generator).
    fn fingerprint(&self) -> u64;
    /// How far event times may run backwards without being late, in milliseconds.
    fn out_of_orderness_ms(&self) -> u64;
    /// Where a range that was read can be read again.
    fn reread(&self) -> Reread;
    /// Opens it on one core.
    fn open(&self) -> Result<Self::Reader, ConnectorError>;
}

/// Where a range that was read can be read again: what the loss of a worker costs depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reread {
    /// On any worker: the same bytes are made or found there.
    Anywhere,
    /// On any worker, as long as whoever sent it lives: it keeps what no checkpoint covers.
    FromTheSender,
    /// On hosts that have the same file under the same path.
    WhereTheFileIs,
    /// Nowhere: what a lost worker took and had not processed is gone.
    Nowhere,
}

/// A source as one core reads it.
pub trait SourceReader: Send + 'static {
    /// What it yields.
    type Record: Row;

    /// The job starts at `start` in the driver's time. Called once, before the first `choose`.
    fn start(&mut self, _start: Instant) {}

    /// The offset at which `partition` begins.
    fn first_offset(&self, partition: PartitionId) -> u64;

    /// Chooses what the next batch takes of `partition`, from offset `from` on. An empty choice
    /// (`to == from`) is always allowed.
    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice;

    /// Reads exactly `range`, calling `emit` with each valid record in order. The stamps are those
    /// of `times`, which is told of every valid record, also of one that the source itself leaves out.
    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&<Self::Record as Row>::Of<'_>, &Stamp);

    /// Nobody will ask for what `partition` has before `offset` again. Told on the core where the partition
    /// is, when the checkpoints that a job may have to start from cover it, at the end, and, where
    /// nothing outlives its process, as soon as it was read.
    fn durable(&mut self, _partition: PartitionId, _offset: u64) {}

    /// `partition` goes on elsewhere.
    fn leave(&mut self, _partition: PartitionId) {}

    /// Something that a person should know, in one line, told once.
    fn notice(&mut self) -> Option<String> {
        None
    }

    /// The job ends well: makes what it wrote on the side (dead letters) complete.
    fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// How much a batch may take of one source partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Live sources take what was there before this point in the driver's time.
    pub cut: Instant,
    /// About so many bytes, and at least one record if there is one.
    pub bytes: u64,
}

/// What a source chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The offset after the last one taken.
    pub to: u64,
    /// Nothing will ever come after it.
    pub ended: bool,
    /// A watermark that the source knows to hold after this range, in its own right and not
    /// derived from the data.
    pub asserted: Option<Watermark>,
}

/// The event times of one source partition, in the order of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimes {
    largest: u64,
    out_of_orderness_ms: u64,
}

impl EventTimes {
    /// Of a partition whose event times run backwards by at most so many milliseconds.
    pub fn new(out_of_orderness_ms: u64) -> EventTimes {
        EventTimes { largest: 0, out_of_orderness_ms }
    }

    /// Of a partition that goes on behind records with that watermark. An asserted one counts like one that
    /// follows from data: what comes is not earlier, as its source has said.
    pub fn resumed(watermark: Watermark, out_of_orderness_ms: u64) -> EventTimes {
        let largest = watermark.0.saturating_add(out_of_orderness_ms);
        EventTimes {
            largest: if watermark == Watermark::NONE { 0 } else { largest },
            out_of_orderness_ms,
        }
    }

    /// The stamp of the next record, whose event time counts from then on.
    #[inline]
    pub fn stamp(&mut self, event_time: u64) -> Stamp {
        let watermark = self.watermark();
        self.largest = self.largest.max(event_time);
        Stamp { event_time, watermark }
    }

    /// The watermark that follows from the records so far.
    #[inline]
    pub fn watermark(&self) -> Watermark {
        Watermark(self.largest.saturating_sub(self.out_of_orderness_ms))
    }
}

/// What a source counts: `lines = blank + malformed + ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputCounters {
    /// Lines read.
    pub lines: u64,
    /// Lines of JSON white space only.
    pub blank: u64,
    /// Lines that are no valid record.
    pub malformed: u64,
    /// Lines that are one.
    pub ok: u64,
    /// Those of them that the source's own predicate left out.
    pub filtered: u64,
}
