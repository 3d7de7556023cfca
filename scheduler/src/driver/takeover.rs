//! Taking over: a new driver opens the journal, asks all members of earlier times what they hold, and
//! goes on from the newest that any of them was told, the newest manifest, and all ranges that
//! anybody knows.
//!
//! All ranges that are known are kept, even those of batches that the survivors were not told of: the
//! lost worker that took them may have shown their results. Such batches are scheduled again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::members::placement_of_the_lost;
use super::{Cut, Driver, DriverAction, Phase};
use crate::bugs::Bug;
use crate::checkpoint::Manifest;
use crate::history::History;
use crate::ids::{BatchId, CutId, Epoch, Instant, Life, OrderNumber, Watermark, WorkerId};
use crate::journal::JournalState;
use crate::lineage::Lineage;
use crate::message::{Decision, Holding, Order, Purpose, Report};

/// What is known while members are asked.
#[derive(Debug)]
pub(super) struct TakeOver {
    journal: JournalState,
    /// The newest life of every worker that was ever a member, unless that is over.
    asked: BTreeMap<WorkerId, Life>,
    /// Those of them that may still answer.
    waiting: BTreeSet<WorkerId>,
    holdings: BTreeMap<WorkerId, Holding>,
    deadline: Instant,
}

/// Whether two workers were told the same, as far as both remember. Where not, they heard of different
/// drivers before either was deposed; nothing was built on what only one of them heard.
fn agrees(told: &[(OrderNumber, Decision)], others: &[(OrderNumber, Decision)]) -> bool {
    let others: BTreeMap<OrderNumber, &Decision> = others.iter().map(|(n, d)| (*n, d)).collect();
    told.iter().all(|(number, decision)| others.get(number).is_none_or(|other| *other == decision))
}

/// Whether a life was there from its own admission on. One that was admitted and not yet told anything
/// must not take what was decided before its time as meant for it.
fn began_in_time(life: Life, known: &History, tail: &[(OrderNumber, Decision)]) -> bool {
    let is_known = known.members.get(&life.worker).is_some_and(|m| m.0 == life.incarnation);
    let admits = |decision: &Decision| match decision {
        Decision::Admit(members) => members.iter().any(|(member, _)| *member == life),
        Decision::ScheduleGroup(_)
        | Decision::CutGroup { .. }
        | Decision::CommitCut { .. }
        | Decision::Fence(_)
        | Decision::Recover(_)
        | Decision::Checkpoint { .. }
        | Decision::AbandonCheckpoint { .. }
        | Decision::Durable(_)
        | Decision::Prepare(_)
        | Decision::AbandonMoves => false,
    };
    is_known || tail.first().is_some_and(|(_, decision)| admits(decision))
}

impl TakeOver {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the member holds that was told most. One that was about to become a member knows nothing
    /// that matters, or what nobody has acted on.
    fn newest(&self) -> Option<&Holding> {
        let members = self.holdings.iter().filter(|&(worker, holding)| {
            let life = self.asked.get(worker);
            let member = holding.history.members.get(worker);
            member.is_some_and(|(incarnation, _)| {
                life.is_some_and(|life| life.incarnation == *incarnation)
            })
        });
        members.map(|(_, holding)| holding).max_by_key(|holding| holding.history.applied)
    }
}

impl Driver {
    pub(super) fn read_journal(&mut self) {
        self.phase = Phase::Reading;
        self.out.push(DriverAction::ReadJournal);
    }

    pub(super) fn journal_is_read(&mut self, state: JournalState) {
        if !matches!(self.phase, Phase::Reading) {
            return;
        }
        if state.term > self.options.term {
            self.deposed();
            return;
        }
        self.journal.open_at(state.next);
        self.phase = Phase::Opening(Box::new(state));
    }

