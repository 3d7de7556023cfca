//! Tests of the local scheduler: one core, called core 0 of worker 0; others are only spoken of.
//!
//! Batch b starts at 10 b. Ranges may wait for 100 ns.

use std::collections::BTreeSet;

use expect_test::expect;

use super::*;

use crate::ids::{GroupId, Incarnation, OrderNumber, Term, Watermark, WorkerId};
use crate::message::{Content, GroupStatistics, Purpose, SourceRange};
use crate::placement::Placement;
use crate::plan::{Edge, Pattern};
use crate::tests::{chain, core};

mod changes;
mod inputs;
mod recovery;
mod snapshots;

const CLOCK: StageKind = StageKind::Source(Pacing::Clock);
const UNPACED: StageKind = StageKind::Source(Pacing::Unpaced);

/// A local scheduler, the time, and what it did so far.
struct Bench {
    scheduler: LocalScheduler,
    plan: Arc<Plan>,
    placement: Arc<Placement>,
    now: Instant,
    groups: u64,
    decisions: u64,
    actions: Vec<LocalAction>,
}

impl Bench {
    fn with(plan: &Arc<Plan>, cores_by_stage: Vec<Vec<CoreId>>, options: LocalOptions) -> Bench {
        let placement = Placement { epoch: Epoch(1), from_batch: BatchId(1), cores_by_stage };
        Bench {
            scheduler: LocalScheduler::new(plan.clone(), core(0, 0), options),
            plan: plan.clone(),
            placement: Arc::new(placement),
            now: Instant(0),
            groups: 0,
            decisions: 0,
            actions: Vec::new(),
        }
    }

    /// A core that reads from `upstream` cores, each with one source partition.
    fn reduce(kind: StageKind, partitions: u32, upstream: u32, options: LocalOptions) -> Bench {
        let plan = chain(&[(CLOCK, upstream), (kind, partitions)]);
        let sources = (1..=upstream).map(|worker| core(worker, 0)).collect();
        Bench::with(&plan, vec![sources, vec![core(0, 0); partitions as usize]], options)
    }

    /// A core with a source partition whose only reader is core 0 of worker 1.
    fn source(kind: StageKind, options: LocalOptions) -> Bench {
        let plan = chain(&[(kind, 1), (StageKind::Stateful, 1)]);
        Bench::with(&plan, vec![vec![core(0, 0)], vec![core(1, 0)]], options)
    }

    /// A core that has all partitions of every stage: two of each.
    fn alone(stages: &[StageKind], options: LocalOptions) -> Bench {
        let stages: Vec<_> = stages.iter().map(|&kind| (kind, 2)).collect();
        let cores = vec![vec![core(0, 0); 2]; stages.len()];
        Bench::with(&chain(&stages), cores, options)
    }

    fn handle(&mut self, event: LocalEvent<'_>) {
        self.scheduler.handle(self.now, event, &mut self.actions);
    }

    fn order(&mut self, order: Order) {
        self.handle(LocalEvent::Order(order));
    }

    fn decide(&mut self, decision: Decision) {
        self.decisions += 1;
        let number = OrderNumber(self.decisions);
        self.order(Order::Decision { number, decision });
    }

    /// Two cores, this one and that of worker 1, with a partition each of a source and of `kind`;
    /// everything is kept until a manifest covers it, and batches 1 to `last` are scheduled.
    fn kept(kind: StageKind, last: u64) -> Bench {
        Bench::kept_on(&chain(&[(UNPACED, 2), (kind, 2)]), last, kept())
    }

    fn kept_on(plan: &Arc<Plan>, last: u64, options: LocalOptions) -> Bench {
        let cores = plan.stages.iter().map(|stage| {
            (0..stage.partition_count).map(|partition| core(partition % 2, 0)).collect()
        });
        let mut bench = Bench::with(plan, cores.collect(), options);
        bench.decide(Decision::Admit((0..4).map(|worker| (life(worker), 1)).collect()));
        bench.group(1, last);
        bench
    }

    /// What a run writes, block by block, for the owners that the scheduler names.
    fn published(&self, run: &Run) -> Vec<Published> {
        let mut published = Vec::new();
        for edge in (0..self.plan.edges.len() as u16).map(EdgeId) {
            let Edge { from, to, batch_delta, .. } = *self.plan.edge(edge);
            let reader = BatchId(run.batch.0 + batch_delta);
            let Some(placement) = self.scheduler.placements().at(reader) else { continue };
            for to_core in placement.cores_of(to) {
                let downstream = placement.partitions_on(to, to_core).into();
                let notice = self.notice(run.batch.0, edge, &run.partitions);
                let (epoch, sender) = (self.scheduler.epoch(), core(0, 0));
                let attempt = run.attempt;
                let notice = BlockNotice { downstream, epoch, sender, attempt, ..notice };
                if from == run.stage {
                    published.push(Published { to: to_core, notice, bytes: 100 });
                }
            }
        }
        published
    }

