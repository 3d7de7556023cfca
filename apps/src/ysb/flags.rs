//! What a user may choose.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use drizzle::connectors::{Output, TcpLines, UpsertLog};
use drizzle::dataflow::Combine;
use drizzle::host::Polling;
use drizzle::node::{JobDurability, JobOptions, Memory};
use drizzle::scheduler::balance::StragglerOptions;
use drizzle::scheduler::driver::Balance;
use drizzle::scheduler::plan::Prescheduling;
use serde::{Deserialize, Serialize};

use super::generator::{GeneratorOptions, Rate, STANDING_MS};
use super::replay::{Format, ReplayOptions};
use super::table::AdTable;
use crate::flags::{ClusterFlags, HostFlag, IoFlag, PollFlag, Span, WorkerFlags};
use crate::size::Size;

/// Seed of the generated events and of their table.
const SEED: u64 = 20_171_028;

/// The Yahoo Streaming Benchmark: count ad views per campaign and window.
///
/// Without flags it starts a local cluster (a driver and two one-core workers), generates 100,000
/// JSON events a second for 20 s, and compares every window with a plain sequential run.
///
/// Read a file instead:        ysb --events events.jsonl --ads ads.json --out counts.jsonl
/// Or what somebody sends:     ysb --tcp 127.0.0.1:7500 --ads ads.json --out counts.jsonl
/// Workers as processes:       ysb --workers 4 --processes
/// A cluster, on one host:     ysb driver --listen 127.0.0.1:7400 --workers 2
/// and two times:              ysb worker --driver 127.0.0.1:7400
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct YsbArguments {
    #[command(subcommand)]
    pub(super) node: Option<Node>,
    #[command(flatten)]
    pub(super) local: LocalFlags,
}

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Wait for workers, then run the job on them.
    Driver(Box<DriverFlags>),
    /// Offer cores to a driver and run what it sends; the job's flags come from there.
    Worker(YsbWorkerFlags),
}

/// A worker process of the benchmark.
#[derive(Debug, Args)]
pub(super) struct YsbWorkerFlags {
    #[command(flatten)]
    pub(super) node: WorkerFlags,
    /// Steps of useless work for each view, on this worker alone: for tests of slow ones.
    #[arg(long, hide = true, default_value_t = 0)]
    pub(super) burn: u64,
}

/// A driver and its workers on this host.
#[derive(Debug, Args)]
pub(super) struct LocalFlags {
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    /// Run each worker as a process of its own, over loopback TCP, instead of as a thread.
    #[arg(long)]
    pub(super) processes: bool,
    #[command(flatten)]
    pub(super) job: JobFlags,
}

/// A driver whose workers are started elsewhere.
#[derive(Debug, Args)]
pub(super) struct DriverFlags {
    /// Where workers connect to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    pub(super) listen: SocketAddr,
    /// Allow an address that other hosts can reach: nodes do not authenticate each other yet.
    #[arg(long)]
    pub(super) insecure: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    #[command(flatten)]
    pub(super) job: JobFlags,
}

