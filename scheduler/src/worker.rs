//! The worker: one message from the driver becomes one for each of its cores, and what the cores
//! report becomes one message to the driver.

use std::collections::{BTreeMap, VecDeque};

use crate::bugs::{Bug, Bugs};
use crate::checkpoint::Snapshot;
use crate::history::History;
use crate::ids::{
    BatchId, CoreId, CutId, Epoch, GroupId, Incarnation, Life, OrderNumber, StageId, Term, WorkerId,
};
use crate::local::{CoreReport, Retention};
use crate::message::{
    Decision, DriverMessage, GroupStatistics, Holding, Order, Recover, Report, ScheduleGroup,
    Standing, TakenRange, WorkerMessage,
};

/// How many of the last decisions a worker keeps, for others that were told of fewer.
const RECENT: usize = 64;

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// The driver said something.
    Driver(DriverMessage),
    /// One of the cores did.
    Core {
        /// Number of the core in this worker.
        core: u16,
        /// What it said.
        report: CoreReport,
    },
}

/// What the worker's control loop is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerAction {
    /// Pass an order to every core.
    ToCores(Order),
    /// Tell the driver of [`Worker::term`].
    ToDriver(WorkerMessage),
    /// This life is over: drop everything, and come back as another one.
    Leave,
}

/// The decisions of a worker process as a whole: which messages count, and when all cores agree.
#[derive(Debug)]
pub struct Worker {
    worker: WorkerId,
    incarnation: Incarnation,
    cores: u16,
    term: Term,
    retention: Retention,
    bugs: Bugs,
    history: History,
    /// The last decisions, oldest first.
    recent: VecDeque<(OrderNumber, Decision)>,
    /// A group did not fit: no decision after it is taken.
    refused: bool,
    groups: BTreeMap<GroupId, OpenGroup>,
    stages: BTreeMap<(BatchId, StageId), u16>,
    promises: BTreeMap<CutId, OpenPromise>,
    fences: BTreeMap<OrderNumber, OpenStanding>,
    takeover: OpenTakeover,
    prepared: BTreeMap<OrderNumber, u16>,
    /// The last finished batch of each core.
    completed: Vec<BatchId>,
    /// Ranges that go with the next report of a group.
    ranges: Vec<TakenRange>,
}

#[derive(Debug, Default)]
struct OpenGroup {
    first_batch: BatchId,
    /// Reports of older epochs are void: a recovery has come between.
    since: Epoch,
    cores_done: u16,
    statistics: GroupStatistics,
}

#[derive(Debug)]
struct OpenPromise {
    cores_left: u16,
    last_batch: BatchId,
}

#[derive(Debug)]
struct OpenStanding {
    cores_left: u16,
    standing: Standing,
}

/// Answers to new drivers. A driver may be succeeded by another before all cores have answered it.
#[derive(Debug, Default)]
struct OpenTakeover {
    /// How many answers each core still owes; the last of them counts.
    owed: Vec<u32>,
    promise: BatchId,
    standing: Standing,
}

impl Worker {
    /// A worker of `cores` cores that follows the driver of `term`.
    pub fn new(
        worker: WorkerId,
        incarnation: Incarnation,
        cores: u16,
        term: Term,
        retention: Retention,
        bugs: Bugs,
    ) -> Worker {
        Worker {
            worker,
            incarnation,
            cores,
            term,
            retention,
            bugs,
            history: History::default(),
            recent: VecDeque::new(),
            refused: false,
            groups: BTreeMap::new(),
            stages: BTreeMap::new(),
            promises: BTreeMap::new(),
            fences: BTreeMap::new(),
            takeover: OpenTakeover { owed: vec![0; usize::from(cores)], ..OpenTakeover::default() },
            prepared: BTreeMap::new(),
            completed: vec![BatchId(0); usize::from(cores)],
            ranges: Vec::new(),
        }
    }

    /// The driver that it follows.
    pub fn term(&self) -> Term {
        self.term
    }

