//! Blocks that wait for their tasks, by the batch and stage that read them.

use std::collections::BTreeMap;

use drizzle_scheduler::local::{LocalScheduler, Run};
use drizzle_scheduler::message::BlockNotice;
use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{BatchId, Life, PartitionId, StageId};
use drizzle_shuffle::Block;

/// The blocks of batches that are not finished on this core.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    blocks: BTreeMap<(BatchId, StageId), Vec<Block>>,
    /// Lists of finished batches, to be used again.
    spare: Vec<Vec<Block>>,
}

impl Inputs {
    pub(super) fn add(&mut self, plan: &Plan, block: Block) {
        let edge = plan.edge(block.notice().edge);
        let batch = BatchId(block.notice().batch.0 + edge.batch_delta);
        let spare = &mut self.spare;
        let blocks = self.blocks.entry((batch, edge.to));
        blocks.or_insert_with(|| spare.pop().unwrap_or_default()).push(block);
    }

    pub(super) fn of(&self, batch: BatchId, stage: StageId) -> &[Block] {
        self.blocks.get(&(batch, stage)).map_or(&[], Vec::as_slice)
    }

    /// Lets go of blocks of a life that is over, for batches after `after`.
    pub(super) fn drop_of(&mut self, life: Life, after: BatchId) {
        let later = (after.next(), StageId(0))..;
        for blocks in self.blocks.range_mut(later).map(|(_, blocks)| blocks) {
            blocks.retain(|block| block.notice().life() != life);
        }
    }

    /// Lets go of the blocks of finished batches.
    pub(super) fn release(&mut self, completed: BatchId) {
        while let Some(first) = self.blocks.first_entry()
            && first.key().0 <= completed
        {
            let mut blocks = first.remove();
            blocks.clear();
            self.spare.push(blocks);
        }
    }
}

/// For which partitions of a run each block is folded, where they repeat each other: after a loss some come
/// twice, of several attempts, or for fewer readers. `None` where each is folded for all that it covers.
pub(super) fn choose(
    plan: &Plan,
    scheduler: &LocalScheduler,
    run: &Run,
    blocks: &[Block],
) -> Option<Vec<Vec<PartitionId>>> {
    if blocks.is_empty() || is_plain(plan, run, blocks) {
        return None;
    }
    let mut folded = vec![Vec::new(); blocks.len()];
    for (edge, _) in plan.edges_into(run.stage) {
        let places: Vec<usize> =
            (0..blocks.len()).filter(|&place| blocks[place].notice().edge == edge).collect();
        let notices: Vec<&BlockNotice> =
            places.iter().map(|&place| blocks[place].notice()).collect();
        for &partition in run.partitions.iter() {
            for picked in scheduler.inputs(edge, partition, &notices) {
                folded[places[picked]].push(partition);
            }
        }
    }
    Some(folded)
}

/// Whether every upstream partition is in exactly one block, and every block for all of the run.
fn is_plain(plan: &Plan, run: &Run, blocks: &[Block]) -> bool {
    let is_whole = |block: &Block| {
        let notice = block.notice();
        notice.attempt.0 == 0 && notice.downstream == run.partitions
    };
    let covered: usize = blocks.iter().map(|block| block.notice().upstream.len()).sum();
    let upstream: usize = plan
        .edges_into(run.stage)
        .map(|(_, edge)| plan.stage(edge.from).partition_count as usize)
        .sum();
    blocks.iter().all(is_whole) && covered == upstream
}
