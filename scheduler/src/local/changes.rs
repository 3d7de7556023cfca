//! Planned changes: cuts, and partitions that move at one.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bugs::Bug;
use crate::checkpoint::Manifest;
use crate::ids::{BatchId, CoreId, CutId, Life, OrderNumber, PartitionId, StageId};
use crate::local::lane::LaneState;
use crate::local::retention::{narrowed, route};
use crate::local::{CoreReport, LocalAction, LocalScheduler};
use crate::message::{Coverage, Move};
use crate::placement::Placement;
use crate::plan::StageKind;

/// The state of a partition that has moved away, kept in case its new owner is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShippedCopy {
    pub(super) stage: StageId,
    pub(super) partition: PartitionId,
    /// The last batch that it includes.
    pub(super) batch: BatchId,
    pub(super) to: CoreId,
    pub(super) since: Option<BatchId>,
}

/// The state of a partition that came before the placement that brings the partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) from: Life,
    pub(super) stage: StageId,
    pub(super) partition: PartitionId,
    pub(super) batch: BatchId,
    pub(super) since: Option<BatchId>,
}

/// What is loaded ahead of a move.
#[derive(Debug)]
pub(super) struct Preparing {
    number: OrderNumber,
    /// What comes here.
    loaded: Vec<(StageId, PartitionId)>,
    left: BTreeSet<(StageId, PartitionId)>,
}

impl LocalScheduler {
    pub(super) fn promise(
        &mut self,
        cut: CutId,
        proposed: BatchId,
        actions: &mut Vec<LocalAction>,
    ) {
        let last_batch = self.promised(cut, proposed);
        actions.push(LocalAction::Report(CoreReport::Promise { cut, last_batch }));
    }

    /// Opens a promise. A batch of which any range is known counts as started, even where only a
    /// worker that is lost has started it: what it took is fixed, so the batch cannot be void.
    pub(super) fn promised(&mut self, cut: CutId, proposed: BatchId) -> BatchId {
        let last_batch = proposed.max(self.started).max(self.ranges.newest());
        self.promises.insert(cut, last_batch);
        last_batch
    }

    /// Voids every scheduled batch after `last_batch`. Nobody has started one (that was promised),
    /// so blocks of such numbers that are already here belong to the group that follows the cut.
    pub(super) fn cut(&mut self, cut: CutId, last_batch: BatchId, actions: &mut Vec<LocalAction>) {
        assert!(self.started <= last_batch, "a batch beyond the promise was started");
        self.promises.retain(|open, _| *open > cut);
        self.groups.cut(last_batch);
        if self.groups.has_gap() {
            self.skip_gap();
        } else {
            for (batch, mut notices) in self.lanes.cut(last_batch) {
                notices.retain(|notice| !self.history.fenced.contains(&notice.life()));
                let early = self.early.entry(batch).or_default();
                early.extend(notices);
            }
            self.releases.cut(last_batch);
        }
        self.finish_batches(actions);
    }

    /// The planted mistake: only the rest of the group that is cut is void.
    fn skip_gap(&mut self) {
        let mut batch = self.lanes.completed().next();
        while batch <= self.lanes.horizon() {
            if self.groups.is_in_gap(batch) {
                self.lanes.skip_batch(batch);
            }
            batch = batch.next();
        }
    }

    /// A placement for new batches: lanes come and go with the batch before its first.
    pub(super) fn place(&mut self, placement: &Arc<Placement>, actions: &mut Vec<LocalAction>) {
        let last = BatchId(placement.from_batch.0 - 1);
        for stage in self.plan.stage_ids() {
            let mut leave = Vec::new();
            for lane in self.lanes.of(stage) {
                if placement.core_of(stage, lane.partition) != self.core && lane.last.is_none() {
                    leave.push(lane.partition);
                }
            }
            for partition in leave {
                let lane = self.lanes.get_mut(stage, partition).expect("it was just found");
                lane.last = Some(last);
                if lane.has_ended() {
                    self.end_lane(stage, partition, actions);
                }
            }
            for partition in placement.partitions_on(stage, self.core) {
                if self.lanes.get(stage, partition).is_none() {
                    let (state, chain) = self.state_of_new_lane(stage, partition, last);
                    let lane = self.lanes.add(stage, partition, placement.from_batch, state);
                    lane.snapshots.chain = chain;
                }
            }
        }
        let releases = &self.releases;
        self.lanes.recount(|stage, batch| releases.awaits(stage, batch));
        self.preparing = None;
        self.credit.placement_changed(&self.plan, &self.history.placements);
        if last > BatchId(0) && self.retained.is_kept() {
            actions.extend(self.advertise(|_| true));
        }
        self.follow(last, actions);
        self.offer_parked();
    }

