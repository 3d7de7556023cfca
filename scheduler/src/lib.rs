//! Every scheduling decision of Drizzle, as plain state machines: event in, actions out.
//!
//! Nothing here reads a clock, owns a thread, opens a socket or can fail. The same code runs on the
//! real core loop and in the deterministic simulator. The mechanisms are those of *Drizzle: Fast and
//! Adaptable Stream Processing at Scale* (SOSP 2017), and what we put where it left room.
//!
//! * [`plan`] and [`placement`]: what runs, and where.
//! * [`driver`]: groups, cuts, checkpoints, recovery, rescaling; once for the whole cluster.
//! * [`worker`]: one message from the driver becomes one for each core, and back.
//! * [`local`]: one per core; dependency counts, retained blocks and the ready queue.
//! * [`history`]: what all decisions so far amount to, the same for all three.
//! * [`attempts`]: how often a task that panics is tried again.
//! * [`tuner`], [`balance`], [`adapt`]: what the statistics of one group change for the next.
//! * `sim`: the simulator, in builds for it.

pub mod adapt;
pub mod attempts;
pub mod balance;
pub mod bugs;
pub mod checkpoint;
pub mod driver;
pub mod history;
pub mod ids;
pub mod journal;
pub mod lineage;
pub mod local;
pub mod message;
pub mod placement;
pub mod plan;
#[cfg(any(test, feature = "simulator"))]
pub mod sim;
pub mod tuner;
pub mod worker;

pub use ids::{
    Attempt, BatchId, CoreId, CutId, EdgeId, Epoch, GroupId, Incarnation, Instant, Life,
    OrderNumber, PartitionId, Sequence, StageId, Task, Term, Watermark, WorkerId,
};

#[cfg(test)]
mod tests;
