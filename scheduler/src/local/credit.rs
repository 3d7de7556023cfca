//! Credit between cores, counted in batches: a source runs at most `ahead` batches before the
//! slowest core that has tasks downstream. This is what bounds mailboxes, queues and blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{BatchId, CoreId};
use crate::local::LocalAction;
use crate::placement::Placement;
use crate::plan::{Plan, StageKind};

/// What a core knows of the others' progress, and what it told them of its own.
#[derive(Debug)]
pub(super) struct Credit {
    core: CoreId,
    ahead: u64,
    /// Cores with tasks downstream of a source, and the last batch that each finished.
    downstream: BTreeMap<CoreId, BatchId>,
    /// Cores that run sources, without this one.
    sources: Arc<[CoreId]>,
    advertised: BatchId,
}

impl Credit {
    pub(super) fn new(core: CoreId, ahead: u64) -> Credit {
        let downstream = BTreeMap::new();
        Credit { core, ahead, downstream, sources: Arc::new([]), advertised: BatchId(0) }
    }

    pub(super) fn placement_changed(&mut self, plan: &Plan, placement: &Placement) {
        let is_source = |stage| matches!(plan.stage(stage).kind, StageKind::Source(_));
        let cores = |wanted: bool| {
            let stages = plan.stage_ids().filter(move |&stage| is_source(stage) == wanted);
            stages.flat_map(|stage| placement.cores_of(stage)).filter(|&core| core != self.core)
        };
        let mut sources: Vec<CoreId> = cores(true).collect();
        sources.sort_unstable();
        sources.dedup();
        let before = BatchId(placement.from_batch.0.saturating_sub(1));
        let known = |core| self.downstream.get(&core).copied().unwrap_or(before);
        self.downstream = cores(false).map(|core| (core, known(core))).collect();
        self.sources = sources.into();
    }

    pub(super) fn peer_completed(&mut self, core: CoreId, batch: BatchId) {
        if let Some(completed) = self.downstream.get_mut(&core) {
            *completed = batch.max(*completed);
        }
    }

    /// Whether a source may start `batch`, where `own` is the last batch finished here.
    pub(super) fn allows(&self, batch: BatchId, own: BatchId) -> bool {
        let slowest = self.downstream.values().copied().min().unwrap_or(own).min(own);
        batch.0 <= slowest.0 + self.ahead
    }

    /// The core that is furthest behind.
    pub(super) fn slowest(&self) -> Option<CoreId> {
        self.downstream.iter().min_by_key(|&(_, batch)| batch).map(|(&core, _)| core)
    }

    /// Tells the sources, but only every quarter of the credit: a source that has used all of its
    /// credit always hears of more, because by then more than a quarter is finished.
    pub(super) fn completed(&mut self, completed: BatchId) -> Option<LocalAction> {
        let news = completed.0.saturating_sub(self.advertised.0);
        if self.sources.is_empty() || news < (self.ahead / 4).max(1) {
            return None;
        }
        self.advertised = completed;
        Some(LocalAction::Advertise { to: self.sources.clone(), completed })
    }
}
