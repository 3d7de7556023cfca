//! Losses: fences, what is known here, lost partitions that start again, and blocks that are sent
//! once more (DESIGN.md, section 6).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bugs::Bug;
use crate::history::History;
use crate::ids::{
    Attempt, BatchId, CoreId, CutId, Life, OrderNumber, PartitionId, StageId, WorkerId,
};
use crate::local::errands::Reason;
use crate::local::lane::{Lane, LaneState, Replay};
use crate::local::ranges::Origin;
use crate::local::retention::{narrowed, reader_of, route};
use crate::local::{BlockName, CoreReport, LocalAction, LocalScheduler, Published};
use crate::message::{BlockNotice, Coverage, Recover, Restore, Rollback, Standing, TakenRange};

/// A block that goes to another reader: who needs it, what it was, and what is said of it now.
pub(super) type Moved = (CoreId, BlockNotice, BlockNotice);

impl LocalScheduler {
    /// From now on nothing that comes from these lives counts.
    pub(super) fn fence(
        &mut self,
        number: OrderNumber,
        lives: &[Life],
        actions: &mut Vec<LocalAction>,
    ) {
        for &life in lives {
            self.early.values_mut().for_each(|early| early.retain(|n| n.life() != life));
            self.parked.retain(|notice| notice.life() != life);
            self.arrived.retain(|arrived| arrived.from != life);
            self.credit.fenced(life.worker);
            let after = self.lanes.horizon();
            actions.push(LocalAction::DropEarly { life, after });
        }
        self.early.retain(|_, early| !early.is_empty());
        let standing = self.standing();
        actions.push(LocalAction::Report(CoreReport::Fenced { number, standing }));
    }

    fn standing(&self) -> Standing {
        let durable = self.history.durable();
        let mut coverage: Vec<Coverage> = Vec::new();
        for (stage, lane) in self.lanes.all() {
            if self.is_source(stage) && self.will_run(lane) {
                let partition = lane.partition;
                let last = lane.last.unwrap_or(BatchId(u64::MAX));
                coverage.push(Coverage { stage, partition, first: lane.from, last });
                coverage.extend(lane.resume.map(|(after, _)| {
                    let last = BatchId(u64::MAX);
                    Coverage { stage, partition, first: after.next(), last }
                }));
            }
        }
        coverage.extend(self.left_here.iter().copied());
        coverage.extend(self.errands.coverage());
        for covered in &mut coverage {
            covered.first = covered.first.max(durable.next());
        }
        coverage.retain(|covered| covered.first <= covered.last);
        coverage.sort_unstable();
        coverage.dedup();
        Standing { ranges: self.ranges.standing(), coverage }
    }

    /// Whether a lane runs, or will without anybody's help: what its owner of before was to ship
    /// will not come where that one is over.
    fn will_run(&self, lane: &Lane) -> bool {
        match lane.state {
            LaneState::Here | LaneState::Restoring(_) => true,
            LaneState::Arriving(_, from) => {
                from.is_some_and(|life| !self.history.fenced.contains(&life))
            }
        }
    }

    pub(super) fn take_over(&mut self, cut: CutId, actions: &mut Vec<LocalAction>) {
        let promise = self.promised(cut, BatchId(0));
        let standing = self.standing();
        actions.push(LocalAction::Report(CoreReport::Standing { promise, standing }));
    }

    /// Takes over what was decided before this core was there. It owns nothing yet.
    pub(super) fn welcome(&mut self, history: &Arc<History>, actions: &mut Vec<LocalAction>) {
        // What it promised a new driver before it was a member binds nobody.
        self.promises.clear();
        if history.applied <= self.history.applied {
            return;
        }
        self.history = History::clone(history);
        self.groups.take_over(&self.history.groups);
        self.lanes.finish_all(self.history.last_batch);
        self.early = self.early.split_off(&self.history.last_batch.next());
        self.forget_fenced(actions);
        self.prove_ranges();
        self.credit.placement_changed(&self.plan, &self.history.placements);
        self.offer_parked();
    }

    /// Before it is welcome a core does not know who is fenced: what came from those is void.
    fn forget_fenced(&mut self, actions: &mut Vec<LocalAction>) {
        let fenced = &self.history.fenced;
        let kept = self.parked.iter().chain(self.early.values().flatten());
        let void: BTreeSet<Life> =
            kept.map(BlockNotice::life).filter(|life| fenced.contains(life)).collect();
        self.parked.retain(|notice| !void.contains(&notice.life()));
        self.early.values_mut().for_each(|early| early.retain(|n| !void.contains(&n.life())));
        self.arrived.retain(|arrived| !fenced.contains(&arrived.from));
        let after = BatchId(0);
        actions.extend(void.into_iter().map(|life| LocalAction::DropEarly { life, after }));
    }

