//! What a checkpoint consists of. A checkpoint of batch c holds everything that batch c + 1 needs.
//!
//! Every partition that keeps something between batches (sources, stages with state, and stages that
//! write to a feedback edge) takes a snapshot when it has finished batch c and before it starts the
//! next. A snapshot holds the changes since an earlier durable checkpoint, or all of the state. What a
//! partition wrote to feedback edges in batch c belongs to its snapshot of batch c.
//!
//! A partition's snapshots in a manifest are a *chain*: a whole one and changes, each after one before it.
//! A new snapshot need not build on the newest of them: what it builds on is the last one that stays
//! in the chain ([`build_on`]).

use crate::ids::{
    BatchId, Incarnation, OrderNumber, PartitionId, Sequence, StageId, Term, Watermark,
};

/// A durable snapshot of one partition. Its name in storage is all of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot {
    /// The stage.
    pub stage: StageId,
    /// The partition.
    pub partition: PartitionId,
    /// The last batch that it includes.
    pub batch: BatchId,
    /// It holds the changes after this batch; all of the state where there is none.
    pub since: Option<BatchId>,
    /// Who took it.
    pub incarnation: Incarnation,
}

/// A whole checkpoint: an entry of the journal, never overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its place in the journal.
    pub sequence: Sequence,
    /// The driver that wrote it.
    pub term: Term,
    /// The batch of the checkpoint.
    pub batch: BatchId,
    /// The last decision made before it was written.
    pub number: OrderNumber,
    /// For each partition that keeps something its snapshots, ordered by stage and partition, and
    /// among those the oldest first: the first one is whole, the others are changes.
    pub snapshots: Vec<Snapshot>,
    /// How far each source partition was read in its batch, ordered.
    pub positions: Vec<SourcePosition>,
}

impl Manifest {
    /// The snapshots of one partition, oldest first.
    pub fn snapshots_of(
        &self,
        stage: StageId,
        partition: PartitionId,
    ) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(move |s| s.stage == stage && s.partition == partition)
    }

    /// The batches of these.
    pub fn chain_of(&self, stage: StageId, partition: PartitionId) -> Vec<BatchId> {
        self.snapshots_of(stage, partition).map(|snapshot| snapshot.batch).collect()
    }
}

/// What a snapshot builds on, of a chain that ends with the newest durable checkpoint; nothing: it is whole.
/// `changed` says how much of the state changed after a batch, or how much there is.
///
/// A link whose part of the state is no larger than what the new snapshot has anyway goes into it. So the
/// parts of those that stay at least double from each to the one before it: a chain has about
/// log2(state / changes) links, they hold little that is of no use any more, and a large state of which
/// little changes is never copied again as a whole (the logarithmic method of Bentley and Saxe, "Decomposable
/// searching problems", 1980, as in log-structured merge trees).
pub fn build_on(
    chain: &[BatchId],
    mut changed: impl FnMut(Option<BatchId>) -> u64,
) -> Option<BatchId> {
    let mut since = chain.last().copied();
    let mut own = changed(since);
    for number in (0..chain.len()).rev() {
        let before = number.checked_sub(1).map(|before| chain[before]);
        let with_it = changed(before);
        if with_it.saturating_sub(own) > own {
            break;
        }
        (since, own) = (before, with_it);
    }
    since
}

/// Where a source partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourcePosition {
    /// The source's stage.
    pub stage: StageId,
    /// Its partition.
    pub partition: PartitionId,
    /// The last batch that took from it.
    pub after: BatchId,
    /// Offset after the last one taken.
    pub offset: u64,
    /// Its watermark after that batch.
    pub watermark: Watermark,
    /// Whether it has ended.
    pub ended: bool,
}

#[cfg(test)]
mod tests;
