//! The local scheduler: one per core. It holds the pre-scheduled tasks of the groups in hand, counts
//! their dependencies, and says what runs next. No task waits for the driver (paper, section 3.2).
//!
//! A task waits for a number of things that are all the same to it: the blocks of its upstream
//! partitions, the batch before it where its stage keeps state, and, without pre-scheduling, the
//! driver's release. When the count reaches zero it is ready. Source tasks wait for their batch's
//! start time and for credit instead: they run at most `ahead` batches before the slowest core
//! that folds what they produce, which bounds every queue behind them.
//!
//! Only the next few batches of a group are laid out ([`batch::BatchState`]), so the memory and the
//! work per batch do not depend on the size of the group.

mod batch;
mod credit;
mod groups;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::ids::{BatchId, CoreId, GroupId, Instant, PartitionId, StageId, Watermark};
use crate::message::{BlockNotice, GroupStatistics, Order, Purpose, ScheduleGroup, TakenRange};
use crate::placement::PlacementHistory;
use crate::plan::{Pacing, Plan, StageKind};

use batch::BatchState;
use credit::Credit;
use groups::Groups;

/// How a local scheduler behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// How many batches a source may run ahead of the slowest core downstream.
    pub ahead: u64,
    /// Whether downstream tasks wait for the driver's release.
    pub prescheduling: Prescheduling,
    /// For how long taken ranges may wait to be reported together, in nanoseconds.
    pub report_ranges_after_ns: u64,
}

/// Who starts a downstream task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prescheduling {
    /// The local scheduler, when the last block is there.
    On,
    /// One more dependency: the driver's release, sent when the upstream tasks have reported.
    Off,
}

/// What a local scheduler is told. Blocks are offered by [`LocalScheduler::offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEvent<'a> {
    /// An order of the driver, already checked for its term.
    Order(Order),
    /// A run that [`LocalScheduler::next`] gave out has ended.
    RunDone {
        /// The run.
        run: &'a Run,
        /// What its source tasks took.
        ranges: &'a [TakenRange],
        /// How long it took, in nanoseconds.
        run_ns: u64,
    },
    /// Another core has finished all batches up to this one.
    PeerCompleted {
        /// The core.
        core: CoreId,
        /// Its last finished batch.
        batch: BatchId,
    },
    /// The deadline has passed.
    Tick,
}

/// What the core is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAction {
    /// Tell the worker.
    Report(CoreReport),
    /// Tell the cores that run sources which batch was finished last: their credit.
    Advertise {
        /// The cores, without this one.
        to: Arc<[CoreId]>,
        /// The last finished batch.
        completed: BatchId,
    },
    /// No task will read blocks of batches up to this one any more.
    Release {
        /// The last finished batch.
        completed: BatchId,
    },
}

/// What a core reports to its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreReport {
    /// All its tasks of a group are done.
    GroupDone {
        /// The group.
        group: GroupId,
        /// Its last batch that ran.
        last_batch: BatchId,
        /// What it cost.
        statistics: GroupStatistics,
    },
    /// Without pre-scheduling: all its tasks of a stage and batch are done.
    StageDone {
        /// The batch.
        batch: BatchId,
        /// The stage.
        stage: StageId,
    },
    /// What its source tasks took.
    Ranges(Vec<TakenRange>),
    /// It will start no batch beyond.
    Promise {
        /// max(proposed, already started).
        last_batch: BatchId,
    },
}

/// Tasks of one stage and batch that run in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The batch.
    pub batch: BatchId,
    /// The stage.
    pub stage: StageId,
    /// The partitions, ascending.
    pub partitions: Arc<[PartitionId]>,
    /// Minimum over all inputs; for a source stage what its partitions say counts instead.
    pub watermark: Watermark,
    /// Live sources take what was there before this point in the driver's time.
    pub cut: Instant,
    /// What the batch is for.
    pub purpose: Purpose,
}

/// What becomes of a block that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A task needs it, now or later.
    Keep,
    /// Its tasks have all that they need: it is a repetition.
    Discard,
}

