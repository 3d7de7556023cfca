//! The driver on an own io_uring ring. An island of unsafe code.
//!
//! The ring is set up as measured best: one issuer, deferred task work announced by a flag in shared
//! memory, a completion queue four times the submission queue. Reading the flag and the completion
//! queue costs no system call, so an idle `poll` makes none. What operations own while the kernel
//! works on them is kept in [`super::flight`]; what a ring does for streams that it holds is decided
//! in [`super::held`]. Where the kernel refuses its table of files or its buffers, streams are not held
//! and everything goes by descriptors, once per operation; [`probe`] finds out and it is said at start.
//!
//! 1. Memory named in a submission stays where it is, and is not touched by us, until its completion: it
//!    belongs to a [`Flight`] in a slot, which only a completion vacates; [`Flights`] says why
//!    moving the driver does not move that memory.
//! 2. At most as many operations are in flight as there are slots. Each has exactly one last completion,
//!    and only standing receives have others, of which each takes one of `BUFFERS` buffers that come back
//!    only after it was seen. The completion queue has room for all of these, and `RESERVED` entries
//!    beyond for wakes and the cancellation. So it never overflows.
//! 3. Dropping the driver closes it first: stop submitting, cancel, drain, free. What cannot be
//!    drained is leaked, never freed, the buffers included.
//! 4. A descriptor in an accept's completion is new and nobody else's.
//! 5. The waker's eventfd lives as long as the driver. It is either polled within the ring (the driver
//!    parks itself) or registered with the ring (a host parks for it), never both: the kernel
//!    defers a signal that one eventfd causes on another.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use super::buffers::ProvidedBuffers;
use super::flight::{Event, Flights, Own};
use super::held::{Ahead, HeldStreams, Step};
use super::{Completion, ExternalPark, Io, Op, Readiness, SystemCalls, Token, Waker, sys};

/// Entries of the submission queue. More rings fit into the limit of locked memory than with larger ones.
const ENTRIES: u32 = 256;

/// Entries of the completion queue that no operation may use.
const RESERVED: u32 = 8;

/// Buffers for what arrives ahead of the operations that ask for it: messages, not bulk. Measured best
/// where this was tried without the engine around it.
const BUFFERS: u16 = 64;
const BUFFER_BYTES: usize = 4 << 10;

/// Places for streams that the ring holds. The kernel permits as many as a process may have files.
const FILES: u32 = 512;

/// What marks completions that belong to no operation.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// How often closing waits for the kernel, and for how long each time, before it leaks what is left.
const CLOSE_ROUNDS: u32 = 100;
const CLOSE_WAIT: Duration = Duration::from_millis(50);

/// The opcodes that this driver uses.
const OPCODES: [(u8, &str); 8] = [
    (opcode::Accept::CODE, "accept"),
    (opcode::Recv::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::AsyncCancel2::CODE, "cancel"),
    (opcode::FilesUpdate::CODE, "files_update"),
    (opcode::Close::CODE, "close"),
];

/// A driver of IO on a ring of its own.
pub struct UringIo {
    /// Before what it may write to.
    ring: IoUring,
    flights: Flights,
    buffers: Option<ProvidedBuffers>,
    held: HeldStreams,
    /// Held streams for which there may be something to do.
    stirred: Vec<usize>,
    /// Done, and to be told by the next poll.
    done: Vec<Completion>,
    /// Submitted, but beyond what may be in flight.
    waiting: VecDeque<(Token, Op)>,
    waker: Waker,
    parking: Parking,
    calls: SystemCalls,
    state: State,
    /// The ring belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// How the waker's eventfd reaches the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parking {
    /// Nobody has parked yet.
    Undecided,
    /// In the ring: a multishot poll, which the kernel may have ended.
    Internal { polled: bool },
    /// Registered with the ring, and watched by the host.
    External,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

impl UringIo {
    /// Makes a ring for the calling thread, which alone may use it.
    pub fn new() -> io::Result<Self> {
        let mut ring = build(ENTRIES).map_err(|error| explain(&error))?;
        // Saves looking the descriptor up in each call. Where it is not to be had, the ring works too.
        let _ = ring.submitter().register_ring_fd();
        ring.completion().disable_eventfd();
        let limit = ring.params().cq_entries() - RESERVED - u32::from(BUFFERS);
        let files = ring.submitter().register_files_sparse(FILES).map_or(0, |()| FILES);
        let buffers = provide(&ring).ok();
        let ahead = if buffers.is_some() { Ahead::Possible } else { Ahead::Refused };
        Ok(UringIo {
            ring,
            flights: Flights::new(limit as usize),
            buffers,
            held: HeldStreams::new(files as usize, ahead),
            stirred: Vec::new(),
            done: Vec::new(),
            waiting: VecDeque::new(),
            waker: Waker::new()?,
            parking: Parking::Undecided,
            calls: SystemCalls::default(),
            state: State::Open,
            _not_send: PhantomData,
        })
    }

