//! What losses cost. The Yahoo Streaming Benchmark on processes, with checkpoints and an upsert log; workers
//! and drivers are killed, stopped, started again and added at chosen moments, and what counts is when
//! the results of each window were there. A run whose results differ from the sequential run's prints
//! no figure.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use drizzle::clock::monotonic_now;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Shape, pause_until};
use crate::figures::{median, reached, write_json};
use crate::machine;

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
    /// Two workers join two, and later two leave
    Rescale,
}

impl Scenario {
    const ALL: [Scenario; 8] = [
        Scenario::Undisturbed,
        Scenario::Kill0,
        Scenario::Kill50,
        Scenario::Kill95,
        Scenario::KillAtEnd,
        Scenario::Silent,
        Scenario::Driver,
        Scenario::Rescale,
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
            Scenario::Rescale => "2 to 4 workers",
        }
    }

    /// The latest that a window should be, in milliseconds.
    fn goal_ms(self) -> f64 {
        match self {
            Scenario::Silent => 1100.0,
            Scenario::Undisturbed
            | Scenario::Kill0
            | Scenario::Kill50
            | Scenario::Kill95
            | Scenario::KillAtEnd
            | Scenario::Driver
            | Scenario::Rescale => 100.0,
        }
    }

    fn workers(self) -> u32 {
        if self == Scenario::Rescale { 2 } else { 4 }
    }
}

/// Length of a window and of the time between two checkpoints.
const SECOND_NS: u64 = 1_000_000_000;
/// For how long events are generated.
const SECONDS: u64 = 12;
/// After how many checkpoints something happens.
const CHECKPOINTS: usize = 3;
/// A driver is back after so long.
const DRIVER_BACK_NS: u64 = 2 * SECOND_NS;
/// So long before the end of a window, about, a worker is killed.
const BEFORE_END_NS: u64 = 5_000_000;
/// A window that is no later than this is normal.
const NORMAL_MS: f64 = 10.0;

/// What one run came to. Times in milliseconds.
struct Outcome {
    max_window: f64,
    normal_after: f64,
    detect: f64,
    fence: f64,
    recover: f64,
    catch_up: f64,
    windows: Value,
}

/// Runs all scenarios and prints their medians and worst.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let mut rows = Vec::new();
    println!(
        "{:<16}{:>6}{:>13}{:>11}{:>14}{:>10}{:>9}{:>10}{:>10}   goal",
        "scenario",
        "group",
        "max window",
        "worst",
        "normal after",
        "detect",
        "fence",
        "recover",
        "catch up"
    );
    let wanted = |scenario: &Scenario| flags.only.is_empty() || flags.only.contains(scenario);
    for scenario in Scenario::ALL.into_iter().filter(wanted) {
        for &group_size in &flags.group_sizes {
            let mut outcomes = Vec::new();
            for _ in 0..flags.repeats {
                let outcome = run(flags, scenario, group_size);
                outcomes.push(outcome.with_context(|| scenario.name().to_owned())?);
            }
            rows.push(row(scenario, group_size, &outcomes));
        }
    }
    let figures = json!({ "machine": machine::describe(), "rate": flags.rate, "rows": rows });
    write_json(flags.json.as_deref(), &figures)
}

/// Prints a scenario and makes its row.
fn row(scenario: Scenario, group_size: u64, outcomes: &[Outcome]) -> Value {
    let figures = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).collect::<Vec<f64>>();
    let worst = |figures: &[f64]| figures.iter().copied().fold(f64::NAN, f64::max);
    let max = figures(|outcome| outcome.max_window);
    let normal = figures(|outcome| outcome.normal_after);
    let parts = [
        figures(|outcome| outcome.detect),
        figures(|outcome| outcome.fence),
        figures(|outcome| outcome.recover),
        figures(|outcome| outcome.catch_up),
    ];
    let [detect, fence, recover, catch_up] = parts.map(|figures| median(&figures));
    let worst_ms = worst(&max);
    println!(
        "{:<16}{group_size:>6}{:>10.1} ms{worst_ms:>8.1} ms{:>11.0} ms{detect:>10.1}{fence:>9.1}{recover:>10.1}{catch_up:>10.1}   \
         {} ms: {}",
        scenario.name(),
        median(&max),
        median(&normal),
        scenario.goal_ms(),
        reached(worst_ms <= scenario.goal_ms()),
    );
    json!({
        "scenario": scenario.name(),
        "group_size": group_size,
        "max_window_ms": median(&max),
        "worst_window_ms": worst_ms,
        "normal_after_ms": median(&normal),
        "detect_ms": detect,
        "fence_ms": fence,
        "recover_ms": recover,
        "catch_up_ms": catch_up,
        "lost": 0,
        "duplicated": 0,
        "windows": outcomes.iter().map(|outcome| outcome.windows.clone()).collect::<Vec<Value>>(),
    })
}

