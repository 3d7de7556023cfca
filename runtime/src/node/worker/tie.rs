//! What ties a worker to its driver. Where the job outlives a driver, a worker at work that loses its own
//! goes on with what it was told, and looks for it, or for the next one, at the same address.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use drizzle_scheduler::Term;

use super::{FIRST_SAMPLES, WorkerNode, lost};
use crate::clock::{DriverClock, monotonic_now};
use crate::io::Waker;
use crate::node::{DRIVER_SILENCE_NS, NodeError, SILENCE_NS};
use crate::transport::{Connection, Endpoint};
use crate::wire::{Returning, ToDriver};

/// From one attempt to find a driver to the next.
pub(super) const ATTEMPT_NS: u64 = 100_000_000;
/// How long one attempt may take.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// How long one that was found may take to answer.
const ANSWER_NS: u64 = 3_000_000_000;
/// What cannot be said while there is no driver, and must be said to the next.
const MAX_UNSAID: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub(super) enum Tie {
    /// The worker ends with its driver: it is not at work yet, or nothing outlives a process.
    ForLife,
    /// There is a driver.
    Whole,
    /// There is none.
    Broken {
        /// Since when.
        since_ns: u64,
        /// When it is looked for next.
        next_ns: u64,
        /// The attempt that is under way.
        attempt: Option<Attempt>,
    },
    /// It was found, and has not answered.
    Greeted {
        /// Since when there was none.
        since_ns: u64,
        /// When to give this one up.
        limit_ns: u64,
    },
}

/// A connection that is being made on a thread of its own.
#[derive(Debug)]
pub(super) struct Attempt(Receiver<std::io::Result<TcpStream>>);

impl Attempt {
    fn begin(address: SocketAddr, waker: Waker) -> std::io::Result<Attempt> {
        let (give, take) = bounded(1);
        let body = move || {
            let _ = give.try_send(TcpStream::connect_timeout(&address, ATTEMPT_LIMIT));
            waker.wake();
        };
        std::thread::Builder::new().name("call".to_owned()).spawn(body)?;
        Ok(Attempt(take))
    }
}

impl WorkerNode {
    /// Whether what is said now is heard.
    pub(super) fn has_driver(&self) -> bool {
        match self.tie {
            Tie::ForLife | Tie::Whole => true,
            Tie::Broken { .. } | Tie::Greeted { .. } => false,
        }
    }

    /// The driver said nothing for too long after that.
    pub(super) fn silence_ns(&self) -> u64 {
        match self.tie {
            Tie::ForLife => SILENCE_NS,
            Tie::Whole | Tie::Broken { .. } | Tie::Greeted { .. } => DRIVER_SILENCE_NS,
        }
    }

    /// When the tie needs attention although nothing comes.
    pub(super) fn tie_wakes_at(&self) -> u64 {
        match &self.tie {
            Tie::ForLife | Tie::Whole => self.last_heard_ns + self.silence_ns(),
            Tie::Broken { attempt: Some(_), .. } => u64::MAX,
            Tie::Broken { next_ns, attempt: None, .. } => *next_ns,
            Tie::Greeted { limit_ns, .. } => *limit_ns,
        }
    }

    /// The driver is lost. The worker ends with it, or looks for it.
    pub(super) fn driver_lost(&mut self, reason: &str) -> Result<(), NodeError> {
        let now_ns = monotonic_now();
        let (since_ns, next_ns) = match self.tie {
            Tie::ForLife if self.is_durable && self.address.is_some() => {
                // Nobody knows this life yet: the next driver gets another one.
                self.has_lost_driver = true;
                return Err(NodeError::Job(self.looking(reason)));
            }
            Tie::ForLife => {
                self.has_lost_driver = true;
                return Err(lost(&self.peer, reason));
            }
            Tie::Whole => {
                let (worker, line) = (self.life.worker, self.looking(reason));
                (self.config.notice)(&format!("{worker}: {line}"));
                (now_ns, now_ns)
            }
            Tie::Broken { since_ns, .. } | Tie::Greeted { since_ns, .. } => {
                (since_ns, now_ns + ATTEMPT_NS)
            }
        };
        self.link.hang_up();
        self.next_heartbeat_ns = u64::MAX;
        self.tie = Tie::Broken { since_ns, next_ns, attempt: None };
        Ok(())
    }

