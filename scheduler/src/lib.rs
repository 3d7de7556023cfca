//! Every scheduling decision of Drizzle, as plain state machines: event in, actions out.
//!
//! Nothing here reads a clock, owns a thread, opens a socket or can fail. The same code runs on the
//! real core loop and, later, in the deterministic simulator. The mechanisms are those of *Drizzle:
//! Fast and Adaptable Stream Processing at Scale* (SOSP 2017): group scheduling (section 3.1) and
//! pre-scheduled shuffles (section 3.2).
//!
//! * [`plan`] and [`placement`]: what runs, and where.
//! * [`driver`]: groups, cuts and the end of a job, once for the whole cluster.
//! * [`worker`]: one message from the driver becomes one for each core, and back.
//! * [`local`]: one per core; dependency counts and the ready queue.

pub mod driver;
pub mod ids;
pub mod lineage;
pub mod local;
pub mod message;
pub mod placement;
pub mod plan;
pub mod worker;

pub use ids::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, GroupId, Incarnation, Instant, PartitionId, StageId,
    Task, Term, Watermark, WorkerId,
};

#[cfg(test)]
mod tests;
