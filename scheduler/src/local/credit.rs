//! Credit between cores, counted in batches: a source runs at most `ahead` batches before the
//! slowest core that has tasks downstream. This is what bounds mailboxes, queues and blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{BatchId, CoreId, StageId, WorkerId};
use crate::local::LocalAction;
use crate::placement::{Placement, PlacementHistory};
use crate::plan::Plan;

/// What a core knows of the others' progress, and what it told them of its own.
#[derive(Debug)]
pub(super) struct Credit {
    core: CoreId,
    ahead: u64,
    /// Cores with tasks downstream of a source, and the last batch that each finished.
    downstream: BTreeMap<CoreId, BatchId>,
    /// What each core said itself; in [`Credit::downstream`] there are guesses too.
    heard: BTreeMap<CoreId, BatchId>,
    /// Cores with tasks that write for others, without this one: sources wait for credit, and the memory of
    /// all is counted by what is finished.
    writers: Arc<[CoreId]>,
    advertised: BatchId,
}

impl Credit {
    pub(super) fn new(core: CoreId, ahead: u64) -> Credit {
        let (downstream, heard) = (BTreeMap::new(), BTreeMap::new());
        Credit { core, ahead, downstream, heard, writers: Arc::new([]), advertised: BatchId(0) }
    }

    /// The placement has changed: who waits for whom. Cores that only finish what they have of a
    /// source partition that moves away need credit too.
    pub(super) fn placement_changed(&mut self, plan: &Plan, placements: &PlacementHistory) {
        let Some(newest) = placements.versions().next_back() else { return };
        let writes = |stage: &StageId| plan.edges_out_of(*stage).next().is_some();
        let cores = |placement: &Placement, wanted: &dyn Fn(&StageId) -> bool| {
            let stages = plan.stage_ids().filter(wanted);
            let cores = stages.flat_map(|stage| placement.cores_of(stage));
            cores.filter(|&core| core != self.core).collect::<BTreeSet<CoreId>>()
        };
        let writers: BTreeSet<CoreId> =
            placements.versions().flat_map(|placement| cores(placement, &writes)).collect();
        let before = BatchId(newest.from_batch.0.saturating_sub(1));
        // It may have said so before this core knew that it matters.
        let heard = |core| self.heard_of(core).max(before);
        let known = |core| self.downstream.get(&core).copied().unwrap_or(heard(core));
        let downstream = cores(newest, &|&stage| !plan.is_source(stage)).into_iter();
        self.downstream = downstream.map(|core| (core, known(core))).collect();
        self.writers = writers.into_iter().collect();
    }

    pub(super) fn peer_completed(&mut self, core: CoreId, batch: BatchId) {
        if let Some(completed) = self.downstream.get_mut(&core) {
            *completed = batch.max(*completed);
        }
        let heard = self.heard.entry(core).or_default();
        *heard = batch.max(*heard);
    }

    /// The last batch that a core is known to have finished.
    pub(super) fn heard_of(&self, core: CoreId) -> BatchId {
        self.heard.get(&core).copied().unwrap_or_default()
    }

    /// A life of this worker is over: what its cores said does not hold for the next.
    pub(super) fn fenced(&mut self, worker: WorkerId) {
        self.heard.retain(|core, _| core.worker != worker);
    }

    /// The last batch that a source may start, where `own` is the last one finished here.
    pub(super) fn limit(&self, own: BatchId) -> BatchId {
        let slowest = self.downstream.values().copied().min().unwrap_or(own).min(own);
        BatchId(slowest.0 + self.ahead)
    }

    /// The core that is furthest behind.
    pub(super) fn slowest(&self) -> Option<CoreId> {
        self.downstream.iter().min_by_key(|&(_, batch)| batch).map(|(&core, _)| core)
    }

    /// Tells the cores that write, but only every quarter of the credit: a source that has used all of its
    /// credit always hears of more, because by then more than a quarter is finished.
    pub(super) fn completed(&mut self, completed: BatchId) -> Option<LocalAction> {
        let news = completed.0.saturating_sub(self.advertised.0);
        if self.writers.is_empty() || news < (self.ahead / 4).max(1) {
            return None;
        }
        self.advertised = completed;
        Some(LocalAction::Advertise { to: self.writers.clone(), completed })
    }

    /// Tells those on these cores, whatever they know already.
    pub(super) fn advertise(
        &mut self,
        completed: BatchId,
        is_asked: impl Fn(&CoreId) -> bool,
    ) -> Option<LocalAction> {
        self.advertised = completed;
        let to: Arc<[CoreId]> = self.writers.iter().copied().filter(is_asked).collect();
        (!to.is_empty()).then_some(LocalAction::Advertise { to, completed })
    }
}