/// The tasks of one core. See the module's text.
#[derive(Debug)]
pub struct LocalScheduler {
    plan: Arc<Plan>,
    core: CoreId,
    options: LocalOptions,
    placements: PlacementHistory,
    groups: Groups,
    /// Batches laid out, from the oldest unfinished one on.
    window: VecDeque<BatchState>,
    /// States of finished batches, to be used again.
    spare: Vec<BatchState>,
    /// The last batch whose tasks on this core are all done.
    completed: BatchId,
    /// (batch, stages counted from the last): oldest batch first, then the stage nearest the sink.
    ready: BTreeSet<(BatchId, u16)>,
    /// Blocks that came before their batch was laid out.
    early: BTreeMap<BatchId, Vec<BlockNotice>>,
    /// Releases that did.
    early_releases: BTreeSet<(BatchId, StageId)>,
    sources: Vec<SourceCursor>,
    /// The last batch that a source task of this core has started.
    started: BatchId,
    /// An open promise: no task of a batch beyond it starts.
    promise: Option<BatchId>,
    credit: Credit,
    ranges: Vec<TakenRange>,
    ranges_due: Option<Instant>,
}

/// How far a source stage is on this core.
#[derive(Debug)]
struct SourceCursor {
    stage: StageId,
    pacing: Pacing,
    /// The batch to start next.
    next: BatchId,
    /// A run of it is out.
    running: bool,
    /// All input before this point has been taken.
    cut: Instant,
}

impl LocalScheduler {
    /// A scheduler for `core`, with no group yet.
    pub fn new(plan: Arc<Plan>, core: CoreId, options: LocalOptions) -> LocalScheduler {
        assert!(options.ahead >= 1, "a source must be allowed to start");
        let cursor = |(stage, pacing)| SourceCursor {
            stage,
            pacing,
            next: BatchId(1),
            running: false,
            cut: Instant(0),
        };
        let sources = plan.stage_ids().filter_map(|stage| match plan.stage(stage).kind {
            StageKind::Source(pacing) => Some(cursor((stage, pacing))),
            StageKind::Stateful | StageKind::Stateless => None,
        });
        LocalScheduler {
            sources: sources.collect(),
            credit: Credit::new(core, options.ahead),
            plan,
            core,
            options,
            placements: PlacementHistory::default(),
            groups: Groups::default(),
            window: VecDeque::new(),
            spare: Vec::new(),
            completed: BatchId(0),
            ready: BTreeSet::new(),
            early: BTreeMap::new(),
            early_releases: BTreeSet::new(),
            started: BatchId(0),
            promise: None,
            ranges: Vec::new(),
            ranges_due: None,
        }
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, now: Instant, event: LocalEvent<'_>, actions: &mut Vec<LocalAction>) {
        match event {
            LocalEvent::Order(Order::ScheduleGroup(group)) => self.schedule(&group, actions),
            LocalEvent::Order(Order::Release { batch, stage }) => self.release(batch, stage),
            LocalEvent::Order(Order::CutGroup { proposed }) => self.promise(proposed, actions),
            LocalEvent::Order(Order::CommitCut { last_batch }) => self.cut(last_batch, actions),
            LocalEvent::RunDone { run, ranges, run_ns } => {
                self.run_done(now, run, ranges, run_ns, actions);
            }
            LocalEvent::PeerCompleted { core, batch } => self.credit.peer_completed(core, batch),
            LocalEvent::Tick => {}
        }
        self.report_ranges(now, actions);
    }

    /// Decides about a block that arrived; its dependencies are counted if it is new.
    pub fn offer(&mut self, notice: &BlockNotice) -> Offer {
        if notice.batch.0 + self.plan.edge(notice.edge).batch_delta <= self.completed.0 {
            return Offer::Discard;
        }
        let batch = BatchId(notice.batch.0 + self.plan.edge(notice.edge).batch_delta);
        let Some(index) = self.index_of(batch) else {
            let early = self.early.entry(batch).or_default();
            if early.iter().any(|known| known.covers(notice)) {
                return Offer::Discard;
            }
            early.push(notice.clone());
            return Offer::Keep;
        };
        let offer = self.window[index].arrived(&self.plan, notice);
        self.note_ready(index);
        offer
    }

