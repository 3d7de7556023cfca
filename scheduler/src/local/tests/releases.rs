//! Without pre-scheduling: releases of the driver, and what is reported for them.

use super::*;

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
