//! The tasks of one batch on one core, laid out: how many things each still waits for.

use std::sync::Arc;

use crate::ids::{BatchId, CoreId, Epoch, PartitionId, StageId, Watermark};
use crate::local::{Offer, Prescheduling};
use crate::message::BlockNotice;
use crate::placement::Placement;
use crate::plan::{Plan, StageKind};

/// One batch, from the moment it is laid out until all its tasks are done. States are used again
/// for later batches, so that a batch costs no allocation.
#[derive(Debug)]
pub(super) struct BatchState {
    pub(super) batch: BatchId,
    /// Placement that the tables below were made for.
    epoch: Option<Epoch>,
    stages: Vec<StageState>,
    unfinished: usize,
    /// Blocks counted, in case the batch is voided and scheduled anew.
    notices: Vec<BlockNotice>,
}

#[derive(Debug)]
struct StageState {
    /// Partitions of this core, ascending.
    partitions: Arc<[PartitionId]>,
    tasks: Vec<TaskState>,
    /// For each edge into the stage: which upstream partitions each task has heard of.
    inputs: Vec<Input>,
    ready: usize,
    unfinished: usize,
    watermark: Watermark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    /// It waits for so many things; ready at 0.
    Waiting(u32),
    Running,
    Done,
}

#[derive(Debug)]
struct Input {
    edge: usize,
    /// Words of the bit set of one task.
    words: usize,
    /// The bit sets, task after task.
    seen: Vec<u64>,
    /// Upstream partitions that one task waits for.
    expected: u32,
}

impl Default for BatchState {
    fn default() -> BatchState {
        let (stages, notices) = (Vec::new(), Vec::new());
        BatchState { batch: BatchId(0), epoch: None, stages, unfinished: 0, notices }
    }
}

impl BatchState {
    /// Fills the tables for `batch`; `before` is the state of the batch before it, if unfinished.
    pub(super) fn lay_out(
        &mut self,
        plan: &Plan,
        placement: &Placement,
        core: CoreId,
        batch: BatchId,
        prescheduling: Prescheduling,
        before: Option<&BatchState>,
    ) {
        if self.epoch != Some(placement.epoch) {
            let stages = plan.stage_ids();
            self.stages = stages.map(|s| StageState::new(plan, placement, core, s)).collect();
            self.epoch = Some(placement.epoch);
        }
        self.batch = batch;
        self.notices.clear();
        self.unfinished = 0;
        for stage in plan.stage_ids() {
            let release =
                prescheduling == Prescheduling::Off && plan.edges_into(stage).next().is_some();
            let kind = plan.stage(stage).kind;
            let before = before.filter(|_| kind.follows_its_predecessor());
            let state = &mut self.stages[stage.index()];
            state.reset(kind, u32::from(release), |partition| {
                before.is_some_and(|before| before.is_unfinished(stage, partition))
            });
            self.unfinished += state.unfinished;
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    pub(super) fn has_tasks(&self, stage: StageId) -> bool {
        !self.stages[stage.index()].partitions.is_empty()
    }

    /// Stages that have tasks ready to run. Source stages never do: they are started by time.
    pub(super) fn ready_stages(&self) -> impl Iterator<Item = StageId> + '_ {
        let stages = self.stages.iter().enumerate().filter(|(_, stage)| stage.ready > 0);
        stages.map(|(index, _)| StageId(index as u16))
    }

    /// Counts a block. Either all that it covers is new, or all of it is a repetition.
    pub(super) fn arrived(&mut self, plan: &Plan, notice: &BlockNotice) -> Offer {
        let to = plan.edge(notice.edge).to;
        let offer = self.stages[to.index()].arrived(plan, notice);
        if offer == Offer::Keep {
            self.notices.push(notice.clone());
        }
        offer
    }

    pub(super) fn released(&mut self, stage: StageId) {
        let state = &mut self.stages[stage.index()];
        for index in 0..state.tasks.len() {
            state.count_down(index, 1);
        }
    }

    pub(super) fn predecessor_done(&mut self, stage: StageId, partitions: &[PartitionId]) {
        let state = &mut self.stages[stage.index()];
        if state.inputs.is_empty() {
            return; // A source stage is kept in order by its cursor.
        }
        for &partition in partitions {
            if let Some(index) = state.index_of(partition) {
                state.count_down(index, 1);
            }
        }
    }

    /// Starts all tasks of a source stage.
    pub(super) fn take_all(&mut self, stage: StageId) -> Arc<[PartitionId]> {
        let state = &mut self.stages[stage.index()];
        state.tasks.fill(TaskState::Running);
        state.partitions.clone()
    }

    /// Starts the ready tasks of a stage; their watermark comes with them.
    pub(super) fn take_ready(&mut self, stage: StageId) -> (Arc<[PartitionId]>, Watermark) {
        let state = &mut self.stages[stage.index()];
        let all = state.ready == state.tasks.len();
        let mut taken = Vec::new();
        for (index, task) in state.tasks.iter_mut().enumerate() {
            if *task == TaskState::Waiting(0) {
                *task = TaskState::Running;
                if !all {
                    taken.push(state.partitions[index]);
                }
            }
        }
        state.ready = 0;
        let partitions = if all { state.partitions.clone() } else { taken.into() };
        (partitions, state.watermark)
    }

    /// Marks tasks as done; true when they were the last ones of their stage.
    pub(super) fn done(&mut self, stage: StageId, partitions: &[PartitionId]) -> bool {
        let state = &mut self.stages[stage.index()];
        for &partition in partitions {
            let index = state.index_of(partition).expect("it ran here");
            assert_eq!(state.tasks[index], TaskState::Running, "a task ends once");
            state.tasks[index] = TaskState::Done;
        }
        state.unfinished -= partitions.len();
        self.unfinished -= partitions.len();
        state.unfinished == 0
    }

    pub(super) fn take_notices(&mut self) -> Vec<BlockNotice> {
        std::mem::take(&mut self.notices)
    }

    /// The first task that is not done, and the first upstream partition that it misses.
    pub(super) fn first_unfinished(
        &self,
        plan: &Plan,
    ) -> Option<(StageId, PartitionId, Option<PartitionId>)> {
        plan.stage_ids().find_map(|stage| {
            let state = &self.stages[stage.index()];
            let index = state.tasks.iter().position(|&task| task != TaskState::Done)?;
            let partition = state.partitions[index];
            let missing = state.inputs.iter().find_map(|input| {
                let edge = &plan.edges[input.edge];
                let upstream = (0..plan.stage(edge.from).partition_count).map(PartitionId);
                let mut awaited = upstream.filter(|&p| Plan::connects(edge, p, partition));
                awaited.find(|&upstream| !input.has_seen(index, upstream))
            });
            Some((stage, partition, missing))
        })
    }

    fn is_unfinished(&self, stage: StageId, partition: PartitionId) -> bool {
        let state = &self.stages[stage.index()];
        state.index_of(partition).is_some_and(|index| state.tasks[index] != TaskState::Done)
    }
}

impl StageState {
    fn new(plan: &Plan, placement: &Placement, core: CoreId, stage: StageId) -> StageState {
        let partitions: Arc<[PartitionId]> = placement.partitions_on(stage, core).into();
        let inputs = plan.edges_into(stage).map(|(id, edge)| {
            let words = plan.stage(edge.from).partition_count.div_ceil(64) as usize;
            let seen = vec![0; words * partitions.len()];
            Input { edge: id.index(), words, seen, expected: plan.inputs_on(edge) }
        });
        StageState {
            inputs: inputs.collect(),
            tasks: Vec::new(),
            partitions,
            ready: 0,
            unfinished: 0,
            watermark: Watermark::END,
        }
    }

