//! Checkpoints: when a lane takes its snapshot, what it holds, and what goes when all are durable.

use crate::bugs::Bug;
use crate::checkpoint::Manifest;
use crate::ids::{BatchId, PartitionId, StageId};
use crate::local::changes::ShippedCopy;
use crate::local::lane::{LaneState, Snapshots, Stored};
use crate::local::{CoreReport, LocalAction, LocalScheduler};
use crate::message::Restore;

impl LocalScheduler {
    pub(super) fn checkpoint(&mut self, batch: BatchId, actions: &mut Vec<LocalAction>) {
        let mut due = Vec::new();
        let mut past = false;
        for (stage, lane) in self.lanes.all() {
            if self.plan.needs_snapshot(stage) && lane.first > batch {
                past |= lane.first > batch.next() && lane.from <= batch;
                if lane.first == batch.next() && lane.state == LaneState::Here {
                    due.push((stage, lane.partition));
                }
            }
        }
        if past {
            actions.push(LocalAction::Report(CoreReport::NoSnapshot { batch }));
            return;
        }
        for (stage, partition) in due {
            self.begin_snapshot(stage, partition, batch, actions);
        }
    }

    /// A lane has finished its oldest batches, from `before` on.
    pub(super) fn snapshot_if_due(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        before: BatchId,
        batch: BatchId,
        actions: &mut Vec<LocalAction>,
    ) {
        let lane = self.lanes.get(stage, partition);
        let is_due = lane.is_some_and(|lane| before <= batch && batch < lane.first);
        if is_due && self.plan.needs_snapshot(stage) {
            self.begin_snapshot(stage, partition, batch, actions);
        }
    }

    pub(super) fn begin_snapshot(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        batch: BatchId,
        actions: &mut Vec<LocalAction>,
    ) {
        if !self.plan.needs_snapshot(stage) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(stage, partition) else { return };
        let own = &mut lane.snapshots;
        let mut chain = own.chain.clone();
        if self.options.bugs.has(Bug::AbandonedClearsChanges)
            && let Some((begun, _)) = own.begun
            && let Some(newest) = chain.last_mut()
        {
            *newest = begun.max(*newest);
        }
        own.begun = Some((batch, Stored::NotYet));
        actions.push(LocalAction::Snapshot { stage, partition, batch, chain });
    }

    pub(super) fn snapshot_is_durable(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        batch: BatchId,
        since: Option<BatchId>,
        actions: &mut Vec<LocalAction>,
    ) {
        let is_wanted = self.history.checkpoint == Some(batch);
        let Some(lane) = self.lanes.get_mut(stage, partition).filter(|_| is_wanted) else { return };
        let Some((begun, stored)) = &mut lane.snapshots.begun else { return };
        if *begun == batch && *stored == Stored::NotYet {
            *stored = Stored::Durably;
            let report = CoreReport::Snapshot { stage, partition, batch, since };
            actions.push(LocalAction::Report(report));
        }
    }

    pub(super) fn snapshot_failed(&mut self, batch: BatchId, actions: &mut Vec<LocalAction>) {
        if self.history.checkpoint == Some(batch) {
            actions.push(LocalAction::Report(CoreReport::NoSnapshot { batch }));
        }
    }

    /// A manifest is durable: nobody goes back behind its batch any more.
    pub(super) fn durable(&mut self, manifest: &Manifest, actions: &mut Vec<LocalAction>) {
        let batch = manifest.batch;
        let through = self.retained.forget(batch);
        actions.push(LocalAction::Forget { through });
        self.ranges.durable(batch);
        self.errands.forget_through(batch);
        self.left_here.retain(|covered| covered.last > batch);
        self.rolled_back.retain(|_, last| *last > batch);
        self.arrived.retain(|arrived| arrived.batch >= batch);
        self.copies.retain(|copy| {
            let &ShippedCopy { stage, partition, .. } = copy;
            if copy.batch <= batch {
                actions.push(LocalAction::DropCopy { stage, partition });
            }
            copy.batch > batch
        });
        self.catch_up(manifest, actions);
        self.finish_batches(actions);
        self.groups.forget_through(batch);
    }

    /// Takes note of what the manifest has of each lane. One that is not as far as the manifest (its
    /// partition has changed hands meanwhile) goes on from there: what it has not done yet was done
    /// by its owner of before, and nobody keeps the blocks for it.
    fn catch_up(&mut self, manifest: &Manifest, actions: &mut Vec<LocalAction>) {
        let batch = manifest.batch;
        let mut behind = Vec::new();
        let mut ended = Vec::new();
        let mut skipped = false;
        let plan = self.plan.clone();
        for (stage, lane) in self.lanes.all_mut() {
            let listed = manifest.chain_of(stage, lane.partition);
            let own = &mut lane.snapshots;
            if lane.first > batch {
                // Otherwise the manifest has another owner's snapshot, which this lane is beyond: what
                // changed since then is not known apart, so the next snapshot is whole.
                let is_own = own.begun == Some((batch, Stored::Durably));
                own.chain = if is_own { listed } else { Vec::new() };
                continue;
            }
            skipped = true;
            if let Some(last) = lane.last.filter(|&last| last <= batch) {
                lane.skip_through(last);
                ended.push((stage, lane.partition));
            } else if plan.needs_snapshot(stage) {
                // The blocks for later batches are here, and nobody will send them once more.
                lane.start_after(batch);
                lane.snapshots = Snapshots { chain: listed, begun: None };
                behind.push((stage, lane.partition));
            } else {
                lane.skip_through(batch);
            }
        }
        for (stage, partition) in ended {
            self.end_lane(stage, partition, actions);
        }
        for (stage, partition) in behind {
            let (after, from) = (batch, Restore::Manifest);
            actions.push(LocalAction::Restore { stage, partition, after, from });
        }
        if skipped {
            let releases = &self.releases;
            self.lanes.recount(|stage, batch| releases.awaits(stage, batch));
        }
    }
}
