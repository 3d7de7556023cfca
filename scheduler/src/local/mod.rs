//! The local scheduler: one per core. It holds the pre-scheduled tasks of the groups in hand, counts
//! their dependencies, and says what runs next. No task waits for the driver (paper, section 3.2).
//!
//! A core has one [`lane`] for each partition that it owns: the tasks of that partition, from its
//! oldest unfinished batch on. A task waits for a number of things that are all the same to it: the
//! blocks of its upstream partitions and, without pre-scheduling, the driver's release. When the
//! count reaches zero it is ready; where the stage keeps state, only the oldest task of a lane is.
//! Source tasks wait for their batch's start time and for credit instead: they run at most `ahead`
//! batches before the slowest core that folds what they produce, which bounds every queue behind
//! them. Lanes are independent of each other, so a lost partition that starts again here rolls
//! nothing else back.
//!
//! Only the next few batches of a group are laid out, so the memory and the work per batch do not
//! depend on the size of the group.
//!
//! * [`lanes`], [`groups`], [`credit`], [`releases`]: what may run; [`start`]: what does.
//! * [`ranges`], [`retention`], [`errands`]: what is kept for others that are lost.
//! * [`recovery`], [`changes`]: fences, rollbacks, cuts, moves; [`snapshots`]: checkpoints.
//! * [`inputs`]: which of several equal blocks a task folds.

mod changes;
mod credit;
mod errands;
mod events;
mod groups;
mod inputs;
mod lane;
mod lanes;
mod ranges;
mod recovery;
mod releases;
mod retention;
mod snapshots;
mod stage_lanes;
mod start;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bugs::{Bug, Bugs};
use crate::history::History;
use crate::ids::{
    Attempt, BatchId, CoreId, CutId, EdgeId, Epoch, Instant, Life, PartitionId, StageId,
};
use crate::message::{BlockNotice, Combined, Coverage, Decision, Order, ScheduleGroup, TakenRange};
use crate::placement::PlacementHistory;
use crate::plan::{Pacing, Plan, StageKind};

pub use crate::plan::Prescheduling;
pub use events::*;
pub use inputs::select_inputs;
pub use waiting::{Waiting, WaitingFor};

use changes::{Arrived, Preparing, ShippedCopy};
use credit::Credit;
use errands::{Errands, Reason};
use groups::Groups;
use lane::{Lane, LaneState};
use lanes::{Ended, Lanes, is_repetition};
use ranges::Ranges;
use releases::Releases;
use retention::Retained;

/// How often a core says how far it is.
const PROGRESS_EVERY_NS: u64 = 50_000_000;

/// The tasks of one core. See the module's text.
#[derive(Debug)]
pub struct LocalScheduler {
    plan: Arc<Plan>,
    core: CoreId,
    options: LocalOptions,
    history: History,
    groups: Groups,
    lanes: Lanes,
    /// Blocks that came before their batch was laid out.
    early: BTreeMap<BatchId, Vec<BlockNotice>>,
    /// Blocks whose sender knows a newer placement than this core.
    parked: Vec<BlockNotice>,
    releases: Releases,
    sources: Vec<SourceStage>,
    errands: Errands,
    /// The newest batch of which a task was started here.
    started: BatchId,
    /// Open promises: no task of a batch beyond any of them starts.
    promises: BTreeMap<CutId, BatchId>,
    credit: Credit,
    ranges: Ranges,
    /// Ranges that came before it was known who is fenced.
    unproven: Vec<(Life, TakenRange)>,
    retained: Retained,
    /// Cores that started again from an earlier batch, and the last batch that they may have finished
    /// before that.
    rolled_back: BTreeMap<CoreId, BatchId>,
    /// What source partitions that have moved away left here.
    left_here: Vec<Coverage>,
    copies: Vec<ShippedCopy>,
    arrived: Vec<Arrived>,
    preparing: Option<Preparing>,
    /// The planted mistake: the placements of before a recovery.
    outdated: Option<PlacementHistory>,
    /// When progress is told again, and what was told last.
    progress: (Instant, BatchId),
}

