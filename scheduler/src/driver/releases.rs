//! Without pre-scheduling: a stage of a batch is released when all tasks that feed it have been
//! reported done.

use std::collections::{BTreeMap, BTreeSet};

use super::Driver;
use crate::ids::{BatchId, StageId, WorkerId};
use crate::message::Order;
use crate::plan::Prescheduling;

/// What was reported of stages that others wait for.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// Workers that have not reported a stage of a batch.
    waiting: BTreeMap<(BatchId, StageId), BTreeSet<WorkerId>>,
    /// All stages of all batches up to this one are released, or done.
    through: BatchId,
}

impl Releases {
    /// All batches up to this one are done, or released by a recovery.
    pub(super) fn forget_through(&mut self, batch: BatchId) {
        self.through = self.through.max(batch);
        let through = self.through;
        self.waiting.retain(|&(batch, _), _| batch > through);
    }

    /// Batches after this one are void.
    pub(super) fn cut(&mut self, last_batch: BatchId) {
        self.waiting.retain(|&(batch, _), _| batch <= last_batch);
        self.through = self.through.min(last_batch);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_done(&self, batch: BatchId, stage: StageId) -> bool {
        batch <= self.through || self.waiting.get(&(batch, stage)).is_some_and(BTreeSet::is_empty)
    }
}

impl Driver {
    pub(super) fn stage_done(&mut self, worker: WorkerId, batch: BatchId, stage: StageId) {
        if self.options.prescheduling == Prescheduling::On || batch <= self.releases.through {
            return;
        }
        let waiting = self.workers_of(batch, stage);
        let waiting = self.releases.waiting.entry((batch, stage)).or_insert(waiting);
        if !waiting.remove(&worker) || !waiting.is_empty() {
            return;
        }
        let downstream: BTreeSet<(BatchId, StageId)> = self
            .plan
            .edges_out_of(stage)
            .map(|(_, edge)| (BatchId(batch.0 + edge.batch_delta), edge.to))
            .collect();
        for (batch, stage) in downstream {
            let upstream_done = self.plan.edges_into(stage).all(|(_, edge)| {
                self.releases.is_done(BatchId(batch.0.saturating_sub(edge.batch_delta)), edge.from)
            });
            if upstream_done {
                let workers = self.workers_of(batch, stage);
                let members: Vec<WorkerId> =
                    workers.into_iter().filter(|&to| self.life_of(to).is_some()).collect();
                for to in members {
                    self.send(to, Order::Release { batch, stage });
                }
            }
        }
    }

    fn workers_of(&self, batch: BatchId, stage: StageId) -> BTreeSet<WorkerId> {
        let placement = self.history.placement(batch).expect("a batch that ran was placed");
        placement.cores_of(stage).into_iter().map(|core| core.worker).collect()
    }
}
