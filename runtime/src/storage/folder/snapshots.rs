//! Snapshots as files: one for each call of a core, named by batch, incarnation, worker, core, and a
//! number that makes the name unique. Nothing is overwritten: a snapshot that is taken again after a
//! roll back is in two files, and either is good.
//!
//! Other processes write to the same folder at the same time. What is known of it is a cache: whoever
//! misses something lists the folder again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drizzle_scheduler::checkpoint::{Manifest, Snapshot};
use drizzle_scheduler::{BatchId, CoreId, Incarnation};

use super::super::StorageError;
use super::names::number;
use super::shelf::{Linked, Pen, Shelf, cannot};
use super::snapshot_file::{Piece, encode_table, read_table};

/// How much of a piece is checked at a time.
const CHECKED_AT_ONCE: usize = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Snapshots {
    shelf: Shelf,
    pen: Pen,
    known: Mutex<Known>,
}

/// Batch and incarnation, by which files are found.
type Origin = (BatchId, Incarnation);

#[derive(Debug, Default)]
struct Known {
    /// The names of the files as they were listed last.
    files: BTreeMap<Origin, BTreeSet<String>>,
    /// The tables of those that were opened. Files never change.
    tables: BTreeMap<String, Vec<Piece>>,
}

impl Snapshots {
    pub(super) fn open(path: PathBuf, word: &str) -> Result<Snapshots, StorageError> {
        let shelf = Shelf::open(path, word)?;
        Ok(Snapshots { shelf, pen: Pen::Plain, known: Mutex::default() })
    }

    /// From now on files are written so.
    pub(super) fn written_by(self, pen: Pen) -> Snapshots {
        Snapshots { pen, ..self }
    }

    /// Makes what a core has frozen durable, in one file if it is all of one batch.
    pub(super) fn write(
        &self,
        core: CoreId,
        pieces: &[(Snapshot, Vec<u8>)],
    ) -> Result<(), StorageError> {
        let mut by_origin: BTreeMap<Origin, Vec<&(Snapshot, Vec<u8>)>> = BTreeMap::new();
        for piece in pieces {
            by_origin.entry(origin(&piece.0)).or_default().push(piece);
        }
        by_origin.into_iter().try_for_each(|(origin, pieces)| self.create(origin, core, &pieces))
    }

    fn create(
        &self,
        origin: Origin,
        core: CoreId,
        pieces: &[&(Snapshot, Vec<u8>)],
    ) -> Result<(), StorageError> {
        let table = encode_table(pieces);
        let mut parts = vec![&table[..]];
        parts.extend(pieces.iter().map(|(_, bytes)| &bytes[..]));
        let draft = self.shelf.draft_by(&parts, &self.pen)?;
        let mut attempt = 0;
        loop {
            let name = file_name(origin, core, attempt);
            if draft.link(&name)? == Linked::Created {
                self.shelf.sync()?;
                self.lock().files.entry(origin).or_default().insert(name);
                return Ok(());
            }
            attempt += 1;
        }
    }

