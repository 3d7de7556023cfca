//! Tests of shares, moves and slow cores.

use proptest::prelude::*;

use super::*;
use crate::plan::{Pacing, StageKind};
use crate::tests::{chain, core};

const SOURCE: StageKind = StageKind::Source(Pacing::Clock);

/// Stages with so many partitions each.
fn plan_of(counts: &[u32]) -> std::sync::Arc<Plan> {
    let stages: Vec<(StageKind, u32)> = counts
        .iter()
        .enumerate()
        .map(|(stage, &count)| (if stage == 0 { SOURCE } else { StageKind::Stateful }, count))
        .collect();
    chain(&stages)
}

fn cores(range: std::ops::Range<u32>) -> Vec<CoreId> {
    range.map(|n| core(n / 2, (n % 2) as u16)).collect()
}

fn placed(cores_by_stage: Vec<Vec<CoreId>>) -> Placement {
    Placement { epoch: Epoch(1), from_batch: BatchId(1), cores_by_stage }
}

fn after(current: &Placement, moves: &[Move]) -> Placement {
    apply(current, moves, Epoch(2), BatchId(9))
}

fn count(placement: &Placement, stage: StageId, core: CoreId) -> usize {
    placement.partitions_on(stage, core).len()
}

fn total(plan: &Plan, placement: &Placement, core: CoreId) -> usize {
    plan.stage_ids().map(|stage| count(placement, stage, core)).sum()
}

fn spans_at_most_one(counts: impl Iterator<Item = usize> + Clone) -> bool {
    let (least, most) = (counts.clone().min(), counts.max());
    least.zip(most).is_none_or(|(least, most)| most - least <= 1)
}

fn is_even(plan: &Plan, placement: &Placement, cores: &[CoreId]) -> bool {
    let in_stage =
        |stage| spans_at_most_one(cores.iter().map(move |&c| count(placement, stage, c)));
    let all_here = placement.cores_by_stage.iter().flatten().all(|core| cores.contains(core));
    all_here
        && plan.stage_ids().all(in_stage)
        && spans_at_most_one(cores.iter().map(|&core| total(plan, placement, core)))
}

/// The largest number of partitions that can stay where they are: tries every way to choose who runs
/// one more of each stage.
fn most_that_stay(plan: &Plan, current: &Placement, cores: &[CoreId]) -> Option<usize> {
    fn choose(
        stages: &[(Vec<usize>, usize, usize)],
        totals: &mut Vec<usize>,
        stay: usize,
        best: &mut Option<usize>,
    ) {
        let Some(((counts, even, surplus), rest)) = stages.split_first() else {
            if spans_at_most_one(totals.iter().copied()) {
                *best = Some(best.map_or(stay, |best| best.max(stay)));
            }
            return;
        };
        for mask in 0_u32..1 << counts.len() {
            if mask.count_ones() as usize != *surplus {
                continue;
            }
            let more = |core: usize| (mask >> core & 1) as usize;
            let staying = counts.iter().enumerate().map(|(c, &count)| count.min(even + more(c)));
            let stay = stay + staying.sum::<usize>();
            totals.iter_mut().enumerate().for_each(|(c, total)| *total += more(c));
            choose(rest, totals, stay, best);
            totals.iter_mut().enumerate().for_each(|(c, total)| *total -= more(c));
        }
    }
    let stages: Vec<_> = plan
        .stage_ids()
        .map(|stage| {
            let partitions = plan.stage(stage).partition_count as usize;
            let counts = cores.iter().map(|&core| count(current, stage, core)).collect();
            (counts, partitions / cores.len(), partitions % cores.len())
        })
        .collect();
    let mut best = None;
    choose(&stages, &mut vec![0; cores.len()], 0, &mut best);
    best
}

