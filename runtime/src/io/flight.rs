//! What the kernel works on: operations in the ring and the memory that they own. An island of
//! unsafe code, kept apart from the ring so that its rules can be tested without one.
//!
//! Sends are copied by the kernel. `SEND_ZC` is measured beside `SEND` by `perf/` (`data-plane`, with
//! [`super::bare`]): over loopback every notification says that the bytes were copied all the same,
//! and the stream has 86 to 96 % of the rate at 4 KiB, 62 to 72 % at 64 KiB, 54 to 70 % at 1 MiB (two runs
//! of three rounds, Linux 6.18, two virtual cores). So it is not built here; it would be worth it per
//! route, as long as its notifications say "not copied".
//!
//! 1. A [`Flight`] owns all memory named in its submission: a `Vec`'s heap block, a body held by
//!    an `Arc`, the segment of a landing, the list of a send's pieces, the message header in `messages`,
//!    the number of a descriptor that is to be installed. None of it moves when the flight, the slots
//!    or the driver move: they are blocks of their own on the heap, `messages` is never resized, and it
//!    is reached by raw pointers only.
//! 2. A slot is vacated by the last completion of its submission only, and a submission names its slot. So
//!    between `take_off` and `land` nobody touches that memory but the kernel.
//! 3. A body's bytes stay as they are while its `Arc` is held: `as_ref` borrowed them from a value that,
//!    as long as we hold a count, nobody can get mutably or drop. They are asked for once.
//! 4. The kernel reports no more bytes than it was given room for, and has written those.
//! 5. A descriptor in an accept's completion is new and nobody else's.
//! 6. A `msghdr` consists of integers and pointers, for which zero is a value.
//! 7. A landing's spot is good for the bytes that are missing, and nobody else writes there while we
//!    hold the landing.
//! 8. A submission names a descriptor of a socket that its flight holds, or a place in the ring's table
//!    of files, which is cleared only after everything that names it was submitted. So no other file can
//!    have come to stand there.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use drizzle_shuffle::Landing;
use io_uring::types::{CancelBuilder, Fd, Fixed};
use io_uring::{opcode, squeue};

use super::buffers::GROUP;
use super::{Body, Completion, Op, Outcome, Token};

/// The most bytes that one receive lands: they are still in the second cache when they are looked at.
const PIECE: usize = 256 << 10;

/// The operations in flight, each in a slot whose index is the submission's user data.
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    vacant: Vec<usize>,
    /// One header a slot, for sends of several pieces.
    messages: Vec<libc::msghdr>,
    /// Slots whose send was cut short and must be submitted again.
    short: Vec<usize>,
    /// How many are the ring's own.
    own: usize,
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
    /// The socket's place in the ring's table of files, if it has one.
    file: Option<usize>,
    /// The held stream that wants to know how much a receive brings.
    watcher: Option<usize>,
}

/// What the ring does for itself. Places are those of [`super::held`].
pub(super) enum Own {
    /// Receives whatever comes to provided buffers, with a completion for each.
    Stand { place: usize },
    /// Puts a stream into the table of files.
    Install {
        place: usize,
        /// Keeps the descriptor open.
        _stream: Arc<TcpStream>,
        /// Where the kernel finds its number.
        descriptor: Box<RawFd>,
    },
    /// Takes a stream out of the table of files.
    Leave { place: usize },
    /// Ends the operation of a flight.
    Cancel { flight: usize },
}

impl Own {
    pub(super) fn install(place: usize, stream: Arc<TcpStream>) -> Own {
        let descriptor = Box::new(stream.as_raw_fd());
        Own::Install { place, _stream: stream, descriptor }
    }
}

/// What a completion tells.
pub(super) enum Event {
    /// An operation is done; and what a receive has brought to a held stream that watches.
    Completed(Completion, Option<(usize, usize)>),
    /// A send was cut short and is to be submitted again.
    CutShort,
    /// A standing receive goes on.
    Stands { place: usize },
    /// Something of the ring's own is over.
    Over(Own),
}

enum Work {
    Own(Own),
    Accept { listener: Arc<TcpListener> },
    Recv { stream: Arc<TcpStream>, buffer: Vec<u8>, limit: usize },
    Land { stream: Arc<TcpStream>, landing: Landing },
    Send(Sending),
}

