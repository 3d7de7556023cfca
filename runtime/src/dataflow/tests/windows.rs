//! Windows against a plain model, whatever the order in which blocks come.

use std::collections::BTreeMap;
use std::time::Duration;

use drizzle_scheduler::Watermark;
use proptest::prelude::*;

use super::harness::*;
use super::sources::random_partitions;
use crate::dataflow::Combine::{BeforeShuffle, Never};
use crate::dataflow::{Aggregate, Count, Dataflow, Owned, Tumbling, WindowResult};

/// A made-up order of arrival.
fn disorder(seed: usize) -> Arrival {
    Box::new(move |blocks| {
        let turn = seed.checked_rem(blocks.len()).unwrap_or(0);
        blocks.rotate_left(turn);
        if seed % 2 == 1 {
            blocks.reverse();
        }
    })
}

/// What an order-sensitive aggregate comes to if values are taken one by one.
fn sequence_of(values: &[u64]) -> u64 {
    let mut gathered = <Sequence as Aggregate<Owned<Item>>>::zero(&Sequence);
    values.iter().for_each(|&value| {
        <Sequence as Aggregate<Owned<Item>>>::add(&Sequence, &mut gathered, value);
    });
    gathered.0
}

/// The values of each window in (batch, upstream partition, offset) order, late ones left out.
fn in_batch_order(
    partitions: &[Vec<Item>],
    cuts: &[u64],
    bound: u64,
) -> BTreeMap<(u64, u32), Vec<u64>> {
    let mut windows: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    let mut places: Vec<(usize, u64)> = vec![(0, 0); partitions.len()]; // (offset, largest)
    let longest = partitions.iter().map(Vec::len).max().unwrap_or(0);
    for batch in 0..cuts.len() * (longest + 1) {
        let take = cuts[batch % cuts.len()] as usize;
        for (items, (offset, largest)) in partitions.iter().zip(&mut places) {
            for item in items.iter().skip(*offset).take(take) {
                let start = item.time / WINDOW_MS * WINDOW_MS;
                if start + WINDOW_MS + bound > *largest {
                    windows.entry((start, item.key)).or_default().push(item.value);
                }
                *largest = item.time.max(*largest);
            }
            *offset += take;
        }
    }
    windows
}

proptest! {
    #[test]
    fn window_results_equal_a_plain_model(
        partitions in random_partitions(),
        bound in 0u64..40,
        cores in 1u32..5,
        window_partitions in 1u32..7,
        combine in prop::sample::select(vec![BeforeShuffle, Never]),
        seed in 0usize..10,
    ) {
        let items = Items::new(&partitions).cut(&[3]).out_of_orderness(bound);
        let (bench, rows) = windowed(items, Sum, options(window_partitions, combine));
        let mut bench = bench.on_cores(cores);
        bench.arrival = disorder(seed);
        bench.finish();
        let expected = model(&partitions, bound);
        let sums: BTreeMap<_, u64> =
            expected.values.iter().map(|(&window, values)| (window, values.iter().sum())).collect();
        prop_assert_eq!(by_window(&rows.records()), sums.clone());
        prop_assert_eq!(bench.counter("windows.late"), expected.late);
        prop_assert_eq!(bench.counter("windows.counted"), expected.counted);
        prop_assert_eq!(bench.counter("windows.results"), sums.len() as u64);
        prop_assert_eq!(bench.counter("rows.written"), sums.len() as u64);
    }

    #[test]
    fn records_are_folded_in_the_order_of_batches_and_upstream_partitions(
        partitions in random_partitions(),
        cuts in prop::collection::vec(1u64..9, 1..4),
        bound in 0u64..40,
        cores in 1u32..5,
        combine in prop::sample::select(vec![BeforeShuffle, Never]),
        seed in 0usize..10,
    ) {
        let items = Items::new(&partitions).cut(&cuts).out_of_orderness(bound);
        let (bench, rows) = windowed(items, Sequence, options(3, combine));
        let mut bench = bench.on_cores(cores);
        bench.arrival = disorder(seed);
        bench.finish();
        let expected: BTreeMap<_, u64> = in_batch_order(&partitions, &cuts, bound)
            .into_iter()
            .map(|(window, values)| (window, sequence_of(&values)))
            .collect();
        prop_assert_eq!(by_window(&rows.records()), expected);
    }
}

#[test]
fn an_order_sensitive_aggregate_sees_another_order() {
    assert_ne!(sequence_of(&[1, 2]), sequence_of(&[2, 1]));
}

