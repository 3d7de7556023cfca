//! Ranges that source tasks took: reported to the driver, and relayed to whoever gets blocks that
//! may depend on them, until they are in the journal. No state that survives may depend on a range
//! known only to the dead (DESIGN.md, section 5).

use std::collections::{BTreeMap, BTreeSet};

use crate::bugs::{Bug, Bugs};
use crate::ids::{BatchId, Instant, PartitionId, StageId};
use crate::local::{RangeReports, Retention};
use crate::message::{SourceRange, TakenRange};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Ranges {
    bugs: Bugs,
    retention: Retention,
    reports: RangeReports,
    /// Ranges after the durable batch.
    known: BTreeMap<(BatchId, StageId, PartitionId), (TakenRange, Origin)>,
    /// The ranges of all batches up to this one are in the journal.
    recorded: BatchId,
    unreported: Vec<TakenRange>,
    /// Where only the ends of groups count: the place in `unreported` of the partition that is next, if
    /// batches take their partitions in the same order.
    next: usize,
    /// Source partitions whose end was reported.
    ended: BTreeSet<(StageId, PartitionId)>,
    due: Option<Instant>,
    /// Ranges of runs that go on: their end repeats them.
    announced: Vec<TakenRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Own,
    Learned,
}

impl Ranges {
    pub(super) fn new(bugs: Bugs, retention: Retention, reports: RangeReports) -> Ranges {
        Ranges {
            bugs,
            retention,
            reports,
            known: BTreeMap::new(),
            recorded: BatchId(0),
            unreported: Vec::new(),
            next: 0,
            ended: BTreeSet::new(),
            due: None,
            announced: Vec::new(),
        }
    }

    /// A source run has chosen its ranges, and goes on.
    pub(super) fn announce(&mut self, now: Instant, ranges: &[TakenRange], durable: BatchId) {
        for taken in ranges {
            if !self.announced.contains(taken) {
                self.announced.push(*taken);
                self.take(now, taken, durable);
            }
        }
    }

    /// A source run has ended.
    pub(super) fn took(&mut self, now: Instant, ranges: &[TakenRange], durable: BatchId) {
        for taken in ranges {
            match self.announced.iter().position(|announced| announced == taken) {
                Some(index) => {
                    self.announced.swap_remove(index);
                }
                None => self.take(now, taken, durable),
            }
        }
    }

    fn take(&mut self, now: Instant, taken: &TakenRange, durable: BatchId) {
        self.know(taken, Origin::Own, durable);
        match self.reports {
            RangeReports::Journaled { after_ns } => {
                self.unreported.push(*taken);
                let due = self.due.unwrap_or(now.after(after_ns));
                // The driver waits for the end of all sources: it is told at once.
                self.due = Some(if taken.ended { now.min(due) } else { due });
            }
            RangeReports::WithGroups => {
                self.extend(taken);
                let key = (taken.range.stage, taken.range.partition);
                if taken.ended && self.ended.insert(key) {
                    self.due = Some(now);
                }
            }
        }
    }

    /// Makes one range of what batches that follow each other took of a partition.
    fn extend(&mut self, taken: &TakenRange) {
        let is_of = |known: &TakenRange| {
            (known.range.stage, known.range.partition) == (taken.range.stage, taken.range.partition)
        };
        let next = self.unreported.get(self.next).is_some_and(is_of).then_some(self.next);
        match next.or_else(|| self.unreported.iter().position(is_of)) {
            Some(index) => {
                let known = &mut self.unreported[index];
                let range = SourceRange { from: known.range.from, ..taken.range };
                *known = TakenRange { range, ..*taken };
                self.next = index + 1;
            }
            None => {
                self.unreported.push(*taken);
                self.next = 0;
            }
        }
        if self.next == self.unreported.len() {
            self.next = 0;
        }
    }

    /// Keeps a range for others; one that is known already stays as it is.
    pub(super) fn know(&mut self, taken: &TakenRange, origin: Origin, durable: BatchId) {
        if self.retention == Retention::WhenFolded || taken.batch <= durable {
            return;
        }
        let key = (taken.batch, taken.range.stage, taken.range.partition);
        self.known.entry(key).or_insert((*taken, origin));
    }

    /// The newest batch of which a range is known: it cannot be voided any more.
    pub(super) fn newest(&self) -> BatchId {
        self.known.last_key_value().map_or(BatchId(0), |(&(batch, ..), _)| batch)
    }

    pub(super) fn recorded(&mut self, through: BatchId) {
        self.recorded = self.recorded.max(through);
    }

    pub(super) fn durable(&mut self, batch: BatchId) {
        let first = (batch.next(), StageId(0), PartitionId(0));
        self.known = self.known.split_off(&first);
    }

    pub(super) fn to_relay(&self) -> Vec<TakenRange> {
        let first = (self.recorded.next(), StageId(0), PartitionId(0));
        let ranges = self.known.range(first..).map(|(_, known)| known);
        let own_only = self.bugs.has(Bug::RangeNotRelayed);
        let ranges = ranges.filter(|&&(_, origin)| !own_only || origin == Origin::Own);
        ranges.map(|&(taken, _)| taken).collect()
    }

    /// All that is known after the durable batch, ordered by stage, partition and batch.
    pub(super) fn standing(&self) -> Vec<TakenRange> {
        let mut ranges: Vec<TakenRange> = self.known.values().map(|&(taken, _)| taken).collect();
        ranges.sort_unstable_by_key(|t| (t.range.stage, t.range.partition, t.batch));
        ranges
    }

    /// When ranges are to be reported.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was not reported yet.
    pub(super) fn flush(&mut self) -> Option<Vec<TakenRange>> {
        self.due = None;
        self.next = 0;
        (!self.unreported.is_empty()).then(|| std::mem::take(&mut self.unreported))
    }
}
