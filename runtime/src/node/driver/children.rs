//! Worker processes that the driver has started itself, and starts again when they end.

use std::collections::VecDeque;
use std::process::{Child, Command, ExitStatus};

use drizzle_scheduler::WorkerId;

use crate::clock::monotonic_now;

/// A process is started again so long after one has ended.
const A_MOMENT_NS: u64 = 300_000_000;
/// No more than so many are started again
const MAX_RESTARTS: usize = 10;
/// within so long.
const RESTARTS_WITHIN_NS: u64 = 60_000_000_000;

/// Starts a worker process.
pub(crate) type StartWorker<'a> = Box<dyn Fn() -> Command + 'a>;

/// See the module's text.
pub(crate) struct Children<'a> {
    running: Vec<Child>,
    /// None where others start the workers.
    start: Option<StartWorker<'a>>,
    /// How many there should be.
    wanted: usize,
    /// When the next one is to be started.
    due_ns: Option<u64>,
    /// When the last ones were started again.
    restarts: VecDeque<u64>,
    has_given_up: bool,
}

impl<'a> Children<'a> {
    /// Processes that somebody has started; none are started again.
    pub(crate) fn of(running: Vec<Child>) -> Children<'a> {
        let wanted = running.len();
        let (start, due_ns, restarts) = (None, None, VecDeque::new());
        Children { running, start, wanted, due_ns, restarts, has_given_up: false }
    }

    /// Starts so many.
    pub(crate) fn started(start: StartWorker<'a>, count: u32) -> std::io::Result<Children<'a>> {
        let mut children = Children { start: Some(start), ..Children::of(Vec::new()) };
        for _ in 0..count {
            if let Err(error) = children.add() {
                children.end(0);
                return Err(error);
            }
        }
        children.wanted = children.running.len();
        Ok(children)
    }

    /// Whether there are none and none are started.
    pub(super) fn are_none(&self) -> bool {
        self.running.is_empty() && self.start.is_none()
    }

    /// Whether this driver starts its own workers.
    pub(super) fn can_start(&self) -> bool {
        self.start.is_some()
    }

    /// One more.
    fn add(&mut self) -> std::io::Result<()> {
        if let Some(start) = &self.start {
            self.running.push(start().spawn()?);
        }
        Ok(())
    }

    /// From now on there should be so many; what is missing is started.
    pub(super) fn want(&mut self, wanted: usize) -> std::io::Result<()> {
        self.wanted = wanted;
        while self.running.len() < wanted {
            self.add()?;
        }
        Ok(())
    }

    /// How many there should be.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// The first process that has ended, with its id.
    pub(super) fn reap(&mut self) -> Option<(u32, ExitStatus)> {
        let mut children = self.running.iter_mut().enumerate();
        let (index, status) =
            children.find_map(|(index, child)| Some((index, child.try_wait().ok()??)))?;
        let process = self.running.remove(index).id();
        let missing = self.start.is_some() && self.running.len() < self.wanted;
        if missing && self.due_ns.is_none() {
            self.due_ns = Some(monotonic_now() + A_MOMENT_NS);
        }
        Some((process, status))
    }

    /// Starts what is missing, if it is time. A line for people, if there is something to say.
    pub(super) fn heal(&mut self, now_ns: u64) -> Option<String> {
        self.due_ns.take_if(|due_ns| *due_ns <= now_ns)?;
        while self.restarts.front().is_some_and(|at| now_ns - at > RESTARTS_WITHIN_NS) {
            self.restarts.pop_front();
            self.has_given_up = false;
        }
        while self.running.len() < self.wanted {
            if self.restarts.len() >= MAX_RESTARTS {
                self.due_ns = Some(now_ns + RESTARTS_WITHIN_NS / 4);
                let said = std::mem::replace(&mut self.has_given_up, true);
                return (!said).then(|| {
                    format!(
                        "{MAX_RESTARTS} workers were started again within a minute: no more are"
                    )
                });
            }
            self.restarts.push_back(now_ns);
            if let Err(error) = self.add() {
                self.due_ns = Some(now_ns + A_MOMENT_NS);
                return Some(format!("cannot start a worker process: {error}"));
            }
        }
        None
    }

    /// Waits for all of them, and ends those that do not end by themselves.
    pub(super) fn end(&mut self, patience_ns: u64) {
        self.start = None;
        let limit = monotonic_now() + patience_ns;
        for child in &mut self.running {
            while matches!(child.try_wait(), Ok(None)) {
                if monotonic_now() > limit {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                pause();
            }
        }
    }
}

/// A few milliseconds in which another process may do something.
fn pause() {
    if let Ok(mut io) = crate::node::worker::open_control_io() {
        io.park(Some(std::time::Duration::from_millis(5)));
    }
}

/// How a worker's process ended, for people.
pub(super) fn ending(worker: Option<WorkerId>, process: u32, status: ExitStatus) -> String {
    match worker {
        Some(worker) => format!("{worker} (process {process}) has ended: {status}"),
        None => format!("worker process {process} has ended: {status}"),
    }
}
