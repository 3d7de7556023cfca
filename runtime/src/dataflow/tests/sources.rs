//! What a source stage takes, stamps and promises: ranges, lateness, watermarks.

use std::collections::BTreeMap;
use std::time::Duration;

use drizzle_scheduler::checkpoint::SourcePosition;
use drizzle_scheduler::{BatchId, PartitionId, StageId, Watermark};
use proptest::prelude::*;

use super::harness::*;
use crate::dataflow::Combine::{self, BeforeShuffle, Never};
use crate::dataflow::state::Slot;
use crate::dataflow::{Count, Dataflow, Tumbling};

/// (late, counted) of one partition with these event times.
fn lateness(times: &[u64], out_of_orderness_ms: u64) -> (u64, u64) {
    let items = Items::new(&[at(times)]).out_of_orderness(out_of_orderness_ms);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.finish();
    (bench.counter("windows.late"), bench.counter("windows.counted"))
}

#[test]
fn a_record_is_late_if_its_window_ends_at_or_before_the_largest_earlier_event_time() {
    assert_eq!(lateness(&[9, 9, 0], 0), (0, 3), "the window [0, 10) is open");
    assert_eq!(lateness(&[9, 10, 9], 0), (1, 2), "10 has closed it");
    assert_eq!(lateness(&[10, 10], 0), (0, 2), "a record does not make itself late");
    assert_eq!(lateness(&[25, 0, 9, 10, 19, 20], 0), (4, 2));
    assert_eq!(lateness(&[25, 0, 26, 3], 0), (2, 2), "late records do not move the watermark back");
}

#[test]
fn out_of_orderness_puts_lateness_off_by_exactly_so_much() {
    assert_eq!(lateness(&[14, 9], 5), (0, 2), "14 - 5 is before the end");
    assert_eq!(lateness(&[15, 9], 5), (1, 1), "15 - 5 is the end");
    assert_eq!(lateness(&[3, 0], 5), (0, 2), "a bound beyond all times so far makes nothing late");
    assert_eq!(lateness(&[1_000_000, 0], u64::MAX), (0, 2));
}

#[test]
fn lateness_is_decided_within_each_source_partition() {
    let items = Items::new(&[at(&[100, 110]), at(&[0, 5, 12]), at(&[50, 0])]).cut(&[1]);
    let (mut bench, rows) = windowed(items, Count, options(2, BeforeShuffle));
    bench.finish();
    assert_eq!((bench.counter("windows.late"), bench.counter("windows.counted")), (1, 6));
    let results = by_window(&rows.records());
    assert_eq!(results[&(0, 1)], 2, "slower partitions keep their windows open");
}

#[test]
fn records_that_a_filter_drops_move_the_watermark_too() {
    let items = [item(1, 5, 1), item(1, 30, 0), item(1, 6, 1), item(1, 31, 1)];
    let rows = Results::new();
    let flow = Dataflow::new("filtered", options(1, Never));
    flow.source("items", Items::new(&[items.to_vec()]))
        .filter("ones", |item| item.value == 1)
        .key_by(|item| item.key)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS)))
        .count("windows")
        .sink("rows", rows.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    bench.finish();
    assert_eq!(bench.counter("ones.dropped"), 1);
    assert_eq!(bench.counter("windows.late"), 1, "the dropped 30 has closed [0, 10)");
    assert_eq!(
        by_window(&rows.records()).into_iter().collect::<Vec<_>>(),
        [((0, 1), 1), ((30, 1), 1)]
    );
}

#[test]
fn a_derived_watermark_is_the_largest_event_time_less_the_out_of_orderness() {
    let items = Items::new(&[at(&[3, 40, 20, 50])]).cut(&[1]).out_of_orderness(5).endless();
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    let watermarks: Vec<u64> = (0..4).map(|_| (bench.batch(), bench.watermark().0).1).collect();
    assert_eq!(watermarks, [0, 35, 35, 45], "it never falls");
    bench.batch();
    assert_eq!(bench.watermark().0, 45, "an empty batch keeps it");
}

#[test]
fn an_asserted_watermark_counts_instead_of_the_derived_one_and_never_falls() {
    let mut items = Items::new(&[at(&[3, 4, 30, 31])]).cut(&[1]).endless();
    items.assert = |to| [None, Some(7), Some(20), Some(10), None][to as usize].map(Watermark);
    let (mut bench, rows) = windowed(items, Count, options(1, Never));
    let watermarks: Vec<u64> = (0..4).map(|_| (bench.batch(), bench.watermark().0).1).collect();
    assert_eq!(watermarks, [7, 20, 20, 31]);
    let batches: Vec<_> = rows.all().iter().map(|(batch, ..)| batch.0).collect();
    assert_eq!(batches, [2], "the window [0, 10) closes in the batch that asserts its end");
}

