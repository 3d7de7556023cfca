//! Lineage: what each source task consumed. Every batch takes a range of every source partition,
//! and each range begins where the one before it ended, so every record is in exactly one batch.

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::{BatchId, PartitionId, StageId};
use crate::message::TakenRange;
use crate::plan::Plan;

/// How far each source partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    partitions: BTreeMap<(StageId, PartitionId), Progress>,
    open: usize,
}

/// How far one source partition has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last batch that took from it.
    pub batch: BatchId,
    /// First offset that was ever taken.
    pub from: u64,
    /// Offset after the last one taken.
    pub to: u64,
    /// The batch that saw its end.
    pub ended_in: Option<BatchId>,
}

/// A range that does not follow the one before it: a record would be lost or counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenLineage {
    /// What was known.
    pub known: Progress,
    /// What was reported.
    pub taken: TakenRange,
}

impl fmt::Display for BrokenLineage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = &self.taken.range;
        write!(
            formatter,
            "{} of {} took [{}, {}) in {}, but {} had taken up to {}",
            range.partition,
            range.stage,
            range.from,
            range.to,
            self.taken.batch,
            self.known.batch,
            self.known.to
        )
    }
}

impl Lineage {
    /// Nothing taken yet from any source partition of the plan.
    pub fn new(plan: &Plan) -> Lineage {
        let partitions: BTreeMap<_, _> =
            plan.source_partitions().map(|key| (key, Progress::default())).collect();
        Lineage { open: partitions.len(), partitions }
    }

    /// Adds what a batch took.
    pub fn record(&mut self, taken: &TakenRange) -> Result<(), BrokenLineage> {
        let key = (taken.range.stage, taken.range.partition);
        let known = self.partitions.get(&key).copied().unwrap_or_default();
        let first = known.batch == BatchId(0);
        let follows = taken.batch == known.batch.next()
            && (first || taken.range.from == known.to)
            && taken.range.from <= taken.range.to;
        if !follows || !self.partitions.contains_key(&key) {
            return Err(BrokenLineage { known, taken: *taken });
        }
        let from = if first { taken.range.from } else { known.from };
        let ended_in = known.ended_in.or(taken.ended.then_some(taken.batch));
        self.open -= usize::from(known.ended_in.is_none() && ended_in.is_some());
        let progress = Progress { batch: taken.batch, from, to: taken.range.to, ended_in };
        self.partitions.insert(key, progress);
        Ok(())
    }

    /// The batch in which the last source partition ended, once all have.
    pub fn ended_in(&self) -> Option<BatchId> {
        if self.open > 0 {
            return None;
        }
        self.partitions.values().filter_map(|progress| progress.ended_in).max()
    }

    /// How far each source partition has been read.
    pub fn partitions(&self) -> impl Iterator<Item = (StageId, PartitionId, Progress)> + '_ {
        self.partitions.iter().map(|(&(stage, partition), &progress)| (stage, partition, progress))
    }
}

#[cfg(test)]
mod tests;
