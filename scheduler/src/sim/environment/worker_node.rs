//! A worker process: its control loop, its cores, and its life.

use super::core_node::Core;
use super::network::{Channel, Fate};
use super::{Event, Simulation, name};
use crate::driver::Durability;
use crate::ids::{CoreId, Incarnation, Instant, Life, Term, WorkerId};
use crate::local::{CoreReport, LocalOptions, LocalScheduler, RangeReports, Retention};
use crate::message::{DriverMessage, Order};
use crate::sim::coverage::Fault;
use crate::sim::generator::{INTERVAL, SILENCE, STEP_NS};
use crate::sim::trace::Kind;
use crate::worker::{Worker, WorkerAction, WorkerEvent};

/// Whether a process does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Running,
    /// It stands still, and does not know it.
    Paused,
    Dead,
}

/// What is different about one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oddities {
    /// Its clock is ahead by so much, less half an era: see [`Process::clock`].
    pub(super) clock_ahead: u64,
    pub(super) slow_until: u64,
    pub(super) slow_core: u16,
    /// Until when it believes that its blocks are large.
    pub(super) full_until: u64,
}

/// Clocks may be behind by that much.
pub(super) const CLOCK_MIDDLE: u64 = 100 * INTERVAL;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) worker: Worker,
    pub(super) cores: Vec<Core>,
    pub(super) health: Health,
    /// Numbers its pauses.
    pub(super) pauses: u64,
    deferred: Vec<Event>,
    pub(super) oddities: Oddities,
    pub(super) comes_back: Return,
}

/// Whether a worker comes back when its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    Yes,
    /// It was drained, or the job has no use for it.
    No,
}

impl Process {
    pub(super) fn is_alive(&self) -> bool {
        self.health != Health::Dead
    }

    /// Where events wait while it stands still. What is for a dead one, nobody wants.
    pub(super) fn deferred(&mut self) -> Option<&mut Vec<Event>> {
        match self.health {
            Health::Running => None,
            Health::Paused => Some(&mut self.deferred),
            Health::Dead => {
                self.deferred.clear();
                Some(&mut self.deferred)
            }
        }
    }

    /// What its clock shows.
    pub(super) fn clock(&self, now: u64) -> Instant {
        Instant((now + self.oddities.clock_ahead - CLOCK_MIDDLE) * STEP_NS)
    }

    /// When its clock shows that.
    pub(super) fn when(&self, shown: Instant) -> u64 {
        shown.0.div_ceil(STEP_NS).saturating_add(CLOCK_MIDDLE) - self.oddities.clock_ahead
    }

    pub(super) fn waiting(&self) -> Vec<String> {
        if self.health == Health::Dead {
            return Vec::new();
        }
        let cores = self.cores.iter().zip(0_u16..);
        let lines = cores.map(|(core, number)| {
            let who = format!("{}.{number}", name(self.life));
            let completed = core.scheduler.completed();
            match core.scheduler.waiting() {
                None => format!("{who} done through {completed}"),
                Some(waiting) => format!(
                    "{who} done through {completed}, {} {} {} waits for {}",
                    waiting.batch, waiting.stage, waiting.partition, waiting.reason
                ),
            }
        });
        lines.collect()
    }
}

impl Simulation {
    fn retention(&self) -> Retention {
        let memory = self.scenario.memory;
        match self.scenario.durability {
            Durability::None => Retention::WhenFolded,
            Durability::Journal { .. } => Retention::UntilDurable {
                high_mark_bytes: memory.high_mark_bytes,
                limit_bytes: memory.limit_bytes,
            },
        }
    }

    fn range_reports(&self) -> RangeReports {
        match self.scenario.durability {
            Durability::None => RangeReports::WithGroups,
            Durability::Journal { .. } => {
                RangeReports::Journaled { after_ns: self.scenario.report_after * STEP_NS }
            }
        }
    }

