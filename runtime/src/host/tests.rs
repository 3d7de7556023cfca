//! Tests of the hosts, with both drivers, and of the pacing alone.

#![allow(clippy::disallowed_methods)] // the cores under test talk to other threads

use std::sync::mpsc;
use std::thread;

use super::{
    CoreHandle, CoreLoop, CoreOptions, CpuShare, Cpus, DEFAULT_SPIN_NS, HostKind, HostStatistics,
    Polling, Progress, run_core,
};
use crate::clock::monotonic_now;
use crate::io::{Capabilities, Choice, Inbox, Io, IoKind, Outbox, Waker, choose, inbox, open};

/// How many cores the tests that run at a time may need together.
const CORES: usize = 12;

const ADAPTIVE: Polling = Polling::Adaptive { spin_ns: DEFAULT_SPIN_NS };

/// Runs a test with each pair of host and driver that this machine permits.
fn with_each(test: impl Fn(HostKind, IoKind)) {
    let capabilities = Capabilities::probe();
    for host in [HostKind::Plain, HostKind::Glommio] {
        for io in [IoKind::Epoll, IoKind::Uring] {
            match choose(Choice::Exactly(host), Choice::Exactly(io), &capabilities, CORES) {
                Ok(_) => test(host, io),
                Err(reason) => eprintln!("skipped: {reason}"),
            }
        }
    }
}

fn options(name: &str, polling: Polling, share: CpuShare) -> CoreOptions {
    let cpu = Cpus::available().of_core(0);
    CoreOptions { name: name.to_owned(), cpu, polling, share }
}

/// Answers numbers until it is told the last one.
struct Echo {
    io: Box<dyn Io>,
    inbox: Inbox<u64>,
    outbox: Outbox<u64>,
    last: u64,
}

impl CoreLoop for Echo {
    fn step(&mut self) -> Progress {
        self.io.poll(&mut Vec::new());
        let Some(number) = self.inbox.try_recv() else { return Progress::Idle { wake_at: None } };
        self.outbox.try_send(number).expect("one number at a time");
        if number == self.last { Progress::Done } else { Progress::Busy }
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }
}

/// Starts an echo that answers to `waker`'s thread.
fn echo(
    host: HostKind,
    kind: IoKind,
    options: CoreOptions,
    last: u64,
    waker: Waker,
) -> (CoreHandle, Outbox<u64>, Inbox<u64>) {
    let (answer, answers) = inbox(1, waker);
    let (give, given) = mpsc::channel();
    let handle = run_core(host, options, move |_| {
        let io = open(kind).unwrap();
        let (ask, questions) = inbox(1, io.waker());
        give.send(ask).unwrap();
        Box::new(Echo { io, inbox: questions, outbox: answer, last })
    });
    let handle = handle.expect("the host starts");
    (handle, given.recv().unwrap(), answers)
}

/// How a thread waits for an answer.
type Wait = fn(&mut dyn Io);

fn asleep(io: &mut dyn Io) {
    io.park(None);
    io.poll(&mut Vec::new());
}

/// Asks the next question the sooner: it hits a core that is about to sleep.
fn awake(_: &mut dyn Io) {
    thread::yield_now();
}

/// Asks from this thread and waits for each answer; returns the statistics of the core.
fn converse(
    host: HostKind,
    kind: IoKind,
    options: CoreOptions,
    rounds: u64,
    wait: Wait,
) -> HostStatistics {
    let mut io = open(IoKind::Epoll).unwrap();
    let (handle, mut ask, mut answers) = echo(host, kind, options, rounds - 1, io.waker());
    for round in 0..rounds {
        ask.try_send(round).unwrap();
        loop {
            if let Some(answer) = answers.try_recv() {
                assert_eq!(answer, round);
                break;
            }
            wait(&mut *io);
        }
    }
    handle.join().expect("the core does not panic")
}

#[test]
fn every_host_answers_whatever_its_polling() {
    with_each(|host, io| {
        for (polling, share) in [
            (Polling::Block, CpuShare::Owned),
            (ADAPTIVE, CpuShare::Owned),
            (ADAPTIVE, CpuShare::Shared),
            (Polling::Spin, CpuShare::Owned),
        ] {
            let statistics = converse(host, io, options("echo", polling, share), 300, asleep);
            assert_eq!(statistics.busy_steps, 299, "the last step is the end");
            if polling == Polling::Spin {
                assert_eq!((statistics.parks, statistics.parked_ns), (0, 0));
            }
        }
    });
}

#[test]
fn no_wake_is_lost_by_a_blocking_host() {
    with_each(|host, io| {
        for wait in [asleep, awake] {
            let options = options("block", Polling::Block, CpuShare::Shared);
            let statistics = converse(host, io, options, 10_000, wait);
            // A park may end early for no reason, but a host that never sleeps would show here.
            assert!(statistics.parks > 0 && statistics.idle_steps < 100_000, "{statistics:?}");
        }
    });
}

/// Counts its timed steps.
struct Timed {
    io: Box<dyn Io>,
    wake_at: u64,
    left: u32,
}

