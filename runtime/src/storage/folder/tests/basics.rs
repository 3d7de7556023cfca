//! What was written is read, by others too; and what is obsolete goes.

use std::collections::BTreeSet;
use std::fs;

use drizzle_scheduler::journal::{JournalState, Record};
use drizzle_scheduler::{BatchId, Sequence, Term};
use expect_test::expect;

use super::{
    Home, append_all, core, entry, life, manifest, members, names, piece, ranges, small_run,
    snapshot, taken,
};
use crate::storage::Storage;

#[test]
fn a_new_folder_holds_no_journal() {
    let home = Home::new("new");
    let folder = home.open();
    assert_eq!(folder.last_term().unwrap(), Term(0));
    let read = folder.read_journal().unwrap();
    assert_eq!((read.state, read.notices.len()), (JournalState::EMPTY, 0));
}

#[test]
fn what_a_driver_wrote_its_successor_reads() {
    let home = Home::new("successor");
    small_run(&home.open());
    let successor = home.open();
    assert_eq!(successor.last_term().unwrap(), Term(1));
    let read = successor.read_journal().unwrap();
    assert_eq!(read.notices, Vec::<String>::new());
    let state = read.state;
    assert_eq!((state.next, state.term, state.end), (Sequence(9), Term(1), None));
    assert_eq!(state.members, [(life(2, 9), 2), (life(3, 10), 2)]);
    assert_eq!(state.fenced, BTreeSet::from([life(3, 10)]));
    assert_eq!(state.ranges, (5..=10).map(taken).collect::<Vec<_>>());
    let batches: Vec<_> = state.manifests.iter().map(|manifest| manifest.batch.0).collect();
    assert_eq!(batches, [4, 8]);
    let bytes = successor.load(&state.manifests[1].snapshots).unwrap();
    assert_eq!(bytes, [b"state of partition 0 at batch 4", b"state of partition 0 at batch 8"]);
}

#[test]
fn the_same_entry_again_is_no_second_one() {
    let home = Home::new("again");
    let folder = home.open();
    let entries = small_run(&folder);
    let before = home.names("journal");
    append_all(&folder, &entries[4..]);
    append_all(&folder, &entries[..1]);
    assert_eq!(home.names("journal"), before);
    assert_eq!(folder.read_journal().unwrap().state.next, Sequence(9));
}

#[test]
fn what_two_manifests_made_obsolete_goes() {
    let home = Home::new("obsolete");
    let folder = home.open();
    small_run(&folder);
    expect![
        "1.entry 1.opened 2.entry 2.members 4.entry 4.manifest-4 5.entry 5.fenced 6.entry \
         6.ranges-8 7.entry 7.manifest-8 8.entry 8.ranges-10"
    ]
    .assert_eq(&home.names("journal"));
    // A checkpoint that holds everything, a second file of it, one that came to nothing, and one that
    // is in the making.
    let at_12 = snapshot(0, 12, None);
    for snapshot in [at_12, at_12, snapshot(1, 11, None), snapshot(0, 13, None)] {
        folder.write_snapshots(core(0), &[piece(snapshot)]).unwrap();
    }
    append_all(&folder, &[entry(9, 1, Record::End(BatchId(20))), manifest(10, 1, 12, &[at_12])]);
    expect![
        "1.entry 1.opened 10.entry 10.manifest-12 2.entry 2.members 5.entry 5.fenced 7.entry \
         7.manifest-8 8.entry 8.ranges-10 9.end 9.entry"
    ]
    .assert_eq(&sorted(&home.names("journal")));
    expect!["12-7-2.0-0.snap 12-7-2.0-1.snap 13-7-2.0-0.snap 4-7-2.0-0.snap 8-7-2.0-0.snap"]
        .assert_eq(&sorted(&home.names("snapshots")));
    let state = home.open().read_journal().unwrap().state;
    assert_eq!((state.next, state.end), (Sequence(11), Some(BatchId(20))));
    assert_eq!(state.ranges, (9..=10).map(taken).collect::<Vec<_>>());
    assert_eq!(state.members.len(), 2);
}

