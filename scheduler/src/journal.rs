//! The driver's journal: entries that are created by sequence number and never overwritten. Whoever
//! creates an entry knows all that stand before it, so a driver whose entry collides with another's
//! has been deposed. It holds what must outlive the driver: who may hold tasks, which ranges were
//! taken, and the manifests.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoint::Manifest;
use crate::ids::{BatchId, Life, Sequence, Term};
use crate::message::TakenRange;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its place; creating it fails if there is one already.
    pub sequence: Sequence,
    /// The driver that writes it.
    pub term: Term,
    /// What it says.
    pub record: Record,
}

/// What an entry may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A driver has begun; those of earlier terms can write no more.
    Opened,
    /// Workers that may be told to run tasks from now on, and their number of cores.
    Members(Vec<(Life, u16)>),
    /// These lives are over, whatever they may say to a later driver.
    Fenced(Vec<Life>),
    /// Ranges that are fixed for ever.
    Ranges(Vec<TakenRange>),
    /// The last batch with input; the one after it flushes everything, whoever schedules it.
    End(BatchId),
    /// A durable checkpoint. Older manifests and ranges up to its batch may be deleted.
    Manifest(Arc<Manifest>),
}

/// What a driver finds when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalState {
    /// The place of the next entry; 1 if there is none yet.
    pub next: Sequence,
    /// The largest term found; 0 if there is no entry yet.
    pub term: Term,
    /// Everybody who was ever a member.
    pub members: Vec<(Life, u16)>,
    /// Those whose lives are over.
    pub fenced: BTreeSet<Life>,
    /// The last batch with input, where that is decided.
    pub end: Option<BatchId>,
    /// Ranges, oldest entry first; at least those after the newest manifest.
    pub ranges: Vec<TakenRange>,
    /// The two newest manifests at least, if there are so many; oldest first.
    pub manifests: Vec<Arc<Manifest>>,
}

impl JournalState {
    /// What a job finds that has never run.
    pub const EMPTY: JournalState = JournalState {
        next: Sequence(1),
        term: Term(0),
        members: Vec::new(),
        fenced: BTreeSet::new(),
        end: None,
        ranges: Vec::new(),
        manifests: Vec::new(),
    };
}

/// Why an entry was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFailure {
    /// There is an entry of that number, of another driver: this one is deposed.
    Deposed,
    /// Storage does not answer; the entry may be tried again.
    Unavailable,
}
