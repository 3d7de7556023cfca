//! States in pieces: a job that is frozen and restored between any two batches, on any number of cores,
//! comes to the same as one that was left alone.

use std::collections::BTreeMap;

use drizzle_scheduler::checkpoint::build_on;
use drizzle_scheduler::{BatchId, PartitionId, StageId, Watermark};
use proptest::prelude::*;

use super::harness::*;
use super::sources::random_partitions;
use crate::dataflow::Combine::BeforeShuffle;
use crate::dataflow::stage::Stage;
use crate::dataflow::state::{Extent, Slot};
use crate::dataflow::window_state::{OpenWindows, SpareTables};
use crate::dataflow::{EventTimes, Origin, Piece, StateError};

/// The pieces of every partition since the first one, which is whole.
type Chains = BTreeMap<(StageId, PartitionId), Vec<(BatchId, Vec<u8>)>>;

/// Adds a piece for every partition: what changed since one before, in place of those behind that.
fn checkpoint(bench: &mut Bench, chains: &mut Chains) {
    let batch = bench.batch_id();
    for place in bench.places() {
        let chain = chains.entry(place).or_default();
        let batches: Vec<BatchId> = chain.iter().map(|(batch, _)| *batch).collect();
        let stage = bench.stage_of(place);
        let since = build_on(&batches, |since| stage.weigh(place.1, Extent::after(since)));
        let piece = stage.freeze(place.1, Slot::Live, Extent::after(since));
        chain.retain(|&(batch, _)| since.is_some_and(|since| batch <= since));
        chain.push((batch, piece));
    }
}

/// Loses everything, and starts again from the pieces on so many cores.
fn restart(bench: &mut Bench, chains: &Chains, cores: u32) {
    bench.spread_anew(cores);
    for (&place, chain) in chains {
        for (batch, bytes) in chain {
            let piece = Piece { batch: *batch, origin: Origin::Checkpoint, bytes };
            thaw(bench.stage_of(place), place.1, &piece).unwrap();
        }
    }
}

/// Applies all of a piece.
fn thaw(
    stage: &mut dyn Stage,
    partition: PartitionId,
    piece: &Piece<'_>,
) -> Result<(), StateError> {
    let mut from = Some(0);
    while let Some(next) = from {
        from = stage.thaw(partition, Slot::Live, piece, next)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_job_restored_between_any_two_batches_comes_to_the_same(
        partitions in random_partitions(),
        cuts in prop::collection::vec(1u64..5, 1..4),
        bound in 0u64..40,
        plan in prop::collection::vec((any::<bool>(), 0u32..4), 1..20),
    ) {
        let items = Items::new(&partitions).cut(&cuts).out_of_orderness(bound);
        let (mut bench, rows) = windowed(items, Sum, options(3, BeforeShuffle));
        let mut chains = Chains::new();
        for &(checkpoints, cores) in plan.iter().cycle() {
            bench.batch();
            if checkpoints {
                checkpoint(&mut bench, &mut chains);
                if cores > 0 {
                    restart(&mut bench, &chains, cores);
                }
            }
            if bench.taken.iter().all(|taken| taken.ended) {
                break;
            }
        }
        bench.run(FLUSH).unwrap();
        let expected = model(&partitions, bound).values;
        let sums = expected.into_iter().map(|(window, values)| (window, values.iter().sum()));
        prop_assert_eq!(by_window(&rows.records()), sums.collect::<BTreeMap<_, u64>>());
    }
}

#[test]
fn a_piece_holds_only_what_changed_and_closes_what_is_gone() {
    let mut spare = SpareTables::new();
    let mut windows = OpenWindows::<u32, u64>::default();
    let add = |windows: &mut OpenWindows<u32, u64>, spare: &mut _, batch, key: u32, window| {
        windows.fold(spare, BatchId(batch), (key, u64::from(key)), window, 1, |sum| *sum += 1);
    };
    (0..1000).for_each(|key| add(&mut windows, &mut spare, 1, key, 10));
    add(&mut windows, &mut spare, 1, 7, 0);
    let mut whole = Vec::new();
    windows.freeze(Extent::Whole, &mut whole);
    windows.pop(|start| start == 0).unwrap();
    add(&mut windows, &mut spare, 2, 7, 10);
    let mut changed = Vec::new();
    windows.freeze(Extent::Since(BatchId(1)), &mut changed);
    assert!(changed.len() < whole.len() / 10, "{} of {} bytes", changed.len(), whole.len());
    let mut restored = OpenWindows::<u32, u64>::default();
    for (batch, bytes) in [(1, &whole), (2, &changed)] {
        let piece = Piece { batch: BatchId(batch), origin: Origin::Checkpoint, bytes };
        restored.thaw(&mut spare, &piece, 0).unwrap();
    }
    let mut again = Vec::new();
    restored.freeze(Extent::Whole, &mut again);
    let mut expected = Vec::new();
    windows.freeze(Extent::Whole, &mut expected);
    assert_eq!(again, expected);
}

#[test]
fn a_large_piece_is_applied_in_parts() {
    let mut spare = SpareTables::new();
    let mut windows = OpenWindows::<u32, u64>::default();
    for key in 0..10_000 {
        let hash = u64::from(key);
        windows.fold(&mut spare, BatchId(1), (key, hash), hash % 3, 1, |sum| *sum += hash);
    }
    assert_eq!(windows.weigh(Extent::Whole), 10_000);
    assert_eq!(windows.weigh(Extent::Since(BatchId(1))), 0);
    let mut whole = Vec::new();
    windows.freeze(Extent::Whole, &mut whole);
    let piece = Piece { batch: BatchId(1), origin: Origin::Checkpoint, bytes: &whole };
    let mut restored = OpenWindows::<u32, u64>::default();
    let (mut from, mut parts) = (Some(0), 0);
    while let Some(next) = from {
        assert!(restored.weigh(Extent::Whole) < 10_000, "there is something left to do");
        from = restored.thaw(&mut spare, &piece, next).unwrap();
        parts += 1;
    }
    assert_eq!(parts, 3);
    let mut again = Vec::new();
    restored.freeze(Extent::Whole, &mut again);
    assert_eq!(again, whole);
}

#[test]
fn bytes_that_are_no_state_are_refused_and_harm_nothing() {
    let items = Items::new(&[at(&[1, 2, 30])]).endless();
    let (mut bench, _rows) = windowed(items, Sum, options(1, BeforeShuffle));
    bench.batch();
    let (place, partition) = ((WINDOW, PartitionId(0)), PartitionId(0));
    let good = bench.stage_of(place).freeze(partition, Slot::Live, Extent::Whole);
    let mut try_thaw = |bytes: &[u8]| -> Result<(), StateError> {
        let piece = Piece { batch: BatchId(1), origin: Origin::Checkpoint, bytes };
        let stage = bench.stage_of(place);
        stage.clear(partition, Slot::Live);
        thaw(stage, partition, &piece)
    };
    try_thaw(&good).unwrap();
    for len in 0..good.len() {
        try_thaw(&good[..len]).unwrap_err();
    }
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 0x81;
        // The checksum is storage's affair; here nothing may crash.
        let _ = try_thaw(&bad);
    }
}

#[test]
fn a_source_goes_on_with_the_watermark_that_it_had() {
    let mut times = EventTimes::new(5);
    times.stamp(100);
    let mut resumed = EventTimes::resumed(times.watermark(), 5);
    assert_eq!(resumed, times);
    assert_eq!(resumed.stamp(90).watermark, Watermark(95));
    assert_eq!(EventTimes::resumed(Watermark::NONE, 5), EventTimes::new(5));
}
