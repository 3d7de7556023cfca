//! The blocks that a core has written and keeps for readers that may be lost, until a durable
//! manifest covers them.

use std::collections::BTreeMap;

use crate::bugs::{Bug, Bugs};
use crate::ids::{BatchId, CoreId, PartitionId};
use crate::local::{Published, Retention};
use crate::message::BlockNotice;
use crate::placement::PlacementHistory;
use crate::plan::Plan;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Retained {
    retention: Retention,
    bugs: Bugs,
    /// By the batch that reads them.
    blocks: BTreeMap<BatchId, Vec<Kept>>,
    bytes: u64,
    level: Level,
}

#[derive(Debug)]
struct Kept {
    notice: BlockNotice,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Low,
    /// The driver was told.
    High,
}

impl Retained {
    pub(super) fn new(retention: Retention, bugs: Bugs) -> Retained {
        Retained { retention, bugs, blocks: BTreeMap::new(), bytes: 0, level: Level::Low }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.retention != Retention::WhenFolded
    }

    pub(super) fn keep(&mut self, plan: &Plan, published: &Published, durable: BatchId) {
        let reader = reader_of(plan, &published.notice);
        if !self.is_kept() || reader <= durable {
            return;
        }
        self.bytes += published.bytes;
        let kept = Kept { notice: published.notice.clone(), bytes: published.bytes };
        self.blocks.entry(reader).or_default().push(kept);
    }

    /// Drops what no batch after that of the manifest reads; the last batch dropped.
    pub(super) fn forget(&mut self, durable: BatchId) -> BatchId {
        let short = self.bugs.has(Bug::RetentionShort);
        let through = if short { durable.next() } else { durable };
        let later = self.blocks.split_off(&through.next());
        let gone = std::mem::replace(&mut self.blocks, later);
        // One manifest may not have been enough: then the next is wanted at once too.
        self.level = Level::Low;
        self.bytes -= gone.values().flatten().map(|kept| kept.bytes).sum::<u64>();
        through
    }

    /// True once when there is more than the high mark, until there is less or a manifest came.
    pub(super) fn passes_high_mark(&mut self) -> bool {
        let Retention::UntilDurable { high_mark_bytes, .. } = self.retention else { return false };
        let before = self.level;
        self.level = if self.bytes > high_mark_bytes { Level::High } else { Level::Low };
        (before, self.level) == (Level::Low, Level::High)
    }

    /// Whether nothing more fits.
    pub(super) fn is_full(&self) -> bool {
        match self.retention {
            Retention::WhenFolded => false,
            Retention::UntilDurable { limit_bytes, .. } => self.bytes > limit_bytes,
        }
    }

    /// All blocks whose reader's batch is after `batch`, with that batch.
    pub(super) fn after(&self, batch: BatchId) -> impl Iterator<Item = (BatchId, &BlockNotice)> {
        let later = self.blocks.range(batch.next()..);
        later.flat_map(|(&reader, kept)| kept.iter().map(move |kept| (reader, &kept.notice)))
    }
}

/// The batch that reads a block.
pub(super) fn reader_of(plan: &Plan, notice: &BlockNotice) -> BatchId {
    BatchId(notice.batch.0 + plan.edge(notice.edge).batch_delta)
}

/// Those of the partitions that read a block that `wanted` names, by the core that owns them.
pub(super) fn route(
    plan: &Plan,
    placements: &PlacementHistory,
    notice: &BlockNotice,
    mut wanted: impl FnMut(PartitionId, CoreId) -> bool,
) -> BTreeMap<CoreId, Vec<PartitionId>> {
    let mut owners: BTreeMap<CoreId, Vec<PartitionId>> = BTreeMap::new();
    let Some(placement) = placements.at(reader_of(plan, notice)) else { return owners };
    let stage = plan.edge(notice.edge).to;
    for &partition in notice.downstream.iter() {
        let owner = placement.core_of(stage, partition);
        if wanted(partition, owner) {
            owners.entry(owner).or_default().push(partition);
        }
    }
    owners
}

/// A block as it is sent once more, to some of its readers.
pub(super) fn narrowed(
    notice: &BlockNotice,
    downstream: Vec<PartitionId>,
    epoch: crate::ids::Epoch,
) -> BlockNotice {
    BlockNotice { epoch, downstream: downstream.into(), ..notice.clone() }
}