    /// Workers whose process is alive, whether it moves or not.
    pub(super) fn alive(&self) -> Vec<WorkerId> {
        let alive = self.processes.iter().filter(|(_, process)| process.is_alive());
        alive.map(|(&worker, _)| worker).collect()
    }

    pub(super) fn start_worker(&mut self, worker: WorkerId) {
        if self.processes.get(&worker).is_some_and(Process::is_alive) {
            return;
        }
        self.lives += 1;
        let life = Life { worker, incarnation: Incarnation(self.lives) };
        let cores = match self.scenario.cores.get(worker.index()) {
            Some(&cores) => cores,
            None => 1 + (worker.0 % 2) as u16,
        };
        let options = LocalOptions {
            ahead: self.scenario.ahead,
            prescheduling: self.scenario.prescheduling,
            ranges: self.range_reports(),
            retention: self.retention(),
            bugs: self.bugs,
        };
        let core = |core| {
            let id = CoreId { worker, core };
            Core::new(LocalScheduler::new(self.job.plan.clone(), id, options.clone()))
        };
        let term = self.drivers.last().map_or(Term(0), |driver| driver.term);
        // Where clocks are an issue, most are behind from the beginning.
        let behind = match self.faults.are_planned(Fault::ClockOffset) {
            true => self.dice.below(3 * INTERVAL),
            false => 0,
        };
        let process = Process {
            life,
            worker: Worker::new(worker, life.incarnation, cores, term, self.retention(), self.bugs),
            cores: (0..cores).map(core).collect(),
            health: Health::Running,
            pauses: 0,
            deferred: Vec::new(),
            oddities: Oddities {
                clock_ahead: CLOCK_MIDDLE - behind,
                slow_until: 0,
                slow_core: 0,
                full_until: 0,
            },
            comes_back: Return::Yes,
        };
        let others = self.alive();
        self.processes.insert(worker, process);
        self.trace.note(self.now, Kind::Process, [1, life.incarnation.0, 0], || {
            format!("{} begins with {cores} cores", name(life))
        });
        for other in others {
            let after = self.dice.between(10, 200);
            self.break_link(worker, other, after);
        }
        let at = self.now + self.dice.between(1, INTERVAL / 2);
        self.push(at, Event::Connect { life });
    }

    /// A process ends, by itself or not.
    pub(super) fn end_process(&mut self, worker: WorkerId, fate: Fate, back_after: u64) {
        let others: Vec<WorkerId> = self.alive().into_iter().filter(|&w| w != worker).collect();
        let Some(process) = self.processes.get_mut(&worker).filter(|p| p.is_alive()) else {
            return;
        };
        process.health = Health::Dead;
        process.deferred.clear();
        let (life, comes_back) = (process.life, process.comes_back);
        self.network.take_down(worker, &others, fate);
        self.trace.note(self.now, Kind::Process, [2, life.incarnation.0, 0], || {
            format!("{} ends", name(life))
        });
        // The drivers notice the closed connection, mostly before the worker is back.
        let at = self.now + self.dice.between(1, INTERVAL);
        self.push(at, Event::Suspect { life, pause: u64::MAX });
        if comes_back == Return::Yes {
            self.push(self.now + back_after, Event::StartWorker { worker });
        }
    }

    pub(super) fn pause_worker(&mut self, worker: WorkerId, length: u64) {
        let process = self.processes.get_mut(&worker).expect("a target that is alive");
        process.health = Health::Paused;
        process.pauses += 1;
        let (life, pause) = (process.life, process.pauses);
        self.push(self.now + SILENCE, Event::Suspect { life, pause });
        self.push(self.now + length, Event::WakeWorker { life, pause });
    }

