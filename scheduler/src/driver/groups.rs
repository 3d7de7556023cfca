//! Groups: when the next one is scheduled, how large it is, and when it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{
    Adaptation, Balance, Driver, DriverAction, DriverOptions, Durability, GroupSize, Phase,
    Recovery,
};
use crate::adapt::Adapter;
use crate::ids::{BatchId, Epoch, GroupId, Instant, WorkerId};
use crate::message::{Content, Decision, GroupStatistics, Purpose, ScheduleGroup};
use crate::placement::Placement;
use crate::plan::Plan;
use crate::tuner::Tuner;

/// The groups that are not done, and what the next one will be like.
#[derive(Debug)]
pub(super) struct Groups {
    /// Scheduled, and not announced as done.
    in_flight: VecDeque<OpenGroup>,
    /// Announced as done, and reported once more since a recovery: workers that have not.
    again: BTreeMap<GroupId, BTreeSet<WorkerId>>,
    /// Groups up to this one were scheduled before the last recovery. They do not count for the
    /// limit on groups in flight, so that new batches flow while lost ones are repeated.
    recovered_through: GroupId,
    /// Epoch of the last recovery: reports of an earlier one are void.
    recovered_in: Epoch,
    /// The next group brings this placement.
    placement: Option<Arc<Placement>>,
    origin: Instant,
    /// A batch and its start, from which those of the others follow; re-based after a long gap.
    base: (BatchId, Instant),
    interval_ns: u64,
    size: Size,
    adapter: Option<Adapter>,
    contents: Arc<[Content]>,
    /// CPU time of coordination since the last group was done.
    spent_ns: u64,
    last_done: Instant,
}

#[derive(Debug)]
enum Size {
    Fixed(u64),
    Tuned(Tuner),
}

#[derive(Debug)]
struct OpenGroup {
    group: GroupId,
    first_batch: BatchId,
    last_batch: BatchId,
    /// Start of its first batch.
    start: Instant,
    /// Workers that have not reported it done.
    waiting: BTreeSet<WorkerId>,
    statistics: GroupStatistics,
    run_ns_by_worker: BTreeMap<WorkerId, Vec<u64>>,
}

impl Groups {
    pub(super) fn new(plan: &Plan, options: &DriverOptions) -> Groups {
        let size = match &options.group_size {
            GroupSize::Fixed(size) => {
                assert!(*size >= 1, "a group has at least one batch");
                Size::Fixed(*size)
            }
            GroupSize::Tuned(tuner) => Size::Tuned(Tuner::new(tuner.clone())),
        };
        let adapter = match options.adaptation {
            Adaptation::Off => None,
            Adaptation::On => Some(Adapter::new(plan.edges.len())),
        };
        let raw = || plan.edges.iter().map(|_| Content::Raw).collect();
        Groups {
            in_flight: VecDeque::new(),
            again: BTreeMap::new(),
            recovered_through: GroupId(0),
            recovered_in: Epoch(0),
            placement: None,
            origin: Instant(0),
            base: (BatchId(0), Instant(0)),
            interval_ns: options.interval_ns,
            size,
            contents: adapter.as_ref().map_or_else(raw, Adapter::contents),
            adapter,
            spent_ns: 0,
            last_done: Instant(0),
        }
    }

    pub(super) fn origin(&self) -> Instant {
        self.origin
    }

    pub(super) fn oldest_open_batch(&self) -> Option<(BatchId, Instant)> {
        self.in_flight.front().map(|open| (open.first_batch, open.start))
    }

    /// CPU time of coordination.
    pub(super) fn spent(&mut self, cpu_ns: u64) {
        self.spent_ns = self.spent_ns.saturating_add(cpu_ns);
    }

    /// Whether all groups are done, and those that a recovery repeats as well.
    pub(super) fn are_done(&self) -> bool {
        self.in_flight.is_empty() && self.again.is_empty()
    }

