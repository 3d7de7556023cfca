//! The worker node: a control loop beside the cores. It joins the driver, builds the job, connects
//! to its peers ([`joining`]), starts the cores ([`crew`]), and from then on passes messages and sends
//! heartbeats ([`running`]). It may lose its driver and find another ([`tie`]), and one life and begin
//! another ([`lives`]).
//!
//! It is a plain `step` that does not wait. A worker with threads of its own steps and parks
//! ([`WorkerLoop::run`]); a light one shares its thread, and is stepped in turn with others
//! ([`super::light`]).

mod crew;
mod joining;
mod lives;
mod running;
mod tie;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::{Incarnation, Life, Term, WorkerId};

use crate::clock::{ClockSample, DriverClock, monotonic_now};
use crate::core::ClockOffset;
use crate::host::{Cpus, Meter, Neighbours};
use crate::io::{self, Completion, Io, IoKind, Outcome};
use crate::node::connect::{Exposure, Greetings};
use crate::node::{HEARTBEAT_NS, JobFactory, NodeError, SILENCE_NS};
use crate::storage::Desk;
use crate::transport::{Closed, Connection, Endpoint, Mesh};
use crate::wire::{ToDriver, ToWorker, WorkerStatus};

use joining::{Built, FIRST_SAMPLES, Meeting};
pub use lives::run_worker;
use running::Running;
use tie::Tie;

/// The link of a worker to its driver.
pub(crate) type DriverLink = Endpoint<ToDriver, ToWorker>;

/// How long a worker should look for a driver that is lost: whoever starts another one may be a person.
pub const DRIVER_PATIENCE: Duration = Duration::from_secs(60);

/// How a worker process is started.
#[derive(Clone)]
pub struct WorkerConfig {
    /// How many cores it offers.
    pub cores: u16,
    /// The processors of this host, asked for in `main`.
    pub cpus: Cpus,
    /// What may be reached from other hosts.
    pub exposure: Exposure,
    /// Builds the job from the flags that the driver sends.
    pub factory: JobFactory,
    /// How long it looks for a driver that is lost, if the job outlives that.
    pub patience: Duration,
    /// Something that a person should read now, in one line.
    pub notice: fn(&str),
}

/// What runs a worker's cores.
pub(crate) enum Ground {
    /// Threads of their own.
    OwnThreads,
    /// The thread of the control loop, which others share, and its meter.
    Shared(Neighbours, Meter),
}

/// Where a worker's peers are.
#[derive(Clone)]
pub(crate) enum Peers {
    /// In this process: their cores meet in this mesh.
    Threads(Arc<Mesh>),
    /// In processes of their own.
    Processes,
}

/// A driver of IO for a control loop. It is up before the job's flags are known, and moves a few
/// messages a second, so it is epoll everywhere; what the cores use is chosen and said.
pub(crate) fn open_control_io() -> Result<Box<dyn Io>, NodeError> {
    io::open(IoKind::Epoll).map_err(NodeError::io("cannot set up epoll"))
}

/// A worker's control loop: what it has at hand in every stage of its life.
pub(crate) struct WorkerNode {
    config: WorkerConfig,
    ground: Ground,
    link: DriverLink,
    /// Tells the operations of this link to the driver from those of earlier ones.
    link_number: u64,
    tie: Tie,
    /// Where a driver is looked for.
    address: Option<SocketAddr>,
    /// It ended because there was no driver any more.
    has_lost_driver: bool,
    /// The driver that it follows.
    term: Term,
    life: Life,
    /// What a driver that does not know it is told, once it has built the job.
    introduction: Option<Introduction>,
    /// Whether the job goes on when others are lost. Not known before it is built, or a driver says so.
    is_durable: bool,
    /// What the next driver must be told.
    unsaid: Vec<ToDriver>,
    /// Connections to peers that are being made.
    greetings: Option<Greetings>,
    /// The driver, for messages that people read.
    peer: String,
    io: Box<dyn Io>,
    peers: Peers,
    local_ip: IpAddr,
    /// Where the job's snapshots lie, once the job is known, if anything outlives a process.
    storage: Option<Desk>,
    clock: DriverClock,
    /// That of a new driver, which has not told its time yet.
    next_clock: Option<DriverClock>,
    /// The time of a new driver is asked for, one question after the other.
    is_settling: bool,
    offset: ClockOffset,
    last_heard_ns: u64,
    last_looked_ns: u64,
    next_heartbeat_ns: u64,
    completions: Vec<Completion>,
    messages: Vec<ToWorker>,
    /// How often the driver has told its time, and which answer is waited for before the job starts.
    samples: u32,
    asked: u32,
}

