//! Time: the one module of this crate that may read a clock.
//!
//! An island of unsafe code, for one system call.
//!
//! 1. `clock_gettime` writes one `timespec` through a pointer that is valid for the call, and fails
//!    only for a clock that does not exist; the two used here exist on every Linux.
#![allow(unsafe_code)]

use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// Nanoseconds of the machine's monotonic clock. Comparable between all threads and processes of this
/// machine, and with nothing else.
pub fn monotonic_now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of processor time that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: (1) `time` is a live local, and `clock` one of the two clocks named there.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "clock {clock} exists on every Linux");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One round trip to the driver. All times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// When the question left, by the local clock.
    pub sent: u64,
    /// The driver's time in its answer.
    pub driver_now: u64,
    /// When the answer arrived, by the local clock.
    pub received: u64,
}

/// How many round trips are remembered.
const SAMPLES: usize = 8;

/// The driver's time as this process knows it.
///
/// Of the last eight round trips the shortest decides, because the driver's answer was given at some
/// moment within it: the error is at most half of it. The result never runs backwards; where a better
/// sample says that it is earlier than already told, time stands still until it has caught up.
#[derive(Clone, Debug, Default)]
pub struct DriverClock {
    samples: VecDeque<ClockSample>,
    /// The latest time ever told.
    told: u64,
}

impl DriverClock {
    /// A clock without a sample, which tells local time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a round trip into account. One whose answer came before its question is ignored.
    pub fn add(&mut self, sample: ClockSample) {
        if sample.received < sample.sent {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The driver's time at a local time.
    pub fn at(&mut self, local_now: u64) -> u64 {
        let offset = self.best().map_or(0, offset);
        let now = i128::from(local_now) + offset;
        let now = u64::try_from(now.max(0)).unwrap_or(u64::MAX);
        self.told = self.told.max(now);
        self.told
    }

    /// The local time at which the driver's clock shows a time, for a local timer. Unlike
    /// [`DriverClock::at`] it follows each better sample at once.
    pub fn local(&self, driver_time: u64) -> u64 {
        let offset = self.best().map_or(0, offset);
        u64::try_from((i128::from(driver_time) - offset).max(0)).unwrap_or(u64::MAX)
    }

    /// The greatest possible error, half of the best round trip; `None` before the first sample.
    pub fn error_bound(&self) -> Option<u64> {
        self.best().map(|sample| round_trip(sample).div_ceil(2))
    }

    fn best(&self) -> Option<&ClockSample> {
        self.samples.iter().min_by_key(|sample| round_trip(sample))
    }
}

fn round_trip(sample: &ClockSample) -> u64 {
    sample.received - sample.sent
}

/// What to add to local time: the answer is taken to have been given half-way.
fn offset(sample: &ClockSample) -> i128 {
    let middle = sample.sent + round_trip(sample) / 2;
    i128::from(sample.driver_now) - i128::from(middle)
}
