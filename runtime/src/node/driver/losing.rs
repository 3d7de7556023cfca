//! How workers are lost: by a closed connection, by their silence, or because others cannot reach
//! them. Without a journal that is the end of the job; with one it is an event for the state machine.

use std::collections::{BTreeMap, BTreeSet};

use drizzle_scheduler::attempts::Verdict;
use drizzle_scheduler::driver::DriverEvent;
use drizzle_scheduler::{Life, WorkerId};

use super::observer::Change;
use super::performing::flush;
use super::{DriverNode, Phase};
use crate::clock::monotonic_now;
use crate::node::NodeError;
use crate::node::member::{Member, Stage};
use crate::wire::TaskPanic;

/// Complaints are judged when so long has passed since the first of them: a process that has ended is
/// known by its own closed connection before, and one that is cut off by the number of complaints.
const JUDGE_AFTER_NS: u64 = 50_000_000;

/// Who says of whom that they are not connected, and why.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    pairs: BTreeMap<(Life, Life), String>,
    due_ns: Option<u64>,
}

impl Complaints {
    /// When they are to be judged.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    fn add(&mut self, from: Life, of: Life, reason: String) {
        self.pairs.entry((from, of)).or_insert(reason);
        self.due_ns.get_or_insert(monotonic_now() + JUDGE_AFTER_NS);
    }

    /// The life that most of them are about, on either side, and why. Of two it is the one that has no
    /// tasks yet, or else the one complained of.
    fn worst(&self, has_tasks: impl Fn(Life) -> bool) -> Option<(Life, String)> {
        let mut about: BTreeMap<Life, (usize, usize)> = BTreeMap::new();
        for (from, of) in self.pairs.keys() {
            about.entry(*from).or_default().0 += 1;
            let of = about.entry(*of).or_default();
            *of = (of.0 + 1, of.1 + 1);
        }
        let (&worst, _) =
            about.iter().max_by_key(|(life, (all, of))| (*all, !has_tasks(**life), *of))?;
        let (pair, reason) =
            self.pairs.iter().find(|((from, of), _)| [from, of].contains(&&worst))?;
        let (from, of) = pair;
        let other = if *of == worst { from } else { of };
        Some((worst, format!("it and {} are not connected: {reason}", other.worker)))
    }
}

