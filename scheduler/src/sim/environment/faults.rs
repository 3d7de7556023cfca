//! What goes wrong, and when it ends.

use super::network::{Fate, Node};
use super::worker_node::{CLOCK_MIDDLE, Health};
use super::{Event, Simulation, name};
use crate::driver::DriverEvent;
use crate::ids::WorkerId;
use crate::sim::coverage::{Fault, Phase};
use crate::sim::generator::{INTERVAL, Planned, SILENCE, Scenario, Trigger};
use crate::sim::trace::Kind;

/// The faults of a scenario, and those that wait for a phase.
#[derive(Debug)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    joined: u32,
}

impl Faults {
    pub(super) fn new(scenario: &Scenario) -> Faults {
        Faults { planned: scenario.faults.clone(), joined: scenario.cores.len() as u32 }
    }

    pub(super) fn are_planned(&self, fault: Fault) -> bool {
        self.planned.iter().any(|planned| planned.fault == fault)
    }

    /// Those that come at a certain time.
    pub(super) fn timed(&self) -> Vec<(usize, u64)> {
        let timed =
            self.planned.iter().enumerate().filter_map(|(number, planned)| match planned.trigger {
                Trigger::At(at) => Some((number, at)),
                Trigger::In { .. } => None,
            });
        timed.collect()
    }

    /// Those that come when a phase begins for that time, and how long after.
    fn armed(&self, begun: Phase, times: u64) -> Vec<(usize, u64)> {
        let armed =
            self.planned.iter().enumerate().filter_map(|(number, planned)| match planned.trigger {
                Trigger::In { phase, nth, delay } if (phase, nth) == (begun, times) => {
                    Some((number, delay))
                }
                Trigger::In { .. } | Trigger::At(_) => None,
            });
        armed.collect()
    }
}

impl Simulation {
    /// Phases may have begun that a fault waits for.
    pub(super) fn arm_faults(&mut self) {
        for (phase, times) in self.phases.take_fresh() {
            for (number, delay) in self.faults.armed(phase, times) {
                self.push(self.now + delay, Event::Inject { number });
            }
        }
    }

    pub(super) fn inject(&mut self, number: usize) {
        if self.healed.is_some() {
            return;
        }
        let Planned { fault, length, .. } = self.faults.planned[number];
        let phases: Vec<Phase> = self.phases.active().collect();
        let Some(what) = self.break_something(fault, length) else { return };
        for phase in phases {
            self.matrix.count(fault, phase);
        }
        self.trace.note(self.now, Kind::Fault, [fault as u64, number as u64, 0], || {
            format!("!! {}: {what}", fault.name())
        });
    }

    /// A worker that is alive and moves.
    fn victim(&mut self) -> Option<WorkerId> {
        let running = self.processes.iter().filter(|(_, p)| p.health == Health::Running);
        let running: Vec<WorkerId> = running.map(|(&worker, _)| worker).collect();
        (!running.is_empty()).then(|| self.dice.pick(&running))
    }

    fn two(&mut self) -> Option<(WorkerId, WorkerId)> {
        let alive = self.alive();
        if alive.len() < 2 {
            return None;
        }
        let first = self.dice.below(alive.len() as u64) as usize;
        let step = self.dice.between(1, alive.len() as u64 - 1) as usize;
        Some((alive[first], alive[(first + step) % alive.len()]))
    }

    fn fate(&mut self) -> Fate {
        if self.dice.chance(50) { Fate::Lost } else { Fate::Arrive }
    }

    fn newest_runs(&self) -> Option<usize> {
        let newest = self.drivers.len().checked_sub(1)?;
        self.drivers[newest].is_running().then_some(newest)
    }