    /// What to run now, if anything: the oldest batch first, in it the stage nearest the sink.
    pub fn next(&mut self, now: Instant) -> Option<Run> {
        let source = self.next_source(now);
        // While a promise is open nothing beyond it runs, sources or not: the cut may void such a
        // batch, and a block that is here for its number may be of the group that follows the cut.
        let ready = self.ready.first().copied();
        let ready = ready.filter(|&(batch, _)| self.promise.is_none_or(|last| batch <= last));
        match (ready, source) {
            (Some((batch, _)), Some(index)) if self.sources[index].next < batch => {
                Some(self.start_source(now, index))
            }
            (Some((batch, rank)), _) => Some(self.start_ready(now, batch, rank)),
            (None, Some(index)) => Some(self.start_source(now, index)),
            (None, None) => None,
        }
    }

    /// When [`LocalScheduler::next`] may have something new without an event; then call it, and
    /// `handle` with `Tick`.
    pub fn deadline(&self) -> Option<Instant> {
        let sources = self.sources.iter().filter_map(|cursor| match cursor.pacing {
            Pacing::Clock if self.may_start(cursor) => self.groups.start_of(cursor.next),
            Pacing::Clock | Pacing::Unpaced => None,
        });
        sources.chain(self.ranges_due).min()
    }

    /// The last batch whose tasks on this core are all done.
    pub fn completed(&self) -> BatchId {
        self.completed
    }

    /// The placement of a batch that is in hand.
    pub fn placements(&self) -> &PlacementHistory {
        &self.placements
    }

    /// What the oldest unfinished task waits for: for the line that is printed when nothing moves.
    pub fn waiting(&self) -> Option<Waiting> {
        let state = self.window.front()?;
        let (stage, partition, missing) = state.first_unfinished(&self.plan)?;
        let reason = match (self.plan.stage(stage).kind, missing) {
            _ if self.promise.is_some_and(|last| state.batch > last) => WaitingFor::Cut,
            (StageKind::Source(_), _) => match self.credit.slowest() {
                Some(core) if !self.credit.allows(state.batch, self.completed) => {
                    WaitingFor::Core(core)
                }
                _ => WaitingFor::Start(self.groups.start_of(state.batch).unwrap_or_default()),
            },
            (_, Some(upstream)) => WaitingFor::Block(upstream),
            (_, None) => WaitingFor::Release,
        };
        Some(Waiting { batch: state.batch, stage, partition, reason })
    }

    fn schedule(&mut self, group: &Arc<ScheduleGroup>, actions: &mut Vec<LocalAction>) {
        if let Some(placement) = &group.placement {
            self.placements.add(placement.clone());
            self.credit.placement_changed(&self.plan, placement);
        }
        self.groups.add(group.clone());
        self.lay_out();
        self.finish_batches(actions);
    }

    fn release(&mut self, batch: BatchId, stage: StageId) {
        match self.index_of(batch) {
            Some(index) => {
                self.window[index].released(stage);
                self.note_ready(index);
            }
            None if batch > self.completed => {
                self.early_releases.insert((batch, stage));
            }
            None => {}
        }
    }

    fn promise(&mut self, proposed: BatchId, actions: &mut Vec<LocalAction>) {
        let last_batch = proposed.max(self.started);
        self.promise = Some(last_batch);
        actions.push(LocalAction::Report(CoreReport::Promise { last_batch }));
    }

    /// Voids every scheduled batch after `last_batch`. Nobody has started one (that was promised),
    /// so blocks of such numbers that are already here belong to the group that follows the cut.
    fn cut(&mut self, last_batch: BatchId, actions: &mut Vec<LocalAction>) {
        assert!(self.started <= last_batch, "a batch beyond the promise was started");
        while self.window.back().is_some_and(|state| state.batch > last_batch) {
            let mut state = self.window.pop_back().expect("it was there");
            self.early.insert(state.batch, state.take_notices());
            self.ready.retain(|&(batch, _)| batch != state.batch);
            self.spare.push(state);
        }
        for cursor in &mut self.sources {
            cursor.next = cursor.next.min(last_batch.next());
        }
        self.groups.cut(last_batch);
        self.completed = self.completed.min(last_batch);
        self.promise = None;
        self.finish_batches(actions);
        self.report_groups(actions);
    }

