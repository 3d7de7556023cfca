//! Waking a sleeping driver from another thread, without losing a wake.
//!
//! One word per driver: `AWAKE`, `PARKED` or `NOTIFIED`.
//!
//! * The waker first publishes its message, then passes a sequentially consistent fence, then looks at
//!   the word. `NOTIFIED`: somebody else's wake has not been taken yet, and taking it will show this
//!   message too; nothing to do. Otherwise it swaps in `NOTIFIED`, and if it thereby replaced
//!   `PARKED` it alone writes the eventfd. So while the owner is awake the first wake costs a
//!   swap and all further ones a fence and a read of an unchanging cache line.
//! * The owner swaps `AWAKE` for `PARKED` before it sleeps. If it finds `NOTIFIED` instead, a wake
//!   has come since its last park: it swaps in `AWAKE` and does not sleep. After sleeping it
//!   swaps in `AWAKE`. Both are followed by a fence, and only then does it look at its messages.
//!
//! No wake is lost: all changes of the word are totally ordered. A waker that swaps before the
//! owner's `PARKED` makes that fail; one that swaps after it writes the eventfd. A waker that read
//! `NOTIFIED` read it before the owner's swap to `AWAKE`; the two fences then order its message
//! before the owner's next look. A needless wake (the timeout came first) ends one later park early.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::{Readiness, sys};
use crate::mailbox::{self, Full};

#[cfg(all(test, loom))]
mod tests;

const AWAKE: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;

/// Ends a driver's park from any thread.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

struct Shared {
    word: ParkWord,
    /// Written to end a sleep; absent in a driver that never sleeps in the kernel.
    event: Option<OwnedFd>,
}

impl Waker {
    /// A waker whose driver sleeps on the eventfd.
    pub(super) fn new() -> io::Result<Self> {
        let event = Some(sys::eventfd()?);
        Ok(Waker { shared: Arc::new(Shared { word: ParkWord::new(), event }) })
    }

    /// A waker of a driver that never sleeps in the kernel, such as a simulated one.
    pub fn detached() -> Self {
        Waker { shared: Arc::new(Shared { word: ParkWord::new(), event: None }) }
    }

    /// Makes the owner look at its mailboxes again: ends its park, or its next one if it is awake.
    /// Call it after the message has been published.
    pub fn wake(&self) {
        if self.shared.word.notify() == Owner::Asleep
            && let Some(event) = &self.shared.event
        {
            sys::signal(event.as_fd());
        }
    }

    /// The owner announces that it will sleep, unless a wake has come since it last did.
    pub(super) fn begin_park(&self) -> Readiness {
        self.shared.word.begin_park()
    }

    /// The owner is awake again.
    pub(super) fn end_park(&self) {
        self.shared.word.end_park();
    }

    /// What becomes readable by a wake.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_ref().expect("kernel drivers make their waker with `new`").as_fd()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Whether a wake has to write the eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Awake,
    Asleep,
}

/// The word of the module's doc, without the eventfd.
pub(super) struct ParkWord(CachePadded<AtomicU32>);

impl ParkWord {
    pub(super) fn new() -> Self {
        ParkWord(CachePadded::new(AtomicU32::new(AWAKE)))
    }

    pub(super) fn notify(&self) -> Owner {
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == NOTIFIED {
            return Owner::Awake;
        }
        match self.0.swap(NOTIFIED, Ordering::SeqCst) {
            PARKED => Owner::Asleep,
            _ => Owner::Awake,
        }
    }

    pub(super) fn begin_park(&self) -> Readiness {
        let order = Ordering::SeqCst;
        if self.0.compare_exchange(AWAKE, PARKED, order, order).is_ok() {
            return Readiness::Waiting;
        }
        self.end_park();
        Readiness::Ready
    }

    pub(super) fn end_park(&self) {
        self.0.swap(AWAKE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// A mailbox whose sender wakes the receiving thread.
pub fn inbox<T: Send>(capacity: usize, waker: Waker) -> (Outbox<T>, Inbox<T>) {
    let (sender, receiver) = mailbox::channel(capacity);
    (Outbox { sender, waker }, receiver)
}

/// The receiving end of [`inbox`]: a plain mailbox, to be looked at in every step.
pub type Inbox<T> = mailbox::Receiver<T>;

/// The sending end of [`inbox`].
#[derive(Debug)]
pub struct Outbox<T> {
    sender: mailbox::Sender<T>,
    waker: Waker,
}

impl<T: Send> Outbox<T> {
    /// Sends and wakes, or gives the value back if the mailbox is full.
    pub fn try_send(&mut self, value: T) -> Result<(), Full<T>> {
        self.sender.try_send(value)?;
        self.waker.wake();
        Ok(())
    }
}