    /// Ends a run: what it took and what it wrote is known, and what is for this core is offered.
    fn end(&mut self, run: &Run) {
        let is_source = matches!(self.plan.stage(run.stage).kind, StageKind::Source(_));
        let partitions = run.partitions.iter().filter(|_| is_source && run.recorded.is_none());
        let ranges: Vec<TakenRange> =
            partitions.map(|&p| range_of(run.batch.0, run.stage, p)).collect();
        let published = self.published(run);
        self.handle(LocalEvent::RunDone {
            run,
            ranges: &ranges,
            published: &published,
            combined: &[],
            run_ns: 3,
        });
        for block in published.iter().filter(|block| block.to == core(0, 0)) {
            self.scheduler.offer(&block.notice);
        }
    }

    /// Runs the next task to its end.
    fn step(&mut self) -> Option<Run> {
        let run = self.scheduler.next(self.now)?;
        self.end(&run);
        Some(run)
    }

    /// Runs all that is ready, as (batch, stage, attempt).
    fn steps(&mut self) -> Vec<(u64, u16, u32)> {
        let runs = std::iter::from_fn(|| self.step());
        runs.map(|run| (run.batch.0, run.stage.0, run.attempt.0)).collect()
    }

    /// Everything but progress, credit and reports of groups since it was asked last.
    fn said(&mut self) -> Vec<LocalAction> {
        let dull = |action: &LocalAction| match action {
            LocalAction::Advertise { .. } | LocalAction::Release { .. } => true,
            LocalAction::Report(report) => matches!(
                report,
                CoreReport::Completed(_) | CoreReport::GroupDone { .. } | CoreReport::Ranges(_)
            ),
            _ => false,
        };
        self.actions.drain(..).filter(|action| !dull(action)).collect()
    }

    fn group(&mut self, first: u64, batch_count: u64) {
        self.schedule(first, batch_count, Purpose::Process);
    }

    fn schedule(&mut self, first: u64, batch_count: u64, purpose: Purpose) {
        self.groups += 1;
        self.decide(Decision::ScheduleGroup(Arc::new(ScheduleGroup {
            group: GroupId(self.groups),
            epoch: self.placement.epoch,
            predecessor: BatchId(first - 1),
            first_batch: BatchId(first),
            batch_count,
            start: Instant(first * 10),
            interval_ns: 10,
            origin: Instant(0),
            purpose,
            contents: Arc::new([]),
            placement: (self.placement.from_batch == BatchId(first))
                .then(|| self.placement.clone()),
        })));
    }

    fn release(&mut self, batch: u64) {
        self.order(Order::Release { batch: BatchId(batch), stage: StageId(1) });
    }

    fn cut_group(&mut self, proposed: u64) {
        let cut = CutId { term: Term(1), number: OrderNumber(self.decisions + 1) };
        self.decide(Decision::CutGroup { cut, proposed: BatchId(proposed) });
    }

    fn commit_cut(&mut self, last_batch: u64) {
        let cut = CutId { term: Term(1), number: OrderNumber(self.decisions) };
        self.decide(Decision::CommitCut { cut, last_batch: BatchId(last_batch) });
    }

    fn peer_completed(&mut self, worker: u32, batch: u64) {
        self.handle(LocalEvent::PeerCompleted { core: core(worker, 0), batch: BatchId(batch) });
    }

    /// Offers the block of one upstream partition for all partitions of the stage after it.
    fn block(&mut self, batch: u64, upstream: u32) -> Offer {
        let notice = self.notice(batch, EdgeId(0), &[PartitionId(upstream)]);
        self.scheduler.offer(&notice)
    }

    fn notice(&self, batch: u64, edge: EdgeId, upstream: &[PartitionId]) -> BlockNotice {
        let downstream = self.plan.stage(self.plan.edge(edge).to).partition_count;
        BlockNotice {
            epoch: Epoch(1),
            incarnation: Incarnation(1),
            attempt: Attempt(0),
            sender: core(upstream[0].0 + 1, 0),
            batch: BatchId(batch),
            edge,
            content: Content::Raw,
            upstream: upstream.into(),
            downstream: (0..downstream).map(PartitionId).collect(),
            watermark: Watermark(batch * 100 + u64::from(upstream[0].0)),
        }
    }

    fn done(&mut self, run: &Run, ranges: &[TakenRange]) {
        let (published, combined) = (&[], &[]);
        self.handle(LocalEvent::RunDone { run, ranges, published, combined, run_ns: 3 });
    }

    /// Runs the next task, if any, to its end; what it writes for this core is there at once.
    fn run(&mut self) -> Option<Run> {
        let run = self.scheduler.next(self.now)?;
        self.done(&run, &[]);
        for edge in (0..self.plan.edges.len() as u16).map(EdgeId) {
            let Edge { from, to, .. } = *self.plan.edge(edge);
            if from == run.stage && !self.placement.partitions_on(to, core(0, 0)).is_empty() {
                let notice = self.notice(run.batch.0, edge, &run.partitions);
                assert_eq!(self.scheduler.offer(&notice), Offer::Keep);
            }
        }
        Some(run)
    }