/// What the driver said at the beginning.
struct Identity {
    term: Term,
    worker: WorkerId,
    incarnation: Incarnation,
}

/// What a worker has told its driver of itself.
struct Introduction {
    fingerprint: u64,
    data_address: SocketAddr,
    runtime: String,
}

/// A worker, from its greeting to its end. A step never waits.
pub(crate) struct WorkerLoop {
    node: WorkerNode,
    stage: Stage,
    /// It has run tasks, or was ready to.
    was_at_work: bool,
}

/// How far a worker is in its life.
enum Stage {
    /// It has not said a word.
    New,
    /// It has greeted, and waits to be welcomed.
    Greeted,
    /// It has a number, and the flags to build the job from.
    Welcomed(Identity, Vec<String>),
    /// It has built the job, and waits to hear of its peers.
    Built(Box<Built>),
    /// Its peers are calling.
    Meeting(Box<Meeting>),
    /// Its cores are up; it asks for the driver's time until that is known well enough.
    Settling(Box<Running>),
    /// It runs tasks.
    Running(Box<Running>),
    /// It has reported everything, and waits until the driver hangs up, which that does when it has heard
    /// from every worker: whoever leaves first makes the other's last message fail.
    Lingering { limit_ns: u64 },
    /// It has ended.
    Over,
}

/// What a step came to.
pub(crate) enum Step {
    /// There may be more to do at once.
    Again,
    /// There is nothing to do until then, unless somebody wakes it.
    Until(u64),
    /// The worker has ended.
    Over,
    /// This life of it has: it may begin another one.
    Left,
}

/// A thread that drops its end of a channel wakes nobody: a worker that lingers looks so often.
const LINGER_LOOK_NS: u64 = 2_000_000;

impl WorkerLoop {
    pub(crate) fn new(node: WorkerNode) -> WorkerLoop {
        WorkerLoop { node, stage: Stage::New, was_at_work: false }
    }

    /// Steps until the worker has ended, on the calling thread.
    pub(crate) fn run(mut self) -> Result<(), NodeError> {
        self.run_life().map(drop)
    }

    /// Steps until this life of the worker has ended.
    fn run_life(&mut self) -> Result<Step, NodeError> {
        loop {
            match self.step()? {
                Step::Again => {}
                Step::Until(until_ns) => self.node.park(until_ns),
                ended @ (Step::Over | Step::Left) => return Ok(ended),
            }
        }
    }

    /// Does what can be done without waiting. After an error it has ended.
    pub(crate) fn step(&mut self) -> Result<Step, NodeError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let is_welcome = !matches!(stage, Stage::New | Stage::Greeted);
        match self.advance(stage) {
            Ok((stage, Step::Until(until_ns))) => {
                self.stage = stage;
                Ok(Step::Until(self.node.wake_at(until_ns)))
            }
            Ok((stage, step)) => {
                self.stage = stage;
                Ok(step)
            }
            Err(error) => {
                if is_welcome && !self.node.has_lost_driver {
                    self.node.tell_failure(&error);
                }
                self.node.io.close(&mut self.node.completions);
                if self.node.has_lost_driver && self.node.is_durable {
                    (self.node.config.notice)(&error.to_string());
                    return Ok(Step::Left);
                }
                Err(error)
            }
        }
    }

    /// What the loop waits on between two steps.
    pub(crate) fn io(&mut self) -> &mut dyn Io {
        &mut *self.node.io
    }

    fn advance(&mut self, stage: Stage) -> Result<(Stage, Step), NodeError> {
        let node = &mut self.node;
        match stage {
            Stage::New => {
                let cores = node.config.cores;
                node.send(ToDriver::Hello { cores, process: std::process::id() })?;
                Ok((Stage::Greeted, Step::Again))
            }
            Stage::Greeted => node.welcomed(),
            Stage::Welcomed(identity, arguments) => node.build_job(identity, &arguments),
            Stage::Built(built) => node.introduced(built),
            Stage::Meeting(meeting) => node.meet(meeting),
            Stage::Settling(running) => node.settle_clock(running),
            Stage::Running(running) => {
                self.was_at_work = true;
                node.work(running)
            }
            Stage::Lingering { limit_ns } => {
                let now = monotonic_now();
                if now < limit_ns && node.pump_io().is_ok() {
                    node.messages.clear();
                    let stage = Stage::Lingering { limit_ns };
                    return Ok((stage, Step::Until(now + LINGER_LOOK_NS)));
                }
                node.io.close(&mut node.completions);
                Ok((Stage::Over, Step::Over))
            }
            Stage::Over => Ok((Stage::Over, Step::Over)),
        }
    }
}

