//! Checkpoints: the driver names a batch, partitions report that their snapshot of it is durable, and
//! when all have, the manifest goes into the journal. One that fails does not stop the job.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Driver, Durability, Phase};
use crate::bugs::Bug;
use crate::checkpoint::{Manifest, Snapshot};
use crate::ids::{BatchId, Instant, PartitionId, Sequence, StageId, WorkerId};
use crate::message::Decision;
use crate::placement::Placement;
use crate::plan::Plan;

/// So many batches at most lie between what sources have taken and the batch that is named.
const LARGEST_MARGIN: u64 = 256;

/// The checkpoint in the making, and when the next one is due.
#[derive(Debug)]
pub(super) struct Checkpoints {
    due: Instant,
    /// How many batches ahead of the sources a batch is named; more when some were past it.
    margin: u64,
    pending: Option<Pending>,
    /// How many partitions take a snapshot.
    partitions: usize,
}

#[derive(Debug)]
struct Pending {
    batch: BatchId,
    deadline: Instant,
    snapshots: BTreeMap<(StageId, PartitionId), (WorkerId, Snapshot)>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Snapshots or ranges are missing.
    Collecting,
    /// The manifest is on its way into the journal.
    Writing,
}

impl Checkpoints {
    pub(super) fn new(plan: &Plan) -> Checkpoints {
        let taking = plan.stage_ids().filter(|&stage| plan.needs_snapshot(stage));
        let partitions = taking.map(|stage| plan.stage(stage).partition_count as usize).sum();
        Checkpoints { due: Instant(0), margin: 1, pending: None, partitions }
    }

    /// What a lost worker reported does not count: its partitions' new owners take others.
    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        if let Some(pending) = self.pending.as_mut().filter(|p| p.step == Step::Collecting) {
            pending.snapshots.retain(|_, (by, _)| *by != worker);
        }
    }
}

impl Driver {
    fn checkpoint_times(&self) -> Option<(u64, u64)> {
        match self.options.durability {
            Durability::None => None,
            Durability::Journal { checkpoint_every_ns, abandon_after_ns } => {
                Some((checkpoint_every_ns, abandon_after_ns))
            }
        }
    }

    pub(super) fn first_checkpoint_is_due(&mut self) {
        if let Some((every_ns, _)) = self.checkpoint_times() {
            self.checkpoints.due = self.now.after(every_ns);
        }
    }

    /// One is wanted as soon as may be.
    pub(super) fn checkpoint_now(&mut self) {
        self.checkpoints.due = self.checkpoints.due.min(self.now);
    }

    /// Nothing else changes at the moment: no checkpoint, cut, move or recovery.
    pub(super) fn is_settled(&self) -> bool {
        self.checkpoints.pending.is_none()
            && self.cut.is_none()
            && self.history.prepared.is_empty()
            && !self.is_recovering()
            && !self.history.members.is_empty()
    }

    pub(super) fn is_writing_manifest(&self) -> bool {
        self.checkpoints.pending.as_ref().is_some_and(|pending| pending.step == Step::Writing)
    }

    fn may_begin_checkpoint(&self) -> bool {
        match self.phase {
            Phase::Running => self.has_journal() && self.is_settled(),
            Phase::Flushing { .. } => {
                let is_saved = self.history.durable() >= self.history.last_batch;
                self.has_journal() && self.is_settled() && !is_saved
            }
            Phase::Reading
            | Phase::Opening(_)
            | Phase::TakingOver(_)
            | Phase::Gathering
            | Phase::Ending
            | Phase::Over => false,
        }
    }

    pub(super) fn checkpoint_deadline(&self) -> Option<Instant> {
        match &self.checkpoints.pending {
            Some(pending) if pending.step == Step::Collecting => Some(pending.deadline),
            Some(_) => None,
            None => Some(self.checkpoints.due).filter(|_| self.may_begin_checkpoint()),
        }
    }

    /// Writes the manifest when all is there; begins the next one when it is time.
    pub(super) fn advance_checkpoint(&mut self) {
        self.write_manifest();
        if self.checkpoints.due > self.now || !self.may_begin_checkpoint() {
            return;
        }
        let batch = match self.phase {
            Phase::Flushing { .. } => self.history.last_batch,
            Phase::Reading
            | Phase::Opening(_)
            | Phase::TakingOver(_)
            | Phase::Gathering
            | Phase::Running
            | Phase::Ending
            | Phase::Over => self.next_checkpoint_batch(),
        };
        self.begin_checkpoint(batch);
    }

    /// A batch that no partition has passed yet, as far as can be said. It is after that of every
    /// move, so that each partition has one owner at it and after it.
    fn next_checkpoint_batch(&self) -> BatchId {
        let ahead = self.options.ahead + self.checkpoints.margin;
        let newest = self.lineage.newest().max(self.history.durable());
        let moved = self.history.moves.iter().map(|&(_, at)| at.next()).max();
        BatchId(newest.0 + ahead).max(moved.unwrap_or_default())
    }

    fn begin_checkpoint(&mut self, batch: BatchId) {
        let Some((_, abandon_after_ns)) = self.checkpoint_times() else { return };
        self.decide(Decision::Checkpoint { batch });
        self.checkpoints.pending = Some(Pending {
            batch,
            deadline: self.time_for_checkpoint(batch, abandon_after_ns),
            snapshots: BTreeMap::new(),
            step: Step::Collecting,
        });
    }

