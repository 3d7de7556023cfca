//! Symbolic data: what records are, what a task makes of them, and the state that it keeps. The
//! environment and the model of the auditor share the operators; they share nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dice::mix;
use crate::ids::{BatchId, EdgeId, PartitionId, StageId, Watermark};
use crate::message::Purpose;
use crate::plan::{Pattern, Plan, StageKind};

/// A record: the source partition and offset that it comes from, and whether it went back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record(u64);

/// Set once the record has gone through the feedback edge.
const HOP: u64 = 1 << 48;

impl Record {
    pub(crate) fn new(stage: StageId, partition: PartitionId, offset: u64) -> Record {
        Record(u64::from(stage.0) << 60 | u64::from(partition.0) << 52 | offset)
    }
    /// The same record before it went anywhere.
    pub(crate) fn origin(self) -> Record {
        Record(self.0 & !HOP)
    }
    pub(crate) fn has_returned(self) -> bool {
        self.0 & HOP != 0
    }
    /// The stage and partition that it comes from.
    pub(crate) fn source(self) -> (StageId, PartitionId) {
        let (stage, partition) = ((self.0 >> 60) as u16, (self.0 >> 52 & 0xFF) as u32);
        (StageId(stage), PartitionId(partition))
    }
    fn returned(self) -> Record {
        Record(self.0 | HOP)
    }
    pub(crate) fn hash(self) -> u64 {
        mix(self.0)
    }
    pub(crate) fn offset(self) -> u64 {
        self.0 & (HOP - 1)
    }
    /// The end of the window that the record belongs to.
    fn window_end(self) -> Watermark {
        Watermark((self.offset() * EVENT_MS + self.hash() % 16) / WINDOW_MS * WINDOW_MS + WINDOW_MS)
    }
    fn key(self) -> u64 {
        self.origin().hash() >> 8
    }
}

const EVENT_MS: u64 = 10;
const WINDOW_MS: u64 = 60;

/// The watermark of a source partition that was read up to `offset`.
pub(crate) fn source_watermark(offset: u64) -> Watermark {
    Watermark(offset * EVENT_MS)
}

/// The plan, with the edges that each stage writes to.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) plan: Arc<Plan>,
    forward: Vec<Option<EdgeId>>,
    back: Vec<Option<EdgeId>>,
    sources: BTreeMap<(StageId, PartitionId), usize>,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Edge(EdgeId, PartitionId),
    Sink,
}

impl Job {
    pub(crate) fn new(plan: Arc<Plan>) -> Job {
        let edge_of = |stage, delta| {
            let mut edges = plan.edges_out_of(stage);
            edges.find(|(_, edge)| edge.batch_delta == delta).map(|(edge, _)| edge)
        };
        let forward = plan.stage_ids().map(|stage| edge_of(stage, 0)).collect();
        let back = plan.stage_ids().map(|stage| edge_of(stage, 1)).collect();
        let sources = plan.source_partitions().zip(0..).collect();
        Job { forward, back, sources, plan }
    }

    /// The number of a source partition among all of the plan.
    pub(crate) fn source(&self, stage: StageId, partition: PartitionId) -> usize {
        self.sources[&(stage, partition)]
    }
    pub(crate) fn source_count(&self) -> usize {
        self.sources.len()
    }
    pub(crate) fn sources(&self) -> impl Iterator<Item = (StageId, PartitionId)> + '_ {
        self.sources.keys().copied()
    }
    pub(crate) fn is_source(&self, stage: StageId) -> bool {
        matches!(self.plan.stage(stage).kind, StageKind::Source(_))
    }
    /// Whether what the stage lets out leaves the job.
    pub(crate) fn is_sink(&self, stage: StageId) -> bool {
        self.forward[stage.index()].is_none()
    }
    pub(crate) fn partitions(&self, stage: StageId) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.plan.stage(stage).partition_count).map(PartitionId)
    }

    /// Sends a record of a task on its way. Every record goes back at most once, and never from a
    /// flush, after which nothing comes.
    pub(crate) fn route(
        &self,
        stage: StageId,
        partition: PartitionId,
        record: Record,
        purpose: Purpose,
    ) -> (Target, Record) {
        let goes_back = purpose == Purpose::Process
            && !record.has_returned()
            && record.hash().is_multiple_of(4);
        let (edge, record) = match self.back[stage.index()] {
            Some(back) if goes_back => (Some(back), record.returned()),
            Some(_) | None => (self.forward[stage.index()], record),
        };
        let Some(edge) = edge else { return (Target::Sink, record) };
        let count = u64::from(self.plan.stage(self.plan.edge(edge).to).partition_count);
        let target = match self.plan.edge(edge).pattern {
            Pattern::AllToAll => PartitionId((record.key() % count) as u32),
            Pattern::Forward => partition,
            Pattern::Tree { fan_in } => PartitionId(partition.0 / fan_in),
        };
        (Target::Edge(edge, target), record)
    }
}

