//! The driver node: takes workers in, turns their messages into events for the `Driver` state
//! machine, and its actions into messages. How workers join is in [`joining`], what depends on time
//! alone in [`watch`].

mod joining;
mod watch;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::bugs::Bugs;
use drizzle_scheduler::driver::{
    Adaptation, Balance, Driver, DriverAction, DriverEvent, DriverOptions, Durability, GroupSize,
};
use drizzle_scheduler::message::{Decision, DriverMessage, Order, Purpose};
use drizzle_scheduler::plan::{Pacing, Prescheduling, StageKind};
use drizzle_scheduler::{BatchId, Incarnation, Instant, Life, Term, WorkerId};

use crate::clock::{monotonic_now, thread_cpu_ns};
use crate::dataflow::Job;
use crate::io::{Completion, Io, Op, Outcome, Token};
use crate::node::connect::{Exposure, check_exposure, listen};
use crate::node::member::{Joining, Member, WorkerLink};
use crate::node::{ANSWER_NS, JobReport, NodeError, StopFlag};
use crate::transport::{Connection, Endpoint};
use crate::wire::{FinalReport, ToDriver, ToWorker, encode_to_worker};
use watch::end_children;

/// What a driver needs to know beside the job.
pub struct DriverConfig {
    /// How many workers the job starts with.
    pub workers: u32,
    /// Batches in a group.
    pub group_size: u64,
    /// From one batch to the next.
    pub interval: Duration,
    /// Whether downstream tasks wait for a release.
    pub prescheduling: Prescheduling,
    /// How many batches a source may run ahead.
    pub ahead: u64,
    /// The job and its flags, for workers to build it from.
    pub arguments: Vec<String>,
}

/// Who watches a job from the driver's side.
pub trait Observer {
    /// Rows that the job's sinks collect, in the job's own encoding.
    fn results(&mut self, rows: &[u8]);
    /// Called about once a second.
    fn progress(&mut self, progress: &ProgressReport);
    /// Something that a person should read now, in one line.
    fn notice(&mut self, line: &str);
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressReport {
    /// Since the job began, in nanoseconds.
    pub elapsed_ns: u64,
    /// The last batch that every worker has finished.
    pub completed: BatchId,
    /// Records read by all sources.
    pub records: u64,
}

/// How workers reach the driver.
pub(crate) enum Doors {
    /// They are threads of this process.
    Threads(Vec<WorkerLink>),
    /// They connect here; some may be children of this process.
    Listener(TcpListener, Vec<Child>),
}

/// Opens the door for workers.
pub fn listen_for_workers(
    address: SocketAddr,
    exposure: Exposure,
) -> Result<TcpListener, NodeError> {
    check_exposure(address.ip(), exposure)?;
    listen(address)
}

/// Runs a job with workers that connect to `listener`, of which some may be `children`.
pub fn run_driver(
    config: &DriverConfig,
    job: &Job,
    listener: TcpListener,
    children: Vec<Child>,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<JobReport, NodeError> {
    let io = crate::node::worker::open_control_io()?;
    DriverNode::new(config, job, io, Doors::Listener(listener, children), observer, stop).run()
}

/// A driver at work.
pub(crate) struct DriverNode<'a> {
    config: &'a DriverConfig,
    job: &'a Job,
    io: Box<dyn Io>,
    observer: &'a mut dyn Observer,
    stop: &'a StopFlag,
    driver: Driver,
    /// By connection number.
    members: BTreeMap<u64, Member>,
    next_number: u64,
    /// The connections of workers that were ready.
    ready: BTreeMap<WorkerId, u64>,
    listener: Option<Arc<TcpListener>>,
    accepting: bool,
    children: Vec<Child>,
    /// What workers that have completed everything reported.
    finals: BTreeMap<WorkerId, FinalReport>,
    actions: Vec<DriverAction>,
    /// What completed for others while one connection was flushed.
    deferred: Vec<Completion>,
    phase: Phase,
    report: JobReport,
    watch: Watch,
    next_incarnation: Incarnation,
    /// When the first group was sent.
    began_ns: u64,
    /// CPU time that the thread had used by then.
    cpu_before_ns: u64,
}

/// Where the node is in the life of its job.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Gathering,
    Running,
    /// Workers complete what they wrote.
    Finishing,
    Failed(String),
    /// Everything is reported.
    Done,
}

/// What is looked at from time to time.
struct Watch {
    next_ns: u64,
    last_looked_ns: u64,
    next_progress_ns: u64,
    completed: u64,
    since_ns: u64,
}

