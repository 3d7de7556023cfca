//! Fences, lost partitions that start again, blocks that are sent once more, and errands.

use super::*;
use crate::message::{Errand, Recover, Restore, Rollback, Standing};

/// New owners in epoch 2, for all batches.
fn recovery(bench: &Bench, moved: Vec<Rollback>, errands: Vec<Errand>, through: u64) -> Recover {
    let mut placement = Placement::clone(&bench.placement);
    placement.epoch = Epoch(2);
    for rollback in &moved {
        let (stage, partition) = (rollback.stage.index(), rollback.partition.index());
        placement.cores_by_stage[stage][partition] = rollback.to;
    }
    Recover {
        epoch: Epoch(2),
        manifest: None,
        placements: vec![Arc::new(placement)],
        moved,
        errands,
        replay_through: BatchId(through),
        released_through: BatchId(through),
    }
}

fn rollback(stage: u16, partition: u32, to: CoreId) -> Rollback {
    let (stage, partition) = (StageId(stage), PartitionId(partition));
    Rollback { stage, partition, after: BatchId(0), to, from: Restore::Manifest }
}

fn recover(bench: &mut Bench, moved: Vec<Rollback>, errands: Vec<Errand>) {
    let through = bench.scheduler.history().last_batch.0;
    let recover = recovery(bench, moved, errands, through);
    bench.placement = recover.placements[0].clone();
    bench.decide(Decision::Recover(Arc::new(recover)));
}

fn fence(bench: &mut Bench, worker: u32) -> Standing {
    bench.decide(Decision::Fence(Arc::new([life(worker)])));
    let mut said = bench.said();
    let Some(LocalAction::Report(CoreReport::Fenced { standing, .. })) = said.pop() else {
        panic!("a fence is answered");
    };
    standing
}

fn restored(bench: &mut Bench, stage: u16, partition: u32, after: u64) {
    let (stage, partition) = (StageId(stage), PartitionId(partition));
    bench.handle(LocalEvent::Restored { stage, partition, after: BatchId(after) });
}

#[test]
fn after_a_fence_nothing_of_that_life_counts_and_what_was_counted_stays() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    assert_eq!(bench.steps(), [(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]);
    for batch in [1, 6] {
        let mut notice = bench.notice(batch, EdgeId(0), &[PartitionId(1)]);
        notice.sender = core(1, 0);
        assert_eq!(bench.scheduler.offer(&notice), Offer::Keep);
    }
    bench.decide(Decision::Fence(Arc::new([life(1)])));
    let after = BatchId(4);
    assert_eq!(bench.said()[0], LocalAction::DropEarly { life: life(1), after });
    assert!(bench.scheduler.early.is_empty());
    assert_eq!(bench.block_of(2, 1, core(1, 0)), Offer::Discard);
    assert_eq!(bench.steps()[0], (1, 1, 0), "its block of batch 1 was here before");
}

#[test]
fn a_standing_holds_all_ranges_and_says_which_source_tasks_live_here() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.steps();
    let heard = [range_of(1, StageId(0), PartitionId(1))];
    bench.handle(LocalEvent::Learned { from: life(1), ranges: &heard });
    let standing = fence(&mut bench, 1);
    let own = (1..=4).map(|batch| range_of(batch, StageId(0), PartitionId(0)));
    let ranges: Vec<TakenRange> = own.chain(heard).collect();
    assert_eq!(standing.ranges, ranges);
    let (first, last) = (BatchId(1), BatchId(u64::MAX));
    let (stage, partition) = (StageId(0), PartitionId(0));
    assert_eq!(standing.coverage, [Coverage { stage, partition, first, last }]);
    let more = [range_of(2, StageId(0), PartitionId(1))];
    bench.handle(LocalEvent::Learned { from: life(1), ranges: &more });
    assert_eq!(fence(&mut bench, 3).ranges, ranges, "nothing is learned of the dead");
}

#[test]
fn a_lost_partition_starts_again_here_with_what_this_core_has_of_its_inputs() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.steps();
    fence(&mut bench, 1);
    recover(&mut bench, vec![rollback(1, 1, core(0, 0))], Vec::new());
    let said = bench.said();
    let (stage, partition, after) = (StageId(1), PartitionId(1), BatchId(0));
    let restore = LocalAction::Restore { stage, partition, after, from: Restore::Manifest };
    assert_eq!(said[0], restore);
    let reused = said.iter().filter(|action| matches!(action, LocalAction::Reuse { .. }));
    assert_eq!(reused.count(), 4, "one for each batch that the source has run");
    for batch in 1..=2 {
        bench.block_of(batch, 1, core(2, 0));
    }
    assert_eq!(bench.steps(), [(1, 1, 0), (2, 1, 0)], "the partition that was here goes on");
    assert_eq!(bench.scheduler.completed(), BatchId(0));
    assert_eq!(bench.waiting(), "batch 1 stage 1 partition 1 waits for its state to be restored");
    restored(&mut bench, 1, 1, 7);
    assert_eq!(bench.steps(), [], "that was the answer to something else");
    restored(&mut bench, 1, 1, 0);
    assert_eq!(bench.steps()[..2], [(1, 1, 2), (2, 1, 2)], "their attempt is the epoch");
    assert_eq!(bench.scheduler.completed(), BatchId(2));
}

