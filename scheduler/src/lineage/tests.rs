//! Tests of the lineage.

use super::*;
use crate::message::SourceRange;
use crate::plan::{Pacing, StageKind};
use crate::tests::chain;

/// Two source partitions, of which nothing was taken.
fn lineage() -> Lineage {
    let source = StageKind::Source(Pacing::Clock);
    Lineage::new(&chain(&[(source, 2), (StageKind::Stateful, 3)]))
}

fn taken(batch: u64, partition: u32, from: u64, to: u64) -> TakenRange {
    let (stage, partition) = (StageId(0), PartitionId(partition));
    let range = SourceRange { stage, partition, from, to };
    TakenRange { batch: BatchId(batch), range, ended: false }
}

fn ended(batch: u64, partition: u32, from: u64, to: u64) -> TakenRange {
    TakenRange { ended: true, ..taken(batch, partition, from, to) }
}

#[test]
fn each_range_begins_where_the_one_before_it_ended() {
    let mut lineage = lineage();
    for range in [taken(1, 0, 7, 9), taken(2, 0, 9, 9), taken(1, 1, 0, 4), taken(3, 0, 9, 20)] {
        assert_eq!(lineage.record(&range), Ok(()));
    }
    let known: Vec<_> = lineage.partitions().map(|(_, _, progress)| progress).collect();
    let progress = |batch, from, to| Progress { batch: BatchId(batch), from, to, ended_in: None };
    assert_eq!(known, [progress(3, 7, 20), progress(1, 0, 4)]);
}

#[test]
fn a_range_that_does_not_follow_is_refused_and_changes_nothing() {
    let mut lineage = lineage();
    lineage.record(&taken(1, 0, 0, 10)).expect("the first range");
    let before = lineage.clone();
    let other_stage = SourceRange { stage: StageId(1), ..taken(1, 0, 0, 1).range };
    let refused = [
        ("a gap", taken(2, 0, 11, 12)),
        ("a repeated record", taken(2, 0, 9, 12)),
        ("a batch left out", taken(3, 0, 10, 12)),
        ("a repeated batch", taken(1, 0, 0, 10)),
        ("a range that ends before it begins", taken(2, 0, 10, 9)),
        ("a first batch that is not 1", taken(2, 1, 0, 1)),
        ("an unknown partition", taken(1, 2, 0, 1)),
        ("a stage that is no source", TakenRange { range: other_stage, ..taken(1, 0, 0, 1) }),
    ];
    for (name, range) in refused {
        assert!(lineage.record(&range).is_err(), "{name}");
        assert_eq!(lineage, before, "{name}");
    }
}

#[test]
fn the_end_is_the_batch_in_which_the_last_partition_ended() {
    let mut lineage = lineage();
    let steps = [
        (ended(1, 0, 0, 10), None),
        (ended(2, 0, 10, 10), None),
        (taken(1, 1, 0, 10), None),
        (taken(2, 1, 10, 20), None),
        (ended(3, 1, 20, 20), Some(BatchId(3))),
        (ended(4, 1, 20, 20), Some(BatchId(3))),
    ];
    for (range, expected) in steps {
        lineage.record(&range).expect("it follows");
        assert_eq!(lineage.ended_in(), expected);
    }
}

#[test]
fn a_plan_without_sources_has_no_end() {
    let lineage = Lineage::new(&chain(&[(StageKind::Stateless, 1)]));
    assert_eq!(lineage.ended_in(), None);
}
