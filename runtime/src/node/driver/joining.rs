//! How workers join: greeted, given a number and the job's flags, compared by their plan, and
//! introduced to each other. And how those of an earlier driver come back.

use std::collections::{BTreeMap, BTreeSet};

use drizzle_scheduler::driver::DriverEvent;
use drizzle_scheduler::message::{DriverMessage, Order};
use drizzle_scheduler::{Incarnation, Life, WorkerId};

use super::{DriverNode, Phase};
use crate::clock::monotonic_now;
use crate::node::NodeError;
use crate::node::member::{Member, Stage};
use crate::wire::control::MAX_PEERS;
use crate::wire::{Returning, ToWorker};

/// A job that goes on waits so long for as many workers as it once began with. Then those that are there
/// will do: some may have left since.
const GATHERING_NS: u64 = 3_000_000_000;
/// How long workers of an earlier driver may take to come back before they count as lost, and others get
/// their numbers.
const RETURN_NS: u64 = 1_000_000_000;

impl DriverNode<'_> {
    /// A process offers its cores. Before it gets a number it must be clear which are free.
    pub(super) fn greeted(
        &mut self,
        number: u64,
        cores: u16,
        process: u32,
    ) -> Result<(), NodeError> {
        let member = self.members.get_mut(&number).expect("it is there");
        member.cores = cores;
        member.process = process;
        if cores == 0 {
            let line = format!("{} offers no core: it is turned away", member.link.peer());
            return self.turn_away(number, &line);
        }
        member.stage = Stage::Waiting;
        if !self.expected.is_empty() {
            self.send(number, ToWorker::Wait);
        }
        self.welcome_waiting()
    }

    /// Welcomes those that wait, when the workers of an earlier driver are back or lost.
    pub(super) fn welcome_waiting(&mut self) -> Result<(), NodeError> {
        if !self.expected.is_empty() {
            return Ok(());
        }
        let waiting = self.members.iter().filter(|(_, member)| member.stage == Stage::Waiting);
        let numbers: Vec<u64> = waiting.map(|(&number, _)| number).collect();
        numbers.into_iter().try_for_each(|number| self.welcome(number))
    }

    fn welcome(&mut self, number: u64) -> Result<(), NodeError> {
        if matches!(self.phase, Phase::Finishing | Phase::Done) {
            self.tell_to_finish(number);
            return Ok(());
        }
        let Some(worker) = self.free_number() else {
            let workers = self.config.workers;
            let reason = format!(
                "the job has all its {workers} workers; start the driver with a larger --workers"
            );
            self.send(number, ToWorker::Refused { reason: reason.clone() });
            return self.turn_away(number, &format!("one more worker came: {reason}"));
        };
        let incarnation = self.new_life();
        let member = self.members.get_mut(&number).expect("it is there");
        member.stage = Stage::Welcomed;
        member.worker = worker;
        member.incarnation = incarnation;
        let (term, arguments) = (self.term, self.config.arguments.clone());
        self.send(number, ToWorker::Welcome { term, worker, incarnation, arguments });
        Ok(())
    }

    /// A number for one more worker. Where nothing outlives a process, a job has as many as it starts with.
    fn free_number(&self) -> Option<WorkerId> {
        let here = self.members.values().filter(|member| member.holds_number());
        let taken: BTreeSet<WorkerId> = here.map(|member| member.worker).collect();
        let is_free = |worker: &WorkerId| {
            !taken.contains(worker) && !self.driver.history().members.contains_key(worker)
        };
        match &self.keeper {
            None => (0..self.config.workers).map(WorkerId).find(is_free),
            Some(_) => (0..).map(WorkerId).find(is_free),
        }
    }

    fn new_life(&mut self) -> Incarnation {
        let incarnation = self.next_incarnation;
        self.next_incarnation = incarnation.next();
        incarnation
    }

    pub(super) fn joined(&mut self, number: u64, fingerprint: u64) -> Result<(), NodeError> {
        if !self.has_same_plan(number, fingerprint)? {
            return Ok(());
        }
        self.members.get_mut(&number).expect("it is there").stage = Stage::Joined;
        match self.phase {
            Phase::Gathering => self.check_gathered(monotonic_now()),
            Phase::Running => self.introduce_peers(),
            Phase::Finishing | Phase::Failed(_) | Phase::Deposed | Phase::Done => {
                self.tell_to_finish(number);
            }
        }
        Ok(())
    }

    /// Begins when enough workers are there.
    pub(super) fn check_gathered(&mut self, now_ns: u64) {
        let here = self.introduced_numbers().len();
        let all_are_here = here >= self.config.workers as usize;
        let opened_ns = self.watch.opened_ns;
        let is_late = opened_ns > 0 && now_ns > opened_ns + GATHERING_NS;
        let some_will_do = self.report.resumed && is_late && here > 0;
        if self.phase == Phase::Gathering && (all_are_here || some_will_do) {
            self.phase = Phase::Running;
            self.introduce_peers();
        }
    }

    /// Whether a worker has the job's plan. One that has not is sent away.
    fn has_same_plan(&mut self, number: u64, fingerprint: u64) -> Result<bool, NodeError> {
        let expected = self.job.plan().fingerprint;
        if fingerprint == expected {
            return Ok(true);
        }
        let reason = format!(
            "{} built another plan ({fingerprint:016x}) than the driver ({expected:016x}): \
             run the same binary on every node, with the same input and table files",
            self.members[&number].name()
        );
        self.send(number, ToWorker::Refused { reason: reason.clone() });
        self.turn_away(number, &reason)?;
        Ok(false)
    }

    /// A worker is ready for tasks.
    pub(super) fn ready(&mut self, number: u64) {
        let member = self.members.get_mut(&number).expect("it is there");
        member.stage = Stage::Ready;
        let Life { worker, incarnation } = member.life();
        let cores = member.cores;
        self.ready.insert(worker, number);
        self.tell(DriverEvent::WorkerReady { worker, incarnation, cores });
        if self.ready.len() >= self.config.workers as usize {
            self.begin();
        }
    }

    /// Has the state machine read the journal, if there is one.
    pub(super) fn begin(&mut self) {
        if self.keeper.is_some() && !std::mem::replace(&mut self.has_begun, true) {
            self.tell(DriverEvent::Start);
        }
    }

    /// A worker at work has lost its driver and found this one. Whether it may go on, the state machine
    /// decides: it is told that it is ready.
    pub(super) fn returned(&mut self, number: u64, worker: Returning) -> Result<(), NodeError> {
        let Returning { life, cores, process, fingerprint, data_address, runtime, term } = worker;
        let member = self.members.get_mut(&number).expect("it is there");
        member.worker = life.worker;
        member.incarnation = life.incarnation;
        member.cores = cores;
        member.process = process;
        member.address = Some(data_address);
        member.runtime = runtime;
        let is_possible = cores > 0 && life.worker.index() < MAX_PEERS;
        if self.keeper.is_none() || term > self.term || !is_possible {
            let line = format!(
                "{} ({}) says that it followed a driver of {term} of this job, which cannot be: \
                 it is turned away",
                life.worker,
                member.link.peer()
            );
            return self.turn_away(number, &line);
        }
        member.stage = Stage::Welcomed;
        if !self.has_same_plan(number, fingerprint)? {
            return Ok(());
        }
        // What was said on an earlier connection may not have come: that life is over.
        let others = self.members.iter().filter(|&(&other, member)| {
            other != number && member.holds_number() && member.worker == life.worker
        });
        let others: Vec<(u64, Life)> = others.map(|(&other, m)| (other, m.life())).collect();
        let has_successor = others.iter().any(|(_, other)| *other > life);
        self.send(number, ToWorker::Back { term: self.term });
        self.expected.remove(&life);
        if has_successor {
            self.members.get_mut(&number).expect("it is there").stage = Stage::Lost;
            let message = DriverMessage { term: self.term, order: Order::Leave { life } };
            self.send(number, ToWorker::Order(message));
            return Ok(());
        }
        for (other, _) in others {
            self.part_with(other, "it came back on another connection")?;
        }
        if matches!(self.phase, Phase::Gathering) {
            self.phase = Phase::Running;
        }
        self.ready(number);
        match self.phase {
            Phase::Running | Phase::Gathering => self.introduce_peers(),
            Phase::Finishing | Phase::Done => self.tell_to_finish(number),
            Phase::Failed(_) | Phase::Deposed => {}
        }
        self.welcome_waiting()
    }

    /// Workers of an earlier driver that have not come back in time are lost.
    pub(super) fn check_expected(&mut self, now_ns: u64) -> Result<(), NodeError> {
        let opened_ns = self.watch.opened_ns;
        if self.expected.is_empty() || opened_ns == 0 || now_ns < opened_ns + RETURN_NS {
            return Ok(());
        }
        for Life { worker, incarnation } in std::mem::take(&mut self.expected) {
            let reason = "it has not come back".to_owned();
            self.tell(DriverEvent::WorkerLost { worker, incarnation, reason });
        }
        self.welcome_waiting()
    }

    /// Those that are there have changed while the job runs: all others are to know.
    pub(super) fn peers_changed(&mut self) {
        if self.phase == Phase::Running && self.keeper.is_some() {
            self.introduce_peers();
        }
    }

    /// Tells every worker who the others are.
    fn introduce_peers(&mut self) {
        let joined = || self.members.values().filter(|member| member.is_introduced());
        let mut peers: Vec<_> = joined().filter_map(Member::as_peer).collect();
        peers.sort_unstable_by_key(|peer| peer.worker);
        let mut cores_by_host = BTreeMap::new();
        for peer in &peers {
            *cores_by_host.entry(peer.address.ip()).or_insert(0) += u32::from(peer.cores);
        }
        let cores = peers.iter().map(|peer| u32::from(peer.cores)).sum();
        self.report.workers = self.report.workers.max(peers.len() as u32);
        self.report.cores = self.report.cores.max(cores);
        let all_here = joined().all(Member::is_here);
        let runtimes: Vec<String> = joined().map(|member| member.runtime.clone()).collect();
        self.report.all_on_this_host = all_here && self.all_were_here;
        self.all_were_here &= all_here;
        self.report.runtimes.extend(runtimes);
        let numbers: Vec<u64> = self.introduced_numbers();
        for number in numbers {
            let address = self.members[&number].address.expect("it has joined");
            let cores_on_host = cores_by_host[&address.ip()];
            self.send(number, ToWorker::Peers { cores_on_host, peers: peers.clone() });
        }
    }

    pub(super) fn introduced_numbers(&self) -> Vec<u64> {
        let introduced = self.members.iter().filter(|(_, member)| member.is_introduced());
        introduced.map(|(&number, _)| number).collect()
    }
}