/// What the lanes of a source stage have in common.
#[derive(Debug)]
struct SourceStage {
    stage: StageId,
    pacing: Pacing,
    /// All input before this point has been taken.
    cut: Instant,
}

impl LocalScheduler {
    /// A scheduler for `core`, with no group yet.
    pub fn new(plan: Arc<Plan>, core: CoreId, options: LocalOptions) -> LocalScheduler {
        assert!(options.ahead >= 1, "a source must be allowed to start");
        let sources = plan.stage_ids().filter_map(|stage| match plan.stage(stage).kind {
            StageKind::Source(pacing) => Some(SourceStage { stage, pacing, cut: Instant(0) }),
            StageKind::Stateful | StageKind::Stateless => None,
        });
        let (bugs, retention) = (options.bugs, options.retention);
        LocalScheduler {
            sources: sources.collect(),
            history: History::default(),
            groups: Groups::new(bugs),
            lanes: Lanes::new(plan.clone(), bugs),
            early: BTreeMap::new(),
            parked: Vec::new(),
            releases: Releases::new(&plan, options.prescheduling),
            errands: Errands::default(),
            started: BatchId(0),
            promises: BTreeMap::new(),
            credit: Credit::new(core, options.ahead),
            ranges: Ranges::new(bugs, retention, options.ranges),
            unproven: Vec::new(),
            retained: Retained::new(retention, bugs),
            rolled_back: BTreeMap::new(),
            left_here: Vec::new(),
            copies: Vec::new(),
            arrived: Vec::new(),
            preparing: None,
            outdated: None,
            progress: (Instant(0), BatchId(0)),
            plan,
            core,
            options,
        }
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, now: Instant, event: LocalEvent<'_>, actions: &mut Vec<LocalAction>) {
        let durable = self.history.durable();
        match event {
            LocalEvent::Order(order) => self.order(order, actions),
            LocalEvent::Taken(ranges) => self.ranges.announce(now, ranges, durable),
            LocalEvent::RunDone { run, ranges, published, combined, run_ns } => {
                if run.recorded.is_none() {
                    self.ranges.took(now, ranges, durable);
                }
                self.published(published, actions);
                self.run_done(run, combined, run_ns, actions);
            }
            LocalEvent::Republished(published) => self.published(published, actions),
            LocalEvent::PeerCompleted { core, batch } => self.credit.peer_completed(core, batch),
            LocalEvent::Learned { from, ranges } => self.learn(from, ranges),
            LocalEvent::Restored { stage, partition, after } => {
                self.state_is_here(stage, partition, LaneState::Restoring(after), actions);
            }
            LocalEvent::StateArrived { from, stage, partition, batch, since } => {
                self.state_arrived(Arrived { from, stage, partition, batch, since }, actions);
            }
            LocalEvent::Preloaded { stage, partition } => {
                self.preloaded(stage, partition, actions);
            }
            LocalEvent::SnapshotDurable { stage, partition, batch, since } => {
                self.snapshot_is_durable(stage, partition, batch, since, actions);
            }
            LocalEvent::SnapshotFailed { batch, .. } => self.snapshot_failed(batch, actions),
            LocalEvent::Reconnected { worker } => self.reconnected(worker, actions),
            LocalEvent::Tick => {}
        }
        self.report_in_time(now, actions);
    }

    /// Decides about a block that arrived; its dependencies are counted if it is new.
    pub fn offer(&mut self, notice: &BlockNotice) -> Offer {
        let fenced = self.history.fenced.contains(&notice.life());
        if fenced && !self.options.bugs.has(Bug::IncarnationCheckOff) {
            return Offer::Discard;
        }
        if notice.epoch > self.history.epoch {
            // Whether it is for this core depends on a placement that is still to come.
            return keep_once(&mut self.parked, notice, self.options.bugs);
        }
        self.count(notice)
    }

