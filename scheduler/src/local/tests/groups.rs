//! Groups of any size, and cuts that make them shorter.

use super::*;

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
