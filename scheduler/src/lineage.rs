//! Lineage: what each source task consumed. Every batch takes a range of every source partition,
//! and each range begins where the one before it ended, so every record is in exactly one batch.
//!
//! Ranges come from several workers, twice and in any order. One that is known is compared; one that
//! does not follow yet waits for those before it. Those of a durable checkpoint are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::checkpoint::SourcePosition;
use crate::ids::{BatchId, PartitionId, StageId, Watermark};
use crate::message::TakenRange;
use crate::plan::Plan;

/// How far each source partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    partitions: BTreeMap<(StageId, PartitionId), Known>,
    /// How many have not ended.
    open: usize,
    /// The newest batch of which anything is known.
    newest: BatchId,
    /// Partitions with ranges that are not in the journal.
    unwritten: BTreeSet<(StageId, PartitionId)>,
}

/// What is known of one source partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// First offset that was ever taken.
    first: Option<u64>,
    /// The last batch that was forgotten, and where it ended.
    base: SourcePosition,
    /// Every batch after `base`, without gaps.
    ranges: BTreeMap<BatchId, TakenRange>,
    /// Ranges that wait for others before them.
    early: BTreeMap<BatchId, TakenRange>,
    /// Up to this batch they are in the journal.
    written: BatchId,
    ended_in: Option<BatchId>,
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

/// What became of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was not known.
    New,
    /// It was known, and the same.
    Known,
    /// It waits for ranges before it.
    Early,
}

/// A range that does not follow the one before it, or is not what was known of its batch: a record
/// would be lost or counted twice.
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

impl Known {
    fn starting_at(base: SourcePosition) -> Known {
        let first = (base.after > BatchId(0)).then_some(base.offset);
        let ended_in = base.ended.then_some(base.after);
        let (ranges, early) = (BTreeMap::new(), BTreeMap::new());
        Known { first, base, ranges, early, written: base.after, ended_in }
    }

    fn last(&self) -> BatchId {
        self.ranges.last_key_value().map_or(self.base.after, |(&batch, _)| batch)
    }

    fn position(&self, batch: BatchId) -> Option<SourcePosition> {
        if batch == self.base.after {
            return Some(self.base);
        }
        let taken = self.ranges.get(&batch)?;
        Some(SourcePosition {
            stage: self.base.stage,
            partition: self.base.partition,
            after: batch,
            offset: taken.range.to,
            watermark: taken.watermark,
            ended: taken.ended,
        })
    }

    fn progress(&self) -> Progress {
        let last = self.position(self.last()).expect("the last batch is known");
        let from = self.first.unwrap_or(0);
        Progress { batch: last.after, from, to: last.offset, ended_in: self.ended_in }
    }

    fn learn(&mut self, taken: &TakenRange) -> Result<Learned, BrokenLineage> {
        let broken = BrokenLineage { known: self.progress(), taken: *taken };
        if taken.range.from > taken.range.to {
            return Err(broken);
        }
        if taken.batch <= self.base.after {
            return Ok(Learned::Known);
        }
        let known = self.ranges.get(&taken.batch).or_else(|| self.early.get(&taken.batch));
        if let Some(known) = known {
            return if known == taken { Ok(Learned::Known) } else { Err(broken) };
        }
        if taken.batch > self.last().next() {
            self.early.insert(taken.batch, *taken);
            return Ok(Learned::Early);
        }
        self.append(taken)?;
        while let Some(next) = self.early.remove(&self.last().next()) {
            self.append(&next)?;
        }
        Ok(Learned::New)
    }

    /// Takes what several batches took, of which only the end is kept.
    fn follow(&mut self, taken: &TakenRange) -> Result<(), BrokenLineage> {
        let known = self.progress();
        if taken.range.from > taken.range.to || taken.batch <= known.batch {
            return Err(BrokenLineage { known, taken: *taken });
        }
        self.append(taken)?;
        self.base = self.position(taken.batch).expect("it was taken just now");
        self.ranges.clear();
        self.written = taken.batch;
        Ok(())
    }

    fn append(&mut self, taken: &TakenRange) -> Result<(), BrokenLineage> {
        let known = self.progress();
        let first = self.first.get_or_insert(taken.range.from);
        if known.batch == BatchId(0) && *first != taken.range.from
            || known.batch > BatchId(0) && known.to != taken.range.from
        {
            return Err(BrokenLineage { known, taken: *taken });
        }
        self.ended_in = self.ended_in.or(taken.ended.then_some(taken.batch));
        self.ranges.insert(taken.batch, *taken);
        Ok(())
    }
}

impl Lineage {
    /// Nothing taken yet from any source partition of the plan.
    pub fn new(plan: &Plan) -> Lineage {
        Lineage::restored(plan, &[])
    }

    /// What a checkpoint says; nothing taken from partitions that it does not mention.
    pub fn restored(plan: &Plan, positions: &[SourcePosition]) -> Lineage {
        let known = |(stage, partition): (StageId, PartitionId)| {
            let nothing = SourcePosition {
                stage,
                partition,
                after: BatchId(0),
                offset: 0,
                watermark: Watermark::NONE,
                ended: false,
            };
            let position = positions.iter().find(|p| (p.stage, p.partition) == (stage, partition));
            ((stage, partition), Known::starting_at(position.copied().unwrap_or(nothing)))
        };
        let partitions: BTreeMap<_, Known> = plan.source_partitions().map(known).collect();
        Lineage {
            open: partitions.values().filter(|known| known.ended_in.is_none()).count(),
            newest: partitions.values().map(Known::last).max().unwrap_or_default(),
            partitions,
            unwritten: BTreeSet::new(),
        }
    }

