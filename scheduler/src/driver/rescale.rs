//! Moving partitions at a cut: to workers that join, from those that leave, off slow cores. The new
//! owners load what the newest manifest has, then comes the cut, and the group after it brings the
//! new placement. Whoever is lost before the cut is committed undoes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{CutPurpose, Driver, DriverAction, MoveCause};
use crate::balance::{apply, rebalance, relieve};
use crate::ids::{BatchId, CoreId, Instant, OrderNumber, WorkerId};
use crate::message::{Decision, Move};
use crate::placement::Placement;

/// After a preparation that took too long the next one may take twice as long, up to this factor.
const LARGEST_PATIENCE: u64 = 64;

/// What is to move, and how far that is.
#[derive(Debug)]
pub(super) struct Rescale {
    wish: Wish,
    /// What the moves that are being made are for.
    cause: MoveCause,
    step: Step,
    /// How many times the usual time a preparation may take.
    patience: u64,
    /// No other begins before.
    not_before: Instant,
}

/// What a move would be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    /// A core is slow.
    Relieve(CoreId),
    /// Workers have come or are to go.
    Balance,
}

#[derive(Debug)]
enum Step {
    Idle,
    /// New owners load what there is.
    Preparing {
        number: OrderNumber,
        waiting: BTreeSet<WorkerId>,
        deadline: Instant,
    },
    /// Workers are asked for promises.
    Cutting,
}

impl Rescale {
    pub(super) fn new() -> Rescale {
        Rescale {
            wish: Wish::Nothing,
            cause: MoveCause::Members,
            step: Step::Idle,
            patience: 1,
            not_before: Instant(0),
        }
    }
}

impl Driver {
    /// Partitions should be spread anew over the cores that stay.
    pub(super) fn wish_for_balance(&mut self) {
        self.rescale.wish = Wish::Balance;
    }

    /// Partitions are spread as they should be.
    pub(super) fn is_balanced(&mut self) {
        self.rescale.wish = Wish::Nothing;
    }

    /// A core is slow: it should have less to do.
    pub(super) fn wish_for_relief(&mut self, slow: CoreId) {
        if self.rescale.wish == Wish::Nothing {
            self.rescale.wish = Wish::Relieve(slow);
        }
    }

    pub(super) fn rescale_deadline(&self) -> Option<Instant> {
        match &self.rescale.step {
            Step::Preparing { deadline, .. } => Some(*deadline),
            Step::Cutting => None,
            Step::Idle => Some(self.rescale.not_before).filter(|_| self.may_move()),
        }
    }

    /// Something is wished for and nothing else changes. Only what a manifest covers moves again.
    fn may_move(&self) -> bool {
        self.has_journal()
            && self.is_running()
            && self.rescale.wish != Wish::Nothing
            && self.history.last_batch.0 > 0
            && self.history.moves.is_empty()
            && self.is_settled()
    }

    pub(super) fn advance_rescale(&mut self) {
        if let Step::Preparing { waiting, .. } = &self.rescale.step
            && waiting.is_empty()
        {
            self.rescale.step = Step::Cutting;
            self.rescale.patience = 1;
            // As late as the batches that sources may take meanwhile, so that nobody stands still.
            let proposed = BatchId(self.lineage.newest().0 + self.options.ahead);
            self.begin_cut(proposed.min(self.history.last_batch), CutPurpose::Rescale);
            return;
        }
        let idle = matches!(self.rescale.step, Step::Idle);
        if !idle || self.rescale.not_before > self.now || !self.may_move() {
            return;
        }
        let moves = self.wished_moves();
        let wish = std::mem::replace(&mut self.rescale.wish, Wish::Nothing);
        if !moves.is_empty() {
            self.rescale.cause = match wish {
                Wish::Nothing | Wish::Balance => MoveCause::Members,
                Wish::Relieve(_) => MoveCause::SlowCore,
            };
            self.prepare(&moves);
        }
    }

    fn wished_moves(&self) -> Vec<Move> {
        let current = self.current_placement();
        let cores = self.cores_in_turn();
        match self.rescale.wish {
            Wish::Nothing => Vec::new(),
            Wish::Balance => rebalance(&self.plan, current, &cores),
            Wish::Relieve(slow) if cores.contains(&slow) => self.relief(slow, &cores),
            Wish::Relieve(_) => Vec::new(),
        }
    }

    fn relief(&self, slow: CoreId, cores: &[CoreId]) -> Vec<Move> {
        let Some(watch) = self.stragglers.watch() else { return Vec::new() };
        let with_room: Vec<CoreId> =
            cores.iter().copied().filter(|&core| watch.has_room(core)).collect();
        let may_move = |stage, partition| watch.may_move(stage, partition);
        let moved = relieve(&self.plan, self.current_placement(), slow, &with_room, may_move);
        moved.into_iter().collect()
    }

    fn current_placement(&self) -> &Arc<Placement> {
        self.history.placements.versions().next_back().expect("a running job is placed")
    }

    fn prepare(&mut self, moves: &[Move]) {
        let number = self.decide(Decision::Prepare(moves.into()));
        let patience_ns = self.options.answer_timeout_ns.saturating_mul(self.rescale.patience);
        self.rescale.step = Step::Preparing {
            number,
            waiting: self.history.members.keys().copied().collect(),
            deadline: self.now.after(patience_ns.max(1)),
        };
    }

    pub(super) fn prepared(&mut self, worker: WorkerId, answered: OrderNumber) {
        if let Step::Preparing { number, waiting, .. } = &mut self.rescale.step
            && *number == answered
        {
            waiting.remove(&worker);
        }
    }

    pub(super) fn preparation_timed_out(&mut self) {
        if let Step::Preparing { deadline, .. } = &self.rescale.step
            && *deadline <= self.now
        {
            self.abandon_moves();
            self.rescale.patience = (2 * self.rescale.patience).min(LARGEST_PATIENCE);
            self.rescale.not_before = self.now.after(self.options.answer_timeout_ns.max(1));
        }
    }

    /// Planned moves will not be made now. A cut for their sake goes on without them.
    pub(super) fn abandon_moves(&mut self) {
        self.rescale.step = Step::Idle;
        if let Some(cut) = self.cut.as_mut().filter(|cut| cut.purpose == CutPurpose::Rescale) {
            cut.purpose = CutPurpose::Nothing;
        }
        if !self.history.prepared.is_empty() {
            self.decide(Decision::AbandonMoves);
            match self.rescale.cause {
                MoveCause::Members => self.rescale.wish = Wish::Balance,
                // It will be found again if it stays slow.
                MoveCause::SlowCore => {}
            }
        }
    }

    /// The cut is committed: the group after it brings the new placement.
    pub(super) fn moves_take_effect(&mut self, last_batch: BatchId) {
        self.rescale.step = Step::Idle;
        let (epoch, from_batch) = (self.history.epoch.next(), last_batch.next());
        let moves = self.history.prepared.clone();
        let placement = apply(self.current_placement(), &moves, epoch, from_batch);
        self.groups.place(placement);
        let cause = self.rescale.cause;
        self.stragglers.moved(cause, &moves);
        self.out.push(DriverAction::Moved { moves, cause });
        // Until a manifest covers them, the old owners keep their copies.
        self.checkpoint_now();
    }
}
