//! IO as operations and completions: one trait, two kernel drivers (ring and epoll).
//!
//! An [`Op`] is handed over with [`Io::submit`] and comes back, with everything that it owned, as
//! one [`Completion`] from [`Io::poll`]. Between the two the driver owns the buffers, whatever the
//! caller drops meanwhile.
//!
//! The rules that both drivers keep:
//!
//! 1. An operation owns its buffers and its socket from `submit` to its completion.
//! 2. Every submitted operation completes exactly once; [`Io::close`] completes the rest as cancelled.
//! 3. Dropping a driver never frees memory that the kernel may still write: it stops submitting,
//!    cancels, drains, and only then frees.
//! 4. What the kernel's queues cannot take waits in the driver, in order; nothing is lost.
//! 5. `poll` makes no system call when no operation is waiting and none was submitted.
//! 6. A wake that comes after the last `poll` ends the next park at once ([`waker`]).
//!
//! The caller's part: at most one receive and one send per stream are in flight at any time (two
//! sends at once could interleave), and a listener has at most one accept. The ring takes 952
//! operations at a time, so a core must stay below that many with its standing receives and accepts: a
//! send behind them would wait until one of them completes.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use drizzle_shuffle::Landing;

pub mod bare;
mod buffers;
mod calls;
mod epoll;
mod flight;
mod held;
mod probe;
mod sys;
mod tenant;
mod uring;
mod waker;

#[cfg(all(test, not(loom)))]
mod tests;

pub use calls::SystemCalls;
pub use epoll::EpollIo;
pub use probe::{Capabilities, Choice, Chosen, HostKind, Memlock, choose};
pub use sys::set_timer_slack;
pub use tenant::Tenant;
pub use uring::UringIo;
pub use waker::{Bells, Inbox, Outbox, Waker, inbox};

/// What the caller recognises an operation by; the driver only hands it back.
pub type Token = u64;

/// Bytes that are sent without being copied, for instance a block in a mapped segment.
pub type Body = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The most bodies of one send: the kernel takes 1,024 pieces.
pub const MAX_BODIES: usize = 512;

/// So little is a message: a receive that is bounded by more takes whatever comes.
pub const MESSAGE: usize = 4 << 10;

/// One operation, with all that it needs until it completes.
pub enum Op {
    /// Takes one connection from a listener.
    Accept {
        /// The listener. The epoll driver makes it non-blocking.
        listener: Arc<TcpListener>,
    },
    /// Appends what has arrived (at least one byte) to a buffer.
    Recv {
        /// Where from.
        stream: Arc<TcpStream>,
        /// Bytes are appended between its length and its capacity, which must differ.
        buffer: Vec<u8>,
        /// At most so many, at least one. A bound of less than [`MESSAGE`] says that what follows has
        /// a place of its own, so it is left in the socket.
        limit: usize,
    },
    /// Receives what has arrived (at least one byte) to where it will stay.
    Land {
        /// Where from.
        stream: Arc<TcpStream>,
        /// Where to. Some of its bytes must be missing.
        landing: Landing,
    },
    /// Sends all of `head` and then all `bodies`.
    Send {
        /// Where to.
        stream: Arc<TcpStream>,
        /// The first bytes, for instance a frame's header or a whole control message.
        head: Vec<u8>,
        /// The bytes after them, sent from where they lie; at most [`MAX_BODIES`].
        bodies: Vec<Body>,
    },
}

