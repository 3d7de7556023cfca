//! Keeping the journal: one entry under way at a time, ranges in groups, the same entry once more
//! when storage did not answer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Driver, DriverAction, Phase};
use crate::bugs::Bug;
use crate::checkpoint::Manifest;
use crate::ids::{BatchId, Instant, Life, Sequence};
use crate::journal::{AppendFailure, JournalEntry, Record};
use crate::message::Order;

/// So many ranges at most are in one entry.
const RANGES_IN_AN_ENTRY: usize = 4096;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Place of the next entry.
    next: Sequence,
    /// Records to come, oldest first. Ranges are not among them: they are taken from the lineage.
    queue: VecDeque<Record>,
    /// The entry that is under way, or waits to be tried again.
    entry: Option<JournalEntry>,
    retry_at: Option<Instant>,
    /// Entries to come that say which lives are over.
    ends: usize,
}

impl Journal {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    #[cfg(test)]
    pub(super) fn under_way(&self) -> Option<Sequence> {
        self.entry.as_ref().map(|entry| entry.sequence)
    }

    /// A new driver writes its first entry there.
    pub(super) fn open_at(&mut self, next: Sequence) {
        *self = Journal { next, ..Journal::default() };
        self.queue.push_back(Record::Opened);
    }

    pub(super) fn write_members(&mut self, members: Vec<(Life, u16)>) {
        self.queue.push_back(Record::Members(members));
    }

    /// These lives are over, whatever they will say to a later driver.
    pub(super) fn write_end(&mut self, lives: &[Life]) {
        if !lives.is_empty() {
            self.ends += 1;
            self.queue.push_back(Record::Fenced(lives.to_vec()));
        }
    }

    /// What a new driver must flush, and when.
    pub(super) fn write_last_batch(&mut self, last_batch: BatchId) {
        self.queue.push_back(Record::End(last_batch));
    }

    /// Whether the journal says of all lost lives that they are over.
    pub(super) fn has_all_ends(&self) -> bool {
        self.ends == 0
    }

    /// Its place in the journal is filled in when it is known.
    pub(super) fn write_manifest(&mut self, manifest: Manifest) {
        self.queue.push_back(Record::Manifest(Arc::new(manifest)));
    }
}

impl Driver {
    /// Writes the next entry, if none is under way.
    pub(super) fn advance_journal(&mut self) {
        if !self.has_journal() || self.journal.entry.is_some() {
            return;
        }
        let Some(record) = self.next_record() else { return };
        let entry = JournalEntry { sequence: self.journal.next, term: self.options.term, record };
        self.journal.next = self.journal.next.next();
        self.journal.entry = Some(entry.clone());
        self.out.push(DriverAction::Append(entry.clone()));
        if let Record::Manifest(manifest) = &entry.record
            && self.options.bugs.has(Bug::ReleaseBeforeManifest)
        {
            self.durable(manifest);
        }
    }

    fn next_record(&mut self) -> Option<Record> {
        match self.journal.queue.pop_front() {
            Some(Record::Manifest(manifest)) => {
                let sequence = self.journal.next;
                let number = self.history.applied;
                let manifest = Manifest { sequence, number, ..Manifest::clone(&manifest) };
                Some(Record::Manifest(Arc::new(manifest)))
            }
            Some(record) => Some(record),
            None => {
                let mut ranges = match self.phase {
                    Phase::Running | Phase::Ending | Phase::Flushing { .. } => {
                        self.lineage.unwritten()
                    }
                    Phase::Reading
                    | Phase::Opening(_)
                    | Phase::TakingOver(_)
                    | Phase::Gathering
                    | Phase::Over => Vec::new(),
                };
                ranges.truncate(RANGES_IN_AN_ENTRY);
                (!ranges.is_empty()).then_some(Record::Ranges(ranges))
            }
        }
    }

    pub(super) fn appended(&mut self, sequence: Sequence) {
        let Some(entry) = self.journal.entry.take_if(|entry| entry.sequence == sequence) else {
            return;
        };
        self.journal.retry_at = None;
        match &entry.record {
            Record::Opened => self.opened(),
            Record::Fenced(_) => self.journal.ends -= 1,
            Record::Members(members) => self.members_are_written(members),
            Record::End(last_batch) => self.begin_flush(*last_batch),
            Record::Ranges(ranges) => {
                self.lineage.wrote(ranges);
                self.tell_what_is_recorded();
            }
            Record::Manifest(manifest) => self.durable(manifest),
        }
    }

    pub(super) fn append_failed(&mut self, sequence: Sequence, failure: AppendFailure) {
        let Some(entry) = self.journal.entry.as_ref().filter(|e| e.sequence == sequence) else {
            return;
        };
        match (failure, &entry.record) {
            (AppendFailure::Unavailable, _) => {
                let pause_ns = self.options.answer_timeout_ns / 4;
                self.journal.retry_at = Some(self.now.after(pause_ns.max(1)));
            }
            // Somebody was faster. It may be an older driver, which is deposed by the next attempt.
            (AppendFailure::Deposed, Record::Opened) => self.read_journal(),
            (
                AppendFailure::Deposed,
                Record::Members(_)
                | Record::Fenced(_)
                | Record::Ranges(_)
                | Record::End(_)
                | Record::Manifest(_),
            ) => self.deposed(),
        }
    }

    pub(super) fn retry_append(&mut self) {
        if self.journal.retry_at.take_if(|retry_at| *retry_at <= self.now).is_some()
            && let Some(entry) = &self.journal.entry
        {
            self.out.push(DriverAction::Append(entry.clone()));
        }
    }

    /// Tells all members up to which batch nobody need relay ranges any more.
    fn tell_what_is_recorded(&mut self) {
        let through = self.lineage.written_through();
        if through > self.recorded {
            self.recorded = through;
            self.send_to_all(&Order::Recorded { through });
        }
    }
}
