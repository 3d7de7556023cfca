//! The driver: it decides which batches run where, in groups. One message per worker and group; two
//! groups in flight, so that no worker ever waits for it.
//!
//! A job ends at a cut: when the sources have ended, or a user asks for it, the driver asks every
//! worker not to start beyond a batch, commits the largest batch that any of them promised, and
//! schedules one last group of one batch that takes no input and flushes every window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::ids::{BatchId, CoreId, Epoch, GroupId, Incarnation, Instant, StageId, Term, WorkerId};
use crate::lineage::Lineage;
use crate::local::Prescheduling;
use crate::message::{
    DriverMessage, GroupStatistics, Order, Purpose, Report, ScheduleGroup, TakenRange,
    WorkerMessage,
};
use crate::placement::Placement;
use crate::plan::Plan;

#[cfg(test)]
mod tests;

/// How a driver behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverOptions {
    /// Its life.
    pub term: Term,
    /// How many workers the job starts with.
    pub workers: u32,
    /// Batches in a group.
    pub group_size: u64,
    /// Groups scheduled and not yet done.
    pub groups_in_flight: usize,
    /// From the start of one batch to that of the next, in nanoseconds.
    pub interval_ns: u64,
    /// How far ahead of time the first batch is scheduled, in nanoseconds.
    pub lead_ns: u64,
    /// A group whose start lies further in the past than this gets a new one, in nanoseconds.
    pub rebase_after_ns: u64,
    /// Whether downstream tasks wait for a release.
    pub prescheduling: Prescheduling,
}

/// What the driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// A worker is ready to run tasks.
    WorkerReady {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How many cores it has.
        cores: u16,
    },
    /// A worker reported.
    Message(WorkerMessage),
    /// A worker is gone.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// How that was noticed.
        reason: String,
    },
    /// The user wants the job to stop at a cut.
    Stop,
}

/// What the driver node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverAction {
    /// Send a message to one worker.
    Send {
        /// The worker.
        to: WorkerId,
        /// The message.
        message: DriverMessage,
    },
    /// All workers have finished a group.
    GroupDone {
        /// The group.
        group: GroupId,
        /// Its last batch that ran.
        last_batch: BatchId,
        /// What it cost on all workers.
        statistics: GroupStatistics,
    },
    /// The job ran to its end.
    Finished {
        /// The last batch with input.
        last_batch: BatchId,
    },
    /// The job cannot go on.
    Failed {
        /// One sentence.
        reason: String,
    },
}

/// The coordinator of one job. See the module's text.
#[derive(Debug)]
pub struct Driver {
    plan: Arc<Plan>,
    options: DriverOptions,
    phase: Phase,
    workers: BTreeMap<WorkerId, Member>,
    placement: Option<Arc<Placement>>,
    /// The placement has not been sent yet.
    placement_is_new: bool,
    origin: Instant,
    /// Start of batch b is `base` + b intervals; re-based after a long gap.
    base: Instant,
    next_group: GroupId,
    /// The last batch scheduled.
    last_batch: BatchId,
    in_flight: VecDeque<OpenGroup>,
    releases: BTreeMap<(BatchId, StageId), BTreeSet<WorkerId>>,
    lineage: Lineage,
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    incarnation: Incarnation,
    cores: u16,
}

/// Where the job is in its life.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Not all workers are there.
    Gathering,
    /// Groups follow each other.
    Running,
    /// Workers are asked for promises.
    Cutting { promised: BTreeMap<WorkerId, BatchId> },
    /// The cut is committed and the last group scheduled.
    Flushing { last_batch: BatchId },
    /// Finished or failed.
    Over,
}

#[derive(Debug)]
struct OpenGroup {
    group: GroupId,
    first_batch: BatchId,
    last_batch: BatchId,
    /// Start of its first batch.
    start: Instant,
    /// Workers that have not reported it done.
    waiting: BTreeSet<WorkerId>,
    statistics: GroupStatistics,
}

impl Driver {
    /// A driver that waits for its workers.
    pub fn new(plan: Arc<Plan>, options: DriverOptions) -> Driver {
        assert!(options.group_size >= 1, "a group has at least one batch");
        assert!(options.groups_in_flight >= 1, "at least one group is in flight");
        assert!(options.workers >= 1, "a job needs at least one worker");
        Driver {
            lineage: Lineage::new(&plan),
            plan,
            options,
            phase: Phase::Gathering,
            workers: BTreeMap::new(),
            placement: None,
            placement_is_new: false,
            origin: Instant(0),
            base: Instant(0),
            next_group: GroupId(1),
            last_batch: BatchId(0),
            in_flight: VecDeque::new(),
            releases: BTreeMap::new(),
        }
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, now: Instant, event: DriverEvent, actions: &mut Vec<DriverAction>) {
        if self.phase == Phase::Over {
            return;
        }
        match event {
            DriverEvent::WorkerReady { worker, incarnation, cores } => {
                self.worker_ready(now, worker, Member { incarnation, cores }, actions);
            }
            // Before its first order no worker has anything to report.
            DriverEvent::Message(_) if self.phase == Phase::Gathering => {}
            DriverEvent::Message(message) => {
                let known = self.workers.get(&message.worker);
                if known.is_some_and(|member| member.incarnation == message.incarnation) {
                    self.report(now, message.worker, message.report, actions);
                }
            }
            DriverEvent::WorkerLost { worker, reason } => {
                let reason = format!("{worker} is lost: {reason}");
                self.fail(reason, actions);
            }
            DriverEvent::Stop => self.stop(actions),
        }
    }

