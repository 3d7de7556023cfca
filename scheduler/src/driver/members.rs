//! Who takes part: workers become members by a journal entry and a decision, and stop being so when
//! they are lost or have been drained.

use super::{Driver, DriverAction, Durability, Phase};
use crate::ids::{BatchId, Epoch, Incarnation, Life, WorkerId};
use crate::message::{Decision, Order};
use crate::placement::Placement;
use crate::plan::Plan;
use std::sync::Arc;

/// A worker that is ready and no member yet.
#[derive(Debug)]
pub(super) struct Candidate {
    incarnation: Incarnation,
    cores: u16,
    entry: Entry,
}

/// Whether the journal says that a worker may be told to run tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Missing,
    UnderWay,
    Written,
}

impl Candidate {
    pub(super) fn life(&self, worker: WorkerId) -> Life {
        Life { worker, incarnation: self.incarnation }
    }
}

impl Driver {
    pub(super) fn worker_ready(&mut self, life: Life, cores: u16) {
        let Life { worker, incarnation } = life;
        match self.options.durability {
            Durability::None if matches!(self.phase, Phase::Gathering) => self.accept(life, cores),
            // A running job has all the workers that it needs, so others are not heeded. A member
            // that is ready once more has lost the tasks that it held.
            Durability::None => {
                let known = self.history.members.get(&worker);
                if known.is_some_and(|known| *known != (incarnation, cores)) {
                    self.fail(format!("{worker} is lost: it came back as {incarnation}"));
                }
            }
            Durability::Journal { .. } => self.worker_joins(life, cores),
        }
    }

    fn worker_joins(&mut self, life: Life, cores: u16) {
        if self.history.fenced.contains(&life) {
            self.leave(life);
            return;
        }
        if self.is_asked(life) {
            return;
        }
        if let Some(member) = self.life_of(life.worker) {
            if member.incarnation >= life.incarnation {
                if member != life {
                    self.leave(life);
                }
                return;
            }
            self.lost(&[member]);
        }
        self.accept(life, cores);
    }

    fn accept(&mut self, life: Life, cores: u16) {
        let Life { worker, incarnation } = life;
        let known = self.candidates.get(&worker).map(|candidate| candidate.incarnation);
        if known.is_none_or(|known| known < incarnation) {
            let candidate = Candidate { incarnation, cores, entry: Entry::Missing };
            self.candidates.insert(worker, candidate);
        }
    }

    /// Makes members of the workers that are ready: all that a job starts with at once, later ones
    /// as they come, but never between the phases of a cut, of which they have not heard.
    pub(super) fn advance_members(&mut self) {
        match self.phase {
            Phase::Reading | Phase::Opening(_) | Phase::TakingOver(_) | Phase::Over => return,
            Phase::Gathering => {
                let there = self.candidates.len() + self.history.members.len();
                if there < self.workers {
                    return;
                }
            }
            Phase::Running | Phase::Ending | Phase::Flushing { .. } if self.cut.is_some() => return,
            Phase::Running | Phase::Ending | Phase::Flushing { .. } => {}
        }
        if self.has_journal() {
            self.write_candidates();
            let is_written = |candidate: &Candidate| candidate.entry == Entry::Written;
            let gathering = matches!(self.phase, Phase::Gathering);
            if gathering && !self.candidates.values().all(is_written) {
                return;
            }
        }
        self.admit();
        if matches!(self.phase, Phase::Gathering) {
            self.start();
        }
    }

    fn write_candidates(&mut self) {
        let mut missing = Vec::new();
        for (&worker, candidate) in &mut self.candidates {
            if candidate.entry == Entry::Missing {
                candidate.entry = Entry::UnderWay;
                missing.push((candidate.life(worker), candidate.cores));
            }
        }
        if !missing.is_empty() {
            self.journal.write_members(missing);
        }
    }

    pub(super) fn members_are_written(&mut self, members: &[(Life, u16)]) {
        for (life, _) in members {
            if let Some(candidate) = self.candidates.get_mut(&life.worker)
                && candidate.incarnation == life.incarnation
            {
                candidate.entry = Entry::Written;
            }
        }
    }

