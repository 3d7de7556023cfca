//! A worker as the driver node knows it.

use std::net::SocketAddr;

use drizzle_scheduler::{Incarnation, Life, WorkerId};

use crate::transport::Endpoint;
use crate::wire::{Peer, ToDriver, ToWorker, WorkerStatus};

/// The link of the driver to one worker.
pub(crate) type WorkerLink = Endpoint<ToWorker, ToDriver>;

/// One connection to the driver.
pub(super) struct Member {
    pub(super) link: WorkerLink,
    pub(super) stage: Stage,
    /// 0 until it was welcomed.
    pub(super) worker: WorkerId,
    pub(super) incarnation: Incarnation,
    pub(super) cores: u16,
    pub(super) process: u32,
    pub(super) address: Option<SocketAddr>,
    pub(super) runtime: String,
    pub(super) last_heard_ns: u64,
    pub(super) status: WorkerStatus,
    /// That its sources are paused has been said.
    pub(super) pause_said: bool,
}

/// How far a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has connected and said nothing yet.
    Connected,
    /// It offers its cores, and waits until it is clear which workers of an earlier driver come back.
    Waiting,
    /// It was welcomed and builds the job.
    Welcomed,
    /// It has the same plan.
    Joined,
    /// It is connected to its peers and ready for tasks.
    Ready,
    /// It was told to complete what it wrote, and has not reported yet.
    Finishing,
    /// It has reported everything.
    Finished,
    /// It was given up, and told so; or it was no worker and has its answer. What it says does not matter.
    Lost,
}

impl Member {
    pub(super) fn new(link: WorkerLink, now_ns: u64) -> Member {
        Member {
            link,
            stage: Stage::Connected,
            worker: WorkerId(0),
            incarnation: Incarnation(0),
            cores: 0,
            process: 0,
            address: None,
            runtime: String::new(),
            last_heard_ns: now_ns,
            status: WorkerStatus::default(),
            pause_said: false,
        }
    }

    /// The worker by all its names, for messages that people read.
    pub(super) fn name(&self) -> String {
        match self.has_number() {
            false => self.link.peer(),
            true => format!("{} ({}, process {})", self.worker, self.link.peer(), self.process),
        }
    }

    /// Whether it has a number.
    pub(super) fn has_number(&self) -> bool {
        match self.stage {
            Stage::Connected | Stage::Waiting => false,
            Stage::Welcomed
            | Stage::Joined
            | Stage::Ready
            | Stage::Finishing
            | Stage::Finished
            | Stage::Lost => true,
        }
    }

    /// Whether its number is in use by this life.
    pub(super) fn holds_number(&self) -> bool {
        self.has_number() && self.stage != Stage::Lost
    }

    /// Whether others connect to it.
    pub(super) fn is_introduced(&self) -> bool {
        matches!(self.stage, Stage::Joined | Stage::Ready)
    }

    /// Which life of which worker it is, once it has a number.
    pub(super) fn life(&self) -> Life {
        Life { worker: self.worker, incarnation: self.incarnation }
    }

    /// The worker as its peers need to know it.
    pub(super) fn as_peer(&self) -> Option<Peer> {
        let (worker, incarnation, cores) = (self.worker, self.incarnation, self.cores);
        self.address.map(|address| Peer { worker, incarnation, cores, address })
    }

    /// Whether it runs on the driver's host.
    pub(super) fn is_here(&self) -> bool {
        match &self.link {
            Endpoint::Stream(connection) => connection.is_within_host(),
            Endpoint::Local(_) => true,
        }
    }
}
