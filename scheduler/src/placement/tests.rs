//! Tests of the placement.

use super::*;
use crate::plan::{Pacing, StageKind};
use crate::tests::{chain, core};

const SOURCE: StageKind = StageKind::Source(Pacing::Clock);

fn version(epoch: u64, from_batch: u64) -> Arc<Placement> {
    let plan = chain(&[(SOURCE, 1)]);
    Arc::new(Placement::spread(&plan, &[core(0, 0)], Epoch(epoch), BatchId(from_batch)))
}

fn epoch_at(history: &PlacementHistory, batch: u64) -> Option<u64> {
    history.at(BatchId(batch)).map(|placement| placement.epoch.0)
}

#[test]
fn partitions_are_spread_evenly_and_each_has_one_core() {
    for (partitions, cores) in [(1, 1), (7, 3), (3, 7), (64, 4), (512, 128)] {
        let all: Vec<CoreId> = (0..cores).map(|worker| core(worker, 0)).collect();
        let plan = chain(&[(SOURCE, partitions), (StageKind::Stateful, partitions + 1)]);
        let placement = Placement::spread(&plan, &all, Epoch(1), BatchId(1));
        for stage in plan.stage_ids() {
            let count = plan.stage(stage).partition_count;
            let mut placed = Vec::new();
            for &core in &all {
                let mine = placement.partitions_on(stage, core);
                assert!(mine.is_sorted());
                assert!(mine.iter().all(|&partition| placement.core_of(stage, partition) == core));
                let fair = count / cores..=count.div_ceil(cores);
                assert!(fair.contains(&(mine.len() as u32)), "{partitions} over {cores}");
                placed.extend(mine);
            }
            placed.sort_unstable();
            assert!(placed.into_iter().eq((0..count).map(PartitionId)));
            assert_eq!(placement.cores_of(stage).len() as u32, count.min(cores));
        }
    }
}

#[test]
fn a_placement_holds_from_its_first_batch_to_that_of_the_next() {
    let mut history = PlacementHistory::default();
    assert_eq!(epoch_at(&history, 1), None);
    history.add(version(1, 1));
    history.add(version(2, 10));
    let epochs = [0, 1, 9, 10, 99].map(|batch| epoch_at(&history, batch));
    assert_eq!(epochs, [None, Some(1), Some(1), Some(2), Some(2)]);
}

#[test]
fn a_placement_that_starts_no_later_than_its_elders_replaces_them() {
    let mut history = PlacementHistory::default();
    for (epoch, from_batch) in [(1, 1), (2, 10), (3, 20), (4, 10)] {
        history.add(version(epoch, from_batch));
    }
    let epochs = [9, 10, 20].map(|batch| epoch_at(&history, batch));
    assert_eq!(epochs, [Some(1), Some(4), Some(4)]);
}

#[test]
fn placements_that_no_batch_needs_are_forgotten_and_the_newest_never_is() {
    let mut history = PlacementHistory::default();
    for (epoch, from_batch) in [(1, 1), (2, 10), (3, 20)] {
        history.add(version(epoch, from_batch));
    }
    history.forget_before(BatchId(9));
    assert_eq!(epoch_at(&history, 9), Some(1));
    history.forget_before(BatchId(10));
    assert_eq!(epoch_at(&history, 9), None);
    assert_eq!(epoch_at(&history, 10), Some(2));
    history.forget_before(BatchId(1000));
    assert_eq!(epoch_at(&history, 1000), Some(3));
}
