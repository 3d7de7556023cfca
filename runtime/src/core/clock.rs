//! The driver's time as every core of a worker reads it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use drizzle_scheduler::Instant;

use crate::clock::monotonic_now;

/// What to add to this machine's monotonic time to get the driver's. The control loop sets it, the
/// cores read it.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset(Arc<AtomicI64>);

impl ClockOffset {
    /// Sets it, in nanoseconds.
    pub fn set(&self, offset_ns: i64) {
        self.0.store(offset_ns, Ordering::Relaxed);
    }
}

/// One core's view of the driver's time. It never runs backwards.
#[derive(Clone, Debug, Default)]
pub struct CoreClock {
    offset: ClockOffset,
    told: Cell<u64>,
}

impl CoreClock {
    /// A clock that follows `offset`.
    pub fn new(offset: ClockOffset) -> CoreClock {
        CoreClock { offset, told: Cell::new(0) }
    }

    /// The driver's time now.
    pub fn now(&self) -> Instant {
        self.at(monotonic_now())
    }

    /// The driver's time now, when the local monotonic time is `now_ns`.
    pub fn at(&self, now_ns: u64) -> Instant {
        let now = now_ns.saturating_add_signed(self.offset.0.load(Ordering::Relaxed));
        self.told.set(self.told.get().max(now));
        Instant(self.told.get())
    }

    /// The local monotonic time at which the driver's clock shows `instant`.
    pub fn local(&self, instant: Instant) -> u64 {
        instant.0.saturating_add_signed(-self.offset.0.load(Ordering::Relaxed))
    }
}
