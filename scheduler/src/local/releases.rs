//! Without pre-scheduling: which stages the driver has released.

use std::collections::BTreeSet;

use crate::ids::{BatchId, StageId};
use crate::plan::{Plan, Prescheduling};

/// Releases that came, for tasks that may still be laid out.
#[derive(Debug)]
pub(super) struct Releases {
    prescheduling: Prescheduling,
    /// Stages that read from others.
    awaited: BTreeSet<StageId>,
    came: BTreeSet<(BatchId, StageId)>,
    /// All batches up to this one are released.
    through: BatchId,
}

impl Releases {
    pub(super) fn new(plan: &Plan, prescheduling: Prescheduling) -> Releases {
        let reads = |stage: &StageId| plan.edges_into(*stage).next().is_some();
        Releases {
            prescheduling,
            awaited: plan.stage_ids().filter(reads).collect(),
            came: BTreeSet::new(),
            through: BatchId(0),
        }
    }

    /// Whether a task that is laid out now has to wait.
    pub(super) fn awaits(&self, stage: StageId, batch: BatchId) -> bool {
        match self.prescheduling {
            Prescheduling::On => false,
            Prescheduling::Off => {
                batch > self.through
                    && self.awaited.contains(&stage)
                    && !self.came.contains(&(batch, stage))
            }
        }
    }

    /// Whether the driver waits for the end of a stage in `batch`.
    pub(super) fn is_reported(&self, batch: BatchId) -> bool {
        self.prescheduling == Prescheduling::Off && batch > self.through
    }

    pub(super) fn add(&mut self, batch: BatchId, stage: StageId) {
        self.came.insert((batch, stage));
    }

    pub(super) fn add_through(&mut self, batch: BatchId) {
        self.through = self.through.max(batch);
    }

    /// Batches up to `completed` are finished.
    pub(super) fn forget_through(&mut self, completed: BatchId) {
        while self.came.first().is_some_and(|&(batch, _)| batch <= completed) {
            self.came.pop_first();
        }
    }

    /// Batches after `last_batch` are void.
    pub(super) fn cut(&mut self, last_batch: BatchId) {
        self.came.retain(|&(batch, _)| batch <= last_batch);
        self.through = self.through.min(last_batch);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.came.is_empty()
    }
}
