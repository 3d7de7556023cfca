//! What losses cost. The Yahoo Streaming Benchmark on processes, with checkpoints and an upsert log; workers
//! and drivers are killed, stopped, started again and added at chosen moments, and what counts is when
//! the results of each window were there. A run whose results differ from the sequential run's prints
//! no figure.

mod outcome;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use drizzle::clock::monotonic_now;
use drizzle::node::{Request, ask_driver};
use drizzle::scheduler::WorkerId;
use drizzle_apps::ysb::generator::STANDING_AT_ONCE;
use rustix::process::Signal;
use serde_json::json;

use crate::cluster::{Cluster, Event, Shape, pause_until};
use crate::figures::write_json;
use crate::machine;
use outcome::Outcome;

/// How the measurement is done.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Events per second.
    #[arg(long, default_value_t = 200_000)]
    rate: u64,
    /// How often each scenario runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    repeats: u32,
    /// Group sizes.
    #[arg(long, value_delimiter = ',', default_value = "10,50,100,300")]
    group_sizes: Vec<u64>,
    /// Only these scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What happens to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Nothing: what to compare with
    Undisturbed,
    /// A worker is killed right after a checkpoint
    Kill0,
    /// A worker is killed in the middle between two checkpoints
    Kill50,
    /// A worker is killed right before a checkpoint
    Kill95,
    /// A worker is killed right before a window ends, which then has to wait for all of the recovery
    KillAtEnd,
    /// A worker is stopped: it says nothing, and closes nothing
    Silent,
    /// The driver is killed, and another one started after two seconds
    Driver,
    /// Two workers join two, and later leave
    Rescale,
    /// The same with 64 MiB of open windows
    #[value(name = "rescale-64-mib")]
    Rescale64,
    /// The same with 1 GiB of open windows
    #[value(name = "rescale-1-gib")]
    Rescale1024,
}

impl Scenario {
    const ALL: [Scenario; 10] = [
        Scenario::Undisturbed,
        Scenario::Kill0,
        Scenario::Kill50,
        Scenario::Kill95,
        Scenario::KillAtEnd,
        Scenario::Silent,
        Scenario::Driver,
        Scenario::Rescale,
        Scenario::Rescale64,
        Scenario::Rescale1024,
    ];

    fn name(self) -> &'static str {
        match self {
            Scenario::Undisturbed => "undisturbed",
            Scenario::Kill0 => "kill at 0 %",
            Scenario::Kill50 => "kill at 50 %",
            Scenario::Kill95 => "kill at 95 %",
            Scenario::KillAtEnd => "kill at end",
            Scenario::Silent => "silent",
            Scenario::Driver => "driver",
            Scenario::Rescale => "2 to 4 to 2",
            Scenario::Rescale64 => "with 64 MiB",
            Scenario::Rescale1024 => "with 1 GiB",
        }
    }

    /// The latest that a window should be, in milliseconds.
    fn goal_ms(self) -> f64 {
        match self {
            Scenario::Silent => 1100.0,
            Scenario::Rescale1024 => 250.0,
            Scenario::Undisturbed
            | Scenario::Kill0
            | Scenario::Kill50
            | Scenario::Kill95
            | Scenario::KillAtEnd
            | Scenario::Driver
            | Scenario::Rescale
            | Scenario::Rescale64 => 100.0,
        }
    }

    fn workers(self) -> u32 {
        if self.rescales() { 2 } else { 4 }
    }

    fn rescales(self) -> bool {
        matches!(self, Scenario::Rescale | Scenario::Rescale64 | Scenario::Rescale1024)
    }

    /// How many keys stand in a window that stays open. A table of so many, spread over [`PARTITIONS`],
    /// takes 72 MiB and 1.1 GiB of memory: its capacity is a power of two.
    fn standing(self) -> u64 {
        match self {
            Scenario::Rescale64 => 800_000,
            Scenario::Rescale1024 => 12_800_000,
            Scenario::Undisturbed
            | Scenario::Kill0
            | Scenario::Kill50
            | Scenario::Kill95
            | Scenario::KillAtEnd
            | Scenario::Silent
            | Scenario::Driver
            | Scenario::Rescale => 0,
        }
    }

    /// Memory of a worker.
    fn memory(self) -> &'static str {
        if self == Scenario::Rescale1024 { "6GiB" } else { "256MiB" }
    }

    /// For how long events are generated at most, in seconds.
    fn seconds(self) -> u64 {
        if self.rescales() { 180 } else { 9 }
    }
}

/// Length of a window and of the time between two checkpoints.
const SECOND_NS: u64 = 1_000_000_000;
/// After how many checkpoints something happens.
const CHECKPOINTS: usize = 3;
/// Partitions of the counts and of the events.
const PARTITIONS: u64 = 24;
/// A driver is back after so long.
const DRIVER_BACK_NS: u64 = 2 * SECOND_NS;
/// So long before the end of a window, about, a worker is killed.
const BEFORE_END_NS: u64 = 5_000_000;
/// Runs all scenarios and prints their medians and worst.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let mut rows = Vec::new();
    println!("{}", outcome::HEADING);
    let wanted = |scenario: &Scenario| flags.only.is_empty() || flags.only.contains(scenario);
    for scenario in Scenario::ALL.into_iter().filter(wanted) {
        for &group_size in &flags.group_sizes {
            let mut outcomes = Vec::new();
            for _ in 0..flags.repeats {
                let outcome = run(flags, scenario, group_size);
                outcomes.push(outcome.with_context(|| scenario.name().to_owned())?);
            }
            rows.push(outcome::row(scenario, group_size, &outcomes));
        }
    }
    let figures = json!({ "machine": machine::describe(), "rate": flags.rate, "rows": rows });
    write_json(flags.json.as_deref(), &figures)
}

