//! A stage at work on one core: a head that yields records, operators fused behind it, and a
//! terminal that takes what comes out. Boxed at the boundary, generic inside.

use std::sync::Arc;

use drizzle_scheduler::checkpoint::SourcePosition;
use drizzle_scheduler::local::{Retention, Run};
use drizzle_scheduler::message::TakenRange;
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{
    BatchId, CoreId, Epoch, Incarnation, Instant, PartitionId, StageId, Watermark,
};
use drizzle_shuffle::{Block, BlockStore, StoreFull};

use crate::connectors::ConnectorError;
use crate::core::CoreClock;
use crate::dataflow::state::{self, Extent, Keeps, Slot, StateError};
use crate::dataflow::{Beginning, Piece, Row, Stamp, Transform};

/// Why a task could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A source or sink failed.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The memory for blocks is used up.
    #[error("{0}: give the worker more memory or the job smaller batches")]
    Memory(#[from] StoreFull),
}

/// What a stage is opened with, on the core that will run it.
#[derive(Clone, Debug)]
pub struct StageContext {
    /// The whole plan.
    pub plan: Arc<Plan>,
    /// The stage's number in it.
    pub stage: StageId,
    /// The core.
    pub core: CoreId,
    /// The life of its worker.
    pub incarnation: Incarnation,
    /// About how many bytes records may take that are combined before a shuffle.
    pub combiner_bytes: usize,
    /// Whether anything outlives the process.
    pub retention: Retention,
}

/// What the head of a stage has at hand while a batch runs.
pub struct Intake<'a> {
    /// Zero of the job's own time.
    pub origin: Instant,
    /// The blocks of the batch, from every edge into the stage.
    pub inputs: &'a [Block],
    /// For which partitions of the run each of them is folded; `None`: each for all that it covers.
    pub folded: Option<&'a [Vec<PartitionId>]>,
    /// What source tasks took.
    pub ranges: Vec<TakenRange>,
    /// Memory is short: source tasks take nothing, so that batches go on.
    pub intake: IntakeState,
    /// About how many bytes of input they take together at most.
    pub batch_bytes: u64,
    /// What a person should know, in one line each.
    pub notices: Vec<String>,
}

/// Whether source tasks may take input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeState {
    /// They may.
    Open,
    /// Memory for blocks is short: they take empty ranges until it is not.
    Paused,
}

/// What the terminal of a stage has at hand while a batch runs.
pub struct Output<'a> {
    /// The driver's time.
    pub clock: &'a CoreClock,
    /// Where every partition of this batch is.
    pub placement: &'a Arc<Placement>,
    /// The newest placement that this core knows of.
    pub epoch: Epoch,
    /// Where blocks are written.
    pub store: &'a mut BlockStore,
    /// Finished blocks and the cores that they are for.
    pub outgoing: &'a mut Vec<(CoreId, Block)>,
}

/// A stage, built anew on each core.
pub(crate) trait StageFactory: Send + Sync {
    fn open(&self, context: &StageContext) -> Result<Box<dyn Stage>, ConnectorError>;
}

