//! What the kernel works on: operations in the ring and the memory that they own. An island of
//! unsafe code, kept apart from the ring so that its rules can be tested without one.
//!
//! 1. A [`Flight`] owns all memory named in its submission: a `Vec`'s heap block, a body held by
//!    an `Arc`, the message header in `messages`. None of it moves when the flight, the slots or
//!    the driver move: they are blocks of their own on the heap, `messages` is never resized, and it
//!    is reached by raw pointers only.
//! 2. A slot is vacated by the completion of its submission only, and a submission names its slot. So
//!    between `take_off` and `land` nobody touches that memory but the kernel.
//! 3. A body's bytes stay as they are while its `Arc` is held: `as_ref` borrowed them from a value that,
//!    as long as we hold a count, nobody can get mutably or drop. They are asked for once.
//! 4. The kernel reports no more bytes than it was given room for, and has written those.
//! 5. A descriptor in an accept's completion is new and nobody else's.
//! 6. A `msghdr` consists of integers and pointers, for which zero is a value.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::{Body, Completion, Op, Outcome, Token};

/// The operations in flight, each in a slot whose index is the submission's user data.
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    vacant: Vec<usize>,
    /// One header a slot, for sends in two pieces.
    messages: Vec<Message>,
    /// Slots whose send was cut short and must be submitted again.
    short: Vec<usize>,
    plan: Plan,
}

/// What happens to a send that was cut short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// It is submitted again with the rest.
    Finish,
    /// It ends as cancelled.
    GiveUp,
}

struct Flight {
    token: Token,
    work: Work,
}

enum Work {
    Accept { listener: Arc<TcpListener> },
    Recv { stream: Arc<TcpStream>, buffer: Vec<u8> },
    Send(Sending),
}

struct Sending {
    stream: Arc<TcpStream>,
    head: Vec<u8>,
    /// Keeps `bytes` alive.
    body: Option<Body>,
    /// The body's bytes, asked for once.
    bytes: Piece,
    /// Of head and body together.
    sent: usize,
}

/// Bytes that somebody else keeps alive.
#[derive(Clone, Copy)]
struct Piece {
    start: *const u8,
    length: usize,
}

/// The header of a send in two pieces.
struct Message {
    pieces: [libc::iovec; 2],
    header: libc::msghdr,
}

impl Flights {
    pub(super) fn new(limit: usize) -> Self {
        Flights {
            slots: (0..limit).map(|_| None).collect(),
            vacant: (0..limit).rev().collect(),
            messages: (0..limit).map(|_| Message::new()).collect(),
            short: Vec::new(),
            plan: Plan::Finish,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.vacant.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on no send that was cut short is continued.
    pub(super) fn give_up(&mut self) {
        self.plan = Plan::GiveUp;
    }

    /// Gives an operation a slot and says what to submit. The caller has asked for room.
    pub(super) fn take_off(&mut self, token: Token, op: Op) -> squeue::Entry {
        let index = self.vacant.pop().expect("the caller has asked for room");
        self.slots[index] = Some(Flight { token, work: Work::new(op) });
        self.entry(index)
    }

    /// What to submit again, if a send was cut short.
    pub(super) fn again(&mut self) -> Option<squeue::Entry> {
        let index = self.short.pop()?;
        Some(self.entry(index))
    }

    /// Takes a completion; `None` when the operation goes on.
    pub(super) fn land(&mut self, index: usize, result: i32) -> Option<Completion> {
        let flight =
            self.slots[index].take().expect("a completion names the slot of its submission");
        let result = if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(result as usize)
        };
        match flight.work.land(result, self.plan) {
            Landed::Done(outcome) => {
                self.vacant.push(index);
                Some(Completion { token: flight.token, outcome })
            }
            Landed::Short(work) => {
                self.slots[index] = Some(Flight { token: flight.token, work });
                self.short.push(index);
                None
            }
        }
    }

    fn entry(&mut self, index: usize) -> squeue::Entry {
        assert!(index < self.messages.len(), "one message a slot");
        let message = self.messages.as_mut_ptr().wrapping_add(index);
        let flight = self.slots[index].as_mut().expect("only taken slots are submitted");
        let entry = match &mut flight.work {
            Work::Accept { listener } => {
                let fd = Fd(listener.as_raw_fd());
                let accept = opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut());
                accept.flags(libc::SOCK_CLOEXEC).build()
            }
            Work::Recv { stream, buffer } => {
                let room = buffer.spare_capacity_mut();
                let start = room.as_mut_ptr().cast();
                opcode::Recv::new(Fd(stream.as_raw_fd()), start, length(room.len())).build()
            }
            // SAFETY: (1), (2) `index` is within the block, and the kernel does not have this slot now.
            Work::Send(sending) => sending.entry(unsafe { &mut *message }),
        };
        entry.user_data(index as u64)
    }
}

