//! Every byte of every file flipped, every file cut short at every length, every file missing: what is
//! read is right, or nothing is read. Never a panic, never a wrong state.

use std::fs;
use std::path::Path;

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::{BatchId, Sequence};
use expect_test::expect;

use super::{
    Home, append_all, core, entry, life, manifest, names, piece, ranges, small_run, snapshot, taken,
};
use crate::storage::Storage;

/// What a reader makes of the small run after damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It goes on from that checkpoint.
    Uses(u64),
    Refuses,
}

/// Reads the folder as a new process does, and checks that all is right that it says.
fn outcome(home: &Home) -> Outcome {
    let folder = home.open();
    let read = match folder.read_journal() {
        Ok(read) => read,
        Err(error) => {
            is_a_sentence(home, &error.to_string());
            return Outcome::Refuses;
        }
    };
    let state = read.state;
    assert!(!read.notices.is_empty(), "damage was not noticed");
    read.notices.iter().for_each(|notice| is_a_sentence(home, notice));
    let used = state.manifests.last().expect("a checkpoint").clone();
    assert_eq!(state.next, Sequence(9));
    assert_eq!(state.members, [(life(2, 9), 2), (life(3, 10), 2)]);
    assert!(state.fenced.contains(&life(3, 10)));
    let needed = |batch| batch > used.batch;
    let ranges: Vec<_> = state.ranges.iter().filter(|taken| needed(taken.batch)).collect();
    let expected: Vec<_> = (used.batch.0 + 1..=10).map(taken).collect();
    assert_eq!(ranges, expected.iter().collect::<Vec<_>>());
    let bytes = folder.load(&used.snapshots).unwrap();
    let right: Vec<_> = used.snapshots.iter().map(|snapshot| piece(*snapshot).1).collect();
    assert_eq!(bytes, right);
    Outcome::Uses(used.batch.0)
}

fn is_a_sentence(home: &Home, text: &str) {
    assert!(text.contains(&home.0.display().to_string()), "{text}");
    assert!(!text.contains('\n') && text.len() < 600, "{text}");
}

/// Damages a file in every way in turn, and says what becomes of each.
fn outcomes(home: &Home, path: &Path) -> Vec<Outcome> {
    let good = fs::read(path).unwrap();
    let mut outcomes = Vec::new();
    let mut try_bytes = |bytes: &[u8]| {
        fs::write(path, bytes).unwrap();
        outcomes.push(outcome(home));
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        try_bytes(&bytes);
        try_bytes(&good[..at]);
    }
    try_bytes(&[&good[..], &[0]].concat());
    fs::write(path, &good).unwrap();
    outcomes
}

fn run(name: &str) -> Home {
    let home = Home::new(name);
    small_run(&home.open());
    home
}

#[test]
fn a_damaged_entry_never_leads_to_a_wrong_state() {
    let home = run("flips");
    let by_entry = [
        (1, Outcome::Refuses),
        (2, Outcome::Refuses),
        (4, Outcome::Uses(8)),
        (5, Outcome::Refuses),
        (6, Outcome::Uses(8)),
        (7, Outcome::Uses(4)),
        (8, Outcome::Refuses),
    ];
    for (sequence, expected) in by_entry {
        let outcomes = outcomes(&home, &home.path(&format!("journal/{sequence:020}.entry")));
        assert!(outcomes.iter().all(|outcome| *outcome == expected), "{sequence}: {outcomes:?}");
    }
}

#[test]
fn a_damaged_snapshot_file_never_leads_to_a_wrong_state() {
    let home = run("pieces");
    for (batch, expected) in [(4, Outcome::Refuses), (8, Outcome::Uses(4))] {
        let path = home.path(&format!("snapshots/{batch:020}-7-2.0-0.snap"));
        let outcomes = outcomes(&home, &path);
        assert!(outcomes.iter().all(|outcome| *outcome == expected), "{batch}: {outcomes:?}");
    }
}