    /// Takes ranges that came with a frame.
    pub(super) fn learn(&mut self, from: Life, ranges: &[TakenRange]) {
        let knows_who_is_fenced = self.history.applied > OrderNumber(0);
        if !knows_who_is_fenced {
            self.unproven.extend(ranges.iter().map(|taken| (from, *taken)));
        } else if !self.history.fenced.contains(&from) {
            let durable = self.history.durable();
            ranges.iter().for_each(|taken| self.ranges.know(taken, Origin::Learned, durable));
        }
    }

    /// With the first decision or welcome it is known who is fenced.
    pub(super) fn prove_ranges(&mut self) {
        for (from, taken) in std::mem::take(&mut self.unproven) {
            self.learn(from, &[taken]);
        }
    }

    /// Lost partitions have new owners.
    pub(super) fn recover(&mut self, recover: &Recover, actions: &mut Vec<LocalAction>) {
        self.releases.add_through(recover.released_through);
        for rollback in &recover.moved {
            if rollback.to == self.core {
                self.roll_back(rollback, recover, actions);
            } else {
                self.give_up(rollback.stage, rollback.partition, actions);
            }
            self.rolled_back.insert(rollback.to, recover.replay_through);
        }
        // Tasks that waited for a release, and whose upstream tasks start again, wait no more.
        for batch in self.lanes.completed().0 + 1..=self.lanes.horizon().0 {
            if batch <= recover.released_through.0 {
                let stages = self.plan.stage_ids();
                stages.for_each(|stage| self.lanes.released(stage, BatchId(batch)));
            }
        }
        let releases = &self.releases;
        self.lanes.recount(|stage, batch| releases.awaits(stage, batch));
        let attempt = attempt_of(recover);
        let durable = self.history.durable();
        for errand in recover.errands.iter().filter(|errand| errand.core == self.core) {
            self.errands.add(*errand, attempt, Reason::Recovery);
            self.ranges.know(&errand.taken, Origin::Learned, durable);
        }
        self.credit.placement_changed(&self.plan, &self.history.placements);
        actions.extend(self.advertise(|_| true));
        self.groups.report_again();
        self.resend_to_new_owners(recover, actions);
        self.offer_parked();
        self.finish_batches(actions);
    }

    /// A partition starts again here.
    fn roll_back(
        &mut self,
        rollback: &Rollback,
        recover: &Recover,
        actions: &mut Vec<LocalAction>,
    ) {
        let &Rollback { stage, partition, after, from, .. } = rollback;
        let replay =
            Replay { after, through: recover.replay_through, attempt: attempt_of(recover) };
        let same = |s: StageId, p: PartitionId| (s, p) == (stage, partition);
        self.arrived.retain(|arrived| !same(arrived.stage, arrived.partition));
        let copy = self.copies.iter().position(|copy| same(copy.stage, copy.partition));
        if let Some(index) = copy {
            self.copies.swap_remove(index);
            if from != Restore::Copy {
                actions.push(LocalAction::DropCopy { stage, partition });
            }
        }
        if let Some(lane) = self.lanes.get_mut(stage, partition).filter(|l| l.last.is_some()) {
            // It is still on its way to the batch after which it was to move away.
            if from == Restore::Copy && lane.last == Some(after) {
                lane.last = None;
                lane.replays.push(replay);
                return;
            }
            if matches!(from, Restore::Position { .. }) && lane.last <= Some(after) {
                lane.resume = Some((after, from));
                lane.replays.push(replay);
                return;
            }
        }
        self.start_again(stage, partition, after, from, actions);
        let manifest = recover.manifest.as_ref();
        let chain = manifest.map_or_else(Vec::new, |m| m.chain_of(stage, partition));
        let lane = self.lanes.get_mut(stage, partition).expect("it was just added");
        lane.replays.push(replay);
        if from == Restore::Manifest {
            lane.snapshots.chain = chain;
        }
    }

    /// A new lane in place of any other, whose state is asked for.
    pub(super) fn start_again(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        after: BatchId,
        from: Restore,
        actions: &mut Vec<LocalAction>,
    ) {
        let replays = match self.lanes.remove(stage, partition) {
            Some(lane) => lane.replays,
            None => Vec::new(),
        };
        let state = LaneState::Restoring(after);
        self.lanes.add(stage, partition, after.next(), state).replays = replays;
        actions.push(LocalAction::Restore { stage, partition, after, from });
    }

