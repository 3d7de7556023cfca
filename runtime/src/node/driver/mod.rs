//! The driver node: takes workers in, turns their messages into events for the `Driver` state
//! machine, and its actions into messages ([`performing`]). How workers join is in [`joining`], how they
//! are lost in [`losing`], what depends on time alone in [`watch`], the journal in [`journal`].

mod changes;
mod children;
mod joining;
mod journal;
mod losing;
mod observer;
mod performing;
mod roles;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::attempts::Attempts;
use drizzle_scheduler::bugs::Bugs;
use drizzle_scheduler::driver::{
    Adaptation, Balance, Driver, DriverAction, DriverEvent, DriverOptions, Durability, GroupSize,
};
use drizzle_scheduler::plan::Prescheduling;
use drizzle_scheduler::{CoreId, Incarnation, Life, Term, WorkerId};

use crate::clock::monotonic_now;
use crate::dataflow::Job;
use crate::io::{Completion, Io, Op, Outcome, Token};
use crate::node::connect::{Exposure, check_exposure, listen};
use crate::node::member::{Member, Stage, WorkerLink};
use crate::node::{ANSWER_NS, DURABLE_ANSWER_NS, JobDurability, JobReport, NodeError, StopFlag};
use crate::transport::{Connection, Endpoint};
use crate::wire::{ToDriver, ToWorker};

use changes::Changes;
pub(crate) use children::{Children, StartWorker};
pub use journal::check_folder;
use journal::{Keeper, Opening};
use losing::Complaints;
pub use observer::{Change, ClusterEvent, Observer, ProgressReport};
use watch::Watch;

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
    /// How often a task may be tried that panics, where the job goes on after that.
    pub task_attempts: NonZeroU32,
    /// What outlives a process. The same as in the job's own options.
    pub durability: JobDurability,
    /// Whether partitions leave slow cores: only where partitions can move, which takes a folder.
    pub balance: Balance,
    /// Whether to go on with an earlier run that its folder holds; without, such a folder is refused.
    pub resume: bool,
    /// A savepoint to start from, where its folder holds no run yet.
    pub savepoint: Option<PathBuf>,
    /// The job and its flags, for workers to build it from.
    pub arguments: Vec<String>,
}

/// How often a task that panics should be tried: once for what was an accident, and once more.
pub const TASK_ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).expect("it is not zero");

/// How workers reach the driver.
pub(crate) enum Doors<'a> {
    /// They are threads of this process.
    Threads(Vec<WorkerLink>),
    /// They connect here; some may be children of this process.
    Listener(TcpListener, Children<'a>),
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
    let doors = Doors::Listener(listener, Children::of(children));
    let io = crate::node::worker::open_control_io()?;
    DriverNode::new(config, job, io, doors, observer, stop)?.run()
}

/// A driver at work.
pub(crate) struct DriverNode<'a> {
    config: &'a DriverConfig,
    job: &'a Job,
    io: Box<dyn Io>,
    observer: &'a mut dyn Observer,
    stop: &'a StopFlag,
    term: Term,
    driver: Driver,
    /// Where there is a journal: who keeps it.
    keeper: Option<Keeper>,
    /// The state machine has been told to read the journal.
    has_begun: bool,
    /// Workers of an earlier driver that may still come back.
    expected: BTreeSet<Life>,
    /// By connection number.
    members: BTreeMap<u64, Member>,
    next_number: u64,
    /// The connections of workers that are ready.
    ready: BTreeMap<WorkerId, u64>,
    /// Connections that were found broken when something was sent.
    broken: Vec<(u64, String)>,
    complaints: Complaints,
    attempts: Attempts,
    /// How many workers there should be.
    wanted: u32,
    /// Workers that are to leave.
    draining: BTreeSet<WorkerId>,
    listener: Option<Arc<TcpListener>>,
    accepting: bool,
    children: Children<'a>,
    actions: Vec<DriverAction>,
    /// What completed for others while one connection was flushed.
    deferred: Vec<Completion>,
    phase: Phase,
    report: JobReport,
    changes: Changes,
    watch: Watch,
    next_incarnation: Incarnation,
    /// No worker has been on another host so far.
    all_were_here: bool,
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
    /// Another driver has taken over.
    Deposed,
    /// Everything is reported.
    Done,
}

const ACCEPT: Token = 1 << 40;
/// Connections that may be open at the same time, beyond those of workers at work.
const MAX_STRANGERS: usize = 64;
/// How long children may take to end after a job that failed, and after one that went well.
const FAILED_CHILDREN_NS: u64 = 200_000_000;
const CHILDREN_NS: u64 = 2_000_000_000;

