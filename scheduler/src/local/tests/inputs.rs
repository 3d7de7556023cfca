//! Which of several blocks a task folds.

use super::*;

fn notice(batch: u64, upstream: &[u32], attempt: u32) -> BlockNotice {
    let plan = chain(&[(UNPACED, 4), (StageKind::Stateful, 2)]);
    let cores = vec![vec![core(0, 0); 4], vec![core(0, 0); 2]];
    let upstream: Vec<PartitionId> = upstream.iter().copied().map(PartitionId).collect();
    let notice = Bench::with(&plan, cores, ahead(1)).notice(batch, EdgeId(0), &upstream);
    BlockNotice { attempt: Attempt(attempt), ..notice }
}

fn chosen(kept: &[BlockNotice]) -> Vec<usize> {
    let plan = chain(&[(UNPACED, 4), (StageKind::Stateful, 2)]);
    let kept: Vec<&BlockNotice> = kept.iter().collect();
    select_inputs(&plan, EdgeId(0), PartitionId(1), &kept)
}

#[test]
fn blocks_are_folded_by_upstream_partition_whatever_their_order_of_arrival() {
    for order in permutations(&[&[0][..], &[1, 3], &[2]]) {
        let kept: Vec<BlockNotice> = order.iter().map(|upstream| notice(1, upstream, 0)).collect();
        let firsts: Vec<u32> =
            chosen(&kept).iter().map(|&index| kept[index].upstream[0].0).collect();
        assert_eq!(firsts, [0, 1, 2]);
    }
}

#[test]
fn of_a_block_and_its_parts_the_block_is_folded_and_of_equal_ones_one() {
    let parts = [notice(1, &[0], 2), notice(1, &[0, 1], 0), notice(1, &[1], 2)];
    assert_eq!(chosen(&parts), [1]);
    let attempts = [notice(1, &[0], 2), notice(1, &[0], 0), notice(1, &[0], 0)];
    assert_eq!(chosen(&attempts), [1]);
    let batches = [notice(2, &[0], 0), notice(1, &[0], 0)];
    assert_eq!(chosen(&batches), [1, 0]);
}

#[test]
fn blocks_for_others_are_left_out() {
    let other = BlockNotice { downstream: Arc::new([PartitionId(0)]), ..notice(1, &[0], 0) };
    assert_eq!(chosen(&[other, notice(1, &[1], 0)]), [1]);
}

#[test]
fn the_planted_mistakes_fold_twice() {
    let twice = [notice(1, &[0], 0), notice(1, &[0], 0)];
    let attempts = [notice(1, &[0], 0), notice(1, &[0], 3)];
    let plan = chain(&[(UNPACED, 4), (StageKind::Stateful, 2)]);
    for (bug, kept) in [(Bug::DeduplicationOff, &twice), (Bug::AttemptsFolded, &attempts)] {
        let options = LocalOptions { bugs: Bugs::planted(bug), ..ahead(1) };
        let scheduler = LocalScheduler::new(plan.clone(), core(0, 0), options);
        let kept: Vec<&BlockNotice> = kept.iter().collect();
        assert_eq!(scheduler.inputs(EdgeId(0), PartitionId(0), &kept), [0, 1]);
    }
}