    fn run_done(
        &mut self,
        now: Instant,
        run: &Run,
        ranges: &[TakenRange],
        run_ns: u64,
        actions: &mut Vec<LocalAction>,
    ) {
        if let Some(cursor) = self.sources.iter_mut().find(|cursor| cursor.stage == run.stage) {
            cursor.running = false;
        }
        if !ranges.is_empty() {
            self.ranges.extend_from_slice(ranges);
            let due = now.after(self.options.report_ranges_after_ns);
            let ended = ranges.iter().any(|taken| taken.ended);
            let due = if ended { now } else { self.ranges_due.unwrap_or(due) };
            self.ranges_due = Some(due);
        }
        let statistics = self.groups.statistics_of(run.batch);
        statistics.tasks += run.partitions.len() as u64;
        statistics.run_ns += run_ns;

        let index = self.index_of(run.batch).expect("a run belongs to a batch in hand");
        let stage_finished = self.window[index].done(run.stage, &run.partitions);
        if stage_finished && self.reports_stages(run.stage) {
            let report = CoreReport::StageDone { batch: run.batch, stage: run.stage };
            actions.push(LocalAction::Report(report));
        }
        if self.plan.stage(run.stage).kind.follows_its_predecessor()
            && let Some(next) = self.window.get_mut(index + 1)
        {
            next.predecessor_done(run.stage, &run.partitions);
            self.note_ready(index + 1);
        }
        self.finish_batches(actions);
    }

    fn reports_stages(&self, stage: StageId) -> bool {
        self.options.prescheduling == Prescheduling::Off
            && self.plan.edges_out_of(stage).next().is_some()
    }

    fn report_ranges(&mut self, now: Instant, actions: &mut Vec<LocalAction>) {
        if self.ranges_due.is_some_and(|due| due <= now) {
            self.flush_ranges(actions);
        }
    }

    fn flush_ranges(&mut self, actions: &mut Vec<LocalAction>) {
        self.ranges_due = None;
        if !self.ranges.is_empty() {
            let ranges = std::mem::take(&mut self.ranges);
            actions.push(LocalAction::Report(CoreReport::Ranges(ranges)));
        }
    }

    /// Retires finished batches in order, lays out those that follow, reports finished groups.
    fn finish_batches(&mut self, actions: &mut Vec<LocalAction>) {
        let before = self.completed;
        while self.window.front().is_some_and(BatchState::is_finished) {
            let state = self.window.pop_front().expect("it was there");
            self.completed = state.batch;
            self.spare.push(state);
            self.lay_out();
        }
        if self.completed == before {
            return;
        }
        self.placements.forget_before(self.completed.next());
        actions.push(LocalAction::Release { completed: self.completed });
        actions.extend(self.credit.completed(self.completed));
        self.report_groups(actions);
    }

    fn report_groups(&mut self, actions: &mut Vec<LocalAction>) {
        while let Some((group, last_batch, statistics)) = self.groups.finished(self.completed) {
            // The driver must know what a group took before it hears that the group is done.
            self.flush_ranges(actions);
            let report = CoreReport::GroupDone { group, last_batch, statistics };
            actions.push(LocalAction::Report(report));
        }
    }

    /// Lays out scheduled batches, at most `ahead` beyond the last finished one.
    fn lay_out(&mut self) {
        loop {
            let batch = BatchId(self.completed.0 + self.window.len() as u64 + 1);
            if batch.0 > self.completed.0 + self.options.ahead || !self.groups.contains(batch) {
                return;
            }
            let placement = self.placements.at(batch).expect("a group comes with its placement");
            let mut state = self.spare.pop().unwrap_or_default();
            let release = self.options.prescheduling;
            state.lay_out(&self.plan, placement, self.core, batch, release, self.window.back());
            for notice in self.early.remove(&batch).unwrap_or_default() {
                state.arrived(&self.plan, &notice);
            }
            for stage in self.plan.stage_ids() {
                if self.early_releases.remove(&(batch, stage)) {
                    state.released(stage);
                }
            }
            self.window.push_back(state);
            self.note_ready(self.window.len() - 1);
        }
    }