impl<'a> DriverNode<'a> {
    pub(crate) fn new(
        config: &'a DriverConfig,
        job: &'a Job,
        io: Box<dyn Io>,
        mut doors: Doors<'a>,
        observer: &'a mut dyn Observer,
        stop: &'a StopFlag,
    ) -> Result<DriverNode<'a>, NodeError> {
        let opening = Opening::new(config, job.plan(), io.waker()).inspect_err(|_| {
            if let Doors::Listener(_, children) = &mut doors {
                children.end(0);
            }
        })?;
        opening.notices.iter().for_each(|line| observer.notice(line));
        let now_ns = monotonic_now();
        let mut node = DriverNode {
            config,
            job,
            io,
            observer,
            stop,
            term: opening.term,
            driver: Driver::new(job.plan().clone(), options(config, &opening, &doors)),
            keeper: opening.keeper,
            has_begun: false,
            expected: BTreeSet::new(),
            members: BTreeMap::new(),
            next_number: 1,
            ready: BTreeMap::new(),
            broken: Vec::new(),
            complaints: Complaints::default(),
            attempts: Attempts::new(config.task_attempts),
            wanted: config.workers,
            draining: BTreeSet::new(),
            listener: None,
            accepting: false,
            children: Children::of(Vec::new()),
            actions: Vec::new(),
            deferred: Vec::new(),
            phase: Phase::Gathering,
            report: JobReport { resumed: opening.is_resumed, ..JobReport::default() },
            changes: Changes::new(!opening.expected.is_empty()),
            watch: Watch::new(now_ns),
            next_incarnation: opening.next_incarnation,
            all_were_here: true,
            began_ns: 0,
            cpu_before_ns: 0,
        };
        match doors {
            Doors::Threads(links) => links.into_iter().for_each(|link| node.admit(link)),
            Doors::Listener(listener, children) => {
                node.listener = Some(Arc::new(listener));
                node.children = children;
                // Those of an earlier driver come back to an address that they know.
                if node.children.are_none() {
                    node.expected = opening.expected.into_iter().collect();
                }
            }
        }
        Ok(node)
    }

    pub(crate) fn run(mut self) -> Result<JobReport, NodeError> {
        let result = self.work();
        if self.phase == Phase::Deposed {
            // The workers are the other's.
            self.io.close(&mut Vec::new());
            return result.map(|()| self.report);
        }
        if let Err(error) = &result {
            self.abort(&error.to_string());
        }
        self.io.close(&mut Vec::new());
        self.members.clear();
        self.children.end(if result.is_ok() { CHILDREN_NS } else { FAILED_CHILDREN_NS });
        result.map(|()| self.report)
    }

    fn work(&mut self) -> Result<(), NodeError> {
        // Workers that nobody can have but this driver are all waited for; then they get tasks together.
        if self.listener.is_some() && self.children.are_none() {
            self.begin();
        }
        loop {
            self.pump_io()?;
            self.take_answers()?;
            self.look_around()?;
            for (number, reason) in std::mem::take(&mut self.broken) {
                self.closed(number, &reason)?;
            }
            match &self.phase {
                Phase::Failed(reason) => return Err(NodeError::Job(reason.clone())),
                Phase::Deposed => return Err(NodeError::Job(self.farewell())),
                Phase::Done => return Ok(()),
                Phase::Gathering | Phase::Running | Phase::Finishing => {}
            }
            self.members.values_mut().for_each(|member| member.link.drive(&mut *self.io));
            let timeout = self.look_at_ns().saturating_sub(monotonic_now());
            self.io.park(Some(Duration::from_nanos(timeout)));
        }
    }

    fn admit(&mut self, link: WorkerLink) {
        self.members.insert(self.next_number, Member::new(link, monotonic_now()));
        self.next_number += 1;
    }

    fn pump_io(&mut self) -> Result<(), NodeError> {
        let at_work = self.ready.len().max(self.config.workers as usize);
        let room = self.members.len() < at_work + MAX_STRANGERS;
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
        if !messages.is_empty() && member.stage != Stage::Lost {
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
        let can_recover = self.can_recover();
        let Some(member) = self.members.get_mut(&number) else { return Ok(()) };
        match (member.stage, message) {
            (Stage::Lost, _) => Ok(()),
            (Stage::Connected, first) => self.hear_first(number, first),
            (_, ToDriver::Heartbeat { sent_ns, status }) => {
                member.status = status;
                answer_heartbeat(member, sent_ns);
                Ok(())
            }
            (Stage::Welcomed, ToDriver::Joined { fingerprint, data_address, runtime }) => {
                member.runtime = runtime;
                member.address = Some(data_address);
                self.joined(number, fingerprint)
            }
            (Stage::Welcomed | Stage::Joined, ToDriver::CannotJoin { reason }) => {
                let line = format!("{} could not join: {reason}", member.name());
                self.turn_away(number, &line)
            }
            (Stage::Joined, ToDriver::Ready) => {
                self.ready(number);
                Ok(())
            }
            (Stage::Ready | Stage::Finishing, ToDriver::Report(report)) => {
                self.observe_report(&report);
                self.tell(DriverEvent::Message(report));
                Ok(())
            }
            (Stage::Ready | Stage::Finishing, ToDriver::Results { rows }) => {
                self.observer.results(&rows);
                Ok(())
            }
            (Stage::Finishing, ToDriver::Finished(report)) => {
                self.take_final(number, &report);
                Ok(())
            }
            (_, ToDriver::PeerLost { worker, incarnation, reason }) => {
                self.peer_lost(number, Life { worker, incarnation }, reason);
                Ok(())
            }
            (Stage::Ready | Stage::Finishing, ToDriver::Regained { core, epoch, what }) => {
                let worker = member.worker;
                self.regained(CoreId { worker, core }, epoch, what);
                Ok(())
            }
            (_, ToDriver::Panicked(panic)) => self.task_panicked(number, panic),
            (_, ToDriver::Notice { line }) => {
                self.observer.notice(&format!("{}: {line}", member.name()));
                Ok(())
            }
            (_, ToDriver::Failed { reason }) => {
                let reason = format!("{}: {reason}", member.name());
                Err(NodeError::Job(reason))
            }
            // It does not know yet that there is nothing to do.
            (Stage::Finished, _) => Ok(()),
            (_, other) => {
                let what = format!("broke the protocol with {other:?}");
                if member.stage == Stage::Ready && can_recover {
                    return self.part_with(number, &format!("it {what}"));
                }
                let line = format!("{} {what}", member.name());
                self.turn_away(number, &line)
            }
        }
    }

    /// What comes first on a connection says who calls.
    fn hear_first(&mut self, number: u64, message: ToDriver) -> Result<(), NodeError> {
        match message {
            ToDriver::Hello { cores, process } => self.greeted(number, cores, process),
            ToDriver::Return(worker) => self.returned(number, worker),
            ToDriver::Ask(request) => self.asked(number, request),
            ToDriver::Joined { .. }
            | ToDriver::CannotJoin { .. }
            | ToDriver::Ready
            | ToDriver::Report(_)
            | ToDriver::Heartbeat { .. }
            | ToDriver::Results { .. }
            | ToDriver::PeerLost { .. }
            | ToDriver::Regained { .. }
            | ToDriver::Notice { .. }
            | ToDriver::Failed { .. }
            | ToDriver::Panicked(_)
            | ToDriver::Finished(_) => {
                let line =
                    format!("{} did not greet as a worker does", self.members[&number].name());
                self.turn_away(number, &line)
            }
        }
    }

    /// Whether the job goes on when a worker is lost. Threads of this process do not come back.
    fn can_recover(&self) -> bool {
        self.keeper.is_some() && self.listener.is_some()
    }

    /// Why a driver that has been deposed ends.
    fn farewell(&self) -> String {
        self.keeper.as_ref().map_or_else(String::new, Keeper::farewell)
    }
}