/// What a completion means for its operation.
enum Landed {
    Done(Outcome),
    Short(Work),
}

impl Work {
    fn new(op: Op) -> Self {
        match op {
            Op::Accept { listener } => Work::Accept { listener },
            Op::Recv { stream, buffer } => Work::Recv { stream, buffer },
            Op::Send { stream, head, body } => {
                let bytes = Piece::new(body.as_ref().map_or(&[], |body| (**body).as_ref()));
                Work::Send(Sending { stream, head, body, bytes, sent: 0 })
            }
        }
    }

    fn land(self, result: io::Result<usize>, plan: Plan) -> Landed {
        match self {
            Work::Accept { .. } => Landed::Done(Outcome::Accepted(result.and_then(accepted))),
            Work::Recv { mut buffer, .. } => {
                if let Ok(received) = result {
                    assert!(received <= buffer.capacity() - buffer.len(), "within the buffer");
                    // SAFETY: (4) the kernel has written so many bytes after the old length, and
                    // there was room for them.
                    unsafe { buffer.set_len(buffer.len() + received) };
                }
                Landed::Done(Outcome::Received { buffer, result })
            }
            Work::Send(sending) => sending.land(result, plan),
        }
    }
}

impl Sending {
    /// Names the bytes not yet sent: as one piece where possible, else by a message header.
    fn entry(&self, message: &mut Message) -> squeue::Entry {
        let fd = Fd(self.stream.as_raw_fd());
        // The kernel itself continues a send that finds the socket full.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let head = Piece::new(&self.head).skip(self.sent);
        let body = self.bytes.skip(self.sent.saturating_sub(self.head.len()));
        match (head.length, body.length) {
            (_, 0) => opcode::Send::new(fd, head.start, length(head.length)).flags(flags).build(),
            (0, _) => opcode::Send::new(fd, body.start, length(body.length)).flags(flags).build(),
            (_, _) => {
                let header = message.fill(head, body);
                opcode::SendMsg::new(fd, header).flags(flags as u32).build()
            }
        }
    }

    fn land(mut self, result: io::Result<usize>, plan: Plan) -> Landed {
        let result = match result {
            Ok(sent) => match self.progress(sent, plan) {
                Some(result) => result,
                None => return Landed::Short(Work::Send(self)),
            },
            Err(error) => Err(error),
        };
        drop(self.body.take());
        Landed::Done(Outcome::Sent { head: self.head, result })
    }

    /// Counts what was sent; `None` when the rest is to follow.
    fn progress(&mut self, sent: usize, plan: Plan) -> Option<io::Result<()>> {
        let total = self.head.len() + self.bytes.length;
        self.sent += sent;
        assert!(self.sent <= total, "no more is sent than there is");
        if self.sent == total {
            Some(Ok(()))
        } else if sent == 0 {
            Some(Err(io::ErrorKind::WriteZero.into()))
        } else if plan == Plan::GiveUp {
            Some(Err(io::Error::from_raw_os_error(libc::ECANCELED)))
        } else {
            None
        }
    }
}

impl Piece {
    fn new(bytes: &[u8]) -> Self {
        Piece { start: bytes.as_ptr(), length: bytes.len() }
    }

    fn skip(self, count: usize) -> Self {
        let count = count.min(self.length);
        Piece { start: self.start.wrapping_add(count), length: self.length - count }
    }

    fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.start.cast_mut().cast(), iov_len: self.length }
    }
}

impl Message {
    fn new() -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: (6).
        let header = unsafe { std::mem::zeroed() };
        Message { pieces: [nothing; 2], header }
    }

    /// Describes two pieces, and gives the address under which the kernel finds the description.
    fn fill(&mut self, head: Piece, body: Piece) -> *const libc::msghdr {
        self.pieces = [head.iovec(), body.iovec()];
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len();
        &raw const self.header
    }
}

/// The kernel counts in 32 bits; what is beyond is a short operation.
fn length(bytes: usize) -> u32 {
    bytes.min(i32::MAX as usize) as u32
}

fn accepted(descriptor: usize) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    // SAFETY: (5) this is the result of a successful accept.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    let stream = TcpStream::from(descriptor);
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}
