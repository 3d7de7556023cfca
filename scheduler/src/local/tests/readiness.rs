//! Tasks become ready when all blocks are there, and run oldest batch first.

use std::collections::BTreeSet;

use super::*;

#[test]
fn reduce_task_becomes_ready_when_its_last_block_arrives() {
    let mut bench = Bench::reduce(StageKind::Stateful, 2, 3, ahead(4));
    bench.group(1, 10);
    for upstream in [2, 0] {
        assert_eq!(bench.block(1, upstream), Offer::Keep);
        assert_eq!(bench.run(), None);
    }
    bench.block(1, 1);
    let run = bench.run().expect("the last block is there");
    assert_eq!((run.batch, run.stage), (BatchId(1), StageId(1)));
    assert_eq!(run.partitions[..], [PartitionId(0), PartitionId(1)]);
    assert_eq!(run.watermark, Watermark(100), "the minimum over the inputs");
    assert_eq!(bench.run(), None);
}

#[test]
fn partitions_of_a_stage_become_ready_one_by_one_when_their_blocks_come_apart() {
    let mut bench = Bench::reduce(StageKind::Stateful, 3, 1, ahead(4));
    bench.group(1, 10);
    let mut notice = bench.notice(1, EdgeId(0), &[PartitionId(0)]);
    for partitions in [&[2][..], &[0, 1]] {
        notice.downstream = partitions.iter().copied().map(PartitionId).collect();
        assert_eq!(bench.scheduler.offer(&notice), Offer::Keep);
        let run = bench.run().expect("all its blocks are there");
        assert_eq!(run.partitions, notice.downstream);
    }
    assert_eq!(bench.scheduler.completed(), BatchId(1));
}

#[test]
fn all_arrival_orders_of_four_blocks_and_their_group_give_the_same_runs() {
    // None is the group; the blocks are those of two batches and two upstream partitions.
    let arrivals = [None, Some((1, 0)), Some((1, 1)), Some((2, 0)), Some((2, 1))];
    let orders = permutations(&arrivals);
    assert_eq!(orders.len(), 120);
    for kind in [StageKind::Stateful, StageKind::Stateless] {
        let mut seen = BTreeSet::new();
        for order in &orders {
            let mut bench = Bench::reduce(kind, 2, 2, ahead(4));
            let mut runs = Vec::new();
            for arrival in order {
                match *arrival {
                    None => bench.group(1, 2),
                    Some((batch, upstream)) => {
                        assert_eq!(bench.block(batch, upstream), Offer::Keep);
                    }
                }
                runs.extend(bench.run_all());
            }
            assert_eq!(bench.groups_done(), [(1, 2)]);
            if kind == StageKind::Stateless {
                runs.sort_by_key(|run| run.batch);
            }
            seen.insert(format!("{runs:?}"));
        }
        assert_eq!(seen.len(), 1, "{seen:#?}");
    }
}

#[test]
fn a_block_may_arrive_before_its_group_and_before_its_batch_is_laid_out() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(2));
    for batch in [4, 1, 3] {
        assert_eq!(bench.block(batch, 0), Offer::Keep);
    }
    assert_eq!(bench.run(), None);
    bench.group(1, 3);
    assert_eq!(bench.run_names(), [(1, 1)]);
    bench.block(2, 0);
    assert_eq!(bench.run_names(), [(2, 1), (3, 1)]);
    bench.group(4, 3);
    assert_eq!(bench.run_names(), [(4, 1)]);
    assert!(bench.scheduler.early.is_empty());
}

#[test]
fn a_block_that_arrives_twice_is_discarded_the_second_time() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 2, ahead(2));
    assert_eq!(bench.block(1, 0), Offer::Keep);
    assert_eq!(bench.block(1, 0), Offer::Discard, "before its group");
    bench.group(1, 9);
    assert_eq!(bench.block(1, 0), Offer::Discard, "laid out");
    assert_eq!(bench.block(1, 1), Offer::Keep);
    assert_eq!(bench.block(1, 1), Offer::Discard, "ready");
    let run = bench.scheduler.next(bench.now).expect("both blocks are there");
    assert_eq!(bench.block(1, 1), Offer::Discard, "running");
    bench.done(&run, &[]);
    assert_eq!(bench.block(1, 1), Offer::Discard, "finished");
    assert_eq!(bench.block(4, 1), Offer::Keep);
    assert_eq!(bench.block(4, 1), Offer::Discard, "not yet laid out");
    assert_eq!(bench.run(), None);
}

