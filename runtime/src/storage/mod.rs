//! Where what outlives a process lies: the driver's journal, and the snapshots of checkpoints.
//!
//! [`Storage`] is what an implementation does, in calls that wait; [`Desk`] is the thread on which they
//! wait, so that no core and no control loop ever does. There is one implementation yet, a folder
//! ([`Folder`]); an object store that can create an object only where there is none would be the next.

mod desk;
mod folder;

use std::fmt;
use std::fs::File;
use std::path::Path;

use drizzle_scheduler::checkpoint::Snapshot;
use drizzle_scheduler::journal::{JournalEntry, JournalState};
use drizzle_scheduler::{BatchId, CoreId, StageId, Term};

pub use desk::{Desk, DeskClosed};
pub use folder::{Folder, Savepoint};

/// A journal and snapshots. All calls may wait for a disk.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Says which job this storage is for, with the fingerprint of its plan; refused where it is for
    /// another one.
    fn claim(&self, fingerprint: u64, name: &str) -> Result<(), StorageError>;

    /// The largest term that any driver ever had here; 0 where none has begun, so that the job is new.
    fn last_term(&self) -> Result<Term, StorageError>;

    /// A term for a driver that begins, larger than all before it and nobody else's. Drivers of lower
    /// terms append nothing from now on.
    fn take_term(&self) -> Result<Term, StorageError>;

    /// What the journal holds, with the last checkpoint whose manifest and snapshots are all good.
    fn read_journal(&self) -> Result<JournalRead, StorageError>;

    /// Creates an entry; it is durable when this returns. The driver's term is one that it has taken
    /// here, or one that nobody has yet: of two that come with the same one, one is deposed at once.
    fn append(&self, entry: &JournalEntry) -> Result<(), AppendError>;

    /// Makes what `core` has frozen of its partitions durable, together: one file for each call.
    fn write_snapshots(
        &self,
        core: CoreId,
        pieces: &[(Snapshot, Vec<u8>)],
    ) -> Result<(), StorageError>;

    /// A file without a name, which is gone with its process, for what need not outlive it.
    fn scratch(&self) -> Result<File, StorageError>;

    /// The bytes of these snapshots, in their order.
    fn load(&self, snapshots: &[Snapshot]) -> Result<Vec<Vec<u8>>, StorageError>;

    /// Makes a savepoint of the newest good checkpoint in a folder that holds none yet, and says of
    /// which batch it is. It stays whatever becomes of this storage; [`Savepoint`] reads it.
    fn save(&self, to: &Path, operators: &[Operator]) -> Result<BatchId, StorageError>;
}

/// By what name a savepoint knows the state of a stage. Stages are numbered anew when a job changes,
/// names are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operator {
    /// What the user calls it.
    pub name: String,
    /// Its stage in the plan that took the checkpoint.
    pub stage: StageId,
}

/// A journal as it was read.
#[derive(Debug)]
pub struct JournalRead {
    /// What it holds.
    pub state: JournalState,
    /// What a person should know, a line each: damage, and what is used instead.
    pub notices: Vec<String>,
}

/// Storage did not do what it was asked for. One sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub String);

/// Why an entry was not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A driver of that term has opened the journal, or an entry of that place is there.
    #[error("another driver has taken over{}", .0.map_or_else(String::new, |term| format!(", that of term {}", term.0)))]
    Deposed(Option<Term>),
    /// It may be tried again.
    #[error(transparent)]
    Unavailable(#[from] StorageError),
}
