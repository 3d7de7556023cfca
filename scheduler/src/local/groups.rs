//! The groups that a core holds: which batches are scheduled, when each starts, what each group cost.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bugs::{Bug, Bugs};
use crate::ids::{BatchId, EdgeId, GroupId, Instant};
use crate::message::{Combined, Content, GroupStatistics, Purpose, ScheduleGroup};
use crate::plan::Pacing;

/// Groups in hand, oldest first.
#[derive(Debug)]
pub(super) struct Groups {
    groups: VecDeque<Held>,
    /// How many of them, from the oldest on, have been reported.
    reported: usize,
    bugs: Bugs,
    /// The planted mistake: what is void between a cut and the group that survives it.
    gap: Option<(BatchId, BatchId)>,
}

#[derive(Debug)]
struct Held {
    group: Arc<ScheduleGroup>,
    /// The group's own last batch, or that of a cut.
    last_batch: BatchId,
    statistics: GroupStatistics,
}

impl Groups {
    pub(super) fn new(bugs: Bugs) -> Groups {
        Groups { groups: VecDeque::new(), reported: 0, bugs, gap: None }
    }

    pub(super) fn add(&mut self, group: Arc<ScheduleGroup>, last_batch: BatchId) {
        self.groups.push_back(Held { group, last_batch, statistics: GroupStatistics::default() });
    }

    /// Takes over groups of which others have reported all that there was to report.
    pub(super) fn take_over(&mut self, groups: &[(Arc<ScheduleGroup>, BatchId)]) {
        self.groups.clear();
        for (group, last_batch) in groups {
            self.add(group.clone(), *last_batch);
        }
        self.reported = self.groups.len();
    }

    /// The last batch scheduled, as far as the groups in hand tell.
    pub(super) fn last_batch(&self) -> BatchId {
        self.groups.back().map_or(BatchId(0), |held| held.last_batch)
    }

    pub(super) fn contains(&self, batch: BatchId) -> bool {
        self.find(batch).is_some()
    }

    pub(super) fn start_of(&self, batch: BatchId) -> Option<Instant> {
        self.find(batch).map(|held| held.group.start_of(batch))
    }

    /// What a batch is for, and what its blocks hold.
    pub(super) fn purpose_of(&self, batch: BatchId) -> (Purpose, Arc<[Content]>) {
        match self.find(batch) {
            Some(held) => (held.group.purpose, held.group.contents.clone()),
            None => (Purpose::Process, Arc::new([])),
        }
    }

    /// Start and cut of a source task that starts now. A task that is late takes what has arrived
    /// by the latest batch boundary; the batches that it overtakes will find nothing.
    pub(super) fn cut_of(
        &self,
        batch: BatchId,
        now: Instant,
        pacing: Pacing,
    ) -> (Instant, Instant) {
        let held = self.find(batch).expect("only scheduled batches start");
        let start = held.group.start_of(batch);
        let cut = match pacing {
            Pacing::Unpaced => now,
            Pacing::Clock => {
                let interval_ns = held.group.interval_ns.max(1);
                start.after(now.since(start) / interval_ns * interval_ns)
            }
        };
        (start, cut)
    }

    /// None where the group is not held any more.
    pub(super) fn statistics_of(&mut self, batch: BatchId) -> Option<&mut GroupStatistics> {
        let index = self.groups.partition_point(|held| held.last_batch < batch);
        self.groups.get_mut(index).map(|held| &mut held.statistics)
    }

    /// Shortens or drops the groups that reach beyond `last_batch`.
    pub(super) fn cut(&mut self, last_batch: BatchId) {
        if self.bugs.has(Bug::SecondGroupSurvivesCut)
            && let Some(index) = self.groups.iter().position(|held| last_batch < held.last_batch)
            && let Some(second) = self.groups.get(index + 1)
        {
            self.gap = Some((last_batch, second.group.first_batch));
            self.groups.truncate(index + 2);
            self.reported = self.reported.min(self.groups.len());
            self.groups[index].last_batch = last_batch;
            return;
        }
        self.groups.retain(|held| held.group.first_batch <= last_batch);
        self.reported = self.reported.min(self.groups.len());
        for held in &mut self.groups {
            held.last_batch = held.last_batch.min(last_batch);
        }
    }

    /// The planted mistake: whether `batch` is void although later ones are held.
    pub(super) fn is_in_gap(&self, batch: BatchId) -> bool {
        self.gap.is_some_and(|(after, before)| after < batch && batch < before)
    }

    /// The planted mistake: whether a group has survived a cut that it should not have.
    pub(super) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// The oldest group that is to be reported, if its batches are all completed.
    pub(super) fn finished(
        &mut self,
        completed: BatchId,
    ) -> Option<(GroupId, BatchId, GroupStatistics)> {
        let held = self.groups.get_mut(self.reported)?;
        if held.last_batch > completed {
            return None;
        }
        self.reported += 1;
        Some((held.group.group, held.last_batch, std::mem::take(&mut held.statistics)))
    }

    /// After a recovery: all groups are reported once more.
    pub(super) fn report_again(&mut self) {
        self.reported = 0;
    }

    /// Drops reported groups with no batch after `batch`.
    pub(super) fn forget_through(&mut self, batch: BatchId) {
        while self.reported > 0
            && self.groups.pop_front_if(|held| held.last_batch <= batch).is_some()
        {
            self.reported -= 1;
        }
    }

    fn find(&self, batch: BatchId) -> Option<&Held> {
        let index = self.groups.partition_point(|held| held.last_batch < batch);
        self.groups.get(index).filter(|held| held.group.first_batch <= batch)
    }
}

/// Adds what combiners did in one run.
pub(super) fn add_combined(statistics: &mut GroupStatistics, combined: &[(EdgeId, Combined)]) {
    for (edge, combined) in combined {
        let edges = statistics.combined.len().max(edge.index() + 1);
        statistics.combined.resize(edges, Combined::default());
        let sum = &mut statistics.combined[edge.index()];
        sum.records_in += combined.records_in;
        sum.records_out += combined.records_out;
    }
}
