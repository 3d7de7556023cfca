//! Tests of the plan.

use proptest::prelude::*;

use super::*;
use crate::tests::chain;

const SOURCE: StageKind = StageKind::Source(Pacing::Unpaced);

/// A source, a stage without state and one with it, two partitions each, one after the other.
fn three() -> Plan {
    Plan::clone(&chain(&[(SOURCE, 2), (StageKind::Stateless, 2), (StageKind::Stateful, 2)]))
}

fn edge(from: u16, to: u16, batch_delta: u64) -> Edge {
    Edge { from: StageId(from), to: StageId(to), pattern: Pattern::AllToAll, batch_delta }
}

/// What is wrong with three stages after a change.
fn wrong(change: impl FnOnce(&mut Plan)) -> PlanError {
    let mut plan = three();
    change(&mut plan);
    plan.validate().expect_err("the change breaks the plan")
}

#[test]
fn a_task_waits_for_as_many_inputs_as_are_connected_to_it() {
    let plan = chain(&[(SOURCE, 5), (StageKind::Stateful, 5)]);
    for pattern in [Pattern::AllToAll, Pattern::Forward, Pattern::Tree { fan_in: 1 }] {
        let edge = Edge { pattern, ..*plan.edge(EdgeId(0)) };
        for downstream in (0..5).map(PartitionId) {
            let upstream = (0..5).map(PartitionId);
            let inputs = upstream.filter(|&p| Plan::connects(&edge, p, downstream)).count();
            assert_eq!(inputs as u32, plan.inputs_of(&edge, downstream));
        }
    }
}

#[test]
fn the_last_partition_of_a_tree_takes_what_is_left() {
    let plan = chain(&[(SOURCE, 7), (StageKind::Stateful, 3)]);
    let edge = Edge { pattern: Pattern::Tree { fan_in: 3 }, ..*plan.edge(EdgeId(0)) };
    assert_eq!([0, 1, 2].map(|d| plan.inputs_of(&edge, PartitionId(d))), [3, 3, 1]);
    let readers = [0, 2, 3, 5, 6].map(|upstream| {
        let reads = |d: &u32| Plan::connects(&edge, PartitionId(upstream), PartitionId(*d));
        (0..3).filter(reads).collect::<Vec<_>>()
    });
    assert_eq!(readers, [[0], [0], [1], [1], [2]]);
}

#[test]
fn edges_are_found_from_both_ends() {
    let plan = three();
    let into = |stage| plan.edges_into(StageId(stage)).map(|(id, _)| id.0).collect::<Vec<_>>();
    let out_of = |stage| plan.edges_out_of(StageId(stage)).map(|(id, _)| id.0).collect::<Vec<_>>();
    assert_eq!([into(0), into(1), into(2)], [vec![], vec![0], vec![1]]);
    assert_eq!([out_of(0), out_of(1), out_of(2)], [vec![0], vec![1], vec![]]);
}

#[test]
fn source_partitions_are_those_of_all_source_stages() {
    let plan = chain(&[(SOURCE, 2), (SOURCE, 1), (StageKind::Stateful, 3)]);
    let partitions: Vec<_> = plan.source_partitions().map(|(s, p)| (s.0, p.0)).collect();
    assert_eq!(partitions, [(0, 0), (0, 1), (1, 0)]);
}

#[test]
fn snapshots_are_taken_of_state_feedback_and_unwritten_output() {
    let needs =
        |plan: &Plan| plan.stage_ids().map(|stage| plan.needs_snapshot(stage)).collect::<Vec<_>>();
    let mut plan = three();
    assert_eq!(needs(&plan), [false, false, true]);
    plan.stages[2].kind = StageKind::Stateless;
    assert_eq!(needs(&plan), [false, false, true], "it writes to the outside");
    plan.edges.push(edge(1, 1, 1));
    assert_eq!(needs(&plan), [false, true, true], "its feedback belongs to the batch after it");
    plan.edges.push(edge(2, 1, 1));
    assert_eq!(needs(&plan), [false, true, true]);
    let alone = chain(&[(SOURCE, 1)]);
    assert_eq!(needs(&alone), [false]);
}

#[test]
fn sinks_are_the_stages_that_nothing_reads_in_their_batch() {
    let mut plan = three();
    plan.edges.push(edge(2, 1, 1));
    let sinks = plan.stage_ids().filter(|&stage| plan.is_sink(stage)).collect::<Vec<_>>();
    assert_eq!(sinks, [StageId(2)]);
}

#[test]
fn feedback_may_lead_to_any_stage() {
    for to in 0..3 {
        for from in 1..3 {
            let mut plan = three();
            plan.edges.push(edge(from, to, 1));
            assert_eq!(plan.validate(), Ok(()), "from {from} to {to}");
        }
    }
}