    /// Moves waiting operations into the submission queue as far as the limit permits.
    fn start(&mut self) {
        while let Some(entry) = self.flights.again() {
            self.push(&entry);
        }
        self.settle();
        while self.flights.has_room()
            && let Some((token, op)) = self.waiting.pop_front()
        {
            match op.receives_from().and_then(|stream| self.held.place_of(stream)) {
                Some(place) => {
                    self.held.ask(place, token, op);
                    self.stir(place);
                }
                None => self.launch(token, op, None),
            }
        }
    }

    /// Submits an operation. The caller has asked for room.
    fn launch(&mut self, token: Token, op: Op, watcher: Option<usize>) {
        let file = op.stream().and_then(|stream| self.held.file_of(stream));
        let entry = self.flights.take_off(token, op, file, watcher);
        self.push(&entry);
    }

    /// The same for something of the ring's own; which flight it is.
    fn launch_own(&mut self, own: Own) -> usize {
        let (flight, entry) = self.flights.take_off_own(own);
        self.push(&entry);
        flight
    }

    /// Does what there is to do for held streams, as far as there is room for it.
    fn settle(&mut self) {
        if self.state == State::Closed {
            return;
        }
        for place in std::mem::take(&mut self.stirred) {
            self.stir(place);
        }
    }

    /// Does what there is to do for a held stream, or notes it until there is room.
    fn stir(&mut self, place: usize) {
        if !self.flights.has_room() {
            self.stirred.push(place);
            return;
        }
        match self.held.step(place, self.buffers.as_mut()) {
            Step::Rest => {}
            Step::Done(completion) => self.done.push(completion),
            Step::Stand => {
                let flight = self.launch_own(Own::Stand { place });
                self.held.stands(place, flight);
            }
            Step::Stop(flight) => {
                self.launch_own(Own::Cancel { flight });
                self.held.stops(place);
            }
            Step::Once(token, op) => {
                let watcher = op.takes_anything().then_some(place);
                self.launch(token, op, watcher);
            }
            Step::Leave => {
                self.launch_own(Own::Leave { place });
            }
        }
    }

    /// Queues one submission, making room by a system call if need be.
    fn push(&mut self, entry: &squeue::Entry) {
        while self.ring.submission().is_full() {
            self.enter();
        }
        // SAFETY: (1) entries come from `Flights`, whose memory stays put until the completion, or
        // name no memory at all; there is room.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("there is room: only this thread pushes");
    }

    /// Hands queued submissions to the kernel and lets it finish deferred work, without waiting.
    fn enter(&mut self) {
        self.calls.enters += 1;
        match self.ring.submit() {
            Ok(_) => {}
            Err(error) => assert!(is_temporary(&error), "the ring cannot be entered: {error}"),
        }
    }

    /// Whether the kernel has something to do for us that it does only when called.
    fn must_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn has_completions(&mut self) -> bool {
        !self.done.is_empty() || !self.ring.completion().is_empty()
    }

