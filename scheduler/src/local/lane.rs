//! A lane: the tasks of one partition on this core, from its oldest unfinished batch on.

use std::collections::VecDeque;

use crate::ids::{Attempt, BatchId, Life, PartitionId, Watermark};
use crate::message::Restore;

/// The tasks of one partition. Slots are used again, so that a task costs no allocation.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) partition: PartitionId,
    /// The first batch that it runs here.
    pub(super) from: BatchId,
    /// Its oldest unfinished batch: that of the first slot, if there is one.
    pub(super) first: BatchId,
    pub(super) slots: VecDeque<Slot>,
    spare: Vec<Slot>,
    /// The last batch that it runs here: the partition moves away.
    pub(super) last: Option<BatchId>,
    /// After that it starts again here, elsewhere in its input.
    pub(super) resume: Option<(BatchId, Restore)>,
    pub(super) state: LaneState,
    /// Batches that may have run before, oldest recovery first.
    pub(super) replays: Vec<Replay>,
    pub(super) snapshots: Snapshots,
    /// Inputs that each task waits for, by position among the edges into its stage.
    pub(super) expected: Vec<u32>,
}

/// Whether the partition's state is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    Here,
    /// It was asked for, as of the end of this batch.
    Restoring(BatchId),
    /// Its owner of before will ship it, as of the end of this batch.
    Arriving(BatchId, Option<Life>),
}

/// Batches after `after` up to `through` may have run before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replay {
    pub(super) after: BatchId,
    pub(super) through: BatchId,
    pub(super) attempt: Attempt,
}

/// What a lane has of itself in checkpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots {
    /// Of which batches the snapshots are that the newest durable manifest lists for it, if that manifest
    /// includes its changes: the first is whole, the others are changes.
    pub(super) chain: Vec<BatchId>,
    /// The last one begun.
    pub(super) begun: Option<(BatchId, Stored)>,
}

impl Snapshots {
    /// The newest durable manifest that includes its changes.
    pub(super) fn base(&self) -> Option<BatchId> {
        self.chain.last().copied()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    NotYet,
    Durably,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    Waiting,
    Running,
    Done,
}

/// One task.
#[derive(Debug)]
pub(super) struct Slot {
    /// Bit sets of the upstream partitions heard of, edge after edge.
    pub(super) seen: Vec<u64>,
    /// How many things it still waits for.
    pub(super) left: u32,
    /// Whether one of them is the driver's release.
    pub(super) awaits_release: bool,
    pub(super) state: TaskState,
    /// Minimum over the inputs that came.
    pub(super) watermark: Watermark,
}

impl Lane {
    pub(super) fn new(
        partition: PartitionId,
        first: BatchId,
        state: LaneState,
        expected: Vec<u32>,
    ) -> Lane {
        Lane {
            partition,
            from: first,
            first,
            slots: VecDeque::new(),
            spare: Vec::new(),
            last: None,
            resume: None,
            state,
            replays: Vec::new(),
            snapshots: Snapshots::default(),
            expected,
        }
    }

    /// The batch after the last slot.
    pub(super) fn end(&self) -> BatchId {
        BatchId(self.first.0 + self.slots.len() as u64)
    }

    /// Whether a task of `batch`, the next one to be laid out, belongs to this lane.
    pub(super) fn takes(&self, batch: BatchId) -> bool {
        self.end() == batch && self.last.is_none_or(|last| batch <= last)
    }

    pub(super) fn push(&mut self, words: usize, left: u32, awaits_release: bool) {
        let mut slot = self.spare.pop().unwrap_or_else(|| Slot::new(words));
        for seen in &mut slot.seen {
            *seen = 0;
        }
        slot.left = left + u32::from(awaits_release);
        slot.awaits_release = awaits_release;
        slot.state = TaskState::Waiting;
        slot.watermark = Watermark::END;
        self.slots.push_back(slot);
    }

    pub(super) fn slot(&self, batch: BatchId) -> Option<&Slot> {
        self.slots.get(batch.0.checked_sub(self.first.0)? as usize)
    }

    pub(super) fn slot_mut(&mut self, batch: BatchId) -> Option<&mut Slot> {
        self.slots.get_mut(batch.0.checked_sub(self.first.0)? as usize)
    }

    /// Lets go of the done tasks at the front.
    pub(super) fn retire(&mut self) {
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.state == TaskState::Done) {
            self.spare.push(slot);
            self.first = self.first.next();
        }
    }

    /// Voids the tasks after `last_batch`.
    pub(super) fn truncate(&mut self, last_batch: BatchId) {
        while !self.slots.is_empty() && self.end().0 > last_batch.0 + 1 {
            self.spare.extend(self.slots.pop_back());
        }
    }

    /// Goes on with the batch after `after`, whatever became of those before.
    pub(super) fn skip_through(&mut self, after: BatchId) {
        while self.first <= after {
            self.spare.extend(self.slots.pop_front());
            self.first = self.first.next();
        }
    }

    /// Waits for the state after `batch`, and starts again from there with all that was counted.
    pub(super) fn start_after(&mut self, batch: BatchId) {
        self.skip_through(batch);
        self.state = LaneState::Restoring(batch);
        for slot in &mut self.slots {
            slot.state = TaskState::Waiting;
        }
    }

    pub(super) fn attempt(&self, batch: BatchId) -> Attempt {
        let covers = |replay: &&Replay| replay.after < batch && batch <= replay.through;
        self.replays.iter().rev().find(covers).map_or(Attempt(0), |replay| replay.attempt)
    }

    /// Whether it has run all that it is to run here.
    pub(super) fn has_ended(&self) -> bool {
        self.last.is_some_and(|last| self.first > last)
    }
}

impl Slot {
    fn new(words: usize) -> Slot {
        Slot {
            seen: vec![0; words],
            left: 0,
            awaits_release: false,
            state: TaskState::Waiting,
            watermark: Watermark::END,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == TaskState::Waiting && self.left == 0
    }
}
