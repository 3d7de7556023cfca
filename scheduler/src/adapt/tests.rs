//! Tests of what blocks hold.

use proptest::prelude::*;

use super::*;

/// A combiner that leaves so many of a hundred records.
fn leaves(percent: u64) -> Combined {
    Combined { records_in: 1_000, records_out: 10 * percent }
}

const NOTHING: Combined = Combined { records_in: 0, records_out: 0 };

fn content(adapter: &Adapter) -> Content {
    adapter.contents()[0]
}

/// What one edge holds in each of so many groups of which the combiner leaves so much, observed one
/// group late, as with two in flight.
fn one_late(adapter: &mut Adapter, percent: u64, groups: usize) -> Vec<Content> {
    let mut contents = vec![content(adapter)];
    for _ in 1..groups {
        let now = content(adapter);
        let done = contents.last().copied().unwrap_or(now);
        contents.push(now);
        adapter.observe(&[if done == Content::Partial { leaves(percent) } else { NOTHING }]);
    }
    contents
}

#[test]
fn an_edge_starts_with_partial_aggregates_and_keeps_them_while_they_pay() {
    let mut adapter = Adapter::new(1);
    for percent in [0, 1, 50, 89, 90] {
        adapter.observe(&[leaves(percent)]);
        assert_eq!(content(&adapter), Content::Partial, "{percent}");
    }
    adapter.observe(&[leaves(91)]);
    assert_eq!(content(&adapter), Content::Raw);
}

#[test]
fn a_group_without_records_changes_nothing() {
    let mut adapter = Adapter::new(1);
    adapter.observe(&[NOTHING]);
    adapter.observe(&[]);
    assert_eq!(content(&adapter), Content::Partial);
}

#[test]
fn an_edge_with_raw_records_is_probed_every_sixteen_groups() {
    let mut adapter = Adapter::new(1);
    adapter.observe(&[leaves(100)]);
    let mut contents = Vec::new();
    for _ in 0..50 {
        contents.push(content(&adapter));
        let probed = contents.last() == Some(&Content::Partial);
        adapter.observe(&[if probed { leaves(100) } else { NOTHING }]);
    }
    let probes = contents.iter().enumerate().filter(|(_, content)| **content == Content::Partial);
    assert_eq!(probes.map(|(group, _)| group).collect::<Vec<_>>(), [16, 32, 48]);
}

#[test]
fn a_probe_counts_whenever_its_answer_comes() {
    for late in 0..20 {
        let mut adapter = Adapter::new(1);
        adapter.observe(&[leaves(100)]);
        (0..16).for_each(|_| adapter.observe(&[NOTHING]));
        assert_eq!(content(&adapter), Content::Partial);
        (0..late).for_each(|_| adapter.observe(&[NOTHING]));
        adapter.observe(&[leaves(50)]);
        assert_eq!(content(&adapter), Content::Partial, "{late} groups late");
    }
}

#[test]
fn to_return_takes_more_than_to_stay() {
    let mut adapter = Adapter::new(1);
    adapter.observe(&[leaves(91)]);
    for percent in [90, 86] {
        adapter.observe(&[leaves(percent)]);
        assert_eq!(content(&adapter), Content::Raw, "{percent}");
    }
    adapter.observe(&[leaves(85)]);
    assert_eq!(content(&adapter), Content::Partial);
    adapter.observe(&[leaves(90)]);
    assert_eq!(content(&adapter), Content::Partial);
}

#[test]
fn each_edge_has_its_own_choice() {
    let mut adapter = Adapter::new(3);
    adapter.observe(&[leaves(10), leaves(100)]);
    let expected = [Content::Partial, Content::Raw, Content::Partial];
    assert_eq!(*adapter.contents(), expected);
    assert_eq!(*Adapter::new(0).contents(), []);
}

#[test]
fn counts_near_the_end_of_the_range_do_not_overflow() {
    let mut adapter = Adapter::new(1);
    adapter.observe(&[Combined { records_in: u64::MAX, records_out: u64::MAX }]);
    assert_eq!(content(&adapter), Content::Raw);
    adapter.observe(&[Combined { records_in: u64::MAX, records_out: u64::MAX / 2 }]);
    assert_eq!(content(&adapter), Content::Partial);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_steady_input_gets_what_suits_it_but_for_probes(
        before in prop::collection::vec(0..=100_u64, 0..40),
        percent in 0..=100_u64,
    ) {
        prop_assume!(!(86..=90).contains(&percent)); // Between the two bounds both are right.
        let mut adapter = Adapter::new(1);
        before.into_iter().for_each(|percent| adapter.observe(&[leaves(percent)]));
        one_late(&mut adapter, percent, 20);
        let contents = one_late(&mut adapter, percent, 160);
        let partial = contents.iter().filter(|content| **content == Content::Partial).count();
        if percent <= 85 {
            prop_assert_eq!(partial, 160);
        } else {
            prop_assert!((9..=11).contains(&partial), "{} of 160", partial);
        }
    }

    #[test]
    fn an_edge_at_the_boundary_does_not_flap(
        percents in prop::collection::vec(86..=94_u64, 200),
    ) {
        let mut adapter = Adapter::new(1);
        let mut changes = 0;
        for percent in percents {
            let now = content(&adapter);
            let combined = if now == Content::Partial { leaves(percent) } else { NOTHING };
            adapter.observe(&[combined]);
            changes += u32::from(content(&adapter) != now);
        }
        // It leaves once; every probe after that is two changes.
        prop_assert!(changes <= 1 + 2 * 200 / 16, "{} changes", changes);
    }
}
