//! The worker node: a control loop beside the cores. It joins the driver, builds the job, connects
//! to its peers, starts the cores ([`crew`]), and from then on passes messages and sends heartbeats
//! ([`running`]).

mod crew;
mod running;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::{Incarnation, Term, WorkerId};

use crate::clock::{ClockSample, DriverClock, monotonic_now};
use crate::core::{ClockOffset, LinkPlan};
use crate::host::Cpus;
use crate::io::{self, Capabilities, Chosen, Completion, Io, IoKind, choose};
use crate::node::connect::{Exposure, Greetings, check_exposure, listen};
use crate::node::memory::{Reach, WorkerShares};
use crate::node::results::WaitingRows;
use crate::node::{HEARTBEAT_NS, JobFactory, JobSetup, NodeError, Outlet, SILENCE_NS};
use crate::transport::{Connection, Endpoint, Mesh};
use crate::wire::{Peer, ToDriver, ToWorker, WorkerStatus};

use crew::{Crew, Surroundings};
use running::Running;

/// The link of a worker to its driver.
pub(crate) type DriverLink = Endpoint<ToDriver, ToWorker>;

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
    /// Something that a person should read now, in one line.
    pub notice: fn(&str),
}

/// Where a worker's peers are.
#[derive(Clone)]
pub(crate) enum Peers {
    /// In this process: their cores meet in this mesh.
    Threads(Arc<Mesh>),
    /// In processes of their own.
    Processes,
}

/// Joins the driver at `address` and works for it until the job is over.
pub fn run_worker(address: SocketAddr, config: &WorkerConfig) -> Result<(), NodeError> {
    check_exposure(address.ip(), config.exposure)?;
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5));
    let stream = stream.map_err(|error| {
        NodeError::Setup(format!(
            "cannot reach a driver at {address}: {error}; start one with: ysb driver --listen {address}"
        ))
    })?;
    let local = stream.local_addr().map_err(NodeError::io("cannot ask for the local address"))?;
    let connection = Connection::new(stream, 0).map_err(NodeError::io("cannot use the socket"))?;
    let io = open_control_io()?;
    let link = Endpoint::Stream(connection);
    WorkerNode::new(config, link, io, Peers::Processes, local.ip()).run()
}

/// A driver of IO for a control loop. It is up before the job's flags are known, and moves a few
/// messages a second, so it is epoll everywhere; what the cores use is chosen and said.
pub(crate) fn open_control_io() -> Result<Box<dyn Io>, NodeError> {
    io::open(IoKind::Epoll).map_err(NodeError::io("cannot set up epoll"))
}

/// A worker at work.
pub(crate) struct WorkerNode<'a> {
    config: &'a WorkerConfig,
    link: DriverLink,
    /// The driver, for messages that people read.
    peer: String,
    io: Box<dyn Io>,
    peers: Peers,
    local_ip: IpAddr,
    clock: DriverClock,
    offset: ClockOffset,
    last_heard_ns: u64,
    last_looked_ns: u64,
    next_heartbeat_ns: u64,
    completions: Vec<Completion>,
    messages: Vec<ToWorker>,
    /// How often the driver's time was asked for.
    samples: u32,
}

/// What the driver said at the beginning.
struct Identity {
    term: Term,
    worker: WorkerId,
    incarnation: Incarnation,
}