    /// The same, if only the batch matters.
    fn run_batch(&mut self) -> Option<u64> {
        self.run().map(|run| run.batch.0)
    }

    fn run_all(&mut self) -> Vec<Run> {
        std::iter::from_fn(|| self.run()).collect()
    }

    /// Runs all that is ready, as (batch, stage).
    fn run_names(&mut self) -> Vec<(u64, u16)> {
        self.run_all().iter().map(|run| (run.batch.0, run.stage.0)).collect()
    }

    /// What it reported since it was asked last.
    fn reports(&mut self) -> Vec<CoreReport> {
        let reports = self.actions.drain(..).filter_map(|action| match action {
            LocalAction::Report(report) => Some(report),
            _ => None,
        });
        reports.collect()
    }

    /// The last batches of the groups that were reported done since it was asked last.
    fn groups_done(&mut self) -> Vec<(u64, u64)> {
        let reports = self.reports().into_iter().filter_map(|report| match report {
            CoreReport::GroupDone { group, last_batch, .. } => Some((group.0, last_batch.0)),
            _ => None,
        });
        reports.collect()
    }

    fn waiting(&self) -> String {
        match self.scheduler.waiting() {
            Some(Waiting { batch, stage, partition, reason }) => {
                format!("{batch} {stage} {partition} waits for {reason}")
            }
            None => "nothing waits".to_owned(),
        }
    }
}

/// Retained: 100 bytes a block, more than 2000 are reported, and more than 3000 are too much.
fn kept() -> LocalOptions {
    let retention = Retention::UntilDurable { high_mark_bytes: 2000, limit_bytes: 3000 };
    LocalOptions { retention, ..ahead(4) }
}

fn life(worker: u32) -> Life {
    Life { worker: WorkerId(worker), incarnation: Incarnation(1) }
}

fn range_of(batch: u64, stage: StageId, partition: PartitionId) -> TakenRange {
    let range = SourceRange { stage, partition, from: batch * 5, to: batch * 5 + 5 };
    TakenRange { batch: BatchId(batch), range, ended: false, watermark: Watermark(batch) }
}

fn ahead(ahead: u64) -> LocalOptions {
    LocalOptions {
        ahead,
        prescheduling: Prescheduling::On,
        report_ranges_after_ns: 100,
        retention: Retention::WhenFolded,
        bugs: Bugs::NONE,
    }
}

fn without_prescheduling() -> LocalOptions {
    LocalOptions { prescheduling: Prescheduling::Off, ..ahead(4) }
}

fn taken(batch: u64, from: u64, to: u64, ended: bool) -> TakenRange {
    let range = SourceRange { stage: StageId(0), partition: PartitionId(0), from, to };
    TakenRange { batch: BatchId(batch), range, ended, watermark: Watermark(batch) }
}

/// The answer to the cut that was asked for last.
fn promise(bench: &Bench, last_batch: u64) -> CoreReport {
    let cut = CutId { term: Term(1), number: OrderNumber(bench.decisions) };
    CoreReport::Promise { cut, last_batch: BatchId(last_batch) }
}

/// All orders of `items`.
fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    let Some((&first, rest)) = items.split_first() else { return vec![Vec::new()] };
    let shorter = permutations(rest);
    let insert = |order: &Vec<T>, at: usize| {
        let mut order = order.clone();
        order.insert(at, first);
        order
    };
    shorter.iter().flat_map(|order| (0..=order.len()).map(move |at| insert(order, at))).collect()
}

#[test]
fn reduce_task_becomes_ready_when_its_last_block_arrives() {
    let mut bench = Bench::reduce(StageKind::Stateful, 2, 3, ahead(4));
    bench.group(1, 10);
    for upstream in [2, 0] {
        assert_eq!(bench.block(1, upstream), Offer::Keep);
        assert_eq!(bench.run(), None);
    }
    bench.block(1, 1);
    let run = bench.run().expect("the last block is there");
    assert_eq!((run.batch, run.stage), (BatchId(1), StageId(1)));
    assert_eq!(run.partitions[..], [PartitionId(0), PartitionId(1)]);
    assert_eq!(run.watermark, Watermark(100), "the minimum over the inputs");
    assert_eq!(bench.run(), None);
}

#[test]
fn partitions_of_a_stage_become_ready_one_by_one_when_their_blocks_come_apart() {
    let mut bench = Bench::reduce(StageKind::Stateful, 3, 1, ahead(4));
    bench.group(1, 10);
    let mut notice = bench.notice(1, EdgeId(0), &[PartitionId(0)]);
    for partitions in [&[2][..], &[0, 1]] {
        notice.downstream = partitions.iter().copied().map(PartitionId).collect();
        assert_eq!(bench.scheduler.offer(&notice), Offer::Keep);
        let run = bench.run().expect("all its blocks are there");
        assert_eq!(run.partitions, notice.downstream);
    }
    assert_eq!(bench.scheduler.completed(), BatchId(1));
}