    /// When [`LocalScheduler::next`] may have something new without an event; then call it, and
    /// `handle` with `Tick`.
    pub fn deadline(&self) -> Option<Instant> {
        let limit = self.limit().min(self.credit.limit(self.lanes.completed()));
        let starts = self.sources.iter().filter_map(|source| match source.pacing {
            Pacing::Clock => self.groups.start_of(self.first_of(source.stage, limit)?),
            Pacing::Unpaced => None,
        });
        starts.chain(self.ranges.due()).chain(self.progress_due()).min()
    }

    /// The last batch whose tasks on this core are all done.
    pub fn completed(&self) -> BatchId {
        self.lanes.completed()
    }

    /// Where the blocks of runs go.
    pub fn placements(&self) -> &PlacementHistory {
        self.outdated.as_ref().unwrap_or(&self.history.placements)
    }

    /// All that was decided, as far as this core was told.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The newest version of the placement that this core knows: what it says in its blocks.
    pub fn epoch(&self) -> Epoch {
        self.history.epoch
    }

    /// Whether some task of a batch that was due by then is still to be run here.
    pub fn is_behind(&self, due: Instant) -> bool {
        let is_due = |lane: &Lane| self.groups.start_of(lane.first).is_some_and(|at| at <= due);
        self.lanes.all().any(|(_, lane)| is_due(lane))
    }

    /// Ranges that go with every frame to another core.
    pub fn ranges_to_relay(&self) -> Vec<TakenRange> {
        self.ranges.to_relay()
    }

    /// Which of the kept blocks a task folds: [`select_inputs`].
    pub fn inputs(
        &self,
        edge: EdgeId,
        downstream: PartitionId,
        kept: &[&BlockNotice],
    ) -> Vec<usize> {
        inputs::select(&self.plan, edge, downstream, kept, self.options.bugs)
    }

    fn order(&mut self, order: Order, actions: &mut Vec<LocalAction>) {
        match order {
            Order::Decision { number, decision } => {
                self.before(&decision);
                self.history.apply(number, &decision);
                self.prove_ranges();
                match decision {
                    Decision::Admit(_) => {}
                    Decision::ScheduleGroup(group) => self.schedule(&group, actions),
                    Decision::CutGroup { cut, proposed } => self.promise(cut, proposed, actions),
                    Decision::CommitCut { cut, last_batch } => self.cut(cut, last_batch, actions),
                    Decision::Fence(lives) => self.fence(number, &lives, actions),
                    Decision::Recover(recover) => self.recover(&recover, actions),
                    Decision::Checkpoint { batch } => self.checkpoint(batch, actions),
                    Decision::AbandonCheckpoint { .. } => {}
                    Decision::Durable(manifest) => self.durable(&manifest, actions),
                    Decision::Prepare(moves) => self.prepare(number, &moves, actions),
                    Decision::AbandonMoves => self.abandon_moves(actions),
                }
            }
            Order::Release { batch, stage } => self.release(batch, stage),
            Order::Recorded { through } => {
                self.ranges.recorded(through);
                actions.push(LocalAction::Recorded { through });
            }
            Order::Welcome(history) => self.welcome(&history, actions),
            Order::TakeOver { cut } => self.take_over(cut, actions),
            Order::Leave { .. } => {}
            Order::Speculate(errands) => {
                let attempt = Attempt(self.history.epoch.0 as u32);
                let mine = errands.iter().filter(|errand| errand.core == self.core);
                for errand in mine.filter(|errand| errand.taken.batch > self.history.durable()) {
                    self.errands.add(*errand, attempt, Reason::Speculation);
                }
            }
        }
    }

    /// The planted mistake: keeps the placements of before a recovery.
    fn before(&mut self, decision: &Decision) {
        if !self.options.bugs.has(Bug::RedirectForgotten) {
            return;
        }
        if let (Decision::Recover(_), None) = (decision, &self.outdated) {
            self.outdated = Some(self.history.placements.clone());
        }
        if let (Decision::ScheduleGroup(group), Some(outdated)) = (decision, &mut self.outdated) {
            group.placement.iter().for_each(|placement| outdated.add(placement.clone()));
        }
    }

