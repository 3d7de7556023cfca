//! Identities: small, copyable, ordered, and never mixed up with one another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The identity as an index into a table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
            /// The identity that follows this one.
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(/** A micro-batch, numbered from 1 over the whole life of a job. 0 is "none yet". */ BatchId(u64), "batch ");
id!(/** A group of micro-batches: the unit of scheduling. Numbered from 1. */ GroupId(u64), "group ");
id!(/** A stage of the plan: operators fused between two shuffles. */ StageId(u16), "stage ");
id!(/** An edge of the plan: the shuffle between two stages. */ EdgeId(u16), "edge ");
id!(/** A slice of a stage's keys (or of a source). Their number is fixed per job. */ PartitionId(u32), "partition ");
id!(/** A worker process. It may live several times: see [`Incarnation`]. */ WorkerId(u32), "worker ");
id!(/** One life of a driver. Control messages of an older term are dropped. */ Term(u64), "term ");
id!(/** One life of a worker. Data is fenced by the sender's incarnation alone. */ Incarnation(u64), "incarnation ");
id!(/** The version of a placement. */ Epoch(u64), "epoch ");
id!(/** How often a task was started before, over all workers. */ Attempt(u32), "attempt ");
id!(/** The number of a decision that the driver tells every worker, counted from 1 over the whole job. */ OrderNumber(u64), "order ");
id!(/** The place of an entry in the driver's journal, counted from 1. */ Sequence(u64), "entry ");

/// One life of one worker: what is fenced when the worker is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// The process.
    pub worker: WorkerId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for Life {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.worker, self.incarnation)
    }
}

/// A cut in the making. A cut of a later term is greater than all of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutId {
    /// The driver that cuts.
    pub term: Term,
    /// The decision that asked for promises; 0 for the cut with which a new driver takes over.
    pub number: OrderNumber,
}

/// A pinned thread of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId {
    /// The process that the core belongs to.
    pub worker: WorkerId,
    /// Its number within the process, from 0.
    pub core: u16,
}

impl fmt::Display for CoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} core {}", self.worker, self.core)
    }
}

/// The unit of execution. A core may run the ready tasks of one stage and batch in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// The micro-batch.
    pub batch: BatchId,
    /// The stage of the plan.
    pub stage: StageId,
    /// The partition of that stage.
    pub partition: PartitionId,
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.batch, self.stage, self.partition)
    }
}

/// A point in the driver's time, in nanoseconds. Where its zero lies is the driver's affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `duration_ns` nanoseconds later; the end of time if there is none.
    pub fn after(self, duration_ns: u64) -> Instant {
        Instant(self.0.saturating_add(duration_ns))
    }
    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Event time below which no record is to come, in milliseconds. It never falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(pub u64);

impl Watermark {
    /// Nothing is known yet: no window is closed by it.
    pub const NONE: Watermark = Watermark(0);
    /// The source has ended: every window is closed by it.
    pub const END: Watermark = Watermark(u64::MAX);
}