impl<'a> WorkerNode<'a> {
    pub(crate) fn new(
        config: &'a WorkerConfig,
        link: DriverLink,
        io: Box<dyn Io>,
        peers: Peers,
        local_ip: IpAddr,
    ) -> WorkerNode<'a> {
        WorkerNode {
            config,
            peer: link.peer(),
            link,
            io,
            peers,
            local_ip,
            clock: DriverClock::new(),
            offset: ClockOffset::default(),
            last_heard_ns: monotonic_now(),
            last_looked_ns: monotonic_now(),
            next_heartbeat_ns: u64::MAX,
            completions: Vec::new(),
            messages: Vec::new(),
            samples: 0,
        }
    }

    pub(crate) fn run(mut self) -> Result<(), NodeError> {
        let cores = self.config.cores;
        self.send(ToDriver::Hello { cores, process: std::process::id() })?;
        let (identity, arguments) = match self.next_message()? {
            ToWorker::Welcome { term, worker, incarnation, arguments } => {
                (Identity { term, worker, incarnation }, arguments)
            }
            other => return Err(ended_by(other)),
        };
        self.next_heartbeat_ns = monotonic_now();
        match self.start(&identity, &arguments) {
            Ok((crew, rows)) => Running::new(self, crew, rows).run(&identity),
            Err(error) => {
                self.tell_failure(&error);
                Err(error)
            }
        }
    }

    /// Builds the job, connects to the peers and starts the cores.
    fn start(
        &mut self,
        identity: &Identity,
        arguments: &[String],
    ) -> Result<(Crew, WaitingRows), NodeError> {
        let (outlet, rows) = Outlet::new(self.io.waker());
        let (setup, chosen) = self.build(arguments, &outlet).map_err(NodeError::Setup)?;
        drop(outlet);
        let listener = Arc::new(self.listen()?);
        let data_address = listener.local_addr().map_err(NodeError::io("no local address"))?;
        let fingerprint = setup.job.plan().fingerprint;
        (self.config.notice)(&format!("{}: {}", identity.worker, chosen.describe()));
        let runtime = chosen.name();
        self.send(ToDriver::Joined { fingerprint, data_address, runtime })?;
        let (cores_on_host, peers) = match self.next_message()? {
            ToWorker::Peers { cores_on_host, peers } => (cores_on_host, peers),
            other => return Err(ended_by(other)),
        };
        let links = self.connect(identity, &peers, listener)?;
        let shares = self.share_memory(&setup, identity.worker, &peers)?;
        rows.limit(shares.results_bytes());
        let around = Surroundings { cores_on_host, peers: &peers, links, shares };
        let crew = Crew::start(self, identity, setup, &chosen, around)?;
        self.settle_clock()?;
        self.send(ToDriver::Ready)?;
        Ok((crew, rows))
    }

    /// What each core may take of the worker's memory.
    fn share_memory(
        &self,
        setup: &JobSetup,
        worker: WorkerId,
        peers: &[Peer],
    ) -> Result<WorkerShares, NodeError> {
        let reach = match self.peers {
            Peers::Threads(_) => Reach::OneProcess,
            Peers::Processes => Reach::ManyProcesses,
        };
        let shares =
            WorkerShares::new(setup.options.memory, setup.job.plan(), worker, peers, reach);
        shares.map_err(|error| NodeError::Setup(error.to_string()))
    }

    /// Tells the driver why this worker ends, if it is still there and does not know.
    fn tell_failure(&mut self, error: &NodeError) {
        let message = match error {
            NodeError::Aborted(_) => return,
            NodeError::Setup(reason) => ToDriver::CannotJoin { reason: reason.clone() },
            NodeError::Job(reason) => ToDriver::Failed { reason: reason.clone() },
        };
        if self.send(message).is_ok() {
            self.flush();
        }
    }

    /// Builds the job and chooses host and IO, before any core is started.
    fn build(
        &mut self,
        arguments: &[String],
        outlet: &Outlet,
    ) -> Result<(JobSetup, Chosen), String> {
        let setup = (self.config.factory)(arguments, outlet)?;
        let options = &setup.options;
        let capabilities = Capabilities::probe();
        let cores = usize::from(self.config.cores);
        let chosen = choose(options.host, options.io, &capabilities, cores)?;
        Ok((setup, chosen))
    }

    fn listen(&self) -> Result<TcpListener, NodeError> {
        check_exposure(self.local_ip, self.config.exposure)?;
        listen(SocketAddr::new(self.local_ip, 0))
    }

    fn connect(
        &mut self,
        identity: &Identity,
        peers: &[Peer],
        listener: Arc<TcpListener>,
    ) -> Result<Vec<LinkPlan>, NodeError> {
        if matches!(self.peers, Peers::Threads(_)) {
            return Ok(Vec::new());
        }
        let own = peers.iter().find(|peer| peer.worker == identity.worker);
        let own = own.ok_or_else(|| NodeError::Job("the driver left us out".to_owned()))?;
        let mut greetings = Greetings::begin(own, peers, listener, open_control_io()?)?;
        let limit = monotonic_now() + 5_000_000_000;
        loop {
            self.pump()?;
            if let Some(message) = self.take_message() {
                return Err(ended_by(message));
            }
            if let Some(links) = greetings.step() {
                return Ok(links);
            }
            if monotonic_now() > limit {
                let missing: Vec<String> =
                    greetings.missing().iter().map(ToString::to_string).collect();
                let missing = missing.join(", ");
                return Err(NodeError::Job(format!("{missing} did not connect within 5 s")));
            }
        }
    }

    /// Asks for the driver's time until it is known well enough to start.
    fn settle_clock(&mut self) -> Result<(), NodeError> {
        while self.samples < FIRST_SAMPLES {
            self.next_heartbeat_ns = monotonic_now();
            let before = self.samples;
            while self.samples == before {
                self.pump()?;
                if let Some(message) = self.take_message() {
                    return Err(ended_by(message));
                }
                if self.samples == before {
                    self.park(u64::MAX);
                }
            }
        }
        Ok(())
    }

    /// Waits for a message; answers to heartbeats are taken on the way.
    fn next_message(&mut self) -> Result<ToWorker, NodeError> {
        loop {
            self.pump()?;
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            self.park(u64::MAX);
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
        self.link.drive(&mut *self.io);
        self.io.poll(&mut self.completions);
        let mut closed = Ok(());
        for Completion { outcome, .. } in std::mem::take(&mut self.completions) {
            closed = closed.and(self.link.completed(outcome));
        }
        let first = self.messages.len();
        let closed = closed.and(self.link.receive(&mut self.messages));
        if self.messages.len() > first {
            self.last_heard_ns = monotonic_now();
        }
        self.take_answers();
        // What came before the end still counts: it may say why.
        if self.messages.is_empty() {
            closed.map_err(|closed| lost(&self.peer, &closed.to_string()))?;
        }
        self.link.drive(&mut *self.io);
        self.check_silence()
    }

    /// The driver is lost if it says nothing for too long, unless it was we who did not listen.
    fn check_silence(&mut self) -> Result<(), NodeError> {
        let now = monotonic_now();
        if now - self.last_looked_ns > SILENCE_NS / 4 {
            self.last_heard_ns = now;
        }
        self.last_looked_ns = now;
        match now.saturating_sub(self.last_heard_ns) > SILENCE_NS {
            true => Err(lost(&self.peer, "it has been silent for 1.5 s")),
            false => Ok(()),
        }
    }

    fn take_answers(&mut self) {
        let received = monotonic_now();
        let (clock, samples) = (&mut self.clock, &mut self.samples);
        self.messages.retain(|message| match message {
            ToWorker::HeartbeatAnswer { sent_ns, driver_ns } => {
                clock.add(ClockSample { sent: *sent_ns, driver_now: *driver_ns, received });
                *samples += 1;
                false
            }
            _ => true,
        });
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
        self.next_heartbeat_ns = now + HEARTBEAT_NS;
        self.send(ToDriver::Heartbeat { sent_ns: now, status })
    }

    fn send(&mut self, message: ToDriver) -> Result<(), NodeError> {
        self.link.send(message).map_err(|closed| lost(&self.peer, &closed.to_string()))?;
        self.link.drive(&mut *self.io);
        Ok(())
    }

    /// Waits until what was sent is on its way, within reason.
    fn flush(&mut self) {
        let limit = monotonic_now() + 500_000_000;
        while !self.link.is_flushed() && monotonic_now() < limit && self.pump_io().is_ok() {
            self.park(limit);
        }
    }

    /// Waits until the driver hangs up, which it does when it has heard from every worker: whoever
    /// leaves first makes the other's last message fail.
    fn linger(&mut self) {
        let limit = monotonic_now() + SILENCE_NS;
        self.next_heartbeat_ns = u64::MAX;
        while monotonic_now() < limit && self.pump_io().is_ok() {
            self.messages.clear();
            // A thread that drops its end of a channel wakes nobody.
            self.park(monotonic_now() + 2_000_000);
        }
    }

    fn park(&mut self, until_ns: u64) {
        let silence = self.last_heard_ns + SILENCE_NS;
        let until_ns = until_ns.min(self.next_heartbeat_ns).min(silence);
        let timeout = until_ns.saturating_sub(monotonic_now());
        self.io.park(Some(Duration::from_nanos(timeout)));
    }
}

/// Round trips before the job starts.
const FIRST_SAMPLES: u32 = 4;

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
