//! Tests of the parts; whole runs are in `apps/tests/it`.

use drizzle::scheduler::plan::Pacing;
use drizzle::shuffle::{PartitionKey, partition_of};

use super::flags::Stages;
use super::job::keys;
use super::numbers::Numbers;
use super::oracle::expected;
use super::tally::{Summed, Tally};

const NUMBERS: Numbers =
    Numbers { tasks: 3, batches: 5, count: 100, parts: 4, pacing: Pacing::Unpaced };

#[test]
fn every_reducer_has_a_key_of_its_own() {
    for reducers in [1, 7, 16, 64] {
        let keys = keys(reducers);
        let led_to = keys.iter().map(|key| partition_of(key.partition_hash(), reducers).0);
        assert_eq!(led_to.collect::<Vec<_>>(), (0..reducers).collect::<Vec<_>>());
    }
}

#[test]
fn a_tally_depends_on_every_row_and_on_no_order() {
    let row = |key, offset, sum| Summed { key, offset, sum };
    let tally = |rows: &[Summed]| {
        let mut tally = Tally::default();
        rows.iter().for_each(|row| tally.add(row));
        tally
    };
    let (first, second) = (row(1, 2, 3), row(2, 1, 3));
    assert_eq!(tally(&[first, second]), tally(&[second, first]));
    let mut halves = tally(&[first]);
    halves.merge(&tally(&[second]));
    assert_eq!(halves, tally(&[first, second]));
    for other in
        [vec![first], vec![first, first], vec![first, row(2, 1, 4)], vec![first, second, second]]
    {
        assert_ne!(tally(&other), tally(&[first, second]), "{other:?}");
    }
}

#[test]
fn the_oracle_takes_each_task_as_far_as_it_was_taken() {
    let keys = keys(4);
    let all = expected(&NUMBERS, Stages::One, &[], &[5, 5, 5]);
    assert_eq!(all.rows, 15);
    let two = expected(&NUMBERS, Stages::Two, &keys, &[5, 5, 5]);
    assert_eq!((two.rows, two.sum), (20, all.sum), "both sum the same numbers");
    let fewer = expected(&NUMBERS, Stages::One, &[], &[5, 0, 2]);
    assert_eq!(fewer.rows, 7);
    let fewer = expected(&NUMBERS, Stages::Two, &keys, &[5, 0, 2]);
    assert_eq!(fewer.rows, 20, "a reducer has a sum of every offset that some task took");
}