const ACCEPT: Token = 1 << 40;
/// Connections that may be open at the same time, beyond the workers that the job has.
const MAX_STRANGERS: usize = 64;
/// How long messages may take to leave when a job has failed, and children to end then.
const ABORT_NS: u64 = 200_000_000;
/// How long children may take to end after a job that went well.
const CHILDREN_NS: u64 = 2_000_000_000;
const TERM: Term = Term(1);

impl<'a> DriverNode<'a> {
    pub(crate) fn new(
        config: &'a DriverConfig,
        job: &'a Job,
        io: Box<dyn Io>,
        doors: Doors,
        observer: &'a mut dyn Observer,
        stop: &'a StopFlag,
    ) -> DriverNode<'a> {
        let options = DriverOptions {
            term: TERM,
            workers: config.workers,
            group_size: GroupSize::Fixed(config.group_size),
            groups_in_flight: 2,
            interval_ns: config.interval.as_nanos() as u64,
            lead_ns: 5_000_000,
            rebase_after_ns: 10_000_000_000,
            prescheduling: config.prescheduling,
            durability: Durability::None,
            answer_timeout_ns: ANSWER_NS,
            ahead: config.ahead,
            balance: Balance::Off,
            adaptation: Adaptation::Off,
            bugs: Bugs::NONE,
        };
        let now_ns = monotonic_now();
        let mut node = DriverNode {
            config,
            job,
            io,
            observer,
            stop,
            driver: Driver::new(job.plan().clone(), options),
            members: BTreeMap::new(),
            next_number: 1,
            ready: BTreeMap::new(),
            listener: None,
            accepting: false,
            children: Vec::new(),
            finals: BTreeMap::new(),
            actions: Vec::new(),
            deferred: Vec::new(),
            phase: Phase::Gathering,
            report: JobReport::default(),
            watch: Watch {
                next_ns: now_ns,
                last_looked_ns: now_ns,
                next_progress_ns: now_ns + 2_000_000_000,
                completed: 0,
                since_ns: now_ns,
            },
            next_incarnation: Incarnation(1),
            began_ns: 0,
            cpu_before_ns: 0,
        };
        match doors {
            Doors::Threads(links) => links.into_iter().for_each(|link| node.admit(link)),
            Doors::Listener(listener, children) => {
                node.listener = Some(Arc::new(listener));
                node.children = children;
            }
        }
        node
    }

    pub(crate) fn run(mut self) -> Result<JobReport, NodeError> {
        let result = self.work();
        if let Err(error) = &result {
            self.abort(&error.to_string());
        }
        self.io.close(&mut Vec::new());
        self.members.clear();
        let patience_ns = if result.is_ok() { CHILDREN_NS } else { ABORT_NS };
        end_children(&mut self.children, patience_ns);
        result.map(|()| self.report)
    }

    fn work(&mut self) -> Result<(), NodeError> {
        loop {
            self.pump_io()?;
            self.look_around()?;
            self.perform()?;
            match &self.phase {
                Phase::Failed(reason) => return Err(NodeError::Job(reason.clone())),
                Phase::Done => return Ok(()),
                Phase::Gathering | Phase::Running | Phase::Finishing => {}
            }
            self.members.values_mut().for_each(|member| member.link.drive(&mut *self.io));
            let deadline_ns = self.driver.deadline().map_or(u64::MAX, |deadline| deadline.0);
            let timeout = self.watch.next_ns.min(deadline_ns).saturating_sub(monotonic_now());
            self.io.park(Some(Duration::from_nanos(timeout)));
        }
    }

    fn admit(&mut self, link: WorkerLink) {
        self.members.insert(self.next_number, Member::new(link, monotonic_now()));
        self.next_number += 1;
    }

    fn pump_io(&mut self) -> Result<(), NodeError> {
        let room = self.members.len() < self.config.workers as usize + MAX_STRANGERS;
        if let Some(listener) = &self.listener
            && !self.accepting
            && room
        {
            self.accepting = true;
            self.io.submit(ACCEPT, Op::Accept { listener: listener.clone() });
        }
        let mut completions = std::mem::take(&mut self.deferred);
        self.io.poll(&mut completions);
        for Completion { token, outcome } in completions {
            match outcome {
                Outcome::Accepted(accepted) => {
                    self.accepting = false;
                    if let Ok((stream, _)) = accepted
                        && let Ok(connection) = Connection::new(stream, self.next_number)
                    {
                        self.admit(Endpoint::Stream(connection));
                    }
                }
                outcome => {
                    let number = Connection::number_of(token);
                    let Some(member) = self.members.get_mut(&number) else { continue };
                    if let Err(closed) = member.link.completed(outcome) {
                        // Its last words may still lie in the buffer.
                        self.read(number)?;
                        self.closed(number, &closed.to_string())?;
                    }
                }
            }
        }
        let numbers: Vec<u64> = self.members.keys().copied().collect();
        numbers.into_iter().try_for_each(|number| self.read(number))
    }

    fn read(&mut self, number: u64) -> Result<(), NodeError> {
        let mut messages = Vec::new();
        let Some(member) = self.members.get_mut(&number) else { return Ok(()) };
        let result = member.link.receive(&mut messages);
        if !messages.is_empty() {
            member.last_heard_ns = monotonic_now();
        }
        for message in messages {
            self.hear(number, message)?;
        }
        match result {
            Ok(()) => Ok(()),
            Err(closed) => self.closed(number, &closed.to_string()),
        }
    }

    fn hear(&mut self, number: u64, message: ToDriver) -> Result<(), NodeError> {
        let Some(member) = self.members.get_mut(&number) else { return Ok(()) };
        match (member.stage, message) {
            (Joining::Connected, ToDriver::Hello { cores, process }) => {
                member.cores = cores;
                member.process = process;
                self.welcome(number)
            }
            (Joining::Connected, _) => {
                let line = format!("{} did not greet as a worker does", member.name());
                self.turn_away(number, &line)
            }
            (_, ToDriver::Heartbeat { sent_ns, status }) => {
                member.status = status;
                let driver_ns = monotonic_now();
                let answer = ToWorker::HeartbeatAnswer { sent_ns, driver_ns };
                // That it is gone, reading tells, after what it said last.
                let _ = match member.stage {
                    Joining::Ready => member.link.send_quietly(answer),
                    Joining::Connected | Joining::Welcomed | Joining::Joined => {
                        member.link.send(answer)
                    }
                };
                Ok(())
            }
            (Joining::Welcomed, ToDriver::Joined { fingerprint, data_address, runtime }) => {
                member.runtime = runtime;
                member.address = Some(data_address);
                self.joined(number, fingerprint)
            }
            (Joining::Welcomed | Joining::Joined, ToDriver::CannotJoin { reason }) => {
                let line = format!("{} could not join: {reason}", member.name());
                self.turn_away(number, &line)
            }
            (Joining::Joined, ToDriver::Ready) => {
                member.stage = Joining::Ready;
                let worker = member.worker;
                let (incarnation, cores) = (member.incarnation, member.cores);
                self.ready.insert(worker, number);
                self.tell(DriverEvent::WorkerReady { worker, incarnation, cores });
                Ok(())
            }
            (Joining::Ready, ToDriver::Report(report)) => {
                self.tell(DriverEvent::Message(report));
                Ok(())
            }
            (Joining::Ready, ToDriver::Results { rows }) => {
                self.observer.results(&rows);
                Ok(())
            }
            (Joining::Ready, ToDriver::Finished(report)) => {
                let worker = member.worker;
                self.finals.insert(worker, *report);
                self.check_finished();
                Ok(())
            }
            (_, ToDriver::PeerLost { worker, incarnation, reason }) => {
                self.peer_lost(Life { worker, incarnation }, reason);
                Ok(())
            }
            (_, ToDriver::Failed { reason }) => {
                let reason = format!("{}: {reason}", member.name());
                Err(NodeError::Job(reason))
            }
            (_, other) => {
                let line = format!("{} broke the protocol with {other:?}", member.name());
                self.turn_away(number, &line)
            }
        }
    }

    /// Who has no connection to the driver any more was lost when that ended.
    fn peer_lost(&mut self, life: Life, reason: String) {
        let Life { worker, incarnation } = life;
        let is_it = |m: &Member| m.worker == worker && m.incarnation == incarnation;
        let mut members = self.members.values();
        let is_here = members.any(|m| m.stage != Joining::Connected && is_it(m));
        if matches!(self.phase, Phase::Gathering | Phase::Running) && is_here {
            self.tell(DriverEvent::WorkerLost { worker, incarnation, reason });
        }
    }

    /// A connection is gone.
    fn closed(&mut self, number: u64, reason: &str) -> Result<(), NodeError> {
        let Some(member) = self.members.get(&number) else { return Ok(()) };
        let name = member.name();
        match (&self.phase, member.stage) {
            (_, Joining::Connected) => {
                self.members.remove(&number);
                Ok(())
            }
            (Phase::Gathering, _) => {
                self.turn_away(number, &format!("{name} left before the job began: {reason}"))
            }
            (Phase::Finishing | Phase::Done, _) if self.finals.contains_key(&member.worker) => {
                self.members.remove(&number);
                Ok(())
            }
            _ => Err(NodeError::Job(format!(
                "{name} is lost: {reason}; the job ends, because it cannot recover yet"
            ))),
        }
    }

    fn tell(&mut self, event: DriverEvent) {
        let began = monotonic_now();
        self.driver.handle(Instant(began), event, &mut self.actions);
        self.report.driver_schedule_ns += monotonic_now() - began;
    }

    fn perform(&mut self) -> Result<(), NodeError> {
        if self.actions.is_empty() {
            return Ok(());
        }
        let began = monotonic_now();
        let performed = self.perform_actions();
        self.report.driver_schedule_ns += monotonic_now() - began;
        performed
    }

    fn perform_actions(&mut self) -> Result<(), NodeError> {
        for action in std::mem::take(&mut self.actions) {
            match action {
                DriverAction::Send { to, message } => {
                    self.count(&message);
                    let number = self.ready.get(&to);
                    let number = *number.expect("the driver knows only workers that are ready");
                    self.send(number, ToWorker::Order(message))?;
                }
                DriverAction::GroupDone { statistics, .. } => {
                    self.report.statistics.merge(&statistics);
                }
                DriverAction::Finished { last_batch } => self.finish(last_batch)?,
                DriverAction::Failed { reason } => {
                    self.phase = Phase::Failed(self.with_name(reason));
                }
                DriverAction::ReadJournal
                | DriverAction::Append(_)
                | DriverAction::Drained { .. }
                | DriverAction::Deposed => {
                    unreachable!("{action:?} of a driver without a journal that nobody drains")
                }
            }
        }
        Ok(())
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
            member.stage == Joining::Ready && reason.starts_with(&format!("{} ", member.worker))
        });
        match named {
            Some(member) => reason.replacen(&member.worker.to_string(), &member.name(), 1),
            None => reason,
        }
    }

    fn finish(&mut self, last_batch: BatchId) -> Result<(), NodeError> {
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
        let numbers = self.joined_numbers();
        numbers.into_iter().try_for_each(|number| self.send(number, ToWorker::Finish))
    }

    /// Whether a source waits for the start of its batches.
    fn is_live(&self) -> bool {
        let mut stages = self.job.plan().stages.iter();
        stages.any(|stage| stage.kind == StageKind::Source(Pacing::Clock))
    }

    fn check_finished(&mut self) {
        if self.finals.len() < self.report.workers as usize {
            return;
        }
        for report in self.finals.values() {
            for (name, count) in &report.counters {
                *self.report.counters.entry(name.clone()).or_default() += count;
            }
            self.report.control_cpu_ns += report.control_cpu_ns;
            self.report.cores_cpu_ns += report.cores_cpu_ns;
            self.report.task_cpu_ns += report.task_cpu_ns;
            self.report.idle_poll_ns += report.idle_poll_ns;
            self.report.costs.add(&report.costs);
            self.report.control_calls.add(&report.control_calls);
        }
        self.report.driver_cpu_ns = thread_cpu_ns() - self.cpu_before_ns;
        self.report.control_cpu_ns += self.report.driver_cpu_ns;
        self.report.control_calls.add(&self.io.calls());
        self.phase = Phase::Done;
    }

    fn send(&mut self, number: u64, message: ToWorker) -> Result<(), NodeError> {
        let Some(member) = self.members.get_mut(&number) else { return Ok(()) };
        let result = member.link.send(message);
        member.link.drive(&mut *self.io);
        match result {
            Ok(()) => Ok(()),
            Err(closed) => self.closed(number, &closed.to_string()),
        }
    }

    /// Tells every worker that it is over, and gives the messages time to leave.
    fn abort(&mut self, reason: &str) {
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

/// Gives what was sent to a member time to leave, within reason.
/// What completes for others meanwhile is kept for them.
fn flush(io: &mut dyn Io, number: u64, member: &mut Member, others: &mut Vec<Completion>) {
    let limit = monotonic_now() + 300_000_000;
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