    fn looking(&self, reason: &str) -> String {
        let (peer, seconds) = (&self.peer, self.config.patience.as_secs());
        format!("the driver at {peer} is lost: {reason}; looking for it for {seconds} s")
    }

    /// Looks for a driver, if there is none.
    pub(super) fn look_for_driver(&mut self) -> Result<(), NodeError> {
        let now_ns = monotonic_now();
        let Some(address) = self.address else { return Ok(()) };
        let (since_ns, next_ns, attempt) = match &mut self.tie {
            Tie::ForLife | Tie::Whole => return Ok(()),
            Tie::Greeted { since_ns, limit_ns } if now_ns >= *limit_ns => {
                let since_ns = *since_ns;
                self.link.hang_up();
                self.tie = Tie::Broken { since_ns, next_ns: now_ns, attempt: None };
                return Ok(());
            }
            Tie::Greeted { .. } => return Ok(()),
            Tie::Broken { since_ns, next_ns, attempt } => (*since_ns, next_ns, attempt),
        };
        if now_ns.saturating_sub(since_ns) > self.config.patience.as_nanos() as u64 {
            let seconds = self.config.patience.as_secs();
            let reason = format!("it has not come back for {seconds} s");
            return Err(lost(&self.peer, &reason));
        }
        match attempt.as_ref().map(|attempt| attempt.0.try_recv()) {
            None if now_ns >= *next_ns => {
                *next_ns = now_ns + ATTEMPT_NS;
                *attempt = Attempt::begin(address, self.io.waker()).ok();
            }
            None => {}
            Some(Ok(Ok(stream))) => {
                *attempt = None;
                self.greet_again(stream, since_ns);
            }
            Some(Ok(Err(_)) | Err(crossbeam_channel::TryRecvError::Disconnected)) => {
                *attempt = None;
            }
            Some(Err(crossbeam_channel::TryRecvError::Empty)) => {}
        }
        Ok(())
    }

    /// Somebody listens where the driver was: the worker says who it is and what it has been doing.
    fn greet_again(&mut self, stream: TcpStream, since_ns: u64) {
        let Some(told) = &self.introduction else { return };
        self.link_number += 1;
        let Ok(connection) = Connection::new(stream, self.link_number) else { return };
        self.link = Endpoint::Stream(connection);
        self.messages.clear();
        let greeting = ToDriver::Return(Returning {
            life: self.life,
            cores: self.config.cores,
            process: std::process::id(),
            fingerprint: told.fingerprint,
            data_address: told.data_address,
            runtime: told.runtime.clone(),
            term: self.term,
        });
        self.last_heard_ns = monotonic_now();
        let limit_ns = self.last_heard_ns + ANSWER_NS;
        self.tie = Tie::Greeted { since_ns, limit_ns };
        // It has just been made; if it is gone already, the next look tells.
        let _ = self.link.send(greeting);
        self.link.drive(&mut *self.io);
    }

    /// A driver has answered: it is followed from now on.
    pub(super) fn driver_is_back(&mut self, term: Term) {
        if let Tie::Greeted { since_ns, .. } = self.tie {
            let seconds = monotonic_now().saturating_sub(since_ns) as f64 / 1e9;
            let worker = self.life.worker;
            let line = format!("{worker}: the driver is back after {seconds:.1} s, in its {term}");
            (self.config.notice)(&line);
        }
        self.tie = Tie::Whole;
        self.term = term;
        self.last_heard_ns = monotonic_now();
        // It may have another clock. Until its first answer the old one goes on.
        self.next_clock = Some(DriverClock::new());
        self.next_heartbeat_ns = monotonic_now();
        for message in std::mem::take(&mut self.unsaid) {
            let _ = self.link.send(message);
        }
        self.link.drive(&mut *self.io);
    }

    /// Says something that the next driver must hear if this one does not.
    pub(super) fn say_in_any_case(&mut self, message: ToDriver) -> Result<(), NodeError> {
        if self.has_driver() {
            return self.send(message);
        }
        if self.unsaid.len() < MAX_UNSAID {
            self.unsaid.push(message);
        }
        Ok(())
    }

    /// Takes a round trip to a new driver into account.
    pub(super) fn settle_again(&mut self) {
        if let Some(clock) = self.next_clock.take() {
            self.clock = clock;
            self.samples = 0;
            self.is_settling = true;
        }
        if self.samples >= FIRST_SAMPLES {
            self.is_settling = false;
        } else if self.is_settling {
            self.next_heartbeat_ns = monotonic_now();
        }
    }
}
