//! Several drivers at one folder: whatever the order of their steps, no two believe an append, and
//! whoever takes over knows all that was ever believed.

use std::collections::BTreeSet;

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::{Sequence, Term};

use super::{Home, append_all, deposed_by, entry, manifest, members, ranges, taken};
use crate::storage::folder::Folder;
use crate::storage::{AppendError, Storage};

fn next(folder: &Folder) -> u64 {
    folder.read_journal().unwrap().state.next.0
}

#[test]
fn of_two_drivers_that_have_read_the_same_one_is_deposed() {
    for (first, second) in [(1, 2), (2, 1)] {
        let home = Home::new(&format!("alike-{first}"));
        let (one, other) = (home.open(), home.open());
        assert_eq!((next(&one), next(&other)), (1, 1));
        one.append(&entry(1, first, Record::Opened)).unwrap();
        let by = deposed_by(other.append(&entry(1, second, Record::Opened)));
        assert_eq!(by, Some(first).filter(|first| *first > second));
        if second > first {
            // Its second attempt deposes the other, which notices with its next entry.
            assert_eq!(next(&other), 2);
            other.append(&entry(2, second, Record::Opened)).unwrap();
            assert_eq!(deposed_by(one.append(&entry(2, first, members(&[1])))), Some(second));
            other.append(&entry(3, second, members(&[1]))).unwrap();
        }
    }
}

#[test]
fn a_term_has_one_driver() {
    let home = Home::new("one-term");
    let (one, other) = (home.open(), home.open());
    one.append(&entry(1, 1, Record::Opened)).unwrap();
    // The very same bytes, but not the very same driver.
    assert_eq!(deposed_by(other.append(&entry(1, 1, Record::Opened))), Some(1));
    one.append(&entry(1, 1, Record::Opened)).unwrap();
    assert_eq!((one.take_term().unwrap(), other.take_term().unwrap()), (Term(2), Term(3)));
    assert_eq!(home.open().last_term().unwrap(), Term(3));
}

#[test]
fn whoever_takes_a_term_deposes_those_before() {
    let home = Home::new("take");
    let (one, other) = (home.open(), home.open());
    let term = one.take_term().unwrap().0;
    append_all(&one, &[entry(1, term, Record::Opened), entry(2, term, ranges([1]))]);
    let later = other.take_term().unwrap().0;
    assert_eq!(deposed_by(one.append(&entry(3, term, ranges([2])))), Some(later));
    // It was placed, so it counts: the successor has read it, or will find its number taken.
    assert_eq!(other.read_journal().unwrap().state.ranges, [taken(1), taken(2)]);
    assert_eq!(one.read_journal().unwrap().state.term, Term(later));
    append_all(&other, &[entry(4, later, Record::Opened)]);
}

#[test]
fn a_stale_driver_does_not_believe_what_it_puts_into_a_gap() {
    let home = Home::new("gap");
    let (stale, living) = (home.open(), home.open());
    append_all(&stale, &[entry(1, 1, Record::Opened), entry(2, 1, members(&[1]))]);
    // The answer to this one is lost.
    let lost = entry(3, 1, ranges([1]));
    stale.journal.place(&lost).unwrap();
    assert_eq!(next(&living), 4);
    append_all(&living, &[entry(4, 2, Record::Opened), entry(5, 2, ranges([2]))]);
    append_all(&living, &[manifest(6, 2, 2, &[]), manifest(7, 2, 3, &[])]);
    assert_eq!(home.names("journal").matches("ranges").count(), 0);
    let before = home.open().read_journal().unwrap();
    assert_eq!(deposed_by(stale.append(&lost)), Some(2));
    assert_eq!(home.names("journal").matches("ranges").count(), 1);
    // Nor what no driver would do: to go on with a number that it has not got to.
    assert_eq!(deposed_by(stale.append(&entry(5, 1, members(&[9])))), Some(2));
    let after = home.open().read_journal().unwrap();
    assert_eq!(after.state, before.state);
    assert_eq!(after.notices.len(), 1, "{:?}", after.notices);
    // What it left goes with the next manifests, once somebody has read it.
    let last = home.open();
    assert_eq!(next(&last), 8);
    append_all(&last, &[entry(8, 3, Record::Opened), manifest(9, 3, 4, &[])]);
    append_all(&last, &[manifest(10, 3, 5, &[])]);
    assert_eq!(home.names("journal").matches("ranges").count(), 0);
    assert_eq!(home.open().read_journal().unwrap().notices, Vec::<String>::new());
}

