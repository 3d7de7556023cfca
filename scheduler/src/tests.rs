//! Fixtures that the tests of this crate share, and whole jobs on a cluster of nothing but
//! decisions: here stands what is tried, [`cluster`] is where it runs, [`audit`] says what must hold.

mod audit;
mod cluster;

use std::sync::Arc;

use proptest::prelude::*;

use crate::ids::{CoreId, StageId, WorkerId};
use crate::local::Prescheduling;
use crate::plan::{Edge, Pacing, Pattern, Plan, Stage, StageKind};
use cluster::{Cluster, Scenario};

/// Stages one after the other, each with so many partitions, with a shuffle by key between them.
pub(crate) fn chain(stages: &[(StageKind, u32)]) -> Arc<Plan> {
    let stage = |(index, &(kind, partition_count)): (usize, &(StageKind, u32))| Stage {
        name: format!("stage-{index}"),
        kind,
        partition_count,
    };
    let edge = |to: u16| Edge {
        from: StageId(to - 1),
        to: StageId(to),
        pattern: Pattern::AllToAll,
        batch_delta: 0,
    };
    Arc::new(Plan {
        name: "chain".to_owned(),
        stages: stages.iter().enumerate().map(stage).collect(),
        edges: (1..stages.len() as u16).map(edge).collect(),
        fingerprint: 0,
    })
}

/// A core by its worker's number and its own.
pub(crate) fn core(worker: u32, core: u16) -> CoreId {
    CoreId { worker: WorkerId(worker), core }
}

/// Stages, as kinds and numbers of partitions; a forward edge leads to the last one where the
/// stage before it has as many partitions.
fn plans() -> impl Strategy<Value = Arc<Plan>> {
    let pacing = prop_oneof![Just(Pacing::Clock), Just(Pacing::Unpaced)];
    let middle = prop_oneof![Just(StageKind::Stateful), Just(StageKind::Stateless)];
    let counts = (1..5_u32, 1..5_u32, 1..5_u32);
    let shape = (pacing, prop::option::of(middle), counts, any::<bool>());
    shape.prop_map(|(pacing, middle, (sources, between, last), forward)| {
        let mut stages = vec![(StageKind::Source(pacing), sources)];
        stages.extend(middle.map(|kind| (kind, between)));
        let before = stages.last().map_or(0, |&(_, count)| count);
        stages.push((StageKind::Stateful, if forward { before } else { last }));
        let mut plan = Plan::clone(&chain(&stages));
        if let (true, Some(edge)) = (forward, plan.edges.last_mut()) {
            edge.pattern = Pattern::Forward;
        }
        Arc::new(plan)
    })
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let cluster = (1..4_u32, 1..3_u16);
    let options = (1..21_u64, 1..9_u64, any::<bool>());
    let stop_at = prop::option::of((0..5_000_u64, any::<bool>()));
    let input = (prop::collection::vec(0..60_u64, 4), stop_at);
    (any::<u64>(), plans(), cluster, options, input).prop_map(
        |(seed, plan, (workers, cores), (group_size, ahead, prescheduled), (lengths, stop))| {
            let partitions = plan.stages[0].partition_count as usize;
            let prescheduling = if prescheduled { Prescheduling::On } else { Prescheduling::Off };
            // Where a user stops the job, its sources may be such as go on for ever.
            let endless = stop.is_some_and(|(_, endless)| endless);
            let length = |length: u64| if endless { u64::MAX } else { length };
            let lengths = lengths.into_iter().take(partitions).map(length).collect();
            Scenario {
                seed,
                plan,
                workers,
                cores,
                group_size,
                ahead,
                prescheduling,
                lengths,
                stop_at: stop.map(|(step, _)| step),
            }
        },
    )
}

fn cases(cases: u32) -> ProptestConfig {
    let slow = std::env::var_os("SLOW_TESTS").is_some_and(|value| value == "1");
    let cases = if slow { 50 * cases } else { cases };
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn every_record_reaches_the_last_stage_exactly_once(scenario in scenarios()) {
        Cluster::new(&scenario).run();
    }
}

proptest! {
    #![proptest_config(cases(50))]

    #[test]
    fn two_runs_of_a_seed_are_the_same(scenario in scenarios()) {
        let [first, second] = [(); 2].map(|()| Cluster::new(&scenario).run().runs);
        prop_assert!(first == second);
    }
}
