//! The barest stream that a ring can do, for measurements: what a connection of the engine is compared
//! with. One end sends a block again and again, the other takes bytes by one standing receive to
//! provided buffers. No frames, no checksums, nothing is looked at. An island of unsafe code.
//!
//! 1. Memory named in a submission is owned by the function that submits it, does not move, and is freed
//!    only after the last completion that speaks of it. Where that is not awaited, because something
//!    failed before, it is leaked.
//! 2. The stream is borrowed for the whole function, so its descriptor is open throughout.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::{GROUP, ProvidedBuffers};
use super::uring;

/// Buffers of the receiving end, each as large as the pieces in which the engine receives bodies. Other
/// sizes and numbers were not tried.
const BUFFERS: u16 = 8;
const BUFFER_BYTES: usize = 256 << 10;

/// Zero-copy sends whose memory the kernel has not given back. Their completions and all others fit into
/// the completion queue, which is four times as long as the submission queue.
const MAX_UNRETURNED: u64 = 64;
const ENTRIES: u32 = 64;

/// What marks the completion of the cancellation.
const CANCEL: u64 = 1;

/// How a block is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// By `SEND`, which copies.
    Copied,
    /// By `SEND_ZC`, which asks the kernel to send from where the bytes lie.
    ZeroCopy,
}

/// What the kernel said of zero-copy sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Sends whose memory was given back.
    pub sends: u64,
    /// Those of which some bytes were copied all the same.
    pub copied: u64,
}

/// A small ring in whose table of files one stream stands.
struct Bare {
    ring: IoUring,
    file: Fixed,
}

impl Bare {
    fn new(stream: &TcpStream) -> io::Result<Bare> {
        let ring = uring::build(ENTRIES)?;
        ring.submitter().register_files(&[stream.as_raw_fd()])?;
        Ok(Bare { ring, file: Fixed(0) })
    }

    /// Queues a submission, for which there is room.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: (1), (2) as both callers see to.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("a submission or two at a time");
    }

    /// The next completion, awaited awake.
    fn next(&mut self) -> io::Result<cqueue::Entry> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                return Ok(entry);
            }
            let queue = self.ring.submission();
            if !queue.is_empty() || queue.taskrun() {
                drop(queue);
                self.ring.submit()?;
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Sends `block` so often, one send after the other.
///
/// # Errors
/// What the kernel answers.
pub fn send(
    stream: &TcpStream,
    block: &Arc<Vec<u8>>,
    times: u64,
    sending: Sending,
) -> io::Result<Notified> {
    let (mut bare, block) = (Bare::new(stream)?, block.clone());
    let result = (0..times).try_fold(Notified::default(), |notified, sent| {
        bare.send_one(&block, sending, sent, notified)
    });
    let result = result.and_then(|notified| match sending {
        Sending::Copied => Ok(notified),
        Sending::ZeroCopy => bare.settle(times, notified),
    });
    if result.is_err() {
        // (1) The kernel may still read it.
        std::mem::forget(block);
    }
    result
}

/// Takes so many bytes.
///
/// # Errors
/// What the kernel answers, or that the stream ended before.
pub fn drain(stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let mut bare = Bare::new(stream)?;
    let mut buffers = ProvidedBuffers::new(BUFFERS, BUFFER_BYTES)?;
    buffers.register(&bare.ring.submitter())?;
    let result = bare.drain(&mut buffers, bytes);
    if result.is_err() {
        // (1) The kernel may still write there.
        std::mem::forget(buffers);
    }
    result
}

impl Bare {
    /// Sends the block once, after `sent` others, and counts what was given back meanwhile.
    fn send_one(
        &mut self,
        block: &[u8],
        sending: Sending,
        sent: u64,
        mut notified: Notified,
    ) -> io::Result<Notified> {
        let (start, length) = (block.as_ptr(), block.len() as u32);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        self.push(&match sending {
            Sending::Copied => opcode::Send::new(self.file, start, length).flags(flags).build(),
            Sending::ZeroCopy => {
                let send = opcode::SendZc::new(self.file, start, length).flags(flags);
                send.zc_flags(uring::REPORT_USAGE).build()
            }
        });
        loop {
            let entry = self.next()?;
            if cqueue::notif(entry.flags()) {
                notified.count(entry.result());
                continue;
            }
            if length_of(&entry)? != block.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            break;
        }
        while sending == Sending::ZeroCopy && sent + 1 - notified.sends >= MAX_UNRETURNED {
            notified.count(self.next()?.result());
        }
        Ok(notified)
    }

    /// Waits until all memory was given back.
    fn settle(&mut self, sent: u64, mut notified: Notified) -> io::Result<Notified> {
        while notified.sends < sent {
            notified.count(self.next()?.result());
        }
        Ok(notified)
    }

    fn drain(&mut self, buffers: &mut ProvidedBuffers, bytes: u64) -> io::Result<()> {
        let mut missing = bytes;
        let stand = opcode::RecvMulti::new(self.file, GROUP).build();
        self.push(&stand);
        let mut stands = true;
        while missing > 0 {
            let entry = self.next()?;
            stands = cqueue::more(entry.flags());
            if entry.result() != -libc::ENOBUFS {
                let count = length_of(&entry)?;
                let id = cqueue::buffer_select(entry.flags()).filter(|_| count > 0);
                let id = id.ok_or(io::ErrorKind::UnexpectedEof)?;
                buffers.give_back(buffers.piece(id, count));
                missing = missing.checked_sub(count as u64).ok_or(io::ErrorKind::InvalidData)?;
            }
            if !stands && missing > 0 {
                self.push(&stand);
                stands = true;
            }
        }
        if stands {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(&cancel.user_data(CANCEL));
        }
        while stands {
            let entry = self.next()?;
            stands = entry.user_data() == CANCEL || cqueue::more(entry.flags());
        }
        Ok(())
    }
}

impl Notified {
    fn count(&mut self, result: i32) {
        self.sends += 1;
        self.copied += u64::from(uring::was_copied(result));
    }
}

fn length_of(entry: &cqueue::Entry) -> io::Result<usize> {
    let result = entry.result();
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