    /// Turns what the completion queue holds into completions.
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            match entry.user_data() {
                WAKE => {
                    if !cqueue::more(entry.flags()) {
                        self.parking = Parking::Internal { polled: false };
                    }
                }
                CANCEL => {}
                index => {
                    let (result, flags) = (entry.result(), entry.flags());
                    let event = self.flights.land(index as usize, result, cqueue::more(flags));
                    if let Some(buffer) = cqueue::buffer_select(flags)
                        && let Event::Stands { place } | Event::Over(Own::Stand { place }) = event
                    {
                        let buffers = self.buffers.as_ref().expect("the kernel took one");
                        self.held.arrived(place, buffers.piece(buffer, length(result)));
                    }
                    self.stirred.extend(self.held.note(event, result, completions));
                }
            }
        }
        self.settle();
        completions.append(&mut self.done);
    }

    /// Makes the waker's eventfd end a wait in the ring.
    fn watch_waker(&mut self) {
        assert!(self.parking != Parking::External, "a driver is parked always in the same way");
        if self.parking == (Parking::Internal { polled: true }) {
            return;
        }
        let event = Fd(self.waker.event().as_raw_fd());
        let poll = opcode::PollAdd::new(event, libc::POLLIN as u32).multi(true).build();
        self.push(&poll.user_data(WAKE));
        self.parking = Parking::Internal { polled: true };
    }

    /// Waits in the ring for a completion.
    fn wait(&mut self, timeout: Option<Duration>) {
        self.calls.enters += 1;
        let result = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        if let Err(error) = result {
            assert!(is_temporary(&error), "the ring cannot be waited for: {error}");
        }
    }

    /// Cancels what is in flight and waits for its completions.
    fn cancel_all(&mut self, completions: &mut Vec<Completion>) {
        self.flights.give_up();
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.push(&cancel.user_data(CANCEL));
        for _ in 0..CLOSE_ROUNDS {
            self.enter();
            self.reap(completions);
            if self.flights.is_empty() {
                return;
            }
            self.wait(Some(CLOSE_WAIT));
        }
    }
}

impl Io for UringIo {
    fn submit(&mut self, token: Token, op: Op) {
        assert!(self.state == State::Open, "nothing is submitted after closing");
        op.check();
        self.waiting.push_back((token, op));
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.start();
        if self.must_enter() {
            self.enter();
        }
        self.reap(completions);
    }

    fn park(&mut self, timeout: Option<Duration>) {
        self.watch_waker();
        self.start();
        if self.waker.begin_park() == Readiness::Ready {
            return;
        }
        if !self.has_completions() {
            self.wait(timeout);
        }
        self.waker.end_park();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn pending(&self) -> usize {
        self.waiting.len() + self.flights.operations() + self.held.waiting() + self.done.len()
    }

    fn calls(&self) -> SystemCalls {
        SystemCalls { wakes: self.waker.writes(), ..self.calls }
    }

    fn hold(&mut self, stream: &Arc<TcpStream>) {
        assert!(self.state == State::Open, "nothing is held after closing");
        self.stirred.extend(self.held.abandoned());
        self.settle();
        if self.flights.has_room()
            && let Some(place) = self.held.take(stream)
        {
            self.launch_own(Own::install(place, stream.clone()));
        }
    }

    fn close(&mut self, completions: &mut Vec<Completion>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        completions.append(&mut self.done);
        let waiting = self.waiting.drain(..).chain(self.held.close(self.buffers.as_mut()));
        completions
            .extend(waiting.map(|(token, op)| Completion { token, outcome: op.cancelled() }));
        if !self.flights.is_empty() {
            self.cancel_all(completions);
        }
        // The table is the last that keeps sockets open whose owners have dropped them.
        let _ = self.ring.submitter().unregister_files();
    }

    fn external(&mut self) -> Option<&mut dyn ExternalPark> {
        Some(self)
    }
}

impl ExternalPark for UringIo {
    fn begin(&mut self) -> Readiness {
        self.register_waker();
        self.start();
        if self.must_enter() {
            self.enter();
        }
        if self.waker.begin_park() == Readiness::Ready {
            return Readiness::Ready;
        }
        self.ring.completion().enable_eventfd();
        // The kernel announces work and then looks whether it should signal; we enable and then look
        // for announced work.
        fence(Ordering::SeqCst);
        if self.has_completions() || self.must_enter() {
            self.end();
            return Readiness::Ready;
        }
        Readiness::Waiting
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.waker.event()
    }

