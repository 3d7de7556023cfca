//! Tests of the local scheduler: one core, called core 0 of worker 0; others are only spoken of.
//!
//! Batch b starts at 10 b. Ranges may wait for 100 ns.

use super::*;
use crate::ids::{GroupId, Incarnation, OrderNumber, Term, Watermark, WorkerId};
use crate::message::{Content, Purpose, SourceRange};
use crate::placement::Placement;
use crate::plan::{Edge, Pattern};
use crate::tests::{chain, core};

mod changes;
mod groups;
mod inputs;
mod readiness;
mod recovery;
mod releases;
mod snapshots;
mod sources;
mod waiting;

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
        ranges: RangeReports::Journaled { after_ns: 100 },
        retention: Retention::WhenFolded,
        bugs: Bugs::NONE,
    }
}

fn without_prescheduling() -> LocalOptions {
    LocalOptions { prescheduling: Prescheduling::Off, ..ahead(4) }
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
