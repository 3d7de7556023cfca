//! The journal: one file for each entry, created by its number.
//!
//! # Why two drivers never both believe an append
//!
//! A driver of term t believes an append when [`Journal::append`] returns `Ok`. That takes these steps:
//!
//! 1. *Claim* (once a term): `terms/<t>` is created, durably; a term has one writer.
//! 2. *Front* (until the first append of the term is believed): no entry has a higher number.
//! 3. *Place*: the bytes, durable under a temporary name, are linked to the entry's number; this fails
//!    where the number is taken by other bytes. Then the folder is made durable.
//! 4. *Confirm*: a fresh listing shows no term above t.
//!
//! Each step that fails ends the append, and nothing that was placed is ever taken away for it: another
//! driver may have read it, and counts on it.
//!
//! Let D of term t have read the journal and chosen the next number, as every driver does, and let D'
//! of a larger term t' believe its first entry, at number n'. Then D' knows every entry e that D ever
//! believed, and D believes none after that:
//!
//! * D confirmed e before `terms/<t'>` was there, so e was placed before it, and D' listed the
//!   entries in its step 2 after it. So e's number is below n', the next number that D' had read. The
//!   entry before n' was placed by D after e, or by a driver that knew e, so e was there before it;
//!   and a reader lists until two listings end alike, so that the second has all that was placed
//!   before the last of the first. So D' has read e, unless it was deleted because it was obsolete.
//! * From the creation of `terms/<t'>` on, D confirms nothing. It may place one more entry, at the number
//!   f after its last believed one. If D' has read that, n' is f + 1 at least, and the entry is one
//!   that D wrote and never heard of, as after a lost answer: it counts. If D' has not, n' is f, and one of
//!   the two finds the number taken.
//!
//! Deletion leaves gaps, and a stale driver that is late may place an entry in one. It does not confirm
//! it. What such an entry says does no harm: the first foreign entry after D's last believed one is an
//! `Opened`, those are never deleted, and it stands at f, or at f + 1 if f held D's own entry. In
//! the first case there is no gap at f. In the second D places again what was there, what others
//! have read, and what is obsolete, since it was deleted. And an entry below a larger term's `Opened`
//! with a higher number, if it is an `Opened` itself, changes the meaning of nothing between them,
//! since step 2 kept it from standing among entries of a living term. A reader leaves out any entry
//! whose term is lower than that of an `Opened` before it.
//!
//! A crash between any two steps leaves a temporary file, which is removed when the folder is next opened,
//! or a term without entries, which costs a number, or an entry that nobody was told of, which
//! counts. Bytes are durable before they have a number, so there is no torn entry: one
//! that cannot be read is damaged.
//!
//! # What is deleted
//!
//! When a manifest is believed: before the second newest good manifest, older manifests, and ranges of
//! batches up to that one's. The entry with the highest number is never among them, so `next` never
//! falls. All other entries stay: they are as many as lives of drivers and workers. From the second
//! newest manifest on there are no gaps, so that a reader notices when a file is missing.
//!
//! The file system must create hard links, and show a name to all hosts once it is linked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::{Sequence, Term};

use super::super::{AppendError, JournalRead, StorageError};
use super::names::{Kind, label_name, place_name, read_label, read_place};
use super::reading::{EntryFile, Index, digest, is_passing};
use super::shelf::{Linked, Shelf, cannot};
use super::snapshots::Snapshots;
use super::terms::Terms;
use crate::wire::{decode_entry, encode_entry};

/// A file that is longer is not an entry; lists in entries are limited.
const MAX_ENTRY_BYTES: u64 = 256 << 20;
/// So often at most a journal is read again because it changed meanwhile.
const READ_ATTEMPTS: usize = 100;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Journal {
    shelf: Shelf,
    terms: Terms,
    known: Mutex<Known>,
}

/// What this writer knows without looking.
#[derive(Debug, Default)]
struct Known {
    /// The term whose first append was believed.
    opened: Option<Term>,
    /// What the folder holds that may be deleted; nothing until it was read.
    index: Option<Index>,
}

impl Journal {
    pub(super) fn open(
        journal: PathBuf,
        terms: PathBuf,
        word: &str,
    ) -> Result<Journal, StorageError> {
        Ok(Journal {
            shelf: Shelf::open(journal, word)?,
            terms: Terms::open(terms, word)?,
            known: Mutex::default(),
        })
    }

    /// The largest term of all; 0 where no driver has ever begun.
    pub(super) fn last_term(&self) -> Result<Term, StorageError> {
        let (largest, _) = self.terms.largest()?;
        if largest == Term(0) && !self.places()?.is_empty() {
            let path = self.shelf.path().display();
            return Err(StorageError(format!(
                "{path} has entries, but the files of its terms are gone"
            )));
        }
        Ok(largest)
    }