    /// Blocks for batches after `last` go where their readers are now.
    fn follow(&mut self, last: BatchId, actions: &mut Vec<LocalAction>) {
        let mut moved = Vec::new();
        for (_, notice) in self.retained.after(last) {
            let placements = &self.history.placements;
            let stage = self.plan.edge(notice.edge).to;
            // Such a block was sent by the placement before, which held for ever then.
            let Some(before) = placements.at(last) else { continue };
            let owners = route(&self.plan, placements, notice, |partition, owner| {
                before.core_of(stage, partition) != owner
            });
            moved.extend(owners.into_iter().map(|(to, downstream)| {
                (to, notice.clone(), narrowed(notice, downstream, self.history.epoch))
            }));
        }
        self.resend(moved, actions);
    }

    fn state_of_new_lane(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        last: BatchId,
    ) -> (LaneState, Vec<BatchId>) {
        let is_it = |m: &Move| (m.stage, m.partition, m.to) == (stage, partition, self.core);
        let mut moves = self.history.moves.iter();
        let moved = moves.find(|(m, at)| is_it(m) && *at == last).map(|&(m, _)| m);
        let Some(moved) = moved.filter(|_| self.ships(stage)) else {
            return (LaneState::Here, Vec::new());
        };
        let arrived = |a: &Arrived| (a.stage, a.partition, a.batch) == (stage, partition, last);
        if let Some(index) = self.arrived.iter().position(arrived) {
            let arrived = self.arrived.swap_remove(index);
            return (LaneState::Here, self.chain_of(&arrived));
        }
        let worker = moved.from.worker;
        let member = self.history.members.get(&worker);
        let life = member.map(|&(incarnation, _)| Life { worker, incarnation });
        (LaneState::Arriving(last, life), Vec::new())
    }

    /// The snapshots that the next one of a state may build on that has come from its owner before: those from
    /// which it was loaded ahead, if no later ones are listed.
    fn chain_of(&self, arrived: &Arrived) -> Vec<BatchId> {
        let manifest = self.history.manifest.as_ref().filter(|m| arrived.since == Some(m.batch));
        manifest.map_or_else(Vec::new, |m| m.chain_of(arrived.stage, arrived.partition))
    }

    /// A lane has run all that it is to run here: its state goes to its next owner.
    pub(super) fn end_lane(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        actions: &mut Vec<LocalAction>,
    ) {
        let lane = self.lanes.remove(stage, partition).expect("it has just ended");
        let batch = lane.last.expect("it has ended");
        if self.is_source(stage) && self.retained.is_kept() {
            let coverage = Coverage { stage, partition, first: lane.from, last: batch };
            self.left_here.push(coverage);
        }
        if let Some((after, from)) = lane.resume {
            self.start_again(stage, partition, after, from, actions);
            let releases = &self.releases;
            self.lanes.recount(|stage, batch| releases.awaits(stage, batch));
            return;
        }
        let is_it = |m: &Move| (m.stage, m.partition, m.from) == (stage, partition, self.core);
        let mut moves = self.history.moves.iter();
        let moved = moves.find(|(m, at)| is_it(m) && *at == batch).map(|&(m, _)| m);
        let Some(moved) = moved.filter(|_| self.ships(stage)) else {
            if self.retained.is_kept() {
                actions.push(LocalAction::DropPartition { stage, partition });
            }
            return;
        };
        // The new owner has loaded what the manifest has of it: no other can have come since.
        let base = self.history.durable();
        let since = lane.snapshots.base().filter(|&since| since == base);
        let copy = ShippedCopy { stage, partition, batch, to: moved.to, since };
        self.ship(&copy, actions);
        if self.options.bugs.has(Bug::CopyFreedEarly) {
            actions.push(LocalAction::DropCopy { stage, partition });
        } else {
            self.copies.push(copy);
        }
    }

    /// Whether what a partition of `stage` keeps goes with it. That of a sink does too: its new owner
    /// must not be ahead of it, because a checkpoint says that all before it was written.
    fn ships(&self, stage: StageId) -> bool {
        self.is_source(stage) || self.plan.needs_snapshot(stage)
    }

