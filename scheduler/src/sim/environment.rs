//! The environment: nodes, network and storage, driven by one queue of events in the order of
//! simulated time. It runs the real drivers, workers and local schedulers, and does for them what a
//! node does: carry messages, run tasks, keep state, write to storage. What may go wrong does.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use super::auditor::Auditor;
use super::coverage::Matrix;
use super::data::Job;
use super::dice::Dice;
use super::generator::{INTERVAL, Scenario, ZERO};
use super::trace::{Kind, Lines, Trace};
use crate::bugs::Bugs;
use crate::driver::DriverEvent;
use crate::ids::{BatchId, CoreId, Life, WorkerId};
use crate::message::DriverMessage;
use crate::worker::WorkerEvent;

mod blocks;
mod core_node;
mod driver_node;
mod faults;
mod network;
mod phases;
mod run;
mod states;
mod storage;
mod worker_node;

use core_node::CoreMail;
use driver_node::DriverNode;
use faults::Faults;
use network::{Frame, Network, Node};
use phases::Phases;
use storage::{Request, Storage};
use worker_node::Process;

/// After the faults have ended, the job must be done within this time and so many events.
const PATIENCE: u64 = 500 * INTERVAL;
const MAX_STEPS: u64 = 250_000;

/// Something that happens at a point in simulated time.
#[derive(Debug)]
enum Event {
    /// To a driver, from its own node.
    Driver {
        driver: usize,
        event: DriverEvent,
    },
    DriverWake {
        driver: usize,
        at: u64,
    },
    /// From a driver to a worker, over a connection of that number.
    Down {
        driver: usize,
        life: Life,
        connection: u64,
        message: Box<DriverMessage>,
    },
    /// From a worker to a driver.
    Up {
        driver: usize,
        life: Life,
        connection: u64,
        event: Box<DriverEvent>,
    },
    /// To the control loop of a worker, from one of its cores.
    Worker {
        life: Life,
        event: Box<WorkerEvent>,
    },
    /// To a core, from its own process.
    Core {
        life: Life,
        core: u16,
        mail: Box<CoreMail>,
    },
    /// To a core, from a core of another process.
    Frame {
        from: Life,
        sender: u16,
        to: Life,
        core: u16,
        generation: u64,
        frame: Box<Frame>,
    },
    RunEnds {
        life: Life,
        core: u16,
        serial: u64,
    },
    CoreWake {
        life: Life,
        core: u16,
        at: u64,
    },
    /// A request has reached storage.
    Storage(Box<Request>),
    /// A process looks for a driver that it has no connection to.
    Connect {
        life: Life,
    },
    /// The connection between two processes is there again.
    LinkUp {
        between: (WorkerId, WorkerId),
        generation: u64,
    },
    /// Nothing is cut any more between two processes.
    CutEnds {
        between: (WorkerId, WorkerId),
    },
    /// Somebody was silent for too long.
    Suspect {
        life: Life,
        pause: u64,
    },
    /// A driver has not heard of a worker for too long.
    CutOff {
        driver: usize,
        life: Life,
    },
    StartDriver {
        term: u64,
    },
    WakeDriver {
        driver: usize,
    },
    StartWorker {
        worker: WorkerId,
    },
    WakeWorker {
        life: Life,
        pause: u64,
    },
    Inject {
        number: usize,
    },
    UserStops,
    /// All faults end.
    Heal,
}

struct Entry {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest: that is what the heap gives out.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// A whole run.
pub(super) struct Simulation {
    scenario: Scenario,
    job: Job,
    bugs: Bugs,
    dice: Dice,
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Entry>,
    drivers: Vec<DriverNode>,
    processes: BTreeMap<WorkerId, Process>,
    /// How often a process has begun, over all workers.
    lives: u64,
    network: Network,
    storage: Storage,
    faults: Faults,
    phases: Phases,
    healed: Option<u64>,
    finished: Option<BatchId>,
    pub(super) steps: u64,
    pub(super) auditor: Auditor,
    pub(super) trace: Trace,
    pub(super) matrix: Matrix,
}

impl Simulation {
    pub(super) fn new(scenario: Scenario, bugs: Bugs, lines: Lines) -> Simulation {
        let job = Job::new(scenario.plan.clone());
        let auditor = Auditor::new(&scenario, &job);
        let mut simulation = Simulation {
            // The generator has used the seed itself.
            dice: Dice::new(!scenario.seed),
            faults: Faults::new(&scenario),
            auditor,
            job,
            bugs,
            now: ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            drivers: Vec::new(),
            processes: BTreeMap::new(),
            lives: 0,
            network: Network::default(),
            storage: Storage::default(),
            phases: Phases::default(),
            healed: None,
            finished: None,
            steps: 0,
            trace: Trace::new(lines, ZERO, INTERVAL),
            matrix: Matrix::default(),
            scenario,
        };
        simulation.begin();
        simulation
    }

    fn begin(&mut self) {
        self.push(self.now, Event::StartDriver { term: 1 });
        for worker in 0..self.scenario.cores.len() as u32 {
            let at = self.now + self.dice.below(INTERVAL / 4);
            self.push(at, Event::StartWorker { worker: WorkerId(worker) });
        }
        if let Some(after) = self.scenario.stop_after {
            self.push(self.now + after, Event::UserStops);
        }
        self.push(self.now + self.scenario.heal_after, Event::Heal);
        for (number, at) in self.faults.timed() {
            self.push(self.now + at, Event::Inject { number });
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Entry { at: at.max(self.now), sequence: self.sequence, event });
    }

