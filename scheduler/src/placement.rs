//! Placement: which core runs which partition, from which batch on.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{BatchId, CoreId, Epoch, PartitionId, StageId, WorkerId};
use crate::plan::Plan;

/// One version of (partition, batch) -> core. It holds from `from_batch` until the next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The version.
    pub epoch: Epoch,
    /// The first batch that it holds for.
    pub from_batch: BatchId,
    /// For each stage, the core of each of its partitions.
    pub cores_by_stage: Vec<Vec<CoreId>>,
}

impl Placement {
    /// Spreads the partitions of every stage evenly over `cores`, in turn.
    pub fn spread(plan: &Plan, cores: &[CoreId], epoch: Epoch, from_batch: BatchId) -> Placement {
        assert!(!cores.is_empty(), "a job needs at least one core");
        let cores_by_stage = plan
            .stages
            .iter()
            .map(|stage| {
                (0..stage.partition_count as usize).map(|p| cores[p % cores.len()]).collect()
            })
            .collect();
        Placement { epoch, from_batch, cores_by_stage }
    }

    /// The core that runs `partition` of `stage`.
    pub fn core_of(&self, stage: StageId, partition: PartitionId) -> CoreId {
        self.cores_by_stage[stage.index()][partition.index()]
    }

    /// The partitions of `stage` that `core` runs, in ascending order.
    pub fn partitions_on(&self, stage: StageId, core: CoreId) -> Vec<PartitionId> {
        let cores = self.cores_by_stage[stage.index()].iter().enumerate();
        cores.filter(|&(_, &c)| c == core).map(|(p, _)| PartitionId(p as u32)).collect()
    }

    /// Whether any partition is on that worker.
    pub fn names(&self, worker: WorkerId) -> bool {
        self.cores_by_stage.iter().flatten().any(|core| core.worker == worker)
    }

    /// The cores that run `stage`, each once, in ascending order.
    pub fn cores_of(&self, stage: StageId) -> Vec<CoreId> {
        let mut cores = self.cores_by_stage[stage.index()].clone();
        cores.sort_unstable();
        cores.dedup();
        cores
    }
}

/// The placements that batches not yet finished may need, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementHistory {
    versions: VecDeque<Arc<Placement>>,
}

impl PlacementHistory {
    /// Adds a newer version; one that starts no later than its elders replaces them.
    pub fn add(&mut self, placement: Arc<Placement>) {
        while self.versions.back().is_some_and(|last| last.from_batch >= placement.from_batch) {
            self.versions.pop_back();
        }
        self.versions.push_back(placement);
    }

    /// All versions, oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &Arc<Placement>> {
        self.versions.iter()
    }

    /// The placement of `batch`, if one is known.
    pub fn at(&self, batch: BatchId) -> Option<&Arc<Placement>> {
        self.versions.iter().rev().find(|placement| placement.from_batch <= batch)
    }

    /// Drops the versions that no batch from `batch` on needs.
    pub fn forget_before(&mut self, batch: BatchId) {
        while self.versions.len() > 1 && self.versions[1].from_batch <= batch {
            self.versions.pop_front();
        }
    }
}

impl FromIterator<Arc<Placement>> for PlacementHistory {
    fn from_iter<I: IntoIterator<Item = Arc<Placement>>>(versions: I) -> PlacementHistory {
        let mut history = PlacementHistory::default();
        versions.into_iter().for_each(|version| history.add(version));
        history
    }
}

#[cfg(test)]
mod tests;