/// A stage at work on one core.
pub(crate) trait Stage {
    /// Runs the tasks of one batch to completion.
    fn run(
        &mut self,
        run: &Run,
        intake: &mut Intake<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), TaskError>;
    /// Records read from outside so far.
    fn records(&self) -> u64;
    /// Bytes of memory that it keeps from batch to batch for keys.
    fn state_bytes(&self) -> usize;
    /// Reports (operator, what, how many).
    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64));
    /// The job ends well: makes what was written complete.
    fn close(&mut self) -> Result<(), ConnectorError>;

    /// A piece of what it keeps of a partition.
    fn freeze(&mut self, partition: PartitionId, slot: Slot, extent: Extent) -> Vec<u8>;
    /// About how large that would be.
    fn weigh(&self, partition: PartitionId, extent: Extent) -> u64;
    /// Applies a piece, or a bounded part of it from `from` on; says where to go on.
    fn thaw(
        &mut self,
        partition: PartitionId,
        slot: Slot,
        piece: &Piece<'_>,
        from: usize,
    ) -> Result<Option<usize>, StateError>;
    /// Forgets what it keeps of a partition in that slot.
    fn clear(&mut self, partition: PartitionId, slot: Slot);
    /// Moves what it keeps of a partition to another slot.
    fn shift(&mut self, partition: PartitionId, from: Slot, to: Slot);
    /// A source partition goes on there.
    fn go_on(&mut self, position: &SourcePosition);
    /// A partition starts here: what was written for later batches is void.
    fn begin_at(
        &mut self,
        partition: PartitionId,
        beginning: Beginning,
    ) -> Result<(), ConnectorError>;
    /// A checkpoint of `through` is durable: sinks may make visible what they staged up to it.
    fn durable(&mut self, through: BatchId) -> Result<(), ConnectorError>;
    /// A checkpoint that is durable has a source partition there.
    fn covered(&mut self, position: &SourcePosition);
    /// The ranges of all batches up to `through` are recorded: sinks that cannot take anything back may
    /// write them.
    fn recorded(&mut self, through: BatchId) -> Result<(), ConnectorError>;
}

/// Where the records of a stage come from.
pub trait Head: Clone + Send + Sync + 'static {
    /// What it yields.
    type Record: Row;
    /// It, at work.
    type Running: RunningHead<Record = Self::Record>;

    /// Opens it on one core.
    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError>;
}

/// A head at work on one core.
pub trait RunningHead: Keeps + 'static {
    /// What it yields.
    type Record: Row;

    /// Takes in what the batch brought, for all partitions of the run.
    fn begin(&mut self, run: &Run, intake: &mut Intake<'_>) -> Result<(), TaskError>;
    /// Yields the records of one partition.
    fn emit<F>(
        &mut self,
        run: &Run,
        partition: PartitionId,
        intake: &mut Intake<'_>,
        emit: F,
    ) -> Result<(), TaskError>
    where
        F: FnMut(&<Self::Record as Row>::Of<'_>, &Stamp);
    /// The watermark after the batch, once every partition has been emitted.
    fn watermark(&self, run: &Run) -> Watermark;
    /// Records read from outside so far.
    fn records(&self) -> u64;
    /// Bytes of memory that it keeps from batch to batch for keys.
    fn state_bytes(&self) -> usize;
    /// Reports (operator, what, how many).
    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64));
    /// The job ends well.
    fn close(&mut self) -> Result<(), ConnectorError>;
    /// A source partition goes on there. Only sources have any.
    fn go_on(&mut self, _position: &SourcePosition) {}
    /// A checkpoint that is durable has a source partition there, here or elsewhere. Only sources have any.
    fn covered(&mut self, _position: &SourcePosition) {}
}

/// Where the records of a stage go.
pub trait Terminal<R: Row>: Keeps + 'static {
    /// A batch begins.
    fn begin(&mut self, run: &Run, output: &mut Output<'_>) -> Result<(), TaskError>;
    /// The records that follow come from this partition, the `index`-th of the run.
    fn partition(
        &mut self,
        index: usize,
        partition: PartitionId,
        output: &mut Output<'_>,
    ) -> Result<(), TaskError>;
    /// Takes one record. What goes wrong is remembered until `finish`.
    fn push(&mut self, record: &R::Of<'_>, stamp: &Stamp, output: &mut Output<'_>);
    /// The batch ends.
    fn finish(
        &mut self,
        run: &Run,
        watermark: Watermark,
        ranges: &[TakenRange],
        output: &mut Output<'_>,
    ) -> Result<(), TaskError>;
    /// Reports (operator, what, how many).
    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64));
    /// The job ends well.
    fn close(&mut self) -> Result<(), ConnectorError>;
    /// A partition starts here: what was written for later batches is void.
    fn begin_at(
        &mut self,
        _partition: PartitionId,
        _beginning: Beginning,
    ) -> Result<(), ConnectorError> {
        Ok(())
    }
    /// A checkpoint of `through` is durable.
    fn durable(&mut self, _through: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }
    /// The ranges of all batches up to `through` are recorded.
    fn recorded(&mut self, _through: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// A way to open a terminal on each core.
pub trait OpenTerminal<R: Row>: Clone + Send + Sync + 'static {
    /// It, at work.
    type Running: Terminal<R>;

    /// Opens it on one core.
    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError>;
}

