//! When results come: the time from the end of a window to each of its rows, at a rate that the cores can
//! take. Two runs in turn: with a watermark that the source asserts with the last events of a
//! window, and with one that follows from the events, which closes windows a batch later.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::figures::{reached, write_json};
use crate::machine;
use crate::run::ysb;

/// How the measurement is done.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Events per second.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Length of a window.
    #[arg(long, default_value = "1s")]
    window: String,
    /// From one micro-batch to the next.
    #[arg(long, default_value = "1ms")]
    interval: String,
    /// For how long each run generates events: at least 60 windows.
    #[arg(long, default_value = "62s")]
    duration: String,
    /// One-core workers.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Workers as processes instead of threads.
    #[arg(long)]
    processes: bool,
    /// How idle cores wait.
    #[arg(long, default_value = "adaptive")]
    poll: String,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Windows that a run must have.
const WINDOWS: u64 = 60;
/// What the asserted watermark should reach, in microseconds.
const P50_GOAL_US: f64 = 100.0;
const P99_GOAL_US: f64 = 1000.0;

/// Runs both and prints them side by side.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let mut asserted = run(flags, "asserted")?;
    let derived = run(flags, "derived")?;
    ensure!(
        asserted["output_hash"] == derived["output_hash"],
        "the two runs have the same events and not the same results"
    );
    asserted["machine"] = machine::describe();
    asserted["goals_us"] = json!({ "p50": P50_GOAL_US, "p99": P99_GOAL_US });
    asserted["derived"] = derived;
    print(&asserted);
    write_json(flags.json.as_deref(), &asserted)
}

/// The report of a run that was verified and has windows enough.
fn run(flags: &Flags, watermark: &str) -> Result<Value> {
    let report = ysb(&command(flags, watermark))?;
    let windows = report["windows"].as_u64().context("no windows")?;
    ensure!(windows >= WINDOWS, "{windows} windows are too few: give it a longer --duration");
    Ok(report)
}

fn command(flags: &Flags, watermark: &str) -> Vec<String> {
    let (rate, workers) = (flags.rate.to_string(), flags.workers.to_string());
    let words = [
        ["--rate", &rate],
        ["--workers", &workers],
        ["--window", &flags.window],
        ["--interval", &flags.interval],
        ["--duration", &flags.duration],
        ["--poll", &flags.poll],
        ["--watermark", watermark],
    ];
    let words = words.concat().into_iter().chain(flags.processes.then_some("--processes"));
    words.map(str::to_owned).collect()
}

fn print(figures: &Value) {
    machine::print(figures);
    println!(
        "job                 {} workers x {} core, {} windows, {} events, output {}",
        figures["workers"],
        figures["cores"],
        figures["windows"],
        figures["events"],
        figures["output_hash"].as_str().unwrap_or_default(),
    );
    println!(
        "{:<20}{:>12} {:>12} {:>12} {:>12}",
        "watermark", "p50 us", "p95 us", "p99 us", "max us"
    );
    for (name, report) in [("asserted", figures), ("derived", &figures["derived"])] {
        let [p50, p95, p99, max] = ["p50", "p95", "p99", "max"].map(|key| latency(report, key));
        println!("{name:<20}{p50:>12.1} {p95:>12.1} {p99:>12.1} {max:>12.1}");
    }
    println!(
        "goal                p50 {P50_GOAL_US} us: {}, p99 {P99_GOAL_US} us: {} (asserted)",
        reached(latency(figures, "p50") <= P50_GOAL_US),
        reached(latency(figures, "p99") <= P99_GOAL_US),
    );
}

fn latency(report: &Value, key: &str) -> f64 {
    report["window_latency_us"][key].as_f64().unwrap_or(f64::NAN)
}