    /// The next group brings this placement.
    pub(super) fn place(&mut self, placement: Placement) {
        self.placement = Some(Arc::new(placement));
    }

    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        for open in &mut self.in_flight {
            open.waiting.remove(&worker);
        }
        self.again.values_mut().for_each(|waiting| {
            waiting.remove(&worker);
        });
    }

    /// Batches after `last_batch` are void.
    pub(super) fn cut(&mut self, last_batch: BatchId) {
        self.in_flight.retain(|open| open.first_batch <= last_batch);
        if let Some(open) = self.in_flight.back_mut() {
            open.last_batch = open.last_batch.min(last_batch);
        }
    }

    /// A manifest covers these batches: whatever was not reported of them matters no more.
    pub(super) fn durable(&mut self, batch: BatchId, groups_left: &BTreeSet<GroupId>) {
        self.again.retain(|group, _| groups_left.contains(group));
        let covered = self.in_flight.iter_mut().filter(|open| open.last_batch <= batch);
        covered.for_each(|open| open.waiting.clear());
    }

    fn start_of(&self, batch: BatchId) -> Instant {
        let (first, start) = self.base;
        let distance_ns = batch.0.abs_diff(first.0).saturating_mul(self.interval_ns);
        if batch < first {
            Instant(start.0.saturating_sub(distance_ns))
        } else {
            start.after(distance_ns)
        }
    }

    /// The next point in time that is a multiple of the interval.
    fn aligned(&self, time: Instant) -> Instant {
        let interval_ns = self.interval_ns.max(1);
        Instant(time.0.div_ceil(interval_ns).saturating_mul(interval_ns))
    }

    /// So many batches at most are in flight.
    pub(super) fn batches_in_flight(&self, groups: usize) -> u64 {
        self.size().saturating_mul(groups as u64)
    }

    fn size(&self) -> u64 {
        match &self.size {
            Size::Fixed(size) => *size,
            Size::Tuned(tuner) => tuner.size().max(1),
        }
    }

    /// What a group cost says how large the next ones are and what their blocks hold.
    fn adapt(&mut self, now: Instant, statistics: &GroupStatistics) {
        let elapsed_ns = now.since(std::mem::replace(&mut self.last_done, now));
        let spent_ns = std::mem::take(&mut self.spent_ns);
        match &mut self.size {
            Size::Fixed(_) => {}
            Size::Tuned(tuner) => {
                tuner.observe(spent_ns, elapsed_ns.max(1));
            }
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.observe(&statistics.combined);
            self.contents = adapter.contents();
        }
    }
}

impl Driver {
    /// The job's time begins: batch `last_batch` + 1 starts soon.
    pub(super) fn begin_time(&mut self, last_batch: BatchId) {
        let start = self.groups.aligned(self.now.after(self.options.lead_ns));
        self.groups.base = (last_batch, start);
        self.groups.last_done = self.now;
        let newest = self.history.groups.last();
        self.groups.origin = newest.map_or(start, |(group, _)| group.origin);
    }

    /// Announces the groups that are done, and schedules others in their place.
    pub(super) fn advance_groups(&mut self) {
        // A lost worker's tasks are done by others when a recovery has said by whom.
        if matches!(self.recovery, Recovery::None) && !self.history.members.is_empty() {
            self.retire_groups();
        }
        while self.wants_a_group() {
            let start = self.groups.start_of(self.history.last_batch.next());
            if self.now.since(start) > self.options.rebase_after_ns {
                let gap_ns = self.groups.aligned(self.now).since(start);
                self.groups.base.1 = self.groups.base.1.after(gap_ns);
            }
            let size = self.groups.size();
            self.schedule(size, Purpose::Process);
        }
    }

    fn wants_a_group(&self) -> bool {
        let may = self.is_running() && self.cut.is_none() && !self.history.members.is_empty();
        let groups = &self.groups;
        let new = |open: &&OpenGroup| open.group > groups.recovered_through;
        may && (groups.placement.is_some()
            || groups.in_flight.iter().filter(new).count() < self.options.groups_in_flight)
    }

    /// Schedules the next group.
    pub(super) fn schedule(&mut self, batch_count: u64, purpose: Purpose) {
        let placement = self.groups.placement.take();
        let first_batch = self.history.last_batch.next();
        let group = Arc::new(ScheduleGroup {
            group: self.history.last_group.next(),
            epoch: placement.as_ref().map_or(self.history.epoch, |placement| placement.epoch),
            predecessor: self.history.last_batch,
            first_batch,
            batch_count,
            // The last batch need not wait for its turn: it takes nothing.
            start: match purpose {
                Purpose::Process => self.groups.start_of(first_batch),
                Purpose::Flush => Instant(0),
            },
            interval_ns: self.options.interval_ns,
            origin: self.groups.origin,
            purpose,
            contents: self.groups.contents.clone(),
            placement,
        });
        self.open_group(&group, group.last_batch());
        self.decide(Decision::ScheduleGroup(group));
    }