#[test]
fn a_block_for_partitions_of_another_core_is_discarded() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(2));
    bench.group(1, 1);
    let downstream = Arc::new([PartitionId(7)]);
    let notice = BlockNotice { downstream, ..bench.notice(1, EdgeId(0), &[PartitionId(0)]) };
    assert_eq!(bench.scheduler.offer(&notice), Offer::Discard);
    assert_eq!(bench.run(), None);
}

#[test]
fn batches_of_a_stateful_stage_run_in_order_whatever_the_arrival_order() {
    for order in permutations(&[1, 2, 3, 4]) {
        let mut bench = Bench::reduce(StageKind::Stateful, 2, 1, ahead(3));
        bench.group(1, 4);
        let mut runs = Vec::new();
        for batch in order {
            bench.block(batch, 0);
            runs.extend(bench.run_names());
        }
        assert_eq!(runs, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    }
}

#[test]
fn batches_of_a_stateless_stage_run_as_they_come_and_are_completed_in_order() {
    let mut bench = Bench::reduce(StageKind::Stateless, 2, 1, ahead(4));
    bench.group(1, 3);
    for (batch, completed) in [(3, 0), (1, 1), (2, 3)] {
        bench.block(batch, 0);
        assert_eq!(bench.run_names(), [(batch, 1)]);
        assert_eq!(bench.scheduler.completed(), BatchId(completed));
    }
    assert_eq!(bench.groups_done(), [(1, 3)]);
}

#[test]
fn the_oldest_batch_runs_first_and_in_it_the_stage_nearest_the_sink() {
    // Source 0 feeds stages 1 and 2; all tasks but the source's are here.
    let stages = [(CLOCK, 1), (StageKind::Stateless, 1), (StageKind::Stateless, 1)];
    let mut plan = Plan::clone(&chain(&stages));
    plan.edges[1].from = StageId(0);
    let cores = vec![vec![core(1, 0)], vec![core(0, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&Arc::new(plan), cores, ahead(4));
    bench.group(1, 4);
    for (batch, edge) in [(3, 0), (2, 1), (1, 0), (2, 0), (3, 1), (1, 1)] {
        let notice = bench.notice(batch, EdgeId(edge), &[PartitionId(0)]);
        bench.scheduler.offer(&notice);
    }
    assert_eq!(bench.run_names(), [(1, 2), (1, 1), (2, 2), (2, 1), (3, 2), (3, 1)]);
}

#[test]
fn a_source_runs_before_newer_batches_and_after_the_rest_of_its_own() {
    let mut bench = Bench::alone(&[UNPACED, StageKind::Stateless], ahead(4));
    let cores = vec![vec![core(0, 0), core(1, 0)], vec![core(0, 0); 2]];
    bench.placement = Arc::new(Placement { cores_by_stage: cores, ..(*bench.placement).clone() });
    bench.group(1, 2);
    bench.block(2, 0);
    bench.block(2, 1);
    assert_eq!(bench.run_batch(), Some(1), "the source, although batch 2 is ready downstream");
    bench.block(1, 1);
    let order: Vec<_> = std::iter::from_fn(|| bench.scheduler.next(bench.now))
        .map(|run| (run.batch.0, run.stage.0))
        .collect();
    assert_eq!(order, [(1, 1), (2, 1), (2, 0)]);
}

#[test]
fn blocks_are_released_when_their_batch_and_all_before_it_are_finished() {
    let mut bench = Bench::reduce(StageKind::Stateless, 1, 1, ahead(4));
    bench.group(1, 3);
    let mut released = Vec::new();
    for batch in [2, 1, 3] {
        bench.block(batch, 0);
        bench.run_all();
        released.extend(bench.actions.drain(..).filter_map(|action| match action {
            LocalAction::Release { completed } => Some((batch, completed.0)),
            _ => None,
        }));
    }
    assert_eq!(released, [(1, 2), (3, 3)]);
}
