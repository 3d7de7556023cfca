//! What nodes say to each other, as types. How it is written down: `control.rs` and `data.rs`.

use crate::io::SystemCalls;
use std::net::SocketAddr;

use drizzle_scheduler::message::{DriverMessage, TakenRange, WorkerMessage};
use drizzle_scheduler::{
    BatchId, CoreId, Epoch, Incarnation, Life, PartitionId, StageId, Term, WorkerId,
};
use drizzle_shuffle::{BundleHeader, Place};

/// From a worker to the driver, on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToDriver {
    /// First of all: a process offers its cores.
    Hello {
        /// How many cores it has.
        cores: u16,
        /// Its process id, for messages that people read.
        process: u32,
    },
    /// It has built the job and listens for data.
    Joined {
        /// Fingerprint of its plan.
        fingerprint: u64,
        /// Where its data listener is.
        data_address: SocketAddr,
        /// What runs its cores and does their IO, as it will be printed.
        runtime: String,
    },
    /// It could not build the job.
    CannotJoin {
        /// One sentence.
        reason: String,
    },
    /// It is connected to all its peers and ready to run tasks.
    Ready,
    /// A report of its schedulers.
    Report(WorkerMessage),
    /// It lives; also a question for the driver's time.
    Heartbeat {
        /// Its own monotonic time, in nanoseconds.
        sent_ns: u64,
        /// How far it is.
        status: WorkerStatus,
    },
    /// Rows of a sink that the driver collects, in the job's own encoding.
    Results {
        /// The rows.
        rows: Vec<u8>,
    },
    /// Its data connection to another worker broke, or could not be made.
    PeerLost {
        /// The other worker.
        worker: WorkerId,
        /// Which of its lives: a later one is not to blame.
        incarnation: Incarnation,
        /// How that was noticed.
        reason: String,
    },
    /// How far one of its cores is with lost partitions that it was given.
    Regained {
        /// The core.
        core: u16,
        /// By which recovery.
        epoch: Epoch,
        /// What is there again.
        what: Regained,
    },
    /// Something that whoever runs the job should know.
    Notice {
        /// One line.
        line: String,
    },
    /// The job cannot go on.
    Failed {
        /// One sentence.
        reason: String,
    },
    /// A task panicked: this life of the worker does nothing more that counts.
    Panicked(TaskPanic),
    /// Everything that it wrote is complete: the answer to `Finish`.
    Finished(Box<FinalReport>),
    /// First of all, instead of `Hello`: a worker at work has lost its driver, and looks for the next.
    Return(Returning),
    /// First of all, and instead of everything else: somebody who operates the cluster wants something.
    Ask(Request),
}

/// What of lost partitions is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regained {
    /// What they kept at the checkpoint.
    State,
    /// All batches since then that were due when they were lost.
    Time,
}

/// A user function that panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPanic {
    /// The stage that it is part of.
    pub stage: StageId,
    /// The batch in which it did.
    pub batch: BatchId,
    /// The version of the placements that its core knew: which attempt it was.
    pub epoch: Epoch,
    /// What it said.
    pub cause: String,
}

/// A worker that has lost its driver, as it tells the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returning {
    /// Its number, and this life of it.
    pub life: Life,
    /// How many cores it has.
    pub cores: u16,
    /// Its process id, for messages that people read.
    pub process: u32,
    /// Fingerprint of its plan.
    pub fingerprint: u64,
    /// Where its data listener is.
    pub data_address: SocketAddr,
    /// What runs its cores and does their IO, as it will be printed.
    pub runtime: String,
    /// The driver that it followed.
    pub term: Term,
}

/// What somebody who operates a cluster wants of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To know how the job and its workers are, as JSON.
    Status,
    /// That the job has so many workers.
    Scale {
        /// How many.
        workers: u32,
    },
    /// That a worker leaves as soon as nothing depends on it.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// A savepoint of the newest checkpoint.
    Savepoint {
        /// The folder that is to hold it, as the driver's host knows it.
        to: String,
    },
}

/// How far a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The last batch that all its cores have finished.
    pub completed: u64,
    /// Records read by its sources.
    pub records: u64,
    /// If nothing moves: which task waits for what.
    pub stalled: Option<String>,
    /// If sources take nothing for want of memory: which ones, and what holds it.
    pub paused: Option<String>,
}