#[test]
fn all_arrival_orders_of_four_blocks_and_their_group_give_the_same_runs() {
    // None is the group; the blocks are those of two batches and two upstream partitions.
    let arrivals = [None, Some((1, 0)), Some((1, 1)), Some((2, 0)), Some((2, 1))];
    let orders = permutations(&arrivals);
    assert_eq!(orders.len(), 120);
    for kind in [StageKind::Stateful, StageKind::Stateless] {
        let mut seen = BTreeSet::new();
        for order in &orders {
            let mut bench = Bench::reduce(kind, 2, 2, ahead(4));
            let mut runs = Vec::new();
            for arrival in order {
                match *arrival {
                    None => bench.group(1, 2),
                    Some((batch, upstream)) => {
                        assert_eq!(bench.block(batch, upstream), Offer::Keep);
                    }
                }
                runs.extend(bench.run_all());
            }
            assert_eq!(bench.groups_done(), [(1, 2)]);
            if kind == StageKind::Stateless {
                runs.sort_by_key(|run| run.batch);
            }
            seen.insert(format!("{runs:?}"));
        }
        assert_eq!(seen.len(), 1, "{seen:#?}");
    }
}

#[test]
fn a_block_may_arrive_before_its_group_and_before_its_batch_is_laid_out() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(2));
    for batch in [4, 1, 3] {
        assert_eq!(bench.block(batch, 0), Offer::Keep);
    }
    assert_eq!(bench.run(), None);
    bench.group(1, 3);
    assert_eq!(bench.run_names(), [(1, 1)]);
    bench.block(2, 0);
    assert_eq!(bench.run_names(), [(2, 1), (3, 1)]);
    bench.group(4, 3);
    assert_eq!(bench.run_names(), [(4, 1)]);
    assert!(bench.scheduler.early.is_empty());
}

#[test]
fn a_block_that_arrives_twice_is_discarded_the_second_time() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 2, ahead(2));
    assert_eq!(bench.block(1, 0), Offer::Keep);
    assert_eq!(bench.block(1, 0), Offer::Discard, "before its group");
    bench.group(1, 9);
    assert_eq!(bench.block(1, 0), Offer::Discard, "laid out");
    assert_eq!(bench.block(1, 1), Offer::Keep);
    assert_eq!(bench.block(1, 1), Offer::Discard, "ready");
    let run = bench.scheduler.next(bench.now).expect("both blocks are there");
    assert_eq!(bench.block(1, 1), Offer::Discard, "running");
    bench.done(&run, &[]);
    assert_eq!(bench.block(1, 1), Offer::Discard, "finished");
    assert_eq!(bench.block(4, 1), Offer::Keep);
    assert_eq!(bench.block(4, 1), Offer::Discard, "not yet laid out");
    assert_eq!(bench.run(), None);
}

#[test]
fn a_block_for_partitions_of_another_core_is_discarded() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(2));
    bench.group(1, 1);
    let downstream = Arc::new([PartitionId(7)]);
    let notice = BlockNotice { downstream, ..bench.notice(1, EdgeId(0), &[PartitionId(0)]) };
    assert_eq!(bench.scheduler.offer(&notice), Offer::Discard);
    assert_eq!(bench.run(), None);
}

