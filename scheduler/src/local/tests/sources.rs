//! When source tasks run: start times, credit, and the ranges that they took.

use super::*;
use crate::message::GroupStatistics;

fn taken(batch: u64, from: u64, to: u64, ended: bool) -> TakenRange {
    let range = SourceRange { stage: StageId(0), partition: PartitionId(0), from, to };
    TakenRange { batch: BatchId(batch), range, ended, watermark: Watermark(batch) }
}

#[test]
fn live_sources_wait_for_the_start_of_their_batch() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    assert_eq!(bench.scheduler.deadline(), None);
    bench.group(1, 2);
    assert_eq!(bench.scheduler.deadline(), Some(Instant(10)));
    bench.now = Instant(9);
    assert_eq!(bench.run_batch(), None);
    bench.now = Instant(10);
    let run = bench.run().expect("the batch has started");
    assert_eq!((run.batch, run.cut, run.purpose), (BatchId(1), Instant(10), Purpose::Process));
    assert_eq!(bench.scheduler.deadline(), Some(Instant(20)));
    bench.now = Instant(25);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(20)));
    assert_eq!(bench.scheduler.deadline(), None);
}

#[test]
fn sources_whose_input_is_all_there_do_not_wait() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 3);
    assert_eq!(bench.scheduler.deadline(), None);
    let batches: Vec<u64> = std::iter::from_fn(|| bench.run_batch()).collect();
    assert_eq!(batches, [1, 2, 3]);
}

#[test]
fn a_core_without_source_partitions_runs_no_source() {
    let mut bench = Bench::reduce(StageKind::Stateful, 1, 1, ahead(4));
    bench.group(1, 100);
    bench.now = Instant(500);
    assert_eq!(bench.run(), None);
    assert_eq!(bench.scheduler.deadline(), None);
    bench.block(1, 0);
    assert_eq!(bench.run_names(), [(1, 1)]);
    assert_eq!(bench.run(), None);
}

#[test]
fn a_source_is_never_more_than_its_credit_before_the_slowest_peer() {
    for credit in 1..9 {
        let plan = chain(&[(UNPACED, 1), (StageKind::Stateful, 2)]);
        let cores = vec![vec![core(0, 0)], vec![core(1, 0), core(2, 0)]];
        let mut bench = Bench::with(&plan, cores, ahead(credit));
        bench.group(1, 1000);
        let mut batches = std::iter::from_fn(|| bench.run_batch());
        assert_eq!(batches.by_ref().last(), Some(credit));
        bench.peer_completed(1, credit);
        assert_eq!(bench.run_batch(), None, "the other has finished nothing yet");
        bench.peer_completed(2, 1);
        assert_eq!(bench.run_batch(), Some(credit + 1));
        assert_eq!(bench.run_batch(), None);
        bench.peer_completed(2, 0);
        assert_eq!(bench.run_batch(), None, "old news take nothing back and give nothing");
    }
}

#[test]
fn a_source_is_never_more_than_its_credit_before_its_own_core() {
    let plan = chain(&[(UNPACED, 2), (StageKind::Stateful, 1)]);
    let cores = vec![vec![core(0, 0), core(1, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&plan, cores, ahead(3));
    bench.group(1, 1000);
    let batches: Vec<u64> = std::iter::from_fn(|| bench.run_batch()).collect();
    assert_eq!(batches, [1, 2, 3], "the other source has sent nothing");
    bench.block(1, 1);
    assert_eq!(bench.run_names(), [(1, 1), (4, 0)]);
}

#[test]
fn sources_elsewhere_hear_of_every_quarter_of_their_credit() {
    let plan = chain(&[(UNPACED, 3), (StageKind::Stateful, 1)]);
    let cores = vec![vec![core(0, 0), core(1, 0), core(2, 0)], vec![core(0, 0)]];
    let mut bench = Bench::with(&plan, cores, ahead(12));
    bench.group(1, 1000);
    for batch in 1..=9 {
        for upstream in 1..3 {
            bench.block(batch, upstream);
        }
    }
    bench.run_all();
    assert_eq!(bench.scheduler.completed(), BatchId(9));
    let said: Vec<_> = bench
        .actions
        .iter()
        .filter_map(|action| match action {
            LocalAction::Advertise { to, completed } => Some((to.to_vec(), completed.0)),
            _ => None,
        })
        .collect();
    let others = vec![core(1, 0), core(2, 0)];
    assert_eq!(said, [(others.clone(), 3), (others.clone(), 6), (others, 9)]);
}

#[test]
fn a_late_core_cuts_at_the_latest_boundary_and_counts_the_batches_that_it_overtakes() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    bench.group(1, 6);
    bench.now = Instant(47);
    let runs = bench.run_all();
    let cuts: Vec<_> = runs.iter().map(|run| (run.batch.0, run.cut.0)).collect();
    assert_eq!(cuts, [(1, 40), (2, 40), (3, 40), (4, 40)]);
    bench.now = Instant(50);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(50)));
    bench.now = Instant(61);
    bench.run();
    let reports = bench.reports();
    let [CoreReport::GroupDone { statistics, .. }] = &reports[..] else { panic!("{reports:?}") };
    let expected = GroupStatistics {
        tasks: 6,
        run_ns: 18,
        overtaken: 3,
        worst_delay_ns: 37,
        ..GroupStatistics::default()
    };
    assert_eq!(statistics, &expected);
}

