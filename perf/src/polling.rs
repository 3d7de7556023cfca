//! Whether polling adapts: threads that spin starve each other where there are more of them than
//! processors. The same job, as fast as it can, on two workers for each processor and on one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::figures::{median, reached, write_json};
use crate::machine;
use crate::run::ysb;

/// How the measurement is done.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Pairs of runs, which take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pairs: u32,
    /// Length of each run in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// One-core worker processes of the crowded run.
    #[arg(long, default_value_t = 4)]
    many: u32,
    /// One-core worker processes of the run beside it.
    #[arg(long, default_value_t = 2)]
    few: u32,
    /// How idle cores wait.
    #[arg(long, default_value = "adaptive")]
    poll: String,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the crowded run should reach of the other.
const GOAL: f64 = 0.85;

/// Runs the pairs and prints their medians.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let (mut many, mut few, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = Value::Null;
    for pair in 1..=flags.pairs {
        // The order changes with every pair, so that neither side has the quieter moment.
        let (first, second) = match pair % 2 {
            0 => (flags.few, flags.many),
            _ => (flags.many, flags.few),
        };
        let mut figures = [(first, 0.0), (second, 0.0)];
        for (workers, figure) in &mut figures {
            last = ysb(&command(flags, *workers))?;
            *figure = last["events_per_second"].as_f64().context("no events per second")?;
        }
        if pair % 2 == 0 {
            figures.reverse();
        }
        let [(_, crowded), (_, beside)] = figures;
        eprintln!(
            "pair {pair} of {}: {} workers {crowded:.0} /s, {} workers {beside:.0} /s",
            flags.pairs, flags.many, flags.few
        );
        many.push(crowded);
        few.push(beside);
        ratios.push(crowded / beside);
    }
    let figures = json!({
        "machine": machine::describe(),
        "host": last["host"],
        "io": last["io"],
        "poll": flags.poll,
        "group_size": last["group_size"],
        "workers": [flags.many, flags.few],
        "events_per_second": [median(&many), median(&few)],
        "ratio": median(&ratios),
        "ratios": ratios,
        "goal": GOAL,
        "verified": true,
    });
    print(&figures);
    write_json(flags.json.as_deref(), &figures)
}

fn command(flags: &Flags, workers: u32) -> Vec<String> {
    let seconds = format!("{}s", flags.seconds);
    let workers = workers.to_string();
    let words = ["--rate", "max", "--processes", "--workers", &workers, "--duration", &seconds];
    words.iter().copied().chain(["--poll", &flags.poll]).map(str::to_owned).collect()
}

fn print(figures: &Value) {
    machine::print(figures);
    for side in 0..2 {
        println!(
            "{:>2} workers          {:>14.0} events/s (median, verified)",
            figures["workers"][side],
            figures["events_per_second"][side].as_f64().unwrap_or(f64::NAN),
        );
    }
    let ratio = figures["ratio"].as_f64().unwrap_or(f64::NAN);
    let verdict = reached(ratio >= GOAL);
    println!("ratio               {ratio:.3} (median of pairs; goal {GOAL}: {verdict})");
}
