//! What a core tells the control thread without being asked: a few words in shared memory, so that
//! even a core that is stuck in a task can be told apart from a dead one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use drizzle_scheduler::{BatchId, StageId};

/// One core's progress. The core writes it, the control thread reads it.
#[derive(Clone, Debug, Default)]
pub struct CoreStatus(Arc<CachePadded<Words>>);

#[derive(Debug, Default)]
struct Words {
    completed: AtomicU64,
    records: AtomicU64,
    /// Batch of the run that is going on, 0 for none.
    running_batch: AtomicU64,
    running_stage: AtomicU64,
    running_since_ns: AtomicU64,
}

/// A run that is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its batch.
    pub batch: BatchId,
    /// Its stage.
    pub stage: StageId,
    /// When it began, in local monotonic time.
    pub since_ns: u64,
}

impl CoreStatus {
    /// All batches up to this one are done.
    pub fn set_completed(&self, batch: BatchId) {
        self.0.completed.store(batch.0, Ordering::Relaxed);
    }

    /// So many records have been read from outside.
    pub fn set_records(&self, records: u64) {
        self.0.records.store(records, Ordering::Relaxed);
    }

    /// A run begins.
    pub fn begin_run(&self, running: Running) {
        self.0.running_stage.store(u64::from(running.stage.0), Ordering::Relaxed);
        self.0.running_since_ns.store(running.since_ns, Ordering::Relaxed);
        self.0.running_batch.store(running.batch.0, Ordering::Release);
    }

    /// It has ended.
    pub fn end_run(&self) {
        self.0.running_batch.store(0, Ordering::Release);
    }

    /// The last batch whose tasks on this core are all done.
    pub fn completed(&self) -> BatchId {
        BatchId(self.0.completed.load(Ordering::Relaxed))
    }

    /// Records read from outside.
    pub fn records(&self) -> u64 {
        self.0.records.load(Ordering::Relaxed)
    }

    /// The run that is going on, if one is.
    pub fn running(&self) -> Option<Running> {
        let batch = BatchId(self.0.running_batch.load(Ordering::Acquire));
        (batch.0 > 0).then(|| Running {
            batch,
            stage: StageId(self.0.running_stage.load(Ordering::Relaxed) as u16),
            since_ns: self.0.running_since_ns.load(Ordering::Relaxed),
        })
    }
}