    /// What the sources' tasks took so far.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Zero of the job's own time, once it runs.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// First batch of the oldest group that some worker has not reported done, and its start.
    pub fn oldest_open_batch(&self) -> Option<(BatchId, Instant)> {
        self.in_flight.front().map(|open| (open.first_batch, open.start))
    }

    /// A running job has all the workers that it needs, so others are not heeded. A member that is
    /// ready once more has lost the tasks that it held.
    fn worker_ready(
        &mut self,
        now: Instant,
        worker: WorkerId,
        member: Member,
        actions: &mut Vec<DriverAction>,
    ) {
        if self.phase == Phase::Gathering {
            self.workers.insert(worker, member);
            if self.workers.len() == self.options.workers as usize {
                self.start(now, actions);
            }
        } else if self.workers.get(&worker).is_some_and(|known| known != &member) {
            let reason = format!("{worker} is lost: it came back as {}", member.incarnation);
            self.fail(reason, actions);
        }
    }

    fn start(&mut self, now: Instant, actions: &mut Vec<DriverAction>) {
        let cores: Vec<CoreId> = self.cores_in_turn();
        let placement = Placement::spread(&self.plan, &cores, Epoch(1), BatchId(1));
        self.placement = Some(Arc::new(placement));
        self.placement_is_new = true;
        self.origin = self.aligned(now.after(self.options.lead_ns));
        self.base = self.origin;
        self.phase = Phase::Running;
        self.schedule_groups(now, actions);
    }

    /// The first core of every worker, then the second of every worker, and so on.
    fn cores_in_turn(&self) -> Vec<CoreId> {
        let widest = self.workers.values().map(|member| member.cores).max().unwrap_or(0);
        (0..widest)
            .flat_map(|core| {
                let has_it = self.workers.iter().filter(move |(_, member)| core < member.cores);
                has_it.map(move |(&worker, _)| CoreId { worker, core })
            })
            .collect()
    }

    /// The next point in time that is a multiple of the interval.
    fn aligned(&self, time: Instant) -> Instant {
        let interval_ns = self.options.interval_ns.max(1);
        Instant(time.0.div_ceil(interval_ns).saturating_mul(interval_ns))
    }

    fn start_of(&self, batch: BatchId) -> Instant {
        self.base.after(batch.0.saturating_mul(self.options.interval_ns))
    }

    fn schedule_groups(&mut self, now: Instant, actions: &mut Vec<DriverAction>) {
        while self.phase == Phase::Running && self.in_flight.len() < self.options.groups_in_flight {
            let start = self.start_of(self.last_batch.next());
            if now.since(start) > self.options.rebase_after_ns {
                let gap_ns = self.aligned(now).since(start);
                self.base = self.base.after(gap_ns);
            }
            self.schedule(self.options.group_size, Purpose::Process, actions);
        }
    }

    fn schedule(&mut self, batch_count: u64, purpose: Purpose, actions: &mut Vec<DriverAction>) {
        let placement = self.placement.clone().expect("a running job is placed");
        let first_batch = self.last_batch.next();
        let group = Arc::new(ScheduleGroup {
            group: self.next_group,
            epoch: placement.epoch,
            predecessor: self.last_batch,
            first_batch,
            batch_count,
            // The last batch need not wait for its turn: it takes nothing.
            start: match purpose {
                Purpose::Process => self.start_of(first_batch),
                Purpose::Flush => Instant(0),
            },
            interval_ns: self.options.interval_ns,
            origin: self.origin,
            purpose,
            placement: std::mem::take(&mut self.placement_is_new).then_some(placement),
        });
        self.next_group = self.next_group.next();
        self.last_batch = group.last_batch();
        self.in_flight.push_back(OpenGroup {
            group: group.group,
            first_batch,
            last_batch: self.last_batch,
            start: group.start,
            waiting: self.workers.keys().copied().collect(),
            statistics: GroupStatistics::default(),
        });
        self.send_to_all(&Order::ScheduleGroup(group), actions);
    }

    fn report(
        &mut self,
        now: Instant,
        worker: WorkerId,
        report: Report,
        actions: &mut Vec<DriverAction>,
    ) {
        match report {
            Report::GroupDone { group, last_batch: _, statistics } => {
                self.group_done(now, worker, group, &statistics, actions);
            }
            Report::StageDone { batch, stage } => self.stage_done(worker, batch, stage, actions),
            Report::Ranges(ranges) => self.ranges(&ranges, actions),
            Report::Promise { last_batch } => self.promised(now, worker, last_batch, actions),
            Report::Refused { group, expected } => {
                let reason = format!("{worker} refused {group}: it had reached {expected}");
                self.fail(reason, actions);
            }
        }
    }

