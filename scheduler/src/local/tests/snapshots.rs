//! Checkpoints, and what goes with them.

use super::*;
use crate::checkpoint::{Manifest, Snapshot};
use crate::ids::Sequence;
use crate::message::Recover;

const STAGE: StageId = StageId(1);
const HERE: PartitionId = PartitionId(0);

/// A manifest of `batch` is durable, with snapshots of the partition that is here.
pub(super) fn durable(bench: &mut Bench, batch: u64, snapshots: &[u64]) {
    let snapshots = snapshots.iter().map(|&batch| Snapshot {
        stage: STAGE,
        partition: HERE,
        batch: BatchId(batch),
        since: None,
        incarnation: Incarnation(1),
    });
    bench.decide(Decision::Durable(Arc::new(Manifest {
        sequence: Sequence(batch),
        term: Term(1),
        batch: BatchId(batch),
        number: OrderNumber(0),
        snapshots: snapshots.collect(),
        positions: Vec::new(),
    })));
}

fn inputs(bench: &mut Bench, batches: std::ops::RangeInclusive<u64>) {
    for batch in batches {
        let notice = bench.notice(batch, EdgeId(0), &[PartitionId(1)]);
        bench.scheduler.offer(&notice);
    }
    bench.steps();
}

fn checkpoint(bench: &mut Bench, batch: u64) {
    bench.decide(Decision::Checkpoint { batch: BatchId(batch) });
}

fn snapshot(batch: u64, chain: &[u64]) -> LocalAction {
    let chain = chain.iter().copied().map(BatchId).collect();
    LocalAction::Snapshot { stage: STAGE, partition: HERE, batch: BatchId(batch), chain }
}

fn stored(bench: &mut Bench, batch: u64) {
    let (batch, since) = (BatchId(batch), None);
    bench.handle(LocalEvent::SnapshotDurable { stage: STAGE, partition: HERE, batch, since });
}

#[test]
fn a_snapshot_is_taken_between_its_batch_and_the_next() {
    let mut bench = Bench::kept(StageKind::Stateful, 20);
    bench.steps();
    checkpoint(&mut bench, 2);
    inputs(&mut bench, 1..=1);
    assert_eq!(bench.said(), []);
    inputs(&mut bench, 2..=2);
    assert_eq!(bench.said(), [snapshot(2, &[])]);
    stored(&mut bench, 2);
    let (stage, partition, batch, since) = (STAGE, HERE, BatchId(2), None);
    let report = CoreReport::Snapshot { stage, partition, batch, since };
    assert_eq!(bench.said(), [LocalAction::Report(report)]);
    stored(&mut bench, 2);
    assert_eq!(bench.said(), [], "once");
}

#[test]
fn a_checkpoint_of_the_batch_that_has_just_ended_is_taken_at_once_and_of_one_before_never() {
    let mut bench = Bench::kept(StageKind::Stateful, 20);
    bench.steps();
    inputs(&mut bench, 1..=2);
    checkpoint(&mut bench, 1);
    let batch = BatchId(1);
    assert_eq!(bench.said(), [LocalAction::Report(CoreReport::NoSnapshot { batch })]);
    checkpoint(&mut bench, 2);
    assert_eq!(bench.said(), [snapshot(2, &[])]);
}

#[test]
fn changes_of_an_abandoned_checkpoint_belong_to_the_next() {
    for bug in [None, Some(Bug::AbandonedClearsChanges)] {
        let bugs = bug.map_or(Bugs::NONE, Bugs::planted);
        let plan = chain(&[(UNPACED, 2), (StageKind::Stateful, 2)]);
        let mut bench = Bench::kept_on(&plan, 20, LocalOptions { bugs, ..kept() });
        bench.steps();
        checkpoint(&mut bench, 1);
        inputs(&mut bench, 1..=1);
        stored(&mut bench, 1);
        durable(&mut bench, 1, &[1]);
        checkpoint(&mut bench, 2);
        inputs(&mut bench, 2..=2);
        bench.decide(Decision::AbandonCheckpoint { batch: BatchId(2) });
        bench.said();
        stored(&mut bench, 2);
        assert_eq!(bench.said(), [], "nobody asks any more");
        checkpoint(&mut bench, 3);
        inputs(&mut bench, 3..=3);
        let newest = if bug.is_some() { 2 } else { 1 };
        assert_eq!(bench.said(), [snapshot(3, &[newest])]);
    }
}

