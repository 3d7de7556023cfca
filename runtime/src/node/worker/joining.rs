//! How a worker joins: welcomed, it builds the job; introduced to its peers, it connects to them and
//! starts its cores; and it is ready when it knows the driver's time.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use drizzle_scheduler::{Life, WorkerId};

use super::crew::{Crew, Surroundings};
use super::running::Running;
use super::tie::Tie;
use super::{Ground, Identity, Introduction, Peers, Stage, Step, WorkerNode, ended_by};
use crate::clock::monotonic_now;
use crate::core::LinkPlan;
use crate::host::{DirectFiles, HostKind};
use crate::io::{Capabilities, Chosen, choose};
use crate::node::connect::{Greetings, check_exposure, listen};
use crate::node::memory::{Reach, WorkerShares};
use crate::node::results::WaitingRows;
use crate::node::{JobDurability, JobOptions, JobSetup, NodeError, Outlet};
use crate::storage::{Desk, Folder};
use crate::wire::{Peer, ToDriver, ToWorker, WorkerStatus};

/// What a worker has when it has built the job.
pub(super) struct Built {
    identity: Identity,
    setup: JobSetup,
    chosen: Chosen,
    rows: WaitingRows,
}

/// A worker whose peers are calling.
pub(super) struct Meeting {
    built: Built,
    cores_on_host: u32,
    peers: Vec<Peer>,
    limit_ns: u64,
}

/// How long peers may take to call.
const MEETING_NS: u64 = 5_000_000_000;
/// Round trips before the job starts.
pub(super) const FIRST_SAMPLES: u32 = 4;

impl WorkerNode {
    /// Waits to be welcomed.
    pub(super) fn welcomed(&mut self) -> Result<(Stage, Step), NodeError> {
        self.pump()?;
        match self.take_message() {
            None => Ok((Stage::Greeted, Step::Until(u64::MAX))),
            Some(ToWorker::Finish) => Ok((Stage::Over, Step::Over)),
            Some(ToWorker::Wait) => {
                self.is_durable = true;
                Ok((Stage::Greeted, Step::Again))
            }
            Some(ToWorker::Welcome { term, worker, incarnation, arguments }) => {
                self.next_heartbeat_ns = monotonic_now();
                self.term = term;
                self.life = Life { worker, incarnation };
                let identity = Identity { term, worker, incarnation };
                Ok((Stage::Welcomed(identity, arguments), Step::Again))
            }
            Some(other) => Err(ended_by(other)),
        }
    }

    /// Builds the job.
    pub(super) fn build_job(
        &mut self,
        identity: Identity,
        arguments: &[String],
    ) -> Result<(Stage, Step), NodeError> {
        let (outlet, rows) = Outlet::new(self.io.waker());
        match &self.ground {
            Ground::OwnThreads => {}
            Ground::Shared(..) => rows.never_wait(),
        }
        let (setup, chosen) = self.build(arguments, &outlet).map_err(NodeError::Setup)?;
        drop(outlet);
        self.is_durable = setup.options.is_durable();
        self.open_storage(&setup.options, chosen.host)?;
        let listener = Arc::new(self.listen()?);
        let data_address = listener.local_addr().map_err(NodeError::io("no local address"))?;
        let fingerprint = setup.job.plan().fingerprint;
        (self.config.notice)(&format!("{}: {}", identity.worker, chosen.describe()));
        let runtime = chosen.name();
        self.introduction =
            Some(Introduction { fingerprint, data_address, runtime: runtime.clone() });
        self.greetings = match self.peers {
            Peers::Threads(_) => None,
            Peers::Processes => Some(Greetings::new(self.life, listener, self.io.waker())),
        };
        self.send(ToDriver::Joined { fingerprint, data_address, runtime })?;
        let built = Built { identity, setup, chosen, rows };
        Ok((Stage::Built(Box::new(built)), Step::Again))
    }