#[test]
fn an_asserted_watermark_makes_no_record_late() {
    let mut items = Items::new(&[at(&[3, 12, 4])]).cut(&[1]).out_of_orderness(10);
    items.assert = |_| Some(Watermark(1000));
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.finish();
    assert_eq!(bench.counter("windows.late"), 0, "lateness is a matter of data alone");
}

#[test]
fn a_batch_has_the_least_watermark_of_its_partitions() {
    let items = Items::new(&[at(&[30, 31]), at(&[12, 40])]).cut(&[1]).endless();
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.batch();
    assert_eq!(bench.watermark(), Watermark(12));
    bench.batch();
    assert_eq!(bench.watermark(), Watermark(31));
}

#[test]
fn a_taken_range_carries_the_watermark_of_its_own_partition() {
    let items = Items::new(&[at(&[30, 31]), at(&[12])]).cut(&[1]);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    let mut watermarks = || {
        bench.batch();
        let mut taken = bench.taken.clone();
        taken.sort_unstable_by_key(|taken| taken.range.partition);
        taken.into_iter().map(|taken| taken.watermark).collect::<Vec<_>>()
    };
    assert_eq!(watermarks(), [Watermark(30), Watermark::END], "the second has ended");
    assert_eq!(watermarks(), [Watermark::END, Watermark::END]);
}

#[test]
fn an_ended_partition_holds_no_watermark_back() {
    let items = Items::new(&[at(&[5]), at(&[12, 40, 41])]).cut(&[1]);
    let (mut bench, rows) = windowed(items, Count, options(1, Never));
    let watermarks: Vec<u64> = (0..3).map(|_| (bench.batch(), bench.watermark().0).1).collect();
    assert_eq!(watermarks, [12, 40, Watermark::END.0], "the first ended with its first batch");
    assert_eq!(by_window(&rows.records()).len(), 3, "the end closes every window");
    bench.batch();
    assert_eq!(bench.ranges(), [1..1, 3..3], "an ended partition takes empty ranges");
    assert!(bench.taken.iter().all(|taken| taken.ended));
}

#[test]
fn a_flush_takes_nothing_and_closes_every_window() {
    let items = Items::new(&[at(&[5, 25, 26]), at(&[7, 8, 9])]).cut(&[2]).endless();
    let (mut bench, rows) = windowed(items, Count, options(3, BeforeShuffle));
    bench.batch();
    assert_eq!(rows.all().len(), 0);
    bench.run(FLUSH).unwrap();
    assert_eq!(bench.ranges(), [2..2, 2..2]);
    assert_eq!(bench.watermark(), Watermark::END);
    assert!(bench.taken.iter().all(|taken| !taken.ended), "a cut is no end of the input");
    assert_eq!(
        by_window(&rows.records()).into_iter().collect::<Vec<_>>(),
        [((0, 1), 3), ((20, 1), 1)]
    );
}

#[test]
fn paused_intake_takes_empty_ranges_and_goes_on_where_it_was() {
    let items = Items::new(&[at(&[5, 25, 26])]).cut(&[1]);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.run(PAUSED).unwrap();
    assert_eq!((bench.range(), bench.watermark()), (0..0, Watermark::NONE));
    bench.batch();
    bench.batch();
    bench.run(PAUSED).unwrap();
    assert_eq!((bench.range(), bench.watermark()), (2..2, Watermark(25)));
    bench.batch();
    assert_eq!((bench.range(), bench.watermark()), (2..3, Watermark::END));
    bench.run(PAUSED).unwrap();
    assert!(bench.taken[0].ended, "a pause does not hide the end");
}

#[test]
fn the_partitions_of_a_core_share_the_bytes_of_a_batch() {
    let items = Items::new(&[at(&[1; 9]), at(&[1; 9]), at(&[1; 9])]);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.batch_bytes = 9;
    bench.batch();
    assert_eq!(bench.ranges(), [0..3, 0..3, 0..3]);
    let items = Items::new(&[at(&[1; 9]), at(&[1; 9])]);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.batch_bytes = 1;
    bench.batch();
    assert_eq!(bench.ranges(), [0..1, 0..1], "no share is too small to go on");
}

#[test]
fn blocks_name_the_ranges_that_were_not_empty() {
    let items = Items::new(&[at(&[1, 2]), at(&[]), at(&[3])]).cut(&[1]);
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    let named = |bench: &Bench| -> Vec<(u32, u64, u64)> {
        let ranges = bench.blocks[0].1.header().ranges.iter();
        ranges.map(|range| (range.partition.0, range.from, range.to)).collect()
    };
    bench.batch();
    assert_eq!(named(&bench), [(0, 0, 1), (2, 0, 1)]);
    assert_eq!(bench.taken.len(), 3, "the driver is told of every one");
    assert!(bench.taken.iter().all(|taken| taken.range.stage == SOURCE));
    bench.batch();
    assert_eq!(named(&bench), [(0, 1, 2)]);
    assert_eq!(bench.blocks[0].1.notice().upstream[..], [0, 1, 2].map(PartitionId));
}

