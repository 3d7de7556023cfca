//! All lanes of a core: which tasks are ready, and which batches are finished.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::bugs::{Bug, Bugs};
use crate::ids::{Attempt, BatchId, PartitionId, StageId, Watermark};
use crate::local::Offer;
use crate::local::lane::{Lane, LaneState, TaskState};
use crate::local::stage_lanes::{Counted, StageLanes};
use crate::message::BlockNotice;
use crate::plan::{Plan, StageKind};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lanes {
    plan: Arc<Plan>,
    bugs: Bugs,
    stages: Vec<StageLanes>,
    /// The last batch whose tasks on this core are all done.
    completed: BatchId,
    /// The batches after it, as far as they are laid out.
    window: VecDeque<Laid>,
    spare: Vec<Laid>,
    /// (batch, stages counted from the last): oldest batch first, then the stage nearest the sink.
    /// Each ready task is in one of them; some of them may hold none any more.
    ready: BTreeSet<(BatchId, u16)>,
    /// Bits of the upstream partitions of the block at hand.
    mask: Vec<u64>,
}

/// One batch.
#[derive(Debug, Default)]
struct Laid {
    unfinished: usize,
    /// Blocks counted, in case the batch is voided and scheduled anew.
    notices: Vec<BlockNotice>,
}

/// Ready tasks of one stage and batch that may run in one go.
#[derive(Debug)]
pub(super) struct ReadyTasks {
    pub(super) batch: BatchId,
    pub(super) stage: StageId,
    pub(super) partitions: Arc<[PartitionId]>,
    pub(super) watermark: Watermark,
    pub(super) attempt: Attempt,
}

/// What became of a task that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was not asked for any more.
    Stale,
    /// The oldest unfinished batch of its lane is the same as before.
    Waits,
    /// The lane has advanced from this batch to that.
    Advanced(BatchId, BatchId),
}

impl Lanes {
    pub(super) fn new(plan: Arc<Plan>, bugs: Bugs) -> Lanes {
        let stages = plan.stage_ids().map(|stage| StageLanes::new(&plan, stage)).collect();
        Lanes {
            plan,
            bugs,
            stages,
            completed: BatchId(0),
            window: VecDeque::new(),
            spare: Vec::new(),
            ready: BTreeSet::new(),
            mask: Vec::new(),
        }
    }

    pub(super) fn completed(&self) -> BatchId {
        self.completed
    }