    /// A term that nobody else has; those of lower ones append nothing more.
    pub(super) fn take_term(&self) -> Result<Term, StorageError> {
        self.last_term()?;
        self.terms.take()
    }

    /// All entries; and that of the newest checkpoint the snapshots are good.
    pub(super) fn read(&self, snapshots: &Snapshots) -> Result<JournalRead, StorageError> {
        let mut known = self.lock();
        let (read, index) = self.read_all(snapshots)?;
        known.index = Some(index);
        Ok(read)
    }

    /// What a reader finds who does not write.
    pub(super) fn look(&self, snapshots: &Snapshots) -> Result<JournalRead, StorageError> {
        Ok(self.read_all(snapshots)?.0)
    }

    /// Creates an entry, and deletes what it makes obsolete.
    pub(super) fn append(
        &self,
        entry: &JournalEntry,
        snapshots: &Snapshots,
    ) -> Result<(), AppendError> {
        let mut known = self.lock();
        self.claim(entry.term)?;
        if known.opened != Some(entry.term) {
            self.front(entry.sequence)?;
        }
        self.place(entry)?;
        self.confirm(entry.term)?;
        known.opened = Some(entry.term);
        let kind = Kind::of(&entry.record);
        if let Some(index) = &mut known.index
            && is_passing(kind)
        {
            index.passing.insert(entry.sequence, kind);
        }
        if let Record::Manifest(manifest) = &entry.record {
            if let Some(index) = &mut known.index
                && index.manifests.last().is_none_or(|last| last.sequence < manifest.sequence)
            {
                index.manifests.push(manifest.clone());
            }
            // The entry is durable all the same; what is left is deleted after the next manifest.
            drop(self.delete_old(&mut known, entry.term, snapshots));
        }
        Ok(())
    }

    pub(super) fn claim(&self, term: Term) -> Result<(), AppendError> {
        self.terms.claim(term)
    }

    /// The first entry of a term is the last one of the journal.
    pub(super) fn front(&self, sequence: Sequence) -> Result<(), AppendError> {
        let last = self.places()?.last().copied();
        if last.is_some_and(|last| last > sequence) {
            return Err(AppendError::Deposed(None));
        }
        Ok(())
    }

    /// Links the entry to its number. It is durable when this returns.
    pub(super) fn place(&self, entry: &JournalEntry) -> Result<(), AppendError> {
        let mut bytes = Vec::new();
        encode_entry(entry, &mut bytes);
        let place = place_name(entry.sequence);
        let label = label_name(entry.sequence, Kind::of(&entry.record));
        let draft = self.shelf.draft(&[&bytes])?;
        match draft.link(&place)? {
            Linked::Created => {
                draft.link(&label)?;
            }
            Linked::Taken => {
                if self.bytes(&place)?.is_some_and(|found| found != Ok(bytes)) {
                    return Err(AppendError::Deposed(self.larger_term(entry.term)?));
                }
                // An earlier attempt may have come to any step.
                self.shelf.also_name(&place, &label)?;
            }
        }
        Ok(self.shelf.sync()?)
    }

    /// No driver of a larger term has begun.
    pub(super) fn confirm(&self, term: Term) -> Result<(), AppendError> {
        match self.larger_term(term)? {
            None => Ok(()),
            larger => Err(AppendError::Deposed(larger)),
        }
    }

    fn larger_term(&self, term: Term) -> Result<Option<Term>, StorageError> {
        let (largest, _) = self.terms.largest()?;
        Ok(Some(largest).filter(|largest| *largest > term))
    }

    fn delete_old(
        &self,
        known: &mut Known,
        term: Term,
        snapshots: &Snapshots,
    ) -> Result<(), StorageError> {
        let index = match known.index.take() {
            Some(index) => index,
            None => self.read_all(snapshots)?.1,
        };
        let index = known.index.insert(index);
        let old = index.manifests.len().saturating_sub(2);
        index.manifests.drain(..old);
        // Files of a later driver's time are not in the listing if there is no later driver after it.
        let old_snapshots = snapshots.old(&index.manifests)?;
        if self.larger_term(term)?.is_some() {
            return Ok(());
        }
        snapshots.remove(&old_snapshots)?;
        let [older, _] = &index.manifests[..] else { return Ok(()) };
        let before = index.passing.range(..older.sequence);
        let is_old = |kind: Kind| match kind {
            Kind::Ranges(through) => through <= older.batch,
            // Those that do not stay for ever are left out by every reader.
            Kind::Manifest(_) | Kind::Opened | Kind::Members | Kind::Fenced | Kind::End => true,
        };
        let old: Vec<_> =
            before.filter(|(_, kind)| is_old(**kind)).map(|(s, k)| (*s, *k)).collect();
        for (sequence, kind) in old {
            // In this order no label is left without an entry.
            self.shelf.remove(&label_name(sequence, kind))?;
            self.shelf.remove(&place_name(sequence))?;
            index.passing.remove(&sequence);
        }
        Ok(())
    }