struct Sending {
    stream: Arc<TcpStream>,
    head: Vec<u8>,
    /// Keep what `pieces` name alive.
    bodies: Vec<Body>,
    /// What is still to be sent: of the head, and of the bodies, asked for once.
    pieces: Vec<libc::iovec>,
    /// Those before this one are sent.
    first: usize,
}

impl Flights {
    pub(super) fn new(limit: usize) -> Self {
        Flights {
            slots: (0..limit).map(|_| None).collect(),
            vacant: (0..limit).rev().collect(),
            messages: (0..limit).map(|_| no_message()).collect(),
            short: Vec::new(),
            own: 0,
            plan: Plan::Finish,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.vacant.is_empty()
    }

    /// Operations that were asked for.
    pub(super) fn operations(&self) -> usize {
        self.slots.len() - self.vacant.len() - self.own
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.vacant.len()
    }

    /// From now on no send that was cut short is continued.
    pub(super) fn give_up(&mut self) {
        self.plan = Plan::GiveUp;
    }

    /// Gives an operation a slot and says what to submit. The caller has asked for room.
    pub(super) fn take_off(
        &mut self,
        token: Token,
        op: Op,
        file: Option<usize>,
        watcher: Option<usize>,
    ) -> squeue::Entry {
        let index = self.settle(Flight { token, work: Work::new(op), file, watcher });
        self.entry(index)
    }

    /// The same for something of the ring's own; and its slot.
    pub(super) fn take_off_own(&mut self, own: Own) -> (usize, squeue::Entry) {
        self.own += 1;
        let work = Work::Own(own);
        let index = self.settle(Flight { token: 0, work, file: None, watcher: None });
        (index, self.entry(index))
    }

    fn settle(&mut self, flight: Flight) -> usize {
        let index = self.vacant.pop().expect("the caller has asked for room");
        self.slots[index] = Some(flight);
        index
    }

    /// What to submit again, if a send was cut short.
    pub(super) fn again(&mut self) -> Option<squeue::Entry> {
        let index = self.short.pop()?;
        Some(self.entry(index))
    }

    /// Takes a completion, after which there are more of its submission or not.
    pub(super) fn land(&mut self, index: usize, result: i32, more: bool) -> Event {
        let flight =
            self.slots[index].take().expect("a completion names the slot of its submission");
        if more && let Work::Own(Own::Stand { place }) = flight.work {
            self.slots[index] = Some(flight);
            return Event::Stands { place };
        }
        assert!(!more, "only standing receives go on");
        let result = if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(result as usize)
        };
        match flight.work.land(result, self.plan) {
            Landed::Done(outcome) => {
                self.vacant.push(index);
                let brought = match (&outcome, flight.watcher) {
                    (Outcome::Received { result: Ok(count), .. }, Some(place)) => {
                        Some((place, *count))
                    }
                    _ => None,
                };
                Event::Completed(Completion { token: flight.token, outcome }, brought)
            }
            Landed::Short(work) => {
                self.slots[index] = Some(Flight { work, ..flight });
                self.short.push(index);
                Event::CutShort
            }
            Landed::Over(own) => {
                self.vacant.push(index);
                self.own -= 1;
                Event::Over(own)
            }
        }
    }

    fn entry(&mut self, index: usize) -> squeue::Entry {
        assert!(index < self.messages.len(), "one message a slot");
        let message = self.messages.as_mut_ptr().wrapping_add(index);
        let flight = self.slots[index].as_mut().expect("only taken slots are submitted");
        let (file, flags) = match flight.file {
            Some(place) => (Some(place as RawFd), squeue::Flags::FIXED_FILE),
            None => (None, squeue::Flags::empty()),
        };
        let fd = |stream: &TcpStream| Fd(file.unwrap_or_else(|| stream.as_raw_fd()));
        let entry = match &mut flight.work {
            Work::Own(own) => own.entry(),
            Work::Accept { listener } => {
                let fd = Fd(listener.as_raw_fd());
                let accept = opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut());
                accept.flags(libc::SOCK_CLOEXEC).build()
            }
            Work::Recv { stream, buffer, limit } => {
                let room = buffer.spare_capacity_mut();
                let start = room.as_mut_ptr().cast();
                let room = room.len().min(*limit);
                opcode::Recv::new(fd(stream), start, length(room)).build()
            }
            Work::Land { stream, landing } => {
                let (start, room) = landing.spot();
                let room = room.min(PIECE);
                // The kernel itself waits for all of it: each look would cost more than it gains.
                let recv = opcode::Recv::new(fd(stream), start.as_ptr(), length(room));
                recv.flags(libc::MSG_WAITALL).build()
            }
            Work::Send(sending) => {
                let fd = fd(&sending.stream);
                // SAFETY: (1), (2) `index` is within the block, and the kernel does not have this slot now.
                sending.entry(fd, unsafe { &mut *message })
            }
        };
        entry.flags(flags).user_data(index as u64)
    }
}