    fn schedule(&mut self, group: &Arc<ScheduleGroup>, actions: &mut Vec<LocalAction>) {
        self.groups.add(group.clone(), group.last_batch());
        if let Some(placement) = &group.placement {
            self.place(placement, actions);
        }
        self.finish_batches(actions);
    }

    /// Counts a block, or keeps it until its batch is laid out.
    fn count(&mut self, notice: &BlockNotice) -> Offer {
        let batch = retention::reader_of(&self.plan, notice);
        if batch <= self.lanes.horizon() {
            return self.lanes.arrived(notice, batch);
        }
        keep_once(self.early.entry(batch).or_default(), notice, self.options.bugs)
    }

    fn release(&mut self, batch: BatchId, stage: StageId) {
        if batch > self.lanes.completed() {
            self.releases.add(batch, stage);
            self.lanes.released(stage, batch);
        }
    }

    fn run_done(
        &mut self,
        run: &Run,
        combined: &[(EdgeId, Combined)],
        run_ns: u64,
        actions: &mut Vec<LocalAction>,
    ) {
        if let Some(statistics) = self.groups.statistics_of(run.batch) {
            statistics.tasks += run.partitions.len() as u64;
            statistics.run_ns += run_ns;
            groups::add_combined(statistics, combined);
        }
        if run.recorded.is_some() {
            self.errands.done(run.batch, run.stage, run.partitions[0]);
            self.report_groups(actions);
            return;
        }
        let mut ended = Ended::Stale;
        for &partition in run.partitions.iter() {
            // The partition may have been dropped, or have started again, in the meantime.
            let task = self.lanes.done(run.stage, run.batch, partition, run.attempt);
            if let Ended::Advanced(before, _) = task {
                self.advanced(run.stage, partition, before, actions);
            }
            ended = if task == Ended::Stale { ended } else { task };
        }
        if ended != Ended::Stale && self.reports_stage(run.stage, run.batch) {
            let report = CoreReport::StageDone { batch: run.batch, stage: run.stage };
            actions.push(LocalAction::Report(report));
        }
        self.finish_batches(actions);
    }

    fn reports_stage(&self, stage: StageId, batch: BatchId) -> bool {
        self.releases.is_reported(batch)
            && self.plan.edges_out_of(stage).next().is_some()
            && self.lanes.is_stage_done(stage, batch)
    }

    /// A lane has finished its oldest batches: it may be due for a snapshot, or at its end.
    fn advanced(
        &mut self,
        stage: StageId,
        partition: PartitionId,
        before: BatchId,
        actions: &mut Vec<LocalAction>,
    ) {
        if let Some(batch) = self.history.checkpoint {
            self.snapshot_if_due(stage, partition, before, batch, actions);
        }
        if self.lanes.get(stage, partition).is_some_and(Lane::has_ended) {
            self.end_lane(stage, partition, actions);
        }
    }

    fn report_in_time(&mut self, now: Instant, actions: &mut Vec<LocalAction>) {
        if self.ranges.due().is_some_and(|due| due <= now) {
            self.flush_ranges(actions);
        }
        if self.progress_due().is_some_and(|due| due <= now) {
            self.progress = (now.after(PROGRESS_EVERY_NS), self.lanes.completed());
            actions.push(LocalAction::Report(CoreReport::Completed(self.progress.1)));
        }
    }

    fn progress_due(&self) -> Option<Instant> {
        let (due, told) = self.progress;
        (self.retained.is_kept() && told != self.lanes.completed()).then_some(due)
    }

    fn flush_ranges(&mut self, actions: &mut Vec<LocalAction>) {
        if let Some(ranges) = self.ranges.flush() {
            actions.push(LocalAction::Report(CoreReport::Ranges(ranges)));
        }
    }