#[test]
fn batches_of_a_stateful_stage_run_in_order_whatever_the_arrival_order() {
    for order in permutations(&[1, 2, 3, 4]) {
        let mut bench = Bench::reduce(StageKind::Stateful, 2, 1, ahead(3));
        bench.group(1, 4);
        let mut runs = Vec::new();
        for batch in order {
            bench.block(batch, 0);
            runs.extend(bench.run_names());
        }
        assert_eq!(runs, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    }
}

#[test]
fn batches_of_a_stateless_stage_run_as_they_come_and_are_completed_in_order() {
    let mut bench = Bench::reduce(StageKind::Stateless, 2, 1, ahead(4));
    bench.group(1, 3);
    for (batch, completed) in [(3, 0), (1, 1), (2, 3)] {
        bench.block(batch, 0);
        assert_eq!(bench.run_names(), [(batch, 1)]);
        assert_eq!(bench.scheduler.completed(), BatchId(completed));
    }
    assert_eq!(bench.groups_done(), [(1, 3)]);
}

#[test]
fn the_oldest_batch_runs_first_and_in_it_the_stage_nearest_the_sink() {
    // Source 0 feeds stages 1 and 2; all tasks but the source's are here.
    let stages = [(CLOCK, 1), (StageKind::Stateless, 1), (StageKind::Stateless, 1)];
    let mut plan = Plan::clone(&chain(&stages));
    plan.edges[1].from = StageId(0);
    let cores = vec![vec![core(1, 0)], vec![core(0, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&Arc::new(plan), cores, ahead(4));
    bench.group(1, 4);
    for (batch, edge) in [(3, 0), (2, 1), (1, 0), (2, 0), (3, 1), (1, 1)] {
        let notice = bench.notice(batch, EdgeId(edge), &[PartitionId(0)]);
        bench.scheduler.offer(&notice);
    }
    assert_eq!(bench.run_names(), [(1, 2), (1, 1), (2, 2), (2, 1), (3, 2), (3, 1)]);
}

#[test]
fn a_source_runs_before_newer_batches_and_after_the_rest_of_its_own() {
    let mut bench = Bench::alone(&[UNPACED, StageKind::Stateless], ahead(4));
    let cores = vec![vec![core(0, 0), core(1, 0)], vec![core(0, 0); 2]];
    bench.placement = Arc::new(Placement { cores_by_stage: cores, ..(*bench.placement).clone() });
    bench.group(1, 2);
    bench.block(2, 0);
    bench.block(2, 1);
    assert_eq!(bench.run_batch(), Some(1), "the source, although batch 2 is ready downstream");
    bench.block(1, 1);
    let order: Vec<_> = std::iter::from_fn(|| bench.scheduler.next(bench.now))
        .map(|run| (run.batch.0, run.stage.0))
        .collect();
    assert_eq!(order, [(1, 1), (2, 1), (2, 0)]);
}

#[test]
fn live_sources_wait_for_the_start_of_their_batch() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    assert_eq!(bench.scheduler.deadline(), None);
    bench.group(1, 2);
    assert_eq!(bench.scheduler.deadline(), Some(Instant(10)));
    bench.now = Instant(9);
    assert_eq!(bench.run_batch(), None);
    bench.now = Instant(10);
    let run = bench.run().expect("the batch has started");
    assert_eq!((run.batch, run.cut, run.purpose), (BatchId(1), Instant(10), Purpose::Process));
    assert_eq!(bench.scheduler.deadline(), Some(Instant(20)));
    bench.now = Instant(25);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(20)));
    assert_eq!(bench.scheduler.deadline(), None);
}

#[test]
fn sources_whose_input_is_all_there_do_not_wait() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 3);
    assert_eq!(bench.scheduler.deadline(), None);
    let batches: Vec<u64> = std::iter::from_fn(|| bench.run_batch()).collect();
    assert_eq!(batches, [1, 2, 3]);
}

#[test]
fn a_core_without_source_partitions_runs_no_source() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(4));
    bench.group(1, 100);
    bench.now = Instant(500);
    assert_eq!(bench.run(), None);
    assert_eq!(bench.scheduler.deadline(), None);
    bench.block(1, 0);
    assert_eq!(bench.run_names(), [(1, 1)]);
    assert_eq!(bench.run(), None);
}

#[test]
fn a_source_is_never_more_than_its_credit_before_the_slowest_peer() {
    for credit in 1..9 {
        let plan = chain(&[(UNPACED, 1), (StageKind::Stateful, 2)]);
        let cores = vec![vec![core(0, 0)], vec![core(1, 0), core(2, 0)]];
        let mut bench = Bench::with(&plan, cores, ahead(credit));
        bench.group(1, 1000);
        let mut batches = std::iter::from_fn(|| bench.run_batch());
        assert_eq!(batches.by_ref().last(), Some(credit));
        bench.peer_completed(1, credit);
        assert_eq!(bench.run_batch(), None, "the other has finished nothing yet");
        bench.peer_completed(2, 1);
        assert_eq!(bench.run_batch(), Some(credit + 1));
        assert_eq!(bench.run_batch(), None);
        bench.peer_completed(2, 0);
        assert_eq!(bench.run_batch(), None, "old news take nothing back and give nothing");
    }
}