/// How an operation ended, with the buffers that it owned.
pub enum Outcome {
    /// Of [`Op::Accept`].
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    /// Of [`Op::Recv`].
    Received {
        /// The buffer, longer by the bytes received.
        buffer: Vec<u8>,
        /// How many bytes were appended; 0 means that the peer has closed its side.
        result: io::Result<usize>,
    },
    /// Of [`Op::Land`].
    Landed {
        /// The memory, in which so many bytes fewer are missing.
        landing: Landing,
        /// How many bytes were received; 0 means that the peer has closed its side.
        result: io::Result<usize>,
    },
    /// Of [`Op::Send`].
    Sent {
        /// The head as it was submitted, for use again. The bodies' counts have been given up.
        head: Vec<u8>,
        /// Whether everything was handed to the kernel.
        result: io::Result<()>,
    },
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Io::submit`].
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
}

/// A driver of IO, used by the one thread that created it.
pub trait Io {
    /// Takes an operation over. Never blocks; starts at the latest in the next `poll` or park.
    fn submit(&mut self, token: Token, op: Op);

    /// Starts what was submitted and appends what has completed. Never blocks.
    fn poll(&mut self, completions: &mut Vec<Completion>);

    /// Sleeps until there is something to `poll`, a wake, or the timeout. May return early.
    fn park(&mut self, timeout: Option<Duration>);

    /// A handle by which other threads end this driver's park.
    fn waker(&self) -> Waker;

    /// How many operations were submitted and have not completed.
    fn pending(&self) -> usize;

    /// The system calls that it has made, and that others made to wake it.
    fn calls(&self) -> SystemCalls;

    /// Says that from now on only this driver receives from the stream, until it is shut down: so the
    /// driver may receive ahead of the operations, and keep the socket open although its owner
    /// drops it. Who drops it shuts it down first, and the peer sees that at once. A driver that gains
    /// nothing by this ignores it.
    fn hold(&mut self, _stream: &Arc<TcpStream>) {}

    /// Cancels everything that is pending and appends how it ended. Nothing may be submitted after.
    fn close(&mut self, completions: &mut Vec<Completion>);

    /// For a host that sleeps in its own way instead of in [`Io::park`]; `None` where only that works.
    fn external(&mut self) -> Option<&mut dyn ExternalPark> {
        None
    }
}

/// How another event loop sleeps on a driver's behalf: `begin`, wait until `descriptor` is readable
/// (or for as long as one likes), `end`, `poll`. A driver is parked either so or by [`Io::park`],
/// always the same way.
pub trait ExternalPark {
    /// Announces the park; [`Readiness::Ready`] means do not wait. Then `end` is not called.
    fn begin(&mut self) -> Readiness;

    /// Becomes readable when the park should end. The same descriptor for the driver's whole life.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Ends the park that `begin` announced.
    fn end(&mut self);
}

/// Whether there is reason to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// There is something to poll, or a wake has come.
    Ready,
    /// Nothing yet: the descriptor will become readable.
    Waiting,
}

/// Which kernel interface a driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoKind {
    /// One own ring per core.
    Uring,
    /// Non-blocking system calls and epoll, where io_uring is forbidden.
    Epoll,
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoKind::Uring => "uring",
            IoKind::Epoll => "epoll",
        })
    }
}

/// Opens a driver for the calling thread, which alone may use it.
pub fn open(kind: IoKind) -> io::Result<Box<dyn Io>> {
    Ok(match kind {
        IoKind::Uring => Box::new(UringIo::new()?),
        IoKind::Epoll => Box::new(EpollIo::new()?),
    })
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Accept { .. } => f.write_str("Accept"),
            Op::Recv { buffer, .. } => write!(f, "Recv({})", buffer.capacity() - buffer.len()),
            Op::Land { landing, .. } => write!(f, "Land({})", landing.missing()),
            Op::Send { head, bodies, .. } => {
                let bodies: usize = bodies.iter().map(|body| (**body).as_ref().len()).sum();
                write!(f, "Send({} + {bodies})", head.len())
            }
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Accepted(Ok((_, peer))) => write!(f, "Accepted({peer})"),
            Outcome::Accepted(Err(error)) => write!(f, "Accepted({error})"),
            Outcome::Received { result, .. } => write!(f, "Received({result:?})"),
            Outcome::Landed { result, .. } => write!(f, "Landed({result:?})"),
            Outcome::Sent { result, .. } => write!(f, "Sent({result:?})"),
        }
    }
}

impl Op {
    /// The stream that it works on.
    fn stream(&self) -> Option<&Arc<TcpStream>> {
        match self {
            Op::Accept { .. } => None,
            Op::Recv { stream, .. } | Op::Land { stream, .. } | Op::Send { stream, .. } => {
                Some(stream)
            }
        }
    }

    /// The stream that it receives from.
    fn receives_from(&self) -> Option<&Arc<TcpStream>> {
        match self {
            Op::Accept { .. } | Op::Send { .. } => None,
            Op::Recv { stream, .. } | Op::Land { stream, .. } => Some(stream),
        }
    }

    /// Whether it receives whatever comes.
    fn takes_anything(&self) -> bool {
        matches!(self, Op::Recv { limit, .. } if *limit > MESSAGE)
    }

    /// How an operation ends that never started.
    fn failed(self, error: io::Error) -> Outcome {
        match self {
            Op::Accept { .. } => Outcome::Accepted(Err(error)),
            Op::Recv { buffer, .. } => Outcome::Received { buffer, result: Err(error) },
            Op::Land { landing, .. } => Outcome::Landed { landing, result: Err(error) },
            Op::Send { head, .. } => Outcome::Sent { head, result: Err(error) },
        }
    }

    fn cancelled(self) -> Outcome {
        self.failed(io::Error::from_raw_os_error(libc::ECANCELED))
    }

    fn check(&self) {
        match self {
            Op::Recv { buffer, limit, .. } => {
                assert!(buffer.len() < buffer.capacity(), "a receive needs room in its buffer");
                assert!(*limit > 0, "a receive takes at least a byte");
            }
            Op::Land { landing, .. } => assert!(landing.missing() > 0, "something is missing"),
            Op::Send { bodies, .. } => assert!(bodies.len() <= MAX_BODIES, "too many bodies"),
            Op::Accept { .. } => {}
        }
    }
}
