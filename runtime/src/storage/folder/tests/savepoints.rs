//! A checkpoint in a folder of its own.

use std::fs;

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::{BatchId, StageId};
use expect_test::expect;

use super::{Home, append_all, core, entry, manifest, members, piece, small_run, snapshot};
use crate::storage::{Operator, Savepoint, Storage};

fn operators() -> Vec<Operator> {
    vec![Operator { name: "count by campaign".to_owned(), stage: StageId(1) }]
}

#[test]
fn a_savepoint_outlives_the_folder_that_it_was_made_of() {
    let (home, saved) = (Home::new("saved-from"), Home::new("saved-to"));
    let folder = home.open();
    folder.claim(0xabc, "ysb").unwrap();
    let entries = small_run(&folder);
    assert_eq!(folder.save(&saved.0, &operators()).unwrap(), BatchId(8));
    let Record::Manifest(newest) = &entries[6].record else { unreachable!("it is one") };
    // The job goes on, and then goes.
    let at_12 = snapshot(0, 12, None);
    folder.write_snapshots(core(0), &[piece(at_12)]).unwrap();
    append_all(&folder, &[manifest(9, 1, 12, &[at_12]), manifest(10, 1, 13, &[at_12])]);
    drop((folder, home));
    let savepoint = Savepoint::open(&saved.0).unwrap();
    assert_eq!(savepoint.job(), ("ysb", 0xabc));
    assert_eq!(savepoint.operators(), operators());
    assert_eq!(savepoint.manifest(), &**newest);
    let right: Vec<_> = newest.snapshots.iter().map(|snapshot| piece(*snapshot).1).collect();
    assert_eq!(savepoint.load(&newest.snapshots).unwrap(), right);
}

#[test]
fn a_savepoint_is_never_overwritten_and_needs_a_checkpoint() {
    let (home, saved) = (Home::new("twice-from"), Home::new("twice-to"));
    let folder = home.open();
    let refused = || {
        let error = folder.save(&saved.0, &operators()).unwrap_err().to_string();
        let error = error.replace(&saved.0.display().to_string(), "TO");
        error.replace(&home.0.display().to_string(), "FROM")
    };
    expect!["FROM does not say of which job it is"].assert_eq(&refused());
    folder.claim(0xabc, "ysb").unwrap();
    append_all(&folder, &[entry(1, 1, Record::Opened), entry(2, 1, members(&[1]))]);
    expect!["FROM has no checkpoint to save yet"].assert_eq(&refused());
    append_all(&folder, &[manifest(3, 1, 4, &[])]);
    folder.save(&saved.0, &operators()).unwrap();
    expect!["TO holds a savepoint already"].assert_eq(&refused());
}

#[test]
fn a_damaged_savepoint_is_refused() {
    let (home, saved) = (Home::new("hurt-from"), Home::new("hurt-to"));
    let folder = home.open();
    folder.claim(0xabc, "ysb").unwrap();
    small_run(&folder);
    folder.save(&saved.0, &operators()).unwrap();
    let mut files = vec![saved.path("savepoint")];
    files.extend(fs::read_dir(saved.path("snapshots")).unwrap().map(|file| file.unwrap().path()));
    assert_eq!(files.len(), 3);
    for file in files {
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            for bad in [&flipped[..], &good[..at]] {
                fs::write(&file, bad).unwrap();
                let error = Savepoint::open(&saved.0).unwrap_err().to_string();
                assert!(error.contains(&saved.0.display().to_string()), "{error}");
            }
        }
        fs::write(&file, &good).unwrap();
        Savepoint::open(&saved.0).unwrap();
    }
}

#[test]
fn a_savepoint_has_these_bytes() {
    let (home, saved) = (Home::new("bytes-from"), Home::new("bytes-to"));
    let folder = home.open();
    folder.claim(0xabc, "ysb").unwrap();
    small_run(&folder);
    folder.save(&saved.0, &operators()).unwrap();
    let text = |name: &str| {
        let bytes = fs::read(home.0.join(name)).unwrap();
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.chunks(16).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        44 7a 4a 62 01 00 bc 0a 00 00 00 00 00 00 03 00
        00 00 79 73 62 fc e2 92 40"#]]
    .assert_eq(&text("job"));
    expect![[r#"
        44 7a 53 76 01 00 bc 0a 00 00 00 00 00 00 03 00
        00 00 79 73 62 01 00 00 00 11 00 00 00 63 6f 75
        6e 74 20 62 79 20 63 61 6d 70 61 69 67 6e 01 00
        07 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
        08 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00
        02 00 00 00 01 00 00 00 00 00 04 00 00 00 00 00
        00 00 00 07 00 00 00 00 00 00 00 01 00 00 00 00
        00 08 00 00 00 00 00 00 00 01 04 00 00 00 00 00
        00 00 07 00 00 00 00 00 00 00 01 00 00 00 00 00
        03 00 00 00 08 00 00 00 00 00 00 00 5a 00 00 00
        00 00 00 00 08 00 00 00 00 00 00 00 00 93 e3 a2
        70"#]]
    .assert_eq(&text(saved.path("savepoint").to_str().unwrap()));
}
