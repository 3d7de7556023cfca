//! Tests of the worker: worker 1 in its second life, with two cores, under the driver of term 3.

use std::sync::Arc;

use super::*;
use crate::ids::{Instant, PartitionId, Watermark};
use crate::message::{Coverage, Purpose, Restore, Rollback, SourceRange, TakenRange};
use crate::placement::Placement;
use crate::plan::{Pacing, Plan, StageKind};
use crate::tests::{chain, core};

const KEPT: Retention = Retention::UntilDurable { high_mark_bytes: 9, limit_bytes: 9 };

struct Bench {
    worker: Worker,
    decisions: u64,
    actions: Vec<WorkerAction>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(KEPT, Bugs::NONE)
    }

    fn with(retention: Retention, bugs: Bugs) -> Bench {
        let worker = Worker::new(WorkerId(1), Incarnation(2), 2, Term(3), retention, bugs);
        Bench { worker, decisions: 0, actions: Vec::new() }
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

    fn decision_of(&mut self, term: u64, decision: &Decision) -> Vec<WorkerAction> {
        let (number, decision) = (OrderNumber(self.decisions + 1), decision.clone());
        let actions = self.order_of(term, &Order::Decision { number, decision });
        self.decisions = self.worker.history().applied.0;
        actions
    }

    /// A decision of the driver that must reach the cores as it is.
    fn decide(&mut self, decision: Decision) {
        let number = OrderNumber(self.decisions + 1);
        let actions = self.decision_of(3, &decision);
        assert_eq!(actions, [WorkerAction::ToCores(Order::Decision { number, decision })]);
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

fn group(group: u64, first: u64, batch_count: u64) -> Decision {
    Decision::ScheduleGroup(Arc::new(ScheduleGroup {
        group: GroupId(group),
        epoch: Epoch(1),
        predecessor: BatchId(first - 1),
        first_batch: BatchId(first),
        batch_count,
        start: Instant(0),
        interval_ns: 10,
        origin: Instant(0),
        purpose: Purpose::Process,
        contents: Arc::new([]),
        placement: (group == 1).then(placement),
    }))
}

fn group_done(group: u64, tasks: u64) -> CoreReport {
    group_done_in(1, group, tasks)
}

fn group_done_in(epoch: u64, group: u64, tasks: u64) -> CoreReport {
    let statistics = GroupStatistics { tasks, run_ns: 10 * tasks, ..GroupStatistics::default() };
    let (group, epoch, last_batch) = (GroupId(group), Epoch(epoch), BatchId(5 * group));
    CoreReport::GroupDone { group, epoch, last_batch, statistics }
}

fn cut(number: u64) -> CutId {
    CutId { term: Term(3), number: OrderNumber(number) }
}

fn life(worker: u32, incarnation: u64) -> Life {
    Life { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
}

fn taken(batch: u64, partition: u32) -> TakenRange {
    let partition = PartitionId(partition);
    let range = SourceRange { stage: StageId(0), partition, from: batch, to: batch + 1 };
    TakenRange { batch: BatchId(batch), range, ended: false, watermark: Watermark(0) }
}

fn covered(partition: u32, first: u64, last: u64) -> Coverage {
    let (first, last) = (BatchId(first), BatchId(last));
    Coverage { stage: StageId(0), partition: PartitionId(partition), first, last }
}

#[test]
fn a_group_is_reported_once_when_all_cores_are_done_with_it() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
    bench.decide(group(2, 6, 5));
    assert_eq!(bench.core(0, group_done(1, 3)), None);
    assert_eq!(bench.core(0, group_done(2, 1)), None);
    let Some(Report::GroupDone { group, statistics, .. }) = bench.core(1, group_done(1, 4)) else {
        panic!("all cores are done");
    };
    assert_eq!((group, statistics.tasks), (GroupId(1), 7));
    assert_eq!(statistics.run_ns_by_core, [30, 40]);
}

#[test]
fn a_group_that_does_not_follow_is_refused_and_nothing_after_it_is_taken() {
    for first in [1, 5, 7] {
        let mut bench = Bench::new();
        bench.decide(group(1, 1, 5));
        let refused = Report::Refused { group: GroupId(2), expected: BatchId(5) };
        let mut actions = bench.decision_of(3, &group(2, first, 5));
        assert_eq!(actions.pop().map(said), Some(refused));
        assert_eq!(actions, []);
        assert_eq!(bench.decision_of(3, &group(2, 6, 5)), []);
    }
}

#[test]
fn after_a_cut_the_next_group_follows_it() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
    bench.decide(group(2, 6, 5));
    bench.decide(Decision::CommitCut { cut: cut(2), last_batch: BatchId(3) });
    bench.decide(group(3, 4, 1));
}

#[test]
fn a_decision_that_comes_twice_is_taken_once() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
    let again = Order::Decision { number: OrderNumber(1), decision: group(1, 1, 5) };
    assert_eq!(bench.order_of(3, &again), []);
    assert_eq!(bench.worker.history().last_batch, BatchId(5));
}