/// The job's own flags: they travel to every worker.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct JobFlags {
    /// Generated events per second, or "max" for as many as the cores can take.
    #[arg(long, default_value = "100000", value_name = "N|max")]
    pub(super) rate: RateFlag,
    /// For how long events are generated. A bare number means seconds.
    #[arg(long, default_value = "20s")]
    pub(super) duration: Span,
    /// Length of a window [default: 1s, with --events or --tcp 10s].
    #[arg(long)]
    pub(super) window: Option<Span>,
    /// How the generator knows that no earlier event will come.
    #[arg(long, value_enum, default_value_t = WatermarkFlag::Asserted, conflicts_with_all = ["events", "tcp", "replay"])]
    pub(super) watermark: WatermarkFlag,
    /// From one micro-batch to the next. A file is read as fast as possible, whatever this says.
    #[arg(long, default_value = "10ms")]
    pub(super) interval: Span,
    /// Read events from this file of JSON lines instead of generating them.
    #[arg(long, value_name = "FILE.jsonl", requires = "ads", requires = "out", group = "given")]
    pub(super) events: Option<PathBuf>,
    /// Read --events for ever, as it grows: until Ctrl-C.
    #[arg(long, requires = "events")]
    pub(super) follow: bool,
    /// Read events from a sender that listens there (`drizzle send`), one source partition for each time this is
    /// given; it is told what it may forget.
    #[arg(long, value_name = "HOST:PORT", requires = "ads", requires = "out", group = "given")]
    pub(super) tcp: Vec<String>,
    /// Hold so many bytes of events in memory, over 10 windows, and read them again and again, each time
    /// 10 windows later; --rate and --duration mean nothing then.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["events", "tcp", "rate", "duration"])]
    pub(super) replay: Option<Size>,
    /// How often replayed events are read.
    #[arg(long, default_value_t = NonZeroU64::new(20).expect("20 is not 0"), value_name = "N", requires = "replay")]
    passes: NonZeroU64,
    /// What replayed events are held as.
    #[arg(long, value_enum, default_value_t = Format::Json, requires = "replay")]
    format: Format,
    /// JSON object that gives the campaign of each ad.
    #[arg(long, value_name = "FILE.json")]
    pub(super) ads: Option<PathBuf>,
    /// Where counts go: NAME.jsonl for one file, anything else for a folder of part files.
    #[arg(long, value_name = "PATH", requires = "given")]
    pub(super) out: Option<PathBuf>,
    /// Keep a journal and checkpoints in this folder, which all nodes must reach: then the job survives the
    /// loss of workers and of its driver.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// From the end of one checkpoint to the beginning of the next.
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "data")]
    pub(super) checkpoint_interval: Span,
    /// Leave partitions where they are, also those of a core that stays far behind the others.
    #[arg(long, requires = "data")]
    #[serde(skip)]
    no_balance: bool,
    /// Go on with the job that --data holds.
    #[arg(long, requires = "data")]
    #[serde(skip)]
    pub(super) resume: bool,
    /// Start from this savepoint (`drizzle savepoint`), where --data holds no run yet.
    #[arg(long, requires = "data", value_name = "DIR")]
    #[serde(skip)]
    pub(super) from_savepoint: Option<PathBuf>,
    /// Write counts of generated events to an upsert log in this folder, instead of collecting them in the
    /// driver's memory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["events", "tcp"])]
    pub(super) upsert: Option<PathBuf>,
    /// How far event times may run backwards without being late.
    #[arg(long, default_value = "0s")]
    out_of_orderness: Span,
    /// Where malformed lines go, as they came; a file or a folder as for --out.
    #[arg(long, value_name = "PATH", requires = "given")]
    dead_letter: Option<PathBuf>,
    /// Let the driver release every reduce task, as a scheduler without pre-scheduling does.
    #[arg(long)]
    no_prescheduling: bool,
    /// Send every record through the shuffle instead of combining them first.
    #[arg(long)]
    no_combine: bool,
    /// What runs the cores.
    #[arg(long, value_enum, default_value_t = HostFlag::Auto)]
    pub(super) host: HostFlag,
    /// What does their input and output.
    #[arg(long, value_enum, default_value_t = IoFlag::Auto)]
    pub(super) io: IoFlag,
    /// How an idle core waits.
    #[arg(long, value_enum, default_value_t = PollFlag::Adaptive)]
    poll: PollFlag,
    /// Partitions of the counts, and of generated events [default: 16, or one per core].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(super) partitions: Option<u32>,
    /// Memory of each worker for blocks, open windows and results that wait to leave [default: 256MiB for
    /// each core].
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Seed of the generated events.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// So many further campaigns, each of them generated one view of, in a window that ends after all
    /// others: a state of about 80 bytes each, for measurements.
    #[arg(long, default_value_t = 0, value_name = "N", hide = true, conflicts_with_all = ["events", "replay", "watermark"])]
    standing: u32,
    /// Not the job's but the worker's: steps of useless work for each view.
    #[arg(skip)]
    #[serde(skip)]
    pub(super) burn: u64,
}

