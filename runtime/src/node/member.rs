//! A worker as the driver node knows it.

use std::net::SocketAddr;

use drizzle_scheduler::{Incarnation, WorkerId};

use crate::transport::Endpoint;
use crate::wire::{Peer, ToDriver, ToWorker, WorkerStatus};

/// The link of the driver to one worker.
pub(crate) type WorkerLink = Endpoint<ToWorker, ToDriver>;

/// One connection to the driver.
pub(super) struct Member {
    pub(super) link: WorkerLink,
    pub(super) stage: Joining,
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

/// How far a worker has come in joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joining {
    /// It has connected and said nothing yet.
    Connected,
    /// It was welcomed and builds the job.
    Welcomed,
    /// It has the same plan.
    Joined,
    /// It is connected to its peers and ready for tasks.
    Ready,
}

impl Member {
    pub(super) fn new(link: WorkerLink, now_ns: u64) -> Member {
        Member {
            link,
            stage: Joining::Connected,
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
        match self.stage {
            Joining::Connected => self.link.peer(),
            Joining::Welcomed | Joining::Joined | Joining::Ready => {
                format!("{} ({}, process {})", self.worker, self.link.peer(), self.process)
            }
        }
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