    /// Runs until the job is done, a rule is broken, or patience ends.
    pub(super) fn run(&mut self) {
        let text = self.scenario.describe();
        self.trace.note(self.now, Kind::Process, [self.scenario.seed, 0, 0], || text);
        while self.auditor.failure.is_none() {
            if let Some(last_batch) = self.finished {
                self.settle_sinks();
                self.auditor.finished(last_batch);
                return;
            }
            let Some(Entry { at, event, .. }) = self.queue.pop() else {
                return self.auditor.fail("nothing will ever happen again".to_owned());
            };
            self.now = at;
            self.steps += 1;
            let too_late = self.healed.is_some_and(|healed| at > healed + PATIENCE);
            if too_late || self.steps > MAX_STEPS {
                let waiting = self.who_waits();
                return self.auditor.fail(format!("the job does not end: {waiting}"));
            }
            self.dispatch(event);
            self.arm_faults();
        }
    }

    fn dispatch(&mut self, event: Event) {
        let Some(event) = self.defer(event) else { return };
        match event {
            Event::Driver { driver, event } => self.driver_takes(driver, event),
            Event::DriverWake { driver, at } => self.driver_wakes(driver, at),
            Event::Down { driver, life, connection, message } => {
                if self.network.is_connected(driver, life, connection) {
                    self.worker_takes(life, WorkerEvent::Driver(*message));
                }
            }
            Event::Up { driver, life, connection, event } => {
                if self.network.is_connected(driver, life, connection) {
                    self.network.greet(connection);
                    self.driver_takes(driver, *event);
                }
            }
            Event::Worker { life, event } => self.worker_takes(life, *event),
            Event::Core { life, core, mail } => self.core_gets(life, core, *mail),
            Event::Frame { from, sender, to, core, generation, frame } => {
                if self.network.generation(from.worker, to.worker) == generation {
                    let sender = CoreId { worker: from.worker, core: sender };
                    self.core_gets(to, core, CoreMail::Frame { from, sender, frame });
                } else {
                    self.trace.note(self.now, Kind::Network, [1, from.incarnation.0, 0], || {
                        format!("{} -> {} frame lost", name(from), name(to))
                    });
                }
            }
            Event::RunEnds { life, core, serial } => self.run_ends(life, core, serial),
            Event::CoreWake { life, core, at } => self.core_wakes(life, core, at),
            Event::Storage(request) => self.storage_takes(*request),
            Event::Connect { life } => self.connect(life),
            Event::LinkUp { between, generation } => self.link_up(between, generation),
            Event::CutEnds { between: (a, b) } => self.break_link(a, b, 50),
            Event::Suspect { life, pause } => self.suspect(life, pause),
            Event::CutOff { driver, life } => {
                let (here, there) = (Node::Worker(life.worker), Node::Driver(driver));
                let up = self.network.cut_until(here, there, self.now);
                if up.or(self.network.cut_until(there, here, self.now)).is_some() {
                    self.lose(driver, life, "the network is cut");
                }
            }
            Event::StartDriver { term } => self.start_driver(term),
            Event::WakeDriver { driver } => self.wake_driver(driver),
            Event::StartWorker { worker } => self.start_worker(worker),
            Event::WakeWorker { life, pause } => self.wake_worker(life, pause),
            Event::Inject { number } => self.inject(number),
            Event::UserStops => self.user_stops(),
            Event::Heal => self.heal(),
        }
    }

    /// What a node that stands still is told, it hears when it wakes.
    fn defer(&mut self, event: Event) -> Option<Event> {
        let node = match &event {
            Event::Driver { driver, .. }
            | Event::DriverWake { driver, .. }
            | Event::Up { driver, .. } => Node::Driver(*driver),
            Event::Down { life, .. }
            | Event::Worker { life, .. }
            | Event::Core { life, .. }
            | Event::Frame { to: life, .. }
            | Event::RunEnds { life, .. }
            | Event::CoreWake { life, .. } => Node::Worker(life.worker),
            Event::Storage(_)
            | Event::Connect { .. }
            | Event::LinkUp { .. }
            | Event::CutEnds { .. }
            | Event::Suspect { .. }
            | Event::CutOff { .. }
            | Event::StartDriver { .. }
            | Event::WakeDriver { .. }
            | Event::StartWorker { .. }
            | Event::WakeWorker { .. }
            | Event::Inject { .. }
            | Event::UserStops
            | Event::Heal => return Some(event),
        };
        let deferred = match node {
            Node::Driver(driver) => self.drivers[driver].deferred(),
            Node::Worker(worker) => self.processes.get_mut(&worker).and_then(Process::deferred),
        };
        match deferred {
            Some(deferred) => {
                deferred.push(event);
                None
            }
            None => Some(event),
        }
    }

    /// What each core waits for, for the report of a job that does not end.
    fn who_waits(&self) -> String {
        let mut lines = Vec::new();
        for process in self.processes.values() {
            lines.extend(process.waiting());
        }
        lines.extend(self.drivers.iter().map(|driver| driver.describe(self.now)));
        lines.join("; ")
    }

    /// Nanoseconds between `low` and `high`, longer while there is a spike.
    fn delay(&mut self, low: u64, high: u64) -> u64 {
        let delay = self.dice.between(low, high);
        if self.network.has_spike(self.now) { delay * 15 } else { delay }
    }
}

/// A life, as the trace calls it.
fn name(life: Life) -> String {
    format!("w{}/i{}", life.worker.0, life.incarnation.0)
}