#[test]
fn a_snapshot_may_build_on_all_that_the_manifest_lists() {
    let mut bench = Bench::kept(StageKind::Stateful, 40);
    bench.steps();
    let mut before: &[u64] = &[];
    for (batch, listed) in [(1, &[1][..]), (2, &[1, 2]), (3, &[1, 3]), (4, &[4]), (5, &[4, 5])] {
        bench.peer_completed(1, batch);
        checkpoint(&mut bench, batch);
        inputs(&mut bench, batch..=batch);
        assert!(bench.said().contains(&snapshot(batch, before)), "at {batch}");
        stored(&mut bench, batch);
        durable(&mut bench, batch, listed);
        before = listed;
    }
}

#[test]
fn a_durable_manifest_frees_blocks_ranges_and_errands_that_it_covers() {
    let mut bench = Bench::kept(StageKind::Stateful, 20);
    bench.steps();
    bench.peer_completed(1, 2);
    inputs(&mut bench, 1..=2);
    let relayed = |bench: &Bench| -> Vec<u64> {
        bench.scheduler.ranges_to_relay().iter().map(|taken| taken.batch.0).collect()
    };
    assert_eq!(relayed(&bench), [1, 2, 3, 4, 5, 6]);
    bench.order(Order::Recorded { through: BatchId(3) });
    assert_eq!(relayed(&bench), [4, 5, 6]);
    bench.said();
    durable(&mut bench, 2, &[2]);
    assert_eq!(bench.said(), [LocalAction::Forget { through: BatchId(2) }]);
    bench.handle(LocalEvent::Reconnected { worker: WorkerId(1) });
    let batches: Vec<u64> = bench
        .said()
        .iter()
        .filter_map(|action| match action {
            LocalAction::Resend { notice, .. } => Some(notice.batch.0),
            _ => None,
        })
        .collect();
    assert_eq!(batches, [3, 4, 5, 6]);
}

#[test]
fn the_high_mark_is_reported_once_and_over_the_limit_sources_take_nothing() {
    let mut bench = Bench::kept(StageKind::Stateful, 100);
    let mut intakes = Vec::new();
    let mut marks = 0;
    for batch in 1..=16 {
        inputs_and(&mut bench, batch, &mut intakes);
        let high = LocalAction::Report(CoreReport::HighMark);
        marks += bench.said().iter().filter(|action| **action == high).count();
    }
    assert_eq!(marks, 1);
    let empty = intakes.iter().position(|&(_, intake)| intake == Intake::Empty);
    assert_eq!(intakes[empty.expect("3000 bytes are 15 batches")].0, 17);
    durable(&mut bench, 16, &[]);
    inputs_and(&mut bench, 17, &mut intakes);
    assert_eq!(intakes.last(), Some(&(21, Intake::Normal)));
}

fn inputs_and(bench: &mut Bench, batch: u64, intakes: &mut Vec<(u64, Intake)>) {
    let notice = bench.notice(batch, EdgeId(0), &[PartitionId(1)]);
    bench.scheduler.offer(&notice);
    bench.peer_completed(1, batch);
    while let Some(run) = bench.step() {
        if run.stage == StageId(0) {
            intakes.push((run.batch.0, run.intake));
        }
    }
}

#[test]
fn a_lane_that_is_not_as_far_as_a_manifest_goes_on_from_there_with_what_it_has_counted() {
    let mut bench = Bench::kept(StageKind::Stateful, 20);
    bench.steps();
    inputs(&mut bench, 1..=2);
    let (stage, partition) = (STAGE, HERE);
    let epoch = Epoch(2);
    let rollback = crate::message::Rollback {
        stage,
        partition,
        after: BatchId(0),
        to: core(0, 0),
        from: crate::message::Restore::Manifest,
    };
    let placement = Placement { epoch, ..Placement::clone(&bench.placement) };
    bench.decide(Decision::Recover(Arc::new(Recover {
        epoch,
        manifest: None,
        placements: vec![Arc::new(placement)],
        moved: vec![rollback],
        errands: Vec::new(),
        replay_through: BatchId(20),
        released_through: BatchId(20),
    })));
    inputs(&mut bench, 1..=3);
    bench.said();
    durable(&mut bench, 2, &[2]);
    let (after, from) = (BatchId(2), crate::message::Restore::Manifest);
    assert!(bench.said().contains(&LocalAction::Restore { stage, partition, after, from }));
    bench.handle(LocalEvent::Restored { stage, partition, after: BatchId(0) });
    assert_eq!(bench.steps(), []);
    bench.handle(LocalEvent::Restored { stage, partition, after });
    assert_eq!(bench.steps()[0], (3, 1, 2));
}
