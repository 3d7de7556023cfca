//! The driver on plain system calls and epoll, for where io_uring is forbidden. It never uses
//! io_uring.
//!
//! Every socket is registered once, edge-triggered for both directions, when it is first used. The
//! driver remembers per direction whether the socket may be ready; an operation is tried as long as it
//! may be, and waits for an edge once the kernel has said `EAGAIN`. A receive that did not fill its
//! buffer has emptied the socket, so the next one waits without asking, unless a hang-up was seen:
//! no further edge comes after that.
//!
//! Sockets are recognised by descriptor and by a weak reference, so that a descriptor number that the
//! kernel gave away again is not mistaken for the old socket, and a socket closes when its owner
//! drops it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use drizzle_shuffle::Landing;

use super::{
    Body, Completion, ExternalPark, Io, Op, Outcome, Readiness, SystemCalls, Token, Waker, sys,
};

/// What marks an event of the waker.
const WAKE: u64 = u64::MAX;

/// How many events are taken at once.
const EVENTS: usize = 256;

/// A driver of IO on non-blocking system calls.
pub struct EpollIo {
    epoll: OwnedFd,
    waker: Waker,
    /// By descriptor.
    sockets: Vec<Option<Socket>>,
    /// Descriptors of which an operation is worth trying.
    promising: VecDeque<usize>,
    /// Ended before they began.
    failed: Vec<Completion>,
    /// Operations that were submitted and have not completed.
    pending: usize,
    events: Vec<sys::Event>,
    calls: SystemCalls,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Awake,
    /// A park has ended, so there may be events although nothing waits.
    Woken,
    Closed,
}

struct Socket {
    identity: Identity,
    input: Direction,
    output: Direction,
}

#[derive(Clone)]
enum Identity {
    Listener(Weak<TcpListener>),
    Stream(Weak<TcpStream>),
}

struct Direction {
    readiness: Edge,
    operation: Option<(Token, Work)>,
}

/// What is known of one direction of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The kernel has said that it is not ready and will report when it is.
    Waiting,
    /// It may be ready.
    Open,
    /// It has been hung up: it stays ready and no edge will come.
    HungUp,
}

enum Work {
    Accept { listener: Arc<TcpListener> },
    Recv { stream: Arc<TcpStream>, buffer: Vec<u8>, limit: usize },
    Land { stream: Arc<TcpStream>, landing: Landing },
    Send { stream: Arc<TcpStream>, head: Vec<u8>, bodies: Vec<Body>, sent: usize },
}

impl EpollIo {
    /// Makes an epoll instance for the calling thread.
    pub fn new() -> io::Result<Self> {
        let epoll = sys::epoll_create()?;
        let waker = Waker::new()?;
        sys::epoll_add(epoll.as_fd(), waker.event(), WAKE)?;
        Ok(EpollIo {
            epoll,
            waker,
            sockets: Vec::new(),
            promising: VecDeque::new(),
            failed: Vec::new(),
            pending: 0,
            events: vec![sys::Event { events: 0, u64: 0 }; EVENTS],
            calls: SystemCalls::default(),
            stage: Stage::Awake,
        })
    }

    /// The socket's entry, registered with epoll.
    fn socket(&mut self, descriptor: usize, op: &Op) -> io::Result<&mut Socket> {
        if self.sockets.len() <= descriptor {
            self.sockets.resize_with(descriptor + 1, || None);
        }
        let known = self.sockets[descriptor].as_ref().is_some_and(|s| s.identity.is_of(op));
        if !known {
            let fd = match op {
                Op::Accept { listener } => {
                    listener.set_nonblocking(true)?;
                    listener.as_fd()
                }
                Op::Recv { stream, .. } | Op::Land { stream, .. } | Op::Send { stream, .. } => {
                    stream.as_fd()
                }
            };
            self.calls.registrations += 1;
            sys::epoll_add(self.epoll.as_fd(), fd, descriptor as u64)?;
            self.sockets[descriptor] = Some(Socket::new(Identity::of(op)));
        }
        Ok(self.sockets[descriptor].as_mut().expect("it is registered"))
    }

    /// Tries what is worth trying.
    fn try_promising(&mut self, completions: &mut Vec<Completion>) {
        while let Some(descriptor) = self.promising.pop_front() {
            let Some(socket) = &mut self.sockets[descriptor] else { continue };
            for direction in [&mut socket.input, &mut socket.output] {
                if let Some(completion) = direction.attempt(&mut self.calls) {
                    self.pending -= 1;
                    completions.push(completion);
                }
            }
        }
    }

