//! What a thread uses from a job's beginning on: each nanosecond is told once, however many loops
//! share the thread and ask.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::statistics::Counters;
use crate::clock::thread_cpu_ns;

/// The meter of one thread. Its clones are the same meter.
#[derive(Clone, Debug)]
pub struct Meter {
    counters: Arc<Counters>,
    /// As it was when the job began, or when somebody asked last.
    last: Rc<Cell<Option<Usage>>>,
}

/// What a thread has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Time in which it looked for work in vain, in nanoseconds.
    pub idle_poll_ns: u64,
}

impl Meter {
    /// Of the calling thread.
    pub(super) fn new(counters: &Arc<Counters>) -> Meter {
        Meter { counters: counters.clone(), last: Rc::default() }
    }

    /// The job begins, if it has not begun yet: what was used before does not count.
    pub fn begin(&self) {
        if self.last.get().is_none() {
            self.last.set(Some(self.read()));
        }
    }

    /// What was used since the job began, without what was told before.
    pub fn take(&self) -> Usage {
        let now = self.read();
        let last = self.last.replace(Some(now)).unwrap_or(now);
        Usage {
            cpu_ns: now.cpu_ns - last.cpu_ns,
            idle_poll_ns: now.idle_poll_ns - last.idle_poll_ns,
        }
    }

    fn read(&self) -> Usage {
        Usage { cpu_ns: thread_cpu_ns(), idle_poll_ns: self.counters.read().idle_poll_ns }
    }
}