/// What one batch changed in a state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    added: Vec<Record>,
    removed: Vec<Record>,
    folded: u64,
}

/// Everything that a stage keeps between batches for one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    records: BTreeSet<Record>,
    /// Sum of the hashes of what is kept, and of all that was ever folded.
    sum: u64,
    folded: u64,
}

impl Kept {
    /// A digest that does not depend on the order of what was folded.
    pub(crate) fn digest(&self) -> u64 {
        self.sum.wrapping_mul(3).wrapping_add(self.folded)
    }

    /// One task of a stateful stage: every third record stays until the watermark passes its
    /// window, the others go on at once. What changes is for [`Kept::apply`].
    pub(crate) fn fold(
        &self,
        purpose: Purpose,
        watermark: Watermark,
        inputs: &[Record],
    ) -> (Vec<Record>, Change) {
        let is_due =
            |record: &Record| purpose == Purpose::Flush || record.window_end() <= watermark;
        let mut change = Change::default();
        let mut out = Vec::new();
        for record in inputs {
            change.folded = change.folded.wrapping_add(record.hash());
            if record.hash().is_multiple_of(3) && !is_due(record) {
                change.added.push(*record);
            } else {
                out.push(*record);
            }
        }
        change.removed.extend(self.records.iter().copied().filter(is_due));
        out.extend(&change.removed);
        (out, change)
    }

    /// Makes the changes of a batch.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.folded = self.folded.wrapping_add(change.folded);
        for record in &change.removed {
            if self.records.remove(record) {
                self.sum = self.sum.wrapping_sub(record.hash());
            }
        }
        for record in &change.added {
            if self.records.insert(*record) {
                self.sum = self.sum.wrapping_add(record.hash());
            }
        }
    }
}

/// The versions of the source ranges that something depends on: by the source partition's number the
/// newest one, 0 for none.
pub(crate) type Basis = Vec<u32>;

/// What leaves the job in one batch, and what it depends on.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) records: Vec<Record>,
    pub(crate) basis: Basis,
}

/// One partition as it lives on a core.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionState {
    /// The last batch that it includes, where tasks follow each other.
    pub(crate) batch: BatchId,
    pub(crate) kept: Kept,
    /// Sources: where the next range begins.
    pub(crate) offset: u64,
    pub(crate) watermark: Option<Watermark>,
    pub(crate) basis: Basis,
    /// What changed, batch by batch; what changed before this object came to be, by the piece that brought it.
    changes: BTreeMap<BatchId, Vec<Change>>,
    /// The changes of all batches after this one are known.
    changes_after: BatchId,
    /// What each batch wrote to the feedback edge.
    pub(crate) feedback: BTreeMap<BatchId, Vec<(PartitionId, Record)>>,
    /// What leaves the job with the next checkpoint.
    pub(crate) staged: BTreeMap<BatchId, Output>,
}

/// A frozen state, or what changed in it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    since: Option<BatchId>,
    pub(crate) batch: BatchId,
    whole: Kept,
    changes: Vec<Change>,
    offset: u64,
    watermark: Option<Watermark>,
    basis: Basis,
    feedback: Vec<(PartitionId, Record)>,
    pub(crate) staged: BTreeMap<BatchId, Output>,
}

