//! How fast data goes through: the benchmark's job on events in memory, and what the machine allows.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use drizzle_apps::size::Size;
use serde_json::{Value, json};

use crate::figures::{median, reached, write_json};
use crate::machine;
use crate::projection::{self, Input, Way};
use crate::run::{Scratch, ysb};
use crate::shuffle::{self, Shuffled};

/// How the measurement is done.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Rounds; in each of them every measurement runs once, and medians are told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Memory that the events take, as `ysb --replay` takes it.
    #[arg(long, default_value = "300MB")]
    size: String,
    /// How often each run of lines reads them; runs of records read theirs half as often.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    passes: u32,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A shape in which the job is run.
struct Shape {
    key: &'static str,
    what: &'static str,
    format: &'static str,
    workers: u32,
    durability: Durability,
    /// Million events a second, where there is one.
    goal: Option<f64>,
}

/// Whether a run keeps checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    None,
    /// One each second.
    Checkpoints,
}

const SHAPES: [Shape; 6] = [
    Shape {
        key: "ysb_json_meps_per_core",
        what: "YSB, JSON lines, 1 core",
        format: "json",
        workers: 1,
        durability: Durability::None,
        goal: Some(30.0),
    },
    Shape {
        key: "ysb_json_meps_two_cores",
        what: "YSB, JSON lines, 2 cores",
        format: "json",
        workers: 2,
        durability: Durability::None,
        goal: None,
    },
    Shape {
        key: "ysb_binary_meps_per_core",
        what: "YSB, records, 1 core",
        format: "binary",
        workers: 1,
        durability: Durability::None,
        goal: Some(80.0),
    },
    Shape {
        key: "ysb_binary_meps_two_cores",
        what: "YSB, records, 2 cores",
        format: "binary",
        workers: 2,
        durability: Durability::None,
        goal: None,
    },
    Shape {
        key: "ysb_json_checkpoints_meps_per_core",
        what: "the same lines, checkpoint each second",
        format: "json",
        workers: 1,
        durability: Durability::Checkpoints,
        goal: Some(30.0),
    },
    Shape {
        key: "ysb_binary_checkpoints_meps_per_core",
        what: "the same records, checkpoint each second",
        format: "binary",
        workers: 1,
        durability: Durability::Checkpoints,
        goal: Some(80.0),
    },
];

/// The way of the ways to go through lines that has a goal, in million lines a second.
const PROJECTION: &str = "json_projection_meps_per_core";
const PROJECTION_GOAL: f64 = 40.0;
/// The way that all others are compared with.
const NEWLINES: &str = "newline_scan_meps_per_core";

/// What a shuffle should reach of its limit.
const SHUFFLE_GOAL: f64 = 0.8;

/// Runs the rounds and prints their medians.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let mut rates: Vec<Vec<f64>> = SHAPES.iter().map(|_| Vec::new()).collect();
    let mut reports: Vec<Value> = SHAPES.iter().map(|_| Value::Null).collect();
    let size: Size = flags.size.parse().map_err(anyhow::Error::msg)?;
    let (input, mut ways) = (Input::new(size.0)?, projection::ways());
    for round in 1..=flags.rounds {
        for way in &mut ways {
            let rate = way.run(&input)?;
            eprintln!("round {round} of {}: {:<34}{rate:>8.1} M/s", flags.rounds, way.what);
        }
        for (index, shape) in SHAPES.iter().enumerate() {
            let data = Scratch::new("data");
            let report = ysb(&command(flags, shape, &data))?;
            let rate = report["events_per_second"].as_f64().context("no events per second")? / 1e6;
            eprintln!("round {round} of {}: {:<41}{rate:>8.1} M/s", flags.rounds, shape.what);
            rates[index].push(rate);
            reports[index] = report;
        }
    }
    let mut figures = json!({
        "machine": machine::describe(),
        "host": reports[0]["host"],
        "io": reports[0]["io"],
        "poll": reports[0]["poll"],
        "group_size": reports[0]["group_size"],
        "checkpoints": "each second where the key says so",
        "verified": true,
    });
    for ((shape, rates), report) in SHAPES.iter().zip(&rates).zip(&reports) {
        figures[shape.key] = json!(median(rates));
        figures["rounds"][shape.key] = json!(rates);
        figures["output_hash"][shape.key] = report["output_hash"].clone();
    }
    for way in &ways {
        figures[way.key] = json!(median(&way.rates));
        figures["rounds"][way.key] = json!(way.rates);
    }
    let Shuffled { rows, handovers, sends } = shuffle::measure(flags.rounds)?;
    figures["shuffle"] = json!(rows);
    figures["handover"] = json!(handovers);
    figures["sends"] = json!(sends);
    print(&figures, &ways);
    write_json(flags.json.as_deref(), &figures)
}

