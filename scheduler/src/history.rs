//! Everything that was decided so far and still matters, as it results from the decisions in order.
//! Driver and workers keep one each; when they have taken the same decisions, theirs are equal. A
//! worker that joins gets one, and a new driver starts from the newest among the workers'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checkpoint::Manifest;
use crate::ids::{
    BatchId, Epoch, GroupId, Incarnation, Life, OrderNumber, PartitionId, StageId, WorkerId,
};
use crate::message::{Decision, Move, Rollback, ScheduleGroup};
use crate::placement::{Placement, PlacementHistory};

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The last decision taken.
    pub applied: OrderNumber,
    /// The newest version of the placement.
    pub epoch: Epoch,
    /// Who may run tasks, and with how many cores.
    pub members: BTreeMap<WorkerId, (Incarnation, u16)>,
    /// Lives that are over and were fenced.
    pub fenced: BTreeSet<Life>,
    /// Workers that were fenced while partitions or copies were theirs, until the next recovery. A new life
    /// of such a worker may be a member again, but has nothing of what the placements say.
    pub fallen: BTreeSet<WorkerId>,
    /// Who runs what, for the batch of the manifest (its feedback blocks) and all after it.
    pub placements: PlacementHistory,
    /// Groups with batches after that of the manifest, oldest first, and the last batch of each that
    /// is not void.
    pub groups: Vec<(Arc<ScheduleGroup>, BatchId)>,
    /// The last group scheduled, void or not.
    pub last_group: GroupId,
    /// The last batch scheduled and not void.
    pub last_batch: BatchId,
    /// The newest durable manifest.
    pub manifest: Option<Arc<Manifest>>,
    /// The checkpoint in the making.
    pub checkpoint: Option<BatchId>,
    /// Moves announced and not yet made.
    pub prepared: Vec<Move>,
    /// Moves that took effect after the cut batch, with that batch, until a manifest covers it.
    pub moves: Vec<(Move, BatchId)>,
}

impl History {
    /// The batch of the newest durable manifest; 0 if there is none.
    pub fn durable(&self) -> BatchId {
        self.manifest.as_ref().map_or(BatchId(0), |manifest| manifest.batch)
    }

    /// Takes a decision. Whoever keeps a history takes all decisions in the order of their numbers.
    pub fn apply(&mut self, number: OrderNumber, decision: &Decision) {
        assert_eq!(number, self.applied.next(), "decisions are taken in order");
        self.applied = number;
        match decision {
            Decision::Admit(members) => {
                for (life, cores) in members.iter() {
                    self.members.insert(life.worker, (life.incarnation, *cores));
                }
            }
            Decision::ScheduleGroup(group) => self.schedule(group),
            Decision::CutGroup { .. } => {}
            Decision::CommitCut { last_batch, .. } => self.cut(*last_batch),
            Decision::Fence(lives) => {
                for life in lives.iter() {
                    self.fenced.insert(*life);
                    let has_copy = self.moves.iter().any(|(m, _)| m.from.worker == life.worker);
                    if self.names(life.worker) || has_copy {
                        self.fallen.insert(life.worker);
                    }
                    if self.members.get(&life.worker).is_some_and(|m| m.0 == life.incarnation) {
                        self.members.remove(&life.worker);
                    }
                }
            }
            Decision::Recover(recover) => {
                self.epoch = recover.epoch;
                self.placements = recover.placements.iter().cloned().collect();
                let is_moved = |m: &Move, rollback: &Rollback| {
                    (m.stage, m.partition) == (rollback.stage, rollback.partition)
                };
                // The copy of a worker that was lost is lost, also where its partition lives on.
                let mut moves = std::mem::take(&mut self.moves);
                moves.retain(|(m, _)| {
                    self.is_well(m.from.worker) && !recover.moved.iter().any(|r| is_moved(m, r))
                });
                self.moves = moves;
                self.fallen.clear();
            }
            Decision::Checkpoint { batch } => self.checkpoint = Some(*batch),
            Decision::AbandonCheckpoint { .. } => self.checkpoint = None,
            Decision::Durable(manifest) => self.durable_now(manifest),
            Decision::Prepare(moves) => self.prepared = moves.to_vec(),
            Decision::AbandonMoves => self.prepared.clear(),
        }
    }

    fn schedule(&mut self, group: &Arc<ScheduleGroup>) {
        if let Some(placement) = &group.placement {
            self.epoch = placement.epoch;
            self.placements.add(placement.clone());
            let prepared = std::mem::take(&mut self.prepared);
            self.moves.extend(prepared.into_iter().map(|moved| (moved, group.predecessor)));
        }
        self.groups.push((group.clone(), group.last_batch()));
        self.last_group = group.group;
        self.last_batch = group.last_batch();
    }

    fn cut(&mut self, last_batch: BatchId) {
        self.groups.retain(|(group, _)| group.first_batch <= last_batch);
        for (_, last) in &mut self.groups {
            *last = last_batch.min(*last);
        }
        self.last_batch = last_batch.min(self.last_batch);
    }

    fn durable_now(&mut self, manifest: &Arc<Manifest>) {
        let batch = manifest.batch;
        if self.checkpoint.is_some_and(|pending| pending <= batch) {
            self.checkpoint = None;
        }
        self.groups.retain(|&(_, last)| last > batch);
        self.moves.retain(|&(_, at)| at > batch);
        self.placements.forget_before(batch);
        self.manifest = Some(manifest.clone());
    }

    /// Where nothing is kept for recovery: drops what batches up to `batch` needed.
    pub fn forget_through(&mut self, batch: BatchId) {
        self.groups.retain(|&(_, last)| last > batch);
        self.placements.forget_before(batch.next());
    }

    /// Whether a worker is a member and has what the placements say.
    pub fn is_well(&self, worker: WorkerId) -> bool {
        self.members.contains_key(&worker) && !self.fallen.contains(&worker)
    }

    /// Whether some batch after the newest manifest is placed on that worker.
    pub fn names(&self, worker: WorkerId) -> bool {
        let after = self.durable().next();
        let versions: Vec<&Arc<Placement>> = self.placements.versions().collect();
        let ends = versions.iter().skip(1).map(|next| next.from_batch);
        let ends = ends.chain([BatchId(u64::MAX)]);
        let mut valid = versions.iter().zip(ends).filter(|(_, end)| *end > after);
        valid.any(|(version, _)| version.names(worker))
            || self.moves.iter().any(|(m, _)| m.from.worker == worker)
    }

    /// The placement of a batch.
    pub fn placement(&self, batch: BatchId) -> Option<&Arc<Placement>> {
        self.placements.at(batch)
    }

    /// Whether a partition has moved, or been given a new owner, after the newest manifest.
    pub fn has_moved(&self, stage: StageId, partition: PartitionId) -> bool {
        self.moves.iter().any(|(m, _)| (m.stage, m.partition) == (stage, partition))
    }
}
