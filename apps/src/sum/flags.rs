//! What a user may choose.

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use drizzle::node::{JobDurability, JobOptions, Memory};
use drizzle::scheduler::plan::{Pacing, Prescheduling};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::numbers::{MAX_PARTS, Numbers};
use crate::flags::{ClusterFlags, HostFlag, IoFlag, PollFlag, Span, WorkerFlags};

/// The paper's micro-benchmark: tasks that each sum 10,000 numbers, in one stage or two.
///
/// It shows what scheduling costs. Every result is compared with a plain loop.
///
/// As in the paper's figure 4:     sum --workers 4 --tasks 16
/// As in its figure 5b:            sum --workers 4 --tasks 16 --stages 2
/// 128 workers on two processors:  sum --workers 128 --light 2 --tasks 512 --stages 2
/// As a central scheduler does:    sum --group-size 1 --no-prescheduling
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct SumArguments {
    #[command(subcommand)]
    pub(super) node: Option<Node>,
    #[command(flatten)]
    pub(super) local: LocalFlags,
}

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Offer cores to a driver and run what it sends.
    #[command(hide = true)]
    Worker(WorkerFlags),
}

/// A driver and its workers on this host.
#[derive(Debug, Args)]
pub(super) struct LocalFlags {
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    /// Run each worker as a process of its own, over loopback TCP, instead of as threads.
    #[arg(long)]
    pub(super) processes: bool,
    /// Run light workers: each is a whole worker, but they share so many threads of this process.
    #[arg(long, value_name = "THREADS", conflicts_with = "processes",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) light: Option<u16>,
    #[command(flatten)]
    pub(super) job: JobFlags,
}

/// The job's own flags: they travel to every worker.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct JobFlags {
    /// Tasks of the first stage in each batch.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    tasks: u32,
    /// Numbers that each of them sums.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    numbers: u64,
    /// Micro-batches.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    batches: u64,
    /// One stage, or two with a shuffle between them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    stages: u32,
    /// Tasks of the second stage.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    reducers: u32,
    /// From one micro-batch to the next; without it they follow each other as fast as they can.
    #[arg(long)]
    interval: Option<Span>,
    /// Let the driver release every reduce task, as a scheduler without pre-scheduling does.
    #[arg(long)]
    no_prescheduling: bool,
    /// What runs the cores.
    #[arg(long, value_enum, default_value_t = HostFlag::Auto)]
    pub(super) host: HostFlag,
    /// What does their input and output.
    #[arg(long, value_enum, default_value_t = IoFlag::Auto)]
    pub(super) io: IoFlag,
    /// How an idle core waits.
    #[arg(long, value_enum, default_value_t = PollFlag::Adaptive)]
    poll: PollFlag,
}

/// How many stages the job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Tasks whose sums are the result.
    One,
    /// Tasks whose sums reducers add up.
    Two,
}

/// Batches that a source may run ahead of the slowest core.
const AHEAD: u64 = 32;
/// Bytes of memory for each core: blocks are small, and cores may be many.
const MEMORY: usize = 64 << 20;
/// Bytes of input that a core takes for a batch; a task takes one offset whatever this says.
const BATCH_BYTES: u64 = 1 << 20;
/// Said of batches that do not wait for their time.
const NO_INTERVAL: Duration = Duration::from_millis(1);

impl JobFlags {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.reducers <= MAX_PARTS, "--reducers must be at most {MAX_PARTS}");
        let Some(Span(interval)) = self.interval else { return Ok(()) };
        ensure!(interval >= Duration::from_micros(1), "--interval must be at least 1us");
        ensure!(interval <= Duration::from_secs(3600), "--interval must be at most 1h");
        Ok(())
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            tasks: self.tasks,
            batches: self.batches,
            count: self.numbers,
            parts: match self.stages() {
                Stages::One => 1,
                Stages::Two => self.reducers,
            },
            pacing: if self.interval.is_some() { Pacing::Clock } else { Pacing::Unpaced },
        }
    }

    pub(super) fn stages(&self) -> Stages {
        if self.stages == 1 { Stages::One } else { Stages::Two }
    }

    pub(super) fn reducers(&self) -> u32 {
        self.reducers
    }

    /// From one batch to the next, where they wait for their time.
    pub(super) fn pace(&self) -> Option<Duration> {
        self.interval.map(Duration::from)
    }

    pub(super) fn interval(&self) -> Duration {
        self.pace().unwrap_or(NO_INTERVAL)
    }

    pub(super) fn prescheduling(&self) -> Prescheduling {
        if self.no_prescheduling { Prescheduling::Off } else { Prescheduling::On }
    }

    pub(super) fn ahead(&self) -> u64 {
        AHEAD
    }

    pub(super) fn polling(&self) -> drizzle::host::Polling {
        self.poll.polling()
    }

    pub(super) fn options(&self) -> JobOptions {
        JobOptions {
            prescheduling: self.prescheduling(),
            ahead: self.ahead(),
            memory: Memory::EachCore(MEMORY),
            batch_bytes: BATCH_BYTES,
            durability: JobDurability::None,
            host: self.host.choice(),
            io: self.io.choice(),
            polling: self.polling(),
        }
    }
}
