//! Links. Between two processes every pair of cores has its own link, which keeps its order; all links
//! of two processes break together, and what is under way is lost. Between a driver and a process
//! there is a connection; messages on it wait while the network is cut, until it is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::blocks::Block;
use super::core_node::CoreMail;
use super::worker_node::Health;
use super::{Event, Simulation, name};
use crate::driver::DriverEvent;
use crate::ids::{BatchId, CoreId, Life, PartitionId, StageId, WorkerId};
use crate::message::{DriverMessage, TakenRange};
use crate::sim::data::Piece;
use crate::sim::generator::INTERVAL;
use crate::sim::trace::Kind;

/// Who is at the end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Driver(usize),
    Worker(WorkerId),
}

/// What one core sends another.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Ranges that what follows may depend on.
    pub(super) ranges: Arc<[TakenRange]>,
    pub(super) body: Body,
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Block(Block),
    State { stage: StageId, partition: PartitionId, piece: Piece },
    Completed(BatchId),
}

/// A channel that keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    Down(usize, WorkerId),
    Up(usize, WorkerId),
    ToCore(CoreId),
    FromCore(CoreId),
    Cores(CoreId, CoreId),
}

#[derive(Debug, Default)]
struct Link {
    generation: u64,
    is_up: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// When the last message of each channel arrives.
    last: BTreeMap<Channel, u64>,
    /// Connections to drivers, with their numbers.
    connections: BTreeMap<(usize, WorkerId), (Life, u64)>,
    /// Connections of which the driver knows: it writes to no other.
    greeted: BTreeSet<u64>,
    opened: u64,
    links: BTreeMap<(WorkerId, WorkerId), Link>,
    /// Until when nothing gets from one to the other.
    cuts: BTreeMap<(Node, Node), u64>,
    spike_until: u64,
}

fn pair(a: WorkerId, b: WorkerId) -> (WorkerId, WorkerId) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(super) fn is_connected(&self, driver: usize, life: Life, connection: u64) -> bool {
        self.connections.get(&(driver, life.worker)) == Some(&(life, connection))
    }

    /// The driver has been told of a worker on this connection.
    pub(super) fn greet(&mut self, connection: u64) {
        self.greeted.insert(connection);
    }

    pub(super) fn connection(&self, driver: usize, worker: WorkerId) -> Option<(Life, u64)> {
        self.connections.get(&(driver, worker)).copied()
    }

    pub(super) fn generation(&self, a: WorkerId, b: WorkerId) -> u64 {
        self.links.get(&pair(a, b)).map_or(0, |link| link.generation)
    }

    pub(super) fn has_spike(&self, now: u64) -> bool {
        now < self.spike_until
    }

    pub(super) fn spike(&mut self, until: u64) {
        self.spike_until = self.spike_until.max(until);
    }

    /// Until when the way is cut, if it is.
    pub(super) fn cut_until(&self, from: Node, to: Node, now: u64) -> Option<u64> {
        self.cuts.get(&(from, to)).copied().filter(|&until| until > now)
    }

    pub(super) fn cut(&mut self, from: Node, to: Node, until: u64) {
        let end = self.cuts.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// Ends all cuts; returns the pairs of processes that were cut off from each other.
    pub(super) fn heal(&mut self, now: u64) -> Vec<(WorkerId, WorkerId)> {
        self.spike_until = 0;
        let cuts = std::mem::take(&mut self.cuts);
        let cuts = cuts.into_iter().filter(|&(_, until)| until > now);
        let workers = cuts.filter_map(|((from, to), _)| match (from, to) {
            (Node::Worker(a), Node::Worker(b)) => Some(pair(a, b)),
            (Node::Driver(_), _) | (_, Node::Driver(_)) => None,
        });
        workers.collect()
    }

    /// What was under way to or from a process that died may still arrive, or not.
    pub(super) fn take_down(&mut self, worker: WorkerId, others: &[WorkerId], frames: Fate) {
        for &other in others {
            let link = self.links.entry(pair(worker, other)).or_default();
            link.is_up = false;
            match frames {
                Fate::Lost => link.generation += 1,
                Fate::Arrive => {}
            }
        }
    }
}

