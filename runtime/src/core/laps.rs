//! Where a core's time goes. Every nanosecond belongs to what the core did when the next lap ended, so
//! that nothing is missing and nothing is counted twice.

use crate::clock::monotonic_now;
use crate::wire::TimeByKind;

/// What a core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Deciding: the local scheduler.
    Schedule,
    /// Running tasks: sources, operators, sinks, and writing and folding blocks.
    Run,
    /// Making frames of blocks, with their checksums.
    Serialise,
    /// Handing over blocks and news, by mailbox or connection.
    Send,
    /// Taking in what has arrived.
    Receive,
    /// Looking for what has arrived, in steps that found something.
    Poll,
    /// Looking in vain, and sleeping.
    Idle,
}

/// Time by what it was spent on.
#[derive(Debug)]
pub(super) struct Laps {
    last_ns: u64,
    spent: [u64; 7],
    /// Of the time for scheduling, what has been reported.
    reported_ns: u64,
}

impl Laps {
    /// Begins now.
    pub(super) fn new() -> Laps {
        Laps { last_ns: monotonic_now(), spent: [0; 7], reported_ns: 0 }
    }

    /// What has passed since the last lap went into this; returns the time.
    pub(super) fn lap(&mut self, doing: Doing) -> u64 {
        let now_ns = monotonic_now();
        self.lap_at(now_ns, doing);
        now_ns
    }

    /// The same, where the time is known.
    pub(super) fn lap_at(&mut self, now_ns: u64, doing: Doing) {
        self.spent[doing as usize] += now_ns - self.last_ns;
        self.last_ns = now_ns;
    }

    /// How much went into this.
    pub(super) fn spent(&self, doing: Doing) -> u64 {
        self.spent[doing as usize]
    }

    /// All of it. Looking in vain and sleeping cannot be told apart here.
    pub(super) fn total(&self) -> TimeByKind {
        TimeByKind {
            schedule_ns: self.spent(Doing::Schedule),
            run_ns: self.spent(Doing::Run),
            serialise_ns: self.spent(Doing::Serialise),
            send_ns: self.spent(Doing::Send),
            receive_ns: self.spent(Doing::Receive),
            poll_ns: self.spent(Doing::Poll),
            idle_poll_ns: self.spent(Doing::Idle),
            wait_ns: 0,
        }
    }

    /// Time for scheduling since this was asked last.
    pub(super) fn take_schedule_ns(&mut self) -> u64 {
        let all = self.spent(Doing::Schedule);
        all - std::mem::replace(&mut self.reported_ns, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nanosecond_goes_somewhere_once() {
        let mut laps = Laps::new();
        let began = laps.last_ns;
        laps.lap_at(began + 5, Doing::Schedule);
        laps.lap_at(began + 12, Doing::Run);
        laps.lap_at(began + 12, Doing::Poll);
        laps.lap_at(began + 20, Doing::Schedule);
        assert_eq!((laps.spent(Doing::Schedule), laps.spent(Doing::Run)), (13, 7));
        assert_eq!(laps.spent.iter().sum::<u64>(), 20);
        assert_eq!((laps.take_schedule_ns(), laps.take_schedule_ns()), (13, 0));
        let now = laps.lap(Doing::Idle);
        assert_eq!(laps.spent.iter().sum::<u64>(), now - began);
    }
}
