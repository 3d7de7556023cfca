//! Who watches a job from the driver's side, and what there is to see.

use drizzle_scheduler::{BatchId, CoreId, Epoch, Incarnation, WorkerId};

/// Who watches a job from the driver's side.
pub trait Observer {
    /// Rows that the job's sinks collect, in the job's own encoding.
    fn results(&mut self, rows: &[u8]);
    /// Called about once a second.
    fn progress(&mut self, progress: &ProgressReport);
    /// Something that a person should read now, in one line.
    fn notice(&mut self, line: &str);
    /// Something has changed about the cluster. Only who measures wants to know.
    fn event(&mut self, _event: &ClusterEvent) {}
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressReport {
    /// Since the job began, in nanoseconds.
    pub elapsed_ns: u64,
    /// The last batch that every worker has finished.
    pub completed: BatchId,
    /// Records read by all sources.
    pub records: u64,
}

/// Something that has changed about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterEvent {
    /// When the driver knew, by the monotonic clock of its host, in nanoseconds.
    pub at_ns: u64,
    /// What it is.
    pub change: Change,
}

/// What may change about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A worker may be given tasks from now on.
    WorkerJoined {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
    },
    /// A worker is gone.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How that was noticed.
        reason: String,
    },
    /// Nobody listens to the lost any more, and what the survivors know of them is known here.
    Fenced,
    /// What was lost has new owners.
    Recovered {
        /// The version of the placement.
        epoch: Epoch,
    },
    /// Its state is there again, of all partitions.
    Loaded,
    /// And all that was due when it was lost has been done again.
    Replayed,
    /// The first group is done since then.
    CaughtUp,
    /// Partitions go to other cores after this cut, as planned.
    Moved {
        /// How many.
        partitions: usize,
    },
    /// A worker has left, as planned.
    WorkerLeft {
        /// The worker.
        worker: WorkerId,
    },
    /// A checkpoint is durable.
    Durable {
        /// Its batch.
        batch: BatchId,
    },
    /// A partition leaves a slow core.
    Relieved {
        /// The slow core.
        from: CoreId,
        /// Where it goes.
        to: CoreId,
    },
    /// This driver has learnt what the workers of an earlier one hold, and goes on from there.
    TookOver,
}
