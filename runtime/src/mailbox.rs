//! A bounded queue from one thread to one other, without locks. An island of unsafe code.
//!
//! A ring of `capacity` slots (a power of two). `tail` counts the values ever sent, `head` the
//! values ever received; a slot's index is its count modulo the ring. Both sides are wait-free.
//! Each keeps a copy of the other's index and reads the shared one only when the copy says "full" or
//! "empty", so that in a steady flow the two cores seldom touch each other's cache lines.
//!
//! 1. There is one [`Sender`] and one [`Receiver`]; neither is `Clone`, and their methods take
//!    `&mut self`. So `tail` has one writer (the sender) and `head` has one (the receiver).
//! 2. `head <= tail <= head + capacity`, in wrapping arithmetic, at any time for any observer that
//!    holds one of the two indices still.
//! 3. The slots from `head` to `tail` hold values and belong to the receiver; the others are
//!    vacant and belong to the sender.
//! 4. A slot changes hands only by a release store of an index, which the other side reads with
//!    acquire before it touches the slot.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;
use sync::{Arc, AtomicUsize, Ordering, Slot};

#[cfg(test)]
mod tests;

/// Makes a queue that holds at most `capacity` values, rounded up to a power of two.
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox needs at least one slot");
    let slots: Box<[Slot<T>]> = (0..capacity.next_power_of_two()).map(|_| Slot::new()).collect();
    let ring = Arc::new(Ring {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots,
    });
    let sender = Sender { ring: ring.clone(), tail: 0, known_head: 0 };
    (sender, Receiver { ring, head: 0, known_tail: 0 })
}

/// The sending end.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    /// The same as the ring's, which only this end writes.
    tail: usize,
    /// The ring's head when last looked at.
    known_head: usize,
}

/// The receiving end.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    /// The same as the ring's, which only this end writes.
    head: usize,
    /// The ring's tail when last looked at.
    known_tail: usize,
}

/// A value that found no room, given back.
pub struct Full<T>(pub T);

struct Ring<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    slots: Box<[Slot<T>]>,
}

impl<T: Send> Sender<T> {
    /// Sends, or gives the value back if the queue is full.
    pub fn try_send(&mut self, value: T) -> Result<(), Full<T>> {
        let capacity = self.ring.slots.len();
        if self.tail.wrapping_sub(self.known_head) == capacity {
            self.known_head = self.ring.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.known_head) == capacity {
                return Err(Full(value));
            }
        }
        self.ring.slot(self.tail).with_mut(|slot| {
            // SAFETY: (2) and the check above: this slot is not between head and tail, so by (3)
            // it is vacant and ours; by (4) the receiver is done with it.
            unsafe { slot.cast::<T>().write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// How many values the queue can hold.
    pub fn capacity(&self) -> usize {
        self.ring.slots.len()
    }

    /// Whether the receiver has been dropped: what is sent now reaches nobody.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.ring) == 1
    }
}

impl<T: Send> Receiver<T> {
    /// Takes the oldest value, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        if self.head == self.known_tail {
            self.known_tail = self.ring.tail.load(Ordering::Acquire);
            if self.head == self.known_tail {
                return None;
            }
        }
        let value = self.ring.slot(self.head).with_mut(|slot| {
            // SAFETY: (2) and the check above: this slot lies between head and tail, so by (3) it
            // holds a value and is ours; by (4) the sender has finished writing it. The index moves
            // on below, so it is read once.
            unsafe { slot.cast::<T>().read() }
        });
        self.head = self.head.wrapping_add(1);
        self.ring.head.store(self.head, Ordering::Release);
        Some(value)
    }
}

impl<T> Ring<T> {
    fn slot(&self, index: usize) -> &Slot<T> {
        &self.slots[index & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let tail = self.tail.load(Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: both ends are gone, so this is the only access; (3) the slots from head to
                // tail hold values.
                unsafe { slot.cast::<T>().drop_in_place() };
            });
            head = head.wrapping_add(1);
        }
    }
}

// SAFETY: (3) and (4): a slot is touched by one side at a time, ordered by the indices, and values
// only move from one thread to the other, for which `T: Send` suffices.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above; the shared reference gives access to a slot only by (3) and (4).
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} sent)", self.tail)
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} received)", self.head)
    }
}

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mailbox is full")
    }
}

#[cfg(not(loom))]
mod sync {
    //! The atomics of std.
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};

    pub(super) struct Slot<T>(std::cell::UnsafeCell<super::MaybeUninit<T>>);

    impl<T> Slot<T> {
        pub(super) fn new() -> Self {
            Slot(std::cell::UnsafeCell::new(super::MaybeUninit::uninit()))
        }

        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut super::MaybeUninit<T>) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod sync {
    //! The atomics of loom, which tries every interleaving.
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};

    pub(super) struct Slot<T>(loom::cell::UnsafeCell<super::MaybeUninit<T>>);

    impl<T> Slot<T> {
        pub(super) fn new() -> Self {
            Slot(loom::cell::UnsafeCell::new(super::MaybeUninit::uninit()))
        }

        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut super::MaybeUninit<T>) -> R) -> R {
            self.0.with_mut(f)
        }
    }
}
