//! Slow cores: one that stays slow loses a partition at a cut; source tasks that it is late with are
//! started a second time elsewhere, over the ranges that it took.

use std::collections::BTreeMap;

use super::{Balance, Driver, MoveCause};
use crate::balance::{Speculation, StragglerWatch};
use crate::ids::{BatchId, CoreId, PartitionId, StageId, WorkerId};
use crate::message::{Errand, Move, Order};

/// So many ranges at most are read a second time at once.
const ERRANDS_AT_ONCE: usize = 16;

/// How fast the cores are.
#[derive(Debug)]
pub(super) struct Stragglers {
    /// None where partitions stay.
    watch: Option<StragglerWatch>,
    /// The last batch that each core has finished.
    completed: BTreeMap<CoreId, BatchId>,
    /// Up to this batch a source partition was started a second time.
    speculated: BTreeMap<(StageId, PartitionId), BatchId>,
}

impl Stragglers {
    pub(super) fn new(balance: Balance) -> Stragglers {
        Stragglers {
            watch: match balance {
                Balance::Off => None,
                Balance::On(options) => Some(StragglerWatch::new(options)),
            },
            completed: BTreeMap::new(),
            speculated: BTreeMap::new(),
        }
    }

    pub(super) fn watch(&self) -> Option<&StragglerWatch> {
        self.watch.as_ref()
    }

    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        self.completed.retain(|core, _| core.worker != worker);
    }

    /// Partitions have new owners, or will have: what was seen of the old ones says nothing of them.
    pub(super) fn moved(&mut self, cause: MoveCause, moves: &[Move]) {
        let Some(watch) = &mut self.watch else { return };
        watch.start_over();
        match cause {
            MoveCause::Members => {}
            MoveCause::SlowCore => moves.iter().for_each(|&moved| watch.moved(moved)),
        }
    }

    /// Something is run again, which says nothing of those who do.
    pub(super) fn recovered(&mut self) {
        self.watch.iter_mut().for_each(StragglerWatch::start_over);
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
        let Some(watch) = &mut self.stragglers.watch else { return };
        for (&worker, run_ns_by_core) in run_ns_by_worker {
            watch.observe(worker, run_ns_by_core);
        }
        if let Some(slow) = watch.end_of_group(self.now)
            && self.has_journal()
        {
            self.wish_for_relief(slow);
        }
    }

    /// How far the cores of a worker are.
    pub(super) fn progress(&mut self, worker: WorkerId, completed: &[BatchId]) {
        let speculation = match self.options.balance {
            Balance::Off => Speculation::Off,
            Balance::On(options) => options.speculation,
        };
        if speculation == Speculation::Off || !self.has_journal() || self.is_recovering() {
            return;
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
