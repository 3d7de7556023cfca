//! What a core waits for, for the line that is printed when nothing moves.

use std::fmt;

use crate::ids::{BatchId, CoreId, Instant, PartitionId, StageId};
use crate::local::LocalScheduler;
use crate::local::lane::{Lane, LaneState};
use crate::plan::StageKind;

/// A task that cannot go on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The oldest unfinished batch.
    pub batch: BatchId,
    /// The stage of the task.
    pub stage: StageId,
    /// Its partition.
    pub partition: PartitionId,
    /// What it waits for.
    pub reason: WaitingFor,
}

/// What a task may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// The batch's start time.
    Start(Instant),
    /// The block of an upstream partition.
    Block(PartitionId),
    /// The driver's release.
    Release,
    /// A core downstream that is too many batches behind.
    Core(CoreId),
    /// The end of a cut that it promised to respect.
    Cut,
    /// The state of its partition, which is being restored.
    Restore,
    /// The state of its partition, from its owner of before.
    Shipment,
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingFor::Start(_) => write!(formatter, "its start time"),
            WaitingFor::Block(upstream) => write!(formatter, "the block of upstream {upstream}"),
            WaitingFor::Release => write!(formatter, "the batch before it or the driver's release"),
            WaitingFor::Core(core) => write!(formatter, "{core}, which is too far behind"),
            WaitingFor::Cut => write!(formatter, "the driver to commit a cut"),
            WaitingFor::Restore => write!(formatter, "its state to be restored"),
            WaitingFor::Shipment => write!(formatter, "its state from its owner of before"),
        }
    }
}

impl LocalScheduler {
    /// What the oldest unfinished task waits for: for the line that is printed when nothing moves.
    pub fn waiting(&self) -> Option<Waiting> {
        let batch = self.lanes.completed().next();
        let is_oldest = |(_, lane): &(StageId, &Lane)| lane.first == batch;
        let (stage, lane) = self.lanes.all().find(is_oldest)?;
        lane.slots.front()?;
        let reason = self.reason(stage, lane);
        Some(Waiting { batch, stage, partition: lane.partition, reason })
    }

    fn reason(&self, stage: StageId, lane: &Lane) -> WaitingFor {
        match lane.state {
            LaneState::Restoring(_) => return WaitingFor::Restore,
            LaneState::Arriving(..) => return WaitingFor::Shipment,
            LaneState::Here => {}
        }
        if lane.first > self.limit() {
            return WaitingFor::Cut;
        }
        match self.plan.stage(stage).kind {
            StageKind::Source(_) => match self.credit.slowest() {
                Some(core) if lane.first > self.credit.limit(self.lanes.completed()) => {
                    WaitingFor::Core(core)
                }
                _ => WaitingFor::Start(self.groups.start_of(lane.first).unwrap_or_default()),
            },
            StageKind::Stateful | StageKind::Stateless => {
                match self.lanes.missing(stage, lane, lane.first) {
                    Some(upstream) => WaitingFor::Block(upstream),
                    None => WaitingFor::Release,
                }
            }
        }
    }
}
