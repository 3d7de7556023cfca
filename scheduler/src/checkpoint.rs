//! What a checkpoint consists of. A checkpoint of batch c holds everything that batch c + 1 needs.
//!
//! Every partition that keeps something between batches (sources, stages with state, and stages that
//! write to a feedback edge) takes a snapshot when it has finished batch c and before it starts the
//! next. A snapshot holds the changes since an earlier durable checkpoint, or all of the state. What a
//! partition wrote to feedback edges in batch c belongs to its snapshot of batch c.

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
