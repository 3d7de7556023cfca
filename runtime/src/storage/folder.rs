//! A folder as storage.

use std::path::PathBuf;

use drizzle_scheduler::CoreId;
use drizzle_scheduler::checkpoint::Snapshot;
use drizzle_scheduler::journal::JournalEntry;

use super::{AppendError, JournalRead, Storage, StorageError};

/// Journal and snapshots as files.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, and creates it where there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Folder, StorageError> {
        Ok(Folder { path: path.into() })
    }
}

impl Storage for Folder {
    fn read_journal(&self) -> Result<JournalRead, StorageError> {
        Err(StorageError(format!("{} cannot be read yet", self.path.display())))
    }

    fn append(&self, _entry: &JournalEntry) -> Result<(), AppendError> {
        Err(StorageError(format!("{} cannot be written yet", self.path.display())).into())
    }

    fn write_snapshots(
        &self,
        _core: CoreId,
        _pieces: &[(Snapshot, Vec<u8>)],
    ) -> Result<(), StorageError> {
        Err(StorageError(format!("{} cannot be written yet", self.path.display())))
    }

    fn load(&self, _snapshots: &[Snapshot]) -> Result<Vec<Vec<u8>>, StorageError> {
        Err(StorageError(format!("{} cannot be read yet", self.path.display())))
    }
}
