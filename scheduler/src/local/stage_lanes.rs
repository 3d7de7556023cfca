//! The lanes of one stage on one core.

use std::sync::Arc;

use crate::ids::{Attempt, BatchId, PartitionId, StageId};
use crate::local::lane::{Lane, LaneState, TaskState};
use crate::local::lanes::ReadyTasks;
use crate::message::BlockNotice;
use crate::plan::{Edge, Pattern, Plan, StageKind};

/// The lanes of one stage.
#[derive(Debug)]
pub(super) struct StageLanes {
    pub(super) kind: StageKind,
    pub(super) inputs: Vec<Input>,
    /// Words of the bit sets of one task, over all inputs.
    words: usize,
    /// Ascending by partition.
    pub(super) lanes: Vec<Lane>,
    pub(super) partitions: Arc<[PartitionId]>,
}

#[derive(Debug)]
pub(super) struct Input {
    pub(super) edge: usize,
    pub(super) batch_delta: u64,
    /// Where its bit set begins among those of a task, and how long it is.
    pub(super) at: usize,
    words: usize,
}

/// What a block was to the tasks that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    Nothing,
    Some,
    /// A task waits for nothing any more.
    Last,
}

impl StageLanes {
    pub(super) fn new(plan: &Plan, stage: StageId) -> StageLanes {
        let mut at = 0;
        let inputs = plan.edges_into(stage).map(|(id, edge)| {
            let words = plan.stage(edge.from).partition_count.div_ceil(64) as usize;
            at += words;
            Input { edge: id.index(), batch_delta: edge.batch_delta, at: at - words, words }
        });
        StageLanes {
            kind: plan.stage(stage).kind,
            inputs: inputs.collect(),
            words: at,
            lanes: Vec::new(),
            partitions: Arc::new([]),
        }
    }

    pub(super) fn expected(&self, plan: &Plan, partition: PartitionId) -> Vec<u32> {
        let inputs = self.inputs.iter();
        inputs.map(|input| plan.inputs_of(&plan.edges[input.edge], partition)).collect()
    }

    pub(super) fn push(&mut self, lane: usize, batch: BatchId, awaits_release: bool) {
        let lane = &mut self.lanes[lane];
        // Nothing was fed back before the first batch.
        let counts = self.inputs.iter().zip(&lane.expected);
        let counts = counts.filter(|(input, _)| batch.0 > input.batch_delta);
        let left = counts.map(|(_, expected)| expected).sum();
        lane.push(self.words, left, awaits_release);
    }

    pub(super) fn arrived(
        &mut self,
        edge: &Edge,
        notice: &BlockNotice,
        batch: BatchId,
        mask: &mut Vec<u64>,
        again: bool,
    ) -> Counted {
        let input = self.inputs.iter().find(|input| input.edge == notice.edge.index());
        let input = input.expect("the edge leads into this stage");
        let all_to_all = edge.pattern == Pattern::AllToAll;
        if all_to_all {
            fill(mask, input.words, &notice.upstream);
        }
        let mut counted = Counted::Nothing;
        let mut hint = 0;
        for &downstream in notice.downstream.iter() {
            if self.lanes.get(hint).is_none_or(|lane| lane.partition != downstream) {
                let found = self.lanes.binary_search_by_key(&downstream, |lane| lane.partition);
                let Ok(found) = found else { continue };
                hint = found;
            }
            let lane = &mut self.lanes[hint];
            hint += 1;
            let Some(slot) = lane.slot_mut(batch) else { continue };
            let seen = &mut slot.seen[input.at..input.at + input.words];
            let connected = match all_to_all {
                true => &notice.upstream[..],
                false => connected(edge.pattern, &notice.upstream, downstream),
            };
            let mut new = 0;
            if all_to_all {
                for (seen, mask) in seen.iter_mut().zip(mask.iter()) {
                    new += (mask & !*seen).count_ones();
                    *seen |= mask;
                }
            } else {
                for partition in connected {
                    let (word, bit) = (partition.index() / 64, 1_u64 << (partition.index() % 64));
                    new += u32::from(seen[word] & bit == 0);
                    seen[word] |= bit;
                }
            }
            if again && new == 0 && slot.state == TaskState::Waiting {
                new = connected.len() as u32;
            }
            if new > 0 {
                slot.left = slot.left.saturating_sub(new);
                if edge.batch_delta == 0 {
                    slot.watermark = slot.watermark.min(notice.watermark);
                }
                let last = if slot.is_ready() { Counted::Last } else { Counted::Some };
                counted = counted.max(last);
            }
        }
        counted
    }

    fn is_ready(&self, lane: &Lane, batch: BatchId) -> bool {
        lane.state == LaneState::Here
            && (!self.kind.follows_its_predecessor() || lane.first == batch)
            && lane.slot(batch).is_some_and(|slot| slot.is_ready())
    }

    pub(super) fn has_ready(&self, batch: BatchId) -> bool {
        self.lanes.iter().any(|lane| self.is_ready(lane, batch))
    }

    pub(super) fn take(&mut self, stage: StageId, batch: BatchId) -> Option<ReadyTasks> {
        let is_ready = |lane: &Lane| self.is_ready(lane, batch);
        let first = self.lanes.iter().find(|lane| is_ready(lane))?;
        let (partition, attempt) = (first.partition, first.attempt(batch));
        let watermark = first.slot(batch)?.watermark;
        let joins = |lane: &Lane| {
            let alone = attempt > Attempt(0) || lane.attempt(batch) > Attempt(0);
            is_ready(lane)
                && lane.slot(batch).is_some_and(|slot| slot.watermark == watermark)
                && (!alone || lane.partition == partition)
        };
        let partitions = match self.lanes.iter().all(joins) {
            true => self.partitions.clone(),
            false => self.lanes.iter().filter(|l| joins(l)).map(|l| l.partition).collect(),
        };
        let mut index = 0;
        for &partition in partitions.iter() {
            while self.lanes[index].partition != partition {
                index += 1;
            }
            let slot = self.lanes[index].slot_mut(batch).expect("it is ready");
            slot.state = TaskState::Running;
        }
        Some(ReadyTasks { batch, stage, partitions, watermark, attempt })
    }
}

fn fill(mask: &mut Vec<u64>, words: usize, upstream: &[PartitionId]) {
    mask.clear();
    mask.resize(words, 0);
    for partition in upstream {
        mask[partition.index() / 64] |= 1 << (partition.index() % 64);
    }
}

/// Those of some upstream partitions, ascending, that a task reads from.
fn connected(
    pattern: Pattern,
    upstream: &[PartitionId],
    downstream: PartitionId,
) -> &[PartitionId] {
    let (first, end) = match pattern {
        Pattern::AllToAll => return upstream,
        Pattern::Forward => (downstream.0, downstream.0 + 1),
        Pattern::Tree { fan_in } => {
            (downstream.0.saturating_mul(fan_in), downstream.next().0.saturating_mul(fan_in))
        }
    };
    let from = upstream.partition_point(|partition| partition.0 < first);
    let to = from + upstream[from..].partition_point(|partition| partition.0 < end);
    &upstream[from..to]
}