impl DriverNode<'_> {
    /// A worker says that its connection to another one broke.
    pub(super) fn peer_lost(&mut self, number: u64, life: Life, reason: String) {
        let is_it = |member: &&Member| member.holds_number() && member.life() == life;
        let Some(lost) = self.members.values().find(is_it) else {
            return; // Who has no connection to the driver any more was lost when that ended.
        };
        if !self.can_recover() {
            if matches!(self.phase, Phase::Gathering | Phase::Running) {
                let Life { worker, incarnation } = life;
                self.tell(DriverEvent::WorkerLost { worker, incarnation, reason });
            }
            return;
        }
        let from = &self.members[&number];
        if self.phase == Phase::Running && from.is_introduced() && lost.is_introduced() {
            let from = from.life();
            self.complaints.add(from, life, reason);
        }
    }

    /// Gives up those of whom most is complained, until nobody complains.
    pub(super) fn judge(&mut self, now_ns: u64) -> Result<(), NodeError> {
        if self.complaints.due_ns.take_if(|due_ns| *due_ns <= now_ns).is_none() {
            return Ok(());
        }
        let introduced = self.members.values().filter(|member| member.is_introduced());
        let lives: Vec<Life> = introduced.map(Member::life).collect();
        let pairs = &mut self.complaints.pairs;
        pairs.retain(|(from, of), _| lives.contains(from) && lives.contains(of));
        let at_work = self.members.values().filter(|member| member.stage == Stage::Ready);
        let at_work: BTreeSet<Life> = at_work.map(Member::life).collect();
        while let Some((life, reason)) = self.complaints.worst(|life| at_work.contains(&life)) {
            self.complaints.pairs.retain(|(from, of), _| *from != life && *of != life);
            if let Some(number) = self.connection_of(life) {
                self.part_with(number, &reason)?;
            }
        }
        Ok(())
    }

    /// A task panicked on a worker. Where others can take its partitions, that life of it is over, and the task
    /// is tried again.
    pub(super) fn task_panicked(&mut self, number: u64, panic: TaskPanic) -> Result<(), NodeError> {
        let TaskPanic { stage, batch, epoch, cause } = panic;
        let name = self.members[&number].name();
        let Some(described) = self.job.plan().stages.get(stage.index()) else {
            return self.part_with(number, &format!("it has a {stage} of its own"));
        };
        let failed = format!("stage {:?} failed in {batch}", described.name);
        if !self.can_recover() {
            return Err(NodeError::Job(format!("{name}: {failed}: {cause}")));
        }
        let durable = self.driver.history().durable();
        match self.attempts.panicked(stage, batch, epoch, durable) {
            Verdict::TryAgain => self.part_with(number, &format!("{failed}: {cause}")),
            Verdict::GiveUp { attempts } => {
                let line = format!("{name}: {failed}, {attempts} times in a row: {cause}");
                Err(NodeError::Job(line))
            }
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, number: u64, reason: &str) -> Result<(), NodeError> {
        let Some(member) = self.members.get(&number) else { return Ok(()) };
        let name = member.name();
        let can_recover = self.can_recover();
        match (&self.phase, member.stage) {
            (_, Stage::Connected | Stage::Waiting | Stage::Finished | Stage::Lost) => {
                self.members.remove(&number);
                Ok(())
            }
            (Phase::Gathering, Stage::Welcomed | Stage::Joined | Stage::Ready) if !can_recover => {
                self.turn_away(number, &format!("{name} left before the job began: {reason}"))
            }
            (_, Stage::Welcomed | Stage::Joined) if can_recover => {
                self.turn_away(number, &format!("{name} left before it was ready: {reason}"))
            }
            (_, Stage::Ready | Stage::Finishing) if can_recover => {
                self.lose(number, reason);
                self.members.remove(&number);
                Ok(())
            }
            (_, Stage::Welcomed | Stage::Joined | Stage::Ready | Stage::Finishing) => {
                Err(NodeError::Job(format!(
                    "{name} is lost: {reason}; the job ends, because it cannot recover without --data"
                )))
            }
        }
    }

    /// A worker that may still be there is given up.
    pub(super) fn part_with(&mut self, number: u64, reason: &str) -> Result<(), NodeError> {
        let Some(member) = self.members.get(&number) else { return Ok(()) };
        match member.stage {
            Stage::Ready | Stage::Finishing if self.can_recover() => {
                self.lose(number, reason);
                Ok(())
            }
            // It will be told of the job's end.
            Stage::Ready | Stage::Finishing => self.closed(number, reason),
            Stage::Connected
            | Stage::Waiting
            | Stage::Welcomed
            | Stage::Joined
            | Stage::Finished
            | Stage::Lost => {
                self.hang_up(number);
                self.closed(number, reason)
            }
        }
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.link.hang_up();
        }
    }

    /// A worker at work is lost. Where it still has a connection, it is told to leave on that.
    fn lose(&mut self, number: u64, reason: &str) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let was_at_work = member.stage == Stage::Ready;
        let was_finishing = member.stage == Stage::Finishing;
        member.stage = Stage::Lost;
        member.last_heard_ns = monotonic_now();
        let (Life { worker, incarnation }, reason) = (member.life(), reason.to_owned());
        let line = format!("{} is lost: {reason}", member.name());
        self.observer.notice(&line);
        if self.ready.get(&worker) == Some(&number) {
            self.ready.remove(&worker);
        }
        self.event(Change::WorkerLost { worker, incarnation, reason: reason.clone() });
        self.answered_fence(worker);
        self.draining.remove(&worker);
        if was_at_work {
            self.tell(DriverEvent::WorkerLost { worker, incarnation, reason });
            self.peers_changed();
        } else if was_finishing && self.phase == Phase::Finishing {
            // The last checkpoint has all of it, but nobody else will show what it had staged.
            self.phase = Phase::Failed(format!(
                "{line}, while it completed its output: start the driver once more with --resume, \
                 which completes it"
            ));
            return;
        }
        self.check_finished();
    }

    /// Forgets a connection that is not needed, in one line.
    pub(super) fn turn_away(&mut self, number: u64, line: &str) -> Result<(), NodeError> {
        let Some(mut member) = self.members.remove(&number) else { return Ok(()) };
        flush(&mut *self.io, number, &mut member, &mut self.deferred);
        member.link.hang_up();
        let somebody_may_come = self.children.are_none() && self.listener.is_some();
        match (&self.phase, member.stage) {
            (_, Stage::Connected | Stage::Waiting) => {}
            (Phase::Gathering, _) if somebody_may_come => {}
            (Phase::Gathering, _) => return Err(NodeError::Setup(line.to_owned())),
            (_, Stage::Welcomed | Stage::Joined | Stage::Finished | Stage::Lost)
                if self.can_recover() =>
            {
                self.peers_changed();
            }
            // It has tasks, and nobody can take them over.
            (_, _) => return Err(NodeError::Job(line.to_owned())),
        }
        self.observer.notice(line);
        Ok(())
    }

    /// The number of a worker's process that has ended, if it is known.
    pub(super) fn worker_of_process(&self, process: u32) -> Option<WorkerId> {
        let mut members = self.members.values();
        let found = members.find(|m| m.process == process && m.has_number() && m.is_here());
        found.map(|member| member.worker)
    }
}

#[cfg(test)]
mod tests {
    use drizzle_scheduler::{Incarnation, Life, WorkerId};

    use super::Complaints;

    fn life(worker: u32) -> Life {
        Life { worker: WorkerId(worker), incarnation: Incarnation(1) }
    }

    fn worst(pairs: &[(u32, u32)]) -> Option<Life> {
        let mut complaints = Complaints::default();
        for &(from, of) in pairs {
            complaints.add(life(from), life(of), "reset".to_owned());
        }
        complaints.worst(|life| life.worker.0 < 8).map(|(worst, _)| worst)
    }

    #[test]
    fn of_two_workers_the_one_complained_of_is_given_up() {
        assert_eq!(worst(&[(1, 2)]), Some(life(2)));
        assert_eq!(worst(&[(2, 1)]), Some(life(1)));
        assert_eq!(worst(&[]), None);
    }

    #[test]
    fn a_newcomer_does_not_cost_one_that_has_tasks() {
        assert_eq!(worst(&[(8, 1)]), Some(life(8)));
        assert_eq!(worst(&[(1, 8)]), Some(life(8)));
    }

    #[test]
    fn one_that_is_cut_off_does_not_take_the_others_with_it() {
        // It complains of all, and not all of them have noticed yet.
        assert_eq!(worst(&[(0, 1), (0, 2), (0, 3), (2, 0)]), Some(life(0)));
        assert_eq!(worst(&[(0, 1), (0, 2), (0, 3)]), Some(life(0)));
        assert_eq!(worst(&[(1, 0), (2, 0), (3, 0)]), Some(life(0)));
    }
}
