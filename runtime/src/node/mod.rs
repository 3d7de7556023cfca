//! Nodes: the driver, a worker, and a local cluster of both in one process.
//!
//! A node is one thread with an event loop of its own ([`crate::io`]); it turns messages into events
//! for the state machines of `drizzle_scheduler` and their actions into messages. Heartbeats leave
//! from here, where no task can block them.

mod ask;
mod connect;
mod driver;
mod light;
mod local;
mod member;
mod memory;
mod results;
mod savepoint;
mod signals;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drizzle_scheduler::bugs::Bugs;
use drizzle_scheduler::local::{LocalOptions, RangeReports, Retention};
use drizzle_scheduler::message::GroupStatistics;
use drizzle_scheduler::plan::Prescheduling;
use drizzle_scheduler::{BatchId, PartitionId, StageId};

use crate::core::{CoreOptions, MemoryOptions, RETAINED_TIMES_MEMORY};
use crate::dataflow::Job;
use crate::host::Polling;
use crate::io::{Choice, HostKind, IoKind};

pub use ask::ask_driver;
pub use connect::Exposure;
pub use driver::{
    Change, ClusterEvent, DriverConfig, Observer, ProgressReport, TASK_ATTEMPTS, check_folder,
    listen_for_workers, run_driver,
};
pub use light::LightThreads;
pub use local::{ClusterConfig, LocalWorkers, run_local};
pub(crate) use memory::Size;
pub use memory::{CoreCounts, Memory, Reach, TooLittleMemory};
pub use results::{Collect, CollectWriter, Outlet};
pub use signals::stop_on_signals;
pub use worker::{DRIVER_PATIENCE, WorkerConfig, run_worker};

pub use crate::core::abort_on_panic_outside_tasks;
pub use crate::io::SystemCalls;
pub use crate::wire::{CoreCosts, MemoryPeaks, Request, TimeByKind};

/// Ranges of source tasks wait so long for others, to go to the driver and its journal together.
const RANGES_WAIT_NS: u64 = 10_000_000;
/// Nanoseconds between two heartbeats.
const HEARTBEAT_NS: u64 = 200_000_000;
/// A node that says nothing for so long is lost.
const SILENCE_NS: u64 = 1_500_000_000;
/// Where others can go on without it, so much is enough of a worker,
const WORKER_SILENCE_NS: u64 = 800_000_000;
/// and a driver is looked for anew after so long. It may just have been stopped, and whoever leaves it
/// comes back in another life, so this is longer.
const DRIVER_SILENCE_NS: u64 = 10_000_000_000;
/// Who connects and does not greet for so long is hung up on.
const GREETING_NS: u64 = 5_000_000_000;
/// While it joins it may be silent for longer: it builds the job.
const JOINING_NS: u64 = 60_000_000_000;
/// A worker that owes its driver an answer for so long is lost. Its cores answer between two tasks,
/// and a task may take long; that the process lives, its heartbeats tell.
const ANSWER_NS: u64 = 60_000_000_000;
/// The same where others can go on without it.
const DURABLE_ANSWER_NS: u64 = 3_000_000_000;
/// If no batch completes for so long, one line says what waits for what.
const STALL_NS: u64 = 2_000_000_000;

/// Why a node ended without a result. The two kinds have exit codes of their own.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It could not begin: a wrong flag, a missing file, a port in use.
    #[error("{0}")]
    Setup(String),
    /// It began and could not go on: a lost worker, a failed task.
    #[error("{0}")]
    Job(String),
    /// The driver ended it, and has said why.
    #[error("{0}")]
    Aborted(String),
}

impl NodeError {
    pub(crate) fn io(what: &str) -> impl FnOnce(std::io::Error) -> NodeError {
        let what = what.to_owned();
        move |error| NodeError::Setup(format!("{what}: {error}"))
    }
}

/// What a job function builds on every node.
pub struct JobSetup {
    /// The job.
    pub job: Job,
    /// How its nodes behave.
    pub options: JobOptions,
}

/// How the nodes of a job behave. The same on all of them, because it is made from the same flags.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// Whether downstream tasks wait for the driver's release.
    pub prescheduling: Prescheduling,
    /// How many batches a source may run ahead.
    pub ahead: u64,
    /// What a worker may take for blocks, keyed state and results that wait to leave.
    pub memory: Memory,
    /// About how many bytes of input a core takes for a batch.
    pub batch_bytes: u64,
    /// What outlives a process.
    pub durability: JobDurability,
    /// What runs the cores.
    pub host: Choice<HostKind>,
    /// What does their IO.
    pub io: Choice<IoKind>,
    /// How they wait.
    pub polling: Polling,
}

/// What of a job outlives a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobDurability {
    /// Nothing: the job ends with the first worker or driver that is lost.
    None,
    /// A journal and checkpoints in this folder, which all nodes reach.
    Folder {
        /// Where they lie.
        path: PathBuf,
        /// From the end of one checkpoint to the beginning of the next.
        checkpoint_interval: Duration,
    },
}

