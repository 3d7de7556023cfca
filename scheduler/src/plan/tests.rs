//! Tests of the plan.

use super::*;
use crate::tests::chain;

const SOURCE: StageKind = StageKind::Source(Pacing::Unpaced);

#[test]
fn a_task_waits_for_as_many_inputs_as_are_connected_to_it() {
    let plan = chain(&[(SOURCE, 5), (StageKind::Stateful, 5)]);
    for pattern in [Pattern::AllToAll, Pattern::Forward] {
        let edge = Edge { pattern, ..*plan.edge(EdgeId(0)) };
        for downstream in (0..5).map(PartitionId) {
            let upstream = (0..5).map(PartitionId);
            let inputs = upstream.filter(|&p| Plan::connects(&edge, p, downstream)).count();
            assert_eq!(inputs as u32, plan.inputs_on(&edge));
        }
    }
}

#[test]
fn edges_are_found_from_both_ends() {
    let plan = chain(&[(SOURCE, 1), (StageKind::Stateless, 2), (StageKind::Stateful, 3)]);
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
