//! Decides between looking again and sleeping. No clock and no IO in here.

use std::time::Duration;

use super::{CpuShare, Polling};

/// How much before a wanted time a spinning thread stops sleeping: a blocked thread comes back 55 us
/// (median) to 100 us after its time on a virtual machine.
const WAKE_MARGIN_NS: u64 = 80_000;

/// What a host does after a step that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Step again at once.
    Step,
    /// Step again after a moment's pause of the processor.
    Relax,
    /// Sleep for at most so long.
    Park(Option<Duration>),
}

/// The polling policy of one thread.
#[derive(Clone, Debug)]
pub struct Pacer {
    polling: Polling,
    share: CpuShare,
    /// When the first step without progress ended, since the last one with progress.
    idle_since: Option<u64>,
}

impl Pacer {
    /// A thread that has just made progress.
    pub fn new(polling: Polling, share: CpuShare) -> Self {
        Pacer { polling, share, idle_since: None }
    }

    /// A step made progress.
    pub fn busy(&mut self) {
        self.idle_since = None;
    }

    /// A step found nothing, and the loop wants another one at `wake_at`.
    pub fn idle(&mut self, now: u64, wake_at: Option<u64>) -> Next {
        let idle_since = *self.idle_since.get_or_insert(now);
        let left = wake_at.map(|at| at.saturating_sub(now));
        if left == Some(0) {
            return Next::Step;
        }
        match (self.polling, self.share) {
            (Polling::Spin, _) => Next::Relax,
            (Polling::Block, _) | (Polling::Adaptive { .. }, CpuShare::Shared) => {
                Next::Park(left.map(Duration::from_nanos))
            }
            (Polling::Adaptive { spin_ns }, CpuShare::Owned) => {
                let spun = now.saturating_sub(idle_since);
                match left {
                    _ if spun < spin_ns => Next::Relax,
                    Some(left) if left <= WAKE_MARGIN_NS => Next::Relax,
                    Some(left) => Next::Park(Some(Duration::from_nanos(left - WAKE_MARGIN_NS))),
                    None => Next::Park(None),
                }
            }
        }
    }
}
