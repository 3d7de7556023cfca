//! What driver and workers say to each other about scheduling. How it is written down for the wire
//! is the runtime's affair (`runtime/src/wire`).

use std::sync::Arc;

use crate::ids::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, GroupId, Incarnation, Instant, PartitionId, StageId,
    Term, Watermark, WorkerId,
};
use crate::placement::Placement;

/// From the driver to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverMessage {
    /// The driver's life; workers drop lower ones.
    pub term: Term,
    /// What it says.
    pub order: Order,
}

/// What a driver may order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// All tasks of a group of batches: the one scheduling message per worker and group.
    ScheduleGroup(Arc<ScheduleGroup>),
    /// Without pre-scheduling: the tasks of `stage` in `batch` may start.
    Release {
        /// The batch whose upstream tasks have all reported.
        batch: BatchId,
        /// The stage that they feed.
        stage: StageId,
    },
    /// First phase of a cut: promise not to start beyond max(`proposed`, already started).
    CutGroup {
        /// The last batch that the driver would like to run.
        proposed: BatchId,
    },
    /// Second phase: every scheduled batch after `last_batch`, in any group, is void.
    CommitCut {
        /// The last batch that runs.
        last_batch: BatchId,
    },
}

/// A group of micro-batches `[first_batch, first_batch + batch_count)`. Its size is a number like
/// any other: 1 is the same code as 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleGroup {
    /// The group.
    pub group: GroupId,
    /// Version of the placement that the group runs under.
    pub epoch: Epoch,
    /// Last batch of the group before it; a worker refuses a group that does not fit.
    pub predecessor: BatchId,
    /// First batch.
    pub first_batch: BatchId,
    /// How many batches.
    pub batch_count: u64,
    /// Start of `first_batch`, in the driver's time: the end of the input that it takes.
    pub start: Instant,
    /// From the start of one batch to that of the next, in nanoseconds.
    pub interval_ns: u64,
    /// Zero of the job's own time: one interval before the start of its first batch.
    pub origin: Instant,
    /// What the group is for.
    pub purpose: Purpose,
    /// Travels only when it changed.
    pub placement: Option<Arc<Placement>>,
}

impl ScheduleGroup {
    /// The group's last batch.
    pub fn last_batch(&self) -> BatchId {
        BatchId(self.first_batch.0 + self.batch_count - 1)
    }
    /// The start of one of its batches.
    pub fn start_of(&self, batch: BatchId) -> Instant {
        self.start.after((batch.0 - self.first_batch.0).saturating_mul(self.interval_ns))
    }
}

/// What a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Take input and process it.
    Process,
    /// The last group of a job: take nothing, set the watermark to infinity, flush all windows.
    Flush,
}

/// From one worker to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerMessage {
    /// Who says it.
    pub worker: WorkerId,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// What it says.
    pub report: Report,
}

/// What a worker may report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Every task of the group on this worker is done: once per group.
    GroupDone {
        /// The group.
        group: GroupId,
        /// Its last batch that ran (a cut may have made it shorter).
        last_batch: BatchId,
        /// What it cost.
        statistics: GroupStatistics,
    },
    /// Without pre-scheduling: all tasks of `stage` in `batch` on this worker are done.
    StageDone {
        /// The batch.
        batch: BatchId,
        /// The stage.
        stage: StageId,
    },
    /// What source tasks took, coalesced: the lineage.
    Ranges(Vec<TakenRange>),
    /// A group did not follow the batches that this worker knows of; it was not taken.
    Refused {
        /// The group.
        group: GroupId,
        /// The predecessor that would have fitted.
        expected: BatchId,
    },
    /// Answer to `CutGroup`: nothing beyond `last_batch` is or will be started.
    Promise {
        /// max(proposed, already started) over the worker's cores.
        last_batch: BatchId,
    },
}

/// A source range as a source task of a batch took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenRange {
    /// The batch that took it.
    pub batch: BatchId,
    /// What it took.
    pub range: SourceRange,
    /// Whether the source partition has nothing after it.
    pub ended: bool,
}

/// Offsets `[from, to)` of one source partition. What an offset counts is the source's affair
/// (bytes of a file, events of a generator).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// The source's stage.
    pub stage: StageId,
    /// Its partition.
    pub partition: PartitionId,
    /// First offset.
    pub from: u64,
    /// Offset after the last.
    pub to: u64,
}

/// What a group cost on one worker, summed over its cores. Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatistics {
    /// Tasks that ran.
    pub tasks: u64,
    /// Time in task bodies.
    pub run_ns: u64,
    /// Time in the local schedulers.
    pub schedule_ns: u64,
    /// Batches of source stages that ran after the start of the batch that follows them, summed
    /// over cores: their input had been taken by an earlier one.
    pub overtaken: u64,
    /// The longest time from a batch's start to the start of its source task.
    pub worst_delay_ns: u64,
}

impl GroupStatistics {
    /// Adds what another core or group measured.
    pub fn merge(&mut self, other: &GroupStatistics) {
        self.tasks += other.tasks;
        self.run_ns += other.run_ns;
        self.schedule_ns += other.schedule_ns;
        self.overtaken += other.overtaken;
        self.worst_delay_ns = self.worst_delay_ns.max(other.worst_delay_ns);
    }
}

/// What a block says of itself to the scheduler of the core that reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockNotice {
    /// Placement version under which it was written.
    pub epoch: Epoch,
    /// The life of the worker that wrote it.
    pub incarnation: Incarnation,
    /// Attempt of the tasks that wrote it.
    pub attempt: Attempt,
    /// The core that wrote it.
    pub sender: CoreId,
    /// The batch that wrote it.
    pub batch: BatchId,
    /// The edge that it travels on.
    pub edge: EdgeId,
    /// Upstream partitions that it covers, ascending.
    pub upstream: Arc<[PartitionId]>,
    /// Downstream partitions that it covers, ascending.
    pub downstream: Arc<[PartitionId]>,
    /// Minimum over the upstream partitions.
    pub watermark: Watermark,
}

impl BlockNotice {
    /// Whether it covers all that `other` does, which is then a repetition.
    pub fn covers(&self, other: &BlockNotice) -> bool {
        self.edge == other.edge
            && self.batch == other.batch
            && other.upstream.iter().all(|partition| self.upstream.contains(partition))
            && other.downstream.iter().all(|partition| self.downstream.contains(partition))
    }
}