    pub(super) fn wake_worker(&mut self, life: Life, pause: u64) {
        let process = self.processes.get_mut(&life.worker);
        let Some(process) = process.filter(|process| process.life == life) else { return };
        if process.health != Health::Paused || process.pauses != pause {
            return;
        }
        process.health = Health::Running;
        let deferred = std::mem::take(&mut process.deferred);
        self.trace.note(self.now, Kind::Fault, [20, life.incarnation.0, 0], || {
            format!("-- {} wakes", name(life))
        });
        deferred.into_iter().for_each(|event| self.push(self.now, event));
    }

    /// Heartbeats have not come for too long, or a connection was closed.
    pub(super) fn suspect(&mut self, life: Life, pause: u64) {
        let is_current = |process: &&super::Process| process.life == life && process.is_alive();
        let is_gone = match self.processes.get(&life.worker).filter(is_current) {
            None => true,
            Some(process) => process.health == Health::Paused && process.pauses == pause,
        };
        if is_gone {
            self.lose_everywhere(life, "its heartbeats have stopped");
        }
    }

    pub(super) fn worker_takes(&mut self, life: Life, event: WorkerEvent) {
        let process = self.processes.get_mut(&life.worker);
        let Some(process) = process.filter(|process| process.life == life) else { return };
        if let WorkerEvent::Driver(message) = &event {
            let is_heeded = message.term >= process.worker.term();
            self.phases.heard(&message.order);
            if is_heeded {
                self.auditor.hears_of_the_lost(life, &message.order);
            }
            note_order(&mut self.trace, self.now, life, message, is_heeded);
        }
        let mut actions = Vec::new();
        process.worker.handle(event, &mut actions);
        for action in actions {
            match action {
                WorkerAction::ToCores(order) => self.pass_on(life, &order),
                WorkerAction::ToDriver(message) => {
                    let term = self.processes[&life.worker].worker.term();
                    let mut drivers = self.drivers.iter();
                    let driver = drivers.position(|driver| driver.term == term);
                    self.trace.note(self.now, Kind::Report, [life.incarnation.0, 0, 0], || {
                        format!("{} <= {:?}", name(life), message.report)
                    });
                    if let Some(driver) = driver {
                        self.send_up(life, driver, crate::driver::DriverEvent::Message(message));
                    }
                }
                WorkerAction::Leave => {
                    let back_after = self.dice.between(INTERVAL / 2, 3 * INTERVAL);
                    self.end_process(life.worker, Fate::Arrive, back_after);
                    return;
                }
            }
        }
    }

    fn pass_on(&mut self, life: Life, order: &Order) {
        let cores = self.processes[&life.worker].cores.len() as u16;
        for core in 0..cores {
            let delay = self.dice.between(1, 60);
            let id = CoreId { worker: life.worker, core };
            let at = self.arrival(Channel::ToCore(id), delay);
            let mail = Box::new(super::CoreMail::Order(order.clone()));
            self.push(at, Event::Core { life, core, mail });
        }
    }

    /// From a core to the control loop of its process.
    pub(super) fn report(&mut self, life: Life, core: u16, report: CoreReport) {
        let delay = self.dice.between(1, 60);
        let at = self.arrival(Channel::FromCore(CoreId { worker: life.worker, core }), delay);
        let event = Box::new(WorkerEvent::Core { core, report });
        self.push(at, Event::Worker { life, event });
    }
}

fn note_order(
    trace: &mut crate::sim::trace::Trace,
    now: u64,
    life: Life,
    message: &DriverMessage,
    is_heeded: bool,
) {
    let number = match &message.order {
        Order::Decision { number, .. } => number.0,
        Order::Release { .. }
        | Order::Recorded { .. }
        | Order::Welcome(_)
        | Order::TakeOver { .. }
        | Order::Leave { .. }
        | Order::Speculate(_) => 0,
    };
    trace.note(now, Kind::Order, [life.incarnation.0, number, message.term.0], || {
        let refused = if is_heeded { "" } else { " (of an old term)" };
        format!("{} hears {}{refused}", name(life), super::driver_node::brief(&message.order))
    });
}