    fn note_ready(&mut self, index: usize) {
        let state = &self.window[index];
        for stage in state.ready_stages() {
            self.ready.insert((state.batch, u16::MAX - stage.0));
        }
    }

    fn index_of(&self, batch: BatchId) -> Option<usize> {
        let index = batch.0.checked_sub(self.completed.0 + 1)? as usize;
        (index < self.window.len()).then_some(index)
    }

    fn may_start(&self, cursor: &SourceCursor) -> bool {
        !cursor.running
            && self.promise.is_none_or(|last| cursor.next <= last)
            && self.credit.allows(cursor.next, self.completed)
            && self.index_of(cursor.next).is_some()
    }

    fn next_source(&mut self, now: Instant) -> Option<usize> {
        self.skip_batches_without_source_tasks();
        let due = |cursor: &SourceCursor| match cursor.pacing {
            Pacing::Unpaced => true,
            Pacing::Clock => self.groups.start_of(cursor.next).is_some_and(|start| start <= now),
        };
        let ready = self.sources.iter().enumerate();
        let ready = ready.filter(|(_, cursor)| self.may_start(cursor) && due(cursor));
        ready.min_by_key(|(_, cursor)| cursor.next).map(|(index, _)| index)
    }

    fn skip_batches_without_source_tasks(&mut self) {
        for index in 0..self.sources.len() {
            loop {
                let cursor = &self.sources[index];
                let finished = cursor.next <= self.completed;
                let has_none = self
                    .index_of(cursor.next)
                    .is_some_and(|state| !self.window[state].has_tasks(cursor.stage));
                if !finished && !has_none {
                    break;
                }
                self.sources[index].next = self.sources[index].next.next();
            }
        }
    }

    fn start_source(&mut self, now: Instant, index: usize) -> Run {
        let cursor = &self.sources[index];
        let (batch, stage) = (cursor.next, cursor.stage);
        let (start, cut, purpose) = self.groups.cut_of(batch, now, cursor.pacing);
        let overtaken = cursor.pacing == Pacing::Clock && cursor.cut >= start;
        let cursor = &mut self.sources[index];
        cursor.cut = cursor.cut.max(cut);
        cursor.next = batch.next();
        cursor.running = true;
        let cut = cursor.cut;
        if cursor.pacing == Pacing::Clock && purpose == Purpose::Process {
            let statistics = self.groups.statistics_of(batch);
            statistics.overtaken += u64::from(overtaken);
            statistics.worst_delay_ns = statistics.worst_delay_ns.max(now.since(start));
        }
        self.started = self.started.max(batch);
        let state = self.index_of(batch).expect("it may start, so it is laid out");
        let partitions = self.window[state].take_all(stage);
        Run { batch, stage, partitions, watermark: Watermark::NONE, cut, purpose }
    }

    fn start_ready(&mut self, now: Instant, batch: BatchId, rank: u16) -> Run {
        self.ready.remove(&(batch, rank));
        let stage = StageId(u16::MAX - rank);
        let index = self.index_of(batch).expect("ready tasks belong to batches in hand");
        let (partitions, watermark) = self.window[index].take_ready(stage);
        let purpose = self.groups.purpose_of(batch);
        Run { batch, stage, partitions, watermark, cut: now, purpose }
    }
}

/// A task that cannot go on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The oldest unfinished batch.
    pub batch: BatchId,
    /// The stage of the task.
    pub stage: StageId,
    /// Its partition.
    pub partition: PartitionId,
    /// What it waits for.
    pub reason: WaitingFor,
}

/// What a task may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// The batch's start time.
    Start(Instant),
    /// The block of an upstream partition.
    Block(PartitionId),
    /// The driver's release.
    Release,
    /// A core downstream that is too many batches behind.
    Core(CoreId),
    /// The end of a cut that it promised to respect.
    Cut,
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingFor::Start(_) => write!(formatter, "its start time"),
            WaitingFor::Block(upstream) => write!(formatter, "the block of upstream {upstream}"),
            WaitingFor::Release => write!(formatter, "the batch before it or the driver's release"),
            WaitingFor::Core(core) => write!(formatter, "{core}, which is too far behind"),
            WaitingFor::Cut => write!(formatter, "the driver to commit a cut"),
        }
    }
}
