//! Partitions that move at a cut.

use super::*;
use crate::message::{Move, Recover, Restore, Rollback};

const STAGE: StageId = StageId(1);

/// Partition 0 of the stage with state moves away from here, to worker 2, after `last`.
fn move_away(bench: &mut Bench, last: u64) {
    let moved = Move { stage: STAGE, partition: PartitionId(0), from: core(0, 0), to: core(2, 0) };
    move_at(bench, moved, last);
}

fn move_here(bench: &mut Bench, last: u64) {
    let moved = Move { stage: STAGE, partition: PartitionId(1), from: core(1, 0), to: core(0, 0) };
    move_at(bench, moved, last);
}

fn move_at(bench: &mut Bench, moved: Move, last: u64) {
    bench.decide(Decision::Prepare(Arc::new([moved])));
    bench.cut_group(0);
    bench.commit_cut(last);
    let mut placement = Placement::clone(&bench.placement);
    (placement.epoch, placement.from_batch) = (Epoch(2), BatchId(last + 1));
    placement.cores_by_stage[moved.stage.index()][moved.partition.index()] = moved.to;
    bench.placement = Arc::new(placement);
    bench.group(last + 1, 5);
}

fn arrive(bench: &mut Bench, worker: u32, batch: u64) {
    let (from, batch, partition) = (life(worker), BatchId(batch), PartitionId(1));
    let since = None;
    bench.handle(LocalEvent::StateArrived { from, stage: STAGE, partition, batch, since });
}

fn inputs(bench: &mut Bench, batches: std::ops::RangeInclusive<u64>) {
    for batch in batches {
        let notice = bench.notice(batch, EdgeId(0), &[PartitionId(1)]);
        bench.scheduler.offer(&notice);
    }
}

/// Of four batches, the stage with state has run those up to `last`.
fn run_up_to(last: u64) -> Bench {
    let mut bench = Bench::kept(StageKind::Stateful, 4);
    bench.steps();
    inputs(&mut bench, 1..=last);
    bench.steps();
    bench
}

fn ship(batch: u64, since: Option<u64>) -> LocalAction {
    let (batch, to, since) = (BatchId(batch), core(2, 0), since.map(BatchId));
    LocalAction::Ship { stage: STAGE, partition: PartitionId(0), batch, to, since }
}

#[test]
fn a_partition_that_moves_away_ends_at_the_cut_is_shipped_and_kept_until_a_manifest_covers_it() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.peer_completed(1, 9);
    bench.steps();
    inputs(&mut bench, 1..=2);
    bench.steps();
    assert_eq!(bench.scheduler.completed(), BatchId(2));
    move_away(&mut bench, 6);
    assert!(!bench.said().contains(&ship(6, None)), "it has batches to run yet");
    inputs(&mut bench, 3..=6);
    bench.steps();
    assert!(bench.said().contains(&ship(6, None)));
    bench.handle(LocalEvent::Reconnected { worker: WorkerId(2) });
    assert!(bench.said().contains(&ship(6, None)));
    let drop = LocalAction::DropCopy { stage: STAGE, partition: PartitionId(0) };
    snapshots::durable(&mut bench, 5, &[]);
    assert!(!bench.said().contains(&drop));
    snapshots::durable(&mut bench, 6, &[]);
    assert!(bench.said().contains(&drop));
}

#[test]
fn a_partition_that_moves_here_starts_after_the_cut_when_its_state_is_there() {
    for arrives_first in [true, false] {
        let mut bench = run_up_to(4);
        if arrives_first {
            arrive(&mut bench, 1, 4);
        }
        move_here(&mut bench, 4);
        inputs(&mut bench, 5..=5);
        bench.steps();
        if !arrives_first {
            assert_eq!(bench.scheduler.completed(), BatchId(4));
            arrive(&mut bench, 1, 3);
            assert_eq!(bench.scheduler.completed(), BatchId(4), "that is not what it waits for");
            arrive(&mut bench, 1, 4);
            bench.steps();
        }
        assert_eq!(bench.scheduler.completed(), BatchId(5));
        let batch = BatchId(4);
        let accepts = bench.scheduler.accepts_state(life(1), STAGE, PartitionId(1), batch);
        assert!(!accepts, "a repetition must not overwrite what has gone on");
    }
}

#[test]
fn what_moves_here_is_loaded_ahead_and_dropped_if_the_move_is_abandoned() {
    let mut bench = Bench::kept(StageKind::Stateful, 4);
    let moved = Move { stage: STAGE, partition: PartitionId(1), from: core(1, 0), to: core(0, 0) };
    bench.decide(Decision::Prepare(Arc::new([moved])));
    let (stage, partition) = (STAGE, PartitionId(1));
    let preload = LocalAction::Preload { stage, partition, manifest: None };
    assert_eq!(bench.said(), [preload]);
    bench.handle(LocalEvent::Preloaded { stage, partition });
    let number = OrderNumber(bench.decisions);
    assert_eq!(bench.said(), [LocalAction::Report(CoreReport::Prepared { number })]);
    bench.decide(Decision::AbandonMoves);
    assert_eq!(bench.said(), [LocalAction::DropPartition { stage, partition }]);
    let elsewhere = Move { to: core(2, 0), ..moved };
    bench.decide(Decision::Prepare(Arc::new([elsewhere])));
    let number = OrderNumber(bench.decisions);
    assert_eq!(bench.said(), [LocalAction::Report(CoreReport::Prepared { number })]);
}