impl WorkerNode {
    pub(crate) fn new(
        config: &WorkerConfig,
        link: DriverLink,
        io: Box<dyn Io>,
        peers: Peers,
        local_ip: IpAddr,
        ground: Ground,
    ) -> WorkerNode {
        WorkerNode {
            config: config.clone(),
            ground,
            peer: link.peer(),
            link,
            link_number: 0,
            tie: Tie::ForLife,
            address: None,
            has_lost_driver: false,
            term: Term(0),
            life: Life { worker: WorkerId(0), incarnation: Incarnation(0) },
            introduction: None,
            is_durable: false,
            unsaid: Vec::new(),
            greetings: None,
            io,
            peers,
            local_ip,
            storage: None,
            clock: DriverClock::new(),
            next_clock: None,
            is_settling: false,
            offset: ClockOffset::default(),
            last_heard_ns: monotonic_now(),
            last_looked_ns: monotonic_now(),
            next_heartbeat_ns: u64::MAX,
            completions: Vec::new(),
            messages: Vec::new(),
            samples: 0,
            asked: 0,
        }
    }

    /// Tells the driver why this worker ends, if it is still there and does not know.
    fn tell_failure(&mut self, error: &NodeError) {
        let message = match error {
            NodeError::Aborted(_) => return,
            NodeError::Setup(reason) => ToDriver::CannotJoin { reason: reason.clone() },
            NodeError::Job(reason) if !self.is_durable => {
                ToDriver::Failed { reason: reason.clone() }
            }
            // Others can do without this worker.
            NodeError::Job(reason) => match self.tie {
                Tie::ForLife => ToDriver::CannotJoin { reason: reason.clone() },
                Tie::Whole | Tie::Broken { .. } | Tie::Greeted { .. } => return,
            },
        };
        if self.send(message).is_ok() {
            self.flush();
        }
    }

    fn take_message(&mut self) -> Option<ToWorker> {
        (!self.messages.is_empty()).then(|| self.messages.remove(0))
    }

    /// Moves what can be moved without waiting.
    fn pump(&mut self) -> Result<(), NodeError> {
        self.heartbeat(WorkerStatus::default())?;
        self.pump_io()
    }

    fn pump_io(&mut self) -> Result<(), NodeError> {
        self.look_for_driver()?;
        if !matches!(self.tie, Tie::Broken { .. }) {
            self.link.drive(&mut *self.io);
        }
        self.io.poll(&mut self.completions);
        let mut closed = Ok(());
        for Completion { token, outcome } in std::mem::take(&mut self.completions) {
            closed = closed.and(self.completed(token, outcome));
        }
        if let Some(greetings) = &mut self.greetings {
            greetings.step(&mut *self.io);
        }
        if matches!(self.tie, Tie::Broken { .. }) {
            return Ok(());
        }
        let first = self.messages.len();
        let closed = closed.and_then(|()| self.link.receive(&mut self.messages));
        if self.messages.len() > first {
            self.last_heard_ns = monotonic_now();
        }
        self.take_answers();
        // What came before the end still counts: it may say why.
        if let Err(closed) = closed
            && self.messages.is_empty()
        {
            return self.driver_lost(&closed.to_string());
        }
        self.link.drive(&mut *self.io);
        self.check_silence()
    }

    /// Brings an outcome to whom it belongs.
    fn completed(&mut self, token: io::Token, outcome: Outcome) -> Result<(), Closed> {
        match (outcome, &mut self.greetings) {
            (Outcome::Accepted(accepted), Some(greetings)) => {
                greetings.accepted(accepted);
                Ok(())
            }
            (Outcome::Accepted(_), None) => Ok(()),
            (outcome, _) if Connection::number_of(token) == self.link_number => {
                self.link.completed(outcome)
            }
            // Of a link that was given up.
            (_, _) => Ok(()),
        }
    }