    /// Adds what a batch took.
    pub fn learn(&mut self, taken: &TakenRange) -> Result<Learned, BrokenLineage> {
        let key = (taken.range.stage, taken.range.partition);
        let Some(known) = self.partitions.get_mut(&key) else {
            return Err(BrokenLineage { known: Progress::default(), taken: *taken });
        };
        let was_open = known.ended_in.is_none();
        let learned = known.learn(taken)?;
        self.open -= usize::from(was_open && known.ended_in.is_some());
        self.newest = self.newest.max(taken.batch);
        if learned == Learned::New {
            self.unwritten.insert(key);
        }
        Ok(learned)
    }

    /// Adds what batches up to that of `taken` took since the last ones known, where nothing is ever
    /// repeated: only where each partition goes on is kept.
    pub fn follow(&mut self, taken: &TakenRange) -> Result<(), BrokenLineage> {
        let key = (taken.range.stage, taken.range.partition);
        let Some(known) = self.partitions.get_mut(&key) else {
            return Err(BrokenLineage { known: Progress::default(), taken: *taken });
        };
        let was_open = known.ended_in.is_none();
        known.follow(taken)?;
        self.open -= usize::from(was_open && known.ended_in.is_some());
        self.newest = self.newest.max(taken.batch);
        Ok(())
    }

    /// The batch in which the last source partition ended, once all have.
    pub fn ended_in(&self) -> Option<BatchId> {
        if self.open > 0 {
            return None;
        }
        self.partitions.values().filter_map(|known| known.ended_in).max()
    }

    /// How far each source partition has been read.
    pub fn partitions(&self) -> impl Iterator<Item = (StageId, PartitionId, Progress)> + '_ {
        self.partitions.iter().map(|(&(stage, p), known)| (stage, p, known.progress()))
    }

    /// How far a source partition has been read.
    pub fn progress(&self, stage: StageId, partition: PartitionId) -> Progress {
        self.partitions.get(&(stage, partition)).map(Known::progress).unwrap_or_default()
    }

    /// The newest batch of which anything is known.
    pub fn newest(&self) -> BatchId {
        self.newest
    }

    /// The last batch of which the ranges of all source partitions are known.
    pub fn complete_through(&self) -> BatchId {
        self.partitions.values().map(Known::last).min().unwrap_or_default()
    }

    /// The last batch of which the ranges of all source partitions are in the journal.
    pub fn written_through(&self) -> BatchId {
        self.partitions.values().map(|known| known.written).min().unwrap_or_default()
    }

    /// The last batch of which the range of a partition is in the journal.
    pub fn written(&self, stage: StageId, partition: PartitionId) -> BatchId {
        self.partitions.get(&(stage, partition)).map(|known| known.written).unwrap_or_default()
    }

    /// The ranges that are not in the journal yet, oldest first in each partition.
    pub fn unwritten(&self) -> Vec<TakenRange> {
        let unwritten = |known: &Known| -> Vec<TakenRange> {
            known.ranges.range(known.written.next()..).map(|(_, taken)| *taken).collect()
        };
        self.unwritten.iter().flat_map(|key| unwritten(&self.partitions[key])).collect()
    }

    /// These are in the journal now.
    pub fn wrote(&mut self, ranges: &[TakenRange]) {
        for taken in ranges {
            let key = (taken.range.stage, taken.range.partition);
            if let Some(known) = self.partitions.get_mut(&key) {
                known.written = known.written.max(taken.batch.min(known.last()));
                if known.written == known.last() {
                    self.unwritten.remove(&key);
                }
            }
        }
    }

    /// Where a partition goes on after `batch`, if that is known and not forgotten.
    pub fn position_at(
        &self,
        stage: StageId,
        partition: PartitionId,
        batch: BatchId,
    ) -> Option<SourcePosition> {
        self.partitions.get(&(stage, partition))?.position(batch)
    }

    /// Where a partition goes on after the last batch that took from it.
    pub fn last_position(&self, stage: StageId, partition: PartitionId) -> Option<SourcePosition> {
        let known = self.partitions.get(&(stage, partition))?;
        known.position(known.last())
    }

    /// Where all partitions go on after `batch`, if that is known of all of them.
    pub fn positions_at(&self, batch: BatchId) -> Option<Vec<SourcePosition>> {
        self.partitions.values().map(|known| known.position(batch)).collect()
    }

    /// The ranges of a partition after `batch`, each with the watermark before it.
    pub fn ranges_after(
        &self,
        stage: StageId,
        partition: PartitionId,
        batch: BatchId,
    ) -> impl Iterator<Item = (&TakenRange, Watermark)> + '_ {
        let known = self.partitions.get(&(stage, partition));
        known.into_iter().flat_map(move |known| {
            known.ranges.range(batch.next()..).map(|(&batch, taken)| {
                let before = known.position(BatchId(batch.0 - 1));
                (taken, before.map_or(Watermark::NONE, |before| before.watermark))
            })
        })
    }

    /// Ranges that wait for others that nobody knows: what depends on them is gone as well.
    pub fn forget_early(&mut self, stage: StageId, partition: PartitionId) {
        if let Some(known) = self.partitions.get_mut(&(stage, partition)) {
            known.early.clear();
        }
    }

    /// Drops the ranges up to `batch`, as far as they are known.
    pub fn forget_through(&mut self, batch: BatchId) {
        for known in self.partitions.values_mut() {
            let batch = batch.min(known.last());
            if let Some(base) = known.position(batch) {
                known.base = base;
                known.ranges = known.ranges.split_off(&batch.next());
                known.written = known.written.max(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests;