/// The smallest number of moves that makes each stage even, whatever that does to the totals.
fn fewest_moves_by_stage(plan: &Plan, current: &Placement, cores: &[CoreId]) -> usize {
    let of_stage = |stage: StageId| {
        let partitions = plan.stage(stage).partition_count as usize;
        let (even, surplus) = (partitions / cores.len(), partitions % cores.len());
        let counts = || cores.iter().map(|&core| count(current, stage, core));
        let staying: usize = counts().map(|count| count.min(even)).sum();
        partitions - staying - counts().filter(|count| *count > even).count().min(surplus)
    };
    plan.stage_ids().map(of_stage).sum()
}

/// A plan, any placement of it on cores 0 to 7, and the cores that are to run it.
fn cases(
    partitions: u32,
    stages: usize,
    listed: usize,
) -> impl Strategy<Value = (std::sync::Arc<Plan>, Placement, Vec<CoreId>)> {
    let counts = prop::collection::vec(1..=partitions, 1..=stages);
    let with_owners = counts.prop_flat_map(move |counts| {
        let owner = || (0..8_u32).prop_map(|n| cores(n..n + 1)[0]);
        let owners: Vec<_> =
            counts.iter().map(|&count| prop::collection::vec(owner(), count as usize)).collect();
        let listed = prop::sample::subsequence(cores(0..8), 1..=listed).prop_shuffle();
        (Just(plan_of(&counts)), owners.prop_map(placed), listed)
    });
    with_owners.boxed()
}

#[test]
fn an_even_placement_stays() {
    for (counts, n) in [(vec![8, 8], 4), (vec![7, 8], 3), (vec![3, 3, 3], 4), (vec![64], 5)] {
        let plan = plan_of(&counts);
        let spread = Placement::spread(&plan, &cores(0..n), Epoch(1), BatchId(1));
        let even = after(&spread, &rebalance(&plan, &spread, &cores(0..n)));
        assert!(is_even(&plan, &even, &cores(0..n)));
        assert_eq!(rebalance(&plan, &even, &cores(0..n)), []);
    }
}

#[test]
fn a_core_that_joins_takes_its_share_and_nothing_else_moves() {
    let plan = plan_of(&[12, 12]);
    let before = Placement::spread(&plan, &cores(0..3), Epoch(1), BatchId(1));
    let moves = rebalance(&plan, &before, &cores(0..4));
    assert_eq!(moves.len(), 6);
    assert!(moves.iter().all(|moved| moved.to == cores(3..4)[0]));
    assert!(is_even(&plan, &after(&before, &moves), &cores(0..4)));
}

#[test]
fn a_core_that_joins_gets_work_even_where_no_stage_has_one_partition_for_each() {
    let plan = plan_of(&[1, 1, 1, 1]);
    let before = Placement::spread(&plan, &cores(0..1), Epoch(1), BatchId(1));
    let moves = rebalance(&plan, &before, &cores(0..2));
    assert_eq!(moves.len(), 2);
}

#[test]
fn a_core_that_leaves_is_drained_and_nothing_else_moves() {
    let plan = plan_of(&[12, 12]);
    let before = Placement::spread(&plan, &cores(0..4), Epoch(1), BatchId(1));
    let moves = rebalance(&plan, &before, &cores(1..4));
    assert_eq!(moves.len(), 6);
    assert!(moves.iter().all(|moved| moved.from == cores(0..1)[0]));
    assert!(is_even(&plan, &after(&before, &moves), &cores(1..4)));
}

#[test]
fn a_large_cluster_moves_no_more_than_the_share_of_those_that_join() {
    let plan = plan_of(&[5_000, 10_000, 4_000, 1]);
    let all: Vec<CoreId> = (0..1_000).flat_map(|w| (0..4).map(move |c| core(w, c))).collect();
    let (before, joined) = all.split_at(3_960);
    let spread = Placement::spread(&plan, before, Epoch(1), BatchId(1));
    let even = after(&spread, &rebalance(&plan, &spread, before));
    let moves = rebalance(&plan, &even, &all);
    assert!(is_even(&plan, &after(&even, &moves), &all));
    // A core has 4 or 5 partitions in all: those that join get as many.
    let gained =
        joined.iter().map(|&core| total(&plan, &after(&even, &moves), core)).sum::<usize>();
    assert!((160..=200).contains(&gained), "{gained}");
    assert!(moves.len() <= gained + 100, "{} moves for {gained}", moves.len());
}