impl JobOptions {
    /// For a core that may take so much memory.
    fn core_options(&self, memory: MemoryOptions) -> CoreOptions {
        CoreOptions {
            local: LocalOptions {
                ahead: self.ahead,
                prescheduling: self.prescheduling,
                ranges: self.range_reports(),
                retention: self.retention(&memory),
                bugs: Bugs::NONE,
            },
            memory,
        }
    }

    fn range_reports(&self) -> RangeReports {
        match self.durability {
            JobDurability::None => RangeReports::WithGroups,
            JobDurability::Folder { .. } => RangeReports::Journaled { after_ns: RANGES_WAIT_NS },
        }
    }

    /// Whether nodes go on when others are lost.
    fn is_durable(&self) -> bool {
        match self.durability {
            JobDurability::None => false,
            JobDurability::Folder { .. } => true,
        }
    }

    /// What a worker's cores keep for others; how much of it, they know themselves.
    fn retention_of_worker(&self) -> Retention {
        match self.durability {
            JobDurability::None => Retention::WhenFolded,
            JobDurability::Folder { .. } => {
                Retention::UntilDurable { high_mark_bytes: u64::MAX, limit_bytes: u64::MAX }
            }
        }
    }

    /// What a core keeps for others. Sources pause at half of its memory; a checkpoint is to come before, and blocks
    /// go to a file.
    fn retention(&self, memory: &MemoryOptions) -> Retention {
        let bytes = memory.written.max_bytes as u64;
        match self.durability {
            JobDurability::None => Retention::WhenFolded,
            JobDurability::Folder { .. } => {
                let limit_bytes = bytes * RETAINED_TIMES_MEMORY;
                Retention::UntilDurable { high_mark_bytes: bytes / 4, limit_bytes }
            }
        }
    }
}

/// Builds the job on a node from its flags. The outlet is where collected rows go.
pub type JobFactory =
    Arc<dyn Fn(&[String], &Outlet) -> Result<JobSetup, String> + Send + Sync + 'static>;

/// A wish to stop, set by a signal handler or a test.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that a signal handler may set.
    pub fn new(flag: Arc<AtomicBool>) -> StopFlag {
        StopFlag(flag)
    }

    /// Whether it is wished.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a job went, as the driver saw it.
#[derive(Clone, Debug, Default)]
pub struct JobReport {
    /// What the operators counted, by name (`events.lines`), summed over all cores.
    pub counters: BTreeMap<String, u64>,
    /// What the groups cost, summed over all workers.
    pub statistics: GroupStatistics,
    /// CPU time of the driver's thread and of the workers' control threads, in nanoseconds.
    pub control_cpu_ns: u64,
    /// CPU time of the driver's thread alone, from the first group on, in nanoseconds.
    pub driver_cpu_ns: u64,
    /// Time in which the driver decided, and encoded and handed over what it had decided, in
    /// nanoseconds: the rest is reading, heartbeats and waking up.
    pub driver_schedule_ns: u64,
    /// CPU time of all core threads since the job began, in nanoseconds.
    pub cores_cpu_ns: u64,
    /// About how much of it was spent in task bodies, in nanoseconds.
    pub task_cpu_ns: u64,
    /// Time in which core threads looked for work in vain, in nanoseconds.
    pub idle_poll_ns: u64,
    /// Bytes of the message by which the last group that takes input is scheduled, without a placement.
    pub group_message_bytes: u64,
    /// What the cores took of time, system calls and memory, summed over all of them.
    pub costs: CoreCosts,
    /// System calls of the driver's thread and of the workers' control threads.
    pub control_calls: SystemCalls,
    /// Groups that were scheduled, the last one and those that a cut made void among them.
    pub groups: u64,
    /// `ScheduleGroup` messages sent.
    pub schedule_messages: u64,
    /// Releases sent, without pre-scheduling.
    pub release_messages: u64,
    /// The last batch that took input.
    pub last_batch: BatchId,
    /// Offsets `[from, to)` read of each source partition.
    pub taken: Vec<(StageId, PartitionId, u64, u64)>,
    /// Zero of the job's own time, in the driver's, in nanoseconds.
    pub origin_ns: u64,
    /// What ran the cores and did their IO, each once.
    pub runtimes: BTreeSet<String>,
    /// To the job's end in the driver's time, in nanoseconds: from its zero where a source is live,
    /// else from when it was first scheduled.
    pub elapsed_ns: u64,
    /// The most workers that took part at the same time.
    pub workers: u32,
    /// The most cores that they had together.
    pub cores: u32,
    /// Workers that were lost. What they counted is missing.
    pub lost_workers: u32,
    /// How often what was lost was given to others.
    pub recoveries: u32,
    /// Partitions that moved because workers came or went, or a core was slow.
    pub moved_partitions: u64,
    /// Those of them that left a slow core.
    pub relieved_partitions: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// The batch of the last of them.
    pub durable: BatchId,
    /// Whether it went on with an earlier run.
    pub resumed: bool,
    /// Whether somebody asked it to stop before its sources ended.
    pub stopped: bool,
    /// Whether every worker ran on this host, so that its output files are here.
    pub all_on_this_host: bool,
}
