//! A job: the plan that the scheduler sees, and how each of its stages is built on a core.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use drizzle_scheduler::message::Content;
use drizzle_scheduler::plan::{Edge, Pattern, Plan, Stage as PlanStage, StageKind};
use drizzle_scheduler::{EdgeId, StageId};
use drizzle_shuffle::{BodyCheck, PARTITION_HASH_VERSION};

use crate::connectors::{ConnectorError, Fingerprint};
use crate::dataflow::stage::{Stage, StageContext, StageFactory};
use crate::dataflow::stream::Stream;
use crate::dataflow::{Reread, Source, source_head::SourceHead, transform::Identity};
use crate::node::JobDurability;

/// Whether records are combined on the core that read them, before they cross the shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// One entry per key and window and batch crosses the shuffle.
    BeforeShuffle,
    /// Every record does.
    Never,
}

/// What holds for a whole dataflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataflowOptions {
    /// Partitions of every keyed stage. Fixed for the life of a job, so no more cores than this
    /// can share its state.
    pub partitions: u32,
    /// Whether records are combined before a shuffle.
    pub combine: Combine,
}

/// Builds a job out of sources, operators and sinks.
#[derive(Debug)]
pub struct Dataflow {
    builder: Rc<RefCell<Builder>>,
}

impl Dataflow {
    /// An empty dataflow.
    pub fn new(name: &str, options: DataflowOptions) -> Dataflow {
        assert!(options.partitions >= 1, "a keyed stage has at least one partition");
        let builder = Builder {
            name: name.to_owned(),
            options,
            stages: Vec::new(),
            edges: Vec::new(),
            factories: Vec::new(),
            checks: Vec::new(),
            operators: Vec::new(),
            rereads: Vec::new(),
            fingerprint: Fingerprint::new(name),
        };
        Dataflow { builder: Rc::new(RefCell::new(builder)) }
    }

    /// Reads `source`.
    pub fn source<S: Source>(&self, name: &str, source: S) -> Stream<SourceHead<S>, Identity> {
        let mut builder = self.builder.borrow_mut();
        builder.operator("source", name, source.fingerprint());
        builder.rereads.push((name.to_owned(), source.reread()));
        let stage = builder.stage(
            name,
            StageKind::Source(source.pacing()),
            source.partition_count().max(1),
        );
        let head = SourceHead { source, name: name.into() };
        Stream::new(self.builder.clone(), stage, head, Identity)
    }

    /// The finished job.
    pub fn build(self) -> Result<Job, JobError> {
        let builder = Rc::try_unwrap(self.builder).map_err(|_| JobError::OpenStream)?;
        builder.into_inner().build()
    }
}

/// What is wrong with a dataflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A stream was kept and never led to a sink.
    #[error("every stream of a dataflow must end in a sink")]
    OpenStream,
    /// Two operators have one name.
    #[error(
        "two operators are named {0:?}: give each its own name, its state and counters go by it"
    )]
    SameName(String),
}

/// A job, ready to run on any number of nodes that built the same one.
pub struct Job {
    plan: Arc<Plan>,
    factories: Vec<Arc<dyn StageFactory>>,
    checks: Vec<EdgeChecks>,
    /// Each source by name, and where it can be read again.
    rereads: Vec<(String, Reread)>,
}

impl Job {
    /// What the scheduler needs to know of it.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Which losses the job survives, in one line.
    pub fn survives(&self, durability: &JobDurability) -> String {
        let JobDurability::Folder { path, .. } = durability else {
            return "survives no loss: a worker or driver that is lost ends it".to_owned();
        };
        let sources = |reread: Reread| {
            let names = self.rereads.iter().filter(|(_, of)| *of == reread).map(|(name, _)| name);
            names.map(|name| format!("{name:?}")).collect::<Vec<String>>().join(", ")
        };
        let (files, lost) = (sources(Reread::WhereTheFileIs), sources(Reread::Nowhere));
        let sent = sources(Reread::FromTheSender);
        let mut line = format!(
            "survives the loss of workers, of the driver, and of all of them, as long as {} is there",
            path.display()
        );
        if !sent.is_empty() {
            line += &format!(
                "; whoever sends {sent} must live on, and keeps what no checkpoint covers"
            );
        }
        if !files.is_empty() {
            line += &format!("; hosts that take over need the file of {files}");
        }
        if !lost.is_empty() {
            line += &format!("; what {lost} gave a lost worker is lost with it");
        }
        line
    }