/// What becomes of frames under way when a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Arrive,
}

impl Simulation {
    /// When a message on a channel arrives that takes so long.
    pub(super) fn arrival(&mut self, channel: Channel, delay: u64) -> u64 {
        let last = self.network.last.entry(channel).or_default();
        *last = (*last).max(self.now + delay);
        *last
    }

    /// From a core to another one, in this process or elsewhere.
    pub(super) fn send_frame(&mut self, from: Life, sender: CoreId, to: CoreId, frame: Frame) {
        let channel = Channel::Cores(sender, to);
        let frame = Box::new(frame);
        if to.worker == from.worker {
            let delay = self.dice.between(1, 30);
            let at = self.arrival(channel, delay);
            let mail = Box::new(CoreMail::Frame { from, sender, frame });
            self.push(at, Event::Core { life: from, core: to.core, mail });
            return;
        }
        let delay = self.delay(20, 250);
        let at = self.arrival(channel, delay);
        let way = (Node::Worker(from.worker), Node::Worker(to.worker));
        let link = self.network.links.get(&pair(from.worker, to.worker));
        let is_up = link.is_some_and(|link| link.is_up);
        let is_cut = self.network.cut_until(way.0, way.1, self.now).is_some();
        let target = self.processes.get(&to.worker).filter(|process| process.is_alive());
        let Some(target) = target.filter(|_| is_up && !is_cut) else {
            let numbers = [2, from.incarnation.0, u64::from(to.worker.0)];
            self.trace.note(self.now, Kind::Network, numbers, || {
                format!("{} -> w{} no connection, frame lost", name(from), to.worker.0)
            });
            return;
        };
        let generation = self.network.generation(from.worker, to.worker);
        let (sender, to, core) = (sender.core, target.life, to.core);
        self.push(at, Event::Frame { from, sender, to, core, generation, frame });
    }

    /// Between two processes: what is under way is lost, and some time later they are connected.
    pub(super) fn break_link(&mut self, a: WorkerId, b: WorkerId, after: u64) {
        let link = self.network.links.entry(pair(a, b)).or_default();
        link.generation += 1;
        link.is_up = false;
        let generation = link.generation;
        let numbers = [3, u64::from(a.0), u64::from(b.0)];
        self.trace.note(self.now, Kind::Network, numbers, || {
            format!("w{} -- w{} the connection breaks", a.0, b.0)
        });
        self.push(self.now + after, Event::LinkUp { between: pair(a, b), generation });
    }

    pub(super) fn link_up(&mut self, (a, b): (WorkerId, WorkerId), generation: u64) {
        let (one, two) = (Node::Worker(a), Node::Worker(b));
        let cut = self.network.cut_until(one, two, self.now);
        let cut = cut.max(self.network.cut_until(two, one, self.now));
        let link = self.network.links.entry((a, b)).or_default();
        if link.generation != generation || link.is_up {
            return;
        }
        if let Some(until) = cut {
            self.push(until + 1, Event::LinkUp { between: (a, b), generation });
            return;
        }
        let lives = [a, b].map(|worker| {
            let process = self.processes.get(&worker);
            process.filter(|process| process.is_alive()).map(|process| process.life)
        });
        let [Some(one), Some(two)] = lives else { return };
        let link = self.network.links.entry((a, b)).or_default();
        link.is_up = true;
        link.generation += 1;
        let numbers = [4, u64::from(a.0), u64::from(b.0)];
        self.trace
            .note(self.now, Kind::Network, numbers, || format!("w{} -- w{} connected", a.0, b.0));
        for (here, there) in [(one, b), (two, a)] {
            let at = self.now + self.dice.between(1, 100);
            for core in 0..self.processes[&here.worker].cores.len() as u16 {
                let mail = Box::new(CoreMail::Reconnected(there));
                self.push(at, Event::Core { life: here, core, mail });
            }
        }
    }