    fn open_group(&mut self, group: &ScheduleGroup, last_batch: BatchId) {
        self.groups.in_flight.push_back(OpenGroup {
            group: group.group,
            first_batch: group.first_batch,
            last_batch,
            start: group.start,
            waiting: self.history.members.keys().copied().collect(),
            statistics: GroupStatistics::default(),
            run_ns_by_worker: BTreeMap::new(),
        });
    }

    /// After another driver's end: every group that matters is in flight.
    pub(super) fn open_groups_of_history(&mut self) {
        for (group, last_batch) in self.history.groups.clone() {
            self.open_group(&group, last_batch);
        }
    }

    pub(super) fn group_done(
        &mut self,
        worker: WorkerId,
        group: GroupId,
        epoch: Epoch,
        statistics: &GroupStatistics,
    ) {
        if epoch < self.groups.recovered_in {
            return;
        }
        if let Some(waiting) = self.groups.again.get_mut(&group) {
            waiting.remove(&worker);
            if waiting.is_empty() {
                self.groups.again.remove(&group);
            }
        }
        // A group that is not in flight was voided by a cut while the report was under way.
        if let Some(open) = self.groups.in_flight.iter_mut().find(|open| open.group == group)
            && open.waiting.remove(&worker)
        {
            open.statistics.merge(statistics);
            match self.options.balance {
                Balance::Off => {}
                Balance::On(_) => {
                    open.run_ns_by_worker.insert(worker, statistics.run_ns_by_core.clone());
                }
            }
        }
    }

    fn retire_groups(&mut self) {
        while let Some(open) = self.groups.in_flight.pop_front_if(|open| open.waiting.is_empty()) {
            let OpenGroup { group, last_batch, statistics, run_ns_by_worker, .. } = open;
            self.releases.forget_through(last_batch);
            match self.options.durability {
                Durability::None => {
                    self.history.forget_through(last_batch);
                    self.lineage.forget_through(last_batch);
                }
                Durability::Journal { .. } => {}
            }
            self.groups.adapt(self.now, &statistics);
            match self.options.balance {
                Balance::Off => {}
                Balance::On(_) => self.group_ran(&run_ns_by_worker),
            }
            self.out.push(DriverAction::GroupDone { group, last_batch, statistics });
        }
        self.groups.again.retain(|_, waiting| !waiting.is_empty());
    }

    /// A recovery was decided: all groups of which something may be repeated are reported again.
    pub(super) fn reopen_groups(&mut self) {
        let members: BTreeSet<WorkerId> = self.history.members.keys().copied().collect();
        let groups = &mut self.groups;
        groups.recovered_in = self.history.epoch;
        groups.recovered_through = self.history.last_group;
        // What a manifest covers is not reported again.
        let durable = self.history.durable();
        for open in groups.in_flight.iter_mut().filter(|open| open.last_batch > durable) {
            open.waiting.clone_from(&members);
            open.statistics = GroupStatistics::default();
            open.run_ns_by_worker.clear();
        }
        let oldest = groups.in_flight.front().map_or(GroupId(u64::MAX), |open| open.group);
        let done = self.history.groups.iter().filter(|(group, _)| group.group < oldest);
        groups.again = done.map(|(group, _)| (group.group, members.clone())).collect();
        self.stragglers.recovered();
    }

    /// The last cut is committed. Where only lost workers are told of the batch that flushes, the
    /// next driver must know that it did, so the journal has it first.
    pub(super) fn end_after(&mut self, last_batch: BatchId) {
        if self.has_journal() {
            self.phase = Phase::Ending;
            self.journal.write_last_batch(last_batch);
        } else {
            self.begin_flush(last_batch);
        }
    }

    /// Schedules the batch that flushes everything.
    pub(super) fn begin_flush(&mut self, last_batch: BatchId) {
        self.phase = Phase::Flushing { last_batch };
        self.begin_final_checkpoint(last_batch.next());
        self.schedule(1, Purpose::Flush);
    }
}
