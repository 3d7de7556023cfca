//! What a host counts: one writer, readable by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a core's thread did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStatistics {
    /// Steps that made progress.
    pub busy_steps: u64,
    /// Steps that found nothing.
    pub idle_steps: u64,
    /// How often the thread went to sleep.
    pub parks: u64,
    /// Nanoseconds for which it slept.
    pub parked_ns: u64,
    /// Nanoseconds for which it was awake and looked for work in vain.
    pub idle_poll_ns: u64,
}

/// The same, being counted. Only the core's thread adds, so an addition is a load and a store.
#[derive(Debug, Default)]
pub(super) struct Counters {
    busy_steps: AtomicU64,
    idle_steps: AtomicU64,
    parks: AtomicU64,
    parked_ns: AtomicU64,
    idle_poll_ns: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> HostStatistics {
        HostStatistics {
            busy_steps: self.busy_steps.load(Ordering::Relaxed),
            idle_steps: self.idle_steps.load(Ordering::Relaxed),
            parks: self.parks.load(Ordering::Relaxed),
            parked_ns: self.parked_ns.load(Ordering::Relaxed),
            idle_poll_ns: self.idle_poll_ns.load(Ordering::Relaxed),
        }
    }

    pub(super) fn busy(&self) {
        add(&self.busy_steps, 1);
    }

    pub(super) fn idle(&self, looked_ns: u64) {
        add(&self.idle_steps, 1);
        add(&self.idle_poll_ns, looked_ns);
    }

    pub(super) fn parked(&self, nanoseconds: u64) {
        add(&self.parks, 1);
        add(&self.parked_ns, nanoseconds);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}
