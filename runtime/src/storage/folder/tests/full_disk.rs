//! A disk that is full: what cannot be written is refused, nothing half-written is ever read, and the
//! same entry can be appended once there is room.
//!
//! The disk is a small file system in memory that only a process of its own sees. That needs root: the
//! test starts itself once more by `unshare`, and says so where that cannot be done.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use drizzle_scheduler::checkpoint::Snapshot;
use drizzle_scheduler::journal::JournalEntry;
use expect_test::expect;

use super::{Home, core, entry, manifest, members, ranges, small_run, snapshot};
use crate::storage::folder::Folder;
use crate::storage::{AppendError, Storage};

/// Where the small disk is to be mounted, for the process that sees it.
const PLACE: &str = "DRIZZLE_TEST_SMALL_DISK";
const NAME: &str = "storage::folder::tests::full_disk::what_does_not_fit_is_refused_and_fits_later";
const PAGE: u64 = 4096;

#[test]
fn what_does_not_fit_is_refused_and_fits_later() {
    if let Some(place) = std::env::var_os(PLACE) {
        on_a_small_disk(&PathBuf::from(place));
        return;
    }
    let home = Home::new("small-disk");
    fs::create_dir_all(&home.0).unwrap();
    let able = Command::new("unshare").args(["--mount", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a file system of its own can be mounted by root only");
        return;
    }
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(PLACE, &home.0)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn on_a_small_disk(place: &Path) {
    let options = "size=256k,nr_inodes=200";
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place);
    assert!(mount.status().unwrap().success());
    let home = place.join("job");
    let folder = Folder::open(&home).unwrap();
    small_run(&folder);
    folder.read_journal().unwrap();
    let disk = Disk(place.to_owned());
    refuses_to_begin(&disk);
    // For every number of pages and of names that may be free.
    let mut refused = 0;
    let mut next = 9;
    for (pages, names) in (0..4).map(|pages| (pages, 100)).chain((0..6).map(|names| (4, names))) {
        let records = [ranges([next]), members(&[next as u32])];
        for record in records {
            refused += appends(&disk, &home, &folder, &entry(next, 1, record), pages, names);
            next += 1;
        }
        let snapshot = snapshot(0, next, None);
        refused += freezes(&disk, &folder, snapshot, pages, names);
        refused +=
            appends(&disk, &home, &folder, &manifest(next, 1, next, &[snapshot]), pages, names);
        next += 1;
    }
    assert!((15..35).contains(&refused), "{refused} of 40 were refused");
}

/// A disk, and how it is filled.
struct Disk(PathBuf);

impl Disk {
    /// Leaves so many pages, and so many names of files.
    fn fill(&self, pages: u64, names: usize) {
        for number in 0..names {
            fs::write(self.0.join(format!("name-{number}")), "").unwrap();
        }
        let mut filler = File::create(self.0.join("filler")).unwrap();
        let mut number = names;
        while fs::write(self.0.join(format!("name-{number}")), "").is_ok() {
            number += 1;
        }
        (0..names).for_each(|n| fs::remove_file(self.0.join(format!("name-{n}"))).unwrap());
        while filler.write_all(&[1; PAGE as usize]).is_ok() {}
        let length = filler.metadata().unwrap().len() / PAGE * PAGE;
        filler.set_len(length.saturating_sub(pages * PAGE)).unwrap();
    }

    fn free(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn refuses_to_begin(disk: &Disk) {
    disk.fill(0, 0);
    let error = Folder::open(disk.0.join("other")).unwrap_err().to_string();
    let error = error.replace(&disk.0.display().to_string(), "DISK");
    expect!["cannot create the folder DISK/other: No space left on device (os error 28)"]
        .assert_eq(&error);
    disk.free();
}

fn appends(
    disk: &Disk,
    home: &Path,
    folder: &Folder,
    entry: &JournalEntry,
    pages: u64,
    names: usize,
) -> usize {
    let before = Folder::open(home).unwrap().read_journal().unwrap();
    disk.fill(pages, names);
    let result = folder.append(entry);
    let read = Folder::open(home).unwrap().read_journal().unwrap();
    assert_eq!(read.notices, Vec::<String>::new());
    match &result {
        Ok(()) => {}
        Err(AppendError::Unavailable(_)) => {
            // The entry is there, or it is not there.
            assert!([before.state.next, entry.sequence.next()].contains(&read.state.next));
        }
        Err(error) => panic!("{error}"),
    }
    let temporary = |path: &Path| path.extension().is_some_and(|end| end == "tmp");
    let mut files = fs::read_dir(home.join("journal")).unwrap();
    assert!(!files.any(|file| temporary(&file.unwrap().path())));
    disk.free();
    folder.append(entry).unwrap();
    assert_eq!(
        Folder::open(home).unwrap().read_journal().unwrap().state.next,
        entry.sequence.next()
    );
    usize::from(result.is_err())
}

fn freezes(disk: &Disk, folder: &Folder, snapshot: Snapshot, pages: u64, names: usize) -> usize {
    let pieces = [(snapshot, vec![7; 2 * PAGE as usize])];
    disk.fill(pages, names);
    let result = folder.write_snapshots(core(0), &pieces);
    assert_eq!(folder.load(&[snapshot]).is_ok(), result.is_ok());
    disk.free();
    if result.is_err() {
        folder.write_snapshots(core(0), &pieces).unwrap();
    }
    assert_eq!(folder.load(&[snapshot]).unwrap(), [pieces[0].1.clone()]);
    usize::from(result.is_err())
}