    /// Admits the candidates that may be; those that come late are told what was decided before.
    fn admit(&mut self) {
        let has_journal = self.has_journal();
        let may = |candidate: &Candidate| !has_journal || candidate.entry == Entry::Written;
        let (admitted, candidates) =
            std::mem::take(&mut self.candidates)
                .into_iter()
                .partition::<std::collections::BTreeMap<_, _>, _>(|(_, candidate)| may(candidate));
        self.candidates = candidates;
        if admitted.is_empty() {
            return;
        }
        if self.history.applied.0 > 0 {
            let history = Arc::new(self.history.clone());
            for &worker in admitted.keys() {
                self.send(worker, Order::Welcome(history.clone()));
            }
        }
        let lives = admitted.iter().map(|(&worker, c)| (c.life(worker), c.cores));
        self.decide(Decision::Admit(lives.collect()));
        if self.recorded > BatchId(0) {
            for &worker in admitted.keys() {
                self.send(worker, Order::Recorded { through: self.recorded });
            }
        }
        self.wish_for_balance();
        self.dismiss_drained();
    }

    /// All workers that the job starts with are members.
    fn start(&mut self) {
        self.phase = Phase::Running;
        let cores = self.cores_in_turn();
        let epoch = Epoch(1).max(self.least_epoch);
        let placement = Placement::spread(&self.plan, &cores, epoch, BatchId(1));
        self.groups.place(placement);
        self.begin_time(BatchId(0));
        self.first_checkpoint_is_due();
        self.is_balanced();
    }

    pub(super) fn worker_lost(&mut self, life: Life, reason: &str) {
        match self.options.durability {
            Durability::None => self.fail(format!("{} is lost: {reason}", life.worker)),
            Durability::Journal { .. } => {
                if self.candidates.get(&life.worker).is_some_and(|c| c.life(life.worker) == life) {
                    self.candidates.remove(&life.worker);
                }
                self.asked_worker_is_lost(life);
                if self.life_of(life.worker) == Some(life) {
                    self.lost(&[life]);
                }
            }
        }
    }

    /// A worker is to leave as soon as nothing depends on it.
    pub(super) fn drain(&mut self, worker: WorkerId) {
        if self.has_journal() {
            self.draining.insert(worker);
            self.wish_for_balance();
            self.dismiss_drained();
        }
    }

    /// Lets go the workers that were drained and own nothing after the newest manifest.
    pub(super) fn dismiss_drained(&mut self) {
        let busy = self.cut.is_some() || self.is_recovering() || !self.history.prepared.is_empty();
        let has_errands = self.history.durable() < self.errands_through;
        if busy || has_errands || !self.is_running() {
            return;
        }
        let owns_nothing = |worker: &&WorkerId| !self.history.names(**worker);
        let drained: Vec<WorkerId> = self.draining.iter().filter(owns_nothing).copied().collect();
        for worker in drained {
            self.draining.remove(&worker);
            let Some(life) = self.life_of(worker) else { continue };
            self.decide(Decision::Fence([life].into()));
            self.journal.write_end(&[life]);
            self.forget_worker(worker);
            self.leave(life);
            self.out.push(DriverAction::Drained { worker });
        }
    }

    /// Nobody waits any more for what that worker would have reported.
    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        self.draining.remove(&worker);
        self.groups.forget_worker(worker);
        self.checkpoints.forget_worker(worker);
        self.stragglers.forget_worker(worker);
        if let Some(cut) = &mut self.cut {
            cut.forget_worker(worker);
        }
    }
}

/// Every partition where nobody is: the workers of an earlier driver that were all lost.
pub(super) fn placement_of_the_lost(
    plan: &Plan,
    lost: &[(Life, u16)],
    from_batch: BatchId,
) -> Placement {
    let core = |(life, _): &(Life, u16)| crate::ids::CoreId { worker: life.worker, core: 0 };
    let cores: Vec<_> = lost.iter().map(core).collect();
    Placement::spread(plan, &cores, Epoch(1), from_batch)
}