#[test]
fn retained_blocks_and_blocks_still_to_come_go_to_the_new_owner() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.step();
    let out = bench.scheduler.next(bench.now).expect("there is credit");
    let published = bench.published(&out);
    recover(&mut bench, vec![rollback(1, 1, core(2, 0))], Vec::new());
    let resent = |bench: &mut Bench| -> Vec<(u64, CoreId, u64, usize)> {
        let said = bench.said().into_iter().filter_map(|action| match action {
            LocalAction::Resend { to, notice, .. } => {
                Some((notice.batch.0, to, notice.epoch.0, notice.downstream.len()))
            }
            _ => None,
        });
        said.collect()
    };
    assert_eq!(resent(&mut bench), [(1, core(2, 0), 2, 1)]);
    let ranges = [range_of(2, StageId(0), PartitionId(0))];
    let (run, combined, run_ns) = (&out, &[], 1);
    let published = &published;
    bench.handle(LocalEvent::RunDone { run, ranges: &ranges, published, combined, run_ns });
    assert_eq!(resent(&mut bench), [(2, core(2, 0), 2, 1)]);
    bench.handle(LocalEvent::Reconnected { worker: WorkerId(2) });
    assert_eq!(resent(&mut bench), [(1, core(2, 0), 2, 1), (2, core(2, 0), 2, 1)]);
}

#[test]
fn a_reader_that_said_how_far_it_is_gets_nothing_before_that_once_more() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.steps();
    bench.peer_completed(1, 3);
    bench.said();
    bench.handle(LocalEvent::Reconnected { worker: WorkerId(1) });
    let batches: Vec<u64> = bench
        .said()
        .iter()
        .filter_map(|action| match action {
            LocalAction::Resend { notice, .. } => Some(notice.batch.0),
            _ => None,
        })
        .collect();
    assert_eq!(batches, [4]);
}

#[test]
fn a_partition_that_is_lost_here_is_dropped_and_a_run_that_is_out_ends_in_peace() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    bench.steps();
    bench.block_of(1, 1, core(1, 0));
    let out = bench.scheduler.next(bench.now).expect("both blocks are here");
    recover(&mut bench, vec![rollback(1, 0, core(2, 0))], Vec::new());
    let (stage, partition) = (StageId(1), PartitionId(0));
    assert!(bench.said().contains(&LocalAction::DropPartition { stage, partition }));
    bench.end(&out);
    assert_eq!(bench.scheduler.completed(), BatchId(4), "only the source is left");
}

#[test]
fn recorded_ranges_are_read_once_more_without_credit_and_their_group_waits_for_them() {
    let mut bench = Bench::kept(StageKind::Stateful, 4);
    let taken = range_of(2, StageId(0), PartitionId(1));
    let errand = Errand { core: core(0, 0), taken, floor: Watermark(7) };
    recover(&mut bench, Vec::new(), vec![errand, Errand { core: core(2, 0), ..errand }]);
    let run = bench.step().expect("batch 1 is older");
    assert_eq!((run.batch, run.recorded), (BatchId(1), None));
    let run = std::iter::from_fn(|| bench.step()).find(|run| run.recorded.is_some());
    let run = run.expect("it needs no credit");
    assert_eq!((run.batch, run.attempt), (BatchId(2), Attempt(2)));
    assert_eq!(run.recorded, Some((taken, Watermark(7))));
    assert!(bench.scheduler.ranges_to_relay().contains(&taken), "its blocks depend on it");
    let standing = fence(&mut bench, 1);
    let batch = BatchId(2);
    let (stage, partition) = (StageId(0), PartitionId(1));
    assert!(standing.coverage.contains(&Coverage { stage, partition, first: batch, last: batch }));
}

#[test]
fn a_source_partition_goes_on_where_its_position_says_and_runs_alone_up_to_the_loss() {
    let plan = chain(&[(UNPACED, 4), (StageKind::Stateful, 2)]);
    let mut bench = Bench::kept_on(&plan, 5, LocalOptions { ahead: 9, ..kept() });
    bench.step();
    let from = Restore::Position { offset: 20, watermark: Watermark(3), ended: false };
    let position = Rollback { after: BatchId(3), from, ..rollback(0, 1, core(0, 0)) };
    recover(&mut bench, vec![position], Vec::new());
    restored(&mut bench, 0, 1, 3);
    bench.group(6, 1);
    let runs: Vec<(u64, usize, u32)> = std::iter::from_fn(|| bench.step())
        .map(|run| (run.batch.0, run.partitions.len(), run.attempt.0))
        .collect();
    let expected = [(2, 2, 0), (3, 2, 0), (4, 2, 0), (4, 1, 2), (5, 2, 0), (5, 1, 2), (6, 3, 0)];
    let mut sorted = runs.clone();
    sorted.sort_unstable();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
}

