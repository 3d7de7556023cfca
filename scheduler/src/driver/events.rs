//! What goes into a driver and what comes out of it.

use crate::balance::StragglerOptions;
use crate::bugs::Bugs;
use crate::ids::{BatchId, GroupId, Incarnation, Sequence, Term, WorkerId};
use crate::journal::{AppendFailure, JournalEntry, JournalState};
use crate::message::{DriverMessage, GroupStatistics, Move, WorkerMessage};
use crate::plan::Prescheduling;
use crate::tuner::TunerOptions;

/// How a driver behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverOptions {
    /// Its life.
    pub term: Term,
    /// How many workers the job starts with.
    pub workers: u32,
    /// Batches in a group.
    pub group_size: GroupSize,
    /// Groups scheduled and not yet done.
    pub groups_in_flight: usize,
    /// From the start of one batch to that of the next, in nanoseconds.
    pub interval_ns: u64,
    /// How far ahead of time the first batch is scheduled, in nanoseconds.
    pub lead_ns: u64,
    /// A group whose start lies further in the past than this gets a new one, in nanoseconds.
    pub rebase_after_ns: u64,
    /// Whether downstream tasks wait for a release.
    pub prescheduling: Prescheduling,
    /// What outlives a process.
    pub durability: Durability,
    /// A worker that does not answer for so long is lost, in nanoseconds.
    pub answer_timeout_ns: u64,
    /// How many batches a source may run ahead of the slowest core downstream.
    pub ahead: u64,
    /// Whether partitions leave slow cores.
    pub balance: Balance,
    /// Whether the statistics of a group choose what blocks hold in the next.
    pub adaptation: Adaptation,
    /// None but in the simulator.
    pub bugs: Bugs,
}

/// How many batches a group has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupSize {
    /// Always so many.
    Fixed(u64),
    /// As few as keep the share of coordination within bounds.
    Tuned(TunerOptions),
}

/// What outlives a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: a job ends with the first worker that is lost.
    None,
    /// A journal and checkpoints.
    Journal {
        /// From the end of one checkpoint to the beginning of the next, in nanoseconds.
        checkpoint_every_ns: u64,
        /// A checkpoint that takes longer is abandoned, in nanoseconds.
        abandon_after_ns: u64,
    },
}

/// Whether partitions leave slow cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// They stay.
    Off,
    /// They move at a cut.
    On(StragglerOptions),
}

/// Whether the statistics of a group choose what blocks hold in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptation {
    /// Every edge holds raw records.
    Off,
    /// Per edge, whatever the last groups say is less.
    On,
}

/// What moves are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveCause {
    /// Workers have come or are to go.
    Members,
    /// A core is slow.
    SlowCore,
}

/// What the driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// The first event where there is a journal.
    Start,
    /// What the journal holds.
    Journal(JournalState),
    /// An entry of the journal is durable.
    Appended {
        /// Its place.
        sequence: Sequence,
    },
    /// It is not.
    AppendFailed {
        /// Its place.
        sequence: Sequence,
        /// Why.
        failure: AppendFailure,
    },
    /// A worker is ready to run tasks.
    WorkerReady {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How many cores it has.
        cores: u16,
    },
    /// A worker reported.
    Message(WorkerMessage),
    /// A worker is gone.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How that was noticed.
        reason: String,
    },
    /// A worker is to leave when its partitions are elsewhere.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// CPU time that the driver has spent since it was last told.
    CoordinationCost {
        /// In nanoseconds.
        cpu_ns: u64,
    },
    /// The user wants the job to stop at a cut.
    Stop,
    /// The deadline has passed.
    Tick,
}

/// What the driver node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverAction {
    /// Send a message to one worker.
    Send {
        /// The worker.
        to: WorkerId,
        /// The message.
        message: DriverMessage,
    },
    /// Read the journal and say what it holds.
    ReadJournal,
    /// Create an entry of the journal.
    Append(JournalEntry),
    /// All workers have finished a group.
    GroupDone {
        /// The group.
        group: GroupId,
        /// Its last batch that ran.
        last_batch: BatchId,
        /// What it cost on all workers.
        statistics: GroupStatistics,
    },
    /// A cut was made for planned moves: the next group brings the new owners.
    Moved {
        /// The moves.
        moves: Vec<Move>,
        /// What they are for.
        cause: MoveCause,
    },
    /// Nothing depends on that worker any more.
    Drained {
        /// The worker.
        worker: WorkerId,
    },
    /// The job ran to its end.
    Finished {
        /// The last batch with input.
        last_batch: BatchId,
    },
    /// Another driver has taken over: this one has nothing more to say.
    Deposed,
    /// The job cannot go on.
    Failed {
        /// One sentence.
        reason: String,
    },
}
