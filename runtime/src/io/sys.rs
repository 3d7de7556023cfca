//! The few system calls that std has no safe form of. An island of unsafe code.
//!
//! 1. A descriptor passed to a call is borrowed for the call, so it is open throughout.
//! 2. A descriptor returned by a successful call is new and owned by nobody else.
//! 3. Memory passed to a call is a live Rust reference for the call, of the length given with it.
//! 4. The kernel's plain structures consist of integers and pointers, for which zero is a value.
//! 5. A landing's spot is good for the bytes that are missing, and nobody else writes there while we
//!    hold the landing.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use drizzle_shuffle::Landing;

/// Turns the -1 of a system call into its error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Asks the kernel to end this thread's timed sleeps within `nanoseconds` after their time. The
/// default of 50 us is most of the overshoot of a short timeout.
pub fn set_timer_slack(nanoseconds: u64) {
    let slack = nanoseconds as libc::c_ulong;
    // SAFETY: (3) the call takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack) };
}

/// A non-blocking counter that becomes readable when written.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: (3) the call takes numbers only.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: (2) the call above succeeded.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable.
pub(super) fn signal(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: (1), (3). The only failure, a full counter, means that it is readable already.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Makes an eventfd unreadable again.
pub(super) fn drain(event: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: (1), (3). The only failure, an empty counter, is what is wanted.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// An event of epoll: its flags and the key given when it was registered.
pub(super) type Event = libc::epoll_event;

/// A new epoll instance.
pub(super) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: (3) the call takes a number only.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: (2) the call above succeeded.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a descriptor, edge-triggered for both directions.
pub(super) fn epoll_add(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
    let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
    let mut event = Event { events: flags as u32, u64: key };
    let mut control = |operation| {
        // SAFETY: (1), (3).
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })
    };
    match control(libc::EPOLL_CTL_ADD) {
        // The same socket under the same number as before, kept open by a duplicate meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => control(libc::EPOLL_CTL_MOD),
        result => result,
    }
    .map(drop)
}

/// Takes the events that have come, without waiting.
pub(super) fn epoll_take(epoll: BorrowedFd<'_>, events: &mut [Event]) -> usize {
    let room = events.len() as libc::c_int;
    // SAFETY: (1), (3) `room` is the length of `events`.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), room, 0) };
    // The only failure of a call that does not wait is a signal.
    usize::try_from(count).unwrap_or(0)
}

/// Waits until a descriptor is readable. A signal ends the wait too.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: (1), (3) one entry, and a time that lives as long as this function or none.
    unsafe { libc::ppoll(&mut poll, 1, time, ptr::null()) };
}

/// Appends what has arrived, without waiting, at most `limit` bytes.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let (start, length) = (room.as_mut_ptr().cast(), room.len().min(limit));
    let count = retry(|| {
        // SAFETY: (1), (3) the kernel writes within the buffer's spare capacity.
        unsafe { libc::recv(fd.as_raw_fd(), start, length, libc::MSG_DONTWAIT) }
    })?;
    // SAFETY: (3) the kernel has written so many bytes after the old length.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// Receives what has arrived to where it will stay, without waiting.
pub(super) fn land(fd: BorrowedFd<'_>, landing: &mut Landing) -> io::Result<usize> {
    let (start, length) = landing.spot();
    let count = retry(|| {
        // SAFETY: (1), (5) the kernel writes within the landing, which we hold.
        unsafe { libc::recv(fd.as_raw_fd(), start.as_ptr().cast(), length, libc::MSG_DONTWAIT) }
    })?;
    landing.advance(count);
    Ok(count)
}

/// Sends what the socket takes of these pieces, without waiting. At most 1,024.
pub(super) fn send(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: (4).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // std promises that an `IoSlice` is laid out as an `iovec`; the kernel only reads them.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| {
        // SAFETY: (1), (3) the message names live slices.
        unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) }
    })
}

/// Repeats a call that a signal has interrupted.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// The limit of locked memory in bytes; the highest number means none.
pub(super) fn memlock_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: (3) `limit` is a live local of the type that the call fills in.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    assert_eq!(result, 0, "this limit exists on every Linux");
    limit.rlim_cur
}
