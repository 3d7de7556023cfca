//! What driver and workers say to each other about scheduling. How it is written down for the wire
//! is the runtime's affair (`runtime/src/wire`).

use std::sync::Arc;

use crate::checkpoint::{Manifest, Snapshot};
use crate::history::History;
use crate::ids::{
    Attempt, BatchId, CoreId, CutId, EdgeId, Epoch, GroupId, Incarnation, Instant, Life,
    OrderNumber, PartitionId, StageId, Term, Watermark, WorkerId,
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
    /// A decision, the same for every worker and numbered without gaps. A worker takes them in order;
    /// when a driver is lost, the next one sees to it that all workers have taken the same ones.
    Decision {
        /// Its number.
        number: OrderNumber,
        /// The decision.
        decision: Decision,
    },
    /// Without pre-scheduling: the tasks of `stage` in `batch` may start.
    Release {
        /// The batch whose upstream tasks have all reported.
        batch: BatchId,
        /// The stage that they feed.
        stage: StageId,
    },
    /// The ranges of all source partitions in all batches up to this one are in the journal: they need
    /// not be relayed any more, and what cannot be taken back may be written.
    Recorded {
        /// The last such batch.
        through: BatchId,
    },
    /// To one that joins a running job: everything decided so far.
    Welcome(Arc<History>),
    /// A new driver asks what the worker holds; the answer is [`Report::Holding`], and a promise.
    TakeOver {
        /// The cut with which it takes over; every promise to older drivers stays open until then.
        cut: CutId,
    },
    /// The worker was given up: it is to end this life and may come back in another.
    Leave {
        /// The life that is over.
        life: Life,
    },
    /// Run these source tasks over recorded ranges as well: their owner is slow. The first result wins.
    Speculate(Arc<[Errand]>),
}

/// What a driver decides for all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// These lives may run tasks and be sent blocks. The number is that of their cores.
    Admit(Arc<[(Life, u16)]>),
    /// All tasks of a group of batches: the one scheduling message per worker and group.
    ScheduleGroup(Arc<ScheduleGroup>),
    /// First phase of a cut: promise not to start beyond max(`proposed`, already started).
    CutGroup {
        /// Names the cut.
        cut: CutId,
        /// The last batch that the driver would like to run.
        proposed: BatchId,
    },
    /// Second phase: every scheduled batch after `last_batch`, in any group, is void.
    CommitCut {
        /// The cut; promises to older ones are closed as well.
        cut: CutId,
        /// The last batch that runs.
        last_batch: BatchId,
    },
    /// These lives are over: close what comes from them, and answer with [`Report::Fenced`].
    Fence(Arc<[Life]>),
    /// The lost partitions have new owners.
    Recover(Arc<Recover>),
    /// Take snapshots between this batch and the next.
    Checkpoint {
        /// The last batch that they include.
        batch: BatchId,
    },
    /// That checkpoint will not be: its changes belong to the next.
    AbandonCheckpoint {
        /// Its batch.
        batch: BatchId,
    },
    /// A manifest is durable: blocks, ranges and copies that it covers may go.
    Durable(Arc<Manifest>),
    /// Partitions will move at a later cut: their new owners load what the manifest has of them.
    Prepare(Arc<[Move]>),
    /// They will not.
    AbandonMoves,
}

/// A planned move of a partition, at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// The stage.
    pub stage: StageId,
    /// The partition.
    pub partition: PartitionId,
    /// Its owner.
    pub from: CoreId,
    /// Its next owner.
    pub to: CoreId,
}

/// New owners for what was lost. It takes effect at once, for the batches after the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// Version of the placements.
    pub epoch: Epoch,
    /// The manifest from which partitions are restored; none: from the beginning.
    pub manifest: Option<Arc<Manifest>>,
    /// Placements of all batches after that of the manifest, oldest first, in place of all older ones.
    pub placements: Vec<Arc<Placement>>,
    /// The lost partitions, ordered by stage and partition.
    pub moved: Vec<Rollback>,
    /// Source tasks whose blocks nobody holds, to be run over their recorded ranges, anywhere.
    pub errands: Vec<Errand>,
    /// Up to this batch a moved partition may have run before: its blocks cover one upstream partition
    /// each, so that nobody meets a block of which it holds a part.
    pub replay_through: BatchId,
    /// Without pre-scheduling: all stages of all batches up to this one are released.
    pub released_through: BatchId,
}

/// A partition that starts again at its new owner, with the batch after `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rollback {
    /// The stage.
    pub stage: StageId,
    /// The partition.
    pub partition: PartitionId,
    /// The last batch that what it starts from includes.
    pub after: BatchId,
    /// Its new owner, which may be one that has it already.
    pub to: CoreId,
    /// What it starts from.
    pub from: Restore,
}

/// What a partition is restored from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restore {
    /// The manifest's snapshots; nothing where `after` is 0.
    Manifest,
    /// The copy that its new owner, who is also the one before the last, kept when it moved away.
    Copy,
    /// A source partition: where it goes on.
    Position {
        /// Offset after the last recorded range.
        offset: u64,
        /// The watermark there.
        watermark: Watermark,
        /// Whether it has ended.
        ended: bool,
    },
}

