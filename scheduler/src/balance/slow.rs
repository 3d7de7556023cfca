//! Which cores are slow: those that stay above twice the median of all cores for several periods in a
//! row, and have little time left.
//!
//! Real machines are noisy. What a core loses to its neighbours for a moment says nothing of it, so short
//! groups are judged together, several times. And a core with time left holds nobody up: however much
//! longer its tasks take than those of others, nothing leaves it, since a move would gain nothing.
//!
//! A move does not help where it is a partition that is slow and not its core. So that such a partition is not sent
//! round the cluster, one that has left a slow core rests.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{CoreId, Instant, PartitionId, StageId, WorkerId};
use crate::message::Move;

/// How cores are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StragglerOptions {
    /// Groups are judged together until they took so long, in nanoseconds.
    pub period_ns: u64,
    /// How many periods in a row make a core slow.
    pub periods: u32,
    /// A core whose tasks ran for less than this share of a period keeps up, in thousandths.
    pub busy_permille: u32,
    /// A partition that left a slow core leaves no other for so many periods.
    pub rest_periods: u64,
    /// Whether recorded source tasks of a late core are started a second time.
    pub speculation: Speculation,
}

/// Whether recorded source tasks of a late core are started a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// They are not. Where cores tell of a range when they have read it, and sent what came of it, another
    /// one would do again what is done.
    Off,
    /// They are: cores tell of ranges that they have yet to read.
    On,
}

impl StragglerOptions {
    /// For real cores: a second and a half before anything moves, and a minute of rest at least.
    pub fn usual() -> StragglerOptions {
        StragglerOptions {
            period_ns: 500_000_000,
            periods: 3,
            busy_permille: 600,
            rest_periods: 120,
            speculation: Speculation::Off,
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StragglerWatch {
    options: StragglerOptions,
    /// When the period began that is being observed; none before a group has ended.
    began: Option<Instant>,
    /// Time in task bodies in it.
    run_ns: BTreeMap<CoreId, u64>,
    /// In how many periods up to the last one a core was slow, for those that were in that one.
    slow_for: BTreeMap<CoreId, u32>,
    /// Cores that ran more than the median in the last period: nothing is to move there.
    burdened: BTreeSet<CoreId>,
    /// Periods that were judged.
    period: u64,
    /// Partitions that left a slow core, and the period until which they stay where they are.
    resting: BTreeMap<(StageId, PartitionId), u64>,
}

impl StragglerWatch {
    /// A watch that has seen no group.
    pub fn new(options: StragglerOptions) -> StragglerWatch {
        assert!(options.periods >= 1, "a core is slow in some period");
        StragglerWatch {
            options,
            began: None,
            run_ns: BTreeMap::new(),
            slow_for: BTreeMap::new(),
            burdened: BTreeSet::new(),
            period: 0,
            resting: BTreeMap::new(),
        }
    }

    /// Takes how long the tasks of a group ran on each core of a worker, by the core's number.
    pub fn observe(&mut self, worker: WorkerId, run_ns_by_core: &[u64]) {
        for (core, run_ns) in run_ns_by_core.iter().enumerate() {
            let sum = self.run_ns.entry(CoreId { worker, core: core as u16 }).or_default();
            *sum = sum.saturating_add(*run_ns);
        }
    }

    /// All workers have told of a group. Gives a core from which a partition should go, the slowest if
    /// there are several; the periods in a row are counted anew for it, so that the move has time to
    /// show.
    pub fn end_of_group(&mut self, now: Instant) -> Option<CoreId> {
        let Some(began) = self.began else {
            // Some of it ran before anybody looked.
            self.start_over();
            self.began = Some(now);
            return None;
        };
        let elapsed_ns = now.since(began);
        if elapsed_ns < self.options.period_ns {
            return None;
        }
        self.began = Some(now);
        self.judge(elapsed_ns)
    }

    fn judge(&mut self, elapsed_ns: u64) -> Option<CoreId> {
        self.period += 1;
        let run_ns = std::mem::take(&mut self.run_ns);
        let median = median(&run_ns)?;
        let burdened = run_ns.iter().filter(|(_, run_ns)| **run_ns > median);
        self.burdened = burdened.map(|(core, _)| *core).collect();
        let is_busy = |run_ns: u64| {
            let share = u128::from(elapsed_ns) * u128::from(self.options.busy_permille);
            u128::from(run_ns) * 1000 >= share
        };
        let is_slow = |run_ns: u64| run_ns > median.saturating_mul(2) && is_busy(run_ns);
        let before = std::mem::take(&mut self.slow_for);
        let streaks = run_ns.iter().filter(|(_, run_ns)| is_slow(**run_ns)).map(|(core, _)| {
            let periods = before.get(core).copied().unwrap_or(0);
            (*core, periods.saturating_add(1))
        });
        self.slow_for = streaks.collect();
        let lasting = self.slow_for.iter().filter(|(_, n)| **n >= self.options.periods);
        let slowest = lasting.map(|(core, _)| (run_ns[core], *core)).max()?;
        self.slow_for.remove(&slowest.1);
        Some(slowest.1)
    }

    /// Something has changed: what was seen so far is no measure of what comes.
    pub fn start_over(&mut self) {
        self.began = None;
        self.run_ns.clear();
        self.slow_for.clear();
    }

    /// Whether a core could take what leaves another.
    pub fn has_room(&self, core: CoreId) -> bool {
        !self.burdened.contains(&core)
    }

    /// Whether a partition may leave a slow core.
    pub fn may_move(&self, stage: StageId, partition: PartitionId) -> bool {
        self.resting.get(&(stage, partition)).is_none_or(|until| *until < self.period)
    }

    /// A partition leaves a slow core.
    pub fn moved(&mut self, Move { stage, partition, .. }: Move) {
        let period = self.period;
        self.resting.retain(|_, until| *until >= period);
        self.resting.insert((stage, partition), period.saturating_add(self.options.rest_periods));
    }
}

/// The median of those that ran anything: a core without partitions is no measure. Of two in the
/// middle the lower one, so that one of two cores can be slow.
fn median(run_ns: &BTreeMap<CoreId, u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = run_ns.values().copied().filter(|run_ns| *run_ns > 0).collect();
    sorted.sort_unstable();
    let middle = sorted.len().checked_sub(1)? / 2;
    Some(sorted[middle])
}

#[cfg(test)]
mod tests;