    fn reset(
        &mut self,
        kind: StageKind,
        releases: u32,
        mut waits_for_predecessor: impl FnMut(PartitionId) -> bool,
    ) {
        let blocks: u32 = self.inputs.iter().map(|input| input.expected).sum();
        for input in &mut self.inputs {
            input.seen.fill(0);
        }
        self.tasks.clear();
        for &partition in self.partitions.iter() {
            let predecessor = u32::from(waits_for_predecessor(partition));
            self.tasks.push(TaskState::Waiting(blocks + releases + predecessor));
        }
        self.unfinished = self.tasks.len();
        self.watermark = Watermark::END;
        self.ready = match kind {
            StageKind::Source(_) => 0,
            StageKind::Stateful | StageKind::Stateless => {
                self.tasks.iter().filter(|&&task| task == TaskState::Waiting(0)).count()
            }
        };
    }

    fn arrived(&mut self, plan: &Plan, notice: &BlockNotice) -> Offer {
        let edge = plan.edge(notice.edge);
        let position = self.inputs.iter().position(|input| input.edge == notice.edge.index());
        let position = position.expect("the edge leads into this stage");
        let mut offer = Offer::Discard;
        for &downstream in notice.downstream.iter() {
            let Some(index) = self.index_of(downstream) else { continue };
            let connected = notice.upstream.iter().copied();
            let connected =
                connected.filter(|&upstream| Plan::connects(edge, upstream, downstream));
            let new = self.inputs[position].mark(index, connected);
            if new > 0 {
                offer = Offer::Keep;
                self.count_down(index, new);
            }
        }
        if offer == Offer::Keep {
            self.watermark = self.watermark.min(notice.watermark);
        }
        offer
    }

    fn count_down(&mut self, index: usize, by: u32) {
        let TaskState::Waiting(left) = &mut self.tasks[index] else {
            panic!("a task that runs waits for nothing");
        };
        *left = left.checked_sub(by).expect("a dependency is counted once");
        self.ready += usize::from(*left == 0);
    }

    fn index_of(&self, partition: PartitionId) -> Option<usize> {
        self.partitions.binary_search(&partition).ok()
    }
}

impl Input {
    /// Marks upstream partitions as seen by a task; how many were new.
    fn mark(&mut self, task: usize, upstream: impl Iterator<Item = PartitionId>) -> u32 {
        let seen = &mut self.seen[task * self.words..(task + 1) * self.words];
        let mut new = 0;
        for partition in upstream {
            let (word, bit) = (partition.index() / 64, 1_u64 << (partition.index() % 64));
            new += u32::from(seen[word] & bit == 0);
            seen[word] |= bit;
        }
        new
    }

    fn has_seen(&self, task: usize, upstream: PartitionId) -> bool {
        let word = self.seen[task * self.words + upstream.index() / 64];
        word & 1 << (upstream.index() % 64) != 0
    }
}
