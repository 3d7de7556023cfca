//! Source tasks over recorded ranges, which any core may run: their result is the same everywhere.

use crate::ids::{Attempt, BatchId, PartitionId, StageId};
use crate::message::{Coverage, Errand};

/// Those of one core.
#[derive(Debug, Default)]
pub(super) struct Errands {
    tasks: Vec<Task>,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    errand: Errand,
    attempt: Attempt,
    reason: Reason,
    state: State,
}

/// Why a range is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its blocks are lost: a group is not done before.
    Recovery,
    /// Its owner is slow.
    Speculation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
}

impl Errands {
    pub(super) fn add(&mut self, errand: Errand, attempt: Attempt, reason: Reason) {
        let key = key_of(&errand);
        if !self.tasks.iter().any(|task| key_of(&task.errand) == key) {
            self.tasks.push(Task { errand, attempt, reason, state: State::Waiting });
        }
    }

    /// The batch of the oldest errand that is not begun.
    pub(super) fn first(&self) -> Option<BatchId> {
        let waiting = self.tasks.iter().filter(|task| task.state == State::Waiting);
        waiting.map(|task| task.errand.taken.batch).min()
    }

    /// Begins the oldest one.
    pub(super) fn take(&mut self) -> Option<(Errand, Attempt)> {
        let batch = self.first()?;
        let is_first = |t: &&mut Task| t.state == State::Waiting && t.errand.taken.batch == batch;
        let task = self.tasks.iter_mut().find(is_first)?;
        task.state = State::Running;
        Some((task.errand, task.attempt))
    }

    pub(super) fn done(&mut self, batch: BatchId, stage: StageId, partition: PartitionId) {
        let key = (batch, stage, partition);
        for task in self.tasks.iter_mut().filter(|task| key_of(&task.errand) == key) {
            task.state = State::Done;
        }
    }

    /// The first batch for which something lost is still to be read.
    pub(super) fn unfinished(&self) -> Option<BatchId> {
        let open = |t: &&Task| t.reason == Reason::Recovery && t.state != State::Done;
        self.tasks.iter().filter(open).map(|task| task.errand.taken.batch).min()
    }

    /// A manifest covers these batches: nobody needs what was read for them.
    pub(super) fn forget_through(&mut self, batch: BatchId) {
        self.tasks.retain(|task| task.errand.taken.batch > batch);
    }

    pub(super) fn coverage(&self) -> impl Iterator<Item = Coverage> {
        self.tasks.iter().map(|task| {
            let (batch, stage, partition) = key_of(&task.errand);
            Coverage { stage, partition, first: batch, last: batch }
        })
    }
}

fn key_of(errand: &Errand) -> (BatchId, StageId, PartitionId) {
    (errand.taken.batch, errand.taken.range.stage, errand.taken.range.partition)
}
