//! Tests of the lineage.

use super::*;
use crate::message::SourceRange;
use crate::plan::{Pacing, StageKind};
use crate::tests::chain;

fn plan() -> std::sync::Arc<Plan> {
    chain(&[(StageKind::Source(Pacing::Clock), 2), (StageKind::Stateful, 3)])
}

/// Two source partitions, of which nothing was taken.
fn lineage() -> Lineage {
    Lineage::new(&plan())
}

fn taken(batch: u64, partition: u32, from: u64, to: u64) -> TakenRange {
    let (stage, partition) = (StageId(0), PartitionId(partition));
    let range = SourceRange { stage, partition, from, to };
    TakenRange { batch: BatchId(batch), range, ended: false, watermark: Watermark(to) }
}

fn ended(batch: u64, partition: u32, from: u64, to: u64) -> TakenRange {
    TakenRange { ended: true, ..taken(batch, partition, from, to) }
}

fn position(lineage: &Lineage, partition: u32, batch: u64) -> Option<(u64, Watermark)> {
    let position = lineage.position_at(StageId(0), PartitionId(partition), BatchId(batch))?;
    Some((position.offset, position.watermark))
}

#[test]
fn each_range_begins_where_the_one_before_it_ended() {
    let mut lineage = lineage();
    for range in [taken(1, 0, 7, 9), taken(2, 0, 9, 9), taken(1, 1, 0, 4), taken(3, 0, 9, 20)] {
        assert_eq!(lineage.learn(&range), Ok(Learned::New));
    }
    let known: Vec<_> = lineage.partitions().map(|(_, _, progress)| progress).collect();
    let progress = |batch, from, to| Progress { batch: BatchId(batch), from, to, ended_in: None };
    assert_eq!(known, [progress(3, 7, 20), progress(1, 0, 4)]);
    assert_eq!((lineage.newest(), lineage.complete_through()), (BatchId(3), BatchId(1)));
    assert_eq!(position(&lineage, 0, 2), Some((9, Watermark(9))));
    assert_eq!(position(&lineage, 0, 4), None);
    assert_eq!(lineage.positions_at(BatchId(2)), None);
    assert_eq!(lineage.positions_at(BatchId(1)).map(|positions| positions.len()), Some(2));
}

#[test]
fn a_range_that_does_not_follow_is_refused_and_changes_nothing() {
    let mut lineage = lineage();
    lineage.learn(&taken(1, 0, 0, 10)).expect("the first range");
    let before = lineage.clone();
    let other_stage = SourceRange { stage: StageId(1), ..taken(1, 0, 0, 1).range };
    let refused = [
        ("a gap", taken(2, 0, 11, 12)),
        ("a repeated record", taken(2, 0, 9, 12)),
        ("another range of a known batch", taken(1, 0, 0, 9)),
        ("another end of a known batch", ended(1, 0, 0, 10)),
        ("a range that ends before it begins", taken(2, 0, 10, 9)),
        ("an unknown partition", taken(1, 2, 0, 1)),
        ("a stage that is no source", TakenRange { range: other_stage, ..taken(1, 0, 0, 1) }),
    ];
    for (name, range) in refused {
        assert!(lineage.learn(&range).is_err(), "{name}");
        assert_eq!(lineage, before, "{name}");
    }
}

#[test]
fn ranges_may_come_twice_and_in_any_order() {
    let mut lineage = lineage();
    assert_eq!(lineage.learn(&taken(3, 0, 20, 30)), Ok(Learned::Early));
    assert_eq!(lineage.learn(&taken(3, 0, 20, 30)), Ok(Learned::Known));
    assert!(lineage.learn(&taken(3, 0, 20, 31)).is_err());
    assert_eq!(lineage.learn(&taken(1, 0, 0, 10)), Ok(Learned::New));
    assert_eq!(position(&lineage, 0, 3), None);
    assert_eq!(lineage.learn(&taken(2, 0, 10, 20)), Ok(Learned::New));
    assert_eq!(position(&lineage, 0, 3), Some((30, Watermark(30))));
    assert_eq!(lineage.learn(&taken(2, 0, 10, 20)), Ok(Learned::Known));
}

#[test]
fn a_range_that_waited_is_checked_when_its_turn_comes() {
    let mut lineage = lineage();
    assert_eq!(lineage.learn(&taken(2, 0, 11, 20)), Ok(Learned::Early));
    assert!(lineage.learn(&taken(1, 0, 0, 10)).is_err());
}

#[test]
fn what_a_checkpoint_covers_is_forgotten_and_not_asked_about_again() {
    let mut lineage = lineage();
    for range in [taken(1, 0, 0, 10), taken(2, 0, 10, 20), taken(3, 0, 20, 30)] {
        lineage.learn(&range).expect("it follows");
    }
    lineage.forget_through(BatchId(2));
    assert_eq!(position(&lineage, 0, 1), None);
    assert_eq!(position(&lineage, 0, 2), Some((20, Watermark(20))));
    assert_eq!(lineage.learn(&taken(1, 0, 0, 99)), Ok(Learned::Known));
    let ranges = lineage.ranges_after(StageId(0), PartitionId(0), BatchId(0));
    let ranges: Vec<_> = ranges.map(|(taken, floor)| (taken.batch, floor)).collect();
    assert_eq!(ranges, [(BatchId(3), Watermark(20))]);
}

#[test]
fn a_restored_lineage_goes_on_where_the_checkpoint_was() {
    let mut before = lineage();
    for range in [taken(1, 0, 0, 10), ended(1, 1, 0, 5)] {
        before.learn(&range).expect("it follows");
    }
    let positions = before.positions_at(BatchId(1)).expect("both are known");
    let mut lineage = Lineage::restored(&plan(), &positions);
    assert_eq!(lineage.written_through(), BatchId(1));
    assert!(lineage.learn(&taken(2, 0, 11, 12)).is_err());
    assert_eq!(lineage.learn(&ended(2, 0, 10, 12)), Ok(Learned::New));
    assert_eq!(lineage.ended_in(), Some(BatchId(2)));
}

#[test]
fn ranges_are_written_in_order_and_once() {
    let mut lineage = lineage();
    for range in [taken(1, 0, 0, 10), taken(1, 1, 0, 10), taken(2, 0, 10, 20)] {
        lineage.learn(&range).expect("it follows");
    }
    let unwritten = lineage.unwritten();
    assert_eq!(unwritten.len(), 3);
    lineage.learn(&taken(2, 1, 10, 20)).expect("it follows");
    lineage.wrote(&unwritten);
    assert_eq!(lineage.written_through(), BatchId(1));
    assert_eq!(lineage.written(StageId(0), PartitionId(0)), BatchId(2));
    assert_eq!(lineage.unwritten(), [taken(2, 1, 10, 20)]);
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
        lineage.learn(&range).expect("it follows");
        assert_eq!(lineage.ended_in(), expected);
    }
}

#[test]
fn a_plan_without_sources_has_no_end() {
    let lineage = Lineage::new(&chain(&[(StageKind::Stateless, 1)]));
    assert_eq!(lineage.ended_in(), None);
}
