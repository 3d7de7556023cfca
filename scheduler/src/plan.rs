//! The plan: stages and the edges between them, the same on every node that runs the job.

use crate::ids::{EdgeId, PartitionId, StageId};

/// What a job is, as far as scheduling is concerned. Every node builds the same plan from the same
/// job function; `fingerprint` is compared when a worker joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the job.
    pub name: String,
    /// Stages in topological order: an edge with `batch_delta` 0 leads to a later stage.
    pub stages: Vec<Stage>,
    /// Shuffles between them.
    pub edges: Vec<Edge>,
    /// Hash over the plan and over what its operators, sources and tables say of themselves.
    pub fingerprint: u64,
}

/// Operators fused between two shuffles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Name, unique within the plan.
    pub name: String,
    /// What starts its tasks.
    pub kind: StageKind,
    /// How many partitions it has; fixed for the life of the job.
    pub partition_count: u32,
}

/// What starts a task of a stage, beside its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageKind {
    /// Reads from outside. Its tasks follow each other in batch order.
    Source(Pacing),
    /// Keeps state between batches, so its tasks follow each other in batch order too.
    Stateful,
    /// Each task stands alone and may run in any order.
    Stateless,
}

impl StageKind {
    /// Whether the task of batch b waits for that of batch b - 1 of the same partition.
    pub fn follows_its_predecessor(self) -> bool {
        match self {
            StageKind::Source(_) | StageKind::Stateful => true,
            StageKind::Stateless => false,
        }
    }
}

/// When a source takes its share of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// At the batch's start time: live input.
    Clock,
    /// As soon as the batches before it let it: input that is all there.
    Unpaced,
}

/// A shuffle from one stage to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The stage that writes.
    pub from: StageId,
    /// The stage that reads.
    pub to: StageId,
    /// Which partitions read from which.
    pub pattern: Pattern,
    /// 0: a batch reads what the same batch wrote. 1: what the batch before wrote (feedback).
    pub batch_delta: u64,
}

/// Which upstream partitions a downstream partition waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every one: a shuffle by key.
    AllToAll,
    /// The one of the same number.
    Forward,
}

impl Plan {
    /// The stage of that number.
    pub fn stage(&self, stage: StageId) -> &Stage {
        &self.stages[stage.index()]
    }
    /// The edge of that number.
    pub fn edge(&self, edge: EdgeId) -> &Edge {
        &self.edges[edge.index()]
    }
    /// Numbers of all stages, in topological order.
    pub fn stage_ids(&self) -> impl DoubleEndedIterator<Item = StageId> + use<> {
        (0..self.stages.len() as u16).map(StageId)
    }
    /// The edges that lead into `stage`.
    pub fn edges_into(&self, stage: StageId) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.numbered_edges().filter(move |(_, edge)| edge.to == stage)
    }
    /// The edges that lead out of `stage`.
    pub fn edges_out_of(&self, stage: StageId) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.numbered_edges().filter(move |(_, edge)| edge.from == stage)
    }
    /// How many upstream partitions a task waits for on `edge`.
    pub fn inputs_on(&self, edge: &Edge) -> u32 {
        match edge.pattern {
            Pattern::AllToAll => self.stage(edge.from).partition_count,
            Pattern::Forward => 1,
        }
    }
    /// Whether `downstream` reads what `upstream` wrote on an edge of this pattern.
    pub fn connects(edge: &Edge, upstream: PartitionId, downstream: PartitionId) -> bool {
        match edge.pattern {
            Pattern::AllToAll => true,
            Pattern::Forward => upstream == downstream,
        }
    }
    /// The partitions of all source stages, as (stage, partition).
    pub fn source_partitions(&self) -> impl Iterator<Item = (StageId, PartitionId)> + '_ {
        self.stage_ids()
            .filter(|&stage| matches!(self.stage(stage).kind, StageKind::Source(_)))
            .flat_map(|stage| {
                (0..self.stage(stage).partition_count).map(move |p| (stage, PartitionId(p)))
            })
    }

    fn numbered_edges(&self) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.edges.iter().enumerate().map(|(index, edge)| (EdgeId(index as u16), edge))
    }
}

#[cfg(test)]
mod tests;
