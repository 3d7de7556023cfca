//! Savepoints: a checkpoint in a folder of its own, for a later job that may be another version.
//!
//! The folder holds the files of the checkpoint's snapshots, which it shares with the job's folder where
//! the file system can, and `savepoint`, which is created last:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `DzSv` |
//! | 4..6 | version | [`VERSION`] |
//! | 6.. | job | the fingerprint of its plan (8) and its name |
//! | .. | operators | their number (4); for each its name and its stage (2) |
//! | .. | manifest | as in an entry of the journal |
//! | the last 4 | checksum | CRC-32C of everything before it |
//!
//! All numbers are little-endian; a name is its length, four bytes, and the text.

use std::fs;
use std::path::Path;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot};
use drizzle_scheduler::{BatchId, StageId};

use super::super::{Operator, StorageError};
use super::job::{Job, checked};
use super::shelf::{Linked, Shelf, cannot};
use super::snapshots::Snapshots;
use super::{Folder, word};
use crate::wire::codec::{MAX_TEXT, Reader, Writer};
use crate::wire::{DecodeError, read_manifest, write_manifest};

const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"DzSv";
/// The name of the file.
const NAME: &str = "savepoint";
/// The most operators: stages have 16 bits.
const MAX_OPERATORS: usize = 1 << 16;
const LEAST_OPERATOR_LEN: usize = 4 + 2;
/// So often a checkpoint is looked for anew because a newer one made it obsolete meanwhile.
const ATTEMPTS: usize = 16;

/// A savepoint that was read; all its snapshots are good.
#[derive(Debug)]
pub struct Savepoint {
    job: Job,
    operators: Vec<Operator>,
    manifest: Manifest,
    snapshots: Snapshots,
}

impl Savepoint {
    /// Reads the savepoint in a folder, and checks the bytes of all its snapshots.
    pub fn open(path: &Path) -> Result<Savepoint, StorageError> {
        let file = path.join(NAME);
        let bytes = fs::read(&file).map_err(|error| cannot("read", &file, &error))?;
        let (job, operators, manifest) = decode(&bytes)
            .map_err(|reason| StorageError(format!("{} is damaged: {reason}", file.display())))?;
        let snapshots = Snapshots::open(path.join("snapshots"), &word()?)?;
        snapshots.check(&manifest)?;
        Ok(Savepoint { job, operators, manifest, snapshots })
    }

    /// The name of the job that it was made of, and the fingerprint of its plan.
    pub fn job(&self) -> (&str, u64) {
        (&self.job.name, self.job.fingerprint)
    }

    /// The operators with state, by name.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The checkpoint.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bytes of these snapshots, in their order.
    pub fn load(&self, snapshots: &[Snapshot]) -> Result<Vec<Vec<u8>>, StorageError> {
        self.snapshots.load(snapshots)
    }
}

/// Makes a savepoint of the newest good checkpoint of a folder.
pub(super) fn save(
    folder: &Folder,
    to: &Path,
    operators: &[Operator],
) -> Result<BatchId, StorageError> {
    let path = folder.root.path().display();
    let job = Job::find(&folder.root)?
        .ok_or_else(|| StorageError(format!("{path} does not say of which job it is")))?;
    let word = word()?;
    let shelf = Shelf::open(to.to_owned(), &word)?;
    let snapshots = Snapshots::open(to.join("snapshots"), &word)?;
    for _ in 0..ATTEMPTS {
        let state = folder.journal.look(&folder.snapshots)?.state;
        let Some(manifest) = state.manifests.last() else {
            return Err(StorageError(format!("{path} has no checkpoint to save yet")));
        };
        // It may be obsolete, and gone, before its files are shared.
        let Ok(names) = folder.snapshots.check(manifest) else { continue };
        if folder.snapshots.copy_to(&snapshots, &names)?.is_none() {
            continue;
        }
        snapshots.check(manifest)?;
        let bytes = encode(&job, operators, manifest);
        return match shelf.create(NAME, &[&bytes])? {
            Linked::Created => Ok(manifest.batch),
            Linked::Taken => {
                Err(StorageError(format!("{} holds a savepoint already", to.display())))
            }
        };
    }
    Err(StorageError(format!("the checkpoints of {path} are obsolete before they can be saved")))
}

fn encode(job: &Job, operators: &[Operator], manifest: &Manifest) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let mut writer = Writer::new(&mut out);
    writer.u16(VERSION);
    job.write(&mut writer);
    writer.list(operators, MAX_OPERATORS, |writer, Operator { name, stage }| {
        writer.text(name);
        writer.u16(stage.0);
    });
    write_manifest(&mut writer, manifest);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Result<(Job, Vec<Operator>, Manifest), String> {
    let mut reader = checked(bytes, MAGIC, VERSION)?;
    let content = read(&mut reader).map_err(|error| error.to_string())?;
    reader.end("a savepoint").map_err(|error| error.to_string())?;
    Ok(content)
}

fn read(reader: &mut Reader<'_>) -> Result<(Job, Vec<Operator>, Manifest), DecodeError> {
    let job = Job::read(reader)?;
    let what = "a list of operators";
    let operators = reader.list(what, MAX_OPERATORS, LEAST_OPERATOR_LEN, |reader| {
        let name = reader.text("the name of an operator", MAX_TEXT)?;
        Ok(Operator { name, stage: StageId(reader.u16("the stage of an operator")?) })
    })?;
    Ok((job, operators, read_manifest(reader)?))
}