    /// Drivers of earlier terms can write no more.
    pub(super) fn opened(&mut self) {
        let Phase::Opening(state) = std::mem::replace(&mut self.phase, Phase::Reading) else {
            return;
        };
        if state.members.is_empty() {
            self.phase = Phase::Gathering;
            return;
        }
        let mut asked: BTreeMap<WorkerId, Life> = BTreeMap::new();
        for &(life, _) in &state.members {
            let known = asked.entry(life.worker).or_insert(life);
            *known = life.max(*known);
        }
        asked.retain(|_, life| !state.fenced.contains(life));
        self.phase = Phase::TakingOver(Box::new(TakeOver {
            journal: *state,
            waiting: asked.keys().copied().collect(),
            asked,
            holdings: BTreeMap::new(),
            deadline: self.now.after(self.options.answer_timeout_ns),
        }));
        self.supersede();
        let Phase::TakingOver(takeover) = &self.phase else { return };
        let cut = self.takeover_cut();
        for worker in takeover.waiting.clone() {
            self.send(worker, Order::TakeOver { cut });
        }
    }

    fn takeover_cut(&self) -> CutId {
        CutId { term: self.options.term, number: OrderNumber(0) }
    }

    /// Workers that are ready in a later life need not be asked about the earlier one.
    fn supersede(&mut self) {
        let Phase::TakingOver(takeover) = &mut self.phase else { return };
        let mut over = Vec::new();
        self.candidates.retain(|worker, candidate| {
            let life = candidate.life(*worker);
            let asked = takeover.asked.get(worker).copied();
            if asked.is_some_and(|asked| asked < life) {
                takeover.waiting.remove(worker);
                takeover.holdings.remove(worker);
            }
            let is_over =
                asked.is_some_and(|asked| asked > life) || takeover.journal.fenced.contains(&life);
            if is_over {
                over.push(life);
            }
            !is_over && asked != Some(life)
        });
        for life in over {
            self.leave(life);
        }
    }

    /// Whether that life is one that is being asked what it holds. It may not have heard the question.
    pub(super) fn is_asked(&mut self, life: Life) -> bool {
        let Phase::TakingOver(takeover) = &self.phase else { return false };
        let asked = takeover.asked.get(&life.worker).is_some_and(|known| *known == life);
        if asked && takeover.waiting.contains(&life.worker) {
            let cut = self.takeover_cut();
            self.send(life.worker, Order::TakeOver { cut });
        }
        asked
    }

    pub(super) fn asked_worker_is_lost(&mut self, life: Life) {
        let Phase::TakingOver(takeover) = &mut self.phase else { return };
        if takeover.asked.get(&life.worker).is_some_and(|known| *known == life) {
            takeover.waiting.remove(&life.worker);
            takeover.holdings.remove(&life.worker);
        }
    }

    pub(super) fn holding(&mut self, life: Life, report: Report) {
        let Phase::TakingOver(takeover) = &mut self.phase else { return };
        let Report::Holding(holding) = report else { return };
        let asked = takeover.asked.get(&life.worker).is_some_and(|known| *known == life);
        if asked && takeover.waiting.remove(&life.worker) {
            takeover.holdings.insert(life.worker, *holding);
        }
    }

    pub(super) fn takeover_timed_out(&mut self) {
        if let Phase::TakingOver(takeover) = &mut self.phase
            && takeover.deadline <= self.now
        {
            takeover.waiting.clear();
        }
    }

    /// Everybody has answered or is lost.
    pub(super) fn advance_takeover(&mut self) {
        self.supersede();
        let Phase::TakingOver(takeover) = &mut self.phase else { return };
        if !takeover.waiting.is_empty() {
            return;
        }
        let takeover = std::mem::replace(&mut self.phase, Phase::Running);
        if let Phase::TakingOver(takeover) = takeover {
            self.take_over(*takeover);
        }
    }