#[test]
fn lost_partitions_go_to_all_survivors_alike() {
    let plan = plan_of(&[12, 12]);
    let before = Placement::spread(&plan, &cores(0..4), Epoch(1), BatchId(1));
    let lost: Vec<_> = plan
        .stage_ids()
        .flat_map(|s| before.partitions_on(s, cores(0..1)[0]).into_iter().map(move |p| (s, p)))
        .collect();
    let owners = spread_lost(&plan, &before, &lost, &cores(1..4));
    for core in cores(1..4) {
        for stage in plan.stage_ids() {
            let gained = owners.iter().filter(|((s, _), to)| (*s, **to) == (stage, core)).count();
            assert_eq!(gained, 1, "{core} {stage}");
        }
    }
    assert_eq!(spread_lost(&plan, &before, &[], &[]), BTreeMap::new());
}

#[test]
fn lost_partitions_of_several_stages_do_not_all_go_to_the_same_core() {
    let plan = plan_of(&[1, 1, 1, 1]);
    let before = Placement::spread(&plan, &cores(0..1), Epoch(1), BatchId(1));
    let lost: Vec<_> = plan.stage_ids().map(|stage| (stage, PartitionId(0))).collect();
    let owners = spread_lost(&plan, &before, &lost, &cores(1..3));
    for core in cores(1..3) {
        assert_eq!(owners.values().filter(|owner| **owner == core).count(), 2);
    }
}

#[test]
fn a_slow_core_gives_of_the_stage_of_which_it_has_most_to_the_one_with_least() {
    let [slow, busy, idle] = [core(0, 0), core(0, 1), core(1, 0)];
    let plan = plan_of(&[2, 4]);
    let current = placed(vec![vec![busy, slow], vec![slow, busy, slow, busy]]);
    let all = [slow, busy, idle];
    let expected = Move { stage: StageId(1), partition: PartitionId(2), from: slow, to: idle };
    assert_eq!(relieve(&plan, &current, slow, &all, freely), Some(expected));
    let expected = Move { to: busy, ..expected };
    assert_eq!(relieve(&plan, &current, slow, &[slow, busy], freely), Some(expected));
    let first = Move { stage: StageId(0), partition: PartitionId(1), from: busy, to: idle };
    let both = placed(vec![vec![busy, busy], vec![slow, busy, slow, busy]]);
    assert_eq!(
        relieve(&plan, &both, busy, &all, freely),
        Some(first),
        "of two such stages the first"
    );
    assert_eq!(relieve(&plan, &current, slow, &[slow], freely), None, "there is nobody else");
    assert_eq!(relieve(&plan, &current, idle, &all, freely), None, "it has nothing to give");
}

#[test]
#[should_panic(expected = "moves from where it is")]
fn a_move_from_elsewhere_is_a_mistake() {
    let plan = plan_of(&[1]);
    let current = Placement::spread(&plan, &cores(0..1), Epoch(1), BatchId(1));
    let [from, to] = [core(1, 0), core(0, 0)];
    after(&current, &[Move { stage: StageId(0), partition: PartitionId(0), from, to }]);
}

