//! What goes into a local scheduler and what comes out of it.

use std::sync::Arc;

use crate::bugs::Bugs;
use crate::checkpoint::Manifest;
use crate::ids::{
    Attempt, BatchId, CoreId, CutId, EdgeId, Epoch, GroupId, Instant, Life, OrderNumber,
    PartitionId, StageId, Watermark, WorkerId,
};
use crate::message::{
    BlockNotice, Combined, Content, GroupStatistics, Order, Purpose, Restore, Standing, TakenRange,
};
use crate::plan::Prescheduling;

/// How a local scheduler behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// How many batches a source may run ahead of the slowest core downstream.
    pub ahead: u64,
    /// Whether downstream tasks wait for the driver's release.
    pub prescheduling: Prescheduling,
    /// When the driver hears what source tasks took.
    pub ranges: RangeReports,
    /// What is kept for others that are lost.
    pub retention: Retention,
    /// None but in the simulator.
    pub bugs: Bugs,
}

/// When the driver hears what source tasks took. That a source has ended it hears at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeReports {
    /// For a journal: each range by itself, several together.
    Journaled {
        /// For how long one may wait for others, in nanoseconds.
        after_ns: u64,
    },
    /// Where nothing is ever repeated: before the end of a group, all that its batches took of a partition
    /// as one range. It costs nothing between the ends of groups, whatever their size.
    WithGroups,
}

/// What is kept for others that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Nothing: a block is gone when its readers have folded it.
    WhenFolded,
    /// Blocks and ranges, until a durable manifest covers them.
    UntilDurable {
        /// With more bytes retained, the core asks for a checkpoint now.
        high_mark_bytes: u64,
        /// With more bytes retained, its sources take nothing.
        limit_bytes: u64,
    },
}

/// What a local scheduler is told. Blocks are offered by [`super::LocalScheduler::offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEvent<'a> {
    /// An order of the driver, already checked for its term and number.
    Order(Order),
    /// A source run has chosen its ranges and goes on; its end repeats them.
    Taken(&'a [TakenRange]),
    /// A run that [`super::LocalScheduler::next`] gave out has ended.
    RunDone {
        /// The run.
        run: &'a Run,
        /// What its source tasks took.
        ranges: &'a [TakenRange],
        /// The blocks that it wrote, and to whom the core sends them.
        published: &'a [Published],
        /// What its combiners did.
        combined: &'a [(EdgeId, Combined)],
        /// How long it took, in nanoseconds.
        run_ns: u64,
    },
    /// A restored partition has written the feedback blocks of its snapshot once more.
    Republished(&'a [Published]),
    /// Another core has finished all batches up to this one.
    PeerCompleted {
        /// The core.
        core: CoreId,
        /// Its last finished batch.
        batch: BatchId,
    },
    /// Ranges that came with a frame, before its blocks are offered.
    Learned {
        /// Who sent the frame.
        from: Life,
        /// The ranges.
        ranges: &'a [TakenRange],
    },
    /// The state that [`LocalAction::Restore`] asked for is there.
    Restored {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The last batch that it includes, as asked for.
        after: BatchId,
    },
    /// The state of a partition that moved here is there.
    StateArrived {
        /// Who shipped it.
        from: Life,
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The last batch that it includes.
        batch: BatchId,
        /// What was shipped are the changes after this batch.
        since: Option<BatchId>,
    },
    /// What [`LocalAction::Preload`] asked for is there.
    Preloaded {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
    },
    /// A snapshot is durable.
    SnapshotDurable {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The checkpoint.
        batch: BatchId,
        /// What it holds the changes after.
        since: Option<BatchId>,
    },
    /// A snapshot could not be written.
    SnapshotFailed {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The checkpoint.
        batch: BatchId,
    },
    /// The connection to a worker is there again: what was under way on the old one may be lost.
    Reconnected {
        /// The worker.
        worker: WorkerId,
    },
    /// The deadline has passed.
    Tick,
}

/// A block that a run wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The core that it was written for, and to which the writer sends it.
    pub to: CoreId,
    /// What it says of itself.
    pub notice: BlockNotice,
    /// Its size.
    pub bytes: u64,
}

/// What a retained block is called on the core that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockName {
    /// The batch that wrote it.
    pub batch: BatchId,
    /// Its edge.
    pub edge: EdgeId,
    /// The first upstream partition that it covers.
    pub upstream: PartitionId,
    /// The first downstream partition that it covers.
    pub downstream: PartitionId,
    /// The attempt that wrote it.
    pub attempt: Attempt,
}

impl BlockName {
    /// The name of the block that says this of itself.
    pub fn of(notice: &BlockNotice) -> BlockName {
        BlockName {
            batch: notice.batch,
            edge: notice.edge,
            upstream: notice.upstream[0],
            downstream: notice.downstream[0],
            attempt: notice.attempt,
        }
    }
}