    fn take_over(&mut self, mut takeover: TakeOver) {
        let manifest = self.newest_manifest(&takeover);
        self.history = match takeover.newest() {
            Some(newest) => newest.history.clone(),
            None => self.history_of_the_lost(&takeover, manifest.as_ref()),
        };
        self.bring_up_to_date(&mut takeover);
        if !self.restore_lineage(&takeover, manifest.as_ref()) {
            return;
        }
        if self.options.bugs.has(Bug::StaleManifest) {
            self.history.manifest.clone_from(&manifest);
        }
        // Before every change of the epoch there is an entry in the journal: a worker that was lost, a
        // driver, or the manifest without which partitions do not move again.
        self.least_epoch = Epoch(takeover.journal.next.0);
        let silent = self.silent_lives(&takeover);
        // Even where nobody is lost: what was said before the last decisions came is too old. And
        // before any other decision: a later life of a lost worker is to hear of none.
        self.fence(&silent);
        self.write_missing_ends(&takeover);
        if let Some(batch) = self.history.checkpoint {
            self.decide(Decision::AbandonCheckpoint { batch });
        }
        self.abandon_moves();
        self.rescale = super::Rescale::new();
        if let Some(manifest) = manifest {
            self.durable(&manifest);
        }
        self.open_groups_of_history();
        let promises = takeover.holdings.values().map(|holding| holding.promise);
        let largest = promises.max().unwrap_or_default();
        self.cut = Some(Cut::of_takeover(self.takeover_cut(), largest));
        self.first_checkpoint_is_due();
        self.wish_for_balance();
    }

    /// Everybody who may ever have held tasks, but those that go on and those that are fenced.
    fn silent_lives(&self, takeover: &TakeOver) -> Vec<Life> {
        let goes_on = |life: &Life| {
            takeover.holdings.contains_key(&life.worker) && self.life_of(life.worker) == Some(*life)
        };
        let ever = takeover.journal.members.iter().map(|&(life, _)| life);
        let members = self.history.members.keys().filter_map(|&worker| self.life_of(worker));
        let all: BTreeSet<Life> = ever.chain(members).collect();
        let gone = |life: &Life| !goes_on(life) && !self.history.fenced.contains(life);
        all.into_iter().filter(gone).collect()
    }

    /// What the driver before decided of lost workers may not have come into the journal.
    fn write_missing_ends(&mut self, takeover: &TakeOver) {
        let ever: BTreeSet<Life> = takeover.journal.members.iter().map(|&(life, _)| life).collect();
        let is_missing = |life: &Life| {
            self.history.fenced.contains(life) && !takeover.journal.fenced.contains(life)
        };
        let missing: Vec<Life> = ever.into_iter().filter(is_missing).collect();
        self.journal.write_end(&missing);
    }

    /// The newest of the journal and of what the workers were told.
    fn newest_manifest(&self, takeover: &TakeOver) -> Option<Arc<Manifest>> {
        let told = takeover.holdings.values().filter_map(|h| h.history.manifest.as_ref());
        let all = takeover.journal.manifests.iter().chain(told);
        let by_batch: BTreeMap<BatchId, &Arc<Manifest>> = all.map(|m| (m.batch, m)).collect();
        let stale = usize::from(self.options.bugs.has(Bug::StaleManifest) && by_batch.len() > 1);
        by_batch.values().rev().nth(stale).map(|&manifest| manifest.clone())
    }

    /// Where nobody is left: what the journal says, with all partitions lost.
    fn history_of_the_lost(
        &self,
        takeover: &TakeOver,
        manifest: Option<&Arc<Manifest>>,
    ) -> History {
        let ranges = &takeover.journal.ranges;
        let batch = manifest.map_or(BatchId(0), |manifest| manifest.batch);
        let mut history = History {
            applied: manifest.map_or(OrderNumber(0), |manifest| manifest.number),
            last_batch: batch,
            manifest: manifest.cloned(),
            ..History::default()
        };
        if batch > BatchId(0) || !ranges.is_empty() {
            let lost = &takeover.journal.members;
            let placement = placement_of_the_lost(&self.plan, lost, batch.next());
            history.epoch = placement.epoch;
            history.placements.add(Arc::new(placement));
        }
        history
    }

    /// Sends the last decisions to those that were not told, and away those that are no members.
    fn bring_up_to_date(&mut self, takeover: &mut TakeOver) {
        let recent = takeover.newest().map(|newest| newest.recent.clone()).unwrap_or_default();
        let history = &self.history;
        let mut missing = Vec::new();
        let mut leaving = Vec::new();
        takeover.holdings.retain(|&worker, holding| {
            let life = takeover.asked[&worker];
            let known = holding.history.applied;
            let tail: Vec<_> = recent.iter().filter(|(n, _)| *n > known).cloned().collect();
            let is_member = history.members.get(&worker).is_some_and(|m| m.0 == life.incarnation);
            let complete = known.0 + tail.len() as u64 == history.applied.0;
            let stays = is_member
                && complete
                && agrees(&holding.recent, &recent)
                && began_in_time(life, &holding.history, &tail);
            if stays {
                missing.push((worker, tail));
            } else {
                leaving.push(life);
            }
            stays
        });
        for (worker, tail) in missing {
            for (number, decision) in tail {
                self.send(worker, Order::Decision { number, decision });
            }
        }
        for life in leaving {
            self.leave(life);
        }
    }