    /// Retires finished batches in order, lays out those that follow, reports finished groups.
    fn finish_batches(&mut self, actions: &mut Vec<LocalAction>) {
        let before = self.lanes.completed();
        if self.lanes.is_empty() {
            let scheduled = self.scheduled();
            self.lanes.finish_all(scheduled);
            self.early = self.early.split_off(&scheduled.next());
        }
        self.lay_out();
        while self.lanes.finish_batch() {
            self.lay_out();
        }
        let completed = self.lanes.completed();
        if completed != before {
            self.releases.forget_through(completed);
            // A parked block may be for a partition that starts again here, further back.
            let parked = self.parked.iter().map(|notice| retention::reader_of(&self.plan, notice));
            let oldest = parked.min().unwrap_or(completed.next());
            let released = completed.min(BatchId(oldest.0 - 1));
            actions.push(LocalAction::Release { completed: released });
            actions.extend(self.advertise_news());
        }
        self.report_groups(actions);
    }

    fn advertise_news(&mut self) -> Option<LocalAction> {
        // What a core without tasks has finished may yet be cut back, and nobody waits for it.
        let completed = self.lanes.completed();
        if self.lanes.is_empty() { None } else { self.credit.completed(completed) }
    }

    /// Tells the sources on these cores how far this one is, whatever they know already.
    fn advertise(&mut self, is_asked: impl Fn(&CoreId) -> bool) -> Option<LocalAction> {
        let completed = self.lanes.completed();
        if self.lanes.is_empty() { None } else { self.credit.advertise(completed, is_asked) }
    }

    fn report_groups(&mut self, actions: &mut Vec<LocalAction>) {
        let completed = self.lanes.completed();
        let errand = self.errands.unfinished();
        let done = errand.map_or(completed, |batch| completed.min(BatchId(batch.0 - 1)));
        while let Some((group, last_batch, statistics)) = self.groups.finished(done) {
            // The driver must know what a group took before it hears that the group is done.
            self.flush_ranges(actions);
            let epoch = self.history.epoch;
            let report = CoreReport::GroupDone { group, epoch, last_batch, statistics };
            actions.push(LocalAction::Report(report));
            if !self.retained.is_kept() {
                self.groups.forget_through(last_batch);
                self.history.forget_through(last_batch);
            }
        }
    }

    /// The last batch scheduled.
    fn scheduled(&self) -> BatchId {
        let last = self.history.last_batch;
        if self.groups.has_gap() { last.max(self.groups.last_batch()) } else { last }
    }

    /// Lays out scheduled batches, at most `ahead` beyond the last finished one.
    fn lay_out(&mut self) {
        let limit = BatchId(self.lanes.completed().0 + self.options.ahead).min(self.scheduled());
        while self.lanes.horizon() < limit {
            let batch = self.lanes.horizon().next();
            let releases = &self.releases;
            self.lanes.lay_out(|stage, batch| releases.awaits(stage, batch));
            if self.groups.is_in_gap(batch) {
                self.lanes.skip_batch(batch);
            }
            for notice in self.early.remove(&batch).unwrap_or_default() {
                self.lanes.arrived(&notice, batch);
            }
        }
    }

    /// No task beyond this batch may start.
    fn limit(&self) -> BatchId {
        self.promises.values().copied().min().unwrap_or(BatchId(u64::MAX))
    }
}

/// Keeps a block for later, unless one that covers it is kept already. It must be of the same life:
/// what the other one sent goes when that life is fenced. And it must not be older: when its epoch comes,
/// this core may not be the reader yet.
fn keep_once(kept: &mut Vec<BlockNotice>, notice: &BlockNotice, bugs: Bugs) -> Offer {
    let is_known = |known: &BlockNotice| {
        known.life() == notice.life()
            && known.epoch >= notice.epoch
            && known.covers(notice)
            && is_repetition(bugs, known.attempt, notice.attempt)
    };
    if kept.iter().any(is_known) {
        return Offer::Discard;
    }
    kept.push(notice.clone());
    Offer::Keep
}

#[cfg(test)]
mod tests;
