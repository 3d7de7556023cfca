//! Starting a job from a savepoint of another one, which may be an earlier form of it: states are matched
//! by the names of operators. The folder of the new job gets a journal that says what one would say
//! whose workers have all been lost right after that checkpoint; the rest is recovery.

use std::path::Path;
use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::plan::{Plan, StageKind};
use drizzle_scheduler::{BatchId, CoreId, Incarnation, Life, Sequence, StageId, Term, WorkerId};

use crate::storage::{AppendError, Operator, Savepoint, Storage, StorageError};

/// The names under which a savepoint keeps the states of a plan.
pub(super) fn operators_of(plan: &Plan) -> Vec<Operator> {
    let stages = plan.stages.iter().zip(plan.stage_ids());
    stages.map(|(stage, id)| Operator { name: stage.name.clone(), stage: id }).collect()
}

/// Makes a folder that holds no run yet hold what the savepoint at `path` holds, for a job with this plan;
/// the batch after which it goes on.
pub(super) fn begin_from(
    path: &Path,
    folder: &dyn Storage,
    plan: &Plan,
) -> Result<BatchId, StorageError> {
    let savepoint = Savepoint::open(path)?;
    let matching = Matching::of(&savepoint, plan).map_err(|reason| {
        StorageError(format!("cannot start from the savepoint {}: {reason}", path.display()))
    })?;
    let old = savepoint.manifest();
    let mut snapshots = Vec::new();
    for snapshot in &old.snapshots {
        let Some(stage) = matching.stage_of(snapshot.stage) else { continue };
        let bytes = savepoint.load(&[*snapshot])?.concat();
        let renamed = Snapshot { stage, incarnation: DEAD.incarnation, ..*snapshot };
        folder.write_snapshots(CoreId { worker: DEAD.worker, core: 0 }, &[(renamed, bytes)])?;
        snapshots.push(renamed);
    }
    snapshots.sort_unstable();
    let position = |old: &SourcePosition| {
        Some(SourcePosition { stage: matching.stage_of(old.stage)?, ..*old })
    };
    let mut positions: Vec<SourcePosition> = old.positions.iter().filter_map(position).collect();
    positions.sort_unstable();
    let records = [
        Record::Opened,
        Record::Members(vec![(DEAD, 1)]),
        Record::Fenced(vec![DEAD]),
        Record::Manifest(Arc::new(Manifest {
            sequence: Sequence(4),
            term: Term(1),
            snapshots,
            positions,
            ..old.clone()
        })),
    ];
    for (sequence, record) in (1..).map(Sequence).zip(records) {
        let entry = JournalEntry { sequence, term: Term(1), record };
        folder.append(&entry).map_err(|error| match error {
            AppendError::Unavailable(error) => error,
            deposed @ AppendError::Deposed(_) => StorageError(deposed.to_string()),
        })?;
    }
    Ok(old.batch)
}

/// The worker that is said to have been lost.
const DEAD: Life = Life { worker: WorkerId(0), incarnation: Incarnation(1) };

/// Which stage of the new plan goes on with which one of the old.
struct Matching(Vec<(StageId, StageId)>);

impl Matching {
    /// By name. All that the savepoint holds must have a place, of as many partitions.
    fn of(savepoint: &Savepoint, plan: &Plan) -> Result<Matching, String> {
        let mut pairs = Vec::new();
        for Operator { name, stage } in savepoint.operators() {
            let Some(partitions) = partitions_in(savepoint.manifest(), *stage) else { continue };
            let found = plan.stage_ids().find(|&id| plan.stage(id).name == *name);
            let new = found.ok_or_else(|| {
                format!(
                    "it holds the state of {name:?}, and this job has no operator of that name: \
                     give the operator that goes on with it its old name"
                )
            })?;
            let described = plan.stage(new);
            if described.partition_count != partitions {
                return Err(format!(
                    "{name:?} had {partitions} partitions and has {} now: their number is fixed \
                     for the life of a job",
                    described.partition_count
                ));
            }
            let was_source = savepoint.manifest().positions.iter().any(|p| p.stage == *stage);
            if was_source != matches!(described.kind, StageKind::Source(_)) {
                return Err(format!("{name:?} was a source or is one now, and not both"));
            }
            pairs.push((*stage, new));
        }
        Ok(Matching(pairs))
    }

    fn stage_of(&self, old: StageId) -> Option<StageId> {
        self.0.iter().find(|(stage, _)| *stage == old).map(|&(_, new)| new)
    }
}

/// How many partitions a stage had, if the checkpoint holds anything of it.
fn partitions_in(manifest: &Manifest, stage: StageId) -> Option<u32> {
    let snapshots = manifest.snapshots.iter().filter(|s| s.stage == stage).map(|s| s.partition);
    let positions = manifest.positions.iter().filter(|p| p.stage == stage).map(|p| p.partition);
    snapshots.chain(positions).map(|partition| partition.0 + 1).max()
}
