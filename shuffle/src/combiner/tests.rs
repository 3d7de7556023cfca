//! Tests of the combiner.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::partition::PartitionKey;

fn combiner(max_entries: usize) -> Combiner<u32, u64> {
    Combiner::new(CombinerOptions { max_entries })
}

fn count(combiner: &mut Combiner<u32, u64>, key: u32, window: u64) -> Result<(), CombinerFull> {
    combiner.fold(key, key.partition_hash(), window, 0, |count| *count += 1).map(|_| ())
}

fn drained(combiner: &mut Combiner<u32, u64>) -> Vec<(u32, u64, u64)> {
    let mut entries = Vec::new();
    let result = combiner.drain(|hash, entry| {
        assert_eq!(hash, entry.key.partition_hash());
        entries.push((entry.key, entry.window_start, entry.accumulator));
        Ok::<(), ()>(())
    });
    assert_eq!(result, Ok(()));
    entries
}

#[test]
fn entries_come_out_in_the_order_in_which_they_were_first_seen() {
    let mut combiner = combiner(10);
    for (key, window) in [(9, 0), (1, 0), (9, 10), (9, 0), (1, 0), (9, 0)] {
        count(&mut combiner, key, window).unwrap();
    }
    assert_eq!(combiner.len(), 3);
    assert_eq!(drained(&mut combiner), [(9, 0, 3), (1, 0, 2), (9, 10, 1)]);
    assert!(combiner.is_empty());
}

#[test]
fn a_full_combiner_takes_known_keys_only() {
    let mut combiner = combiner(2);
    count(&mut combiner, 1, 0).unwrap();
    count(&mut combiner, 2, 0).unwrap();
    assert_eq!(count(&mut combiner, 3, 0), Err(CombinerFull));
    count(&mut combiner, 1, 0).unwrap();
    assert_eq!(drained(&mut combiner), [(1, 0, 2), (2, 0, 1)]);
    count(&mut combiner, 3, 0).unwrap();
    assert_eq!(drained(&mut combiner), [(3, 0, 1)]);
}

#[test]
fn a_drain_that_fails_keeps_what_was_not_taken() {
    let mut combiner = combiner(10);
    for key in 0..5 {
        count(&mut combiner, key, 0).unwrap();
    }
    let stop_at_3 =
        |_, entry: &PartialEntry<u32, u64>| if entry.key == 3 { Err(()) } else { Ok(()) };
    assert_eq!(combiner.drain(stop_at_3), Err(()));
    count(&mut combiner, 4, 0).unwrap();
    count(&mut combiner, 0, 0).unwrap();
    assert_eq!(drained(&mut combiner), [(3, 0, 1), (4, 0, 2), (0, 0, 1)]);
}

#[test]
fn a_panic_in_an_update_leaves_the_combiner_usable() {
    let mut combiner = combiner(10);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        combiner.fold(1, 1u32.partition_hash(), 0, 0, |_| panic!("a user's bug"))
    }));
    assert!(caught.is_err());
    count(&mut combiner, 1, 0).unwrap();
    assert_eq!(drained(&mut combiner), [(1, 0, 1)]);
}

#[test]
fn memory_is_kept_between_batches() {
    let mut combiner = combiner(1000);
    (0..1000).for_each(|key| count(&mut combiner, key, 0).unwrap());
    drained(&mut combiner);
    let capacity = (combiner.slots.capacity(), combiner.index.places.len());
    (0..1000).for_each(|key| count(&mut combiner, key, 1).unwrap());
    combiner.discard();
    assert_eq!((combiner.slots.capacity(), combiner.index.places.len()), capacity);
}

proptest! {
    #[test]
    fn counts_equal_those_of_a_map(records in prop::collection::vec((0u32..50, 0u64..4), 0..500)) {
        let mut combiner = combiner(200);
        let mut expected = BTreeMap::new();
        for (key, window) in records {
            count(&mut combiner, key, window).unwrap();
            *expected.entry((key, window)).or_insert(0) += 1;
        }
        let found = drained(&mut combiner).into_iter().map(|(key, window, n)| ((key, window), n));
        prop_assert_eq!(found.collect::<BTreeMap<_, u64>>(), expected);
    }
}
