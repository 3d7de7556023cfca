//! Tests of what a snapshot builds on.

use proptest::prelude::*;

use super::build_on;
use crate::ids::BatchId;

/// A state: for each of its entries the batch that changed it last.
struct Entries(Vec<BatchId>);

impl Entries {
    fn changed(&self, since: Option<BatchId>) -> u64 {
        self.0.iter().filter(|&&batch| since.is_none_or(|since| batch > since)).count() as u64
    }
}

/// Checkpoints of a state, each a batch after the one before: how many entries each snapshot held, and the
/// longest chain.
fn run(entries: usize, changes: impl Fn(u64) -> Vec<usize>, batches: u64) -> (Vec<u64>, usize) {
    let mut state = Entries(vec![BatchId(1); entries]);
    let mut chain: Vec<BatchId> = Vec::new();
    let (mut sizes, mut longest) = (Vec::new(), 0);
    for batch in (1..=batches).map(BatchId) {
        changes(batch.0).into_iter().for_each(|entry| state.0[entry] = batch);
        let since = build_on(&chain, |since| state.changed(since));
        sizes.push(state.changed(since));
        chain.retain(|&link| since.is_some_and(|since| link <= since));
        chain.push(batch);
        longest = longest.max(chain.len());
    }
    (sizes, longest)
}

#[test]
fn a_small_state_is_always_whole_and_has_one_link() {
    let (sizes, longest) = run(4, |_| (0..4).collect(), 100);
    assert_eq!((sizes, longest), (vec![4; 100], 1));
}

#[test]
fn nothing_kept_is_whole() {
    assert_eq!(build_on(&[BatchId(3)], |_| 0), None);
}

#[test]
fn a_large_state_of_which_little_changes_is_copied_once() {
    let (sizes, longest) = run(10_000, |batch| vec![batch as usize % 10], 1_000);
    assert_eq!(sizes[0], 10_000);
    assert!(sizes[1..].iter().all(|&size| size <= 10), "{sizes:?}");
    assert!(longest <= 5, "{longest}");
}

#[test]
fn a_state_that_changes_everywhere_is_copied_seldom_and_its_chain_is_short() {
    let entries = 4_096;
    let (sizes, longest) = run(entries, |batch| vec![(batch as usize * 97) % entries], 4_096);
    // Each change is copied about log2 times.
    assert!(sizes.iter().sum::<u64>() < 15 * entries as u64, "{}", sizes.iter().sum::<u64>());
    assert!(longest <= 14, "{longest}");
}

proptest! {
    #[test]
    fn links_double_and_are_part_of_the_chain(
        links in prop::collection::vec(1u64..1_000_000, 0..20),
        newest in 0u64..1_000,
    ) {
        // Of each link what only it and older ones have.
        let chain: Vec<BatchId> = (1..=links.len() as u64).map(BatchId).collect();
        let changed = |since: Option<BatchId>| {
            let kept = since.map_or(0, |since| since.0 as usize);
            newest + links[kept..].iter().sum::<u64>()
        };
        let since = build_on(&chain, changed);
        prop_assert!(since.is_none_or(|since| chain.contains(&since)));
        if let Some(since) = since {
            let last = links[since.0 as usize - 1];
            prop_assert!(last > changed(Some(since)));
        }
    }
}