    fn end(&mut self) {
        self.ring.completion().disable_eventfd();
        self.waker.end_park();
        sys::drain(self.waker.event());
        self.calls.drains += 1;
    }
}

impl UringIo {
    fn register_waker(&mut self) {
        if self.parking == Parking::External {
            return;
        }
        assert!(self.parking == Parking::Undecided, "a driver is parked always in the same way");
        let event = self.waker.event().as_raw_fd();
        let registered = self.ring.submitter().register_eventfd(event);
        registered.expect("the probe has seen that an eventfd can be registered");
        self.parking = Parking::External;
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        self.close(&mut Vec::new());
        if !self.flights.is_empty() {
            // (3) The kernel may still write there.
            std::mem::forget(std::mem::replace(&mut self.flights, Flights::new(0)));
            std::mem::forget(self.buffers.take());
        }
    }
}

/// Of a zero-copy send: its notification is to tell whether bytes were copied. Not in the `io-uring` crate's
/// interface.
pub(super) const REPORT_USAGE: u16 = 1 << 3;

/// Whether the notification of a zero-copy send tells that.
pub(super) fn was_copied(result: i32) -> bool {
    const COPIED: u32 = 1 << 31;
    result.cast_unsigned() & COPIED != 0
}

pub(super) fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries * 4)
        .build(entries)
}

/// Gives a ring buffers for what arrives unasked.
fn provide(ring: &IoUring) -> io::Result<ProvidedBuffers> {
    let buffers = ProvidedBuffers::new(BUFFERS, BUFFER_BYTES)?;
    buffers.register(&ring.submitter())?;
    Ok(buffers)
}

/// How many bytes a completion tells of.
fn length(result: i32) -> usize {
    usize::try_from(result).unwrap_or(0)
}

/// Errors after which the next call may succeed.
fn is_temporary(error: &io::Error) -> bool {
    let temporary = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME];
    error.raw_os_error().is_some_and(|code| temporary.contains(&code))
}

fn explain(error: &io::Error) -> io::Error {
    let reason = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        Some(libc::EPERM | libc::EACCES) => "io_uring is forbidden here (a container's seccomp \
            profile, or sysctl kernel.io_uring_disabled)"
            .to_owned(),
        Some(libc::EINVAL) => {
            "this kernel's io_uring lacks deferred task work (Linux 6.1)".to_owned()
        }
        Some(libc::ENOMEM) => {
            "the limit of locked memory (ulimit -l) has no room for a ring".to_owned()
        }
        _ => format!("a ring cannot be set up: {error}"),
    };
    io::Error::new(error.kind(), reason)
}

/// Whether this driver works here, or why not, by setting up a small ring and asking it for opcodes.
pub(super) fn probe() -> Result<Found, String> {
    let ring = build(4).map_err(|error| explain(&error).to_string())?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err("this kernel's io_uring has no timed waits".to_owned());
    }
    let mut probe = Probe::new();
    let registered = ring.submitter().register_probe(&mut probe);
    registered.map_err(|error| format!("io_uring does not list its operations: {error}"))?;
    if let Some((_, name)) = OPCODES.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(format!("this kernel's io_uring lacks the operation {name}"));
    }
    let waker = Waker::new().map_err(|error| format!("no eventfd can be made: {error}"))?;
    let registered = ring.submitter().register_eventfd(waker.event().as_raw_fd());
    registered.map_err(|error| format!("io_uring takes no eventfd: {error}"))?;
    let files = ring.submitter().register_files_sparse(FILES);
    let files = files.map_err(|error| format!("io_uring takes no table of files: {error}"));
    let buffers = provide(&ring).map(drop);
    let buffers = buffers.map_err(|error| format!("io_uring takes no ring of buffers: {error}"));
    // The buffers are gone, but nothing was submitted that would take one.
    Ok(Found { opcodes: Opcodes(probe), holding: files.and(buffers) })
}

/// What a ring that works here can do.
pub(super) struct Found {
    pub(super) opcodes: Opcodes,
    /// Whether it can hold streams, or why not.
    pub(super) holding: Result<(), String>,
}

/// The operations that the kernel offers.
pub(super) struct Opcodes(Probe);

impl Opcodes {
    pub(super) fn has(&self, code: u8) -> bool {
        self.0.is_supported(code)
    }
}
