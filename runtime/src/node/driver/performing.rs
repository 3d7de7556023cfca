//! What the driver's decisions come to: messages, entries of the journal, and the end of the job.

use std::time::Duration;

use drizzle_scheduler::driver::{DriverAction, DriverEvent};
use drizzle_scheduler::message::{Decision, DriverMessage, Order, Purpose};
use drizzle_scheduler::plan::{Pacing, StageKind};
use drizzle_scheduler::{BatchId, Instant, Life, WorkerId};

use super::{DriverNode, Phase};
use crate::clock::{monotonic_now, thread_cpu_ns};
use crate::io::{Completion, Io};
use crate::node::member::{Member, Stage};
use crate::transport::Connection;
use crate::wire::{FinalReport, ToWorker, encode_to_worker};

/// How long messages may take to leave when a job has failed.
const ABORT_NS: u64 = 200_000_000;
/// How long messages may take to leave when one connection is given up.
const FLUSH_NS: u64 = 300_000_000;

impl DriverNode<'_> {
    /// Has the state machine decide, and does at once what it has decided: whoever a message is for may be
    /// another life after the next event.
    pub(super) fn tell(&mut self, event: DriverEvent) {
        let began = monotonic_now();
        let mut actions = std::mem::take(&mut self.actions);
        self.driver.handle(Instant(began), event, &mut actions);
        self.observe(&actions);
        let drained: Vec<WorkerId> = actions.iter().filter_map(drained).collect();
        for action in actions.drain(..) {
            self.perform(action, &drained);
        }
        self.actions = actions;
        self.report.driver_schedule_ns += monotonic_now() - began;
    }

    fn perform(&mut self, action: DriverAction, drained: &[WorkerId]) {
        match action {
            // It leaves by completing what it wrote.
            DriverAction::Send {
                to,
                message: DriverMessage { order: Order::Leave { .. }, .. },
            } if drained.contains(&to) => {}
            DriverAction::Send { to, message } => {
                self.count(&message);
                // Without a connection it is lost, or will be.
                if let Some(number) = self.recipient(to, &message.order) {
                    self.send(number, ToWorker::Order(message));
                }
            }
            DriverAction::ReadJournal => self.keeper().read(),
            DriverAction::Append(entry) => self.keeper().append(entry),
            DriverAction::GroupDone { statistics, .. } => {
                self.report.statistics.merge(&statistics);
            }
            DriverAction::Moved { moves, cause } => self.moved(&moves, cause),
            DriverAction::Drained { worker } => self.dismiss(worker),
            DriverAction::Finished { last_batch } => self.finish(last_batch),
            DriverAction::Deposed => self.phase = Phase::Deposed,
            DriverAction::Failed { reason } => {
                self.phase = Phase::Failed(self.with_name(reason));
            }
        }
    }

    fn keeper(&self) -> &super::journal::Keeper {
        self.keeper.as_ref().expect("only a driver with a journal asks for it")
    }

    /// The connection that an order for a worker goes to. One to leave is for one life alone.
    fn recipient(&self, to: WorkerId, order: &Order) -> Option<u64> {
        match order {
            Order::Leave { life } => self.connection_of(*life),
            Order::Decision { .. }
            | Order::Release { .. }
            | Order::Recorded { .. }
            | Order::Welcome(_)
            | Order::TakeOver { .. }
            | Order::Speculate(_) => self.ready.get(&to).copied(),
        }
    }

    /// The connection of a life, if it has one.
    pub(super) fn connection_of(&self, life: Life) -> Option<u64> {
        let mut members = self.members.iter();
        let found = members.find(|(_, member)| member.has_number() && member.life() == life);
        found.map(|(&number, _)| number)
    }

    /// Notes for the report that an order was sent.
    fn count(&mut self, message: &DriverMessage) {
        let order = &message.order;
        if let Order::Decision { decision: Decision::ScheduleGroup(group), .. } = order {
            self.report.schedule_messages += 1;
            let is_new = group.group.0 > self.report.groups;
            if is_new && group.placement.is_none() && group.purpose == Purpose::Process {
                let mut bytes = Vec::new();
                encode_to_worker(&ToWorker::Order(message.clone()), &mut bytes);
                self.report.group_message_bytes = bytes.len() as u64;
            }
            self.report.groups = group.group.0;
            if self.began_ns == 0 {
                self.began_ns = monotonic_now();
                self.cpu_before_ns = thread_cpu_ns();
            }
        }
        if let Order::Release { .. } = order {
            self.report.release_messages += 1;
        }
    }

    /// Puts a worker's address and process behind its number.
    fn with_name(&self, reason: String) -> String {
        let named = self.members.values().find(|member| {
            member.stage == Stage::Ready && reason.starts_with(&format!("{} ", member.worker))
        });
        match named {
            Some(member) => reason.replacen(&member.worker.to_string(), &member.name(), 1),
            None => reason,
        }
    }

    /// Nothing depends on a worker any more: it completes what it wrote, and ends.
    fn dismiss(&mut self, worker: WorkerId) {
        self.draining.remove(&worker);
        let Some(number) = self.ready.remove(&worker) else { return };
        if let Some(member) = self.members.get_mut(&number) {
            member.stage = Stage::Finishing;
            let line = format!("{} has been drained", member.name());
            self.observer.notice(&line);
        }
        self.send(number, ToWorker::Finish);
        self.peers_changed();
    }

    fn finish(&mut self, last_batch: BatchId) {
        self.report.last_batch = last_batch;
        self.report.origin_ns = self.driver.origin().0;
        // A live source's time begins at the job's zero, a file's when it was first scheduled.
        let began_ns = if self.is_live() { self.driver.origin().0 } else { self.began_ns };
        self.report.elapsed_ns = monotonic_now().saturating_sub(began_ns);
        self.report.taken = self
            .driver
            .lineage()
            .partitions()
            .map(|(stage, partition, progress)| (stage, partition, progress.from, progress.to))
            .collect();
        self.phase = Phase::Finishing;
        let numbers: Vec<u64> = self.members.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.tell_to_finish(number));
        self.check_finished();
    }

    /// The job is over: a worker reports, one that is not at work yet just ends.
    pub(super) fn tell_to_finish(&mut self, number: u64) {
        let Some(member) = self.members.get_mut(&number) else { return };
        match member.stage {
            Stage::Connected | Stage::Finishing | Stage::Finished | Stage::Lost => {}
            Stage::Waiting | Stage::Welcomed | Stage::Joined => {
                member.stage = Stage::Finished;
                self.send(number, ToWorker::Finish);
            }
            Stage::Ready => {
                member.stage = Stage::Finishing;
                self.send(number, ToWorker::Finish);
            }
        }
    }

    /// Whether a source waits for the start of its batches.
    pub(super) fn is_live(&self) -> bool {
        let mut stages = self.job.plan().stages.iter();
        stages.any(|stage| stage.kind == StageKind::Source(Pacing::Clock))
    }

    /// A worker has completed everything.
    pub(super) fn take_final(&mut self, number: u64, report: &FinalReport) {
        for (name, count) in &report.counters {
            *self.report.counters.entry(name.clone()).or_default() += count;
        }
        self.report.control_cpu_ns += report.control_cpu_ns;
        self.report.cores_cpu_ns += report.cores_cpu_ns;
        self.report.task_cpu_ns += report.task_cpu_ns;
        self.report.idle_poll_ns += report.idle_poll_ns;
        self.report.costs.add(&report.costs);
        self.report.control_calls.add(&report.control_calls);
        if let Some(member) = self.members.get_mut(&number) {
            member.stage = Stage::Finished;
            if self.phase == Phase::Running {
                // It was drained, and waits for us to hang up.
                member.link.hang_up();
            }
        }
        self.check_finished();
    }

    /// Whether every worker that was told to finish has.
    pub(super) fn check_finished(&mut self) {
        let waiting = self.members.values().any(|member| member.stage == Stage::Finishing);
        if self.phase != Phase::Finishing || waiting {
            return;
        }
        self.report.driver_cpu_ns = thread_cpu_ns() - self.cpu_before_ns;
        self.report.control_cpu_ns += self.report.driver_cpu_ns;
        self.report.control_calls.add(&self.io.calls());
        self.phase = Phase::Done;
    }

    pub(super) fn send(&mut self, number: u64, message: ToWorker) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let result = member.link.send(message);
        member.link.drive(&mut *self.io);
        if let Err(closed) = result {
            self.broken.push((number, closed.to_string()));
        }
    }

    /// Tells every worker that it is over, and gives the messages time to leave.
    pub(super) fn abort(&mut self, reason: &str) {
        for member in self.members.values_mut() {
            // Who is gone already need not be told.
            let _ = member.link.send(ToWorker::Abort { reason: reason.to_owned() });
        }
        let limit = monotonic_now() + ABORT_NS;
        let mut completions = std::mem::take(&mut self.deferred);
        while monotonic_now() < limit {
            for Completion { token, outcome } in completions.drain(..) {
                let number = Connection::number_of(token);
                let closed = self
                    .members
                    .get_mut(&number)
                    .is_some_and(|m| m.link.completed(outcome).is_err());
                if closed {
                    self.members.remove(&number);
                }
            }
            self.members.retain(|_, member| !member.link.is_flushed());
            if self.members.is_empty() {
                return;
            }
            self.members.values_mut().for_each(|member| member.link.drive(&mut *self.io));
            self.io.park(Some(Duration::from_millis(5)));
            self.io.poll(&mut completions);
        }
    }
}

fn drained(action: &DriverAction) -> Option<WorkerId> {
    match action {
        DriverAction::Drained { worker } => Some(*worker),
        DriverAction::Send { .. }
        | DriverAction::ReadJournal
        | DriverAction::Append(_)
        | DriverAction::GroupDone { .. }
        | DriverAction::Moved { .. }
        | DriverAction::Finished { .. }
        | DriverAction::Deposed
        | DriverAction::Failed { .. } => None,
    }
}

/// Gives what was sent to a member time to leave, within reason.
/// What completes for others meanwhile is kept for them.
pub(super) fn flush(
    io: &mut dyn Io,
    number: u64,
    member: &mut Member,
    others: &mut Vec<Completion>,
) {
    let limit = monotonic_now() + FLUSH_NS;
    let mut completions = Vec::new();
    let mut broken = false;
    while !member.link.is_flushed() && monotonic_now() < limit {
        member.link.drive(io);
        io.park(Some(Duration::from_millis(5)));
        io.poll(&mut completions);
        for completion in completions.drain(..) {
            if Connection::number_of(completion.token) != number {
                others.push(completion);
            } else if member.link.completed(completion.outcome).is_err() {
                broken = true;
            }
        }
        if broken {
            return;
        }
    }
}