    fn read_all(&self, snapshots: &Snapshots) -> Result<(JournalRead, Index), StorageError> {
        for _ in 0..READ_ATTEMPTS {
            let (_, others) = self.terms.largest()?;
            if let Some(files) = self.files()? {
                let check = |manifest: &_| snapshots.check(manifest).map(drop);
                return digest(self.shelf.path(), &files, others, check);
            }
        }
        let path = self.shelf.path().display();
        Err(StorageError(format!("{path} changes all the time while it is read")))
    }

    /// What the files hold; nothing if one was deleted meanwhile.
    fn files(&self) -> Result<Option<BTreeMap<Sequence, EntryFile>>, StorageError> {
        let (places, labels) = self.listing()?;
        if !self.lacks_none(&places, &labels)? {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        for sequence in places {
            let content = match self.bytes(&place_name(sequence))? {
                None => return Ok(None),
                Some(Ok(bytes)) => match decode_entry(&bytes) {
                    Ok(entry) if entry.sequence == sequence => Ok(entry),
                    Ok(entry) => Err(format!("it holds {}", entry.sequence)),
                    Err(error) => Err(error.to_string()),
                },
                Some(Err(reason)) => Err(reason),
            };
            let label = labels.get(&sequence).copied().flatten();
            files.insert(sequence, EntryFile { label, content });
        }
        Ok(Some(files))
    }

    /// The numbers of all entries, complete up to the last, and the labels of these and others; nothing
    /// for an entry with two that differ.
    fn listing(&self) -> Result<Listing, StorageError> {
        let mut names = self.shelf.names()?;
        loop {
            let last = places_of(&names).last().copied();
            names = self.shelf.names()?;
            let places = places_of(&names);
            if places.last().copied() == last {
                let mut labels: BTreeMap<Sequence, Option<Kind>> = BTreeMap::new();
                for (sequence, kind) in names.iter().filter_map(|name| read_label(name)) {
                    let label = labels.entry(sequence).or_insert(Some(kind));
                    *label = label.filter(|known| *known == kind);
                }
                return Ok((places, labels));
            }
        }
    }

    /// Whether all entries are there that must be, as far as labels tell: those that are never deleted,
    /// and the last one. It says no if the folder changed meanwhile.
    fn lacks_none(
        &self,
        places: &BTreeSet<Sequence>,
        labels: &BTreeMap<Sequence, Option<Kind>>,
    ) -> Result<bool, StorageError> {
        for (&sequence, kind) in labels {
            let Some(kind) = *kind else { continue };
            let must_be = !is_passing(kind) || places.last() < Some(&sequence);
            if places.contains(&sequence) || !must_be {
                continue;
            }
            // A place is linked before its label, and goes after it.
            let place = self.shelf.path_of(&place_name(sequence));
            let is_there =
                |path: &Path| path.try_exists().map_err(|error| cannot("look for", path, &error));
            let is_lost =
                !is_there(&place)? && is_there(&self.shelf.path_of(&label_name(sequence, kind)))?;
            if is_lost {
                let (path, what) = (place.display(), kind.describe());
                return Err(StorageError(format!("{path}, which {what}, is missing")));
            }
            return Ok(false);
        }
        Ok(true)
    }

    fn places(&self) -> Result<BTreeSet<Sequence>, StorageError> {
        Ok(places_of(&self.shelf.names()?))
    }

    /// The bytes of a file; why they cannot be had, if it is damaged; nothing if it is not there.
    fn bytes(&self, name: &str) -> Result<Option<Result<Vec<u8>, String>>, StorageError> {
        let path = self.shelf.path_of(name);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > MAX_ENTRY_BYTES => {
                Ok(Some(Err("it is too long for an entry".to_owned())))
            }
            Ok(_) => Ok(Some(Ok(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // A bad sector is damage; everything else may be better next time.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(Some(Err(error.to_string())))
            }
            Err(error) => Err(cannot("read", &path, &error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places and labels.
type Listing = (BTreeSet<Sequence>, BTreeMap<Sequence, Option<Kind>>);

fn places_of(names: &[String]) -> BTreeSet<Sequence> {
    names.iter().filter_map(|name| read_place(name)).collect()
}