#[test]
fn a_window_closes_in_the_batch_whose_watermark_reaches_its_end_in_order_of_time() {
    let items = Items::new(&[at(&[25, 3, 5, 19, 20, 39, 40])]).cut(&[1]).out_of_orderness(30);
    let (mut bench, rows) = windowed(items.endless(), Count, options(1, Never));
    (0..5).for_each(|_| bench.batch());
    assert_eq!(rows.all().len(), 0);
    bench.batch();
    assert_eq!((bench.watermark(), rows.all().len()), (Watermark(9), 0));
    bench.batch();
    assert_eq!(bench.watermark(), Watermark(10));
    let result = |window_start, value| WindowResult {
        key: 1,
        window_start,
        window_end: window_start + WINDOW_MS,
        value,
    };
    assert_eq!(rows.records(), [result(0, 2)]);
    bench.run(FLUSH).unwrap();
    let rest = [result(0, 2), result(10, 1), result(20, 2), result(30, 1), result(40, 1)];
    assert_eq!(rows.records(), rest);
}

#[test]
fn a_block_counts_only_for_the_partitions_of_the_run() {
    let items: Vec<Item> = (0..200).map(|n| item(n, 1, u64::from(n))).collect();
    for combine in [BeforeShuffle, Never] {
        let (mut bench, rows) =
            windowed(Items::new(std::slice::from_ref(&items)), Sum, options(4, combine));
        let source = bench.placement.partitions_on(SOURCE, core(0));
        let windows = bench.placement.partitions_on(WINDOW, core(0));
        bench.run_stage(PROCESS, SOURCE, core(0), &source, &[]).unwrap();
        let inputs = bench.inputs(WINDOW, core(0));
        assert_eq!(inputs[0].notice().downstream[..], windows[..], "one block covers all four");
        for (run, &partition) in windows.iter().enumerate() {
            bench.run_stage(PROCESS, WINDOW, core(0), &[partition], &inputs).unwrap();
            let partitions: Vec<_> = rows.all().iter().map(|(_, owner, _)| *owner).collect();
            assert_eq!(partitions.iter().filter(|&&owner| owner > partition).count(), 0);
            assert!(partitions.contains(&windows[run]), "200 keys leave no partition empty");
        }
        let results = by_window(&rows.records());
        assert_eq!(results.len(), 200, "each key once");
        assert!(results.iter().all(|(&(_, key), &sum)| sum == u64::from(key)));
    }
}

#[test]
fn results_are_handed_to_the_partition_of_their_key() {
    use drizzle_shuffle::{PartitionKey, partition_of};
    let items: Vec<Item> = (0..50).map(|n| item(n, 1, 1)).collect();
    let (bench, rows) = windowed(Items::new(&[items]), Count, options(5, BeforeShuffle));
    let mut bench = bench.on_cores(3);
    bench.finish();
    for (_, partition, row) in rows.all() {
        assert_eq!(partition, partition_of(row.key.partition_hash(), 5));
    }
}

/// Counts by (key, window), and how many keys of each window had each count.
fn two_windows(items: Items, cores: u32) -> (Bench, Rows<WindowResult<u64, u64>>) {
    let rows = Rows::new();
    let flow = Dataflow::new("two windows", options(3, BeforeShuffle));
    flow.source("items", items)
        .key_by(|item| item.key)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS)))
        .count("small")
        .map("counts", |result: &WindowResult<u32, u64>| result.value)
        .key_by(|&count| count)
        .window(Tumbling::of(Duration::from_millis(2 * WINDOW_MS)))
        .count("large")
        .sink("rows", rows.clone());
    (Bench::new(flow.build().unwrap(), cores), rows)
}

#[test]
fn a_result_belongs_to_the_last_millisecond_of_its_window_and_is_never_late() {
    let times = [1, 9, 10, 19, 20, 29, 30, 39, 40];
    let (mut bench, rows) = two_windows(Items::new(&[at(&times)]).cut(&[1]).endless(), 2);
    (0..5).for_each(|_| bench.batch());
    assert_eq!(bench.watermark(), Watermark(20), "it goes through to the last edge");
    let large = |key, window_start, value| WindowResult {
        key,
        window_start,
        window_end: window_start + 2 * WINDOW_MS,
        value,
    };
    assert_eq!(rows.records(), [large(2, 0, 2)], "both windows close in one batch");
    (0..4).for_each(|_| bench.batch());
    bench.run(FLUSH).unwrap();
    assert_eq!(rows.records(), [large(2, 0, 2), large(2, 20, 2), large(1, 40, 1)]);
    assert_eq!(bench.counter("large.late"), 0);
}
