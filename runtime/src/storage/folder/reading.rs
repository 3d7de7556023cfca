//! What the files of a journal say together: a function of their contents.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use drizzle_scheduler::checkpoint::Manifest;
use drizzle_scheduler::journal::{JournalEntry, JournalState, Record};
use drizzle_scheduler::{Sequence, Term};

use super::super::{JournalRead, StorageError};
use super::names::{Kind, place_name};

/// A file of the journal.
#[derive(Debug)]
pub(super) struct EntryFile {
    /// What its label says.
    pub(super) label: Option<Kind>,
    /// What it holds, or why that is not known.
    pub(super) content: Result<JournalEntry, String>,
}

/// What may be deleted some day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Entries that need not be kept for ever, by their kinds.
    pub(super) passing: BTreeMap<Sequence, Kind>,
    /// The good manifests, oldest first.
    pub(super) manifests: Vec<Arc<Manifest>>,
}

/// The entries that count, and those that cannot be read.
struct Sorted<'a> {
    folder: &'a Path,
    counted: Vec<&'a JournalEntry>,
    damaged: Vec<(Sequence, Kind, &'a str)>,
    index: Index,
    notices: Vec<String>,
}

/// Reads all files of a journal that lies in `folder`. `check` says whether the snapshots are good that
/// a manifest lists. `others` is the largest term of another driver.
pub(super) fn digest(
    folder: &Path,
    files: &BTreeMap<Sequence, EntryFile>,
    others: Term,
    check: impl Fn(&Manifest) -> Result<(), StorageError>,
) -> Result<(JournalRead, Index), StorageError> {
    let mut sorted = sort(folder, files)?;
    sorted.is_complete(files)?;
    let manifests = sorted.good_manifests(check)?;
    sorted.tell_lost_ranges(manifests.last())?;
    let next = files.last_key_value().map_or(Sequence(1), |(sequence, _)| sequence.next());
    let mut state = JournalState { next, term: others, ..JournalState::EMPTY };
    let kept_after = manifests.first().map(|manifest| manifest.batch);
    for entry in &sorted.counted {
        state.term = state.term.max(entry.term);
        match &entry.record {
            Record::Opened | Record::Manifest(_) => {}
            Record::Members(members) => state.members.extend(members),
            Record::Fenced(lives) => state.fenced.extend(lives),
            Record::End(last_batch) => state.end = Some(*last_batch),
            Record::Ranges(ranges) => {
                let is_kept = |batch| kept_after.is_none_or(|kept_after| batch > kept_after);
                state.ranges.extend(ranges.iter().filter(|taken| is_kept(taken.batch)));
            }
        }
    }
    if state.members.is_empty() && !manifests.is_empty() {
        let path = folder.display();
        return Err(StorageError(format!(
            "{path} has checkpoints, but the entries that say who took them are missing"
        )));
    }
    state.manifests.clone_from(&manifests);
    sorted.index.manifests = manifests;
    Ok((JournalRead { state, notices: sorted.notices }, sorted.index))
}

/// Leaves out what drivers wrote that were deposed, and refuses what cannot be done without.
fn sort<'a>(
    folder: &'a Path,
    files: &'a BTreeMap<Sequence, EntryFile>,
) -> Result<Sorted<'a>, StorageError> {
    let mut sorted = Sorted {
        folder,
        counted: Vec::new(),
        damaged: Vec::new(),
        index: Index::default(),
        notices: Vec::new(),
    };
    let mut term = Term(0);
    for (&sequence, file) in files {
        match &file.content {
            Ok(entry) if entry.term < term => {
                sorted.index.passing.insert(sequence, Kind::of(&entry.record));
                sorted.notices.push(format!(
                    "{} is left out because its driver, of term {}, had been deposed by that of term {}",
                    sorted.path(sequence),
                    entry.term.0,
                    term.0
                ));
            }
            Ok(entry) if entry.term > term && entry.record != Record::Opened => {
                return Err(StorageError(format!(
                    "{} was written in term {}, but no entry before it says that this term began",
                    sorted.path(sequence),
                    entry.term.0
                )));
            }
            Ok(entry) => {
                term = entry.term;
                sorted.count(sequence, entry);
            }
            Err(reason) => sorted.is_damaged(sequence, file.label, reason)?,
        }
    }
    Ok(sorted)
}

impl<'a> Sorted<'a> {
    fn path(&self, sequence: Sequence) -> String {
        self.folder.join(place_name(sequence)).display().to_string()
    }

    fn count(&mut self, sequence: Sequence, entry: &'a JournalEntry) {
        let kind = Kind::of(&entry.record);
        if is_passing(kind) {
            self.index.passing.insert(sequence, kind);
        }
        self.counted.push(entry);
    }

