//! Many loops on one thread, which steps in turn those that were woken or whose time has come.
//!
//! To the host they are one [`CoreLoop`] with one driver of IO. Each of them has a [`Tenant`] of that
//! driver, so that whoever has a message for one of them says which, and the others are not stepped.

use std::cell::RefCell;
use std::rc::Rc;

use super::{CoreLoop, Progress};
use crate::clock::monotonic_now;
use crate::io::{Bells, Completion, Io, Tenant, Waker};

/// The loops of one thread, and what it waits on.
pub struct SharedLoop {
    io: Box<dyn Io>,
    neighbours: Neighbours,
    /// By number; none where a loop has ended or has not begun.
    loops: Vec<Option<Box<dyn CoreLoop>>>,
    /// When each wants to be stepped although nobody wakes it.
    due: Vec<u64>,
    /// The earliest of them, or an earlier time.
    next_due: u64,
    /// Those that wanted another step, a bit for each.
    again: Vec<u64>,
    /// How many have not ended.
    left: usize,
    completions: Vec<Completion>,
}

/// A thread's loops as one of them sees them: it may add others.
#[derive(Clone)]
pub struct Neighbours {
    waker: Waker,
    bells: Bells,
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    /// Loops that there may be.
    capacity: usize,
    /// The number of the next one.
    next: usize,
    /// Loops to be stepped from now on.
    newcomers: Vec<(usize, Box<dyn CoreLoop>)>,
}

/// Never, as a time.
const NEVER: u64 = u64::MAX;

impl Neighbours {
    /// Adds a loop, which is built around its part of the driver.
    ///
    /// # Panics
    /// If there are more than the thread was made for.
    pub fn add(&self, build: impl FnOnce(Tenant) -> Box<dyn CoreLoop>) {
        let number = {
            let mut shared = self.shared.borrow_mut();
            assert!(shared.next < shared.capacity, "a thread was made for all its loops");
            shared.next += 1;
            shared.next - 1
        };
        // It may add others while it is built.
        let newcomer = build(Tenant::new(&self.waker, &self.bells, number));
        self.shared.borrow_mut().newcomers.push((number, newcomer));
    }
}

impl SharedLoop {
    /// No loops yet, and room for so many on the thread that `io` belongs to.
    pub fn new(io: Box<dyn Io>, capacity: usize) -> SharedLoop {
        let bells = Bells::new(capacity);
        let words = bells.words();
        let shared = Shared { capacity, next: 0, newcomers: Vec::new() };
        let shared = Rc::new(RefCell::new(shared));
        SharedLoop {
            neighbours: Neighbours { waker: io.waker(), bells, shared },
            io,
            loops: (0..capacity).map(|_| None).collect(),
            due: vec![NEVER; capacity],
            next_due: NEVER,
            again: vec![0; words],
            left: 0,
            completions: Vec::new(),
        }
    }

    /// The way to add loops. When the last has ended, so has this one.
    pub fn neighbours(&self) -> Neighbours {
        self.neighbours.clone()
    }

    /// Takes new loops in; each is stepped once whatever happens.
    fn move_in(&mut self) {
        let newcomers = std::mem::take(&mut self.neighbours.shared.borrow_mut().newcomers);
        for (number, newcomer) in newcomers {
            self.loops[number] = Some(newcomer);
            self.again[number / 64] |= 1 << (number % 64);
            self.left += 1;
        }
    }

    /// Marks the loops whose time has come.
    fn ring_due(&mut self, now: u64) {
        if now < self.next_due {
            return;
        }
        self.next_due = NEVER;
        for (number, due) in self.due.iter_mut().enumerate() {
            if *due <= now {
                *due = NEVER;
                self.again[number / 64] |= 1 << (number % 64);
            }
            self.next_due = self.next_due.min(*due);
        }
    }

    /// Steps one loop; whether it did something.
    fn step_one(&mut self, number: usize) -> bool {
        let Some(one) = &mut self.loops[number] else { return false };
        match one.step() {
            Progress::Busy => {
                self.again[number / 64] |= 1 << (number % 64);
                true
            }
            Progress::Idle { wake_at } => {
                self.due[number] = wake_at.unwrap_or(NEVER);
                self.next_due = self.next_due.min(self.due[number]);
                false
            }
            Progress::Done => {
                self.loops[number] = None;
                self.due[number] = NEVER;
                self.left -= 1;
                true
            }
        }
    }
}

impl CoreLoop for SharedLoop {
    fn step(&mut self) -> Progress {
        self.io.poll(&mut self.completions);
        self.completions.clear();
        self.move_in();
        self.ring_due(monotonic_now());
        let mut busy = false;
        for word in 0..self.again.len() {
            let mut woken = std::mem::take(&mut self.again[word]);
            woken |= self.neighbours.bells.take(word);
            while woken != 0 {
                let bit = woken.trailing_zeros();
                woken &= woken - 1;
                busy |= self.step_one(word * 64 + bit as usize);
            }
        }
        self.move_in();
        if self.left == 0 {
            self.io.close(&mut self.completions);
            return Progress::Done;
        }
        if busy || self.again.iter().any(|&word| word != 0) {
            return Progress::Busy;
        }
        Progress::Idle { wake_at: (self.next_due != NEVER).then_some(self.next_due) }
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }
}