/// The most bytes of memory that were taken at any time. Of several cores or workers the sum, although
/// not all of them need have had their peak at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPeaks {
    /// For blocks.
    pub blocks_bytes: u64,
    /// For open windows.
    pub state_bytes: u64,
    /// For results that waited to leave.
    pub results_bytes: u64,
    /// In files, for blocks that memory was too short for.
    pub spilled_bytes: u64,
}

impl MemoryPeaks {
    /// Adds those of others.
    pub fn add(&mut self, others: &MemoryPeaks) {
        let MemoryPeaks { blocks_bytes, state_bytes, results_bytes, spilled_bytes } = others;
        self.blocks_bytes += blocks_bytes;
        self.state_bytes += state_bytes;
        self.spilled_bytes += spilled_bytes;
        self.results_bytes += results_bytes;
    }
}

/// What cores did with their time, in nanoseconds. Together it is all the time from a core's start to its
/// end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeByKind {
    /// Deciding what runs.
    pub schedule_ns: u64,
    /// Running tasks.
    pub run_ns: u64,
    /// Making frames of blocks, with their checksums.
    pub serialise_ns: u64,
    /// Handing over blocks and news.
    pub send_ns: u64,
    /// Taking in what has arrived.
    pub receive_ns: u64,
    /// Looking for what has arrived, in steps that found something.
    pub poll_ns: u64,
    /// Looking in vain.
    pub idle_poll_ns: u64,
    /// Sleeping.
    pub wait_ns: u64,
}

impl TimeByKind {
    /// How many kinds there are.
    pub const KINDS: usize = 8;

    /// The kinds in the order of the fields, by name.
    pub fn by_kind(&self) -> [(&'static str, u64); TimeByKind::KINDS] {
        [
            ("schedule", self.schedule_ns),
            ("run", self.run_ns),
            ("serialise", self.serialise_ns),
            ("send", self.send_ns),
            ("receive", self.receive_ns),
            ("poll", self.poll_ns),
            ("idle_poll", self.idle_poll_ns),
            ("wait", self.wait_ns),
        ]
    }

    /// The inverse of [`by_kind`](Self::by_kind).
    pub fn from_times(times: [u64; TimeByKind::KINDS]) -> TimeByKind {
        let [
            schedule_ns,
            run_ns,
            serialise_ns,
            send_ns,
            receive_ns,
            poll_ns,
            idle_poll_ns,
            wait_ns,
        ] = times;
        TimeByKind {
            schedule_ns,
            run_ns,
            serialise_ns,
            send_ns,
            receive_ns,
            poll_ns,
            idle_poll_ns,
            wait_ns,
        }
    }

    /// Adds that of others.
    pub fn add(&mut self, others: &TimeByKind) {
        let (own, others) = (self.by_kind(), others.by_kind());
        *self = TimeByKind::from_times(std::array::from_fn(|kind| own[kind].1 + others[kind].1));
    }
}

/// What cores took of time, system calls and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCosts {
    /// What they did with their time.
    pub time: TimeByKind,
    /// System calls of their drivers of IO.
    pub calls: SystemCalls,
    /// The most memory that they took.
    pub memory: MemoryPeaks,
}

impl CoreCosts {
    /// Adds those of others.
    pub fn add(&mut self, others: &CoreCosts) {
        self.time.add(&others.time);
        self.calls.add(&others.calls);
        self.memory.add(&others.memory);
    }
}

/// What a worker knows at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalReport {
    /// Counters of its operators by name (`events.lines`), summed over its cores.
    pub counters: Vec<(String, u64)>,
    /// CPU time of its control thread, in nanoseconds.
    pub control_cpu_ns: u64,
    /// CPU time of its core threads since the job began, in nanoseconds.
    pub cores_cpu_ns: u64,
    /// About how much of it was spent in task bodies, in nanoseconds.
    pub task_cpu_ns: u64,
    /// Time in which its core threads looked for work in vain, in nanoseconds.
    pub idle_poll_ns: u64,
    /// What its cores took of time, system calls and memory, summed over them.
    pub costs: CoreCosts,
    /// System calls of its control thread.
    pub control_calls: SystemCalls,
}

