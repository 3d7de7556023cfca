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
//!
//! Several loops may share a thread and its driver ([`super::tenant`]). Each then has a bit of
//! [`Bells`] that says that it was woken. A waker sets the bit before it looks at the word, and where
//! the bit is set already it does no more: whoever set it looks at the word, and its owner, who clears
//! the bit before it looks at its messages, will see this one too, by the same two fences.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

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
    /// Which of the loops that share the driver is woken.
    bell: Option<(Bells, usize)>,
}

struct Shared {
    word: ParkWord,
    /// Written to end a sleep; absent in a driver that never sleeps in the kernel.
    event: Option<OwnedFd>,
    /// How often it was written.
    writes: std::sync::atomic::AtomicU64,
}

impl Waker {
    /// A waker whose driver sleeps on the eventfd.
    pub(super) fn new() -> io::Result<Self> {
        let event = Some(sys::eventfd()?);
        let (word, writes) = (ParkWord::new(), 0.into());
        Ok(Waker { shared: Arc::new(Shared { word, event, writes }), bell: None })
    }

    /// A waker of a driver that never sleeps in the kernel, such as a simulated one.
    pub fn detached() -> Self {
        let (word, writes) = (ParkWord::new(), 0.into());
        Waker { shared: Arc::new(Shared { word, event: None, writes }), bell: None }
    }

    /// Makes the owner look at its mailboxes again: ends its park, or its next one if it is awake.
    /// Call it after the message has been published.
    pub fn wake(&self) {
        if let Some((bells, number)) = &self.bell
            && bells.ring(*number) == Bell::RungAlready
        {
            return;
        }
        if self.shared.word.notify() == Owner::Asleep
            && let Some(event) = &self.shared.event
        {
            self.shared.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            sys::signal(event.as_fd());
        }
    }

    /// The same owner's, which also says that loop `number` of its loops is meant.
    pub(super) fn for_loop(&self, bells: &Bells, number: usize) -> Self {
        Waker { shared: self.shared.clone(), bell: Some((bells.clone(), number)) }
    }

    /// How often a wake has taken a system call.
    pub(super) fn writes(&self) -> u64 {
        self.shared.writes.load(std::sync::atomic::Ordering::Relaxed)
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

/// Which of the loops that share a thread were woken, a bit for each.
#[derive(Clone, Debug)]
pub struct Bells(Arc<[AtomicU64]>);

/// Whether a loop's bit was set before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bell {
    Rung,
    RungAlready,
}

impl Bells {
    /// For so many loops.
    pub fn new(loops: usize) -> Self {
        Bells((0..loops.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// How many words the bits take.
    pub fn words(&self) -> usize {
        self.0.len()
    }

    pub(super) fn ring(&self, number: usize) -> Bell {
        let (word, bit) = (&self.0[number / 64], 1 << (number % 64));
        fence(Ordering::SeqCst);
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Bell::RungAlready;
        }
        match word.fetch_or(bit, Ordering::SeqCst) & bit {
            0 => Bell::Rung,
            _ => Bell::RungAlready,
        }
    }

    /// Takes the bits of a word: loops `64 * word` and on. Their owner looks at their messages after it.
    pub fn take(&self, word: usize) -> u64 {
        if self.0[word].load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let rung = self.0[word].swap(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        rung
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
