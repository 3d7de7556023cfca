//! The driver: it decides which batches run where, in groups. One message per worker and group; two
//! groups in flight, so that no worker ever waits for it.
//!
//! Whatever it decides for all workers is a numbered [`Decision`], which it takes into its own
//! [`History`] as they do into theirs. An event is noted where it belongs, and then [`Driver::advance`]
//! does everything for which the time has come; so no two kinds of change have to know of each other.
//!
//! A job ends at a cut: when the sources have ended, or a user asks for it, the driver asks every
//! worker not to start beyond a batch, commits the largest batch that any of them promised, and
//! schedules one last group of one batch that takes no input and flushes every window.

mod checkpoints;
mod cutting;
mod events;
mod groups;
mod journaling;
mod members;
mod recovery;
mod releases;
mod replacement;
mod rescale;
mod stragglers;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use events::*;

use crate::history::History;
use crate::ids::{BatchId, CoreId, Epoch, Instant, Life, OrderNumber, WorkerId};
use crate::lineage::Lineage;
use crate::message::{Decision, DriverMessage, Order, Report, TakenRange, WorkerMessage};
use crate::plan::Plan;

use checkpoints::Checkpoints;
use cutting::{Cut, CutPurpose};
use groups::Groups;
use journaling::Journal;
use members::Candidate;
use recovery::Recovery;
use releases::Releases;
use rescale::Rescale;
use stragglers::Stragglers;
use takeover::TakeOver;

#[cfg(test)]
mod tests;

/// The coordinator of one job. See the module's text.
#[derive(Debug)]
pub struct Driver {
    plan: Arc<Plan>,
    options: DriverOptions,
    /// Time of the event that is being handled.
    now: Instant,
    /// What follows from it.
    out: Vec<DriverAction>,
    phase: Phase,
    history: History,
    /// Workers that are ready and no members yet.
    candidates: BTreeMap<WorkerId, Candidate>,
    /// Members that are to leave.
    draining: BTreeSet<WorkerId>,
    lineage: Lineage,
    groups: Groups,
    cut: Option<Cut>,
    journal: Journal,
    checkpoints: Checkpoints,
    recovery: Recovery,
    rescale: Rescale,
    releases: Releases,
    stragglers: Stragglers,
    /// Up to this batch all ranges are in the journal, and the members were told.
    recorded: BatchId,
    /// Lost workers may have run batches up to this one, and shown results that only another run of
    /// the batch replaces: the job does not end before.
    ran_through: BatchId,
    /// Earlier drivers may have used lower ones, of which nobody is left to tell.
    least_epoch: Epoch,
    /// Errands of recoveries and their blocks are on any worker, for batches up to this one.
    errands_through: BatchId,
    /// The last batch with input, if an earlier driver decided it.
    end: Option<BatchId>,
    /// With so many workers the first group is scheduled.
    workers: usize,
    stop: Stop,
    /// Passes over everything that may be due.
    #[cfg(test)]
    passes: u64,
}

/// Where the job is in its life.
#[derive(Debug)]
enum Phase {
    /// The journal is to be read.
    Reading,
    /// The journal is to take this driver's first entry.
    Opening(Box<crate::journal::JournalState>),
    /// Workers of an earlier driver are asked what they hold.
    TakingOver(Box<TakeOver>),
    /// Not all workers are there.
    Gathering,
    /// Groups follow each other.
    Running,
    /// The last cut is committed. The journal is to say so before anybody flushes.
    Ending,
    /// The last group is scheduled.
    Flushing {
        /// The last batch with input.
        last_batch: BatchId,
    },
    /// Finished, failed or deposed.
    Over,
}

/// Whether a user asked for the end before the job could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Unasked,
    Asked,
}

impl Driver {
    /// A driver that waits for its workers, or for [`DriverEvent::Start`] where there is a journal.
    pub fn new(plan: Arc<Plan>, options: DriverOptions) -> Driver {
        assert!(options.groups_in_flight >= 1, "at least one group is in flight");
        assert!(options.workers >= 1, "a job needs at least one worker");
        let phase = match options.durability {
            Durability::None => Phase::Gathering,
            Durability::Journal { .. } => Phase::Reading,
        };
        Driver {
            now: Instant(0),
            out: Vec::new(),
            phase,
            history: History::default(),
            candidates: BTreeMap::new(),
            draining: BTreeSet::new(),
            lineage: Lineage::new(&plan),
            groups: Groups::new(&plan, &options),
            cut: None,
            journal: Journal::default(),
            checkpoints: Checkpoints::new(&plan),
            recovery: Recovery::None,
            rescale: Rescale::new(),
            releases: Releases::default(),
            stragglers: Stragglers::new(options.balance),
            recorded: BatchId(0),
            ran_through: BatchId(0),
            least_epoch: Epoch(0),
            errands_through: BatchId(0),
            end: None,
            workers: options.workers as usize,
            stop: Stop::Unasked,
            #[cfg(test)]
            passes: 0,
            plan,
            options,
        }
    }