#[test]
fn a_missing_file_never_leads_to_a_wrong_state() {
    let home = run("gone");
    let mut said = Vec::new();
    for folder in ["journal", "snapshots"] {
        for name in names(&home.path(folder)) {
            let path = home.path(folder).join(&name);
            let is_label = folder == "journal" && !name.ends_with(".entry");
            let is_first_manifest = name.starts_with("00000000000000000004.");
            // Labels are needed only for damage, and nobody needs the older of two manifests.
            if is_label || is_first_manifest {
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            said.push(format!("{} {:?}", name.trim_start_matches('0'), outcome(&home)));
            fs::write(&path, bytes).unwrap();
        }
    }
    expect![[r#"
        1.entry Refuses
        2.entry Refuses
        5.entry Refuses
        6.entry Refuses
        7.entry Refuses
        8.entry Refuses
        4-7-2.0-0.snap Refuses
        8-7-2.0-0.snap Uses(4)"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn damage_is_told_in_sentences() {
    let tell = |name: &str, files: &[&str]| {
        let home = run(name);
        for file in files {
            fs::write(home.path(file), "damage").unwrap();
        }
        let text = match home.open().read_journal() {
            Ok(read) => read.notices.join("\n"),
            Err(error) => error.to_string(),
        };
        text.replace(&home.0.display().to_string(), "HOME")
    };
    let newest = "journal/00000000000000000007.entry";
    expect![[r#"the checkpoint in HOME/journal/00000000000000000007.entry (it is damaged: not an entry of a journal: it begins with "dama") cannot be used: that of batch 4 is used instead"#]].assert_eq(&tell("tell-1", &[newest]));
    expect!["the checkpoint in HOME/journal/00000000000000000007.entry (HOME/snapshots/00000000000000000008-7-2.0-0.snap is damaged: it has 6 bytes only) cannot be used: that of batch 4 is used instead"].assert_eq(&tell("tell-2", &["snapshots/00000000000000000008-7-2.0-0.snap"]));
    expect![[r#"HOME/journal/00000000000000000006.entry, which holds ranges of batches up to 8, is damaged (not an entry of a journal: it begins with "dama"): the checkpoint of batch 8 is used instead, which includes them"#]].assert_eq(&tell("tell-3", &["journal/00000000000000000006.entry"]));
    expect![[r#"HOME/journal/00000000000000000008.entry, which holds ranges of batches up to 10, is damaged (not an entry of a journal: it begins with "dama"), and no checkpoint that can be used includes them"#]].assert_eq(&tell("tell-4", &["journal/00000000000000000008.entry"]));
    expect![[r#"HOME/journal/00000000000000000002.entry, which says who are workers, is damaged (not an entry of a journal: it begins with "dama"), and the job cannot go on without it"#]].assert_eq(&tell("tell-5", &["journal/00000000000000000002.entry"]));
    expect![[r#"no checkpoint is left to go on from: not the checkpoint in HOME/journal/00000000000000000007.entry (it is damaged: not an entry of a journal: it begins with "dama") and the checkpoint in HOME/journal/00000000000000000004.entry (it is damaged: not an entry of a journal: it begins with "dama")"#]].assert_eq(&tell("tell-6", &[newest, "journal/00000000000000000004.entry"]));
    expect!["no checkpoint is left to go on from: not the checkpoint in HOME/journal/00000000000000000007.entry (HOME/snapshots/00000000000000000004-7-2.0-0.snap is damaged: it has 6 bytes only) and the checkpoint in HOME/journal/00000000000000000004.entry (HOME/snapshots/00000000000000000004-7-2.0-0.snap is damaged: it has 6 bytes only)"].assert_eq(&tell("tell-7", &["snapshots/00000000000000000004-7-2.0-0.snap"]));
}

#[test]
fn a_snapshot_that_is_in_two_files_is_read_from_the_good_one() {
    let home = Home::new("twice");
    let folder = home.open();
    let snapshot = snapshot(0, 4, None);
    for _ in 0..2 {
        folder.write_snapshots(core(0), &[piece(snapshot)]).unwrap();
    }
    for number in 0..2 {
        let path = home.path(&format!("snapshots/00000000000000000004-7-2.0-{number}.snap"));
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(home.open().load(&[snapshot]).unwrap(), [piece(snapshot).1]);
            // Also by a process that knows the file as it was.
            assert_eq!(folder.load(&[snapshot]).unwrap(), [piece(snapshot).1]);
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn an_entry_under_the_number_of_another_is_damaged() {
    let home = run("copied");
    let copied = home.path("journal/00000000000000000006.entry");
    fs::copy(home.path("journal/00000000000000000008.entry"), copied).unwrap();
    assert_eq!(outcome(&home), Outcome::Uses(8));
}

#[test]
fn what_a_damaged_checkpoint_was_replaced_by_is_kept_until_there_are_two_good_ones() {
    let home = run("kept");
    fs::write(home.path("journal/00000000000000000007.entry"), "").unwrap();
    let folder = home.open();
    folder.read_journal().unwrap();
    let next = snapshot(0, 12, None);
    folder.write_snapshots(core(0), &[piece(next)]).unwrap();
    append_all(
        &folder,
        &[entry(9, 2, Record::Opened), entry(10, 2, ranges(11..=12)), manifest(11, 2, 12, &[next])],
    );
    fs::write(home.path("journal/00000000000000000011.entry"), "").unwrap();
    let read = home.open().read_journal().unwrap();
    let used = read.state.manifests.last().unwrap();
    assert_eq!(used.batch, BatchId(4));
    assert_eq!(home.open().load(&used.snapshots).unwrap(), [piece(snapshot(0, 4, None)).1]);
    assert_eq!(read.state.ranges, (5..=12).map(taken).collect::<Vec<_>>());
}