    /// Opens the folder in which the job's snapshots lie, if there is one. Where glommio runs the cores it
    /// writes the snapshots too.
    fn open_storage(&mut self, options: &JobOptions, host: HostKind) -> Result<(), NodeError> {
        let JobDurability::Folder { path, .. } = &options.durability else { return Ok(()) };
        let folder = Folder::open(path).map_err(|error| NodeError::Setup(error.to_string()))?;
        let folder = match host {
            HostKind::Plain => folder,
            HostKind::Glommio => match DirectFiles::start() {
                Ok(files) => folder.with_direct_files(files),
                Err(error) => {
                    let worker = self.life.worker;
                    let line = format!("{worker}: snapshots are written as plain files: {error}");
                    (self.config.notice)(&line);
                    folder
                }
            },
        };
        let name = format!("storage-{}", self.life.worker.0);
        let desk = Desk::open(Arc::new(folder), &name);
        self.storage = Some(desk.map_err(NodeError::io("cannot start the thread for storage"))?);
        Ok(())
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

    /// Waits to hear of its peers.
    pub(super) fn introduced(&mut self, built: Box<Built>) -> Result<(Stage, Step), NodeError> {
        self.pump()?;
        let (cores_on_host, peers) = match self.take_message() {
            None => return Ok((Stage::Built(built), Step::Until(u64::MAX))),
            Some(ToWorker::Peers { cores_on_host, peers }) => (cores_on_host, peers),
            Some(ToWorker::Finish) => return Ok((Stage::Over, Step::Over)),
            Some(other) => return Err(ended_by(other)),
        };
        self.check_named(&peers)?;
        let Some(greetings) = &mut self.greetings else {
            return self.start_cores(*built, cores_on_host, &peers, Vec::new());
        };
        greetings.introduce(&peers);
        let limit_ns = monotonic_now() + MEETING_NS;
        let meeting = Meeting { built: *built, cores_on_host, peers, limit_ns };
        Ok((Stage::Meeting(Box::new(meeting)), Step::Again))
    }

    /// Looks whether every peer has called.
    pub(super) fn meet(&mut self, mut meeting: Box<Meeting>) -> Result<(Stage, Step), NodeError> {
        self.pump()?;
        match self.take_message() {
            None => {}
            Some(ToWorker::Peers { peers, .. }) if self.is_durable => {
                self.check_named(&peers)?;
                self.introduce(&peers);
                meeting.peers = peers;
            }
            Some(ToWorker::Finish) => return Ok((Stage::Over, Step::Over)),
            Some(other) => return Err(ended_by(other)),
        }
        let Some(greetings) = &mut self.greetings else { return Ok((Stage::Over, Step::Over)) };
        let (missing, failures) = (greetings.missing(), greetings.take_failures());
        greetings.take_notices().iter().for_each(|line| (self.config.notice)(line));
        let is_late = monotonic_now() > meeting.limit_ns;
        if missing.is_empty() || (is_late && self.is_durable) {
            let links = greetings.take_links();
            for life in missing {
                self.say_peer_lost(life, "it did not connect within 5 s".to_owned())?;
            }
            let Meeting { built, cores_on_host, peers, .. } = *meeting;
            return self.start_cores(built, cores_on_host, &peers, links);
        }
        for (life, reason) in failures {
            match self.is_durable {
                true => self.say_peer_lost(life, reason)?,
                false => return Err(NodeError::Job(reason)),
            }
        }
        if is_late {
            let missing: Vec<String> = missing.iter().map(|life| life.worker.to_string()).collect();
            let missing = missing.join(", ");
            return Err(NodeError::Job(format!("{missing} did not connect within 5 s")));
        }
        let limit_ns = meeting.limit_ns;
        Ok((Stage::Meeting(meeting), Step::Until(limit_ns + 1)))
    }

    /// Who is there must not do without this worker: then it was given up.
    fn check_named(&mut self, peers: &[Peer]) -> Result<(), NodeError> {
        if peers.iter().any(|peer| peer.life() == self.life) {
            return Ok(());
        }
        self.has_lost_driver = true;
        Err(NodeError::Job(format!("the driver at {} left this worker out", self.peer)))
    }

    /// Takes in who is there.
    pub(super) fn introduce(&mut self, peers: &[Peer]) {
        if let Some(greetings) = &mut self.greetings {
            greetings.introduce(peers);
        }
    }

    /// Tells the driver that a peer cannot be reached.
    pub(super) fn say_peer_lost(&mut self, life: Life, reason: String) -> Result<(), NodeError> {
        let Life { worker, incarnation } = life;
        self.say_in_any_case(ToDriver::PeerLost { worker, incarnation, reason })
    }

    fn start_cores(
        &mut self,
        built: Built,
        cores_on_host: u32,
        peers: &[Peer],
        links: Vec<LinkPlan>,
    ) -> Result<(Stage, Step), NodeError> {
        let Built { identity, setup, chosen, rows } = built;
        let retention = setup.options.retention_of_worker();
        let shares = self.share_memory(&setup, identity.worker, peers)?;
        rows.limit(shares.results_bytes());
        let around = Surroundings { cores_on_host, peers, links, shares };
        let crew = Crew::start(self, &identity, setup, &chosen, around)?;
        let running = Running::new(&identity, self.config.cores, crew, rows, retention);
        Ok((Stage::Settling(Box::new(running)), Step::Again))
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
            Peers::Processes if self.is_durable => Reach::GrowingProcesses,
            Peers::Processes => Reach::ManyProcesses,
        };
        let shares =
            WorkerShares::new(setup.options.memory, setup.job.plan(), worker, peers, reach);
        shares.map_err(|error| NodeError::Setup(error.to_string()))
    }

    /// Asks for the driver's time, one question after the other, until it is known well enough to start.
    pub(super) fn settle_clock(
        &mut self,
        running: Box<Running>,
    ) -> Result<(Stage, Step), NodeError> {
        if self.asked <= self.samples {
            self.asked = self.samples + 1;
            self.next_heartbeat_ns = monotonic_now();
        }
        self.heartbeat(WorkerStatus::default())?;
        self.pump_io()?;
        match self.take_message() {
            None => {}
            Some(ToWorker::Peers { peers, .. }) if self.is_durable => self.introduce(&peers),
            Some(ToWorker::Finish) => {
                running.end()?;
                return Ok((Stage::Over, Step::Over));
            }
            Some(other) => return Err(ended_by(other)),
        }
        if self.samples >= FIRST_SAMPLES {
            self.send(ToDriver::Ready)?;
            if self.is_durable && self.address.is_some() {
                self.tie = Tie::Whole;
            }
            return Ok((Stage::Running(running), Step::Again));
        }
        let step = if self.asked <= self.samples { Step::Again } else { Step::Until(u64::MAX) };
        Ok((Stage::Settling(running), step))
    }
}
