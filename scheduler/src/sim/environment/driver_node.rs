//! Drivers: the one that counts, those that were deposed and do not know it yet, and dead ones.

use super::storage::Request;
use super::{Event, Simulation};
use crate::driver::{Driver, DriverAction, DriverEvent, DriverOptions, Durability, GroupSize};
use crate::ids::{Instant, Term};
use crate::journal::Record;
use crate::message::{Decision, Order};
use crate::sim::generator::{ANSWER, INTERVAL, STEP_NS};
use crate::sim::trace::Kind;

/// Whether a driver does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    Paused,
    /// It crashed, or it was deposed and knows it.
    Gone,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct DriverNode {
    pub(super) term: Term,
    driver: Driver,
    mode: Mode,
    deferred: Vec<Event>,
    wakes_at: Option<u64>,
}

impl DriverNode {
    pub(super) fn is_alive(&self) -> bool {
        self.mode != Mode::Gone
    }
    pub(super) fn is_running(&self) -> bool {
        self.mode == Mode::Running
    }

    /// Where events wait while it stands still. What is for a dead one, nobody wants.
    pub(super) fn deferred(&mut self) -> Option<&mut Vec<Event>> {
        match self.mode {
            Mode::Running => None,
            Mode::Paused => Some(&mut self.deferred),
            Mode::Gone => {
                self.deferred.clear();
                Some(&mut self.deferred)
            }
        }
    }

    pub(super) fn describe(&self, now: u64) -> String {
        let history = self.driver.history();
        let due = self.driver.deadline().map(|at| (at.0 / STEP_NS).saturating_sub(now) / INTERVAL);
        format!(
            "D{} {:?}, {} scheduled, {} durable, checkpoint {:?}, members {:?}, moves {:?} {:?}, \
             next deadline in {due:?} intervals",
            self.term.0,
            self.mode,
            history.last_batch,
            history.durable(),
            history.checkpoint,
            history.members.keys().map(|worker| worker.0).collect::<Vec<_>>(),
            history.prepared,
            history.moves,
        )
    }
}

impl Simulation {
    pub(super) fn start_driver(&mut self, term: u64) {
        // Somebody may have started one meanwhile.
        if self.drivers.len() as u64 >= term {
            return;
        }
        let options = DriverOptions {
            term: Term(term),
            workers: self.scenario.cores.len() as u32,
            group_size: self.scenario.group_size.clone(),
            groups_in_flight: self.scenario.groups_in_flight,
            interval_ns: INTERVAL * STEP_NS,
            lead_ns: INTERVAL * STEP_NS,
            rebase_after_ns: 20 * INTERVAL * STEP_NS,
            prescheduling: self.scenario.prescheduling,
            durability: self.scenario.durability,
            answer_timeout_ns: ANSWER * STEP_NS,
            ahead: self.scenario.ahead,
            balance: self.scenario.balance,
            adaptation: self.scenario.adaptation,
            bugs: self.bugs,
        };
        let driver = Driver::new(self.job.plan.clone(), options);
        let term = Term(term);
        let number = self.drivers.len();
        let mode = Mode::Running;
        let deferred = Vec::new();
        self.drivers.push(DriverNode { term, driver, mode, deferred, wakes_at: None });
        self.trace.note(self.now, Kind::Process, [3, term.0, 0], || format!("D{} begins", term.0));
        match self.scenario.durability {
            Durability::None => {}
            Durability::Journal { .. } => {
                if number > 0 {
                    self.phases.takes_over();
                }
                self.driver_takes(number, DriverEvent::Start);
            }
        }
        let lives: Vec<_> = self.processes.values().map(|process| process.life).collect();
        for life in lives {
            let at = self.now + self.dice.between(20, INTERVAL);
            self.push(at, Event::Connect { life });
        }
    }

    pub(super) fn crash_driver(&mut self, back_after: u64) {
        let number = self.drivers.len() - 1;
        let node = &mut self.drivers[number];
        node.mode = Mode::Gone;
        node.deferred.clear();
        let term = node.term.0 + 1;
        self.phases.wrote();
        self.push(self.now + back_after, Event::StartDriver { term });
    }