    pub(super) fn is_source(&self, stage: StageId) -> bool {
        matches!(self.plan.stage(stage).kind, StageKind::Source(_))
    }

    /// Whether the state that a frame brings is to be taken: this partition waits for it, or may do
    /// so when the next placement comes. All other is a repetition, or from a life that is over.
    pub fn accepts_state(
        &self,
        from: Life,
        stage: StageId,
        partition: PartitionId,
        batch: BatchId,
    ) -> bool {
        if self.history.fenced.contains(&from) || batch < self.history.durable() {
            return false;
        }
        match self.lanes.get(stage, partition).map(|lane| lane.state) {
            Some(LaneState::Arriving(awaited, life)) => {
                awaited == batch && life.is_none_or(|life| life == from)
            }
            Some(LaneState::Here | LaneState::Restoring(_)) => false,
            None => true,
        }
    }

    pub(super) fn ship(&self, copy: &ShippedCopy, actions: &mut Vec<LocalAction>) {
        let ShippedCopy { stage, partition, batch, to, since } = *copy;
        actions.push(LocalAction::Ship { stage, partition, batch, to, since });
    }

    pub(super) fn state_arrived(&mut self, arrived: Arrived, actions: &mut Vec<LocalAction>) {
        let Arrived { from, stage, partition, batch, .. } = arrived;
        if !self.accepts_state(from, stage, partition, batch) {
            return;
        }
        match self.lanes.get(stage, partition).map(|lane| lane.state) {
            Some(awaited) => {
                let chain = self.chain_of(&arrived);
                if let Some(lane) = self.lanes.get_mut(stage, partition) {
                    lane.snapshots.chain = chain;
                }
                self.state_is_here(stage, partition, awaited, actions);
            }
            None => {
                let same = |a: &Arrived| (a.stage, a.partition) == (stage, partition);
                self.arrived.retain(|other| !same(other));
                self.arrived.push(arrived);
            }
        }
    }

    /// What a lane waited for is there, if it still is what it waits for.
    pub(super) fn state_is_here(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        awaited: LaneState,
        actions: &mut Vec<LocalAction>,
    ) {
        let lane = self.lanes.get_mut(stage, partition);
        let Some(lane) = lane.filter(|lane| lane.state == awaited) else { return };
        lane.state = LaneState::Here;
        let before = lane.first;
        self.lanes.note_all();
        if let Some(batch) = self.history.checkpoint.filter(|batch| batch.next() == before) {
            self.begin_snapshot(stage, partition, batch, actions);
        }
    }

    pub(super) fn prepare(
        &mut self,
        number: OrderNumber,
        moves: &[Move],
        actions: &mut Vec<LocalAction>,
    ) {
        let is_loaded = |m: &&Move| m.to == self.core && self.plan.needs_snapshot(m.stage);
        let loaded: Vec<(StageId, PartitionId)> =
            moves.iter().filter(is_loaded).map(|m| (m.stage, m.partition)).collect();
        let manifest: Option<Arc<Manifest>> = self.history.manifest.clone();
        for &(stage, partition) in &loaded {
            let manifest = manifest.clone();
            actions.push(LocalAction::Preload { stage, partition, manifest });
        }
        let left = loaded.iter().copied().collect();
        self.preparing = Some(Preparing { number, loaded, left });
        self.report_prepared(actions);
    }

    pub(super) fn preloaded(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        actions: &mut Vec<LocalAction>,
    ) {
        if let Some(preparing) = &mut self.preparing
            && preparing.left.remove(&(stage, partition))
        {
            self.report_prepared(actions);
        }
    }

    fn report_prepared(&mut self, actions: &mut Vec<LocalAction>) {
        if let Some(preparing) = &self.preparing
            && preparing.left.is_empty()
        {
            let number = preparing.number;
            actions.push(LocalAction::Report(CoreReport::Prepared { number }));
        }
    }

    pub(super) fn abandon_moves(&mut self, actions: &mut Vec<LocalAction>) {
        let preparing = self.preparing.take();
        for (stage, partition) in preparing.into_iter().flat_map(|preparing| preparing.loaded) {
            if self.lanes.get(stage, partition).is_none() {
                actions.push(LocalAction::DropPartition { stage, partition });
            }
        }
    }
}