    fn is_damaged(
        &mut self,
        sequence: Sequence,
        label: Option<Kind>,
        reason: &'a str,
    ) -> Result<(), StorageError> {
        match label {
            Some(kind @ (Kind::Ranges(_) | Kind::Manifest(_))) => {
                self.index.passing.insert(sequence, kind);
                self.damaged.push((sequence, kind, reason));
                Ok(())
            }
            Some(kind @ (Kind::Opened | Kind::Members | Kind::Fenced | Kind::End)) => {
                let (path, what) = (self.path(sequence), kind.describe());
                Err(StorageError(format!(
                    "{path}, which {what}, is damaged ({reason}), and the job cannot go on without it"
                )))
            }
            None => {
                let path = self.path(sequence);
                Err(StorageError(format!(
                    "{path} is damaged ({reason}), and nothing says what it held"
                )))
            }
        }
    }

    /// Entries are deleted only before the second newest manifest, whether that is good or not.
    fn is_complete(&self, files: &BTreeMap<Sequence, EntryFile>) -> Result<(), StorageError> {
        let second = self.all_manifests().into_iter().rev().nth(1);
        let mut expected = second.map_or(Sequence(1), |(sequence, _)| sequence);
        for &sequence in files.range(expected..).map(|(sequence, _)| sequence) {
            if sequence != expected {
                return Err(StorageError(format!(
                    "{} is missing, although later entries are there",
                    self.path(expected)
                )));
            }
            expected = expected.next();
        }
        Ok(())
    }

    /// All manifests that there are, oldest first; nothing for those that are damaged.
    fn all_manifests(&self) -> BTreeMap<Sequence, Result<&'a Arc<Manifest>, &'a str>> {
        let good = self.counted.iter().filter_map(|entry| match &entry.record {
            Record::Manifest(manifest) => Some((entry.sequence, Ok(manifest))),
            Record::Opened
            | Record::Members(_)
            | Record::Fenced(_)
            | Record::Ranges(_)
            | Record::End(_) => None,
        });
        let damaged = self.damaged.iter().filter_map(|(sequence, kind, reason)| match kind {
            Kind::Manifest(_) => Some((*sequence, Err(*reason))),
            Kind::Opened | Kind::Members | Kind::Fenced | Kind::End | Kind::Ranges(_) => None,
        });
        good.chain(damaged).collect()
    }

    /// The newest checkpoint of which all is good, and the manifest before it if there is one; oldest
    /// first.
    fn good_manifests(
        &mut self,
        check: impl Fn(&Manifest) -> Result<(), StorageError>,
    ) -> Result<Vec<Arc<Manifest>>, StorageError> {
        let all = self.all_manifests();
        let mut left_out: Vec<String> = Vec::new();
        let mut good: Vec<Arc<Manifest>> = Vec::new();
        for (&sequence, found) in all.iter().rev() {
            let reason = match found {
                // Of the older one only its own bytes are known to be good: it is not needed now.
                Ok(manifest) => match good.is_empty().then(|| check(manifest)) {
                    None | Some(Ok(())) => {
                        good.insert(0, Arc::clone(manifest));
                        if good.len() == 2 {
                            break;
                        }
                        continue;
                    }
                    Some(Err(reason)) => reason.0,
                },
                Err(reason) => format!("it is damaged: {reason}"),
            };
            left_out.push(format!("the checkpoint in {} ({reason})", self.path(sequence)));
        }
        match good.last() {
            None if left_out.is_empty() => {}
            None => {
                let list = left_out.join(" and ");
                return Err(StorageError(format!(
                    "no checkpoint is left to go on from: not {list}"
                )));
            }
            Some(used) => self.notices.extend(left_out.into_iter().map(|what| {
                format!("{what} cannot be used: that of {} is used instead", used.batch)
            })),
        }
        Ok(good)
    }

    /// What became of ranges in damaged entries does not matter where a checkpoint has them.
    fn tell_lost_ranges(&mut self, used: Option<&Arc<Manifest>>) -> Result<(), StorageError> {
        for &(sequence, kind, reason) in &self.damaged {
            let Kind::Ranges(through) = kind else { continue };
            let (path, what) = (self.path(sequence), kind.describe());
            match used.map(|manifest| manifest.batch).filter(|batch| through <= *batch) {
                Some(batch) => self.notices.push(format!(
                    "{path}, which {what}, is damaged ({reason}): the checkpoint of {batch} is \
                     used instead, which includes them"
                )),
                None => {
                    return Err(StorageError(format!(
                        "{path}, which {what}, is damaged ({reason}), and no checkpoint that can \
                         be used includes them"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Whether an entry is obsolete some day.
pub(super) fn is_passing(kind: Kind) -> bool {
    match kind {
        Kind::Ranges(_) | Kind::Manifest(_) => true,
        Kind::Opened | Kind::Members | Kind::Fenced | Kind::End => false,
    }
}