    /// The newest driver stands still; after a while somebody starts another one.
    pub(super) fn pause_driver(&mut self, replaced_after: u64, wakes_after: u64) {
        let number = self.drivers.len() - 1;
        let node = &mut self.drivers[number];
        node.mode = Mode::Paused;
        let term = node.term.0 + 1;
        self.push(self.now + replaced_after, Event::StartDriver { term });
        self.push(self.now + wakes_after, Event::WakeDriver { driver: number });
    }

    pub(super) fn wake_driver(&mut self, driver: usize) {
        let node = &mut self.drivers[driver];
        if node.mode != Mode::Paused {
            return;
        }
        node.mode = Mode::Running;
        let deferred = std::mem::take(&mut node.deferred);
        self.trace.note(self.now, Kind::Fault, [21, driver as u64, 0], || {
            format!("-- D{} wakes", driver + 1)
        });
        deferred.into_iter().for_each(|event| self.push(self.now, event));
        let at = self.now;
        self.drivers[driver].wakes_at = Some(at);
        self.push(at, Event::DriverWake { driver, at });
    }

    pub(super) fn driver_wakes(&mut self, driver: usize, at: u64) {
        if self.drivers[driver].wakes_at == Some(at) {
            self.drivers[driver].wakes_at = None;
            self.driver_takes(driver, DriverEvent::Tick);
        }
    }

    pub(super) fn driver_takes(&mut self, number: usize, event: DriverEvent) {
        let node = &mut self.drivers[number];
        if node.mode != Mode::Running {
            return;
        }
        if !matches!(event, DriverEvent::Tick | DriverEvent::Message(_)) {
            self.trace.note(self.now, Kind::Order, [100, number as u64, 0], || {
                format!("D{} takes {event:?}", number + 1)
            });
        }
        let mut actions = Vec::new();
        node.driver.handle(Instant(self.now * STEP_NS), event, &mut actions);
        for action in actions {
            self.perform_driver(number, action);
        }
        self.driver_sleeps(number);
    }

    fn driver_sleeps(&mut self, driver: usize) {
        let node = &mut self.drivers[driver];
        let Some(deadline) = node.driver.deadline() else { return };
        if deadline.0 == u64::MAX {
            return;
        }
        let at = deadline.0.div_ceil(STEP_NS).max(self.now + 1);
        if node.wakes_at.is_none_or(|wakes| at < wakes) {
            node.wakes_at = Some(at);
            self.push(at, Event::DriverWake { driver, at });
        }
    }

