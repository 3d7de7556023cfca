//! Tests of the worker: worker 1 in its second life, with two cores, under the driver of term 3.

use std::sync::Arc;

use super::*;
use crate::ids::{Epoch, Instant};
use crate::message::{Purpose, ScheduleGroup, TakenRange};
use crate::placement::Placement;
use crate::plan::{Pacing, Plan, StageKind};
use crate::tests::{chain, core};

struct Bench {
    worker: Worker,
    actions: Vec<WorkerAction>,
}

impl Bench {
    fn new() -> Bench {
        let worker = Worker::new(WorkerId(1), Incarnation(2), 2, Term(3));
        Bench { worker, actions: Vec::new() }
    }

    fn order_of(&mut self, term: u64, order: &Order) -> Vec<WorkerAction> {
        let message = DriverMessage { term: Term(term), order: order.clone() };
        self.worker.handle(WorkerEvent::Driver(message), &mut self.actions);
        std::mem::take(&mut self.actions)
    }

    /// An order of the driver that must reach the cores as it is.
    fn order(&mut self, order: &Order) {
        assert_eq!(self.order_of(3, order), [WorkerAction::ToCores(order.clone())]);
    }

    /// What the driver hears when a core reports.
    fn core(&mut self, core: u16, report: CoreReport) -> Option<Report> {
        self.worker.handle(WorkerEvent::Core { core, report }, &mut self.actions);
        let action = self.actions.pop()?;
        assert!(self.actions.is_empty());
        Some(said(action))
    }
}

fn said(action: WorkerAction) -> Report {
    let WorkerAction::ToDriver(message) = action else { panic!("{action:?} is for the cores") };
    assert_eq!((message.worker, message.incarnation), (WorkerId(1), Incarnation(2)));
    message.report
}

/// Stage 0 runs on one core of this worker, stage 1 on both; the rest runs elsewhere.
fn placement() -> Arc<Placement> {
    let plan: Arc<Plan> = chain(&[(StageKind::Source(Pacing::Clock), 2), (StageKind::Stateful, 3)]);
    let cores = [core(1, 1), core(0, 0), core(1, 0)];
    Arc::new(Placement::spread(&plan, &cores, Epoch(1), BatchId(1)))
}

fn group(group: u64, first: u64, batch_count: u64) -> Order {
    Order::ScheduleGroup(Arc::new(ScheduleGroup {
        group: GroupId(group),
        epoch: Epoch(1),
        predecessor: BatchId(first - 1),
        first_batch: BatchId(first),
        batch_count,
        start: Instant(0),
        interval_ns: 10,
        origin: Instant(0),
        purpose: Purpose::Process,
        placement: (group == 1).then(placement),
    }))
}

fn group_done(group: u64, tasks: u64) -> CoreReport {
    let statistics = GroupStatistics { tasks, ..GroupStatistics::default() };
    CoreReport::GroupDone { group: GroupId(group), last_batch: BatchId(5), statistics }
}

#[test]
fn a_group_is_reported_once_when_all_cores_are_done_with_it() {
    let mut bench = Bench::new();
    bench.order(&group(1, 1, 5));
    bench.order(&group(2, 6, 5));
    assert_eq!(bench.core(0, group_done(1, 3)), None);
    assert_eq!(bench.core(0, group_done(2, 1)), None);
    let Some(Report::GroupDone { group, statistics, .. }) = bench.core(1, group_done(1, 4)) else {
        panic!("all cores are done");
    };
    assert_eq!((group, statistics.tasks), (GroupId(1), 7));
}

#[test]
fn a_group_that_does_not_follow_is_refused_and_not_taken() {
    let mut bench = Bench::new();
    bench.order(&group(1, 1, 5));
    let refused = Report::Refused { group: GroupId(2), expected: BatchId(5) };
    for first in [1, 5, 7] {
        let mut actions = bench.order_of(3, &group(2, first, 5));
        assert_eq!(actions.pop().map(said), Some(refused.clone()));
        assert_eq!(actions, []);
    }
    bench.order(&group(2, 6, 5));
}

#[test]
fn after_a_cut_the_next_group_follows_it() {
    let mut bench = Bench::new();
    bench.order(&group(1, 1, 5));
    bench.order(&group(2, 6, 5));
    bench.order(&Order::CommitCut { last_batch: BatchId(3) });
    assert_eq!(bench.order_of(3, &group(3, 11, 1)).len(), 1);
    bench.order(&group(3, 4, 1));
}

#[test]
fn orders_of_an_older_term_are_dropped_and_a_newer_one_is_followed() {
    let mut bench = Bench::new();
    assert_eq!(bench.order_of(2, &group(1, 1, 5)), []);
    assert_eq!(bench.order_of(4, &group(1, 1, 5)).len(), 1);
    assert_eq!(bench.order_of(3, &group(2, 6, 5)), []);
}

#[test]
fn the_promise_is_the_largest_of_the_cores_and_of_what_was_proposed() {
    for (proposed, promises, expected) in [(0, [3, 7], 7), (9, [9, 9], 9), (2, [8, 2], 8)] {
        let mut bench = Bench::new();
        bench.order(&Order::CutGroup { proposed: BatchId(proposed) });
        let promise = |last| CoreReport::Promise { last_batch: BatchId(last) };
        assert_eq!(bench.core(0, promise(promises[0])), None);
        let last_batch = BatchId(expected);
        assert_eq!(bench.core(1, promise(promises[1])), Some(Report::Promise { last_batch }));
    }
}

#[test]
fn a_stage_is_done_when_the_cores_that_run_it_here_are() {
    let mut bench = Bench::new();
    bench.order(&group(1, 1, 5));
    let done =
        |batch, stage| CoreReport::StageDone { batch: BatchId(batch), stage: StageId(stage) };
    let said =
        |batch, stage| Some(Report::StageDone { batch: BatchId(batch), stage: StageId(stage) });
    assert_eq!(bench.core(1, done(1, 0)), said(1, 0));
    assert_eq!(bench.core(1, done(2, 1)), None);
    assert_eq!(bench.core(1, done(1, 1)), None);
    assert_eq!(bench.core(0, done(1, 1)), said(1, 1));
    assert_eq!(bench.core(0, done(2, 1)), said(2, 1));
}

#[test]
fn ranges_are_passed_on_at_once() {
    let ranges: Vec<TakenRange> = Vec::new();
    let report = Bench::new().core(0, CoreReport::Ranges(ranges.clone()));
    assert_eq!(report, Some(Report::Ranges(ranges)));
}
