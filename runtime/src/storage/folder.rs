//! A folder as storage. Several processes use it at the same time, and there is no lock on it.
//!
//! | path | holds |
//! |---|---|
//! | `job` | the name of the job and the fingerprint of its plan |
//! | `terms/<term>` | who began that term; never deleted |
//! | `journal/<sequence>.entry` | an entry of the journal (`wire::journal`), created by its number |
//! | `journal/<sequence>.<kind>` | the same file once more, under a name that says what it is |
//! | `snapshots/<batch>-<incarnation>-<worker>.<core>-<n>.snap` | what a core has frozen at a batch |
//! | `*.tmp`, in each of them | a file in the making, or what a dead process left of one |
//!
//! A savepoint is a folder of its own with `savepoint`, `snapshots/`, and nothing else.
//!
//! Sequences, terms and batches have 20 digits. Everything that is created is written and made durable
//! under a temporary name, and then linked to its own; nothing is overwritten. Files that are none
//! of these are left alone.

mod job;
mod journal;
mod names;
mod reading;
mod savepoint;
mod shelf;
mod snapshot_file;
mod snapshots;
mod terms;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use drizzle_scheduler::checkpoint::Snapshot;
use drizzle_scheduler::journal::JournalEntry;
use drizzle_scheduler::{BatchId, CoreId, Term};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::host::DirectFiles;

use super::{AppendError, JournalRead, Operator, Storage, StorageError};
use job::Job;
use journal::Journal;
pub use savepoint::Savepoint;
use shelf::{Pen, Shelf, WRITER_LEN};
use snapshots::Snapshots;

/// Journal and snapshots as files.
#[derive(Debug)]
pub struct Folder {
    root: Shelf,
    journal: Journal,
    snapshots: Snapshots,
}

impl Folder {
    /// Opens the folder, and creates it where there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Folder, StorageError> {
        let path = path.into();
        let word = word()?;
        Ok(Folder {
            root: Shelf::open(path.clone(), &word)?,
            journal: Journal::open(path.join("journal"), path.join("terms"), &word)?,
            snapshots: Snapshots::open(path.join("snapshots"), &word)?,
        })
    }
}

impl Folder {
    /// The same, with snapshots written by direct IO.
    pub fn with_direct_files(self, files: DirectFiles) -> Folder {
        Folder { snapshots: self.snapshots.written_by(Pen::Direct(files)), ..self }
    }
}

/// A word that nobody else has.
fn word() -> Result<String, StorageError> {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty());
    if filled != Ok(bytes.len()) {
        return Err(StorageError("the system has no random numbers".to_owned()));
    }
    Ok(format!("{:0WRITER_LEN$x}", u128::from_le_bytes(bytes)))
}

impl Storage for Folder {
    fn claim(&self, fingerprint: u64, name: &str) -> Result<(), StorageError> {
        Job { fingerprint, name: name.to_owned() }.claim(&self.root)
    }

    fn last_term(&self) -> Result<Term, StorageError> {
        self.journal.last_term()
    }

    fn take_term(&self) -> Result<Term, StorageError> {
        self.journal.take_term()
    }

    fn read_journal(&self) -> Result<JournalRead, StorageError> {
        self.journal.read(&self.snapshots)
    }

    fn append(&self, entry: &JournalEntry) -> Result<(), AppendError> {
        self.journal.append(entry, &self.snapshots)
    }

    fn write_snapshots(
        &self,
        core: CoreId,
        pieces: &[(Snapshot, Vec<u8>)],
    ) -> Result<(), StorageError> {
        self.snapshots.write(core, pieces)
    }

    fn scratch(&self) -> Result<File, StorageError> {
        self.root.scratch()
    }

    fn load(&self, snapshots: &[Snapshot]) -> Result<Vec<Vec<u8>>, StorageError> {
        self.snapshots.load(snapshots)
    }

    fn save(&self, to: &Path, operators: &[Operator]) -> Result<BatchId, StorageError> {
        savepoint::save(self, to, operators)
    }
}