/// Head, operators and terminal of one stage, before they are opened.
pub(crate) struct Fused<H, T, E> {
    pub(crate) head: H,
    pub(crate) transform: T,
    pub(crate) terminal: E,
}

impl<H, T, E> StageFactory for Fused<H, T, E>
where
    H: Head,
    T: Transform<H::Record>,
    E: OpenTerminal<T::Out>,
{
    fn open(&self, context: &StageContext) -> Result<Box<dyn Stage>, ConnectorError> {
        Ok(Box::new(Running::<H::Running, T, E::Running> {
            head: self.head.open(context)?,
            transform: self.transform.clone(),
            terminal: self.terminal.open(context)?,
        }))
    }
}

struct Running<H, T, E> {
    head: H,
    transform: T,
    terminal: E,
}

impl<H, T, E> Stage for Running<H, T, E>
where
    H: RunningHead,
    T: Transform<H::Record>,
    E: Terminal<T::Out>,
{
    fn run(
        &mut self,
        run: &Run,
        intake: &mut Intake<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), TaskError> {
        let Running { head, transform, terminal } = self;
        head.begin(run, intake)?;
        terminal.begin(run, output)?;
        for (index, &partition) in run.partitions.iter().enumerate() {
            terminal.partition(index, partition, output)?;
            head.emit(run, partition, intake, |record, stamp| {
                transform.apply(record, stamp, |record, stamp| {
                    terminal.push(record, stamp, output);
                });
            })?;
        }
        terminal.finish(run, head.watermark(run), &intake.ranges, output)
    }

    fn records(&self) -> u64 {
        self.head.records()
    }

    fn state_bytes(&self) -> usize {
        self.head.state_bytes()
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        self.head.counters(report);
        self.transform.counters(report);
        self.terminal.counters(report);
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.head.close()?;
        self.terminal.close()
    }

    fn freeze(&mut self, partition: PartitionId, slot: Slot, extent: Extent) -> Vec<u8> {
        let Running { head, terminal, .. } = self;
        state::join(
            |out| head.freeze(partition, slot, extent, out),
            |out| terminal.freeze(partition, slot, extent, out),
        )
    }

    fn weigh(&self, partition: PartitionId, extent: Extent) -> u64 {
        self.head.weigh(partition, extent) + self.terminal.weigh(partition, extent)
    }

    fn thaw(
        &mut self,
        partition: PartitionId,
        slot: Slot,
        piece: &Piece<'_>,
        from: usize,
    ) -> Result<Option<usize>, StateError> {
        let (head, terminal) = state::split(piece)?;
        let next = self.head.thaw(partition, slot, &head, from)?;
        if next.is_none() {
            // What a terminal keeps is small: it takes all of it at once.
            self.terminal.thaw(partition, slot, &terminal, 0)?;
        }
        Ok(next)
    }

    fn clear(&mut self, partition: PartitionId, slot: Slot) {
        self.head.clear(partition, slot);
        self.terminal.clear(partition, slot);
    }

    fn shift(&mut self, partition: PartitionId, from: Slot, to: Slot) {
        self.head.shift(partition, from, to);
        self.terminal.shift(partition, from, to);
    }

    fn go_on(&mut self, position: &SourcePosition) {
        self.head.go_on(position);
    }

    fn covered(&mut self, position: &SourcePosition) {
        self.head.covered(position);
    }

    fn begin_at(
        &mut self,
        partition: PartitionId,
        beginning: Beginning,
    ) -> Result<(), ConnectorError> {
        self.terminal.begin_at(partition, beginning)
    }

    fn durable(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        self.terminal.durable(through)
    }

    fn recorded(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        self.terminal.recorded(through)
    }
}
