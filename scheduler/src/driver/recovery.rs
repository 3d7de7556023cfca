//! Recovery: fence first, then learn what the survivors know, then give what was lost to others.
//!
//! Every member answers every fence. A loss in the meantime begins it anew; a member that does not
//! answer in time is lost as well, so it ends with those that do, or with nobody. Then it goes on with
//! the first worker that joins.

use std::collections::BTreeSet;

use super::replacement::{self, Scene};
use super::{Driver, Durability};
use crate::ids::{BatchId, Instant, Life, OrderNumber, WorkerId};
use crate::message::{Coverage, Decision, Recover, Restore, Standing};

/// A recovery in the making.
#[derive(Debug)]
pub(super) enum Recovery {
    /// All members are well.
    None,
    /// Members are asked to close what comes from the lost ones, and for what they know.
    Fencing {
        /// The decision that they answer.
        number: OrderNumber,
        /// Those that have not.
        waiting: BTreeSet<WorkerId>,
        coverage: Vec<Coverage>,
        deadline: Instant,
    },
    /// All have answered. Ranges of lost source partitions are being written, a cut is being
    /// committed, or somebody is to join.
    Placing { coverage: Vec<Coverage> },
}

impl Recovery {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Recovery::Fencing { waiting, deadline, .. } => {
                Some(*deadline).filter(|_| !waiting.is_empty())
            }
            Recovery::None | Recovery::Placing { .. } => None,
        }
    }

    /// Whether the lost are not closed yet.
    pub(super) fn is_fencing(&self) -> bool {
        match self {
            Recovery::Fencing { .. } => true,
            Recovery::None | Recovery::Placing { .. } => false,
        }
    }

    pub(super) fn waiting(&self) -> BTreeSet<WorkerId> {
        match self {
            Recovery::Fencing { waiting, .. } => waiting.clone(),
            Recovery::None | Recovery::Placing { .. } => BTreeSet::new(),
        }
    }
}

impl Driver {
    pub(super) fn is_recovering(&self) -> bool {
        match self.recovery {
            Recovery::None => false,
            Recovery::Fencing { .. } | Recovery::Placing { .. } => true,
        }
    }

    /// These members are lost.
    pub(super) fn lost(&mut self, lives: &[Life]) {
        let Some(first) = lives.first() else { return };
        match self.options.durability {
            Durability::None => self.fail(format!("{} is lost: it did not answer", first.worker)),
            Durability::Journal { .. } => {
                self.journal.write_end(lives);
                self.fence(lives);
                self.abandon_moves();
            }
        }
    }

    /// Closes these lives, and asks all others what they know.
    pub(super) fn fence(&mut self, lives: &[Life]) {
        let number = self.decide(Decision::Fence(lives.into()));
        for life in lives {
            self.forget_worker(life.worker);
            self.leave(*life);
        }
        // Before the first group there is nothing to recover.
        if self.history.placements.versions().next().is_none() {
            return;
        }
        self.recovery = Recovery::Fencing {
            number,
            waiting: self.history.members.keys().copied().collect(),
            coverage: Vec::new(),
            deadline: self.now.after(self.options.answer_timeout_ns),
        };
    }

    pub(super) fn fenced(&mut self, worker: WorkerId, answered: OrderNumber, standing: &Standing) {
        if let Recovery::Fencing { number, waiting, coverage, .. } = &mut self.recovery
            && *number == answered
            && waiting.remove(&worker)
        {
            coverage.extend_from_slice(&standing.coverage);
            self.learn(&standing.ranges);
        }
    }

    /// When all have answered, it is known how far the lost ones may have come. The journal must have
    /// it that they are over: if all who know are lost as well, the next driver must not believe them.
    pub(super) fn advance_fence(&mut self) {
        if let Recovery::Fencing { waiting, coverage, .. } = &mut self.recovery
            && waiting.is_empty()
            && self.journal.has_all_ends()
        {
            self.recovery = Recovery::Placing { coverage: std::mem::take(coverage) };
            let last = self.history.last_batch;
            let ran = self.bound_of_the_lost().map_or(last, |bound| bound.min(last));
            if !self.history.fenced.is_empty() {
                self.ran_through = self.ran_through.max(ran);
            }
        }
    }

    /// The last batch that a lost worker can have run, if a survivor has tasks downstream: it ran no
    /// further ahead of that one than sources may, and of what that has finished ranges are known.
    pub(super) fn bound_of_the_lost(&self) -> Option<BatchId> {
        let current = self.history.placements.versions().next_back()?;
        let downstream = self.plan.stage_ids().filter(|&stage| !self.plan.is_source(stage));
        let mut cores = downstream.flat_map(|stage| current.cores_by_stage[stage.index()].iter());
        if !cores.any(|core| self.history.is_well(core.worker)) {
            return None;
        }
        let newest = self.lineage.newest().max(BatchId(current.from_batch.0.saturating_sub(1)));
        Some(BatchId(newest.0 + self.options.ahead))
    }

    /// Decides who takes what was lost, as soon as nothing stands in the way.
    pub(super) fn advance_recovery(&mut self) {
        let Recovery::Placing { coverage } = &self.recovery else { return };
        // A cut is committed first: those that join have promised nothing.
        // So is a manifest: what it covers need not be repeated.
        let waits = self.cut.is_some() || self.is_writing_manifest();
        if waits || self.history.members.is_empty() {
            return;
        }
        let recover = replacement::recover(&Scene {
            plan: &self.plan,
            history: &self.history,
            lineage: &self.lineage,
            coverage,
            cores: &self.cores_in_turn(),
            epoch: self.history.epoch.next().max(self.least_epoch),
            ran_through: self.ran_through,
        });
        if !self.is_written(&recover) {
            return;
        }
        let sources = recover.moved.iter().filter(|r| r.from != Restore::Manifest);
        for rollback in sources {
            self.lineage.forget_early(rollback.stage, rollback.partition);
        }
        if !recover.errands.is_empty() {
            self.errands_through = recover.replay_through;
        }
        self.recovery = Recovery::None;
        self.releases.forget_through(recover.released_through);
        self.decide(Decision::Recover(std::sync::Arc::new(recover)));
        self.reopen_groups();
    }

    /// Whether all ranges on which the new owners build are in the journal: they may be known to
    /// the driver alone.
    fn is_written(&self, recover: &Recover) -> bool {
        let moved = recover.moved.iter().all(|rollback| match rollback.from {
            Restore::Manifest | Restore::Copy => true,
            Restore::Position { .. } => {
                self.lineage.written(rollback.stage, rollback.partition) >= rollback.after
            }
        });
        let mut errands = recover.errands.iter().map(|errand| &errand.taken);
        moved && errands.all(|t| self.lineage.written(t.range.stage, t.range.partition) >= t.batch)
    }
}