#[test]
fn orders_of_an_older_term_are_dropped_and_a_newer_one_is_followed() {
    let mut bench = Bench::new();
    assert_eq!(bench.decision_of(2, &group(1, 1, 5)), []);
    assert_eq!(bench.decision_of(4, &group(1, 1, 5)).len(), 1);
    assert_eq!(bench.worker.term(), Term(4));
    assert_eq!(bench.decision_of(3, &group(2, 6, 5)), []);
}

#[test]
fn without_its_term_check_a_worker_obeys_an_older_driver() {
    let mut bench = Bench::with(Retention::WhenFolded, Bugs::planted(Bug::TermCheckOff));
    assert_eq!(bench.decision_of(4, &group(1, 1, 5)).len(), 1);
    assert_eq!(bench.decision_of(2, &group(2, 6, 5)).len(), 1);
    assert_eq!(bench.worker.term(), Term(4));
}

#[test]
fn the_promise_is_the_largest_of_the_cores_and_of_what_was_proposed() {
    for (proposed, promises, expected) in [(0, [3, 7], 7), (9, [9, 9], 9), (2, [8, 2], 8)] {
        let mut bench = Bench::new();
        bench.decide(Decision::CutGroup { cut: cut(1), proposed: BatchId(proposed) });
        let promise = |last| CoreReport::Promise { cut: cut(1), last_batch: BatchId(last) };
        assert_eq!(bench.core(0, promise(promises[0])), None);
        let expected = Report::Promise { cut: cut(1), last_batch: BatchId(expected) };
        assert_eq!(bench.core(1, promise(promises[1])), Some(expected));
    }
}

#[test]
fn promises_to_several_cuts_are_kept_apart() {
    let mut bench = Bench::new();
    let promise =
        |number, last| CoreReport::Promise { cut: cut(number), last_batch: BatchId(last) };
    bench.decide(Decision::CutGroup { cut: cut(1), proposed: BatchId(0) });
    bench.decide(Decision::CutGroup { cut: cut(2), proposed: BatchId(0) });
    assert_eq!(bench.core(0, promise(1, 3)), None);
    assert_eq!(bench.core(0, promise(2, 3)), None);
    let expected = Report::Promise { cut: cut(1), last_batch: BatchId(4) };
    assert_eq!(bench.core(1, promise(1, 4)), Some(expected));
    bench.decide(Decision::CommitCut { cut: cut(2), last_batch: BatchId(4) });
    assert_eq!(bench.core(1, promise(2, 4)), None, "nobody asks any more");
}

#[test]
fn what_all_cores_know_is_united_when_lives_are_fenced() {
    let mut bench = Bench::new();
    bench.decide(Decision::Fence(Arc::new([life(7, 1)])));
    let fenced = |ranges, coverage| CoreReport::Fenced {
        number: OrderNumber(1),
        standing: Standing { ranges, coverage },
    };
    let report = fenced(vec![taken(1, 0), taken(2, 0)], vec![covered(1, 1, 9)]);
    assert_eq!(bench.core(0, report), None);
    let report = fenced(vec![taken(2, 0), taken(1, 1)], vec![covered(0, 1, 9)]);
    let standing = Standing {
        ranges: vec![taken(1, 0), taken(2, 0), taken(1, 1)],
        coverage: vec![covered(0, 1, 9), covered(1, 1, 9)],
    };
    let number = OrderNumber(1);
    assert_eq!(bench.core(1, report), Some(Report::Fenced { number, standing }));
}

