//! The head of a source stage: chooses a range for each partition, reads it, stamps each record
//! with the watermark of its own source partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use drizzle_scheduler::checkpoint::SourcePosition;
use drizzle_scheduler::local::{self, Retention, Run};
use drizzle_scheduler::message::{Purpose, SourceRange, TakenRange};
use drizzle_scheduler::{BatchId, PartitionId, Watermark};

use crate::connectors::ConnectorError;
use crate::dataflow::stage::{Head, Intake, IntakeState, RunningHead, StageContext, TaskError};
use crate::dataflow::state::{Extent, Keeps, PieceReader, Slot, StateError};
use crate::dataflow::{EventTimes, InputCounters, Limit, Piece, Row, Source, SourceReader, Stamp};

/// A source and the name of its operator.
#[derive(Clone, Debug)]
pub struct SourceHead<S> {
    pub(super) source: S,
    pub(super) name: Arc<str>,
}

impl<S: Source> Head for SourceHead<S> {
    type Record = S::Record;
    type Running = RunningSource<S::Reader>;

    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError> {
        let reader = self.source.open()?;
        let partitions = (0..self.source.partition_count()).map(PartitionId);
        let partitions = partitions.map(|partition| Partition {
            offset: reader.first_offset(partition),
            times: EventTimes::new(self.source.out_of_orderness_ms()),
            watermark: Watermark::NONE,
            ended: false,
        });
        let partitions: Vec<Partition> = partitions.collect();
        Ok(RunningSource {
            holdings: vec![Holding::default(); partitions.len()],
            retention: context.retention,
            partitions,
            reader,
            out_of_orderness_ms: self.source.out_of_orderness_ms(),
            aside: BTreeMap::new(),
            name: self.name.clone(),
            counters: InputCounters::default(),
            started: false,
            repeated: Watermark::NONE,
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
    /// By partition.
    holdings: Vec<Holding>,
    retention: Retention,
    /// Where partitions were that moved away.
    aside: BTreeMap<(PartitionId, Slot), Partition>,
    out_of_orderness_ms: u64,
    counters: InputCounters,
    started: bool,
    /// The watermark behind the range that was read again last.
    repeated: Watermark,
}

#[derive(Clone, Copy, Debug)]
struct Partition {
    /// The offset that the next batch begins at.
    offset: u64,
    times: EventTimes,
    watermark: Watermark,
    ended: bool,
}

/// What is known of a partition wherever it is.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    /// It goes on here.
    is_here: bool,
    /// Where the newest checkpoint has it that is durable.
    covered: Option<u64>,
}

impl<D: SourceReader> RunningSource<D> {
    /// Chooses what the batch takes of `partition`.
    fn choose(
        &mut self,
        run: &Run,
        partition: PartitionId,
        intake: &Intake<'_>,
    ) -> (SourceRange, Option<Watermark>) {
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

    /// Reads what was taken before, by whomever: the same records, with the same stamps. Where the
    /// partition goes on is not touched.
    fn read_again<F>(
        &mut self,
        partition: PartitionId,
        (taken, floor): (TakenRange, Watermark),
        emit: F,
    ) -> Result<(), TaskError>
    where
        F: FnMut(&<D::Record as Row>::Of<'_>, &Stamp),
    {
        let mut times = EventTimes::resumed(floor, self.out_of_orderness_ms);
        let offsets = taken.range.from..taken.range.to;
        if !offsets.is_empty() {
            self.reader.read(partition, offsets, &mut times, &mut self.counters, emit)?;
        }
        self.repeated = taken.watermark;
        Ok(())
    }

    /// A partition as it is behind these offsets.
    fn behind(&self, offset: u64, watermark: Watermark, ended: bool) -> Partition {
        let times = EventTimes::resumed(watermark, self.out_of_orderness_ms);
        Partition { offset, times, watermark, ended }
    }

    fn at_first(&self, partition: PartitionId) -> Partition {
        let times = EventTimes::new(self.out_of_orderness_ms);
        let offset = self.reader.first_offset(partition);
        Partition { offset, times, watermark: Watermark::NONE, ended: false }
    }

    fn set(&mut self, partition: PartitionId, slot: Slot, state: Partition) {
        match slot {
            Slot::Live => self.partitions[partition.index()] = state,
            Slot::Copy | Slot::Ahead => {
                self.aside.insert((partition, slot), state);
            }
        }
    }
}

/// A piece of a source: offset, watermark, whether it has ended.
const PIECE_LEN: usize = 8 + 8 + 1;

impl<D: SourceReader> Keeps for RunningSource<D> {
    fn freeze(&mut self, partition: PartitionId, slot: Slot, _extent: Extent, out: &mut Vec<u8>) {
        let state = match slot {
            Slot::Live => Some(&self.partitions[partition.index()]),
            Slot::Copy | Slot::Ahead => self.aside.get(&(partition, slot)),
        };
        let Some(state) = state else { return };
        out.extend_from_slice(&state.offset.to_le_bytes());
        out.extend_from_slice(&state.watermark.0.to_le_bytes());
        out.push(u8::from(state.ended));
    }

    fn thaw(
        &mut self,
        partition: PartitionId,
        slot: Slot,
        piece: &Piece<'_>,
        _from: usize,
    ) -> Result<Option<usize>, StateError> {
        if piece.bytes.len() != PIECE_LEN {
            return Err(StateError::Content("the position of a source has another length"));
        }
        let mut reader = PieceReader(piece.bytes);
        let (offset, watermark) = (reader.u64()?, Watermark(reader.u64()?));
        let state = self.behind(offset, watermark, reader.0 != [0]);
        self.set(partition, slot, state);
        Ok(None)
    }

    fn clear(&mut self, partition: PartitionId, slot: Slot) {
        match slot {
            Slot::Live => {
                self.partitions[partition.index()] = self.at_first(partition);
                self.holdings[partition.index()].is_here = false;
                self.reader.leave(partition);
            }
            Slot::Copy | Slot::Ahead => {
                self.aside.remove(&(partition, slot));
            }
        }
    }

    fn shift(&mut self, partition: PartitionId, from: Slot, to: Slot) {
        let state = match from {
            Slot::Live => Some(self.partitions[partition.index()]),
            Slot::Copy | Slot::Ahead => self.aside.get(&(partition, from)).copied(),
        };
        self.clear(partition, from);
        if let Some(state) = state {
            self.set(partition, to, state);
        }
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
        if let Some(recorded) = run.recorded {
            return self.read_again(partition, recorded, emit);
        }
        self.holdings[partition.index()].is_here = true;
        let (range, asserted) = self.choose(run, partition, intake);
        intake.notices.extend(self.reader.notice());
        let state = &mut self.partitions[partition.index()];
        let offsets = range.from..range.to;
        if !offsets.is_empty() {
            // By value, so that the compiler need not think of it as memory.
            let mut times = state.times;
            self.reader.read(partition, offsets, &mut times, &mut self.counters, emit)?;
            state.times = times;
            if self.retention == Retention::WhenFolded {
                self.reader.durable(partition, range.to);
            }
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
        if run.recorded.is_some() {
            return self.repeated;
        }
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
        for (index, holding) in self.holdings.iter().enumerate() {
            if holding.is_here {
                let partition = PartitionId(index as u32);
                self.reader.durable(partition, self.partitions[index].offset);
            }
        }
        self.reader.close()
    }

    fn go_on(&mut self, position: &SourcePosition) {
        let &SourcePosition { partition, after, offset, watermark, ended, .. } = position;
        self.partitions[partition.index()] = match after {
            // Nobody knows of anything that was taken, nor where the partition begins.
            BatchId(0) => self.at_first(partition),
            _ => self.behind(offset, watermark, ended),
        };
        self.holdings[partition.index()].is_here = true;
    }

    /// The newest checkpoint may turn out to be damaged, so it is the one before it that counts.
    fn covered(&mut self, position: &SourcePosition) {
        let holding = &mut self.holdings[position.partition.index()];
        let before = holding.covered.replace(position.offset);
        if let Some(offset) = before.filter(|_| holding.is_here) {
            self.reader.durable(position.partition, offset);
        }
    }
}
