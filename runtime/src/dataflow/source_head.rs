//! The head of a source stage: chooses a range for each partition, reads it, stamps each record
//! with the watermark of its own source partition.

use std::sync::Arc;

use drizzle_scheduler::local::{self, Run};
use drizzle_scheduler::message::{Purpose, SourceRange, TakenRange};
use drizzle_scheduler::{PartitionId, Watermark};

use crate::connectors::ConnectorError;
use crate::dataflow::stage::{Head, Intake, IntakeState, RunningHead, StageContext, TaskError};
use crate::dataflow::{EventTimes, InputCounters, Limit, Row, Source, SourceReader, Stamp};

/// A source and the name of its operator.
#[derive(Clone, Debug)]
pub struct SourceHead<S> {
    pub(super) source: S,
    pub(super) name: Arc<str>,
}

impl<S: Source> Head for SourceHead<S> {
    type Record = S::Record;
    type Running = RunningSource<S::Reader>;

    fn open(&self, _context: &StageContext) -> Result<Self::Running, ConnectorError> {
        let reader = self.source.open()?;
        let partitions = (0..self.source.partition_count()).map(PartitionId);
        let partitions = partitions.map(|partition| Partition {
            offset: reader.first_offset(partition),
            times: EventTimes::new(self.source.out_of_orderness_ms()),
            watermark: Watermark::NONE,
            ended: false,
        });
        Ok(RunningSource {
            partitions: partitions.collect(),
            reader,
            name: self.name.clone(),
            counters: InputCounters::default(),
            started: false,
        })
    }
}

/// A source at work on one core.
#[derive(Debug)]
pub struct RunningSource<D> {
    reader: D,
    name: Arc<str>,
    /// Of all partitions; those of other cores stay at their first offset.
    partitions: Vec<Partition>,
    counters: InputCounters,
    started: bool,
}

#[derive(Debug)]
struct Partition {
    /// The offset that the next batch begins at.
    offset: u64,
    times: EventTimes,
    watermark: Watermark,
    ended: bool,
}

impl<D: SourceReader> RunningSource<D> {
    /// Chooses what the batch takes of `partition`.
    fn choose(
        &mut self,
        run: &Run,
        partition: PartitionId,
        intake: &Intake<'_>,
    ) -> (SourceRange, Option<Watermark>) {
        assert!(run.recorded.is_none(), "nothing is recorded where nothing is recovered");
        let share = (intake.batch_bytes / run.partitions.len().max(1) as u64).max(1);
        let state = &mut self.partitions[partition.index()];
        let (from, mut asserted) = (state.offset, None);
        let open = intake.intake == IntakeState::Open
            && run.intake == local::Intake::Normal
            && run.purpose == Purpose::Process;
        if open && !state.ended {
            let limit = Limit { cut: run.cut, bytes: share };
            let choice = self.reader.choose(partition, from, &limit);
            debug_assert!(from <= choice.to, "a source does not run backwards");
            state.offset = choice.to;
            state.ended = choice.ended;
            asserted = choice.asserted;
        }
        (SourceRange { stage: run.stage, partition, from, to: state.offset }, asserted)
    }
}

impl<D: SourceReader> RunningHead for RunningSource<D> {
    type Record = D::Record;

    fn begin(&mut self, _run: &Run, intake: &mut Intake<'_>) -> Result<(), TaskError> {
        if !self.started {
            self.started = true;
            self.reader.start(intake.origin);
        }
        Ok(())
    }

    fn emit<F>(
        &mut self,
        run: &Run,
        partition: PartitionId,
        intake: &mut Intake<'_>,
        emit: F,
    ) -> Result<(), TaskError>
    where
        F: FnMut(&<D::Record as Row>::Of<'_>, &Stamp),
    {
        let (range, asserted) = self.choose(run, partition, intake);
        let state = &mut self.partitions[partition.index()];
        let offsets = range.from..range.to;
        if !offsets.is_empty() {
            // By value, so that the compiler need not think of it as memory.
            let mut times = state.times;
            self.reader.read(partition, offsets, &mut times, &mut self.counters, emit)?;
            state.times = times;
        }
        let known = if state.ended || run.purpose == Purpose::Flush {
            Watermark::END
        } else {
            asserted.unwrap_or(state.times.watermark())
        };
        state.watermark = state.watermark.max(known);
        let (ended, watermark) = (state.ended, state.watermark);
        intake.ranges.push(TakenRange { batch: run.batch, range, ended, watermark });
        Ok(())
    }

    fn watermark(&self, run: &Run) -> Watermark {
        let partitions = run.partitions.iter();
        let watermarks = partitions.map(|partition| self.partitions[partition.index()].watermark);
        watermarks.min().unwrap_or(Watermark::END)
    }

    fn records(&self) -> u64 {
        self.counters.lines
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        let InputCounters { lines, blank, malformed, ok, filtered } = self.counters;
        report(&self.name, "lines", lines);
        report(&self.name, "blank", blank);
        report(&self.name, "malformed", malformed);
        report(&self.name, "ok", ok);
        report(&self.name, "filtered", filtered);
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.reader.close()
    }
}