#[test]
fn a_worker_that_is_fenced_or_told_to_leave_ends_its_life_but_not_its_next_one() {
    let mut bench = Bench::new();
    let leave = |incarnation| Order::Leave { life: life(1, incarnation) };
    assert_eq!(bench.order_of(3, &leave(1)), []);
    assert_eq!(bench.order_of(3, &leave(2)), [WorkerAction::Leave]);
    let actions = bench.decision_of(3, &Decision::Fence(Arc::new([life(1, 2)])));
    assert_eq!(actions[0], WorkerAction::Leave);
}

#[test]
fn after_a_recovery_groups_are_reported_once_more_and_reports_of_before_are_void() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
    assert_eq!(bench.core(0, group_done(1, 1)), None);
    assert!(bench.core(1, group_done(1, 1)).is_some());
    bench.decide(group(2, 6, 5));
    bench.decide(recovery(2));
    assert_eq!(bench.core(0, group_done_in(1, 2, 1)), None);
    assert_eq!(bench.core(0, group_done_in(2, 1, 1)), None);
    let Some(Report::GroupDone { group, epoch, .. }) = bench.core(1, group_done_in(2, 1, 1)) else {
        panic!("both cores have reported since");
    };
    assert_eq!((group, epoch), (GroupId(1), Epoch(2)));
    assert_eq!(bench.core(1, group_done_in(2, 2, 1)), None);
    assert!(bench.core(0, group_done_in(2, 2, 1)).is_some());
}

fn recovery(epoch: u64) -> Decision {
    let from = Restore::Manifest;
    let (stage, partition, after) = (StageId(1), PartitionId(0), BatchId(0));
    Decision::Recover(Arc::new(Recover {
        epoch: Epoch(epoch),
        manifest: None,
        placements: vec![placement()],
        moved: vec![Rollback { stage, partition, after, to: core(1, 0), from }],
        errands: Vec::new(),
        replay_through: BatchId(10),
        released_through: BatchId(10),
    }))
}

#[test]
fn a_new_driver_hears_what_the_worker_holds_when_all_cores_have_promised() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
    let take_over =
        |term| Order::TakeOver { cut: CutId { term: Term(term), number: OrderNumber(0) } };
    let standing = |promise, ranges| CoreReport::Standing {
        promise: BatchId(promise),
        standing: Standing { ranges, coverage: Vec::new() },
    };
    assert_eq!(bench.order_of(4, &take_over(4)).len(), 1);
    assert_eq!(bench.core(0, standing(2, vec![taken(1, 0)])), None);
    // That driver is succeeded by another before core 1 has answered.
    assert_eq!(bench.order_of(5, &take_over(5)).len(), 1);
    assert_eq!(bench.core(1, standing(9, Vec::new())), None, "that was for the one before");
    assert_eq!(bench.core(1, standing(3, Vec::new())), None);
    let Some(Report::Holding(holding)) = bench.core(0, standing(2, vec![taken(1, 0)])) else {
        panic!("both have answered");
    };
    assert_eq!((holding.promise, holding.history.last_batch), (BatchId(3), BatchId(5)));
    assert_eq!(holding.standing.ranges, [taken(1, 0)]);
    assert_eq!(holding.recent, [(OrderNumber(1), group(1, 1, 5))]);
}

#[test]
fn only_the_last_decisions_are_kept_for_others() {
    let mut bench = Bench::new();
    for number in 1..=100 {
        bench.decide(Decision::AbandonCheckpoint { batch: BatchId(number) });
    }
    let numbers: Vec<u64> = bench.worker.recent.iter().map(|(number, _)| number.0).collect();
    assert_eq!((numbers.len(), numbers[0]), (64, 37));
}