/// What the core is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAction {
    /// Tell the worker.
    Report(CoreReport),
    /// Tell the cores that run sources which batch was finished last: their credit.
    Advertise {
        /// The cores, without this one.
        to: Arc<[CoreId]>,
        /// The last finished batch.
        completed: BatchId,
    },
    /// No task will read blocks for batches up to this one any more.
    Release {
        /// The last finished batch.
        completed: BatchId,
    },
    /// Send a retained block once more.
    Resend {
        /// The block.
        block: BlockName,
        /// Who needs it.
        to: CoreId,
        /// What to say of it: narrowed to the partitions that need it.
        notice: BlockNotice,
    },
    /// A retained block of this core is an input of this core, and already counted.
    Reuse {
        /// The block.
        block: BlockName,
        /// What to say of it: narrowed to the partitions that need it.
        notice: BlockNotice,
    },
    /// A manifest is durable: retained blocks whose reader's batch is not after it may go, and sinks
    /// may make visible what they staged up to it.
    Forget {
        /// The batch of the manifest.
        through: BatchId,
    },
    /// Load a partition and answer with [`LocalEvent::Restored`].
    Restore {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The last batch that the state includes.
        after: BatchId,
        /// Where it comes from.
        from: Restore,
    },
    /// The partition lives elsewhere: its state may go.
    DropPartition {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
    },
    /// Freeze the state of a partition now and make it durable.
    Snapshot {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The last batch that it includes.
        batch: BatchId,
        /// What it may build on, oldest first; [`crate::checkpoint::build_on`] chooses one of these, when
        /// it is known how much has changed.
        chain: Vec<BatchId>,
    },
    /// Load what the manifest has of a partition that will move here.
    Preload {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The manifest; none: there is nothing to load, answer at once.
        manifest: Option<Arc<Manifest>>,
    },
    /// Freeze a copy of the state of a partition now, keep it, and send what changed.
    Ship {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The last batch that it includes.
        batch: BatchId,
        /// The new owner.
        to: CoreId,
        /// Only what changed after this batch; everything where there is none.
        since: Option<BatchId>,
    },
    /// The copy of a partition that moved away is not needed any more.
    DropCopy {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
    },
    /// Input blocks of a fenced life for batches that nobody has begun to count may go.
    DropEarly {
        /// The life.
        life: Life,
        /// The last batch whose blocks stay.
        after: BatchId,
    },
    /// Sinks that cannot take anything back may write these batches.
    Recorded {
        /// The last one.
        through: BatchId,
    },
}

/// What a core reports to its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreReport {
    /// All its tasks of a group are done.
    GroupDone {
        /// The group.
        group: GroupId,
        /// The newest epoch that the core knows.
        epoch: Epoch,
        /// Its last batch that ran.
        last_batch: BatchId,
        /// What it cost since it was last reported.
        statistics: GroupStatistics,
    },
    /// Without pre-scheduling: all its tasks of a stage and batch are done.
    StageDone {
        /// The batch.
        batch: BatchId,
        /// The stage.
        stage: StageId,
    },
    /// What its source tasks took.
    Ranges(Vec<TakenRange>),
    /// It will start no batch beyond.
    Promise {
        /// The cut.
        cut: CutId,
        /// max(proposed, already started).
        last_batch: BatchId,
    },
    /// Nothing of the fenced lives will be heeded any more.
    Fenced {
        /// The number of the decision.
        number: OrderNumber,
        /// What is known here.
        standing: Standing,
    },
    /// Answer to a new driver.
    Standing {
        /// It will start no batch beyond until the new driver commits its cut.
        promise: BatchId,
        /// What is known here.
        standing: Standing,
    },
    /// A snapshot is durable.
    Snapshot {
        /// The stage.
        stage: StageId,
        /// The partition.
        partition: PartitionId,
        /// The checkpoint.
        batch: BatchId,
        /// What it holds the changes after.
        since: Option<BatchId>,
    },
    /// A partition cannot be part of that checkpoint.
    NoSnapshot {
        /// The checkpoint.
        batch: BatchId,
    },
    /// More is retained than the high mark.
    HighMark,
    /// All that this core was to load for the planned moves is there.
    Prepared {
        /// The number of the decision.
        number: OrderNumber,
    },
    /// How far the core is.
    Completed(BatchId),
}

/// Tasks of one stage and batch that run in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The batch.
    pub batch: BatchId,
    /// The stage.
    pub stage: StageId,
    /// The partitions, ascending.
    pub partitions: Arc<[PartitionId]>,
    /// 0, or that of a replay: it has one partition, and each of its blocks covers that one alone.
    pub attempt: Attempt,
    /// Minimum over all inputs; for a source stage what its partitions say counts instead.
    pub watermark: Watermark,
    /// Live sources take what was there before this point in the driver's time.
    pub cut: Instant,
    /// What the batch is for.
    pub purpose: Purpose,
    /// For each edge, what blocks on it hold.
    pub contents: Arc<[Content]>,
    /// A source task over a recorded range: read exactly this, with the watermark that was before it.
    pub recorded: Option<(TakenRange, Watermark)>,
    /// How much a source may take.
    pub intake: Intake,
}

/// How much a source may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// What there is.
    Normal,
    /// An empty range: too much is retained.
    Empty,
}

/// What becomes of a block that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A task needs it, now or later.
    Keep,
    /// Its tasks have all that they need: it is a repetition.
    Discard,
}
