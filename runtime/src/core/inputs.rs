//! Blocks that wait for their tasks, by the batch and stage that read them.

use std::collections::BTreeMap;

use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{BatchId, StageId};
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