    /// Does it; says what it did, if it could.
    fn break_something(&mut self, fault: Fault, length: u64) -> Option<String> {
        let until = self.now + length;
        match fault {
            Fault::DelaySpike => {
                self.network.spike(until);
                Some("all links".to_owned())
            }
            Fault::LostConnection => self.lose_connection(),
            Fault::PartitionOneWay | Fault::PartitionBothWays => self.cut_network(fault, length),
            Fault::WorkerCrash => self.crash(1, SILENCE + length),
            Fault::WorkerRestart => self.crash(1, self.now % 300 + 1),
            Fault::PauseAndWake => {
                let worker = self.victim()?;
                self.pause_worker(worker, SILENCE + length);
                Some(format!("w{}", worker.0))
            }
            Fault::WrongSuspicion => {
                let worker = self.victim()?;
                let life = self.processes[&worker].life;
                self.lose_everywhere(life, "somebody said so");
                Some(name(life))
            }
            Fault::SlowCore => {
                let worker = self.victim()?;
                let cores = self.processes[&worker].cores.len() as u64;
                let core = self.dice.below(cores) as u16;
                let process = self.processes.get_mut(&worker)?;
                process.oddities.slow_until = until;
                process.oddities.slow_core = core;
                Some(format!("w{}.{core}", worker.0))
            }
            Fault::ClockOffset => {
                let worker = self.victim()?;
                // Forward only: no clock that is used goes back.
                let further = self.dice.below(4 * INTERVAL);
                let ahead = &mut self.processes.get_mut(&worker)?.oddities.clock_ahead;
                *ahead += further;
                let offset = ahead.abs_diff(CLOCK_MIDDLE);
                let side = if *ahead < CLOCK_MIDDLE { "behind" } else { "ahead" };
                Some(format!("w{} is now {offset} {side}", worker.0))
            }
            Fault::SlowStorage => {
                self.storage.slow(until);
                Some("all of it".to_owned())
            }
            Fault::FailingStorage => {
                self.storage.fail(until);
                Some("all of it".to_owned())
            }
            Fault::FullMemory => {
                let worker = self.victim()?;
                self.processes.get_mut(&worker)?.oddities.full_until = until;
                Some(format!("w{}", worker.0))
            }
            Fault::DriverCrash => {
                self.newest_runs()?;
                self.crash_driver(length / 2);
                Some(format!("D{}", self.drivers.len()))
            }
            Fault::DriverPause => {
                self.newest_runs()?;
                // Mostly it wakes while the next one takes over.
                let wakes = match self.dice.chance(75) {
                    true => length / 2 + self.dice.between(INTERVAL / 2, 2 * INTERVAL),
                    false => self.dice.between(length / 4, 2 * length),
                };
                self.pause_driver(length / 2, wakes);
                Some(format!("D{}", self.drivers.len()))
            }
            Fault::TwoWorkers => self.crash(2, SILENCE + length),
            Fault::AllButOne => {
                let alive = self.alive().len();
                self.crash(alive.saturating_sub(1), SILENCE + length)
            }
            Fault::DriverAndWorker => {
                self.newest_runs()?;
                let worker = self.crash(1, SILENCE + length)?;
                self.crash_driver(length / 2);
                Some(format!("D{} and {worker}", self.drivers.len()))
            }
            Fault::Join => {
                let worker = WorkerId(self.faults.joined);
                self.faults.joined += 1;
                self.push(self.now, Event::StartWorker { worker });
                Some(format!("w{}", worker.0))
            }
            Fault::Drain => {
                let driver = self.newest_runs()?;
                let (worker, _) = self.two()?;
                self.driver_takes(driver, DriverEvent::Drain { worker });
                Some(format!("w{}", worker.0))
            }
        }
    }

    fn crash(&mut self, count: usize, back_after: u64) -> Option<String> {
        let mut gone = Vec::new();
        for _ in 0..count {
            let alive = self.alive();
            if alive.is_empty() {
                break;
            }
            let worker = self.dice.pick(&alive);
            let fate = self.fate();
            let later = back_after + self.dice.below(INTERVAL);
            self.end_process(worker, fate, later);
            gone.push(format!("w{}", worker.0));
        }
        (!gone.is_empty()).then(|| gone.join(" and "))
    }

    fn lose_connection(&mut self) -> Option<String> {
        if self.dice.chance(75)
            && let Some((a, b)) = self.two()
        {
            let after = self.dice.between(20, 2 * INTERVAL);
            self.break_link(a, b, after);
            return Some(format!("w{} -- w{}", a.0, b.0));
        }
        let worker = self.victim()?;
        let life = self.processes[&worker].life;
        let driver = self.drivers.len() - 1;
        self.lose(driver, life, "the connection broke");
        Some(format!("D{} -- {}", driver + 1, name(life)))
    }

    fn cut_network(&mut self, fault: Fault, length: u64) -> Option<String> {
        let ways = if fault == Fault::PartitionOneWay { 1 } else { 2 };
        let until = self.now + length;
        if self.dice.chance(60)
            && let Some((a, b)) = self.two()
        {
            let (one, two) = (Node::Worker(a), Node::Worker(b));
            self.network.cut(one, two, until + 1);
            if ways == 2 {
                self.network.cut(two, one, until + 1);
            }
            self.push(until, Event::CutEnds { between: (a, b) });
            return Some(format!("w{} -> w{}", a.0, b.0));
        }
        let worker = self.victim()?;
        let (life, driver) = (self.processes[&worker].life, self.drivers.len() - 1);
        let (here, there) = (Node::Worker(worker), Node::Driver(driver));
        let upwards = self.dice.chance(50);
        if upwards || ways == 2 {
            self.network.cut(here, there, until);
        }
        if !upwards || ways == 2 {
            self.network.cut(there, here, until);
        }
        if length >= SILENCE {
            self.push(self.now + SILENCE, Event::CutOff { driver, life });
        }
        let (ways, arrow) = (ways, if upwards { "->" } else { "<-" });
        Some(format!("{} {arrow} D{}, {ways} way(s)", name(life), driver + 1))
    }

    /// Faults are over: everything heals, and the job must end.
    pub(super) fn heal(&mut self) {
        self.healed = Some(self.now);
        self.trace.note(self.now, Kind::Fault, [99, 0, 0], || "-- all faults are over".to_owned());
        for (a, b) in self.network.heal(self.now) {
            self.break_link(a, b, 50);
        }
        self.storage.heal();
        let workers: Vec<WorkerId> = self.processes.keys().copied().collect();
        for worker in workers {
            let Some(process) = self.processes.get_mut(&worker) else { continue };
            process.oddities.slow_until = 0;
            process.oddities.full_until = 0;
            let (life, pause) = (process.life, process.pauses);
            self.wake_worker(life, pause);
        }
        for driver in 0..self.drivers.len() {
            self.wake_driver(driver);
        }
    }
}