fn options(config: &DriverConfig, opening: &Opening, doors: &Doors<'_>) -> DriverOptions {
    DriverOptions {
        term: opening.term,
        workers: config.workers,
        group_size: GroupSize::Fixed(config.group_size),
        groups_in_flight: 2,
        interval_ns: config.interval.as_nanos() as u64,
        lead_ns: 5_000_000,
        rebase_after_ns: 10_000_000_000,
        prescheduling: config.prescheduling,
        durability: opening.durability,
        answer_timeout_ns: match (opening.durability, doors) {
            (Durability::Journal { .. }, Doors::Listener(..)) => DURABLE_ANSWER_NS,
            // Nobody could go on without a thread of this process.
            (Durability::None, _) | (Durability::Journal { .. }, Doors::Threads(_)) => ANSWER_NS,
        },
        ahead: config.ahead,
        balance: config.balance,
        adaptation: Adaptation::Off,
        bugs: Bugs::NONE,
    }
}

fn answer_heartbeat(member: &mut Member, sent_ns: u64) {
    let answer = ToWorker::HeartbeatAnswer { sent_ns, driver_ns: monotonic_now() };
    // That it is gone, reading tells, after what it said last.
    let _ = match member.stage {
        Stage::Ready => member.link.send_quietly(answer),
        Stage::Connected
        | Stage::Waiting
        | Stage::Welcomed
        | Stage::Joined
        | Stage::Finishing
        | Stage::Finished
        | Stage::Lost => member.link.send(answer),
    };
}