#[test]
fn a_source_is_never_more_than_its_credit_before_its_own_core() {
    let plan = chain(&[(UNPACED, 2), (StageKind::Stateful, 1)]);
    let cores = vec![vec![core(0, 0), core(1, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&plan, cores, ahead(3));
    bench.group(1, 1000);
    let batches: Vec<u64> = std::iter::from_fn(|| bench.run_batch()).collect();
    assert_eq!(batches, [1, 2, 3], "the other source has sent nothing");
    bench.block(1, 1);
    assert_eq!(bench.run_names(), [(1, 1), (4, 0)]);
}

#[test]
fn sources_elsewhere_hear_of_every_quarter_of_their_credit() {
    let plan = chain(&[(UNPACED, 3), (StageKind::Stateful, 1)]);
    let cores = vec![vec![core(0, 0), core(1, 0), core(2, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&plan, cores, ahead(12));
    bench.group(1, 1000);
    for batch in 1..=9 {
        for upstream in 1..3 {
            bench.block(batch, upstream);
        }
    }
    bench.run_all();
    assert_eq!(bench.scheduler.completed(), BatchId(9));
    let said: Vec<_> = bench
        .actions
        .iter()
        .filter_map(|action| match action {
            LocalAction::Advertise { to, completed } => Some((to.to_vec(), completed.0)),
            _ => None,
        })
        .collect();
    let others = vec![core(1, 0), core(2, 0)];
    assert_eq!(said, [(others.clone(), 3), (others.clone(), 6), (others, 9)]);
}

#[test]
fn blocks_are_released_when_their_batch_and_all_before_it_are_finished() {
    let mut bench = Bench::reduce(StageKind::Stateless, 1, 1, ahead(4));
    bench.group(1, 3);
    let mut released = Vec::new();
    for batch in [2, 1, 3] {
        bench.block(batch, 0);
        bench.run_all();
        released.extend(bench.actions.drain(..).filter_map(|action| match action {
            LocalAction::Release { completed } => Some((batch, completed.0)),
            _ => None,
        }));
    }
    assert_eq!(released, [(1, 2), (3, 3)]);
}

#[test]
fn a_late_core_cuts_at_the_latest_boundary_and_counts_the_batches_that_it_overtakes() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    bench.group(1, 6);
    bench.now = Instant(47);
    let runs = bench.run_all();
    let cuts: Vec<_> = runs.iter().map(|run| (run.batch.0, run.cut.0)).collect();
    assert_eq!(cuts, [(1, 40), (2, 40), (3, 40), (4, 40)]);
    bench.now = Instant(50);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(50)));
    bench.now = Instant(61);
    bench.run();
    let reports = bench.reports();
    let [CoreReport::GroupDone { statistics, .. }] = &reports[..] else { panic!("{reports:?}") };
    let expected = GroupStatistics {
        tasks: 6,
        run_ns: 18,
        overtaken: 3,
        worst_delay_ns: 37,
        ..GroupStatistics::default()
    };
    assert_eq!(statistics, &expected);
}

#[test]
fn a_cut_of_input_never_goes_back_even_where_a_clock_does() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    bench.group(1, 6);
    bench.now = Instant(47);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(40)));
    bench.now = Instant(35);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(40)));
}

#[test]
fn groups_of_any_size_give_the_same_runs() {
    let stages = [CLOCK, StageKind::Stateless, StageKind::Stateful];
    let runs_with = |group_size: u64| {
        let mut bench = Bench::alone(&stages, ahead(4));
        let mut runs = Vec::new();
        for first in (1..=700).step_by(group_size as usize) {
            bench.group(first, group_size);
            for batch in first..first + group_size {
                bench.now = Instant(batch * 10 + batch % 3);
                runs.extend(bench.run_all());
            }
        }
        assert_eq!(bench.groups_done().len() as u64, 700 / group_size);
        runs
    };
    let expected = runs_with(1);
    assert_eq!(expected.len(), 2100);
    assert!(runs_with(7) == expected && runs_with(100) == expected);
}

#[test]
fn what_is_laid_out_does_not_depend_on_the_size_of_the_group() {
    for size in [1, 10, 100, 10_000, 1_000_000_000_000] {
        let mut bench = Bench::alone(&[UNPACED, StageKind::Stateful], ahead(6));
        bench.group(1, size);
        for _ in 0..100 {
            let laid_out = bench.scheduler.lanes.horizon().0 - bench.scheduler.completed().0;
            assert!(laid_out == size.min(6) || size < 100);
            bench.run();
        }
        assert!(bench.scheduler.lanes.states_kept() <= 6);
    }
}

#[test]
fn without_prescheduling_the_release_is_one_more_dependency() {
    for order in permutations(&[None, Some(0), Some(1)]) {
        let mut bench = Bench::reduce(StageKind::Stateful, 2, 2, without_prescheduling());
        bench.group(1, 3);
        for (index, arrival) in order.iter().enumerate() {
            assert_eq!(bench.run(), None, "{index} of {order:?}");
            match arrival {
                None => bench.release(1),
                Some(upstream) => assert_eq!(bench.block(1, *upstream), Offer::Keep),
            }
        }
        assert_eq!(bench.run_names(), [(1, 1)], "{order:?}");
    }
}

#[test]
fn a_release_may_come_before_its_batch_is_laid_out() {
    let options = LocalOptions { ahead: 1, ..without_prescheduling() };
    let mut bench = Bench::reduce(StageKind::Stateful, 2, 1, options);
    bench.group(1, 3);
    for batch in [2, 1, 3] {
        bench.release(batch);
    }
    for batch in [3, 2, 1] {
        bench.block(batch, 0);
    }
    assert_eq!(bench.run_names(), [(1, 1), (2, 1), (3, 1)]);
    assert!(bench.scheduler.releases.is_empty());
    bench.release(3);
    assert!(bench.scheduler.releases.is_empty(), "nobody needs it any more");
}