    /// All that was decided, as far as this worker was told.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, event: WorkerEvent, actions: &mut Vec<WorkerAction>) {
        match event {
            WorkerEvent::Driver(message) => {
                if message.term < self.term && !self.bugs.has(Bug::TermCheckOff) {
                    return;
                }
                self.term = message.term.max(self.term);
                self.order(message.order, actions);
            }
            WorkerEvent::Core { core, report } => {
                debug_assert!(core < self.cores);
                let report = match report {
                    CoreReport::Ranges(ranges) => self.gather(ranges),
                    report => self.report(core, report),
                };
                if let Some(Report::GroupDone { .. }) = &report
                    && !self.ranges.is_empty()
                {
                    let ranges = std::mem::take(&mut self.ranges);
                    actions.push(self.to_driver(Report::Ranges(ranges)));
                }
                actions.extend(report.map(|report| self.to_driver(report)));
            }
        }
    }

    fn order(&mut self, order: Order, actions: &mut Vec<WorkerAction>) {
        match &order {
            Order::Decision { number, decision } => {
                let (number, decision) = (*number, decision.clone());
                if !self.decide(number, &decision, actions) {
                    return;
                }
            }
            Order::Welcome(history) => {
                if history.applied <= self.history.applied {
                    return;
                }
                self.history = History::clone(history);
            }
            Order::TakeOver { .. } => {
                self.takeover.owed.iter_mut().for_each(|owed| *owed += 1);
                self.takeover.promise = BatchId(0);
                self.takeover.standing = Standing::default();
            }
            Order::Leave { life } => {
                if *life == self.life() {
                    actions.push(WorkerAction::Leave);
                }
                return;
            }
            Order::Release { .. } | Order::Recorded { .. } | Order::Speculate(_) => {}
        }
        actions.push(WorkerAction::ToCores(order));
    }

    /// Takes a decision if it is the next one; whether the cores are to hear of it.
    fn decide(
        &mut self,
        number: OrderNumber,
        decision: &Decision,
        actions: &mut Vec<WorkerAction>,
    ) -> bool {
        if number <= self.history.applied || self.refused {
            return false;
        }
        assert_eq!(number, self.history.applied.next(), "a link keeps decisions in order");
        if let Decision::ScheduleGroup(group) = decision
            && !self.fits(group)
        {
            self.refused = true;
            let expected = self.history.last_batch;
            actions.push(self.to_driver(Report::Refused { group: group.group, expected }));
            return false;
        }
        self.history.apply(number, decision);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((number, decision.clone()));
        self.decided(number, decision, actions);
        true
    }

    fn fits(&self, group: &ScheduleGroup) -> bool {
        group.predecessor == self.history.last_batch
            && group.first_batch == group.predecessor.next()
    }

    /// What the worker itself has to do about a decision.
    fn decided(
        &mut self,
        number: OrderNumber,
        decision: &Decision,
        actions: &mut Vec<WorkerAction>,
    ) {
        match decision {
            Decision::ScheduleGroup(group) => {
                let open = OpenGroup { first_batch: group.first_batch, ..OpenGroup::default() };
                self.groups.insert(group.group, open);
            }
            Decision::CutGroup { cut, proposed } => {
                let (cores_left, last_batch) = (self.cores, *proposed);
                self.promises.insert(*cut, OpenPromise { cores_left, last_batch });
            }
            Decision::CommitCut { cut, last_batch } => {
                self.groups.retain(|_, open| open.first_batch <= *last_batch);
                self.stages.retain(|&(batch, _), _| batch <= *last_batch);
                self.promises.retain(|open, _| open > cut);
            }
            Decision::Fence(lives) => {
                let (cores_left, standing) = (self.cores, Standing::default());
                self.fences.insert(number, OpenStanding { cores_left, standing });
                if lives.contains(&self.life()) {
                    actions.push(WorkerAction::Leave);
                }
            }
            Decision::Recover(recover) => self.recovered(recover),
            Decision::Prepare(_) => {
                self.prepared.clear();
                self.prepared.insert(number, self.cores);
            }
            Decision::AbandonMoves => self.prepared.clear(),
            Decision::Admit(_)
            | Decision::Checkpoint { .. }
            | Decision::AbandonCheckpoint { .. }
            | Decision::Durable(_) => {}
        }
    }

    /// Groups with batches after the checkpoint are reported once more: some of their tasks are not
    /// done any more.
    fn recovered(&mut self, recover: &Recover) {
        for (group, _) in &self.history.groups {
            let open = self.groups.entry(group.group).or_default();
            open.first_batch = group.first_batch;
            open.since = recover.epoch;
            open.cores_done = 0;
        }
        self.stages.retain(|&(batch, _), _| batch > recover.replay_through);
    }

    /// Where nothing is kept for others, ranges go with the report of a group, in one message for all
    /// cores, unless they say that a source has ended.
    fn gather(&mut self, ranges: Vec<TakenRange>) -> Option<Report> {
        if self.retention != Retention::WhenFolded {
            return Some(Report::Ranges(ranges));
        }
        let ended = ranges.iter().any(|taken| taken.ended);
        self.ranges.extend(ranges);
        ended.then(|| Report::Ranges(std::mem::take(&mut self.ranges)))
    }

    fn report(&mut self, core: u16, report: CoreReport) -> Option<Report> {
        match report {
            CoreReport::GroupDone { group, epoch, last_batch, statistics } => {
                self.group_done(core, group, epoch, last_batch, &statistics)
            }
            CoreReport::StageDone { batch, stage } => self.stage_done(batch, stage),
            CoreReport::Ranges(ranges) => Some(Report::Ranges(ranges)),
            CoreReport::Promise { cut, last_batch } => self.promised(cut, last_batch),
            CoreReport::Fenced { number, standing } => self.fenced(number, standing),
            CoreReport::Standing { promise, standing } => self.stands(core, promise, standing),
            CoreReport::Snapshot { stage, partition, batch, since } => {
                let incarnation = self.incarnation;
                let snapshot = Snapshot { stage, partition, batch, since, incarnation };
                Some(Report::Snapshots { batch, snapshots: vec![snapshot] })
            }
            CoreReport::NoSnapshot { batch } => Some(Report::NoSnapshot { batch }),
            CoreReport::HighMark => Some(Report::HighMark),
            CoreReport::Prepared { number } => self.core_prepared(number),
            CoreReport::Completed(batch) => {
                self.completed[usize::from(core)] = batch;
                Some(Report::Progress { completed: self.completed.clone() })
            }
        }
    }

    fn group_done(
        &mut self,
        core: u16,
        group: GroupId,
        epoch: Epoch,
        last_batch: BatchId,
        statistics: &GroupStatistics,
    ) -> Option<Report> {
        // A core without tasks may be done with a group that a cut has made void.
        let open = self.groups.get_mut(&group).filter(|open| epoch >= open.since)?;
        open.cores_done += 1;
        open.statistics.merge(statistics);
        let by_core = &mut open.statistics.run_ns_by_core;
        by_core.resize(usize::from(self.cores).max(by_core.len()), 0);
        by_core[usize::from(core)] += statistics.run_ns;
        if open.cores_done < self.cores {
            return None;
        }
        let statistics = self.groups.remove(&group)?.statistics;
        if self.retention == Retention::WhenFolded {
            let oldest = self.groups.values().map(|open| open.first_batch).min();
            let done = oldest.map_or(last_batch, |first| BatchId(first.0.saturating_sub(1)));
            self.history.forget_through(done);
        }
        Some(Report::GroupDone { group, epoch: self.history.epoch, last_batch, statistics })
    }

    fn stage_done(&mut self, batch: BatchId, stage: StageId) -> Option<Report> {
        let left = match self.stages.get(&(batch, stage)) {
            Some(left) => *left,
            None => self.cores_that_run(batch, stage)?,
        };
        if left > 1 {
            self.stages.insert((batch, stage), left - 1);
            return None;
        }
        self.stages.remove(&(batch, stage));
        Some(Report::StageDone { batch, stage })
    }

    /// None where nobody asks any more.
    fn cores_that_run(&self, batch: BatchId, stage: StageId) -> Option<u16> {
        let cores = self.history.placement(batch)?.cores_of(stage);
        let here = |core: &&CoreId| core.worker == self.worker;
        Some(cores.iter().filter(here).count() as u16)
    }

    fn promised(&mut self, cut: CutId, last_batch: BatchId) -> Option<Report> {
        let open = self.promises.get_mut(&cut)?;
        open.cores_left -= 1;
        open.last_batch = open.last_batch.max(last_batch);
        if open.cores_left > 0 {
            return None;
        }
        let last_batch = self.promises.remove(&cut)?.last_batch;
        Some(Report::Promise { cut, last_batch })
    }

    fn fenced(&mut self, number: OrderNumber, standing: Standing) -> Option<Report> {
        let open = self.fences.get_mut(&number)?;
        unite(&mut open.standing, standing);
        open.cores_left -= 1;
        if open.cores_left > 0 {
            return None;
        }
        let standing = self.fences.remove(&number)?.standing;
        Some(Report::Fenced { number, standing })
    }

    fn stands(&mut self, core: u16, promise: BatchId, standing: Standing) -> Option<Report> {
        let open = &mut self.takeover;
        let owed = &mut open.owed[usize::from(core)];
        *owed = owed.checked_sub(1).expect("a core answers when it is asked");
        if *owed > 0 {
            return None; // The answer to a driver that has been succeeded meanwhile.
        }
        open.promise = open.promise.max(promise);
        unite(&mut open.standing, standing);
        if open.owed.iter().any(|&owed| owed > 0) {
            return None;
        }
        let standing = std::mem::take(&mut open.standing);
        let (promise, history) = (open.promise, self.history.clone());
        let recent = self.recent.iter().cloned().collect();
        Some(Report::Holding(Box::new(Holding { promise, history, recent, standing })))
    }

    fn core_prepared(&mut self, number: OrderNumber) -> Option<Report> {
        let left = self.prepared.get_mut(&number)?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        self.prepared.remove(&number);
        Some(Report::Prepared { number })
    }

    fn life(&self) -> Life {
        Life { worker: self.worker, incarnation: self.incarnation }
    }

    fn to_driver(&self, report: Report) -> WorkerAction {
        let (worker, incarnation) = (self.worker, self.incarnation);
        WorkerAction::ToDriver(WorkerMessage { worker, incarnation, report })
    }
}

/// Adds what another core knows: each range once, in order.
fn unite(sum: &mut Standing, other: Standing) {
    sum.coverage.extend(other.coverage);
    sum.coverage.sort_unstable();
    sum.ranges.extend(other.ranges);
    sum.ranges.sort_unstable_by_key(|taken| {
        (taken.range.stage, taken.range.partition, taken.batch, *taken)
    });
    sum.ranges.dedup();
}

#[cfg(test)]
mod tests;
