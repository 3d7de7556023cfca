//! What passes through the node and changes the cluster, for those who measure and for the report.

use std::collections::BTreeSet;

use drizzle_scheduler::driver::{DriverAction, MoveCause};
use drizzle_scheduler::message::{Decision, Move, Order, Recover, Report, WorkerMessage};
use drizzle_scheduler::{CoreId, Epoch, OrderNumber, WorkerId};

use super::observer::{Change, ClusterEvent};
use super::{DriverNode, Observer};
use crate::clock::monotonic_now;
use crate::node::JobReport;
use crate::wire::Regained;

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The newest decision that was seen.
    newest: OrderNumber,
    /// The fence that members are answering, and who has not.
    fence: Option<(OrderNumber, BTreeSet<WorkerId>)>,
    progress: Progress,
    regaining: Regaining,
    takeover: Takeover,
}

/// Whether a recovery has been followed by a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    CaughtUp,
    CatchingUp,
}

/// Cores that were given lost partitions, and have not said that these are there again.
#[derive(Debug, Default)]
struct Regaining {
    epoch: Epoch,
    without_state: BTreeSet<CoreId>,
    behind: BTreeSet<CoreId>,
}

impl Regaining {
    fn new(recover: &Recover) -> Regaining {
        let cores: BTreeSet<CoreId> = recover.moved.iter().map(|rollback| rollback.to).collect();
        Regaining { epoch: recover.epoch, without_state: cores.clone(), behind: cores }
    }

    /// Takes what a core says; whether it was the last of them.
    fn regained(&mut self, core: CoreId, epoch: Epoch, what: Regained) -> Option<Change> {
        let (waiting, change) = match what {
            Regained::State => (&mut self.without_state, Change::Loaded),
            Regained::Time => (&mut self.behind, Change::Replayed),
        };
        let was_last = epoch == self.epoch && waiting.remove(&core) && waiting.is_empty();
        was_last.then_some(change)
    }
}

/// Whether an earlier driver's workers are still to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Takeover {
    #[default]
    Over,
    Expected,
}

impl Changes {
    /// Of a driver that takes over from an earlier one, or not.
    pub(super) fn new(is_resumed: bool) -> Changes {
        let takeover = if is_resumed { Takeover::Expected } else { Takeover::Over };
        Changes { takeover, ..Changes::default() }
    }

    /// A driver that takes over first tells workers what they missed of its predecessor's decisions.
    /// Its own begin with a fence.
    fn skip_those_of_a_predecessor(&mut self, actions: &[DriverAction]) -> bool {
        if self.takeover == Takeover::Over {
            return false;
        }
        let decisions = || actions.iter().filter_map(decision_of);
        let fences = decisions().filter(|(_, decision)| matches!(decision, Decision::Fence(_)));
        let own = fences.map(|(number, _)| number).max();
        let own = own.or_else(|| decisions().map(|(number, _)| number).min());
        let Some(own) = own else { return false };
        self.takeover = Takeover::Over;
        self.newest = OrderNumber(own.0.saturating_sub(1));
        true
    }
}

fn decision_of(action: &DriverAction) -> Option<(OrderNumber, &Decision)> {
    let DriverAction::Send { message, .. } = action else { return None };
    let Order::Decision { number, decision } = &message.order else { return None };
    Some((*number, decision))
}