#[test]
fn without_prescheduling_a_stage_that_feeds_others_is_reported_once() {
    let options = without_prescheduling();
    let mut bench = Bench::alone(&[UNPACED, StageKind::Stateless, StageKind::Stateful], options);
    bench.group(1, 1);
    assert_eq!(bench.run_names(), [(1, 0)]);
    let stage_done = |stage| CoreReport::StageDone { batch: BatchId(1), stage: StageId(stage) };
    assert_eq!(bench.reports(), [stage_done(0)]);
    bench.release(1);
    assert_eq!(bench.run_names(), [(1, 1)]);
    assert_eq!(bench.reports(), [stage_done(1)]);
    bench.order(Order::Release { batch: BatchId(1), stage: StageId(2) });
    assert_eq!(bench.run_names(), [(1, 2)]);
    assert_eq!(bench.groups_done(), [(1, 1)]);
}

#[test]
fn a_promise_covers_what_has_started_and_holds_until_the_cut() {
    let mut bench = Bench::source(UNPACED, ahead(4));
    bench.group(1, 100);
    bench.run_batch();
    bench.run_batch();
    bench.cut_group(1);
    let expected = [promise(&bench, 2)];
    assert_eq!(bench.reports(), expected);
    assert_eq!(bench.run_batch(), None);
    bench.commit_cut(3);
    assert_eq!(bench.run_batch(), Some(3), "another core had started it");
    assert_eq!(bench.run_batch(), None);
    assert_eq!(bench.groups_done(), [(1, 3)]);
}

#[test]
fn a_source_goes_on_up_to_the_batch_that_was_proposed() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 2);
    bench.group(3, 2);
    bench.cut_group(3);
    let expected = [promise(&bench, 3)];
    assert_eq!(bench.reports(), expected);
    let batches: Vec<u64> = std::iter::from_fn(|| bench.run_batch()).collect();
    assert_eq!(batches, [1, 2, 3]);
    assert_eq!(bench.groups_done(), [(1, 2)]);
    bench.commit_cut(3);
    assert_eq!(bench.groups_done(), [(2, 3)], "the cut has made it shorter");
}

#[test]
fn a_cut_voids_every_later_batch_in_any_group() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 2);
    bench.group(3, 2);
    bench.run_batch();
    bench.cut_group(0);
    bench.commit_cut(1);
    assert_eq!(bench.groups_done(), [(1, 1)]);
    assert_eq!(bench.run_batch(), None);
    bench.schedule(2, 1, Purpose::Flush);
    let run = bench.run().expect("the flush group has the number of a voided batch");
    assert_eq!((run.batch, run.purpose), (BatchId(2), Purpose::Flush));
    assert_eq!(bench.groups_done(), [(3, 2)]);
}

#[test]
fn a_block_of_the_flush_group_does_not_run_as_the_voided_batch_of_its_number() {
    for arrives_before_commit in [true, false] {
        let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(4));
        bench.group(1, 100);
        bench.block(1, 0);
        assert_eq!(bench.run_names(), [(1, 1)]);
        bench.cut_group(0);
        if arrives_before_commit {
            assert_eq!(bench.block(2, 0), Offer::Keep);
            assert_eq!(bench.run(), None, "the promise is open");
        }
        bench.commit_cut(1);
        assert_eq!(bench.groups_done(), [(1, 1)]);
        let offer = bench.block(2, 0);
        assert_eq!(offer == Offer::Discard, arrives_before_commit);
        assert_eq!(bench.run(), None, "its group is not there");
        bench.schedule(2, 1, Purpose::Flush);
        let run = bench.run().expect("block and group are there");
        assert_eq!((run.batch, run.purpose), (BatchId(2), Purpose::Flush));
        assert_eq!(bench.run(), None);
        assert_eq!(bench.groups_done(), [(2, 2)]);
    }
}

#[test]
fn a_block_beyond_the_promise_runs_after_a_commit_that_includes_it() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(4));
    bench.group(1, 100);
    bench.cut_group(0);
    bench.block(2, 0);
    bench.block(1, 0);
    assert_eq!(bench.run(), None);
    bench.commit_cut(2);
    assert_eq!(bench.run_names(), [(1, 1), (2, 1)]);
    assert_eq!(bench.groups_done(), [(1, 2)]);
}

#[test]
fn a_core_without_tasks_is_done_with_its_groups_at_once_and_follows_a_cut_back() {
    let plan = chain(&[(CLOCK, 1), (StageKind::Stateful, 1)]);
    let mut bench = Bench::with(&plan, vec![vec![core(1, 0)], vec![core(2, 0)]], ahead(4));
    bench.group(1, 100);
    bench.group(101, 100);
    assert_eq!(bench.groups_done(), [(1, 100), (2, 200)]);
    bench.cut_group(0);
    let expected = [promise(&bench, 0)];
    assert_eq!(bench.reports(), expected);
    bench.commit_cut(7);
    bench.schedule(8, 1, Purpose::Flush);
    assert_eq!(bench.groups_done(), [(3, 8)]);
    assert_eq!(bench.scheduler.completed(), BatchId(8));
}