    fn group_done(
        &mut self,
        now: Instant,
        worker: WorkerId,
        group: GroupId,
        statistics: &GroupStatistics,
        actions: &mut Vec<DriverAction>,
    ) {
        // A group that is not in flight was voided by a cut while the report was under way.
        if let Some(open) = self.in_flight.iter_mut().find(|open| open.group == group)
            && open.waiting.remove(&worker)
        {
            open.statistics.merge(statistics);
        }
        self.retire_groups(now, actions);
    }

    fn retire_groups(&mut self, now: Instant, actions: &mut Vec<DriverAction>) {
        while let Some(open) = self.in_flight.pop_front_if(|open| open.waiting.is_empty()) {
            let OpenGroup { group, last_batch, statistics, .. } = open;
            self.releases.retain(|&(batch, _), _| batch > last_batch);
            actions.push(DriverAction::GroupDone { group, last_batch, statistics });
        }
        self.schedule_groups(now, actions);
        if let Phase::Flushing { last_batch } = self.phase
            && self.in_flight.is_empty()
        {
            self.phase = Phase::Over;
            actions.push(DriverAction::Finished { last_batch });
        }
    }

    /// Without pre-scheduling: releases the stages whose upstream tasks have all reported.
    fn stage_done(
        &mut self,
        worker: WorkerId,
        batch: BatchId,
        stage: StageId,
        actions: &mut Vec<DriverAction>,
    ) {
        if self.options.prescheduling == Prescheduling::On {
            return;
        }
        let waiting = self.workers_of(stage);
        let waiting = self.releases.entry((batch, stage)).or_insert(waiting);
        waiting.remove(&worker);
        let downstream: BTreeSet<StageId> =
            self.plan.edges_out_of(stage).map(|(_, edge)| edge.to).collect();
        for stage in downstream {
            let upstream_done = self.plan.edges_into(stage).all(|(_, edge)| {
                self.releases.get(&(batch, edge.from)).is_some_and(BTreeSet::is_empty)
            });
            if upstream_done {
                for to in self.workers_of(stage) {
                    self.send(to, Order::Release { batch, stage }, actions);
                }
            }
        }
    }

    fn workers_of(&self, stage: StageId) -> BTreeSet<WorkerId> {
        let placement = self.placement.as_ref().expect("a running job is placed");
        placement.cores_of(stage).into_iter().map(|core| core.worker).collect()
    }

    fn ranges(&mut self, ranges: &[TakenRange], actions: &mut Vec<DriverAction>) {
        for taken in ranges {
            if let Err(broken) = self.lineage.record(taken) {
                self.fail(broken.to_string(), actions);
                return;
            }
        }
        if self.phase == Phase::Running
            && let Some(proposed) = self.lineage.ended_in()
        {
            self.cut(proposed, actions);
        }
    }

    fn stop(&mut self, actions: &mut Vec<DriverAction>) {
        match self.phase {
            Phase::Gathering => self.fail("it was stopped before it began".to_owned(), actions),
            Phase::Running => self.cut(BatchId(0), actions),
            Phase::Cutting { .. } | Phase::Flushing { .. } | Phase::Over => {}
        }
    }

    fn cut(&mut self, proposed: BatchId, actions: &mut Vec<DriverAction>) {
        self.phase = Phase::Cutting { promised: BTreeMap::new() };
        self.send_to_all(&Order::CutGroup { proposed }, actions);
    }

    fn promised(
        &mut self,
        now: Instant,
        worker: WorkerId,
        last_batch: BatchId,
        actions: &mut Vec<DriverAction>,
    ) {
        let Phase::Cutting { promised } = &mut self.phase else { return };
        promised.insert(worker, last_batch);
        if promised.len() < self.workers.len() {
            return;
        }
        let last_batch = promised.values().copied().max().unwrap_or_default();
        self.commit(now, last_batch.min(self.last_batch), actions);
    }

    fn commit(&mut self, now: Instant, last_batch: BatchId, actions: &mut Vec<DriverAction>) {
        self.send_to_all(&Order::CommitCut { last_batch }, actions);
        self.in_flight.retain(|open| open.first_batch <= last_batch);
        if let Some(open) = self.in_flight.back_mut() {
            open.last_batch = open.last_batch.min(last_batch);
        }
        self.last_batch = last_batch;
        self.phase = Phase::Flushing { last_batch };
        self.schedule(1, Purpose::Flush, actions);
        self.retire_groups(now, actions);
    }

    fn fail(&mut self, reason: String, actions: &mut Vec<DriverAction>) {
        self.phase = Phase::Over;
        actions.push(DriverAction::Failed { reason });
    }

    fn send_to_all(&self, order: &Order, actions: &mut Vec<DriverAction>) {
        for &to in self.workers.keys() {
            self.send(to, order.clone(), actions);
        }
    }

    fn send(&self, to: WorkerId, order: Order, actions: &mut Vec<DriverAction>) {
        let message = DriverMessage { term: self.options.term, order };
        actions.push(DriverAction::Send { to, message });
    }
}