    /// The driver is lost if it says nothing for too long, unless it was we who did not listen.
    fn check_silence(&mut self) -> Result<(), NodeError> {
        let (now, silence_ns) = (monotonic_now(), self.silence_ns());
        if now - self.last_looked_ns > SILENCE_NS / 4 {
            self.last_heard_ns = now;
        }
        self.last_looked_ns = now;
        match now.saturating_sub(self.last_heard_ns) > silence_ns {
            true => {
                let seconds = silence_ns as f64 / 1e9;
                self.driver_lost(&format!("it has been silent for {seconds} s"))
            }
            false => Ok(()),
        }
    }

    fn take_answers(&mut self) {
        let received = monotonic_now();
        let mut answers = Vec::new();
        self.messages.retain(|message| match message {
            ToWorker::HeartbeatAnswer { sent_ns, driver_ns } => {
                answers.push(ClockSample { sent: *sent_ns, driver_now: *driver_ns, received });
                false
            }
            ToWorker::Welcome { .. }
            | ToWorker::Wait
            | ToWorker::Refused { .. }
            | ToWorker::Peers { .. }
            | ToWorker::Order(_)
            | ToWorker::Finish
            | ToWorker::Abort { .. }
            | ToWorker::Back { .. }
            | ToWorker::Answer { .. } => true,
        });
        for sample in answers {
            self.settle_again();
            self.clock.add(sample);
            self.samples += 1;
        }
        // Threads of one process share the clock; there is nothing to estimate.
        if matches!(self.link, Endpoint::Stream(_)) {
            let driver_ns = self.clock.at(received);
            self.offset.set(driver_ns.wrapping_sub(received) as i64);
        }
    }

    fn heartbeat(&mut self, status: WorkerStatus) -> Result<(), NodeError> {
        let now = monotonic_now();
        if now < self.next_heartbeat_ns {
            return Ok(());
        }
        // All workers of a host at the same time: the driver wakes once for all of them.
        self.next_heartbeat_ns = (now / HEARTBEAT_NS + 1) * HEARTBEAT_NS;
        let heartbeat = ToDriver::Heartbeat { sent_ns: now, status };
        if self.samples < FIRST_SAMPLES {
            return self.send(heartbeat); // It waits for the answer.
        }
        match self.link.send_quietly(heartbeat) {
            Ok(()) => self.link.drive(&mut *self.io),
            Err(closed) => self.driver_lost(&closed.to_string())?,
        }
        Ok(())
    }

    /// Says something to the driver. Where there is none, nobody hears it.
    fn send(&mut self, message: ToDriver) -> Result<(), NodeError> {
        if !self.has_driver() {
            return Ok(());
        }
        match self.link.send(message) {
            Ok(()) => self.link.drive(&mut *self.io),
            Err(closed) => self.driver_lost(&closed.to_string())?,
        }
        Ok(())
    }

    /// From now on the worker needs no driver that is lost.
    fn end_tie(&mut self) {
        self.tie = Tie::ForLife;
        self.last_heard_ns = monotonic_now();
    }

    /// Waits until what was sent is on its way, within reason.
    fn flush(&mut self) {
        let limit = monotonic_now() + 500_000_000;
        while !self.link.is_flushed() && monotonic_now() < limit && self.pump_io().is_ok() {
            self.park(limit);
        }
    }

    /// When to step again although nothing comes, if the stage wants that at `until_ns`.
    fn wake_at(&self, until_ns: u64) -> u64 {
        let greetings_ns = self.greetings.as_ref().map_or(u64::MAX, Greetings::wake_at_ns);
        until_ns.min(self.next_heartbeat_ns).min(self.tie_wakes_at()).min(greetings_ns)
    }

    fn park(&mut self, until_ns: u64) {
        let timeout = self.wake_at(until_ns).saturating_sub(monotonic_now());
        self.io.park(Some(Duration::from_nanos(timeout)));
    }
}

fn lost(peer: &str, reason: &str) -> NodeError {
    NodeError::Job(format!("the driver at {peer} is lost: {reason}; the job ends here"))
}

fn ended_by(message: ToWorker) -> NodeError {
    match message {
        ToWorker::Refused { reason } => NodeError::Setup(reason),
        ToWorker::Abort { reason } => NodeError::Aborted(reason),
        other => NodeError::Job(format!("the driver broke the protocol: {other:?}")),
    }
}