fn sorted(names: &str) -> String {
    names.split(' ').collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn another_job_is_refused_with_the_names_of_both() {
    let home = Home::new("job");
    home.open().claim(0xabc, "ysb").unwrap();
    home.open().claim(0xabc, "ysb").unwrap();
    let refused = |fingerprint, name| {
        let error = home.open().claim(fingerprint, name).unwrap_err().to_string();
        error.replace(&home.0.display().to_string(), "HOME")
    };
    expect![[r#"HOME belongs to the job "ysb" with the plan 0000000000000abc, and this is the job "sum" with the plan 0000000000000def"#]].assert_eq(&refused(0xdef, "sum"));
    expect![[r#"HOME belongs to the job "ysb" with the plan 0000000000000abc, and this is the job "ysb" with the plan 0000000000000def"#]].assert_eq(&refused(0xdef, "ysb"));
}

#[test]
fn obsolete_files_go_though_the_process_did_not_read_the_journal() {
    let home = Home::new("unread");
    let folder = home.open();
    append_all(&folder, &[entry(1, 1, Record::Opened), entry(2, 1, ranges(1..=2))]);
    let other = home.open();
    append_all(&other, &[entry(3, 2, Record::Opened), entry(4, 2, members(&[1]))]);
    append_all(&other, &[manifest(5, 2, 2, &[]), manifest(6, 2, 3, &[])]);
    expect![
        "1.entry 1.opened 3.entry 3.opened 4.entry 4.members 5.entry 5.manifest-2 6.entry \
         6.manifest-3"
    ]
    .assert_eq(&home.names("journal"));
}

#[test]
fn a_file_that_another_process_wrote_is_found() {
    let home = Home::new("others");
    let (one, other) = (home.open(), home.open());
    let (first, second) = (snapshot(0, 4, None), snapshot(1, 4, None));
    one.write_snapshots(core(0), &[piece(first)]).unwrap();
    assert_eq!(other.load(&[first]).unwrap(), [piece(first).1]);
    one.write_snapshots(core(1), &[piece(second)]).unwrap();
    assert_eq!(other.load(&[second, first]).unwrap(), [piece(second).1, piece(first).1]);
}

#[test]
fn a_missing_snapshot_is_named() {
    let home = Home::new("missing");
    let error = home.open().load(&[snapshot(5, 4, None)]).unwrap_err().to_string();
    let error = error.replace(&home.0.display().to_string(), "HOME");
    expect!["HOME/snapshots has no snapshot of stage 1 partition 5 at batch 4 by incarnation 7"]
        .assert_eq(&error);
}

#[test]
fn empty_pieces_and_no_pieces_are_fine() {
    let home = Home::new("empty");
    let folder = home.open();
    folder.write_snapshots(core(0), &[]).unwrap();
    assert_eq!(home.names("snapshots"), "");
    let (one, two) = (snapshot(0, 4, None), snapshot(1, 4, Some(2)));
    folder.write_snapshots(core(0), &[(one, Vec::new()), (two, vec![9])]).unwrap();
    assert_eq!(folder.load(&[two, one]).unwrap(), [vec![9], Vec::new()]);
}

#[test]
fn files_of_others_are_left_alone() {
    let home = Home::new("strange");
    small_run(&home.open());
    for name in ["journal/README", "journal/9.entry", "snapshots/x.snap", "terms/one"] {
        fs::write(home.path(name), "mine").unwrap();
    }
    let folder = home.open();
    let read = folder.read_journal().unwrap();
    assert_eq!((read.state.next, read.notices.len()), (Sequence(9), 0));
    append_all(&folder, &[entry(9, 2, Record::Opened), manifest(10, 2, 11, &[])]);
    append_all(&folder, &[manifest(11, 2, 12, &[])]);
    assert!(names(&home.path("journal")).contains("9.entry"));
    assert!(names(&home.path("snapshots")).contains("x.snap"));
    assert_eq!(folder.last_term().unwrap(), Term(2));
}

#[test]
fn a_snapshot_file_has_these_bytes() {
    let home = Home::new("golden");
    let folder = home.open();
    let pieces = [(snapshot(258, 4, None), vec![1, 2]), (snapshot(3, 4, Some(2)), vec![3])];
    folder.write_snapshots(core(1), &pieces).unwrap();
    let name = "snapshots/00000000000000000004-7-2.1-0.snap";
    let bytes = fs::read(home.path(name)).unwrap();
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
    expect![[r#"
        44 7a 53 6e 01 00 02 00 00 00 01 00 02 01 00 00
        04 00 00 00 00 00 00 00 00 07 00 00 00 00 00 00
        00 02 00 00 00 00 00 00 00 52 9f f8 03 01 00 03
        00 00 00 04 00 00 00 00 00 00 00 01 02 00 00 00
        00 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00
        00 00 00 00 a5 a0 2d 41 81 be de 30 01 02 03"#]]
    .assert_eq(&lines.join("\n"));
}