fn freely(_: StageId, _: PartitionId) -> bool {
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_are_even_and_no_smaller_number_of_moves_makes_them_so(
        (plan, current, cores) in cases(9, 4, 5),
    ) {
        let moves = rebalance(&plan, &current, &cores);
        prop_assert!(is_even(&plan, &after(&current, &moves), &cores));
        let partitions: usize = current.cores_by_stage.iter().map(Vec::len).sum();
        let stay = most_that_stay(&plan, &current, &cores);
        prop_assert_eq!(stay, Some(partitions - moves.len()));
    }

    #[test]
    fn moves_are_real_and_each_partition_moves_once(
        (plan, current, cores) in cases(40, 6, 8),
    ) {
        let moves = rebalance(&plan, &current, &cores);
        let moved: BTreeSet<_> = moves.iter().map(|moved| (moved.stage, moved.partition)).collect();
        prop_assert_eq!(moved.len(), moves.len());
        prop_assert!(moves.iter().all(|moved| moved.from != moved.to));
        prop_assert!(moves.is_sorted());
        prop_assert!(moves.len() >= fewest_moves_by_stage(&plan, &current, &cores));
        let even = after(&current, &moves);
        prop_assert!(is_even(&plan, &even, &cores));
        prop_assert_eq!((even.epoch, even.from_batch), (Epoch(2), BatchId(9)));
        prop_assert_eq!(rebalance(&plan, &even, &cores), []);
    }

    #[test]
    fn one_stage_moves_as_little_as_it_can((plan, current, cores) in cases(60, 1, 8)) {
        let moves = rebalance(&plan, &current, &cores);
        prop_assert_eq!(moves.len(), fewest_moves_by_stage(&plan, &current, &cores));
    }

    #[test]
    fn moves_do_not_depend_on_the_order_of_the_cores((plan, current, cores) in cases(20, 4, 8)) {
        let moves = rebalance(&plan, &current, &cores);
        let mut others: Vec<_> = cores.iter().chain(&cores).copied().collect();
        others.sort_unstable();
        prop_assert_eq!(rebalance(&plan, &current, &others), moves);
    }

    #[test]
    fn lost_partitions_go_to_those_that_have_least(
        (plan, current, cores) in cases(30, 4, 8),
        also in any::<prop::sample::Index>(),
    ) {
        // Everything that none of the cores has, and something that one of them has.
        let mut lost: Vec<(StageId, PartitionId)> = Vec::new();
        for stage in plan.stage_ids() {
            let partitions = (0..plan.stage(stage).partition_count).map(PartitionId);
            let is_lost = |&partition: &PartitionId| {
                !cores.contains(&current.core_of(stage, partition))
            };
            lost.extend(partitions.filter(is_lost).map(|partition| (stage, partition)));
        }
        let stage = StageId(also.index(plan.stages.len()) as u16);
        lost.push((stage, PartitionId(also.index(plan.stage(stage).partition_count as usize) as u32)));
        let owners = spread_lost(&plan, &current, &lost, &cores);
        prop_assert!(owners.keys().eq(&lost.iter().copied().collect::<BTreeSet<_>>()));
        let mut next = current.clone();
        for (&(stage, partition), &owner) in &owners {
            next.cores_by_stage[stage.index()][partition.index()] = owner;
        }
        for (&(stage, _), &owner) in &owners {
            let least = cores.iter().map(|&core| count(&next, stage, core)).min();
            prop_assert!(Some(count(&next, stage, owner)) <= least.map(|least| least + 1));
        }
        lost.reverse();
        prop_assert_eq!(spread_lost(&plan, &current, &lost, &cores), owners);
    }

    #[test]
    fn a_slow_core_gives_one_partition_if_it_can(
        (plan, current, cores) in cases(9, 4, 8),
        slow in any::<prop::sample::Index>(),
    ) {
        let slow = *slow.get(&cores);
        let Some(moved) = relieve(&plan, &current, slow, &cores, freely) else {
            prop_assert!(cores.len() == 1 || total(&plan, &current, slow) == 0);
            return Ok(());
        };
        prop_assert_eq!((moved.from, current.core_of(moved.stage, moved.partition)), (slow, slow));
        let most = plan.stage_ids().map(|stage| count(&current, stage, slow)).max();
        prop_assert_eq!(Some(count(&current, moved.stage, slow)), most);
        let others = cores.iter().filter(|core| **core != slow);
        let least = others.map(|&core| total(&plan, &current, core)).min();
        prop_assert!(moved.to != slow && cores.contains(&moved.to));
        prop_assert_eq!(Some(total(&plan, &current, moved.to)), least);
    }
}
