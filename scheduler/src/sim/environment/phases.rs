//! What the protocol is in the middle of, seen from outside: by what drivers order and do.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BatchId, PartitionId, StageId};
use crate::message::{Decision, Order, Purpose};
use crate::sim::coverage::Phase;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Phases {
    active: BTreeSet<Phase>,
    /// How often each has begun.
    begun: BTreeMap<Phase, u64>,
    /// Phases that have begun and were not looked at yet.
    fresh: Vec<(Phase, u64)>,
    replays_through: BatchId,
    shipping: BTreeSet<(StageId, PartitionId)>,
}

impl Phases {
    pub(super) fn active(&self) -> impl Iterator<Item = Phase> + '_ {
        self.active.iter().copied()
    }

    /// Phases that have begun since this was last asked, and for which time.
    pub(super) fn take_fresh(&mut self) -> Vec<(Phase, u64)> {
        std::mem::take(&mut self.fresh)
    }

    /// Whether a group was ever scheduled.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.contains_key(&Phase::InGroup)
    }

    fn begin(&mut self, phase: Phase) {
        if self.active.insert(phase) {
            let times = self.begun.entry(phase).or_default();
            *times += 1;
            self.fresh.push((phase, *times));
        }
    }

    fn end(&mut self, phase: Phase) {
        self.active.remove(&phase);
    }

    /// The newest driver has said something.
    pub(super) fn ordered(&mut self, order: &Order) {
        let Order::Decision { decision, .. } = order else { return };
        match decision {
            Decision::ScheduleGroup(group) => {
                self.begin(Phase::InGroup);
                if group.purpose == Purpose::Flush {
                    self.begin(Phase::Flushing);
                }
            }
            Decision::CutGroup { .. } => {
                self.end(Phase::PreparingMoves);
                self.begin(Phase::PromiseOpen);
            }
            Decision::CommitCut { .. } => {
                self.end(Phase::PromiseOpen);
                self.begin(Phase::CommittedNotScheduled);
            }
            Decision::Fence(_) => self.begin(Phase::Fencing),
            Decision::Recover(recover) => {
                self.end(Phase::Fencing);
                self.end(Phase::Takeover);
                self.replays_through = recover.replay_through;
                if !recover.moved.is_empty() {
                    self.begin(Phase::Recovering);
                }
            }
            Decision::Checkpoint { .. } => self.begin(Phase::Collecting),
            Decision::AbandonCheckpoint { .. } => self.end(Phase::Collecting),
            Decision::Prepare(_) => self.begin(Phase::PreparingMoves),
            Decision::AbandonMoves => self.end(Phase::PreparingMoves),
            Decision::Admit(_) | Decision::Durable(_) => {}
        }
    }

    /// A worker has heard it: commit and group leave the driver together, but do not arrive so.
    pub(super) fn heard(&mut self, order: &Order) {
        if let Order::Decision { decision: Decision::ScheduleGroup(_), .. } = order {
            self.end(Phase::CommittedNotScheduled);
        }
    }

    pub(super) fn writes_manifest(&mut self) {
        self.end(Phase::Collecting);
        self.begin(Phase::WritingManifest);
    }

    pub(super) fn wrote(&mut self) {
        self.end(Phase::WritingManifest);
    }

    /// A driver reads a journal that others have written to.
    pub(super) fn takes_over(&mut self) {
        self.begin(Phase::Takeover);
        for phase in [Phase::Fencing, Phase::PreparingMoves, Phase::WritingManifest] {
            self.end(phase);
        }
    }

    pub(super) fn group_done(&mut self, last: BatchId) {
        self.end(Phase::Takeover);
        if last >= self.replays_through {
            self.end(Phase::Recovering);
        }
    }

    pub(super) fn ships(&mut self, stage: StageId, partition: PartitionId) {
        self.shipping.insert((stage, partition));
        self.begin(Phase::Shipping);
    }

    pub(super) fn shipped(&mut self, stage: StageId, partition: PartitionId) {
        self.shipping.remove(&(stage, partition));
        if self.shipping.is_empty() {
            self.end(Phase::Shipping);
        }
    }
}