#[test]
fn a_cut_of_input_never_goes_back_even_where_a_clock_does() {
    let mut bench = Bench::source(CLOCK, ahead(8));
    bench.group(1, 6);
    bench.now = Instant(47);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(40)));
    bench.now = Instant(35);
    assert_eq!(bench.run().map(|run| run.cut), Some(Instant(40)));
}

#[test]
fn taken_ranges_are_reported_together_after_a_while_and_before_their_group_is_done() {
    let mut bench = Bench::source(UNPACED, ahead(8));
    bench.group(1, 4);
    let take = |bench: &mut Bench, ended| {
        let run = bench.scheduler.next(bench.now).expect("there is credit");
        let batch = run.batch.0;
        bench.done(&run, &[taken(batch, batch * 5, batch * 5 + 5, ended)]);
    };
    take(&mut bench, false);
    bench.now = Instant(60);
    take(&mut bench, false);
    assert_eq!(bench.scheduler.deadline(), Some(Instant(100)), "counted from the first");
    bench.handle(LocalEvent::Tick);
    assert_eq!(bench.reports(), []);
    bench.now = Instant(100);
    bench.handle(LocalEvent::Tick);
    let two = vec![taken(1, 5, 10, false), taken(2, 10, 15, false)];
    assert_eq!(bench.reports(), [CoreReport::Ranges(two)]);
    assert_eq!(bench.scheduler.deadline(), None);

    take(&mut bench, true);
    let end = vec![taken(3, 15, 20, true)];
    assert_eq!(bench.reports(), [CoreReport::Ranges(end)], "an end does not wait");
    take(&mut bench, false);
    let reports = bench.reports();
    let [CoreReport::Ranges(last), CoreReport::GroupDone { group, .. }] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((&last[..], *group), (&[taken(4, 20, 25, false)][..], GroupId(1)));
    assert_eq!(bench.scheduler.deadline(), None);
}

#[test]
fn where_nothing_is_repeated_a_group_is_one_range_of_each_partition() {
    let plan = chain(&[(UNPACED, 3)]);
    let options = LocalOptions { ranges: RangeReports::WithGroups, ..ahead(8) };
    let mut bench = Bench::with(&plan, vec![vec![core(0, 0); 3]], options);
    bench.group(1, 4);
    bench.group(5, 2);
    let take = |bench: &mut Bench, ended: u64| {
        let run = bench.scheduler.next(bench.now).expect("a batch is scheduled");
        let taken = |&partition: &PartitionId| {
            let ended = u64::from(partition.0) == 1 && run.batch.0 >= ended;
            TakenRange { ended, ..range_of(run.batch.0, StageId(0), partition) }
        };
        let ranges: Vec<TakenRange> = run.partitions.iter().map(taken).collect();
        let (published, combined) = (&[], &[]);
        let event =
            LocalEvent::RunDone { run: &run, ranges: &ranges, published, combined, run_ns: 1 };
        bench.handle(event);
        bench.reports()
    };
    let merged = |first: u64, last: u64, ended: bool| {
        let merged = (0..3).map(|partition| {
            let taken = range_of(last, StageId(0), PartitionId(partition));
            let range = SourceRange { from: first * 5, ..taken.range };
            TakenRange { range, ended: ended && partition == 1, ..taken }
        });
        CoreReport::Ranges(merged.collect())
    };
    for _ in 1..4 {
        assert_eq!(take(&mut bench, 5), []);
        assert_eq!(bench.scheduler.deadline(), None, "nothing is due before the group is done");
    }
    assert_eq!(take(&mut bench, 5)[0], merged(1, 4, false));
    assert_eq!(take(&mut bench, 5), [merged(5, 5, true)], "an end does not wait");
    assert_eq!(take(&mut bench, 5)[0], merged(6, 6, true));
}