    /// Takes the events that have come, without waiting.
    fn harvest(&mut self) {
        loop {
            self.calls.polls += 1;
            let count = sys::epoll_take(self.epoll.as_fd(), &mut self.events);
            for event in &self.events[..count] {
                let (flags, key) = (event.events, event.u64);
                if key == WAKE {
                    continue;
                }
                let descriptor = key as usize;
                if let Some(Some(socket)) = self.sockets.get_mut(descriptor) {
                    socket.report(flags);
                    self.promising.push_back(descriptor);
                }
            }
            if count < self.events.len() {
                return;
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.promising.is_empty() || !self.failed.is_empty()
    }
}

impl Io for EpollIo {
    fn submit(&mut self, token: Token, op: Op) {
        assert!(self.stage != Stage::Closed, "nothing is submitted after closing");
        op.check();
        self.pending += 1;
        let descriptor = descriptor(&op);
        match self.socket(descriptor, &op) {
            Ok(socket) => {
                if socket.begin(token, op) != Edge::Waiting {
                    self.promising.push_back(descriptor);
                }
            }
            Err(error) => self.failed.push(Completion { token, outcome: op.failed(error) }),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.pending -= self.failed.len();
        completions.append(&mut self.failed);
        self.try_promising(completions);
        if self.pending > 0 || self.stage == Stage::Woken {
            self.harvest();
            self.try_promising(completions);
        }
        if self.stage == Stage::Woken {
            self.stage = Stage::Awake;
        }
    }

    fn park(&mut self, timeout: Option<Duration>) {
        if self.begin() == Readiness::Waiting {
            self.calls.sleeps += 1;
            sys::wait_readable(self.epoll.as_fd(), timeout);
            self.end();
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn calls(&self) -> SystemCalls {
        SystemCalls { wakes: self.waker.writes(), ..self.calls }
    }

    fn close(&mut self, completions: &mut Vec<Completion>) {
        self.stage = Stage::Closed;
        completions.append(&mut self.failed);
        self.promising.clear();
        for socket in std::mem::take(&mut self.sockets).into_iter().flatten() {
            let operations = [socket.input.operation, socket.output.operation];
            for (token, work) in operations.into_iter().flatten() {
                let error = io::Error::from_raw_os_error(libc::ECANCELED);
                completions.push(Completion { token, outcome: work.failed(error) });
            }
        }
        self.pending = 0;
    }

    fn external(&mut self) -> Option<&mut dyn ExternalPark> {
        Some(self)
    }
}

impl ExternalPark for EpollIo {
    fn begin(&mut self) -> Readiness {
        if self.has_work() { Readiness::Ready } else { self.waker.begin_park() }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn end(&mut self) {
        self.waker.end_park();
        if self.stage == Stage::Awake {
            self.stage = Stage::Woken;
        }
    }
}

impl Socket {
    fn new(identity: Identity) -> Self {
        let direction = || Direction { readiness: Edge::Open, operation: None };
        Socket { identity, input: direction(), output: direction() }
    }

    /// Takes an operation over and says whether it is worth trying.
    fn begin(&mut self, token: Token, op: Op) -> Edge {
        let (direction, work) = match op {
            Op::Accept { listener } => (&mut self.input, Work::Accept { listener }),
            Op::Recv { stream, buffer, limit } => {
                (&mut self.input, Work::Recv { stream, buffer, limit })
            }
            Op::Land { stream, landing } => (&mut self.input, Work::Land { stream, landing }),
            Op::Send { stream, head, bodies } => {
                (&mut self.output, Work::Send { stream, head, bodies, sent: 0 })
            }
        };
        assert!(direction.operation.is_none(), "one operation a direction of a socket");
        direction.operation = Some((token, work));
        direction.readiness
    }

    /// Notes an edge.
    fn report(&mut self, flags: u32) {
        let has = |mask: i32| flags & mask as u32 != 0;
        let broken = has(libc::EPOLLERR | libc::EPOLLHUP);
        if broken || has(libc::EPOLLRDHUP) {
            self.input.readiness = Edge::HungUp;
        } else if has(libc::EPOLLIN) && self.input.readiness == Edge::Waiting {
            self.input.readiness = Edge::Open;
        }
        if broken {
            self.output.readiness = Edge::HungUp;
        } else if has(libc::EPOLLOUT) && self.output.readiness == Edge::Waiting {
            self.output.readiness = Edge::Open;
        }
    }
}

impl Identity {
    fn of(op: &Op) -> Self {
        match op {
            Op::Accept { listener } => Identity::Listener(Arc::downgrade(listener)),
            Op::Recv { stream, .. } | Op::Land { stream, .. } | Op::Send { stream, .. } => {
                Identity::Stream(Arc::downgrade(stream))
            }
        }
    }

    fn is_of(&self, op: &Op) -> bool {
        match (self, Identity::of(op)) {
            (Identity::Listener(known), Identity::Listener(new)) => known.ptr_eq(&new),
            (Identity::Stream(known), Identity::Stream(new)) => known.ptr_eq(&new),
            (Identity::Listener(_), Identity::Stream(_)) => false,
            (Identity::Stream(_), Identity::Listener(_)) => false,
        }
    }
}

impl Direction {
    /// Tries the operation, if there is one and it is worth it.
    fn attempt(&mut self, calls: &mut SystemCalls) -> Option<Completion> {
        if self.readiness == Edge::Waiting {
            return None;
        }
        let (token, work) = self.operation.take()?;
        match work.attempt(calls) {
            Attempt::Done(outcome, left) => {
                if left == Left::Nothing && self.readiness == Edge::Open {
                    self.readiness = Edge::Waiting;
                }
                Some(Completion { token, outcome })
            }
            Attempt::NotYet(work) => {
                self.readiness = Edge::Waiting;
                self.operation = Some((token, work));
                None
            }
        }
    }
}

/// What became of trying an operation.
enum Attempt {
    Done(Outcome, Left),
    NotYet(Work),
}

/// Whether a direction may be ready after an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Perhaps,
    Nothing,
}

impl Work {
    fn attempt(self, calls: &mut SystemCalls) -> Attempt {
        match self {
            Work::Accept { .. } | Work::Recv { .. } | Work::Land { .. } => calls.receives += 1,
            Work::Send { .. } => calls.sends += 1,
        }
        match self {
            Work::Accept { listener } => match listener.accept() {
                Err(error) if is_early(&error) => Attempt::NotYet(Work::Accept { listener }),
                result => Attempt::Done(Outcome::Accepted(result), Left::Perhaps),
            },
            Work::Recv { stream, mut buffer, limit } => {
                let room = limit.min(buffer.capacity() - buffer.len());
                match sys::receive(stream.as_fd(), &mut buffer, room) {
                    Err(error) if is_early(&error) => {
                        Attempt::NotYet(Work::Recv { stream, buffer, limit })
                    }
                    result => {
                        let emptied = matches!(result, Ok(count) if 0 < count && count < room);
                        let left = if emptied { Left::Nothing } else { Left::Perhaps };
                        Attempt::Done(Outcome::Received { buffer, result }, left)
                    }
                }
            }
            Work::Land { stream, mut landing } => match sys::land(stream.as_fd(), &mut landing) {
                Err(error) if is_early(&error) => Attempt::NotYet(Work::Land { stream, landing }),
                result => {
                    let emptied = landing.missing() > 0 && !matches!(result, Ok(0));
                    let left = if emptied { Left::Nothing } else { Left::Perhaps };
                    Attempt::Done(Outcome::Landed { landing, result }, left)
                }
            },
            Work::Send { stream, head, bodies, mut sent } => {
                match send_all(&stream, &head, &bodies, &mut sent) {
                    Err(error) if is_early(&error) => {
                        Attempt::NotYet(Work::Send { stream, head, bodies, sent })
                    }
                    result => Attempt::Done(Outcome::Sent { head, result }, Left::Perhaps),
                }
            }
        }
    }

    fn failed(self, error: io::Error) -> Outcome {
        match self {
            Work::Accept { .. } => Outcome::Accepted(Err(error)),
            Work::Recv { buffer, .. } => Outcome::Received { buffer, result: Err(error) },
            Work::Land { landing, .. } => Outcome::Landed { landing, result: Err(error) },
            Work::Send { head, .. } => Outcome::Sent { head, result: Err(error) },
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Sends until everything is sent or the kernel refuses, counting in `sent`.
fn send_all(stream: &TcpStream, head: &[u8], bodies: &[Body], sent: &mut usize) -> io::Result<()> {
    loop {
        let mut skip = *sent;
        let all = std::iter::once(head).chain(bodies.iter().map(|body| (**body).as_ref()));
        let left = all.filter_map(|piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            (skipped < piece.len()).then(|| IoSlice::new(&piece[skipped..]))
        });
        let pieces: Vec<IoSlice<'_>> = left.collect();
        if pieces.is_empty() {
            return Ok(());
        }
        match sys::send(stream.as_fd(), &pieces)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *sent += count,
        }
    }
}

fn descriptor(op: &Op) -> usize {
    let fd = match op {
        Op::Accept { listener } => listener.as_raw_fd(),
        Op::Recv { stream, .. } | Op::Land { stream, .. } | Op::Send { stream, .. } => {
            stream.as_raw_fd()
        }
    };
    usize::try_from(fd).expect("an open descriptor is not negative")
}
