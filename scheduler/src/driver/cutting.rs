//! Cuts: two-phase, by batch number. Every worker promises not to start beyond a batch; the largest
//! promise is committed; every batch after it is void.
//!
//! A worker that does not answer is lost, and its promise lapses by fencing: what it started counts
//! as far as anybody knows of its ranges, so the commit waits for what the others know.

use std::collections::BTreeSet;

use super::Driver;
use crate::bugs::Bug;
use crate::ids::{BatchId, CutId, Instant, WorkerId};
use crate::message::Decision;

/// A cut in the making.
#[derive(Debug)]
pub(super) struct Cut {
    id: CutId,
    pub(super) purpose: CutPurpose,
    /// Workers that have not promised.
    waiting: BTreeSet<WorkerId>,
    /// The largest promise.
    largest: BatchId,
    deadline: Option<Instant>,
}

/// What follows when it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutPurpose {
    /// The last group.
    End,
    /// Partitions have new owners.
    Rescale,
    /// What it was for was given up; the job goes on.
    Nothing,
    /// A new driver goes on.
    TakeOver,
}

impl Cut {
    /// The cut with which a new driver takes over: all have promised.
    pub(super) fn of_takeover(id: CutId, largest: BatchId) -> Cut {
        let (waiting, purpose) = (BTreeSet::new(), CutPurpose::TakeOver);
        Cut { id, purpose, waiting, largest, deadline: None }
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> CutId {
        self.id
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.waiting.is_empty())
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.waiting.iter().copied()
    }

    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        self.waiting.remove(&worker);
        if self.purpose == CutPurpose::Rescale {
            self.purpose = CutPurpose::Nothing;
        }
    }
}

impl Driver {
    pub(super) fn begin_cut(&mut self, proposed: BatchId, purpose: CutPurpose) {
        let cut = CutId { term: self.options.term, number: self.history.applied.next() };
        let waiting = self.history.members.keys().copied().collect();
        let deadline = self.has_journal().then(|| self.now.after(self.options.answer_timeout_ns));
        self.decide(Decision::CutGroup { cut, proposed });
        self.cut = Some(Cut { id: cut, purpose, waiting, largest: proposed, deadline });
    }

    pub(super) fn promised(&mut self, worker: WorkerId, id: CutId, last_batch: BatchId) {
        if let Some(cut) = self.cut.as_mut().filter(|cut| cut.id == id)
            && cut.waiting.remove(&worker)
        {
            cut.largest = cut.largest.max(last_batch);
        }
    }

    /// Commits when all have promised, and all that lost workers started is known.
    pub(super) fn advance_cut(&mut self) {
        let fencing = self.recovery.is_fencing();
        let Some(cut) = self.cut.take_if(|cut| cut.waiting.is_empty() && !fencing) else { return };
        let last_batch = match cut.purpose {
            CutPurpose::End => {
                let started = cut.largest.max(self.lineage.newest()).max(self.ran_through);
                started.min(self.history.last_batch)
            }
            CutPurpose::Rescale | CutPurpose::Nothing => {
                cut.largest.max(self.lineage.newest()).min(self.history.last_batch)
            }
            CutPurpose::TakeOver => self.last_batch_of_takeover(cut.largest),
        };
        let last_batch = if self.options.bugs.has(Bug::CutOffByOne) {
            BatchId(last_batch.0.saturating_sub(1))
        } else {
            last_batch
        };
        self.decide(Decision::CommitCut { cut: cut.id, last_batch });
        self.groups.cut(last_batch);
        self.releases.cut(last_batch);
        match cut.purpose {
            CutPurpose::End => self.end_after(last_batch),
            CutPurpose::Rescale => self.moves_take_effect(last_batch),
            CutPurpose::Nothing => {}
            CutPurpose::TakeOver => self.go_on_after_takeover(),
        }
    }
}