/// How a generator knows that no earlier event will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(super) enum WatermarkFlag {
    /// It knows when events are scheduled, and says so with the last of a batch
    Asserted,
    /// By the events themselves, as a source that reads strangers' events does
    Derived,
}

/// Where events come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// They are generated.
    Generated,
    /// They are held in memory.
    Replayed(ReplayOptions),
    /// They are read, and counts are written.
    File {
        /// The events.
        events: PathBuf,
        /// Where counts go.
        output: Output,
    },
    /// They are sent, and counts are written.
    Sent {
        /// Who sends them.
        senders: TcpLines,
        /// Where counts go.
        output: Output,
    },
}

/// Partitions if nobody says how many: enough to spread evenly over a few cores.
const DEFAULT_PARTITIONS: u32 = 16;
/// Batches that a source may run ahead of the slowest core.
const AHEAD: u64 = 32;
/// Bytes of memory for each core, if nobody says how many a worker may take.
const MEMORY: usize = 256 << 20;
/// Bytes of input that a core takes for a batch.
const BATCH_BYTES: u64 = 4 << 20;

impl JobFlags {
    /// Makes the flags mean the same on every node: paths from the root, partitions as a number.
    pub(super) fn settle(&mut self, cores: u32) -> Result<()> {
        let JobFlags { events, ads, out, dead_letter, data, upsert, from_savepoint, .. } = self;
        for path in [events, ads, out, dead_letter, data, upsert, from_savepoint] {
            let Some(path) = path else { continue };
            *path = std::path::absolute(&*path)
                .with_context(|| format!("cannot make {} absolute", path.display()))?;
        }
        self.partitions.get_or_insert(DEFAULT_PARTITIONS.max(cores));
        self.check()
    }

    fn check(&self) -> Result<()> {
        ensure!(self.interval.0 >= Duration::from_micros(1), "--interval must be at least 1us");
        ensure!(self.interval.0 <= Duration::from_secs(3600), "--interval must be at most 1h");
        ensure!(self.window() >= Duration::from_millis(1), "--window must be at least 1ms");
        ensure!(self.duration.0 > Duration::ZERO, "--duration must be longer than 0s");
        let checkpoints = self.checkpoint_interval.0;
        ensure!(checkpoints > Duration::ZERO, "--checkpoint-interval must be longer than 0s");
        let Some(out) = self.output() else { return Ok(()) };
        let dead_letter = self.dead_letter();
        let overwrites = |output: &Output, other: &Path| output.would_overwrite(other);
        for output in [Some(&out), dead_letter.as_ref()].into_iter().flatten() {
            let inputs = [&self.events, &self.ads].into_iter().flatten();
            for input in inputs {
                if overwrites(output, input) {
                    bail!(
                        "{} would overwrite the input {}: choose another path",
                        output.path().display(),
                        input.display()
                    );
                }
            }
        }
        if dead_letter.is_some_and(|dead_letter| dead_letter.path() == out.path()) {
            bail!("--out and --dead-letter are the same path: give each its own");
        }
        Ok(())
    }

    pub(super) fn input(&self) -> Result<Input> {
        if let Some(size) = self.replay {
            return Ok(Input::Replayed(self.replayed(size)?));
        }
        match (&self.events, self.tcp.is_empty(), self.output()) {
            (None, true, _) => Ok(Input::Generated),
            (Some(events), _, Some(output)) => Ok(Input::File { events: events.clone(), output }),
            (None, false, Some(output)) => {
                let senders = TcpLines::new(&self.tcp).context("--tcp")?;
                Ok(Input::Sent { senders, output })
            }
            (Some(_), _, None) | (None, false, None) => bail!("--events and --tcp need --out"),
        }
    }

    pub(super) fn output(&self) -> Option<Output> {
        self.out.as_ref().map(Output::new)
    }

    pub(super) fn dead_letter(&self) -> Option<Output> {
        self.dead_letter.as_ref().map(Output::new)
    }

