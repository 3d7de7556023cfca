//! The worker: one message from the driver becomes one for each of its cores, and what the cores
//! report becomes one message to the driver.

use std::collections::BTreeMap;

use crate::ids::{BatchId, CoreId, GroupId, Incarnation, StageId, Term, WorkerId};
use crate::local::CoreReport;
use crate::message::{DriverMessage, GroupStatistics, Order, Report, WorkerMessage};
use crate::placement::PlacementHistory;

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
    /// Tell the driver.
    ToDriver(WorkerMessage),
}

/// The decisions of a worker process as a whole: which messages count, and when all cores agree.
#[derive(Debug)]
pub struct Worker {
    worker: WorkerId,
    incarnation: Incarnation,
    cores: u16,
    term: Term,
    placements: PlacementHistory,
    /// Last batch of the newest group taken.
    last_batch: BatchId,
    groups: BTreeMap<GroupId, OpenGroup>,
    stages: BTreeMap<(BatchId, StageId), u16>,
    promises: Option<OpenPromise>,
}

#[derive(Debug, Default)]
struct OpenGroup {
    first_batch: BatchId,
    cores_done: u16,
    statistics: GroupStatistics,
}

#[derive(Debug)]
struct OpenPromise {
    cores_left: u16,
    last_batch: BatchId,
}

impl Worker {
    /// A worker of `cores` cores that follows the driver of `term`.
    pub fn new(worker: WorkerId, incarnation: Incarnation, cores: u16, term: Term) -> Worker {
        Worker {
            worker,
            incarnation,
            cores,
            term,
            placements: PlacementHistory::default(),
            last_batch: BatchId(0),
            groups: BTreeMap::new(),
            stages: BTreeMap::new(),
            promises: None,
        }
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, event: WorkerEvent, actions: &mut Vec<WorkerAction>) {
        match event {
            WorkerEvent::Driver(message) if message.term < self.term => {}
            WorkerEvent::Driver(message) => {
                self.term = message.term;
                self.order(message.order, actions);
            }
            WorkerEvent::Core { core, report } => self.report(core, report, actions),
        }
    }

    fn order(&mut self, order: Order, actions: &mut Vec<WorkerAction>) {
        match &order {
            Order::ScheduleGroup(group) => {
                if group.predecessor != self.last_batch
                    || group.first_batch != group.predecessor.next()
                {
                    let expected = self.last_batch;
                    let report = Report::Refused { group: group.group, expected };
                    actions.push(self.to_driver(report));
                    return;
                }
                if let Some(placement) = &group.placement {
                    self.placements.add(placement.clone());
                }
                self.last_batch = group.last_batch();
                let open = OpenGroup { first_batch: group.first_batch, ..OpenGroup::default() };
                self.groups.insert(group.group, open);
            }
            Order::CutGroup { proposed } => {
                let (cores_left, last_batch) = (self.cores, *proposed);
                self.promises = Some(OpenPromise { cores_left, last_batch });
            }
            Order::CommitCut { last_batch } => {
                self.last_batch = *last_batch;
                self.groups.retain(|_, open| open.first_batch <= *last_batch);
                self.stages.retain(|&(batch, _), _| batch <= *last_batch);
            }
            Order::Release { .. } => {}
        }
        actions.push(WorkerAction::ToCores(order));
    }

    fn report(&mut self, core: u16, report: CoreReport, actions: &mut Vec<WorkerAction>) {
        debug_assert!(core < self.cores);
        let report = match report {
            CoreReport::GroupDone { group, last_batch, statistics } => {
                self.group_done(group, last_batch, &statistics)
            }
            CoreReport::StageDone { batch, stage } => self.stage_done(batch, stage),
            CoreReport::Ranges(ranges) => Some(Report::Ranges(ranges)),
            CoreReport::Promise { last_batch } => self.promised(last_batch),
        };
        actions.extend(report.map(|report| self.to_driver(report)));
    }

    fn group_done(
        &mut self,
        group: GroupId,
        last_batch: BatchId,
        statistics: &GroupStatistics,
    ) -> Option<Report> {
        // A core without tasks may be done with a group that a cut has made void.
        let open = self.groups.get_mut(&group)?;
        open.cores_done += 1;
        open.statistics.merge(statistics);
        if open.cores_done < self.cores {
            return None;
        }
        let open = self.groups.remove(&group)?;
        let oldest = self.groups.values().map(|open| open.first_batch).min();
        self.placements.forget_before(oldest.unwrap_or(last_batch.next()));
        Some(Report::GroupDone { group, last_batch, statistics: open.statistics })
    }

    fn stage_done(&mut self, batch: BatchId, stage: StageId) -> Option<Report> {
        let left = match self.stages.get(&(batch, stage)) {
            Some(left) => *left,
            None => self.cores_that_run(batch, stage),
        };
        if left > 1 {
            self.stages.insert((batch, stage), left - 1);
            return None;
        }
        self.stages.remove(&(batch, stage));
        Some(Report::StageDone { batch, stage })
    }

    fn cores_that_run(&self, batch: BatchId, stage: StageId) -> u16 {
        let placement = self.placements.at(batch).expect("a batch that ran was placed");
        let cores = placement.cores_of(stage);
        cores.iter().filter(|CoreId { worker, .. }| *worker == self.worker).count() as u16
    }

    fn promised(&mut self, last_batch: BatchId) -> Option<Report> {
        let open = self.promises.as_mut()?;
        open.cores_left -= 1;
        open.last_batch = open.last_batch.max(last_batch);
        if open.cores_left > 0 {
            return None;
        }
        let last_batch = open.last_batch;
        self.promises = None;
        Some(Report::Promise { last_batch })
    }

    fn to_driver(&self, report: Report) -> WorkerAction {
        let (worker, incarnation) = (self.worker, self.incarnation);
        WorkerAction::ToDriver(WorkerMessage { worker, incarnation, report })
    }
}

#[cfg(test)]
mod tests;
