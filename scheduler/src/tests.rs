//! Fixtures that the tests of this crate share.

use std::sync::Arc;

use crate::ids::{CoreId, StageId, WorkerId};
use crate::plan::{Edge, Pattern, Plan, Stage, StageKind};

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