prop_compose! {
    fn random_item()(key in 0u32..5, time in 0u64..120, value in 0u64..1000) -> Item {
        item(key, time, value)
    }
}

pub(super) fn random_partitions() -> impl Strategy<Value = Vec<Vec<Item>>> {
    prop::collection::vec(prop::collection::vec(random_item(), 0..40), 1..5)
}

/// Results and (late, counted) of a job, for one way to cut its input into batches.
fn outcome(
    partitions: &[Vec<Item>],
    cuts: &[u64],
    bound: u64,
    combine: Combine,
) -> (BTreeMap<(u64, u32), u64>, u64, u64) {
    let items = Items::new(partitions).cut(cuts).out_of_orderness(bound);
    let (mut bench, rows) = windowed(items, Sum, options(3, combine));
    bench.finish();
    (by_window(&rows.records()), bench.counter("windows.late"), bench.counter("windows.counted"))
}

proptest! {
    #[test]
    fn results_and_late_records_do_not_depend_on_how_the_input_is_cut(
        partitions in random_partitions(),
        cuts in prop::collection::vec(0u64..8, 1..6),
        bound in 0u64..40,
        combine in prop::sample::select(vec![BeforeShuffle, Never]),
    ) {
        let cuts: Vec<u64> = cuts.into_iter().chain([1]).collect(); // so that it gets on
        let expected = model(&partitions, bound);
        let (results, late, counted) = outcome(&partitions, &cuts, bound, combine);
        prop_assert_eq!((late, counted), (expected.late, expected.counted));
        let sums = expected.values.iter().map(|(&window, values)| (window, values.iter().sum()));
        prop_assert_eq!(&results, &sums.collect::<BTreeMap<_, _>>());
        prop_assert_eq!(outcome(&partitions, &[], bound, combine), (results, late, counted));
    }
}

/// Where a partition of the source is after some batch.
fn position(partition: u32, offset: u64) -> SourcePosition {
    let (after, watermark) = (BatchId(7), Watermark(0));
    let partition = PartitionId(partition);
    SourcePosition { stage: SOURCE, partition, after, offset, watermark, ended: false }
}

#[test]
fn source_may_forget_what_the_second_newest_checkpoint_covers() {
    let items = Items::new(&[at(&[1; 90]), at(&[1; 90])]);
    let told = items.told.clone();
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    let source = bench.stage_of((SOURCE, PartitionId(0)));
    source.go_on(&position(0, 10));
    source.covered(&position(0, 20));
    source.covered(&position(1, 20));
    assert_eq!(*told.lock().unwrap(), [], "a job may have to start from before");
    source.covered(&position(0, 30));
    assert_eq!(*told.lock().unwrap(), [(0, 20)]);
    source.covered(&position(1, 40));
    assert_eq!(told.lock().unwrap().len(), 1, "partition 1 is elsewhere");
    source.clear(PartitionId(0), Slot::Live);
    source.go_on(&position(1, 50));
    source.covered(&position(0, 60));
    source.covered(&position(1, 60));
    assert_eq!(told.lock().unwrap().split_off(1), [(1, 40)], "and now the other one is");
    bench.close().unwrap();
    assert_eq!(told.lock().unwrap().split_off(1), [(1, 50)], "at the end, as far as it was read");
}

#[test]
fn source_may_forget_what_was_read_where_nothing_outlives_the_process() {
    let items = Items::new(&[at(&[1, 2, 3])]).cut(&[2]);
    let told = items.told.clone();
    let (mut bench, _) = windowed(items, Count, options(1, Never));
    bench.finish();
    assert_eq!(*told.lock().unwrap(), [(0, 2), (0, 3)]);
}

#[test]
fn a_partition_of_which_nothing_is_known_goes_on_where_it_begins() {
    for (after, counted) in [(0, 2), (7, 3)] {
        let items = Items { first: 2, ..Items::new(&[at(&[1, 2, 3, 4])]) };
        let (mut bench, _) = windowed(items, Count, options(1, Never));
        let (stage, partition) = (StageId(0), PartitionId(0));
        let (offset, watermark, ended) = (1, Watermark::NONE, false);
        let offset = if after == 0 { 0 } else { offset };
        let position =
            SourcePosition { stage, partition, after: BatchId(after), offset, watermark, ended };
        bench.stage_of((stage, partition)).go_on(&position);
        bench.finish();
        assert_eq!(bench.counter("windows.counted"), counted, "after batch {after}");
    }
}