    /// The last group will be scheduled: its batch is the last checkpoint's.
    pub(super) fn begin_final_checkpoint(&mut self, batch: BatchId) {
        // A manifest that is being written becomes durable all the same, and the last one follows.
        if self.is_writing_manifest() {
            return;
        }
        self.abandon_checkpoint();
        if self.has_journal() {
            self.begin_checkpoint(batch);
        }
    }

    fn abandon_checkpoint(&mut self) {
        if let Some(Pending { batch, .. }) = self.checkpoints.pending.take() {
            self.decide(Decision::AbandonCheckpoint { batch });
            let (every_ns, _) = self.checkpoint_times().unwrap_or_default();
            let pause_ns = every_ns.min(self.options.answer_timeout_ns / 4);
            self.checkpoints.due = self.now.after(pause_ns.max(1));
        }
    }

    pub(super) fn checkpoint_timed_out(&mut self) {
        let Some((_, abandon_after_ns)) = self.checkpoint_times() else { return };
        let Some(pending) = &self.checkpoints.pending else { return };
        if pending.step == Step::Writing || pending.deadline > self.now {
            return;
        }
        // Its batch has not come everywhere yet: that is nobody's failure.
        if self.is_running() && self.lineage.complete_through() < pending.batch {
            let deadline = self.time_for_checkpoint(pending.batch, abandon_after_ns);
            if let Some(pending) = &mut self.checkpoints.pending {
                pending.deadline = deadline;
            }
        } else {
            self.abandon_checkpoint();
        }
    }

    /// When a checkpoint has taken too long: its time begins when sources should be at its batch.
    fn time_for_checkpoint(&self, batch: BatchId, abandon_after_ns: u64) -> Instant {
        let batches = batch.0.saturating_sub(self.lineage.newest().0);
        let until_then_ns = batches.saturating_mul(self.options.interval_ns);
        self.now.after(until_then_ns).after(abandon_after_ns.max(1))
    }

    pub(super) fn snapshots(&mut self, worker: WorkerId, batch: BatchId, snapshots: &[Snapshot]) {
        let Some(pending) = &mut self.checkpoints.pending else { return };
        if pending.batch != batch || pending.step == Step::Writing {
            return;
        }
        // After the last batch before a move its old owner has the state, and its new one soon after.
        let owners = [batch, batch.next()].map(|batch| self.history.placement(batch));
        for snapshot in snapshots {
            let owns = |placement: &&Arc<Placement>| {
                placement.core_of(snapshot.stage, snapshot.partition).worker == worker
            };
            if owners.iter().flatten().any(owns) {
                let key = (snapshot.stage, snapshot.partition);
                pending.snapshots.insert(key, (worker, *snapshot));
            }
        }
    }

    /// A partition was past the batch, or storage failed.
    pub(super) fn no_snapshot(&mut self, batch: BatchId) {
        let pending = self.checkpoints.pending.as_ref();
        if pending.is_some_and(|p| p.batch == batch && p.step == Step::Collecting) {
            self.checkpoints.margin = (2 * self.checkpoints.margin).min(LARGEST_MARGIN);
            self.abandon_checkpoint();
        }
    }

    fn write_manifest(&mut self) {
        let Some(pending) = &self.checkpoints.pending else { return };
        if pending.step == Step::Writing
            || pending.snapshots.len() < self.checkpoints.partitions
            || self.is_recovering()
            || self.lineage.written_through() < pending.batch
        {
            return;
        }
        let Some(manifest) = self.manifest(pending) else {
            self.abandon_checkpoint();
            return;
        };
        self.journal.write_manifest(manifest);
        if let Some(pending) = &mut self.checkpoints.pending {
            pending.step = Step::Writing;
        }
    }

    /// None where a snapshot holds the changes since one that the newest manifest does not have.
    fn manifest(&self, pending: &Pending) -> Option<Manifest> {
        let mut snapshots: Vec<Snapshot> = Vec::new();
        for (_, snapshot) in pending.snapshots.values() {
            if let Some(since) = snapshot.since {
                let newest = self.history.manifest.as_ref()?;
                let chain = newest.snapshots_of(snapshot.stage, snapshot.partition);
                let before = snapshots.len();
                snapshots.extend(chain.take_while(|part| part.batch <= since).copied());
                if snapshots[before..].last().is_none_or(|part| part.batch != since) {
                    return None;
                }
            }
            snapshots.push(*snapshot);
        }
        Some(Manifest {
            // The place and the last decision are known when it is written.
            sequence: Sequence(0),
            number: self.history.applied,
            term: self.options.term,
            batch: pending.batch,
            snapshots,
            positions: self.lineage.positions_at(pending.batch)?,
        })
    }

    /// A manifest is in the journal.
    pub(super) fn durable(&mut self, manifest: &Arc<Manifest>) {
        if manifest.batch <= self.history.durable() {
            return;
        }
        // By the planted mistake it may not even have been written.
        debug_assert!(
            self.checkpoints.pending.as_ref().is_none_or(|p| p.batch == manifest.batch)
                || self.options.bugs.has(Bug::ReleaseBeforeManifest)
        );
        self.checkpoints.pending = None;
        self.checkpoints.margin = (self.checkpoints.margin / 2).max(1);
        if let Some((every_ns, _)) = self.checkpoint_times() {
            self.checkpoints.due = self.now.after(every_ns);
        }
        if matches!(self.phase, Phase::Flushing { .. }) {
            self.checkpoints.due = self.now;
        }
        self.decide(Decision::Durable(manifest.clone()));
        self.lineage.forget_through(manifest.batch);
        let left = self.history.groups.iter().map(|(group, _)| group.group).collect();
        self.groups.durable(manifest.batch, &left);
        self.dismiss_drained();
    }
}