fn back_after(bench: &mut Bench, after: u64) {
    let mut placement = Placement::clone(&bench.placement);
    (placement.epoch, placement.from_batch) = (Epoch(3), BatchId(1));
    placement.cores_by_stage[1][0] = core(0, 0);
    let (after, to, from) = (BatchId(after), core(0, 0), Restore::Copy);
    let back = Rollback { stage: STAGE, partition: PartitionId(0), after, to, from };
    bench.placement = Arc::new(placement);
    recover(bench, back);
}

/// One partition starts again, in the newest placement.
fn recover(bench: &mut Bench, back: Rollback) {
    let through = bench.scheduler.history().last_batch;
    bench.decide(Decision::Recover(Arc::new(Recover {
        epoch: Epoch(3),
        manifest: None,
        placements: vec![bench.placement.clone()],
        moved: vec![back],
        errands: Vec::new(),
        replay_through: through,
        released_through: through,
    })));
}

#[test]
fn a_partition_whose_new_owner_is_lost_comes_back_from_the_copy() {
    let mut bench = run_up_to(4);
    move_away(&mut bench, 4);
    back_after(&mut bench, 4);
    let (stage, partition, after) = (STAGE, PartitionId(0), BatchId(4));
    let restore = LocalAction::Restore { stage, partition, after, from: Restore::Copy };
    assert!(bench.said().contains(&restore));
    inputs(&mut bench, 5..=5);
    bench.steps();
    assert_eq!(bench.scheduler.completed(), BatchId(4));
    bench.handle(LocalEvent::Restored { stage, partition, after });
    assert_eq!(bench.steps()[0], (5, 1, 3));
}

#[test]
fn a_partition_that_is_still_on_its_way_to_the_cut_just_goes_on() {
    let mut bench = run_up_to(2);
    move_away(&mut bench, 4);
    back_after(&mut bench, 4);
    let restores = |action: &LocalAction| matches!(action, LocalAction::Restore { .. });
    assert!(!bench.said().iter().any(restores));
    inputs(&mut bench, 3..=5);
    let runs: Vec<_> = bench.steps().into_iter().filter(|run| run.1 == 1).collect();
    assert_eq!(runs, [(3, 1, 0), (4, 1, 0), (5, 1, 3)]);
}

#[test]
fn a_source_partition_that_is_lost_by_its_new_owner_goes_on_here_behind_what_that_one_took() {
    let mut bench = Bench::kept(StageKind::Stateful, 4);
    bench.step();
    let partition = PartitionId(0);
    let moved = Move { stage: StageId(0), partition, from: core(0, 0), to: core(2, 0) };
    move_at(&mut bench, moved, 2);
    let from = Restore::Position { offset: 25, watermark: Watermark(4), ended: false };
    let (stage, after, to) = (StageId(0), BatchId(4), core(0, 0));
    let back = Rollback { stage, partition, after, to, from };
    recover(&mut bench, back);
    bench.said();
    assert_eq!(bench.steps(), [(2, 0, 0)], "it ends where it was to end");
    assert_eq!(bench.said(), [LocalAction::Restore { stage, partition, after, from }]);
    bench.decide(Decision::Fence(Arc::new([life(3)])));
    let said = bench.said();
    let Some(LocalAction::Report(CoreReport::Fenced { standing, .. })) = said.last() else {
        panic!("{said:?}");
    };
    let covered = standing.coverage.iter().map(|covered| (covered.first.0, covered.last.0));
    assert_eq!(covered.collect::<Vec<_>>(), [(1, 2), (5, u64::MAX)]);
}

#[test]
fn blocks_fed_back_over_a_cut_follow_their_reader() {
    let mut plan = Plan::clone(&chain(&[(UNPACED, 2), (StageKind::Stateful, 2)]));
    plan.edges.push(Edge { from: STAGE, to: STAGE, pattern: Pattern::Forward, batch_delta: 1 });
    let mut bench = Bench::kept_on(&Arc::new(plan), 4, kept());
    inputs(&mut bench, 1..=1);
    let runs: Vec<Run> = std::iter::from_fn(|| bench.step()).collect();
    let first = runs.iter().find(|run| run.stage == STAGE).expect("batch 1 waits for no feedback");
    assert_eq!(first.watermark, Watermark(100));
    inputs(&mut bench, 2..=4);
    bench.steps();
    assert_eq!(bench.scheduler.completed(), BatchId(4));
    move_away(&mut bench, 4);
    let said = bench.said();
    let fed_back: Vec<_> = said
        .iter()
        .filter_map(|action| match action {
            LocalAction::Resend { to, notice, .. } => Some((notice.batch.0, notice.edge.0, *to)),
            _ => None,
        })
        .collect();
    assert_eq!(fed_back, [(4, 1, core(2, 0))]);
}