    /// Takes an event; what follows from it is appended to `actions`.
    pub fn handle(&mut self, now: Instant, event: DriverEvent, actions: &mut Vec<DriverAction>) {
        if self.is_over() {
            return;
        }
        self.now = now;
        match event {
            DriverEvent::Start => self.read_journal(),
            DriverEvent::Journal(state) => self.journal_is_read(state),
            DriverEvent::Appended { sequence } => self.appended(sequence),
            DriverEvent::AppendFailed { sequence, failure } => {
                self.append_failed(sequence, failure);
            }
            DriverEvent::WorkerReady { worker, incarnation, cores } => {
                self.worker_ready(Life { worker, incarnation }, cores);
            }
            DriverEvent::Message(message) => self.message(message),
            DriverEvent::WorkerLost { worker, incarnation, reason } => {
                self.worker_lost(Life { worker, incarnation }, &reason);
            }
            DriverEvent::Drain { worker } => self.drain(worker),
            DriverEvent::CoordinationCost { cpu_ns } => self.groups.spent(cpu_ns),
            DriverEvent::Stop => self.stop(),
            DriverEvent::Tick => self.tick(),
        }
        self.advance();
        actions.append(&mut self.out);
    }

    /// When to call again with [`DriverEvent::Tick`], if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let takeover = match &self.phase {
            Phase::TakingOver(takeover) => Some(takeover.deadline()),
            Phase::Reading
            | Phase::Opening(_)
            | Phase::Gathering
            | Phase::Running
            | Phase::Ending
            | Phase::Flushing { .. }
            | Phase::Over => None,
        };
        let cut = self.cut.as_ref().and_then(Cut::deadline);
        let times = [
            takeover,
            cut,
            self.journal.deadline(),
            self.recovery.deadline(),
            self.rescale_deadline(),
            self.checkpoint_deadline(),
        ];
        times.into_iter().flatten().min()
    }

    /// What the sources' tasks took so far.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Zero of the job's own time, once it runs.
    pub fn origin(&self) -> Instant {
        self.groups.origin()
    }

    /// First batch of the oldest group that some worker has not reported done, and its start.
    pub fn oldest_open_batch(&self) -> Option<(BatchId, Instant)> {
        self.groups.oldest_open_batch()
    }

    /// Everything that was decided and still matters.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    fn has_journal(&self) -> bool {
        match self.options.durability {
            Durability::None => false,
            Durability::Journal { .. } => true,
        }
    }

    /// Deadlines that have passed.
    fn tick(&mut self) {
        self.retry_append();
        self.takeover_timed_out();
        let silent = self.silent_workers();
        self.lost(&silent);
        self.preparation_timed_out();
        self.checkpoint_timed_out();
    }

    /// Workers that have not answered a fence or a cut in time.
    fn silent_workers(&self) -> Vec<Life> {
        let mut silent = BTreeSet::new();
        if let Some(cut) = &self.cut
            && cut.deadline().is_some_and(|deadline| deadline <= self.now)
        {
            silent.extend(cut.waiting());
        }
        if self.recovery.deadline().is_some_and(|deadline| deadline <= self.now) {
            silent.extend(self.recovery.waiting());
        }
        silent.into_iter().filter_map(|worker| self.life_of(worker)).collect()
    }

    /// Does everything for which the time has come, until nothing more follows.
    fn advance(&mut self) {
        loop {
            let before = (self.out.len(), self.history.applied);
            #[cfg(test)]
            (self.passes += 1);
            self.advance_takeover();
            self.advance_fence();
            self.advance_cut();
            self.advance_members();
            self.advance_recovery();
            self.advance_groups();
            self.advance_end();
            self.advance_checkpoint();
            self.advance_rescale();
            self.advance_journal();
            if self.is_over() || before == (self.out.len(), self.history.applied) {
                return;
            }
        }
    }

    fn message(&mut self, message: WorkerMessage) {
        let WorkerMessage { worker, incarnation, report } = message;
        let life = Life { worker, incarnation };
        match self.phase {
            // Before its first order no worker has anything to report.
            Phase::Reading | Phase::Opening(_) | Phase::Gathering | Phase::Over => {}
            Phase::TakingOver(_) => self.holding(life, report),
            Phase::Running | Phase::Ending | Phase::Flushing { .. } => {
                if self.life_of(worker) == Some(life) {
                    self.report(worker, report);
                } else if self.candidates.get(&worker).is_none_or(|c| c.life(worker) != life) {
                    self.leave(life);
                }
            }
        }
    }

    fn report(&mut self, worker: WorkerId, report: Report) {
        match report {
            Report::GroupDone { group, epoch, last_batch: _, statistics } => {
                self.group_done(worker, group, epoch, &statistics);
            }
            Report::StageDone { batch, stage } => self.stage_done(worker, batch, stage),
            Report::Ranges(ranges) => self.learn(&ranges),
            Report::Refused { group, expected } => {
                self.fail(format!("{worker} refused {group}: it had reached {expected}"));
            }
            Report::Promise { cut, last_batch } => self.promised(worker, cut, last_batch),
            Report::Fenced { number, standing } => self.fenced(worker, number, &standing),
            // The answer to a question that was asked once more and answered before.
            Report::Holding(_) => {}
            Report::Snapshots { batch, snapshots } => self.snapshots(worker, batch, &snapshots),
            Report::NoSnapshot { batch } => self.no_snapshot(batch),
            Report::HighMark => self.checkpoint_now(),
            Report::Prepared { number } => self.prepared(worker, number),
            Report::Progress { completed } => self.progress(worker, &completed),
        }
    }

    fn learn(&mut self, ranges: &[TakenRange]) {
        for taken in ranges {
            let broken = match self.options.durability {
                Durability::None => self.lineage.follow(taken).err(),
                // A range may be known, or wait for those before it.
                Durability::Journal { .. } => self.lineage.learn(taken).err(),
            };
            if let Some(broken) = broken {
                self.fail(broken.to_string());
                return;
            }
        }
    }

    fn stop(&mut self) {
        match self.phase {
            Phase::Gathering if !self.has_journal() => {
                self.fail("it was stopped before it began".to_owned());
            }
            // Where there is a journal, an earlier driver may have begun.
            Phase::Gathering
            | Phase::Reading
            | Phase::Opening(_)
            | Phase::TakingOver(_)
            | Phase::Running => {
                self.stop = Stop::Asked;
            }
            Phase::Ending | Phase::Flushing { .. } | Phase::Over => {}
        }
    }

    /// Cuts and ends the job where the sources have ended or a user asked for it, and finishes it.
    fn advance_end(&mut self) {
        match self.phase {
            // A new driver first resolves what the one before it began.
            Phase::Running if self.cuts_for(CutPurpose::TakeOver) => {}
            Phase::Running if self.cuts_for(CutPurpose::End) => {}
            Phase::Running if self.history.last_batch < self.ran_through => {}
            Phase::Running => {
                // An end that only lost workers knew of may come elsewhere when it is taken anew.
                let is_fixed =
                    |end: &BatchId| !self.has_journal() || self.lineage.written_through() >= *end;
                if let Some(proposed) = self.lineage.ended_in().filter(is_fixed) {
                    self.end(proposed);
                } else if std::mem::replace(&mut self.stop, Stop::Unasked) == Stop::Asked {
                    self.end(BatchId(0));
                }
            }
            Phase::Flushing { last_batch } => {
                let settled = self.groups.are_done() && matches!(self.recovery, Recovery::None);
                let saved =
                    !self.has_journal() || self.history.durable() >= self.history.last_batch;
                if settled && saved {
                    self.phase = Phase::Over;
                    self.out.push(DriverAction::Finished { last_batch });
                }
            }
            Phase::Reading
            | Phase::Opening(_)
            | Phase::TakingOver(_)
            | Phase::Gathering
            | Phase::Ending
            | Phase::Over => {}
        }
    }

    fn cuts_for(&self, purpose: CutPurpose) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.purpose == purpose)
    }

    fn end(&mut self, proposed: BatchId) {
        self.abandon_moves();
        match &mut self.cut {
            Some(cut) => cut.purpose = CutPurpose::End,
            None => self.begin_cut(proposed, CutPurpose::End),
        }
    }

    fn fail(&mut self, reason: String) {
        self.phase = Phase::Over;
        self.out.push(DriverAction::Failed { reason });
    }

    fn deposed(&mut self) {
        self.phase = Phase::Over;
        self.out.push(DriverAction::Deposed);
    }

    /// Decides something for all workers, members that it admits among them.
    fn decide(&mut self, decision: Decision) -> OrderNumber {
        let number = self.history.applied.next();
        self.history.apply(number, &decision);
        self.send_to_all(&Order::Decision { number, decision });
        number
    }

    fn send_to_all(&mut self, order: &Order) {
        for &to in self.history.members.keys() {
            let message = DriverMessage { term: self.options.term, order: order.clone() };
            self.out.push(DriverAction::Send { to, message });
        }
    }

    fn send(&mut self, to: WorkerId, order: Order) {
        let message = DriverMessage { term: self.options.term, order };
        self.out.push(DriverAction::Send { to, message });
    }

    /// Tells a life that it is over.
    fn leave(&mut self, life: Life) {
        if self.has_journal() {
            self.send(life.worker, Order::Leave { life });
        }
    }

    fn life_of(&self, worker: WorkerId) -> Option<Life> {
        let (incarnation, _) = self.history.members.get(&worker)?;
        Some(Life { worker, incarnation: *incarnation })
    }

    /// The first core of every member, then the second of every member, and so on; without those
    /// that are to leave, unless nobody else is left.
    fn cores_in_turn(&self) -> Vec<CoreId> {
        let members = &self.history.members;
        let staying = |worker: &WorkerId| !self.draining.contains(worker);
        let nobody_stays = !members.keys().any(staying);
        let widest = members.values().map(|&(_, cores)| cores).max().unwrap_or(0);
        (0..widest)
            .flat_map(|core| {
                let has_it = members.iter().filter(move |&(worker, &(_, cores))| {
                    core < cores && (nobody_stays || staying(worker))
                });
                has_it.map(move |(&worker, _)| CoreId { worker, core })
            })
            .collect()
    }
}