/// A source task over a recorded range: its result is the same wherever it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Who runs it.
    pub core: CoreId,
    /// What it reads.
    pub taken: TakenRange,
    /// The watermark of the source partition before it: lateness is decided against that.
    pub floor: Watermark,
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
    /// For each edge, what blocks on it hold. Replays use what their batch's group says.
    pub contents: Arc<[Content]>,
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

/// What blocks on an edge hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Records, as they came.
    Raw,
    /// Partial aggregates: combined before the shuffle, where the edge's aggregate allows it.
    Partial,
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
        /// The newest epoch that the worker knows: a recovery makes older reports void.
        epoch: Epoch,
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
        /// The cut.
        cut: CutId,
        /// max(proposed, already started) over the worker's cores.
        last_batch: BatchId,
    },
    /// Answer to `Fence`: nothing of the fenced lives will be heeded any more.
    Fenced {
        /// The number of the decision.
        number: OrderNumber,
        /// What is known here.
        standing: Standing,
    },
    /// Answer to `TakeOver`.
    Holding(Box<Holding>),
    /// Snapshots that are durable.
    Snapshots {
        /// The checkpoint.
        batch: BatchId,
        /// The snapshots.
        snapshots: Vec<Snapshot>,
    },
    /// A partition cannot be part of that checkpoint: it is past the batch, or storage failed.
    NoSnapshot {
        /// The checkpoint.
        batch: BatchId,
    },
    /// The blocks retained on some core are beyond the high mark: a checkpoint is wanted now.
    HighMark,
    /// All that this worker was to load for the planned moves is there.
    Prepared {
        /// The number of the decision.
        number: OrderNumber,
    },
    /// With the heartbeats: the last finished batch of each core.
    Progress {
        /// By the core's number.
        completed: Vec<BatchId>,
    },
}

/// What a worker knows that may be known to nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Ranges after the newest durable manifest, each once, ordered by stage, partition and batch.
    pub ranges: Vec<TakenRange>,
    /// Source tasks whose blocks it holds or will write.
    pub coverage: Vec<Coverage>,
}

/// Source tasks of one partition in batches `[first, last]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coverage {
    /// The source's stage.
    pub stage: StageId,
    /// Its partition.
    pub partition: PartitionId,
    /// First batch.
    pub first: BatchId,
    /// Last batch; `u64::MAX` for a partition that lives here and goes on.
    pub last: BatchId,
}

/// What a worker holds when a new driver asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Nothing beyond this batch is or will be started until the new driver commits its cut.
    pub promise: BatchId,
    /// Everything decided, as far as this worker was told.
    pub history: History,
    /// The last decisions, oldest first: for workers that were told of fewer.
    pub recent: Vec<(OrderNumber, Decision)>,
    /// What is known here.
    pub standing: Standing,
}

/// A source range as a source task of a batch took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TakenRange {
    /// The batch that took it.
    pub batch: BatchId,
    /// What it took.
    pub range: SourceRange,
    /// Whether the source partition has nothing after it.
    pub ended: bool,
    /// The source partition's watermark after it.
    pub watermark: Watermark,
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
    /// Time in task bodies on each core of the worker, by number: who is slow.
    pub run_ns_by_core: Vec<u64>,
    /// For each edge, records before and after the combiner; none where it did not run.
    pub combined: Vec<Combined>,
}

/// What the combiner of an edge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// Records that went in.
    pub records_in: u64,
    /// Partial aggregates that came out.
    pub records_out: u64,
}

impl GroupStatistics {
    /// Adds what another core or group measured.
    pub fn merge(&mut self, other: &GroupStatistics) {
        self.tasks += other.tasks;
        self.run_ns += other.run_ns;
        self.schedule_ns += other.schedule_ns;
        self.overtaken += other.overtaken;
        self.worst_delay_ns = self.worst_delay_ns.max(other.worst_delay_ns);
        let cores = self.run_ns_by_core.len().max(other.run_ns_by_core.len());
        self.run_ns_by_core.resize(cores, 0);
        for (sum, run_ns) in self.run_ns_by_core.iter_mut().zip(&other.run_ns_by_core) {
            *sum += run_ns;
        }
        let edges = self.combined.len().max(other.combined.len());
        self.combined.resize(edges, Combined::default());
        for (sum, combined) in self.combined.iter_mut().zip(&other.combined) {
            sum.records_in += combined.records_in;
            sum.records_out += combined.records_out;
        }
    }
}

/// What a block says of itself to the scheduler of the core that reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockNotice {
    /// The newest epoch that its sender knew when it was sent: a core that knows less waits with it.
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
    /// What it holds.
    pub content: Content,
    /// Upstream partitions that it covers, ascending. One, unless every downstream partition reads
    /// from all of them and none of them has run before (a replay).
    pub upstream: Arc<[PartitionId]>,
    /// Downstream partitions that it covers, ascending.
    pub downstream: Arc<[PartitionId]>,
    /// Minimum over the upstream partitions.
    pub watermark: Watermark,
}

impl BlockNotice {
    /// Who wrote it.
    pub fn life(&self) -> Life {
        Life { worker: self.sender.worker, incarnation: self.incarnation }
    }

    /// Whether it covers all that `other` does, which is then a repetition.
    pub fn covers(&self, other: &BlockNotice) -> bool {
        self.edge == other.edge
            && self.batch == other.batch
            && other.upstream.iter().all(|partition| self.upstream.contains(partition))
            && other.downstream.iter().all(|partition| self.downstream.contains(partition))
    }
}