fn command(flags: &Flags, shape: &Shape, data: &Scratch) -> Vec<String> {
    // Records are read several times faster than lines of the same size.
    let passes = if shape.format == "json" { flags.passes } else { (flags.passes / 2).max(1) };
    let (passes, workers) = (passes.to_string(), shape.workers.to_string());
    let words = ["--replay", &flags.size, "--passes", &passes, "--format", shape.format];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    words.extend(["--workers".to_owned(), workers]);
    if shape.durability == Durability::Checkpoints {
        let folder = data.path().to_string_lossy().into_owned();
        words.extend(["--data".to_owned(), folder, "--checkpoint-interval".to_owned()]);
        words.push("1s".to_owned());
    }
    words
}

fn print(figures: &Value, ways: &[Way]) {
    machine::print(figures);
    let newlines = figures[NEWLINES].as_f64().unwrap_or(f64::NAN);
    for way in ways {
        let rate = median(&way.rates);
        let goal = match way.key {
            PROJECTION => {
                format!("goal {PROJECTION_GOAL:.0} M/s: {}", reached(rate >= PROJECTION_GOAL))
            }
            _ => String::new(),
        };
        let part = format!("{:.0} % of newlines counted", 100.0 * rate / newlines);
        println!("{:<34}{rate:>8.1} M lines/s      {part:<28}{goal}", way.what);
    }
    for shape in &SHAPES {
        let rate = figures[shape.key].as_f64().unwrap_or(f64::NAN);
        let goal = match shape.goal {
            Some(goal) => format!("goal {goal:.0} M/s: {}", reached(rate >= goal)),
            None => String::new(),
        };
        let hash = figures["output_hash"][shape.key].as_str().unwrap_or_default();
        println!("{:<41}{rate:>8.1} M events/s   output {hash:<21}{goal}", shape.what);
    }
    print_shuffle(figures);
    println!(
        "verified                          every run, with a sequential run over the same events"
    );
}

fn print_shuffle(figures: &Value) {
    let rows = |key: &str| figures[key].as_array().cloned().unwrap_or_default();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    for row in rows("shuffle") {
        let (rate, limit) = (number(&row, "gbps"), number(&row, "limit_gbps"));
        println!(
            "{:<34}{rate:>8.2} GB/s           {:.0} % of {limit:.2} GB/s, {}; goal {:.0} %: {}",
            format!(
                "shuffle, {}, {} KiB",
                row["path"].as_str().unwrap_or_default(),
                row["bytes"].as_u64().unwrap_or(0) / 1024
            ),
            100.0 * rate / limit,
            row["limit"].as_str().unwrap_or_default(),
            100.0 * SHUFFLE_GOAL,
            reached(rate >= SHUFFLE_GOAL * limit),
        );
    }
    for row in rows("sends") {
        let (send, zero_copy) = (number(&row, "send_gbps"), number(&row, "send_zc_gbps"));
        println!(
            "{:<34}{zero_copy:>8.2} GB/s           {:.0} % of {send:.2} GB/s, SEND; {:.0} % of the sends copied",
            format!("SEND_ZC, tcp, {} KiB", row["bytes"].as_u64().unwrap_or(0) / 1024),
            100.0 * zero_copy / send,
            100.0 * number(&row, "zc_copied"),
        );
    }
    for row in rows("handover") {
        println!(
            "{:<34}{:>8.1} us p50         {:.1} us p99",
            format!("hand-over, {}, 4 KiB", row["path"].as_str().unwrap_or_default()),
            number(&row, "p50_us"),
            number(&row, "p99_us"),
        );
    }
}