#[test]
fn a_new_driver_does_not_open_the_journal_in_a_gap() {
    let home = Home::new("open-gap");
    let (living, slow) = (home.open(), home.open());
    append_all(&living, &[entry(1, 1, Record::Opened), entry(2, 1, members(&[1]))]);
    assert_eq!(next(&slow), 3);
    append_all(&living, &[entry(3, 1, ranges([1])), manifest(4, 1, 1, &[])]);
    append_all(&living, &[manifest(5, 1, 2, &[])]);
    assert_eq!(home.names("journal").matches("3.entry").count(), 0);
    assert_eq!(deposed_by(slow.append(&entry(3, 2, Record::Opened))), None);
    assert_eq!(home.names("journal").matches("3.entry").count(), 0);
    assert_eq!(next(&slow), 6);
    append_all(&slow, &[entry(6, 2, Record::Opened)]);
    assert_eq!(deposed_by(living.append(&entry(6, 1, ranges([3])))), Some(2));
}

/// What two drivers do, step by step: the old one goes on, and the new one opens the journal.
struct Race {
    old: Folder,
    new: Folder,
    old_step: usize,
    new_step: usize,
    /// What the old one believes it has written.
    believed: BTreeSet<u64>,
    is_deposed: bool,
    read_first: bool,
    known: Option<(u64, BTreeSet<u64>)>,
    outcome: Option<Result<(), AppendError>>,
}

const OLD_STEPS: usize = 4;
const NEW_STEPS: usize = 5;

impl Race {
    /// The batch of a range is the number of its entry.
    fn step_of_old(&mut self) {
        let sequence = 3 + self.old_step as u64 / 2;
        let is_placed = self.old_step % 2 == 1;
        self.old_step += 1;
        if self.is_deposed {
            return;
        }
        let entry = entry(sequence, 1, ranges([sequence]));
        match is_placed {
            false => self.is_deposed = self.old.journal.place(&entry).is_err(),
            true if self.old.append(&entry).is_ok() => drop(self.believed.insert(sequence)),
            true => self.is_deposed = true,
        }
    }

    fn step_of_new(&mut self) {
        let step = self.new_step;
        self.new_step += 1;
        let (term, journal) = (Term(2), &self.new.journal);
        match (step, self.read_first) {
            (0, true) | (1, false) => {
                let state = self.new.read_journal().unwrap().state;
                let known = state.ranges.iter().map(|taken| taken.batch.0).collect();
                self.known = Some((state.next.0, known));
            }
            (0, false) | (1, true) => journal.claim(term).unwrap(),
            _ if self.outcome.is_some() => {}
            _ => {
                let sequence = self.known.as_ref().map_or(0, |known| known.0);
                let outcome = match step {
                    2 => journal.front(Sequence(sequence)),
                    3 => journal.place(&entry(sequence, 2, Record::Opened)),
                    _ => journal.confirm(term),
                };
                if outcome.is_err() || step + 1 == NEW_STEPS {
                    self.outcome = Some(outcome);
                }
            }
        }
    }
}

#[test]
fn in_every_order_of_steps_the_new_driver_knows_what_the_old_one_believes() {
    let all = OLD_STEPS + NEW_STEPS;
    let orders = (0_u32..1 << all).filter(|order| order.count_ones() as usize == OLD_STEPS);
    let mut opened = 0;
    for (order, read_first) in orders.flat_map(|order| [(order, false), (order, true)]) {
        let home = Home::new(&format!("order-{order}-{read_first}"));
        let (old, new) = (home.open(), home.open());
        append_all(&old, &[entry(1, 1, Record::Opened), entry(2, 1, members(&[1]))]);
        let mut race = Race {
            old,
            new,
            old_step: 0,
            new_step: 0,
            believed: BTreeSet::new(),
            is_deposed: false,
            read_first,
            known: None,
            outcome: None,
        };
        for at in 0..all {
            if order >> at & 1 == 1 { race.step_of_old() } else { race.step_of_new() }
        }
        let (next, known) = race.known.as_ref().unwrap();
        let context = format!("order {order:b}, read first {read_first}");
        if let Some(Ok(())) = &race.outcome {
            opened += 1;
            assert!(race.believed.is_subset(known), "{context}");
            let state = home.open().read_journal().unwrap().state;
            // What it knew is what anybody reads, and the old one writes no more.
            let read: BTreeSet<u64> = state.ranges.iter().map(|taken| taken.batch.0).collect();
            assert_eq!((&read, state.next.0), (known, next + 1), "{context}");
            let late = race.old.append(&entry(3 + race.believed.len() as u64, 1, ranges([9])));
            assert!(late.is_err(), "{context}");
        } else {
            // The second attempt of the new one always comes through: the old one is deposed.
            let again = race.new.read_journal().unwrap().state;
            let read: BTreeSet<u64> = again.ranges.iter().map(|taken| taken.batch.0).collect();
            assert!(race.believed.is_subset(&read), "{context}");
            race.new.append(&entry(again.next.0, 2, Record::Opened)).unwrap();
        }
    }
    assert!((50..200).contains(&opened), "{opened} of 252 first attempts came through");
}