/// From the driver to a worker, on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Answer to `Hello`: who the worker is, and what the job is.
    Welcome {
        /// The driver's life.
        term: Term,
        /// The worker's number.
        worker: WorkerId,
        /// This life of it.
        incarnation: Incarnation,
        /// The job and its flags, as on a command line.
        arguments: Vec<String>,
    },
    /// Answer to `Hello` of a driver that goes on with a job: the welcome comes when it is clear who of the
    /// workers before is left. This job outlives its driver, so if that is lost meanwhile, the next one
    /// is to be looked for.
    Wait,
    /// The worker cannot take part.
    Refused {
        /// One sentence.
        reason: String,
    },
    /// Who is there: connect to each other. It is said again when that has changed.
    Peers {
        /// Data threads of all workers on this worker's host: polling adapts to it.
        cores_on_host: u32,
        /// All workers, this one among them.
        peers: Vec<Peer>,
    },
    /// An order for its schedulers.
    Order(DriverMessage),
    /// Answer to `Heartbeat`.
    HeartbeatAnswer {
        /// As it was in the question.
        sent_ns: u64,
        /// The driver's time, in nanoseconds.
        driver_ns: u64,
    },
    /// The job is over: complete what was written, and report.
    Finish,
    /// The job has failed.
    Abort {
        /// One sentence.
        reason: String,
    },
    /// Answer to `Return`: the driver that the worker follows from now on.
    Back {
        /// The driver's life.
        term: Term,
    },
    /// Answer to `Ask`.
    Answer {
        /// What was asked for, or what has been done.
        text: String,
    },
}

/// A worker as the others need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The worker.
    pub worker: WorkerId,
    /// Its life.
    pub incarnation: Incarnation,
    /// How many cores it has.
    pub cores: u16,
    /// Where its data listener is.
    pub address: SocketAddr,
}

impl Peer {
    /// Which life of which worker it is.
    pub fn life(&self) -> Life {
        Life { worker: self.worker, incarnation: self.incarnation }
    }
}

/// From worker to worker, on a data connection. The bytes of blocks follow their head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataHead {
    /// First of all, from the side that connected.
    Hello {
        /// Who connects.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// Who is meant.
        to: WorkerId,
        /// Where the caller waits for a process of its host, to share memory with it.
        rendezvous: Option<[u8; 16]>,
    },
    /// The one that was called has come to the rendezvous: first of all that it says, if it has.
    Met,
    /// All that one core has, of one batch and edge, for the cores of the worker.
    Blocks {
        /// The headers of the blocks; their bodies follow one behind the other.
        header: BundleHeader,
    },
    /// The same, but the bodies lie in segments of the sender that the receiver may map.
    Mapped {
        /// The headers of the blocks.
        header: BundleHeader,
        /// Where the body is, of each block that has records.
        places: Vec<MappedPlace>,
    },
    /// So many bodies of `Mapped` have been copied in all; the sender may use their memory again.
    Released {
        /// How many, since the connection was made.
        copied: u64,
    },
    /// A segment of the sender is no more.
    Retired {
        /// Its number.
        segment: u32,
    },
    /// Credit: a core has finished all batches up to this one.
    Completed {
        /// The core that has.
        from: CoreId,
        /// The core to be told.
        to_core: u16,
        /// The batch.
        batch: BatchId,
    },
    /// Source ranges that the blocks behind this frame depend on, and that the driver may not have
    /// recorded yet. Nothing is sent where there are none.
    Ranges {
        /// Number of the core in the worker.
        to_core: u16,
        /// The ranges.
        ranges: Vec<TakenRange>,
    },
    /// A part of the state of a partition that moves.
    State {
        /// Number of its new core in the worker.
        to_core: u16,
        /// The part.
        part: StatePart,
    },
}

/// A part of the state of a partition, on its way to its new owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// The stage.
    pub stage: StageId,
    /// The partition.
    pub partition: PartitionId,
    /// The last batch that the state includes.
    pub batch: BatchId,
    /// It is what changed after this batch; everything where there is none.
    pub since: Option<BatchId>,
    /// Bytes of all parts together.
    pub total: u64,
    /// How many of them come before this part.
    pub offset: u64,
    /// Those of this part.
    pub bytes: Vec<u8>,
}

/// Where a body lies in the segments of another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedPlace {
    /// Number of the segment, which came with its descriptor.
    pub segment: u32,
    /// Where in it.
    pub place: Place,
}