impl PartitionState {
    /// A source that goes on after a batch.
    pub(crate) fn position(batch: BatchId, offset: u64, basis: Basis) -> PartitionState {
        PartitionState { batch, offset, basis, ..PartitionState::default() }
    }

    /// Takes what a batch changed.
    pub(crate) fn apply(&mut self, batch: BatchId, change: Change) {
        self.kept.apply(&change);
        self.changes.entry(batch).or_default().push(change);
    }

    /// How much changed after `since`, or how much there is.
    pub(crate) fn changed(&self, since: Option<BatchId>) -> u64 {
        let size = |change: &Change| (change.added.len() + change.removed.len()) as u64;
        match since {
            None => self.kept.records.len() as u64,
            Some(since) => {
                let changes = self.changes.range(since.next()..).flat_map(|(_, changes)| changes);
                changes.map(size).sum()
            }
        }
    }

    /// Freezes the state after `batch`: all of it, or what changed after `since`.
    pub(crate) fn freeze(&self, batch: BatchId, since: Option<BatchId>) -> Result<Piece, String> {
        if let Some(since) = since.filter(|&since| since < self.changes_after) {
            let known = self.changes_after;
            return Err(format!("changes since {since} are wanted, known are those since {known}"));
        }
        let after = since.unwrap_or(BatchId(0));
        let is_wanted = |of: &BatchId| after < *of && *of <= batch;
        let staged = self.staged.iter().filter(|(of, _)| is_wanted(of));
        let staged = staged.map(|(of, output)| (*of, output.clone())).collect();
        let changes = self.changes.iter().filter(|(of, _)| since.is_some() && is_wanted(of));
        let changes = changes.flat_map(|(_, changes)| changes.clone()).collect();
        Ok(Piece {
            since,
            batch,
            whole: if since.is_none() { self.kept.clone() } else { Kept::default() },
            changes,
            offset: self.offset,
            watermark: self.watermark,
            basis: self.basis.clone(),
            feedback: self.feedback.get(&batch).cloned().unwrap_or_default(),
            staged,
        })
    }

    /// The state that consists of these pieces, the first of which is whole.
    pub(crate) fn thaw<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Result<Self, String> {
        let mut state: Option<PartitionState> = None;
        for piece in pieces {
            state = Some(match (state, piece.since) {
                (None, None) => PartitionState::default().with(piece),
                (Some(state), Some(since)) if since <= state.batch => state.with(piece),
                (Some(_), None) => PartitionState::default().with(piece),
                (state, Some(since)) => {
                    let had = state.map(|state| state.batch);
                    return Err(format!("changes since {since} do not fit a state of {had:?}"));
                }
            });
        }
        state.ok_or_else(|| "there is no snapshot".to_owned())
    }

    /// This state, with the changes that a piece brings.
    pub(crate) fn with(mut self, piece: &Piece) -> PartitionState {
        if piece.since.is_none() {
            self.kept = piece.whole.clone();
            self.changes.clear();
            self.changes_after = piece.batch;
        }
        piece.changes.iter().for_each(|change| self.kept.apply(change));
        self.changes.insert(piece.batch, piece.changes.clone());
        self.batch = piece.batch;
        self.offset = piece.offset;
        self.watermark = piece.watermark;
        self.basis = piece.basis.clone();
        self.feedback = BTreeMap::from([(piece.batch, piece.feedback.clone())]);
        // What stands before `since` was part of a durable checkpoint, or comes with an older piece.
        self.staged.extend(piece.staged.iter().map(|(batch, output)| (*batch, output.clone())));
        self
    }
}

impl Piece {
    /// What it holds the changes after.
    pub(crate) fn since(&self) -> Option<BatchId> {
        self.since
    }
}

/// The sum of all records' hashes, each with where it goes.
pub(crate) fn digest_of(routed: &[(Target, Record)]) -> u64 {
    let one = |(target, record): &(Target, Record)| match target {
        Target::Edge(edge, partition) => {
            mix(record.hash() ^ u64::from(edge.0) << 32 ^ u64::from(partition.0))
        }
        Target::Sink => record.hash(),
    };
    routed.iter().fold(0, |sum: u64, routed| sum.wrapping_add(one(routed)))
}