impl CoreLoop for Timed {
    fn step(&mut self) -> Progress {
        self.io.poll(&mut Vec::new());
        let now = monotonic_now();
        if now < self.wake_at {
            return Progress::Idle { wake_at: Some(self.wake_at) };
        }
        self.left -= 1;
        self.wake_at = now + 300_000;
        if self.left == 0 { Progress::Done } else { Progress::Busy }
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }
}

#[test]
fn a_wanted_time_ends_the_sleep() {
    with_each(|host, io| {
        for share in [CpuShare::Owned, CpuShare::Shared] {
            let handle = run_core(host, options("timed", ADAPTIVE, share), move |_| {
                Box::new(Timed { io: open(io).unwrap(), wake_at: 0, left: 20 })
            });
            let statistics = handle.unwrap().join().unwrap();
            assert!(statistics.parks > 0, "it sleeps between: {statistics:?}");
            assert_eq!(statistics.busy_steps, 19);
        }
    });
}

/// Tells its thread's name.
struct Named {
    io: Box<dyn Io>,
    tell: mpsc::Sender<Option<String>>,
}

impl CoreLoop for Named {
    fn step(&mut self) -> Progress {
        self.tell.send(thread::current().name().map(str::to_owned)).unwrap();
        Progress::Done
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }
}

#[test]
fn many_cores_on_few_processors_start_and_end() {
    with_each(|host, io| {
        let cpus = Cpus::available();
        let share = CpuShare::of(8, cpus.count());
        let (tell, told) = mpsc::channel();
        let handles: Vec<_> = (0..8)
            .map(|core| {
                let tell = tell.clone();
                let (name, cpu) = (format!("core-{core}"), cpus.of_core(core));
                let options = CoreOptions { name, cpu, polling: ADAPTIVE, share };
                run_core(host, options, move |_| Box::new(Named { io: open(io).unwrap(), tell }))
            })
            .collect();
        for handle in handles {
            handle.unwrap().join().unwrap();
        }
        drop(tell);
        let mut names: Vec<_> = told.iter().flatten().collect();
        names.sort();
        assert_eq!(names, (0..8).map(|core| format!("core-{core}")).collect::<Vec<_>>());
    });
}

mod pacing {
    //! Tests of the pacer with a made-up clock.

    use std::time::Duration;

    use super::super::{CpuShare, Next, Pacer, Polling};
    use CpuShare::{Owned, Shared};

    const ADAPTIVE: Polling = Polling::Adaptive { spin_ns: 50 };

    fn micros(count: u64) -> Next {
        Next::Park(Some(Duration::from_micros(count)))
    }

    #[test]
    fn a_spinning_thread_never_sleeps() {
        let mut pacer = Pacer::new(Polling::Spin, Shared);
        assert_eq!(pacer.idle(0, None), Next::Relax);
        assert_eq!(pacer.idle(1 << 40, Some(1 << 50)), Next::Relax);
    }

    #[test]
    fn a_blocking_thread_sleeps_at_once_until_the_wanted_time() {
        let mut pacer = Pacer::new(Polling::Block, Owned);
        assert_eq!(pacer.idle(7, None), Next::Park(None));
        assert_eq!(pacer.idle(0, Some(3_000)), micros(3));
        assert_eq!(pacer.idle(3_000, Some(3_000)), Next::Step);
        assert_eq!(pacer.idle(3_001, Some(3_000)), Next::Step);
    }

    #[test]
    fn an_adaptive_thread_spins_for_a_bounded_time_after_its_last_progress() {
        let mut pacer = Pacer::new(ADAPTIVE, Owned);
        assert_eq!(pacer.idle(100, None), Next::Relax);
        assert_eq!(pacer.idle(149, None), Next::Relax);
        assert_eq!(pacer.idle(150, None), Next::Park(None));
        assert_eq!(pacer.idle(900, None), Next::Park(None), "a wake for nothing is no progress");
        pacer.busy();
        assert_eq!(pacer.idle(1_000, None), Next::Relax);
    }

    #[test]
    fn an_adaptive_thread_spins_the_last_stretch_before_a_wanted_time() {
        let mut pacer = Pacer::new(ADAPTIVE, Owned);
        let at = Some(1_000_000);
        assert_eq!(pacer.idle(0, at), Next::Relax);
        assert_eq!(pacer.idle(420_000, at), micros(500));
        assert_eq!(pacer.idle(920_000, at), Next::Relax);
        assert_eq!(pacer.idle(999_999, at), Next::Relax);
        assert_eq!(pacer.idle(1_000_000, at), Next::Step);
    }

    #[test]
    fn an_adaptive_thread_without_a_processor_of_its_own_does_not_spin() {
        let mut pacer = Pacer::new(ADAPTIVE, Shared);
        assert_eq!(pacer.idle(0, Some(10_000)), micros(10));
        assert_eq!(pacer.idle(0, None), Next::Park(None));
        assert_eq!(CpuShare::of(2, 2), Owned);
        assert_eq!(CpuShare::of(3, 2), Shared);
    }
}