fn run(flags: &Flags, scenario: Scenario, group_size: u64) -> Result<Outcome> {
    let words = [
        ["--rate", &flags.rate.to_string()],
        ["--window", "1s"],
        ["--interval", "10ms"],
        ["--duration", &format!("{SECONDS}s")],
        ["--checkpoint-interval", "1s"],
        ["--group-size", &group_size.to_string()],
        ["--memory", "256MiB"],
    ];
    let words = words.concat().into_iter().map(str::to_owned).collect();
    let limit = Duration::from_secs(4 * SECONDS);
    let mut cluster = Cluster::start(Shape {
        workers: scenario.workers(),
        flags: words,
        limit,
        proxied: false,
        keep_failed: false,
    })?;
    let began_ns = disturb(&mut cluster, scenario)?;
    let report = cluster.finish()?;
    outcome(&report, began_ns)
}

/// Does to a cluster what the scenario says; when.
fn disturb(cluster: &mut Cluster, scenario: Scenario) -> Result<u64> {
    let durable = cluster.wait_for("durable", CHECKPOINTS, 0)?;
    let at = |share: u64| durable.at_ns + SECOND_NS * share / 100;
    Ok(match scenario {
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
        Scenario::Rescale => {
            let at_ns = monotonic_now();
            cluster.add_worker()?;
            cluster.add_worker()?;
            cluster.wait_for("joined", 2, at_ns)?;
            at_ns
        }
    })
}

/// What a report says of the time around the event.
fn outcome(report: &Value, began_ns: u64) -> Result<Outcome> {
    let windows = report["per_window"].as_array().context("no windows")?;
    let origin_ns = report["origin_ns"].as_u64().context("no origin")?;
    let mut worst: f64 = 0.0;
    let mut normal_after: f64 = 0.0;
    for (number, window) in windows.iter().enumerate() {
        let Some(latency_us) = window["latency_us"].as_f64() else { continue };
        let latency_ms = latency_us / 1e3;
        let end_ns = origin_ns + (number as u64 + 1) * SECOND_NS;
        if end_ns < began_ns {
            continue;
        }
        worst = worst.max(latency_ms);
        if latency_ms > NORMAL_MS {
            normal_after = (end_ns - began_ns) as f64 / 1e6 + latency_ms;
        }
    }
    let timeline = report["timeline"].as_array().context("no timeline")?;
    let first = |change: &str, after_ns: u64| {
        let mut events = timeline.iter().filter(|event| event["change"] == change);
        events.find_map(|event| event["at_ns"].as_u64().filter(|&at_ns| at_ns >= after_ns))
    };
    let lost = first("lost", began_ns);
    let fenced = lost.and_then(|lost| first("fenced", lost));
    let recovered = lost.and_then(|lost| first("recovered", lost));
    let caught_up = recovered.and_then(|recovered| first("caught up", recovered));
    let between = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => to.saturating_sub(from) as f64 / 1e6,
        (_, _) => f64::NAN,
    };
    let latencies = windows.iter().map(|window| window["latency_us"].clone());
    Ok(Outcome {
        max_window: worst,
        normal_after,
        detect: between(Some(began_ns), lost),
        fence: between(lost, fenced),
        recover: between(fenced, recovered),
        catch_up: between(recovered, caught_up),
        windows: latencies.collect(),
    })
}