#[test]
fn a_worker_that_joins_late_takes_over_what_was_decided() {
    let mut before = Bench::new();
    before.decide(group(1, 1, 5));
    let history = Arc::new(before.worker.history().clone());
    let mut bench = Bench::new();
    bench.order(&Order::Welcome(history.clone()));
    assert_eq!(*bench.worker.history(), *history);
    bench.decisions = 1;
    bench.decide(group(2, 6, 5));
}

#[test]
fn preparations_are_reported_when_all_cores_are_done_and_only_the_newest() {
    let mut bench = Bench::new();
    bench.decide(Decision::Prepare(Arc::new([])));
    let prepared = |number| CoreReport::Prepared { number: OrderNumber(number) };
    assert_eq!(bench.core(0, prepared(1)), None);
    bench.decide(Decision::AbandonMoves);
    assert_eq!(bench.core(1, prepared(1)), None);
    bench.decide(Decision::Prepare(Arc::new([])));
    assert_eq!(bench.core(0, prepared(3)), None);
    let number = OrderNumber(3);
    assert_eq!(bench.core(1, prepared(3)), Some(Report::Prepared { number }));
}

#[test]
fn snapshots_are_reported_in_the_name_of_this_life() {
    let mut bench = Bench::new();
    let (stage, partition, batch, since) =
        (StageId(1), PartitionId(2), BatchId(7), Some(BatchId(3)));
    let report = bench.core(1, CoreReport::Snapshot { stage, partition, batch, since });
    let incarnation = Incarnation(2);
    let snapshots = vec![Snapshot { stage, partition, batch, since, incarnation }];
    assert_eq!(report, Some(Report::Snapshots { batch, snapshots }));
}

#[test]
fn without_retention_the_history_does_not_grow_with_the_job() {
    for (retention, left) in [(Retention::WhenFolded, 0), (KEPT, 20)] {
        let mut bench = Bench::with(retention, Bugs::NONE);
        for number in 1..=20 {
            bench.decide(group(number, number * 5 - 4, 5));
            assert_eq!(bench.core(0, group_done(number, 1)), None);
            assert!(bench.core(1, group_done(number, 1)).is_some());
        }
        assert_eq!(bench.worker.history().groups.len(), left);
    }
}

#[test]
fn a_stage_is_done_when_the_cores_that_run_it_here_are() {
    let mut bench = Bench::new();
    bench.decide(group(1, 1, 5));
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
fn ranges_that_are_journaled_are_passed_on_at_once() {
    let ranges: Vec<TakenRange> = Vec::new();
    let report = Bench::new().core(0, CoreReport::Ranges(ranges.clone()));
    assert_eq!(report, Some(Report::Ranges(ranges)));
}

#[test]
fn where_nothing_is_repeated_ranges_of_all_cores_go_before_the_end_of_their_group() {
    let mut bench = Bench::with(Retention::WhenFolded, Bugs::NONE);
    bench.decide(group(1, 1, 5));
    let taken = |partition, ended| {
        let range =
            SourceRange { stage: StageId(0), partition: PartitionId(partition), from: 0, to: 9 };
        TakenRange { batch: BatchId(5), range, ended, watermark: Watermark(9) }
    };
    assert_eq!(bench.core(0, CoreReport::Ranges(vec![taken(0, false)])), None);
    assert_eq!(bench.core(0, group_done(1, 1)), None);
    assert_eq!(bench.core(1, CoreReport::Ranges(vec![taken(1, false)])), None);
    let event = WorkerEvent::Core { core: 1, report: group_done(1, 1) };
    bench.worker.handle(event, &mut bench.actions);
    let [ranges, done] = &std::mem::take(&mut bench.actions)[..] else { panic!("two reports") };
    assert_eq!(said(ranges.clone()), Report::Ranges(vec![taken(0, false), taken(1, false)]));
    assert!(matches!(said(done.clone()), Report::GroupDone { .. }));
    let end = vec![taken(0, true)];
    assert_eq!(bench.core(0, CoreReport::Ranges(end.clone())), Some(Report::Ranges(end)));
}