    /// From a driver to whoever it is connected to under that number.
    pub(super) fn send_down(&mut self, driver: usize, to: WorkerId, message: DriverMessage) {
        let connection = self.network.connection(driver, to);
        let connection = connection.filter(|(_, number)| self.network.greeted.contains(number));
        let Some((life, connection)) = connection else {
            return self.trace.note(self.now, Kind::Network, [5, u64::from(to.0), 0], || {
                format!("D{} -> w{} not connected, lost", driver + 1, to.0)
            });
        };
        let delay = self.delay(20, 250);
        let delay = self.past_cut(Node::Driver(driver), Node::Worker(to), delay);
        let at = self.arrival(Channel::Down(driver, to), delay);
        let message = Box::new(message);
        self.push(at, Event::Down { driver, life, connection, message });
    }

    /// From a process to a driver.
    pub(super) fn send_up(&mut self, life: Life, driver: usize, event: DriverEvent) {
        let Some((_, connection)) =
            self.network.connection(driver, life.worker).filter(|(known, _)| *known == life)
        else {
            return;
        };
        let delay = self.delay(20, 250);
        let delay = self.past_cut(Node::Worker(life.worker), Node::Driver(driver), delay);
        let at = self.arrival(Channel::Up(driver, life.worker), delay);
        let event = Box::new(event);
        self.push(at, Event::Up { driver, life, connection, event });
    }

    /// While the way is cut, messages wait.
    fn past_cut(&self, from: Node, to: Node, delay: u64) -> u64 {
        let until = self.network.cut_until(from, to, self.now).unwrap_or(self.now);
        until - self.now + delay
    }

    /// A process that has no connection to the newest driver looks for one.
    pub(super) fn connect(&mut self, life: Life) {
        let Some(process) = self.processes.get(&life.worker).filter(|p| p.life == life) else {
            return;
        };
        let cores = process.cores.len() as u16;
        match process.health {
            Health::Dead => return,
            Health::Paused => {}
            Health::Running => self.connect_to_newest(life, cores),
        }
        let at = self.now + 2 * INTERVAL;
        self.push(at, Event::Connect { life });
    }

    fn connect_to_newest(&mut self, life: Life, cores: u16) {
        let Some(driver) = self.drivers.len().checked_sub(1) else { return };
        let (worker, incarnation) = (life.worker, life.incarnation);
        let (here, there) = (Node::Worker(worker), Node::Driver(driver));
        let is_connected =
            self.network.connection(driver, worker).is_some_and(|(known, _)| known == life);
        let is_cut = self.network.cut_until(here, there, self.now).is_some()
            || self.network.cut_until(there, here, self.now).is_some();
        if is_connected || is_cut || !self.drivers[driver].is_alive() {
            return;
        }
        self.network.opened += 1;
        self.network.connections.insert((driver, worker), (life, self.network.opened));
        self.trace.note(self.now, Kind::Network, [6, incarnation.0, driver as u64], || {
            format!("{} -- D{} connected", name(life), driver + 1)
        });
        self.send_up(life, driver, DriverEvent::WorkerReady { worker, incarnation, cores });
    }

    /// A driver is told that a worker is gone; the connection is closed.
    pub(super) fn lose(&mut self, driver: usize, life: Life, reason: &str) {
        let connection = self.network.connection(driver, life.worker);
        if connection.is_none_or(|(known, _)| known != life) {
            return;
        }
        self.network.connections.remove(&(driver, life.worker));
        let (worker, incarnation) = (life.worker, life.incarnation);
        let reason = reason.to_owned();
        let event = DriverEvent::WorkerLost { worker, incarnation, reason };
        self.push(self.now, Event::Driver { driver, event });
    }

    /// Every driver is told.
    pub(super) fn lose_everywhere(&mut self, life: Life, reason: &str) {
        (0..self.drivers.len()).for_each(|driver| self.lose(driver, life, reason));
    }
}