    pub(crate) fn open_stage(
        &self,
        context: &StageContext,
    ) -> Result<Box<dyn Stage>, ConnectorError> {
        self.factories[context.stage.index()].open(context)
    }

    /// How the body of a block that came from another process is checked; `None` if the plan has no
    /// such edge.
    pub(crate) fn check_of(&self, edge: EdgeId, content: Content) -> Option<BodyCheck> {
        let checks = self.checks.get(edge.index())?;
        Some(match content {
            Content::Raw => checks.raw,
            Content::Partial => checks.partial,
        })
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Job").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// The two kinds of bodies that an edge may carry.
#[derive(Clone, Copy)]
pub(super) struct EdgeChecks {
    pub(super) raw: BodyCheck,
    pub(super) partial: BodyCheck,
}

/// A job under construction. Stages are numbered as they begin; a factory comes when one ends.
pub(super) struct Builder {
    name: String,
    pub(super) options: DataflowOptions,
    stages: Vec<PlanStage>,
    edges: Vec<Edge>,
    factories: Vec<Option<Arc<dyn StageFactory>>>,
    checks: Vec<EdgeChecks>,
    operators: Vec<String>,
    rereads: Vec<(String, Reread)>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Builder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Builder {
    /// Notes an operator, whose name must be its own, and what must be equal about it everywhere.
    pub(super) fn operator(&mut self, kind: &str, name: &str, fingerprint: u64) {
        self.operators.push(name.to_owned());
        let fingerprint = self.fingerprint.bytes(kind.as_bytes()).number(fingerprint);
        self.fingerprint = fingerprint.bytes(name.as_bytes());
    }

    pub(super) fn stage(&mut self, name: &str, kind: StageKind, partition_count: u32) -> StageId {
        let stage = StageId(self.stages.len() as u16);
        self.stages.push(PlanStage { name: name.to_owned(), kind, partition_count });
        self.factories.push(None);
        stage
    }

    pub(super) fn edge(&mut self, from: StageId, to: StageId, checks: EdgeChecks) -> EdgeId {
        let edge = EdgeId(self.edges.len() as u16);
        self.edges.push(Edge { from, to, pattern: Pattern::AllToAll, batch_delta: 0 });
        self.checks.push(checks);
        edge
    }

    pub(super) fn finish_stage(&mut self, stage: StageId, factory: Arc<dyn StageFactory>) {
        self.factories[stage.index()] = Some(factory);
    }

    fn build(self) -> Result<Job, JobError> {
        let mut names = self.operators.clone();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(JobError::SameName(pair[0].clone()));
        }
        let factories: Option<Vec<_>> = self.factories.into_iter().collect();
        let factories = factories.ok_or(JobError::OpenStream)?;
        let combined = u64::from(self.options.combine == Combine::BeforeShuffle);
        let version = u64::from(PARTITION_HASH_VERSION);
        let mut fingerprint = self.fingerprint.number(version).number(combined);
        for edge in &self.edges {
            fingerprint = fingerprint.number(edge.from.0.into()).number(edge.to.0.into());
        }
        for stage in &self.stages {
            fingerprint = fingerprint.number(u64::from(stage.partition_count));
        }
        let plan = Plan {
            name: self.name,
            stages: self.stages,
            edges: self.edges,
            fingerprint: fingerprint.finish(),
        };
        let (checks, rereads) = (self.checks, self.rereads);
        Ok(Job { plan: Arc::new(plan), factories, checks, rereads })
    }
}
