//! The plan: stages and the edges between them, the same on every node that runs the job.

use std::fmt;

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

/// Who starts a task when its inputs are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prescheduling {
    /// The local scheduler, when the last block is there.
    On,
    /// One more dependency: the driver's release, sent when the upstream tasks have reported.
    Off,
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
    /// A tree aggregation: partition d waits for `[d * fan_in, (d + 1) * fan_in)`, its own inputs
    /// and no others (paper, section 3.6).
    Tree {
        /// Inputs of one partition; the last one may have fewer.
        fan_in: u32,
    },
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
    /// How many upstream partitions the task of `downstream` waits for on `edge`.
    pub fn inputs_of(&self, edge: &Edge, downstream: PartitionId) -> u32 {
        let upstream = self.stage(edge.from).partition_count;
        match edge.pattern {
            Pattern::AllToAll => upstream,
            Pattern::Forward => 1,
            Pattern::Tree { fan_in } => {
                upstream.saturating_sub(downstream.0.saturating_mul(fan_in)).min(fan_in)
            }
        }
    }
    /// Whether `downstream` reads what `upstream` wrote on an edge of this pattern.
    pub fn connects(edge: &Edge, upstream: PartitionId, downstream: PartitionId) -> bool {
        match edge.pattern {
            Pattern::AllToAll => true,
            Pattern::Forward => upstream == downstream,
            Pattern::Tree { fan_in } => upstream.0 / fan_in == downstream.0,
        }
    }
    /// Whether `stage` reads from outside.
    pub fn is_source(&self, stage: StageId) -> bool {
        match self.stage(stage).kind {
            StageKind::Source(_) => true,
            StageKind::Stateful | StageKind::Stateless => false,
        }
    }
    /// Whether nothing reads what `stage` writes in the same batch: it writes to the outside.
    pub fn is_sink(&self, stage: StageId) -> bool {
        self.edges_out_of(stage).all(|(_, edge)| edge.batch_delta > 0)
    }
    /// Whether a checkpoint holds something of the partitions of `stage`: state, blocks for the batch
    /// after it, or output that is not written yet. What sources hold is in their recorded ranges.
    pub fn needs_snapshot(&self, stage: StageId) -> bool {
        match self.stage(stage).kind {
            StageKind::Source(_) => false,
            StageKind::Stateful => true,
            StageKind::Stateless => {
                let feeds_back = self.edges_out_of(stage).any(|(_, edge)| edge.batch_delta > 0);
                feeds_back || self.is_sink(stage)
            }
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

    /// Whether the plan can be run at all. All other methods take it for granted that it can.
    pub fn validate(&self) -> Result<(), PlanError> {
        for stage in self.stage_ids() {
            if self.stage(stage).partition_count == 0 {
                return Err(PlanError::NoPartitions { stage });
            }
        }
        for (edge, it) in self.numbered_edges() {
            self.validate_edge(edge, it)?;
        }
        for stage in self.stage_ids() {
            let is_fed = self.edges_into(stage).any(|(_, edge)| edge.batch_delta == 0);
            match self.stage(stage).kind {
                StageKind::Source(_) if is_fed => return Err(PlanError::FedSource { stage }),
                StageKind::Stateful | StageKind::Stateless if !is_fed => {
                    return Err(PlanError::NoInput { stage });
                }
                StageKind::Source(_) | StageKind::Stateful | StageKind::Stateless => {}
            }
        }
        Ok(())
    }

    /// Whether the plan can be run with checkpoints. What a sink has not written yet is part of its
    /// snapshot, and sources take none: so a source needs a stage after it.
    pub fn validate_durable(&self) -> Result<(), PlanError> {
        self.validate()?;
        let is_source = |stage: &StageId| matches!(self.stage(*stage).kind, StageKind::Source(_));
        match self.stage_ids().filter(is_source).find(|&stage| self.is_sink(stage)) {
            Some(stage) => Err(PlanError::SourceIsSink { stage }),
            None => Ok(()),
        }
    }

    fn validate_edge(&self, edge: EdgeId, it: &Edge) -> Result<(), PlanError> {
        for stage in [it.from, it.to] {
            if stage.index() >= self.stages.len() {
                return Err(PlanError::UnknownStage { edge, stage });
            }
        }
        let (from, to) = (self.stage(it.from), self.stage(it.to));
        match it.batch_delta {
            0 if it.from >= it.to => return Err(PlanError::Backward { edge }),
            0 => {}
            1 if matches!(from.kind, StageKind::Source(_)) => {
                return Err(PlanError::FeedbackOfSource { edge });
            }
            1 => {}
            batch_delta => return Err(PlanError::BatchDelta { edge, batch_delta }),
        }
        let (upstream, downstream) = (from.partition_count, to.partition_count);
        match it.pattern {
            Pattern::AllToAll => Ok(()),
            Pattern::Forward if upstream == downstream => Ok(()),
            Pattern::Forward => Err(PlanError::Forward { edge, upstream, downstream }),
            Pattern::Tree { fan_in: 0 } => Err(PlanError::NoFanIn { edge }),
            Pattern::Tree { fan_in } if upstream.div_ceil(fan_in) == downstream => Ok(()),
            Pattern::Tree { fan_in } => Err(PlanError::Tree { edge, fan_in, upstream, downstream }),
        }
    }

    fn numbered_edges(&self) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.edges.iter().enumerate().map(|(index, edge)| (EdgeId(index as u16), edge))
    }
}