    fn perform_driver(&mut self, number: usize, action: DriverAction) {
        let is_newest = number + 1 == self.drivers.len();
        match action {
            DriverAction::Send { to, message } => {
                self.audit_order(number, &message.order);
                self.send_down(number, to, message);
            }
            DriverAction::ReadJournal => self.ask_storage(Request::ReadJournal { driver: number }),
            DriverAction::Append(entry) => {
                if is_newest {
                    match entry.record {
                        Record::Manifest(_) => self.phases.writes_manifest(),
                        Record::Opened
                        | Record::Members(_)
                        | Record::Fenced(_)
                        | Record::Ranges(_)
                        | Record::End(_) => {
                            self.phases.wrote();
                        }
                    }
                }
                self.ask_storage(Request::Append { driver: number, entry });
            }
            DriverAction::GroupDone { group, last_batch, .. } => {
                self.phases.group_done(last_batch);
                let numbers = [number as u64, group.0, last_batch.0];
                self.trace.note(self.now, Kind::Order, numbers, || {
                    format!("D{} {group} is done, its last is {last_batch}", number + 1)
                });
                match self.scenario.group_size {
                    GroupSize::Fixed(_) => {}
                    GroupSize::Tuned(_) => {
                        let cpu_ns = self.dice.below(INTERVAL / 4) * STEP_NS;
                        let event = DriverEvent::CoordinationCost { cpu_ns };
                        self.push(self.now, Event::Driver { driver: number, event });
                    }
                }
            }
            DriverAction::Moved { .. } => {}
            DriverAction::Drained { worker } => {
                self.trace.note(self.now, Kind::Order, [101, u64::from(worker.0), 0], || {
                    format!("D{} w{} is drained", number + 1, worker.0)
                });
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.comes_back = super::worker_node::Return::No;
                }
            }
            DriverAction::Finished { last_batch } => {
                self.trace.note(self.now, Kind::Order, [102, last_batch.0, 0], || {
                    format!("D{} the job is done, {last_batch} was the last", number + 1)
                });
                self.finished = Some(last_batch);
            }
            DriverAction::Deposed => {
                self.trace.note(self.now, Kind::Order, [103, number as u64, 0], || {
                    format!("D{} is deposed", number + 1)
                });
                self.drivers[number].mode = Mode::Gone;
                if is_newest {
                    let term = self.drivers[number].term.0 + 1;
                    self.push(self.now + INTERVAL, Event::StartDriver { term });
                }
            }
            DriverAction::Failed { reason } => {
                self.auditor.fail(format!("D{} gives the job up: {reason}", number + 1));
            }
        }
    }

    fn audit_order(&mut self, number: usize, order: &Order) {
        let is_newest = number + 1 == self.drivers.len();
        if is_newest {
            self.phases.ordered(order);
        }
        match order {
            Order::Recorded { through }
                if matches!(self.scenario.durability, Durability::Journal { .. }) =>
            {
                let who = format!("D{}", number + 1);
                self.auditor.told_recorded(&who, *through);
            }
            Order::Decision { .. }
            | Order::Welcome(_)
            | Order::Recorded { .. }
            | Order::Release { .. }
            | Order::TakeOver { .. }
            | Order::Leave { .. }
            | Order::Speculate(_) => {}
        }
    }

    pub(super) fn user_stops(&mut self) {
        let driver = self.drivers.len() - 1;
        if self.drivers[driver].is_running() && self.phases.has_begun() {
            self.auditor.user_stops();
            self.driver_takes(driver, DriverEvent::Stop);
        }
        // A driver that was lost has forgotten it: the user asks until the job ends.
        self.push(self.now + 20 * INTERVAL, Event::UserStops);
    }
}

/// An order, short enough for a line.
pub(super) fn brief(order: &Order) -> String {
    let Order::Decision { number, decision } = order else { return format!("{order:?}") };
    let text = match decision {
        Decision::ScheduleGroup(group) => format!(
            "{} of {:?}: {} to {} from {}, {}{}",
            group.group,
            group.purpose,
            group.first_batch,
            group.last_batch(),
            group.start.0 / STEP_NS,
            group.epoch,
            match &group.placement {
                Some(placement) => format!(", placed {}", cores(&placement.cores_by_stage)),
                None => String::new(),
            }
        ),
        Decision::Recover(recover) => {
            let placements = recover.placements.iter().map(|placement| {
                format!("from {} {}", placement.from_batch, cores(&placement.cores_by_stage))
            });
            format!(
                "Recover {} from {:?}, replay through {}, moved {:?}, errands {:?}, placed {}",
                recover.epoch,
                recover.manifest.as_ref().map(|manifest| manifest.batch.0),
                recover.replay_through,
                recover.moved,
                recover.errands,
                placements.collect::<Vec<_>>().join(" and "),
            )
        }
        Decision::Durable(manifest) => format!("Durable {}", manifest.batch),
        Decision::Admit(_)
        | Decision::CutGroup { .. }
        | Decision::CommitCut { .. }
        | Decision::Fence(_)
        | Decision::Checkpoint { .. }
        | Decision::AbandonCheckpoint { .. }
        | Decision::Prepare(_)
        | Decision::AbandonMoves => format!("{decision:?}"),
    };
    format!("=> #{} {text}", number.0)
}

fn cores(by_stage: &[Vec<crate::ids::CoreId>]) -> String {
    let stage = |cores: &Vec<crate::ids::CoreId>| {
        let cores = cores.iter().map(|core| format!("{}.{}", core.worker.0, core.core));
        cores.collect::<Vec<_>>().join(" ")
    };
    by_stage.iter().map(stage).collect::<Vec<_>>().join(" | ")
}
