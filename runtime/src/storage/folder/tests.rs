//! A folder of files as storage: what comes back, what does not, and who may write.

mod basics;
mod crashes;
mod damage;
mod full_disk;
mod model;
mod racing;
mod savepoints;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::message::{SourceRange, TakenRange};
use drizzle_scheduler::{
    BatchId, CoreId, Incarnation, Life, OrderNumber, PartitionId, Sequence, StageId, Term,
    Watermark, WorkerId,
};

use super::Folder;
use crate::storage::{AppendError, Storage};

/// A folder that is not there at first and gone at the end.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let path = std::env::temp_dir().join(format!("drizzle-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        Home(path)
    }
    fn open(&self) -> Folder {
        Folder::open(&self.0).unwrap()
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// The names in one of its folders, in order, with what is left of numbers without zeros.
    fn names(&self, folder: &str) -> String {
        let short = |name: String| {
            let digits = name.split(['.', '-']).filter(|part| part.len() == 20);
            digits.fold(name.clone(), |name, digits| {
                let short = digits.trim_start_matches('0');
                name.replacen(digits, if short.is_empty() { "0" } else { short }, 1)
            })
        };
        names(&self.path(folder)).into_iter().map(short).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn entry(sequence: u64, term: u64, record: Record) -> JournalEntry {
    JournalEntry { sequence: Sequence(sequence), term: Term(term), record }
}

fn life(worker: u32, incarnation: u64) -> Life {
    Life { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
}

fn members(numbers: &[u32]) -> Record {
    Record::Members(numbers.iter().map(|&n| (life(n, 7 + u64::from(n)), 2)).collect())
}

fn ranges(batches: impl IntoIterator<Item = u64>) -> Record {
    Record::Ranges(batches.into_iter().map(taken).collect())
}

fn taken(batch: u64) -> TakenRange {
    let (stage, partition) = (StageId(0), PartitionId(3));
    let range = SourceRange { stage, partition, from: 10 * batch, to: 10 * batch + 10 };
    TakenRange { batch: BatchId(batch), range, ended: false, watermark: Watermark(batch) }
}

fn snapshot(partition: u32, batch: u64, since: Option<u64>) -> Snapshot {
    Snapshot {
        stage: StageId(1),
        partition: PartitionId(partition),
        batch: BatchId(batch),
        since: since.map(BatchId),
        incarnation: Incarnation(7),
    }
}

/// The bytes that tests write for a snapshot.
fn piece(snapshot: Snapshot) -> (Snapshot, Vec<u8>) {
    let Snapshot { partition, batch, .. } = snapshot;
    (snapshot, format!("state of {partition} at {batch}").into_bytes())
}

fn core(number: u16) -> CoreId {
    CoreId { worker: WorkerId(2), core: number }
}

fn manifest(sequence: u64, term: u64, batch: u64, snapshots: &[Snapshot]) -> JournalEntry {
    let position = SourcePosition {
        stage: StageId(0),
        partition: PartitionId(3),
        after: BatchId(batch),
        offset: 10 * batch + 10,
        watermark: Watermark(batch),
        ended: false,
    };
    let manifest = Manifest {
        sequence: Sequence(sequence),
        term: Term(term),
        batch: BatchId(batch),
        number: OrderNumber(sequence + 1),
        snapshots: snapshots.to_vec(),
        positions: vec![position],
    };
    entry(sequence, term, Record::Manifest(Arc::new(manifest)))
}

fn append_all(folder: &Folder, entries: &[JournalEntry]) {
    entries.iter().for_each(|entry| folder.append(entry).unwrap());
}

/// A driver of term 1 with two checkpoints, of batches 4 and 8, and ranges up to batch 10.
fn small_run(folder: &Folder) -> Vec<JournalEntry> {
    let (at_4, at_8) = (snapshot(0, 4, None), snapshot(0, 8, Some(4)));
    folder.write_snapshots(core(0), &[piece(at_4)]).unwrap();
    folder.write_snapshots(core(0), &[piece(at_8)]).unwrap();
    let entries = vec![
        entry(1, 1, Record::Opened),
        entry(2, 1, members(&[2, 3])),
        entry(3, 1, ranges(1..=4)),
        manifest(4, 1, 4, &[at_4]),
        entry(5, 1, Record::Fenced(vec![life(3, 10)])),
        entry(6, 1, ranges(5..=8)),
        manifest(7, 1, 8, &[at_4, at_8]),
        entry(8, 1, ranges(9..=10)),
    ];
    append_all(folder, &entries);
    entries
}

/// By whom an append was deposed.
fn deposed_by(result: Result<(), AppendError>) -> Option<u64> {
    match result {
        Err(AppendError::Deposed(by)) => by.map(|term| term.0),
        other => panic!("not deposed: {other:?}"),
    }
}
