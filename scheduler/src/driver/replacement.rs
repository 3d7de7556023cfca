//! Who takes what was lost: a function of what was decided and of what the survivors know.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balance::spread_lost;
use crate::history::History;
use crate::ids::{BatchId, CoreId, Epoch, PartitionId, StageId};
use crate::lineage::Lineage;
use crate::message::{Coverage, Errand, Move, Recover, Restore, Rollback};
use crate::placement::Placement;
use crate::plan::Plan;

#[cfg(test)]
mod tests;

/// What a recovery starts from, when all survivors have answered the fence.
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) history: &'a History,
    pub(super) lineage: &'a Lineage,
    /// Source tasks whose blocks survivors hold or will write.
    pub(super) coverage: &'a [Coverage],
    /// Where partitions may go, in turn.
    pub(super) cores: &'a [CoreId],
    /// The version of the new placements.
    pub(super) epoch: Epoch,
    /// Up to this batch lost workers may have run, though nobody may know of it.
    pub(super) ran_through: BatchId,
}

type Key = (StageId, PartitionId);

/// What becomes of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its owner is well.
    Stays,
    /// It goes back to the one that shipped it, which has it up to this batch.
    Returns { to: CoreId, after: BatchId },
    /// It is restored, by its owner if that is well.
    Restored { at: Option<CoreId> },
}

/// New owners for all partitions that were lost.
pub(super) fn recover(scene: &Scene<'_>) -> Recover {
    let history = scene.history;
    let current = history.placements.versions().next_back().expect("a running job is placed");
    let fates: BTreeMap<Key, Fate> =
        keys(scene.plan).map(|key| (key, scene.fate(key, current))).collect();
    let homeless: Vec<Key> = fates
        .iter()
        .filter(|(_, fate)| **fate == Fate::Restored { at: None })
        .map(|(&key, _)| key)
        .collect();
    let homes = spread_lost(scene.plan, current, &homeless, scene.cores);
    let moved: Vec<Rollback> =
        fates.iter().filter_map(|(&key, &fate)| scene.rollback(key, fate, &homes)).collect();
    Recover {
        epoch: scene.epoch,
        manifest: history.manifest.clone(),
        placements: scene.placements(current, &moved),
        errands: scene.errands(),
        moved,
        replay_through: history.last_batch.max(scene.ran_through),
        released_through: history.last_batch,
    }
}

fn keys(plan: &Plan) -> impl Iterator<Item = Key> + '_ {
    plan.stage_ids().flat_map(|stage| {
        (0..plan.stage(stage).partition_count).map(move |p| (stage, PartitionId(p)))
    })
}

impl Scene<'_> {
    /// Whether a core is there and has what the placements say.
    fn is_well(&self, core: CoreId) -> bool {
        self.history.is_well(core.worker)
    }

    fn is_source(&self, (stage, _): Key) -> bool {
        self.plan.is_source(stage)
    }

    fn last_known(&self, (stage, partition): Key) -> BatchId {
        let position = self.lineage.last_position(stage, partition);
        position.map_or(self.history.durable(), |position| position.after)
    }

    /// The newest move of a partition that no manifest covers.
    fn last_move(&self, (stage, partition): Key) -> Option<(Move, BatchId)> {
        let moves = self.history.moves.iter().rev();
        moves.copied().find(|(m, _)| (m.stage, m.partition) == (stage, partition))
    }

    fn fate(&self, key: Key, current: &Placement) -> Fate {
        let owner = current.core_of(key.0, key.1);
        let Some((moved, at)) = self.last_move(key) else {
            return if self.is_well(owner) { Fate::Stays } else { Fate::Restored { at: None } };
        };
        match (self.is_well(moved.from), self.is_well(moved.to)) {
            (true, true) => Fate::Stays,
            // What the lost owner took after the move is fixed: the old one's copy is too old.
            (true, false) if self.is_source(key) && self.last_known(key) > at => {
                Fate::Restored { at: Some(moved.from) }
            }
            (true, false) => Fate::Returns { to: moved.from, after: at },
            (false, true) if self.is_source(key) && self.lives_on(key) => Fate::Stays,
            // Its state may not have arrived, and nobody holds what the old owner wrote.
            (false, true) => Fate::Restored { at: Some(moved.to) },
            (false, false) => Fate::Restored { at: None },
        }
    }

    /// Whether some survivor runs that source partition, or is sure to.
    fn lives_on(&self, (stage, partition): Key) -> bool {
        let is_endless = |c: &&Coverage| c.last == BatchId(u64::MAX);
        let mut endless = self.coverage.iter().filter(is_endless);
        endless.any(|c| (c.stage, c.partition) == (stage, partition))
    }

    fn rollback(&self, key: Key, fate: Fate, homes: &BTreeMap<Key, CoreId>) -> Option<Rollback> {
        let (stage, partition) = key;
        let (to, after, from) = match fate {
            Fate::Stays => return None,
            Fate::Returns { to, after } => (to, after, Restore::Copy),
            Fate::Restored { at } => {
                let to = at.unwrap_or_else(|| homes[&key]);
                if self.is_source(key) {
                    let (after, position) = self.position(key);
                    (to, after, position)
                } else {
                    (to, self.history.durable(), Restore::Manifest)
                }
            }
        };
        Some(Rollback { stage, partition, after, to, from })
    }

    fn position(&self, (stage, partition): Key) -> (BatchId, Restore) {
        let position = self.lineage.last_position(stage, partition);
        let position = position.expect("the lineage knows every source partition");
        let (offset, watermark, ended) = (position.offset, position.watermark, position.ended);
        (position.after, Restore::Position { offset, watermark, ended })
    }

    /// All versions that hold for batches after the manifest, with the new owners.
    fn placements(&self, current: &Placement, moved: &[Rollback]) -> Vec<Arc<Placement>> {
        let mut history = self.history.placements.clone();
        history.forget_before(self.history.durable().next());
        let with_new_owners = |version: &Arc<Placement>| {
            let mut cores_by_stage = version.cores_by_stage.clone();
            for (stage, partition) in keys(self.plan) {
                let core = &mut cores_by_stage[stage.index()][partition.index()];
                if !self.is_well(*core) {
                    *core = current.core_of(stage, partition);
                }
            }
            for Rollback { stage, partition, to, .. } in moved {
                cores_by_stage[stage.index()][partition.index()] = *to;
            }
            Arc::new(Placement {
                epoch: self.epoch,
                from_batch: version.from_batch,
                cores_by_stage,
            })
        };
        history.versions().map(with_new_owners).collect()
    }

    /// Known ranges of which no survivor holds the blocks or will write them, over all cores in turn.
    fn errands(&self) -> Vec<Errand> {
        let mut cores = self.cores.iter().cycle();
        let mut errands = Vec::new();
        for (stage, partition) in self.plan.source_partitions() {
            let of_partition = |c: &&Coverage| (c.stage, c.partition) == (stage, partition);
            let coverage: Vec<&Coverage> = self.coverage.iter().filter(of_partition).collect();
            let covered = |batch| coverage.iter().any(|c| c.first <= batch && batch <= c.last);
            let ranges = self.lineage.ranges_after(stage, partition, self.history.durable());
            for (taken, floor) in ranges.filter(|(taken, _)| !covered(taken.batch)) {
                let core = *cores.next().expect("somebody is left");
                errands.push(Errand { core, taken: *taken, floor });
            }
        }
        errands
    }
}
