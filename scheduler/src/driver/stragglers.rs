//! Slow cores: one that was slow for some groups loses a partition at a cut; source tasks that it is
//! late with are started a second time elsewhere, over the ranges that it took.

use std::collections::BTreeMap;

use super::{Balance, Driver};
use crate::balance::StragglerWatch;
use crate::ids::{BatchId, CoreId, PartitionId, StageId, WorkerId};
use crate::message::{Errand, Order};

/// A core that was slow for so many groups loses a partition.
const SLOW_GROUPS: u32 = 3;
/// So many ranges at most are read a second time at once.
const ERRANDS_AT_ONCE: usize = 16;

/// How fast the cores are.
#[derive(Debug)]
pub(super) struct Stragglers {
    watch: StragglerWatch,
    /// The last batch that each core has finished.
    completed: BTreeMap<CoreId, BatchId>,
    /// Up to this batch a source partition was started a second time.
    speculated: BTreeMap<(StageId, PartitionId), BatchId>,
}

impl Stragglers {
    pub(super) fn new() -> Stragglers {
        Stragglers {
            watch: StragglerWatch::new(SLOW_GROUPS),
            completed: BTreeMap::new(),
            speculated: BTreeMap::new(),
        }
    }

    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        self.completed.retain(|core, _| core.worker != worker);
    }

    fn median(&self) -> BatchId {
        let mut completed: Vec<BatchId> = self.completed.values().copied().collect();
        completed.sort_unstable();
        completed.get(completed.len() / 2).copied().unwrap_or_default()
    }
}

impl Driver {
    /// A group is done: its times say who is slow.
    pub(super) fn group_ran(&mut self, run_ns_by_worker: &BTreeMap<WorkerId, Vec<u64>>) {
        for (&worker, run_ns_by_core) in run_ns_by_worker {
            self.stragglers.watch.observe(worker, run_ns_by_core);
        }
        if let Some(slow) = self.stragglers.watch.end_of_group()
            && self.has_journal()
        {
            self.wish_for_relief(slow);
        }
    }

    /// How far the cores of a worker are.
    pub(super) fn progress(&mut self, worker: WorkerId, completed: &[BatchId]) {
        match self.options.balance {
            Balance::Off => return,
            Balance::On if !self.has_journal() || self.is_recovering() => return,
            Balance::On => {}
        }
        for (core, &batch) in completed.iter().enumerate() {
            self.stragglers.completed.insert(CoreId { worker, core: core as u16 }, batch);
        }
        let median = self.stragglers.median();
        for (core, &batch) in completed.iter().enumerate() {
            if median.0.saturating_sub(batch.0) > self.options.ahead / 2 {
                self.speculate(CoreId { worker, core: core as u16 }, batch);
            }
        }
    }

    /// Starts the source tasks of a slow core, over the ranges that are recorded, on the core of another
    /// worker that is furthest.
    fn speculate(&mut self, slow: CoreId, completed: BatchId) {
        let others = self.stragglers.completed.iter().filter(|(c, _)| c.worker != slow.worker);
        let Some((&helper, _)) = others.max_by_key(|(core, batch)| (**batch, **core)) else {
            return;
        };
        let Some(placement) = self.history.placement(completed.next()).cloned() else { return };
        let mut errands = Vec::new();
        for (stage, partition) in self.plan.source_partitions() {
            if placement.core_of(stage, partition) != slow {
                continue;
            }
            let speculated = self.stragglers.speculated.entry((stage, partition)).or_default();
            let after = completed.max(*speculated).max(self.history.durable());
            // Only what is in the journal: nobody else may know of the ranges before it.
            let written = self.lineage.written(stage, partition);
            let known = self.lineage.ranges_after(stage, partition, after);
            let known = known.take_while(|(taken, _)| taken.batch <= written);
            for (taken, floor) in known.take(ERRANDS_AT_ONCE - errands.len()) {
                *speculated = taken.batch;
                errands.push(Errand { core: helper, taken: *taken, floor });
            }
        }
        if !errands.is_empty() {
            self.send(helper.worker, Order::Speculate(errands.into()));
        }
    }
}
