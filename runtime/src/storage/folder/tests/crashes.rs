//! What processes leave that end between two steps.

use std::fs;

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::{Sequence, Term};

use super::{
    Home, append_all, core, entry, manifest, members, names, piece, ranges, small_run, snapshot,
    taken,
};
use crate::storage::Storage;
use crate::storage::folder::names::{Kind, label_name, place_name};
use crate::storage::folder::shelf::{Linked, Shelf};

#[test]
fn temporary_files_of_the_dead_go_and_those_of_the_living_stay() {
    let home = Home::new("temporary");
    small_run(&home.open());
    let before = names(&home.path("journal"));
    let (dead, living) = ("0123456789abcdef".repeat(2), "fedcba9876543210".repeat(2));
    let (dead, mine) = (format!("{dead}-3.tmp"), "mine-3.tmp");
    for folder in ["journal", "terms", "snapshots", ""] {
        fs::write(home.path(folder).join(&dead), "half an ent").unwrap();
        fs::write(home.path(folder).join(mine), "a user's").unwrap();
    }
    let shelf = Shelf::open(home.path("journal"), &living).unwrap();
    let draft = shelf.draft(&[b"whole", b" entry"]).unwrap();
    home.open();
    let left = names(&home.path("journal"));
    let making = format!("{living}-0.tmp");
    assert_eq!(left.difference(&before).collect::<Vec<_>>(), [&making, mine]);
    for folder in ["terms", "snapshots", ""] {
        assert!(!names(&home.path(folder)).contains(&dead));
        assert!(names(&home.path(folder)).contains(mine));
    }
    assert_eq!(draft.link("x").unwrap(), Linked::Created);
    drop(draft);
    assert_eq!(fs::read(home.path("journal/x")).unwrap(), b"whole entry");
    assert!(!names(&home.path("journal")).contains(&making));
}

#[test]
fn a_term_without_entries_costs_a_number() {
    let home = Home::new("term-only");
    append_all(&home.open(), &[entry(1, 1, Record::Opened)]);
    assert_eq!(home.open().take_term().unwrap(), Term(2));
    let folder = home.open();
    assert_eq!(folder.last_term().unwrap(), Term(2));
    assert_eq!(folder.take_term().unwrap(), Term(3));
    let state = folder.read_journal().unwrap().state;
    assert_eq!((state.next, state.term), (Sequence(2), Term(2)));
    append_all(&folder, &[entry(2, 3, Record::Opened)]);
}

#[test]
fn a_driver_that_ends_between_any_two_steps_of_its_first_entry_is_succeeded() {
    for steps in 0..=4 {
        let home = Home::new(&format!("steps-{steps}"));
        small_run(&home.open());
        let dying = home.open();
        let opened = entry(9, 2, Record::Opened);
        let done: [&dyn Fn(); 4] = [
            &|| dying.journal.claim(Term(2)).unwrap(),
            &|| dying.journal.front(Sequence(9)).unwrap(),
            &|| dying.journal.place(&opened).unwrap(),
            &|| dying.journal.confirm(Term(2)).unwrap(),
        ];
        done.iter().take(steps).for_each(|step| step());
        let successor = home.open();
        let term = successor.take_term().unwrap();
        assert_eq!(term, Term(if steps == 0 { 2 } else { 3 }));
        let state = successor.read_journal().unwrap().state;
        assert_eq!(state.next, Sequence(if steps < 3 { 9 } else { 10 }));
        let next = state.next.0;
        append_all(&successor, &[entry(next, term.0, Record::Opened)]);
        append_all(&successor, &[entry(next + 1, term.0, ranges([11]))]);
        let read = home.open().read_journal().unwrap();
        assert_eq!(read.state.ranges, (5..=11).map(taken).collect::<Vec<_>>());
        assert_eq!(read.notices, Vec::<String>::new());
    }
}

#[test]
fn an_entry_that_nobody_was_told_of_counts_and_gets_its_label_when_it_is_repeated() {
    let home = Home::new("untold");
    let folder = home.open();
    small_run(&folder);
    let untold = entry(9, 1, ranges([11]));
    folder.journal.place(&untold).unwrap();
    let label = label_name(Sequence(9), Kind::of(&untold.record));
    fs::remove_file(home.path("journal").join(&label)).unwrap();
    let state = home.open().read_journal().unwrap().state;
    assert_eq!((state.next, state.ranges.last().unwrap().batch.0), (Sequence(10), 11));
    folder.append(&untold).unwrap();
    assert!(names(&home.path("journal")).contains(&label));
}

#[test]
fn what_was_not_deleted_in_time_is_deleted_later() {
    let home = Home::new("later");
    let folder = home.open();
    small_run(&folder);
    // The driver ends after its manifest is there and before anything is deleted; and, with the label of
    // one old entry gone, in the middle of that.
    let second = snapshot(0, 10, None);
    folder.write_snapshots(core(0), &[piece(second)]).unwrap();
    folder.journal.place(&manifest(9, 1, 10, &[second])).unwrap();
    let label = label_name(Sequence(4), Kind::Manifest(drizzle_scheduler::BatchId(4)));
    fs::remove_file(home.path("journal").join(label)).unwrap();
    let successor = home.open();
    let state = successor.read_journal().unwrap().state;
    assert_eq!(state.manifests.len(), 2);
    append_all(&successor, &[entry(10, 2, Record::Opened), manifest(11, 2, 12, &[second])]);
    let left = names(&home.path("journal"));
    for gone in [3, 4, 6, 7] {
        assert!(!left.contains(&place_name(Sequence(gone))), "{gone}");
    }
    assert_eq!(home.names("snapshots"), "10-7-2.0-0.snap");
    assert_eq!(home.open().read_journal().unwrap().notices, Vec::<String>::new());
}

#[test]
fn a_folder_whose_terms_are_gone_is_refused() {
    let home = Home::new("no-terms");
    let folder = home.open();
    append_all(&folder, &[entry(1, 1, Record::Opened), entry(2, 1, members(&[1]))]);
    fs::remove_dir_all(home.path("terms")).unwrap();
    let error = home.open().take_term().unwrap_err().to_string();
    assert!(error.ends_with("has entries, but the files of its terms are gone"), "{error}");
}