#[test]
fn only_without_checkpoints_may_a_source_write_to_the_outside() {
    assert_eq!(three().validate_durable(), Ok(()));
    let alone = chain(&[(SOURCE, 1)]);
    assert_eq!(alone.validate(), Ok(()));
    let error = alone.validate_durable().expect_err("sources take no snapshots");
    assert_eq!(error, PlanError::SourceIsSink { stage: StageId(0) });
    let mut broken = three();
    broken.edges.clear();
    assert_eq!(broken.validate_durable(), broken.validate());
}

#[test]
fn whatever_cannot_run_is_told_with_its_place() {
    let at = EdgeId(0);
    let partitions = |n: u32| move |plan: &mut Plan| plan.stages[1].partition_count = n;
    let pattern = |pattern| move |plan: &mut Plan| plan.edges[0].pattern = pattern;
    assert_eq!(wrong(partitions(0)), PlanError::NoPartitions { stage: StageId(1) });
    assert_eq!(
        wrong(|plan| plan.edges[0].to = StageId(3)),
        PlanError::UnknownStage { edge: at, stage: StageId(3) }
    );
    for backward in [edge(1, 1, 0), edge(2, 1, 0)] {
        let edge = EdgeId(2);
        assert_eq!(wrong(|plan| plan.edges.push(backward)), PlanError::Backward { edge });
    }
    assert_eq!(
        wrong(|plan| plan.edges.push(edge(2, 1, 2))),
        PlanError::BatchDelta { edge: EdgeId(2), batch_delta: 2 }
    );
    assert_eq!(
        wrong(|plan| plan.edges.push(edge(0, 2, 1))),
        PlanError::FeedbackOfSource { edge: EdgeId(2) }
    );
    assert_eq!(
        wrong(|plan| plan.stages[1].kind = SOURCE),
        PlanError::FedSource { stage: StageId(1) }
    );
    let only_feedback = |plan: &mut Plan| plan.edges[0] = edge(1, 1, 1);
    assert_eq!(wrong(only_feedback), PlanError::NoInput { stage: StageId(1) });
    assert_eq!(wrong(pattern(Pattern::Tree { fan_in: 0 })), PlanError::NoFanIn { edge: at });
    assert_eq!(
        wrong(pattern(Pattern::Tree { fan_in: 2 })),
        PlanError::Tree { edge: at, fan_in: 2, upstream: 2, downstream: 2 }
    );
    let uneven = |plan: &mut Plan| {
        plan.edges[0].pattern = Pattern::Forward;
        plan.stages[1].partition_count = 3;
    };
    assert_eq!(wrong(uneven), PlanError::Forward { edge: at, upstream: 2, downstream: 3 });
}

#[test]
fn errors_are_sentences_that_name_the_place() {
    let (edge, stage) = (EdgeId(4), StageId(7));
    let sentences = [
        (PlanError::NoPartitions { stage }, "stage 7 has no partitions"),
        (
            PlanError::Forward { edge, upstream: 2, downstream: 3 },
            "edge 4 goes forward from 2 partitions to 3; their numbers have to be equal",
        ),
        (
            PlanError::Tree { edge, fan_in: 2, upstream: 5, downstream: 2 },
            "edge 4 is a tree from 5 partitions to 2; a fan-in of 2 takes 3",
        ),
        (
            PlanError::NoInput { stage },
            "stage 7 is no source, and no edge of the same batch leads into it",
        ),
    ];
    for (error, sentence) in sentences {
        assert_eq!(error.to_string(), sentence);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_a_tree_every_partition_has_inputs_and_every_input_one_reader(
        upstream in 1..200_u32,
        fan_in in 1..20_u32,
    ) {
        let downstream = upstream.div_ceil(fan_in);
        let mut plan = Plan::clone(&chain(&[(SOURCE, upstream), (StageKind::Stateful, downstream)]));
        plan.edges[0].pattern = Pattern::Tree { fan_in };
        prop_assert_eq!(plan.validate(), Ok(()));
        let edge = plan.edge(EdgeId(0));
        let mut readers = vec![0; upstream as usize];
        for d in (0..downstream).map(PartitionId) {
            let inputs = (0..upstream).filter(|&u| Plan::connects(edge, PartitionId(u), d));
            let inputs: Vec<u32> = inputs.collect();
            prop_assert_eq!(inputs.len() as u32, plan.inputs_of(edge, d));
            prop_assert!((1..=fan_in).contains(&plan.inputs_of(edge, d)));
            inputs.iter().for_each(|&input| readers[input as usize] += 1);
        }
        prop_assert!(readers.iter().all(|count| *count == 1));
        plan.stages[1].partition_count += 1;
        prop_assert!(plan.validate().is_err(), "the last partition would have no input");
    }
}