    /// The last batch that is laid out.
    pub(super) fn horizon(&self) -> BatchId {
        BatchId(self.completed.0 + self.window.len() as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stages.iter().all(|stage| stage.lanes.is_empty())
    }

    pub(super) fn of(&self, stage: StageId) -> &[Lane] {
        &self.stages[stage.index()].lanes
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (StageId, &Lane)> {
        let stages = self.stages.iter().enumerate();
        stages.flat_map(|(index, stage)| {
            stage.lanes.iter().map(move |lane| (StageId(index as u16), lane))
        })
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (StageId, &mut Lane)> {
        let stages = self.stages.iter_mut().enumerate();
        stages.flat_map(|(index, stage)| {
            stage.lanes.iter_mut().map(move |lane| (StageId(index as u16), lane))
        })
    }

    pub(super) fn get(&self, stage: StageId, partition: PartitionId) -> Option<&Lane> {
        let lanes = &self.stages[stage.index()].lanes;
        let index = lanes.binary_search_by_key(&partition, |lane| lane.partition).ok()?;
        Some(&lanes[index])
    }

    pub(super) fn get_mut(&mut self, stage: StageId, partition: PartitionId) -> Option<&mut Lane> {
        let lanes = &mut self.stages[stage.index()].lanes;
        let index = lanes.binary_search_by_key(&partition, |lane| lane.partition).ok()?;
        Some(&mut lanes[index])
    }

    /// Adds a lane in place of any other of its partition; then comes [`Lanes::recount`].
    pub(super) fn add(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        first: BatchId,
        state: LaneState,
    ) -> &mut Lane {
        if self.is_empty() {
            // Nothing was counted, so nothing is lost where the batches of before start again.
            self.completed = self.completed.min(BatchId(first.0 - 1));
            self.window.clear();
        }
        let of_stage = &mut self.stages[stage.index()];
        let expected = of_stage.expected(&self.plan, partition);
        let lane = Lane::new(partition, first, state, expected);
        let lanes = &mut of_stage.lanes;
        let index = match lanes.binary_search_by_key(&partition, |lane| lane.partition) {
            Ok(index) => {
                lanes[index] = lane;
                index
            }
            Err(index) => {
                lanes.insert(index, lane);
                index
            }
        };
        of_stage.partitions = of_stage.lanes.iter().map(|lane| lane.partition).collect();
        &mut of_stage.lanes[index]
    }

    /// Drops a lane; then comes [`Lanes::recount`].
    pub(super) fn remove(&mut self, stage: StageId, partition: PartitionId) -> Option<Lane> {
        let of_stage = &mut self.stages[stage.index()];
        let lanes = &mut of_stage.lanes;
        let index = lanes.binary_search_by_key(&partition, |lane| lane.partition).ok()?;
        let lane = lanes.remove(index);
        of_stage.partitions = of_stage.lanes.iter().map(|lane| lane.partition).collect();
        Some(lane)
    }

    /// After lanes have come, gone or jumped: lays out what they lack and counts all batches anew.
    pub(super) fn recount(&mut self, mut awaits_release: impl FnMut(StageId, BatchId) -> bool) {
        let horizon = self.horizon();
        for (index, of_stage) in self.stages.iter_mut().enumerate() {
            let stage = StageId(index as u16);
            for lane in 0..of_stage.lanes.len() {
                let mut batch = of_stage.lanes[lane].end();
                while batch <= horizon && of_stage.lanes[lane].takes(batch) {
                    of_stage.push(lane, batch, awaits_release(stage, batch));
                    batch = batch.next();
                }
            }
        }
        let oldest = self.all().map(|(_, lane)| BatchId(lane.first.0 - 1)).min();
        let completed = oldest.map_or(self.completed, |oldest| oldest.min(self.completed));
        while self.completed > completed {
            self.completed.0 -= 1;
            self.window.push_front(self.spare.pop().unwrap_or_default());
        }
        for laid in &mut self.window {
            laid.unfinished = 0;
        }
        let first = self.completed.next();
        for of_stage in &self.stages {
            for lane in &of_stage.lanes {
                for (offset, slot) in lane.slots.iter().enumerate() {
                    let index = (lane.first.0 + offset as u64 - first.0) as usize;
                    self.window[index].unfinished += usize::from(slot.state != TaskState::Done);
                }
            }
        }
        self.note_all();
    }

    /// Lays out the batch after the horizon.
    pub(super) fn lay_out(&mut self, mut awaits_release: impl FnMut(StageId, BatchId) -> bool) {
        let batch = self.horizon().next();
        let mut laid = self.spare.pop().unwrap_or_default();
        laid.unfinished = 0;
        for (index, of_stage) in self.stages.iter_mut().enumerate() {
            let stage = StageId(index as u16);
            for lane in 0..of_stage.lanes.len() {
                if of_stage.lanes[lane].takes(batch) {
                    of_stage.push(lane, batch, awaits_release(stage, batch));
                    laid.unfinished += 1;
                    let waits_for_none = !of_stage.inputs.is_empty()
                        && of_stage.lanes[lane].slots.back().is_some_and(|slot| slot.is_ready());
                    if waits_for_none {
                        self.ready.insert((batch, u16::MAX - stage.0));
                    }
                }
            }
        }
        self.window.push_back(laid);
    }

    /// Retires the oldest batch if it is finished.
    pub(super) fn finish_batch(&mut self) -> bool {
        let Some(mut laid) = self.window.pop_front_if(|laid| laid.unfinished == 0) else {
            return false;
        };
        laid.notices.clear();
        self.spare.push(laid);
        self.completed = self.completed.next();
        true
    }

    /// Where there is no lane, all batches up to `batch` are finished, and none is laid out.
    pub(super) fn finish_all(&mut self, batch: BatchId) {
        self.window.clear();
        self.completed = self.completed.max(batch);
    }

    /// Voids the batches after `last_batch`; the blocks that were counted for them.
    pub(super) fn cut(&mut self, last_batch: BatchId) -> Vec<(BatchId, Vec<BlockNotice>)> {
        let mut voided = Vec::new();
        while self.horizon() > last_batch && !self.window.is_empty() {
            let batch = self.horizon();
            let laid = self.window.pop_back().expect("it is not empty");
            voided.push((batch, laid.notices));
        }
        self.completed = self.completed.min(last_batch);
        for (_, lane) in self.all_mut() {
            lane.truncate(last_batch);
        }
        self.ready.retain(|&(batch, _)| batch <= last_batch);
        voided
    }

    /// The planted mistake: tasks of a batch that is void are as good as done.
    pub(super) fn skip_batch(&mut self, batch: BatchId) {
        let index = (batch.0 - self.completed.0 - 1) as usize;
        self.window[index].unfinished = 0;
        for (_, lane) in self.all_mut() {
            if let Some(slot) = lane.slot_mut(batch) {
                slot.state = TaskState::Done;
            }
            lane.retire();
        }
    }

    /// Counts a block for tasks that are laid out.
    pub(super) fn arrived(&mut self, notice: &BlockNotice, batch: BatchId) -> Offer {
        let Some(index) = batch.0.checked_sub(self.completed.0 + 1) else {
            return Offer::Discard;
        };
        let plan = self.plan.clone();
        let edge = plan.edge(notice.edge);
        let mut mask = std::mem::take(&mut self.mask);
        let again = self.is_counted_again(notice, index as usize);
        let of_stage = &mut self.stages[edge.to.index()];
        let counted = of_stage.arrived(edge, notice, batch, &mut mask, again);
        self.mask = mask;
        match counted {
            Counted::Nothing => return Offer::Discard,
            Counted::Some => {}
            Counted::Last => {
                self.ready.insert((batch, u16::MAX - edge.to.0));
            }
        }
        self.window[index as usize].notices.push(notice.clone());
        Offer::Keep
    }

    /// The planted mistakes: whether this repetition is taken for news.
    fn is_counted_again(&self, notice: &BlockNotice, index: usize) -> bool {
        (self.bugs.has(Bug::DeduplicationOff) || self.bugs.has(Bug::AttemptsFolded))
            && self.window[index].notices.iter().any(|known| {
                known.edge == notice.edge
                    && known.batch == notice.batch
                    && known.upstream.iter().any(|upstream| notice.upstream.contains(upstream))
                    && !is_repetition(self.bugs, known.attempt, notice.attempt)
            })
    }

    /// The driver's release has come.
    pub(super) fn released(&mut self, stage: StageId, batch: BatchId) {
        for lane in &mut self.stages[stage.index()].lanes {
            if let Some(slot) = lane.slot_mut(batch).filter(|slot| slot.awaits_release) {
                slot.awaits_release = false;
                slot.left = slot.left.saturating_sub(1);
            }
        }
        if self.stages[stage.index()].has_ready(batch) {
            self.ready.insert((batch, u16::MAX - stage.0));
        }
    }

    /// The batch that [`Lanes::take_ready`] would take from.
    pub(super) fn first_ready(&mut self) -> Option<BatchId> {
        loop {
            let &(batch, rank) = self.ready.first()?;
            if self.stages[usize::from(u16::MAX - rank)].has_ready(batch) {
                return Some(batch);
            }
            self.ready.pop_first();
        }
    }

    /// Starts the ready tasks of the oldest batch, there of the stage nearest the sink. Tasks of one
    /// go have one watermark, and a task that may have run before goes alone.
    pub(super) fn take_ready(&mut self) -> Option<ReadyTasks> {
        let batch = self.first_ready()?;
        let &(_, rank) = self.ready.first()?;
        let stage = StageId(u16::MAX - rank);
        let of_stage = &mut self.stages[stage.index()];
        let tasks = of_stage.take(stage, batch)?;
        if !of_stage.has_ready(batch) {
            self.ready.pop_first();
        }
        Some(tasks)
    }

    /// Starts the tasks of a source stage whose turn `batch` is.
    pub(super) fn take_source(&mut self, stage: StageId, batch: BatchId) -> Option<ReadyTasks> {
        self.stages[stage.index()].take(stage, batch)
    }

    /// Marks a task as done, if it is running.
    pub(super) fn done(
        &mut self,
        stage: StageId,
        batch: BatchId,
        partition: PartitionId,
        attempt: Attempt,
    ) -> Ended {
        let Some(lane) = self.get_mut(stage, partition) else { return Ended::Stale };
        if lane.attempt(batch) != attempt {
            return Ended::Stale;
        }
        let slot = lane.slot_mut(batch).filter(|slot| slot.state == TaskState::Running);
        let Some(slot) = slot else { return Ended::Stale };
        slot.state = TaskState::Done;
        let before = lane.first;
        lane.retire();
        let after = lane.first;
        let next_is_ready = lane.slots.front().is_some_and(|slot| slot.is_ready());
        let index = (batch.0 - self.completed.0 - 1) as usize;
        self.window[index].unfinished -= 1;
        if before == after {
            return Ended::Waits;
        }
        if next_is_ready && self.stages[stage.index()].kind == StageKind::Stateful {
            self.ready.insert((after, u16::MAX - stage.0));
        }
        Ended::Advanced(before, after)
    }

    /// Whether no task of a stage and batch is unfinished.
    pub(super) fn is_stage_done(&self, stage: StageId, batch: BatchId) -> bool {
        let is_done = |lane: &Lane| {
            lane.first > batch || lane.slot(batch).is_none_or(|slot| slot.state == TaskState::Done)
        };
        self.of(stage).iter().all(is_done)
    }

    /// After lanes have got their state or their place: finds all that is ready.
    pub(super) fn note_all(&mut self) {
        for (index, of_stage) in self.stages.iter().enumerate() {
            if matches!(of_stage.kind, StageKind::Source(_)) {
                continue;
            }
            for lane in &of_stage.lanes {
                for (offset, slot) in lane.slots.iter().enumerate() {
                    if slot.is_ready() {
                        let batch = BatchId(lane.first.0 + offset as u64);
                        self.ready.insert((batch, u16::MAX - index as u16));
                    }
                }
            }
        }
        let stages = &self.stages;
        self.ready.retain(|&(batch, rank)| stages[usize::from(u16::MAX - rank)].has_ready(batch));
    }

    /// The first upstream partition that a task misses.
    pub(super) fn missing(
        &self,
        stage: StageId,
        lane: &Lane,
        batch: BatchId,
    ) -> Option<PartitionId> {
        let slot = lane.slot(batch)?;
        self.stages[stage.index()].inputs.iter().find_map(|input| {
            if batch.0 <= input.batch_delta {
                return None;
            }
            let edge = &self.plan.edges[input.edge];
            let upstream = (0..self.plan.stage(edge.from).partition_count).map(PartitionId);
            let mut awaited = upstream.filter(|&p| Plan::connects(edge, p, lane.partition));
            awaited.find(|p| slot.seen[input.at + p.index() / 64] & 1 << (p.index() % 64) == 0)
        })
    }

    #[cfg(test)]
    pub(super) fn states_kept(&self) -> usize {
        self.window.len() + self.spare.len()
    }
}

/// Whether a block is known to be the same as one of another attempt.
pub(super) fn is_repetition(bugs: Bugs, known: Attempt, attempt: Attempt) -> bool {
    if bugs.has(Bug::DeduplicationOff) {
        return known != attempt;
    }
    !bugs.has(Bug::AttemptsFolded) || known == attempt
}