    pub(super) fn upsert_log(&self) -> Option<UpsertLog> {
        self.upsert.as_ref().map(UpsertLog::new)
    }

    pub(super) fn durability(&self) -> JobDurability {
        match &self.data {
            None => JobDurability::None,
            Some(path) => JobDurability::Folder {
                path: path.clone(),
                checkpoint_interval: self.checkpoint_interval.into(),
            },
        }
    }

    pub(super) fn table(&self) -> Result<AdTable> {
        match &self.ads {
            Some(path) => AdTable::load(path),
            None => AdTable::generate(self.seed).with_standing(self.standing),
        }
    }

    /// How far event times may run backwards. Those of standing campaigns run ahead, and make no other late.
    pub(super) fn out_of_orderness(&self) -> Duration {
        let ahead = if self.standing > 0 { STANDING_MS } else { 0 };
        Duration::from(self.out_of_orderness) + Duration::from_millis(ahead)
    }

    pub(super) fn generator(&self) -> Result<GeneratorOptions> {
        Ok(GeneratorOptions {
            seed: self.seed,
            partitions: NonZeroU32::new(self.partitions()).context("no partitions")?,
            rate: match self.rate {
                RateFlag::PerSecond(rate) => Rate::PerSecond(rate),
                RateFlag::Max => Rate::Max,
            },
            duration_ns: u64::try_from(self.duration.0.as_nanos())
                .context("--duration is too long")?,
            window_ms: self.window_ms(),
        })
    }

    fn replayed(&self, size: Size) -> Result<ReplayOptions> {
        Ok(ReplayOptions {
            seed: self.seed,
            size,
            format: self.format,
            passes: self.passes,
            partitions: NonZeroU32::new(self.partitions()).context("no partitions")?,
            window_ms: self.window_ms(),
        })
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions.unwrap_or(DEFAULT_PARTITIONS)
    }

    pub(super) fn window(&self) -> Duration {
        let default = if self.out.is_some() { 10 } else { 1 };
        self.window.map_or(Duration::from_secs(default), Duration::from)
    }

    pub(super) fn window_ms(&self) -> NonZeroU64 {
        let length_ms = drizzle::dataflow::Tumbling::of(self.window()).length_ms();
        NonZeroU64::new(length_ms).unwrap_or(NonZeroU64::MIN)
    }

    pub(super) fn combine(&self) -> Combine {
        if self.no_combine { Combine::Never } else { Combine::BeforeShuffle }
    }

    pub(super) fn prescheduling(&self) -> Prescheduling {
        if self.no_prescheduling { Prescheduling::Off } else { Prescheduling::On }
    }

    pub(super) fn balance(&self) -> Balance {
        if self.no_balance { Balance::Off } else { Balance::On(StragglerOptions::usual()) }
    }

    pub(super) fn ahead(&self) -> u64 {
        AHEAD
    }

    pub(super) fn options(&self) -> JobOptions {
        JobOptions {
            prescheduling: self.prescheduling(),
            ahead: self.ahead(),
            memory: self.memory(),
            batch_bytes: BATCH_BYTES,
            durability: self.durability(),
            host: self.host.choice(),
            io: self.io.choice(),
            polling: self.polling(),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
            .map_or(Memory::EachCore(MEMORY), |Size(bytes)| Memory::EachWorker(bytes as usize))
    }

    pub(super) fn polling(&self) -> Polling {
        self.poll.polling()
    }
}

/// Events per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RateFlag {
    PerSecond(NonZeroU64),
    Max,
}

impl FromStr for RateFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<RateFlag, String> {
        if text == "max" {
            return Ok(RateFlag::Max);
        }
        let digits = text.replace(['_', ','], "");
        let rate = digits.parse::<u64>().ok().filter(|&rate| rate <= 1_000_000_000);
        let rate = rate.and_then(NonZeroU64::new).map(RateFlag::PerSecond);
        rate.ok_or_else(|| "a number from 1 to 1,000,000,000, or \"max\"".to_owned())
    }
}