    /// A partition lives elsewhere from now on, if it has lived here.
    fn give_up(&mut self, stage: StageId, partition: PartitionId, actions: &mut Vec<LocalAction>) {
        let lane = self.lanes.remove(stage, partition);
        let same = |s: StageId, p: PartitionId| (s, p) == (stage, partition);
        let arrived = self.arrived.iter().any(|a| same(a.stage, a.partition));
        self.arrived.retain(|arrived| !same(arrived.stage, arrived.partition));
        if lane.is_some() || arrived {
            actions.push(LocalAction::DropPartition { stage, partition });
        }
        if let Some(index) = self.copies.iter().position(|copy| same(copy.stage, copy.partition)) {
            self.copies.swap_remove(index);
            actions.push(LocalAction::DropCopy { stage, partition });
        }
    }

    /// What this core has written for partitions that start again goes to their new owners.
    fn resend_to_new_owners(&mut self, recover: &Recover, actions: &mut Vec<LocalAction>) {
        let mut moved = Vec::new();
        let oldest = recover.moved.iter().map(|rollback| rollback.after).min();
        let Some(oldest) = oldest else { return };
        for (reader, notice) in self.retained.after(oldest) {
            let stage = self.plan.edge(notice.edge).to;
            let starts_again = |partition: PartitionId, _| {
                let key = |rollback: &Rollback| (rollback.stage, rollback.partition);
                let found = recover.moved.binary_search_by_key(&(stage, partition), key);
                found.is_ok_and(|index| recover.moved[index].after < reader)
            };
            let owners = route(&self.plan, &self.history.placements, notice, starts_again);
            moved.extend(owners.into_iter().map(|(to, downstream)| {
                (to, notice.clone(), narrowed(notice, downstream, self.history.epoch))
            }));
        }
        self.resend(moved, actions);
    }

    pub(super) fn resend(&mut self, moved: Vec<Moved>, actions: &mut Vec<LocalAction>) {
        for (to, original, notice) in moved {
            let block = BlockName::of(&original);
            if to != self.core {
                actions.push(LocalAction::Resend { block, to, notice });
                continue;
            }
            if !self.options.bugs.has(Bug::PrefillLeftOut) {
                self.count(&notice);
            }
            actions.push(LocalAction::Reuse { block, notice });
        }
    }

    /// Keeps what a run has written, and sends on what it has written for an owner of before.
    pub(super) fn published(&mut self, published: &[Published], actions: &mut Vec<LocalAction>) {
        if !self.retained.is_kept() {
            return;
        }
        let durable = self.history.durable();
        let mut moved = Vec::new();
        for block in published {
            self.retained.keep(&self.plan, block, durable);
            let is_over = reader_of(&self.plan, &block.notice) <= durable;
            if is_over || self.options.bugs.has(Bug::RedirectForgotten) {
                continue;
            }
            let placements = &self.history.placements;
            let elsewhere = |_, owner| owner != block.to;
            let owners = route(&self.plan, placements, &block.notice, elsewhere);
            moved.extend(owners.into_iter().map(|(to, downstream)| {
                let notice = narrowed(&block.notice, downstream, self.history.epoch);
                (to, block.notice.clone(), notice)
            }));
        }
        self.resend(moved, actions);
        if self.retained.passes_high_mark() {
            actions.push(LocalAction::Report(CoreReport::HighMark));
        }
    }

    /// Offers the blocks again whose epoch has come.
    pub(super) fn offer_parked(&mut self) {
        let epoch = self.history.epoch;
        let (now, later) =
            std::mem::take(&mut self.parked).into_iter().partition(|n| n.epoch <= epoch);
        self.parked = later;
        let now: Vec<BlockNotice> = now;
        for notice in now {
            self.count(&notice);
        }
    }

    /// Says everything once more that the core may have missed.
    pub(super) fn reconnected(&mut self, worker: WorkerId, actions: &mut Vec<LocalAction>) {
        actions.extend(self.advertise(|core| core.worker == worker));
        let mut moved = Vec::new();
        for (reader, notice) in self.retained.after(self.history.durable()) {
            let owners = route(&self.plan, &self.history.placements, notice, |_, owner| {
                // One that has started again may be behind what it said before.
                let again = self.rolled_back.get(&owner).is_some_and(|&last| reader <= last);
                owner.worker == worker
                    && owner != self.core
                    && (again || reader > self.credit.heard_of(owner))
            });
            moved.extend(owners.into_iter().map(|(to, downstream)| {
                (to, notice.clone(), narrowed(notice, downstream, self.history.epoch))
            }));
        }
        self.resend(moved, actions);
        for copy in self.copies.iter().filter(|copy| copy.to.worker == worker) {
            self.ship(copy, actions);
        }
    }
}

/// The attempt of tasks that a recovery has run again: no two recoveries have the same epoch.
fn attempt_of(recover: &Recover) -> Attempt {
    Attempt(recover.epoch.0 as u32)
}