impl DriverNode<'_> {
    /// Looks at what is about to be done.
    pub(super) fn observe(&mut self, actions: &[DriverAction]) {
        if self.changes.skip_those_of_a_predecessor(actions) {
            self.event(Change::TookOver);
        }
        for action in actions {
            if let (DriverAction::Send { to, .. }, Some((number, decision))) =
                (action, decision_of(action))
            {
                self.observe_decision(*to, number, decision);
            }
            if let DriverAction::Drained { worker } = action {
                self.event(Change::WorkerLeft { worker: *worker });
            }
            if let DriverAction::GroupDone { .. } = action
                && self.changes.progress == Progress::CatchingUp
            {
                self.changes.progress = Progress::CaughtUp;
                self.event(Change::CaughtUp);
            }
        }
    }

    fn observe_decision(&mut self, to: WorkerId, number: OrderNumber, decision: &Decision) {
        if let Decision::Fence(_) = decision {
            match &mut self.changes.fence {
                Some((known, waiting)) if *known == number => {
                    waiting.insert(to);
                }
                known if number > self.changes.newest => *known = Some((number, [to].into())),
                Some(_) | None => {}
            }
        }
        if number <= self.changes.newest {
            return;
        }
        self.changes.newest = number;
        match decision {
            Decision::Admit(members) => {
                for (life, _) in members.iter() {
                    let (worker, incarnation) = (life.worker, life.incarnation);
                    self.event(Change::WorkerJoined { worker, incarnation });
                }
            }
            Decision::Recover(recover) => {
                self.changes.progress = Progress::CatchingUp;
                self.changes.regaining = Regaining::new(recover);
                self.event(Change::Recovered { epoch: recover.epoch });
            }
            Decision::Durable(manifest) => self.event(Change::Durable { batch: manifest.batch }),
            Decision::ScheduleGroup(_)
            | Decision::CutGroup { .. }
            | Decision::CommitCut { .. }
            | Decision::Fence(_)
            | Decision::Checkpoint { .. }
            | Decision::AbandonCheckpoint { .. }
            | Decision::Prepare(_)
            | Decision::AbandonMoves => {}
        }
    }

    /// Partitions have new owners. That they leave a slow core nobody has asked for, so one line says it.
    pub(super) fn moved(&mut self, moves: &[Move], cause: MoveCause) {
        self.event(Change::Moved { partitions: moves.len() });
        for &Move { stage, partition, from, to } in moves {
            self.report.moved_partitions += 1;
            match cause {
                MoveCause::Members => {}
                MoveCause::SlowCore => {
                    let name = &self.job.plan().stage(stage).name;
                    let line = format!(
                        "{partition} of {name:?} moves from {from}, which is slow, to {to}"
                    );
                    self.observer.notice(&line);
                    self.event(Change::Relieved { from, to });
                }
            }
        }
    }

    /// Looks at what a worker reports.
    pub(super) fn observe_report(&mut self, message: &WorkerMessage) {
        if let Report::Fenced { number, .. } = &message.report
            && let Some((fence, _)) = &self.changes.fence
            && fence == number
        {
            self.answered_fence(message.worker);
        }
    }

    /// A core has something of lost partitions again.
    pub(super) fn regained(&mut self, core: CoreId, epoch: Epoch, what: Regained) {
        if let Some(change) = self.changes.regaining.regained(core, epoch, what) {
            self.event(change);
        }
    }

    /// A worker has answered, or will never.
    pub(super) fn answered_fence(&mut self, worker: WorkerId) {
        if let Some((_, waiting)) = &mut self.changes.fence
            && waiting.remove(&worker)
            && waiting.is_empty()
        {
            self.changes.fence = None;
            self.event(Change::Fenced);
        }
    }

    /// Tells who watches, and counts for the report.
    pub(super) fn event(&mut self, change: Change) {
        count(&mut self.report, &change);
        let event = ClusterEvent { at_ns: monotonic_now(), change };
        Observer::event(self.observer, &event);
    }
}

fn count(report: &mut JobReport, change: &Change) {
    match change {
        Change::WorkerLost { .. } => report.lost_workers += 1,
        Change::Recovered { .. } => report.recoveries += 1,
        Change::Durable { batch } => {
            report.checkpoints += 1;
            report.durable = *batch;
        }
        Change::Relieved { .. } => report.relieved_partitions += 1,
        Change::WorkerJoined { .. }
        | Change::WorkerLeft { .. }
        | Change::Moved { .. }
        | Change::Fenced
        | Change::Loaded
        | Change::Replayed
        | Change::CaughtUp
        | Change::TookOver => {}
    }
}