/// Why a plan cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// A stage without partitions.
    NoPartitions {
        /// The stage.
        stage: StageId,
    },
    /// An edge from or to a stage that is not there.
    UnknownStage {
        /// The edge.
        edge: EdgeId,
        /// The stage.
        stage: StageId,
    },
    /// An edge within a batch that does not lead to a later stage.
    Backward {
        /// The edge.
        edge: EdgeId,
    },
    /// An edge that skips batches.
    BatchDelta {
        /// The edge.
        edge: EdgeId,
        /// How many batches later its blocks would be read.
        batch_delta: u64,
    },
    /// Feedback from a source.
    FeedbackOfSource {
        /// The edge.
        edge: EdgeId,
    },
    /// A source that waits for other stages of its batch.
    FedSource {
        /// The source's stage.
        stage: StageId,
    },
    /// A stage that nothing of its own batch would start.
    NoInput {
        /// The stage.
        stage: StageId,
    },
    /// A source that writes to the outside itself, in a job with checkpoints.
    SourceIsSink {
        /// The source's stage.
        stage: StageId,
    },
    /// A forward edge between stages with different numbers of partitions.
    Forward {
        /// The edge.
        edge: EdgeId,
        /// Partitions of the stage that writes.
        upstream: u32,
        /// Partitions of the stage that reads.
        downstream: u32,
    },
    /// A tree whose partitions have no inputs.
    NoFanIn {
        /// The edge.
        edge: EdgeId,
    },
    /// A tree whose level has too few partitions, or some that would read nothing.
    Tree {
        /// The edge.
        edge: EdgeId,
        /// Inputs of one partition.
        fan_in: u32,
        /// Partitions of the stage that writes.
        upstream: u32,
        /// Partitions of the stage that reads.
        downstream: u32,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::NoPartitions { stage } => write!(f, "{stage} has no partitions"),
            PlanError::UnknownStage { edge, stage } => {
                write!(f, "{edge} belongs to {stage}, which is not there")
            }
            PlanError::Backward { edge } => {
                write!(f, "{edge} leads to no later stage, and to no later batch either")
            }
            PlanError::BatchDelta { edge, batch_delta } => {
                write!(f, "{edge} leads {batch_delta} batches on; 0 and 1 are possible")
            }
            PlanError::FeedbackOfSource { edge } => {
                write!(f, "{edge} is feedback from a source; let a stage after it feed back")
            }
            PlanError::FedSource { stage } => {
                write!(f, "{stage} is a source, and an edge of the same batch leads into it")
            }
            PlanError::NoInput { stage } => {
                write!(f, "{stage} is no source, and no edge of the same batch leads into it")
            }
            PlanError::SourceIsSink { stage } => write!(
                f,
                "{stage} is a source that nothing reads in its batch; with checkpoints, let a stage \
                 after it write the output"
            ),
            PlanError::Forward { edge, upstream, downstream } => write!(
                f,
                "{edge} goes forward from {upstream} partitions to {downstream}; \
                 their numbers have to be equal"
            ),
            PlanError::NoFanIn { edge } => write!(f, "{edge} is a tree with a fan-in of 0"),
            PlanError::Tree { edge, fan_in, upstream, downstream } => write!(
                f,
                "{edge} is a tree from {upstream} partitions to {downstream}; \
                 a fan-in of {fan_in} takes {}",
                upstream.div_ceil(*fan_in)
            ),
        }
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests;