#[test]
fn groups_after_the_manifest_are_reported_once_more_after_a_recovery() {
    let mut bench = Bench::kept(StageKind::Stateful, 1);
    bench.steps();
    bench.block_of(1, 1, core(1, 0));
    bench.steps();
    assert_eq!(bench.groups_done(), [(1, 1)]);
    recover(&mut bench, vec![rollback(1, 1, core(2, 0))], Vec::new());
    let epochs: Vec<u64> = bench
        .reports()
        .iter()
        .filter_map(|report| match report {
            CoreReport::GroupDone { epoch, .. } => Some(epoch.0),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [2]);
}

#[test]
fn a_block_whose_sender_knows_more_waits_for_the_placement() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    let mut notice = bench.notice(1, EdgeId(0), &[PartitionId(1)]);
    notice.epoch = Epoch(2);
    assert_eq!(bench.scheduler.offer(&notice), Offer::Keep);
    assert_eq!(bench.scheduler.offer(&notice), Offer::Discard);
    recover(&mut bench, vec![rollback(1, 1, core(0, 0))], Vec::new());
    restored(&mut bench, 1, 1, 0);
    assert_eq!(bench.scheduler.offer(&notice), Offer::Discard, "it is counted for both");
    bench.steps();
    assert_eq!(bench.scheduler.completed(), BatchId(1));
}

#[test]
fn a_core_that_joins_late_takes_nothing_from_lives_that_were_fenced_before() {
    let mut before = Bench::kept(StageKind::Stateful, 4);
    before.decide(Decision::Fence(Arc::new([life(1)])));
    let mut bench = Bench::with(&before.plan, before.placement.cores_by_stage.clone(), kept());
    for worker in [1, 2] {
        assert_eq!(bench.block_of(1, 1, core(worker, 0)), Offer::Keep);
        let ranges = [range_of(u64::from(worker), StageId(0), PartitionId(1))];
        bench.handle(LocalEvent::Learned { from: life(worker), ranges: &ranges });
    }
    let cut = CutId { term: Term(2), number: OrderNumber(0) };
    bench.order(Order::TakeOver { cut });
    bench.said();
    bench.order(Order::Welcome(Arc::new(before.scheduler.history().clone())));
    let after = BatchId(0);
    assert_eq!(bench.said(), [LocalAction::DropEarly { life: life(1), after }]);
    let relayed: Vec<u64> =
        bench.scheduler.ranges_to_relay().iter().map(|taken| taken.batch.0).collect();
    assert_eq!(relayed, [2]);
    assert!(bench.scheduler.promises.is_empty());
}

#[test]
fn a_promise_covers_batches_of_which_anything_is_known_to_be_taken() {
    let mut bench = Bench::kept(StageKind::Stateful, 9);
    let ranges = [range_of(3, StageId(0), PartitionId(1))];
    bench.handle(LocalEvent::Learned { from: life(1), ranges: &ranges });
    bench.cut_group(1);
    assert_eq!(bench.said(), [LocalAction::Report(promise(&bench, 3))]);
    let cut = CutId { term: Term(2), number: OrderNumber(0) };
    bench.order(Order::TakeOver { cut });
    let said = bench.said();
    let [LocalAction::Report(CoreReport::Standing { promise, standing })] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((*promise, &standing.ranges[..]), (BatchId(3), &ranges[..]));
    bench.commit_cut(3);
    assert_eq!(bench.scheduler.promises.len(), 1, "that to the new driver stays open");
}

impl Bench {
    /// Offers the block of one upstream partition, from some core, for all partitions.
    fn block_of(&mut self, batch: u64, upstream: u32, sender: CoreId) -> Offer {
        let notice = self.notice(batch, EdgeId(0), &[PartitionId(upstream)]);
        self.scheduler.offer(&BlockNotice { sender, ..notice })
    }
}

#[test]
fn blocks_for_a_partition_that_will_start_again_here_are_not_released_before() {
    let mut bench = Bench::kept(StageKind::Stateful, 2);
    bench.steps();
    let mut notice = bench.notice(1, EdgeId(0), &[PartitionId(1)]);
    notice.epoch = Epoch(2);
    bench.scheduler.offer(&notice);
    for batch in 1..=2 {
        bench.block_of(batch, 1, core(1, 0));
    }
    bench.actions.clear();
    bench.steps();
    assert_eq!(bench.scheduler.completed(), BatchId(2));
    let released = bench.actions.iter().filter_map(|action| match action {
        LocalAction::Release { completed } => Some(completed.0),
        _ => None,
    });
    assert_eq!(released.max(), Some(0));
}
