//! The groups that a core holds: which batches are scheduled, when each starts, what each group cost.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{BatchId, GroupId, Instant};
use crate::message::{GroupStatistics, Purpose, ScheduleGroup};
use crate::plan::Pacing;

/// Groups in hand, oldest first.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    group: Arc<ScheduleGroup>,
    /// The group's own last batch, or that of a cut.
    last_batch: BatchId,
    statistics: GroupStatistics,
}

impl Groups {
    pub(super) fn add(&mut self, group: Arc<ScheduleGroup>) {
        let last_batch = group.last_batch();
        self.groups.push_back(Held { group, last_batch, statistics: GroupStatistics::default() });
    }

    pub(super) fn contains(&self, batch: BatchId) -> bool {
        self.find(batch).is_some()
    }

    pub(super) fn start_of(&self, batch: BatchId) -> Option<Instant> {
        self.find(batch).map(|held| held.group.start_of(batch))
    }

    pub(super) fn purpose_of(&self, batch: BatchId) -> Purpose {
        self.find(batch).map_or(Purpose::Process, |held| held.group.purpose)
    }

    /// Start, cut and purpose of a source task that starts now. A task that is late takes what has
    /// arrived by the latest batch boundary; the batches that it overtakes will find nothing.
    pub(super) fn cut_of(
        &self,
        batch: BatchId,
        now: Instant,
        pacing: Pacing,
    ) -> (Instant, Instant, Purpose) {
        let held = self.find(batch).expect("only scheduled batches start");
        let start = held.group.start_of(batch);
        let cut = match pacing {
            Pacing::Unpaced => now,
            Pacing::Clock => {
                let interval_ns = held.group.interval_ns.max(1);
                start.after(now.since(start) / interval_ns * interval_ns)
            }
        };
        (start, cut, held.group.purpose)
    }

    pub(super) fn statistics_of(&mut self, batch: BatchId) -> &mut GroupStatistics {
        let held = self.groups.iter_mut().find(|held| batch <= held.last_batch);
        &mut held.expect("a batch in hand belongs to a group in hand").statistics
    }

    /// Shortens or drops the groups that reach beyond `last_batch`.
    pub(super) fn cut(&mut self, last_batch: BatchId) {
        self.groups.retain(|held| held.group.first_batch <= last_batch);
        for held in &mut self.groups {
            held.last_batch = held.last_batch.min(last_batch);
        }
    }

    /// Takes out the oldest group if its batches are all completed.
    pub(super) fn finished(
        &mut self,
        completed: BatchId,
    ) -> Option<(GroupId, BatchId, GroupStatistics)> {
        let held = self.groups.pop_front_if(|held| held.last_batch <= completed)?;
        Some((held.group.group, held.last_batch, held.statistics))
    }

    fn find(&self, batch: BatchId) -> Option<&Held> {
        self.groups.iter().find(|held| held.group.first_batch <= batch && batch <= held.last_batch)
    }
}