fn run(flags: &Flags, scenario: Scenario, group_size: u64) -> Result<Outcome> {
    let seconds = scenario.seconds();
    let words = [
        ["--rate", &flags.rate.to_string()],
        ["--window", "1s"],
        ["--interval", "10ms"],
        ["--duration", &format!("{seconds}s")],
        ["--checkpoint-interval", "1s"],
        ["--group-size", &group_size.to_string()],
        ["--memory", scenario.memory()],
        ["--standing", &scenario.standing().to_string()],
        ["--partitions", &PARTITIONS.to_string()],
    ];
    let words = words.concat().into_iter().map(str::to_owned).collect();
    // All keys that stand are results at the end, and are read back.
    let limit = Duration::from_secs(4 * seconds + scenario.standing() / 50_000);
    let mut cluster = Cluster::start(Shape {
        workers: scenario.workers(),
        flags: words,
        limit,
        proxied: false,
        keep_failed: false,
    })?;
    if scenario.standing() > 0 {
        settle(&mut cluster, scenario.standing() / STANDING_AT_ONCE / flags.rate + 1)?;
    }
    let disturbed = disturb(&mut cluster, scenario)?;
    let report = cluster.finish()?;
    Outcome::of(&report, disturbed)
}

/// When something happened to a cluster.
#[derive(Clone, Copy, Debug)]
struct Disturbed {
    began_ns: u64,
    /// When workers that had joined were told to leave.
    sent_away_ns: u64,
    /// When the job was told to stop.
    stopped_ns: u64,
}

/// Waits until the keys that stand are there, for which the job takes so many seconds at least, and what has
/// piled up meanwhile is done: batches come as they are due again.
fn settle(cluster: &mut Cluster, seconds: u64) -> Result<()> {
    let first = cluster.wait_for("joined", 1, 0)?;
    pause_until(first.at_ns + seconds * SECOND_NS);
    let mut before = cluster.wait_for("durable", 1, monotonic_now())?;
    loop {
        let next = cluster.wait_for("durable", 1, before.at_ns)?;
        let batch = |event: &Event| event.fields["batch"].as_u64().unwrap_or(0);
        let due = (next.at_ns - before.at_ns) / outcome::INTERVAL_NS;
        let done = batch(&next) - batch(&before);
        if done.abs_diff(due) <= due / 20 {
            return Ok(());
        }
        before = next;
    }
}

/// Does to a cluster what the scenario says; when.
fn disturb(cluster: &mut Cluster, scenario: Scenario) -> Result<Disturbed> {
    let durable = cluster.wait_for("durable", CHECKPOINTS, monotonic_now())?;
    let at = |share: u64| durable.at_ns + SECOND_NS * share / 100;
    let began_ns = match scenario {
        Scenario::Undisturbed => durable.at_ns,
        Scenario::Kill0 => cluster.signal(1, Signal::KILL)?,
        Scenario::Kill50 => {
            pause_until(at(50));
            cluster.signal(1, Signal::KILL)?
        }
        Scenario::Kill95 => {
            pause_until(at(95));
            cluster.signal(1, Signal::KILL)?
        }
        Scenario::KillAtEnd => {
            let end_ns = cluster.last_window()? + SECOND_NS;
            pause_until(end_ns - BEFORE_END_NS);
            cluster.signal(1, Signal::KILL)?
        }
        Scenario::Silent => {
            pause_until(at(50));
            let at_ns = cluster.signal(1, Signal::STOP)?;
            cluster.wait_for("recovered", 1, at_ns)?;
            // It wakes, learns that it was given up, and comes back as another.
            cluster.signal(1, Signal::CONT)?;
            at_ns
        }
        Scenario::Driver => {
            pause_until(at(50));
            let at_ns = cluster.kill_driver()?;
            pause_until(at_ns + DRIVER_BACK_NS);
            cluster.start_driver()?;
            at_ns
        }
        Scenario::Rescale | Scenario::Rescale64 | Scenario::Rescale1024 => return rescale(cluster),
    };
    Ok(Disturbed { began_ns, sent_away_ns: began_ns, stopped_ns: u64::MAX })
}

/// Two workers join, and leave when all is as it should be; then the job is stopped.
fn rescale(cluster: &mut Cluster) -> Result<Disturbed> {
    let at_ns = monotonic_now();
    cluster.add_worker()?;
    cluster.add_worker()?;
    cluster.wait_for("joined", 2, at_ns)?;
    let moved = cluster.wait_for("moved", 1, at_ns)?;
    // A second move may follow, if the two did not come together.
    cluster.wait_for("durable", 2, moved.at_ns)?;
    let sent_away_ns = monotonic_now();
    let joined = cluster.timeline().into_iter().filter(|e| e.change == "joined" && e.at_ns > at_ns);
    let joined: Vec<u64> = joined.filter_map(|event| event.fields["worker"].as_u64()).collect();
    for worker in joined {
        let worker = WorkerId(u32::try_from(worker)?);
        ask_driver(cluster.address()?, Request::Drain { worker })?;
    }
    cluster.wait_for("left", 2, sent_away_ns)?;
    // The windows that end now count, those that are flushed before their end do not.
    cluster.wait_for("durable", 2, monotonic_now())?;
    let stopped_ns = monotonic_now();
    cluster.stop()?;
    Ok(Disturbed { began_ns: at_ns, sent_away_ns, stopped_ns })
}
