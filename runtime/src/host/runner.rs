//! What both hosts share: stepping until there is a reason to stop.

use std::time::Duration;

use super::statistics::Counters;
use super::{CoreLoop, Next, Pacer, Progress};
use crate::clock;

/// After so many looks in vain a spinning thread offers its processor to others once.
const RELAXES_PER_YIELD: u32 = 1024;

/// A look in vain takes less than that. Where it took longer, the thread was without its processor, and
/// that is nobody's CPU time.
const LONGEST_LOOK_NS: u64 = 20_000;

/// A core's loop with its pacing.
pub(super) struct Runner<'a> {
    core: Box<dyn CoreLoop>,
    pacer: Pacer,
    counters: &'a Counters,
    /// When the latest of the idle steps in a row ended.
    idle_at: Option<u64>,
    relaxes: u32,
}

/// Why the runner stopped stepping.
pub(super) enum Stop {
    /// It has made as many steps as it was allowed.
    Breath,
    /// The thread should sleep.
    Park(Option<Duration>),
    /// The loop has ended.
    Done,
}

impl<'a> Runner<'a> {
    pub(super) fn new(core: Box<dyn CoreLoop>, pacer: Pacer, counters: &'a Counters) -> Self {
        Runner { core, pacer, counters, idle_at: None, relaxes: 0 }
    }

    /// Steps at most so often.
    pub(super) fn run(&mut self, steps: u32) -> Stop {
        for _ in 0..steps {
            match self.core.step() {
                Progress::Busy => {
                    self.counters.busy();
                    self.pacer.busy();
                    self.idle_at = None;
                }
                Progress::Idle { wake_at } => match self.idle(wake_at) {
                    Next::Step => {}
                    Next::Relax => self.relax(),
                    Next::Park(timeout) => return Stop::Park(timeout),
                },
                Progress::Done => return Stop::Done,
            }
        }
        Stop::Breath
    }

    pub(super) fn core(&mut self) -> &mut dyn CoreLoop {
        &mut *self.core
    }

    /// Starts a sleep's account.
    pub(super) fn before_park(&self) -> u64 {
        self.idle_at.unwrap_or_else(clock::monotonic_now)
    }

    /// Ends the account of a sleep that began at `since`.
    pub(super) fn after_park(&mut self, since: u64) {
        let now = clock::monotonic_now();
        self.counters.parked(now.saturating_sub(since));
        self.idle_at = Some(now);
    }

    fn idle(&mut self, wake_at: Option<u64>) -> Next {
        let now = clock::monotonic_now();
        let looked = self.idle_at.replace(now).map_or(0, |before| now.saturating_sub(before));
        self.counters.idle(looked.min(LONGEST_LOOK_NS));
        self.pacer.idle(now, wake_at)
    }

    fn relax(&mut self) {
        std::hint::spin_loop();
        self.relaxes += 1;
        if self.relaxes == RELAXES_PER_YIELD {
            self.relaxes = 0;
            std::thread::yield_now();
        }
    }
}
