//! Who is to run what: an even share for every core, with as few moves as possible, when cores come
//! and go; new owners for what was lost; and less work for a core that is slow.

mod extras;
mod slow;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BatchId, CoreId, Epoch, PartitionId, StageId};
use crate::message::Move;
use crate::placement::Placement;
use crate::plan::Plan;

pub use slow::{Speculation, StragglerOptions, StragglerWatch};

/// The moves after which all `cores`, and no others, run an even share: the number of partitions on
/// two of them differs by at most one, in each stage and in all. No smaller number of moves does that.
pub fn rebalance(plan: &Plan, current: &Placement, cores: &[CoreId]) -> Vec<Move> {
    let cores: BTreeSet<CoreId> = cores.iter().copied().collect();
    assert!(!cores.is_empty(), "a job needs at least one core");
    let counts = counts_by_stage(plan, current, &cores);
    let even = |stage: StageId| plan.stage(stage).partition_count as usize / cores.len();
    let surplus = |stage: StageId| plan.stage(stage).partition_count as usize % cores.len();
    let wishes = cores.iter().map(|&core| {
        let has_more = |&stage: &StageId| counts[stage.index()][&core] > even(stage);
        (core, plan.stage_ids().filter(has_more).collect())
    });
    let surplus: Vec<usize> = plan.stage_ids().map(surplus).collect();
    let extras = extras::extras(&surplus, &wishes.collect());
    let mut moves = Vec::new();
    for stage in plan.stage_ids() {
        let mut shares: BTreeMap<CoreId, usize> =
            cores.iter().map(|&core| (core, even(stage))).collect();
        for core in &extras[stage.index()] {
            *shares.entry(*core).or_default() += 1;
        }
        moves.extend(moves_of_stage(stage, &current.cores_by_stage[stage.index()], shares));
    }
    moves
}

/// The moves that give each core its share of one stage. Those of the lowest numbers stay.
fn moves_of_stage(
    stage: StageId,
    owners: &[CoreId],
    mut shares: BTreeMap<CoreId, usize>,
) -> Vec<Move> {
    let mut leaving = Vec::new();
    for (partition, owner) in owners.iter().enumerate() {
        match shares.get_mut(owner) {
            Some(share) if *share > 0 => *share -= 1,
            Some(_) | None => leaving.push((PartitionId(partition as u32), *owner)),
        }
    }
    let places = shares.into_iter().flat_map(|(core, left)| std::iter::repeat_n(core, left));
    let moved = leaving.into_iter().zip(places);
    moved.map(|((partition, from), to)| Move { stage, partition, from, to }).collect()
}

/// The placement after `moves`, each of which is from where its partition is.
pub fn apply(current: &Placement, moves: &[Move], epoch: Epoch, from_batch: BatchId) -> Placement {
    let mut cores_by_stage = current.cores_by_stage.clone();
    for Move { stage, partition, from, to } in moves {
        let owner = &mut cores_by_stage[stage.index()][partition.index()];
        assert_eq!(owner, from, "{stage} {partition} moves from where it is");
        *owner = *to;
    }
    Placement { epoch, from_batch, cores_by_stage }
}

/// New owners for `lost` partitions among `cores`: each goes to the one that has the fewest of its
/// stage by then, and among those to the one that has the fewest of all.
pub fn spread_lost(
    plan: &Plan,
    current: &Placement,
    lost: &[(StageId, PartitionId)],
    cores: &[CoreId],
) -> BTreeMap<(StageId, PartitionId), CoreId> {
    let lost: BTreeSet<(StageId, PartitionId)> = lost.iter().copied().collect();
    let cores: BTreeSet<CoreId> = cores.iter().copied().collect();
    assert!(lost.is_empty() || !cores.is_empty(), "a job needs at least one core");
    let mut counts = counts_by_stage(plan, current, &cores);
    for &(stage, partition) in &lost {
        if let Some(count) = counts[stage.index()].get_mut(&current.core_of(stage, partition)) {
            *count -= 1;
        }
    }
    let mut totals = totals(&counts, &cores);
    let mut owners = BTreeMap::new();
    for stage in plan.stage_ids() {
        let of_stage = &counts[stage.index()];
        let mut queue: BTreeSet<(usize, usize, CoreId)> =
            cores.iter().map(|core| (of_stage[core], totals[core], *core)).collect();
        for &(stage, partition) in lost.iter().filter(|lost| lost.0 == stage) {
            let (count, total, core) = queue.pop_first().expect("a job needs at least one core");
            queue.insert((count + 1, total + 1, core));
            totals.insert(core, total + 1);
            owners.insert((stage, partition), core);
        }
    }
    owners
}

/// A move that takes one partition from `slow`, of the stage of which it has most that `may_move`, to the
/// one of `cores` that has the fewest of all. None if nothing may move, or there is no other core.
pub fn relieve(
    plan: &Plan,
    current: &Placement,
    slow: CoreId,
    cores: &[CoreId],
    may_move: impl Fn(StageId, PartitionId) -> bool,
) -> Option<Move> {
    let all: BTreeSet<CoreId> = cores.iter().copied().chain([slow]).collect();
    let counts = counts_by_stage(plan, current, &all);
    let movable = |stage: StageId| {
        let mut partitions = current.partitions_on(stage, slow);
        partitions.retain(|&partition| may_move(stage, partition));
        (stage, partitions)
    };
    // The last of several maxima is taken, and that is to be the first stage.
    let stages = plan.stage_ids().rev().map(movable);
    let (stage, partitions) = stages.max_by_key(|(_, partitions)| partitions.len())?;
    let partition = *partitions.last()?;
    let totals = totals(&counts, &all);
    let others = all.into_iter().filter(|&core| core != slow);
    let to = others.min_by_key(|core| (totals[core], counts[stage.index()][core], *core))?;
    Some(Move { stage, partition, from: slow, to })
}

/// How many partitions of each stage the cores run.
fn counts_by_stage(
    plan: &Plan,
    current: &Placement,
    cores: &BTreeSet<CoreId>,
) -> Vec<BTreeMap<CoreId, usize>> {
    let of_stage = |stage: StageId| {
        let mut counts: BTreeMap<CoreId, usize> = cores.iter().map(|&core| (core, 0)).collect();
        for owner in &current.cores_by_stage[stage.index()] {
            if let Some(count) = counts.get_mut(owner) {
                *count += 1;
            }
        }
        counts
    };
    plan.stage_ids().map(of_stage).collect()
}

/// How many partitions of all stages the cores run.
fn totals(counts: &[BTreeMap<CoreId, usize>], cores: &BTreeSet<CoreId>) -> BTreeMap<CoreId, usize> {
    let total = |core: &CoreId| counts.iter().map(|counts| counts[core]).sum();
    cores.iter().map(|core| (*core, total(core))).collect()
}

#[cfg(test)]
mod tests;
