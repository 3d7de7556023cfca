//! What a stage writes for the cores downstream.

use std::collections::BTreeMap;
use std::sync::Arc;

use drizzle_scheduler::message::Content;
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{BatchId, CoreId, EdgeId, Epoch, Incarnation, PartitionId};
use drizzle_shuffle::{
    Block, PartialEntry, PartitionKey, RawEntry, Record, StoreOptions, partition_of,
};

use super::harness::*;
use crate::dataflow::Combine::{BeforeShuffle, Never};
use crate::dataflow::stage::TaskError;
use crate::dataflow::{Aggregate, Combine, Owned};

/// Three source partitions, one of them empty, all on one core: one batch, the block for the window.
fn block_of<A>(aggregate: A, combine: Combine) -> Block
where
    A: Aggregate<Owned<Item>, Output = u64>,
{
    let first = vec![item(1, 1, 10), item(2, 1, 20), item(1, 2, 30)];
    let third = vec![item(1, 3, 40), item(3, 100, 50), item(3, 1, 60)];
    let items = Items::new(&[first, vec![], third]);
    let (mut bench, _) = windowed(items, aggregate, options(2, combine));
    bench.batch();
    assert_eq!((bench.counter("windows.late"), bench.counter("windows.counted")), (1, 5));
    assert_eq!(bench.blocks.len(), 1);
    bench.blocks[0].1.clone()
}

fn raw(block: &Block) -> Vec<(u32, u64, u64)> {
    let entries = block.records::<RawEntry<u32, u64>>().iter().map(RawEntry::unarchive);
    entries.map(|entry: RawEntry<u32, u64>| (entry.key, entry.window_start, entry.value)).collect()
}

#[test]
fn raw_blocks_have_each_record_under_its_upstream_partition_and_no_late_ones() {
    let block = block_of(Sum, Never);
    assert_eq!(block.notice().content, Content::Raw);
    assert_eq!(*block.header().record_counts, [3, 0, 2]);
    assert_eq!(raw(&block), [(1, 0, 10), (2, 0, 20), (1, 0, 30), (1, 0, 40), (3, 100, 50)]);
}

#[test]
fn exact_aggregates_are_combined_over_all_partitions_under_the_first() {
    let block = block_of(Sum, BeforeShuffle);
    assert_eq!(block.notice().content, Content::Partial);
    assert_eq!(*block.header().record_counts, [3, 0, 0]);
    let entries = block.records::<PartialEntry<u32, u64>>().iter().map(PartialEntry::unarchive);
    let entries: Vec<_> = entries
        .map(|entry: PartialEntry<u32, u64>| (entry.key, entry.window_start, entry.accumulator))
        .collect();
    assert_eq!(entries, [(1, 0, 80), (2, 0, 20), (3, 100, 50)], "in the order of first sight");
}

#[test]
fn other_aggregates_are_combined_within_each_partition() {
    let block = block_of(Sequence, BeforeShuffle);
    assert_eq!(block.notice().content, Content::Partial);
    assert_eq!(*block.header().record_counts, [2, 0, 2]);
}

#[test]
fn a_block_says_who_wrote_it_and_what_it_covers() {
    let items = Items::new(&[at(&[1]), at(&[2]), at(&[3]), at(&[4])]);
    let (bench, _) = windowed(items, Sum, options(5, Never));
    let mut bench = bench.on_cores(2);
    bench.batch();
    let mut routes = Vec::new();
    for (to, block) in &bench.blocks {
        let notice = block.notice();
        assert_eq!((notice.batch, notice.edge), (BatchId(1), EdgeId(0)));
        assert_eq!((notice.epoch, notice.incarnation), (Epoch(1), Incarnation(1)));
        assert_eq!(notice.upstream[..], bench.placement.partitions_on(SOURCE, notice.sender));
        assert_eq!(notice.downstream[..], bench.placement.partitions_on(WINDOW, *to));
        routes.push((notice.sender, *to));
    }
    let expected = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(from, to)| (core(from), core(to)));
    assert_eq!(routes, expected, "one block for each pair of cores, empty or not");
}

/// Keys of the records for each core, from the blocks of the latest batch.
fn keys_by_core(bench: &Bench) -> BTreeMap<CoreId, Vec<u32>> {
    let mut keys: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for (to, block) in &bench.blocks {
        keys.entry(*to).or_default().extend(raw(block).iter().map(|(key, ..)| *key));
    }
    keys
}

/// Keys of the records for each core, from the placement.
fn keys_by_placement(bench: &Bench, keys: u32, partitions: u32) -> BTreeMap<CoreId, Vec<u32>> {
    let cores = bench.placement.cores_of(WINDOW).into_iter();
    let mut expected: BTreeMap<CoreId, Vec<u32>> = cores.map(|core| (core, Vec::new())).collect();
    for key in 0..keys {
        let partition = partition_of(key.partition_hash(), partitions);
        let core = bench.placement.core_of(WINDOW, partition);
        expected.get_mut(&core).unwrap().push(key);
    }
    expected
}

#[test]
fn destinations_follow_the_placement_and_its_changes() {
    let items: Vec<Item> = (0..300).map(|n| item(n % 100, 1, 1)).collect();
    let (mut bench, rows) =
        windowed(Items::new(&[items]).cut(&[100]).endless(), Sum, options(7, Never));
    let windows_on = |cores: &[u32], epoch: u64| Placement {
        epoch: Epoch(epoch),
        from_batch: BatchId(epoch),
        cores_by_stage: vec![
            vec![core(0)],
            (0..7).map(|partition| core(cores[partition % cores.len()])).collect(),
        ],
    };
    for (epoch, cores) in [(1, &[2, 0, 1][..]), (2, &[5]), (3, &[0, 1, 2, 3, 4])] {
        bench.placement = Arc::new(windows_on(cores, epoch));
        bench.batch();
        assert_eq!(bench.blocks.len(), cores.len());
        assert!(bench.blocks.iter().all(|(_, block)| block.notice().epoch == Epoch(epoch)));
        assert_eq!(keys_by_core(&bench), keys_by_placement(&bench, 100, 7));
    }
    assert_eq!(rows.all().len(), 0, "state does not move here, so nobody flushes");
}

#[test]
fn a_batch_that_brought_nothing_still_sends_its_watermark() {
    let (bench, _) = windowed(Items::new(&[at(&[7])]).endless(), Sum, options(4, BeforeShuffle));
    let mut bench = bench.on_cores(3);
    bench.batch();
    bench.batch();
    assert_eq!(bench.blocks.len(), 3);
    assert!(bench.blocks.iter().all(|(_, block)| block.is_empty()));
    assert_eq!(bench.watermark().0, 7);
    assert_eq!(bench.blocks[0].1.notice().upstream[..], [PartitionId(0)]);
}

#[test]
fn a_batch_too_large_for_the_memory_is_an_error_and_not_a_panic() {
    let items: Vec<Item> = (0..10_000).map(|n| item(n, 1, 1)).collect();
    for combine in [BeforeShuffle, Never] {
        let (mut bench, _) =
            windowed(Items::new(std::slice::from_ref(&items)), Sum, options(1, combine));
        bench.store = StoreOptions { segment_bytes: 4096, max_bytes: 16 * 4096 };
        let error = bench.run(PROCESS).unwrap_err();
        assert!(matches!(error, TaskError::Memory(_)), "{error}");
        assert!(error.to_string().contains("give the worker more memory"), "{error}");
    }
}