impl Own {
    fn entry(&self) -> squeue::Entry {
        match self {
            Own::Stand { place } => opcode::RecvMulti::new(Fixed(*place as u32), GROUP).build(),
            Own::Install { place, descriptor, .. } => {
                let update = opcode::FilesUpdate::new(&raw const **descriptor, 1);
                update.offset(*place as i32).build()
            }
            Own::Leave { place } => opcode::Close::new(Fixed(*place as u32)).build(),
            Own::Cancel { flight } => {
                let flight = CancelBuilder::user_data(*flight as u64);
                opcode::AsyncCancel2::new(flight).build()
            }
        }
    }
}

/// What a completion means for its operation.
enum Landed {
    Done(Outcome),
    Short(Work),
    Over(Own),
}

impl Work {
    fn new(op: Op) -> Self {
        match op {
            Op::Accept { listener } => Work::Accept { listener },
            Op::Recv { stream, buffer, limit } => Work::Recv { stream, buffer, limit },
            Op::Land { stream, landing } => Work::Land { stream, landing },
            Op::Send { stream, head, bodies } => {
                let of_bodies = bodies.iter().map(|body| (**body).as_ref());
                let all = std::iter::once(&head[..]).chain(of_bodies);
                let pieces = all.filter(|piece| !piece.is_empty()).map(iovec).collect();
                Work::Send(Sending { stream, head, bodies, pieces, first: 0 })
            }
        }
    }

    fn land(self, result: io::Result<usize>, plan: Plan) -> Landed {
        match self {
            Work::Own(own) => Landed::Over(own),
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
            Work::Land { mut landing, .. } => {
                // (4) the kernel has written so many bytes.
                result.iter().for_each(|&received| landing.advance(received));
                Landed::Done(Outcome::Landed { landing, result })
            }
            Work::Send(sending) => sending.land(result, plan),
        }
    }
}

impl Sending {
    /// Names the bytes not yet sent: as one piece where possible, else by a message header.
    fn entry(&mut self, fd: Fd, message: &mut libc::msghdr) -> squeue::Entry {
        // The kernel itself continues a send that finds the socket full.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        match &mut self.pieces[self.first..] {
            [] => opcode::Send::new(fd, ptr::null(), 0).flags(flags).build(),
            [piece] => {
                let start = piece.iov_base.cast_const().cast();
                opcode::Send::new(fd, start, length(piece.iov_len)).flags(flags).build()
            }
            pieces => {
                message.msg_iov = pieces.as_mut_ptr();
                message.msg_iovlen = pieces.len();
                opcode::SendMsg::new(fd, message).flags(flags as u32).build()
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
        let Sending { head, bodies, .. } = self;
        drop(bodies);
        Landed::Done(Outcome::Sent { head, result })
    }

    /// Counts what was sent; `None` when the rest is to follow.
    fn progress(&mut self, sent: usize, plan: Plan) -> Option<io::Result<()>> {
        let mut left = sent;
        while let Some(piece) = self.pieces.get_mut(self.first) {
            let count = left.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(count);
            piece.iov_len -= count;
            left -= count;
            if piece.iov_len > 0 {
                break;
            }
            self.first += 1;
        }
        assert!(left == 0, "no more is sent than there is");
        if self.first == self.pieces.len() {
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

/// Names bytes that somebody else keeps alive.
fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn no_message() -> libc::msghdr {
    // SAFETY: (6).
    unsafe { std::mem::zeroed() }
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
