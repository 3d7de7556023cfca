//! Hosts: what runs a core's loop on its thread, lets it sleep and wakes it in time.
//!
//! A core is a [`CoreLoop`]: a plain `step()` and the driver of IO that it waits on. A host calls
//! `step` again and again on one pinned thread; when a step found nothing to do, the [`Pacer`]
//! decides whether to look again at once or to sleep, and how long. Two hosts sleep differently:
//!
//! * **plain**: the thread blocks in [`Io::park`].
//! * **glommio**: the loop is one task of a `LocalExecutor` and awaits the driver's descriptor, so
//!   that storage tasks and timers of the same executor run meanwhile.
//!
//! A panic inside a step is not caught here.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;

pub use crate::io::HostKind;
use crate::io::{Io, IoKind, set_timer_slack};
pub use direct::DirectFiles;

mod direct;
mod glommio;
mod meter;
mod pacer;
mod plain;
mod runner;
mod shared;
mod statistics;

#[cfg(all(test, not(loom)))]
mod tests;

pub use meter::{Meter, Usage};
pub use pacer::{Next, Pacer};
pub use shared::{Neighbours, SharedLoop};
use statistics::Counters;
pub use statistics::HostStatistics;

/// One core's work, without the question of how its thread waits.
pub trait CoreLoop {
    /// Looks at mailboxes and completions, decides, performs, runs at most one ready task.
    fn step(&mut self) -> Progress;

    /// The driver on which the thread sleeps between steps. Whoever sends to this core's mailboxes wakes
    /// through this driver's waker.
    fn io(&mut self) -> &mut dyn Io;
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done and there may be more: step again at once.
    Busy,
    /// There was nothing to do.
    Idle {
        /// When to step again although nothing comes, by [`crate::clock::monotonic_now`].
        wake_at: Option<u64>,
    },
    /// The loop has ended and is dropped on its thread.
    Done,
}

/// Whether a thread looks for work or sleeps when it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Never sleeps.
    Spin,
    /// Looks for a while and then sleeps, where the thread has a processor to itself; elsewhere
    /// sleeps at once.
    Adaptive {
        /// For how many nanoseconds after the last progress it looks.
        spin_ns: u64,
    },
    /// Sleeps at once.
    Block,
}

/// How long an adaptive thread looks for work: about as long as putting it to sleep and waking it
/// costs.
pub const DEFAULT_SPIN_NS: u64 = 50_000;

/// Whether a thread has a processor to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuShare {
    /// It may spin without taking time from another data thread.
    Owned,
    /// Another data thread needs the same processor.
    Shared,
}

impl CpuShare {
    /// For a host on which all processes of Drizzle together run so many data threads.
    pub fn of(data_threads: usize, cpus: usize) -> Self {
        if data_threads <= cpus { CpuShare::Owned } else { CpuShare::Shared }
    }
}

/// The processors that this process may use.
#[derive(Clone, Debug)]
pub struct Cpus(Vec<CoreId>);

impl Cpus {
    /// Asks the kernel. To be called in `main`, before any thread is pinned: the answer is that of the
    /// calling thread.
    pub fn available() -> Self {
        Cpus(core_affinity::get_core_ids().unwrap_or_default())
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.0.len().max(1)
    }

    /// The processor of a core of Drizzle, which may be more than there are. `None` where the kernel
    /// does not name any.
    pub fn of_core(&self, core: usize) -> Option<Cpu> {
        (!self.0.is_empty()).then(|| Cpu(self.0[core % self.0.len()]))
    }
}

/// A processor to pin a thread to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(CoreId);

/// How a core's thread is run.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The thread's name; the kernel shows the first 15 bytes.
    pub name: String,
    /// Where it is pinned; `None` leaves it free.
    pub cpu: Option<Cpu>,
    /// How it waits.
    pub polling: Polling,
    /// Whether it may spin.
    pub share: CpuShare,
}

/// A running core.
#[derive(Debug)]
pub struct CoreHandle {
    thread: JoinHandle<()>,
    counters: Arc<Counters>,
}

impl CoreHandle {
    /// Waits until the loop is done. The error is the panic of its thread.
    pub fn join(self) -> thread::Result<HostStatistics> {
        self.thread.join()?;
        Ok(self.counters.read())
    }

    /// Whether the loop is done.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// What the host has counted so far.
    pub fn statistics(&self) -> HostStatistics {
        self.counters.read()
    }
}

/// Starts a thread, pins it, builds the loop on it and runs it until it is done.
///
/// Returns when the thread is pinned and its host is up; that these fail is the error. `build` runs
/// on the thread, after that, with the thread's meter, and what it cannot do it must report in its own way.
pub fn run_core<B>(host: HostKind, options: CoreOptions, build: B) -> io::Result<CoreHandle>
where
    B: FnOnce(Meter) -> Box<dyn CoreLoop> + Send + 'static,
{
    let counters = Arc::new(Counters::default());
    let (started, start) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(options.name.clone()).spawn({
        let counters = counters.clone();
        move || {
            if let Err(error) = settle(&options) {
                let _ = started.send(Err(error));
                return;
            }
            let pacer = Pacer::new(options.polling, options.share);
            let meter = Meter::new(&counters);
            let build = move || build(meter);
            match host {
                HostKind::Plain => plain::run(&started, pacer, &counters, build),
                HostKind::Glommio => glommio::run(&started, pacer, &counters, build),
            }
        }
    })?;
    match start.recv() {
        Ok(Ok(())) => Ok(CoreHandle { thread, counters }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the core's thread ended before its host was up")),
    }
}

/// A loop that ends at once, where what should run could not be built.
pub fn nothing_to_run() -> Box<dyn CoreLoop> {
    Box::new(Nothing(crate::io::open(IoKind::Epoll).expect("epoll is there on every Linux")))
}

struct Nothing(Box<dyn Io>);

impl CoreLoop for Nothing {
    fn step(&mut self) -> Progress {
        Progress::Done
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.0
    }
}

/// The host tells the starter that the thread is ready, or why it is not.
type Started = mpsc::SyncSender<io::Result<()>>;

/// Prepares the calling thread.
fn settle(options: &CoreOptions) -> io::Result<()> {
    set_timer_slack(1);
    match options.cpu {
        Some(Cpu(core)) if !core_affinity::set_for_current(core) => {
            let text = format!("cannot pin thread {} to processor {}", options.name, core.id);
            Err(io::Error::other(text))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Polling::Spin => "spin",
            Polling::Adaptive { .. } => "adaptive",
            Polling::Block => "block",
        })
    }
}