    /// The bytes of these snapshots.
    pub(super) fn load(&self, snapshots: &[Snapshot]) -> Result<Vec<Vec<u8>>, StorageError> {
        let read = |path: &Path, file: &File, piece: &Piece| {
            let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length];
            let read = file.read_exact_at(&mut bytes, piece.offset);
            read.map_err(|error| cannot("read", path, &error))?;
            let found = crc32c::crc32c(&bytes);
            if found == piece.checksum { Ok(bytes) } else { Err(is_damaged(path, piece)) }
        };
        self.each(snapshots, read)
    }

    /// Whether all snapshots of a checkpoint are there and good; and the names of their files.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<BTreeSet<String>, StorageError> {
        let check = |path: &Path, file: &File, piece: &Piece| {
            let mut buffer = vec![0; CHECKED_AT_ONCE];
            let (mut offset, end) = (piece.offset, piece.offset + piece.length);
            let mut found = 0;
            while offset < end {
                let length = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                let part = &mut buffer[..length];
                let read = file.read_exact_at(part, offset);
                read.map_err(|error| cannot("read", path, &error))?;
                found = crc32c::crc32c_append(found, part);
                offset += length as u64;
            }
            if found != piece.checksum {
                return Err(is_damaged(path, piece));
            }
            Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()))
        };
        Ok(self.each(&manifest.snapshots, check)?.into_iter().flatten().collect())
    }

    /// Gives another folder the files of these names, as they are; nothing if one was deleted meanwhile.
    pub(super) fn copy_to(
        &self,
        other: &Snapshots,
        names: &BTreeSet<String>,
    ) -> Result<Option<()>, StorageError> {
        for name in names {
            if self.shelf.share(name, &other.shelf)?.is_none() {
                return Ok(None);
            }
        }
        other.shelf.sync().map(Some)
    }

    /// The files that no manifest needs from which somebody may still start: neither the newest of
    /// these, nor the one before it.
    pub(super) fn old(&self, manifests: &[Arc<Manifest>]) -> Result<Vec<String>, StorageError> {
        let Some(newest) = manifests.last().map(|manifest| manifest.batch) else {
            return Ok(Vec::new());
        };
        let listed = manifests.iter().flat_map(|manifest| &manifest.snapshots);
        let listed: BTreeSet<&Snapshot> = listed.collect();
        let origins: BTreeSet<Origin> = listed.iter().map(|snapshot| origin(snapshot)).collect();
        let mut known = self.lock();
        known.list(&self.shelf)?;
        let mut old = Vec::new();
        for (origin, names) in known.files.clone() {
            if origin.0 > newest {
                continue;
            }
            for name in names {
                // What cannot be read now may be needed.
                let is_needed = origins.contains(&origin)
                    && known.table(&self.shelf, &name).map_or(true, |table| {
                        table.iter().any(|piece| listed.contains(&piece.snapshot))
                    });
                if !is_needed {
                    old.push(name);
                }
            }
        }
        Ok(old)
    }

    /// Deletes these files.
    pub(super) fn remove(&self, names: &[String]) -> Result<(), StorageError> {
        let mut known = self.lock();
        for name in names {
            self.shelf.remove(name)?;
            known.tables.remove(name);
        }
        known.list(&self.shelf)
    }

    /// Does something with each snapshot, in a file where that succeeds.
    fn each<T>(
        &self,
        snapshots: &[Snapshot],
        with: impl Fn(&Path, &File, &Piece) -> Result<T, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let mut is_fresh = false;
        let mut results = Vec::with_capacity(snapshots.len());
        for snapshot in snapshots {
            let mut result = self.with_any(snapshot, &with);
            if result.is_err() && !is_fresh {
                self.lock().list(&self.shelf)?;
                is_fresh = true;
                result = self.with_any(snapshot, &with);
            }
            results.push(result?);
        }
        Ok(results)
    }

    fn with_any<T>(
        &self,
        snapshot: &Snapshot,
        with: &impl Fn(&Path, &File, &Piece) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut failure = None;
        let (places, mut failures) = self.lock().places(&self.shelf, snapshot);
        for (name, piece) in places {
            let path = self.shelf.path_of(&name);
            let file = File::open(&path).map_err(|error| cannot("open", &path, &error));
            match file.and_then(|file| with(&path, &file, &piece)) {
                Ok(result) => return Ok(result),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.or(failures.pop()).unwrap_or_else(|| {
            let Snapshot { stage, partition, batch, since: _, incarnation } = snapshot;
            let path = self.shelf.path().display();
            StorageError(format!(
                "{path} has no snapshot of {stage} {partition} at {batch} by {incarnation}"
            ))
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn list(&mut self, shelf: &Shelf) -> Result<(), StorageError> {
        let names = shelf.names()?;
        self.files.clear();
        for name in names {
            if let Some(origin) = read_file_name(&name) {
                self.files.entry(origin).or_default().insert(name);
            }
        }
        let files = &self.files;
        self.tables.retain(|name, _| {
            read_file_name(name)
                .is_some_and(|origin| files.get(&origin).is_some_and(|names| names.contains(name)))
        });
        Ok(())
    }

    /// The files that hold a snapshot, and what is wrong with those that might hold it.
    fn places(
        &mut self,
        shelf: &Shelf,
        snapshot: &Snapshot,
    ) -> (Vec<(String, Piece)>, Vec<StorageError>) {
        let names = self.files.get(&origin(snapshot)).cloned().unwrap_or_default();
        let mut places = Vec::new();
        let mut failures = Vec::new();
        for name in names {
            match self.table(shelf, &name) {
                Ok(table) => {
                    let piece = table.iter().find(|piece| piece.snapshot == *snapshot);
                    places.extend(piece.map(|piece| (name.clone(), *piece)));
                }
                Err(error) => failures.push(error),
            }
        }
        (places, failures)
    }

    fn table(&mut self, shelf: &Shelf, name: &str) -> Result<&[Piece], StorageError> {
        if !self.tables.contains_key(name) {
            let path = shelf.path_of(name);
            let table = File::open(&path).and_then(|file| read_table(&file));
            let table = table.map_err(|error| cannot("read", &path, &error))?;
            let path = path.display();
            let table =
                table.map_err(|reason| StorageError(format!("{path} is damaged: {reason}")))?;
            self.tables.insert(name.to_owned(), table);
        }
        Ok(&self.tables[name])
    }
}

fn origin(snapshot: &Snapshot) -> Origin {
    (snapshot.batch, snapshot.incarnation)
}

fn is_damaged(path: &Path, piece: &Piece) -> StorageError {
    let Snapshot { stage, partition, batch, .. } = piece.snapshot;
    let path = path.display();
    StorageError(format!("{path} is damaged in its snapshot of {stage} {partition} at {batch}"))
}

fn file_name(origin: Origin, core: CoreId, attempt: u64) -> String {
    let ((batch, incarnation), worker) = (origin, core.worker.0);
    format!("{:020}-{}-{worker}.{}-{attempt}.snap", batch.0, incarnation.0, core.core)
}

fn read_file_name(name: &str) -> Option<Origin> {
    let mut parts = name.strip_suffix(".snap")?.split('-');
    let batch = number(parts.next()?)?;
    let incarnation = parts.next()?.parse().ok()?;
    Some((BatchId(batch), Incarnation(incarnation)))
}