    /// Says whether it could be done.
    fn restore_lineage(&mut self, takeover: &TakeOver, manifest: Option<&Arc<Manifest>>) -> bool {
        let positions = manifest.map_or(&[][..], |manifest| &manifest.positions);
        self.lineage = Lineage::restored(&self.plan, positions);
        self.learn(&takeover.journal.ranges);
        self.lineage.wrote(&takeover.journal.ranges);
        for holding in takeover.holdings.values() {
            self.learn(&holding.standing.ranges);
        }
        self.recorded = self.lineage.written_through();
        self.end = takeover.journal.end;
        !self.is_over()
    }

    /// Batch that the cut of a new driver commits: nothing that was started is void, and nothing of
    /// the last group, where that was scheduled.
    pub(super) fn last_batch_of_takeover(&self, largest: BatchId) -> BatchId {
        let last = self.history.last_batch;
        let newest = self.history.groups.last().map(|(group, _)| group.purpose);
        let is_saved = self.end.is_some_and(|end| self.history.durable() > end);
        if newest == Some(Purpose::Flush) || is_saved {
            return last;
        }
        let started = largest.max(self.lineage.newest()).min(last);
        // What was started beyond the end was only the flush, of which only lost workers were told.
        self.end.map_or(started, |end| started.min(end))
    }

    /// The cut is committed: batches that only lost workers knew are scheduled again.
    pub(super) fn go_on_after_takeover(&mut self) {
        self.tell_what_is_recorded_once_more();
        self.guess_what_the_lost_ran();
        if self.history.placements.versions().next().is_none() {
            self.phase = Phase::Gathering;
            // Some of those that the job began with may have left since.
            self.workers = 1;
            return;
        }
        self.begin_time(self.history.last_batch);
        let needed = self.end.unwrap_or(self.lineage.newest()).max(self.history.durable());
        if needed > self.history.last_batch {
            self.schedule(needed.0 - self.history.last_batch.0, Purpose::Process);
        }
        let newest = self.history.groups.last().map(|(group, _)| group.purpose);
        if newest == Some(Purpose::Flush) {
            let last_batch = BatchId(self.history.last_batch.0 - 1);
            self.phase = Phase::Flushing { last_batch };
            self.checkpoint_now();
        } else if self.end == Some(self.history.last_batch) {
            self.begin_flush(self.history.last_batch);
        } else if self.is_flushed() {
            let last_batch = BatchId(self.history.last_batch.0.saturating_sub(1));
            self.phase = Phase::Flushing { last_batch };
        }
    }

    /// Groups that nobody who is left was told of may have been scheduled for the lost ones. Where a
    /// survivor bounds them that is exact; else it is a guess, which fails where ranges were not
    /// written for longer than two rounds of groups took.
    fn guess_what_the_lost_ran(&mut self) {
        if self.history.fenced.is_empty() {
            return;
        }
        let unseen = self.groups.batches_in_flight(self.options.groups_in_flight);
        let newest = self.history.last_batch.max(self.lineage.newest());
        let guess = BatchId(newest.0.saturating_add(2 * unseen + self.options.ahead));
        self.ran_through = self.bound_of_the_lost().unwrap_or(guess);
    }

    /// Whether the newest manifest has the end of everything: only `Finished` was left to say.
    fn is_flushed(&self) -> bool {
        let manifest = self.history.manifest.as_ref();
        manifest.is_some_and(|manifest| {
            manifest.batch == self.history.last_batch
                && manifest.positions.iter().all(|p| p.watermark == Watermark::END)
        })
    }

    fn tell_what_is_recorded_once_more(&mut self) {
        let through = self.recorded;
        if through > BatchId(0) {
            self.send_to_all(&Order::Recorded { through });
        }
    }
}