#[test]
fn a_source_partition_that_moves_here_at_a_cut_starts_after_it() {
    let plan = chain(&[(UNPACED, 1), (StageKind::Stateless, 1)]);
    let mut bench = Bench::with(&plan, vec![vec![core(1, 0)], vec![core(0, 0)]], ahead(4));
    bench.group(1, 100);
    bench.block(1, 0);
    assert_eq!(bench.run_names(), [(1, 1)]);
    bench.cut_group(0);
    bench.commit_cut(1);
    bench.placement = Arc::new(Placement {
        epoch: Epoch(2),
        from_batch: BatchId(2),
        cores_by_stage: vec![vec![core(0, 0)], vec![core(0, 0)]],
    });
    bench.group(2, 2);
    assert_eq!(bench.run_names(), [(2, 0), (2, 1), (3, 0), (3, 1)]);
    assert_eq!(bench.scheduler.placements().at(BatchId(1)), None, "no batch needs it any more");
}

#[test]
fn taken_ranges_are_reported_together_after_a_while_and_before_their_group_is_done() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 4);
    let take = |bench: &mut Bench, ended| {
        let run = bench.scheduler.next(bench.now).expect("there is credit");
        let batch = run.batch.0;
        bench.done(&run, &[taken(batch, batch * 5, batch * 5 + 5, ended)]);
    };
    take(&mut bench, false);
    bench.now = Instant(60);
    take(&mut bench, false);
    assert_eq!(bench.scheduler.deadline(), Some(Instant(100)), "counted from the first");
    bench.handle(LocalEvent::Tick);
    assert_eq!(bench.reports(), []);
    bench.now = Instant(100);
    bench.handle(LocalEvent::Tick);
    let two = vec![taken(1, 5, 10, false), taken(2, 10, 15, false)];
    assert_eq!(bench.reports(), [CoreReport::Ranges(two)]);
    assert_eq!(bench.scheduler.deadline(), None);

    take(&mut bench, true);
    let end = vec![taken(3, 15, 20, true)];
    assert_eq!(bench.reports(), [CoreReport::Ranges(end)], "an end does not wait");
    take(&mut bench, false);
    let reports = bench.reports();
    let [CoreReport::Ranges(last), CoreReport::GroupDone { group, .. }] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((&last[..], *group), (&[taken(4, 20, 25, false)][..], GroupId(1)));
    assert_eq!(bench.scheduler.deadline(), None);
}

#[test]
fn the_reason_why_nothing_moves_is_named() {
    let mut said = Vec::new();

    let mut bench = Bench::source(CLOCK, ahead(2));
    said.push(bench.waiting());
    bench.group(1, 100);
    said.push(bench.waiting());
    bench.cut_group(0);
    said.push(bench.waiting());

    let plan = chain(&[(UNPACED, 1), (StageKind::Stateful, 2)]);
    let mut bench =
        Bench::with(&plan, vec![vec![core(0, 0)], vec![core(1, 0), core(2, 0)]], ahead(2));
    bench.group(1, 100);
    while bench.run_batch().is_some() {}
    bench.peer_completed(1, 2);
    said.push(bench.waiting());

    let mut bench = Bench::reduce(StageKind::Stateful, 2, 3, without_prescheduling());
    bench.group(1, 100);
    bench.block(1, 0);
    said.push(bench.waiting());
    bench.block(1, 2);
    bench.block(1, 1);
    said.push(bench.waiting());
    bench.cut_group(0);
    said.push(bench.waiting());

    expect![[r#"
        [
            "nothing waits",
            "batch 1 stage 0 partition 0 waits for its start time",
            "batch 1 stage 0 partition 0 waits for the driver to commit a cut",
            "batch 3 stage 0 partition 0 waits for worker 2 core 0, which is too far behind",
            "batch 1 stage 1 partition 0 waits for the block of upstream partition 1",
            "batch 1 stage 1 partition 0 waits for the batch before it or the driver's release",
            "batch 1 stage 1 partition 0 waits for the driver to commit a cut",
        ]
    "#]]
    .assert_debug_eq(&said);
}

#[test]
fn a_task_that_reads_from_one_partition_waits_for_that_one() {
    let mut plan = Plan::clone(&chain(&[(CLOCK, 100), (StageKind::Stateless, 100)]));
    plan.edges[0].pattern = Pattern::Forward;
    let mut readers = vec![core(1, 0); 100];
    readers[70] = core(0, 0);
    let cores = vec![vec![core(1, 0); 100], readers];
    let mut bench = Bench::with(&Arc::new(plan), cores, ahead(2));
    bench.group(1, 1);
    let missing = "batch 1 stage 1 partition 70 waits for the block of upstream partition 70";
    assert_eq!(bench.waiting(), missing);
    assert_eq!(bench.block(1, 6), Offer::Discard);
    assert_eq!(bench.block(1, 70), Offer::Keep);
    assert_eq!(bench.run_names(), [(1, 1)]);
}
