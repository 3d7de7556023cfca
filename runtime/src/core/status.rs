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
    /// When source tasks last began to find no memory, 0 if they find some.
    paused_since_ns: AtomicU64,
    held_bytes: AtomicU64,
}

/// Source tasks take nothing, because memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when, in local monotonic time.
    pub since_ns: u64,
    /// Bytes that blocks hold.
    pub held_bytes: usize,
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

    /// Source tasks find no memory at `now_ns`, where blocks hold so much.
    pub fn pause(&self, now_ns: u64, held_bytes: usize) {
        self.0.held_bytes.store(held_bytes as u64, Ordering::Relaxed);
        if self.0.paused_since_ns.load(Ordering::Relaxed) == 0 {
            self.0.paused_since_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// They find some.
    pub fn resume(&self) {
        self.0.paused_since_ns.store(0, Ordering::Relaxed);
    }

    /// Since when source tasks have taken nothing, if they do not.
    pub fn paused(&self) -> Option<Paused> {
        let since_ns = self.0.paused_since_ns.load(Ordering::Relaxed);
        let held_bytes = self.0.held_bytes.load(Ordering::Relaxed) as usize;
        (since_ns > 0).then_some(Paused { since_ns, held_bytes })
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
