//! Measurements of Drizzle. Every figure comes from a run whose output was compared with a plain
//! sequential run; one that differs prints no figure. What is compared runs in turn, in one go.

#![forbid(unsafe_code)]

mod chaos;
mod cluster;
mod data_plane;
mod figures;
mod latency;
mod machine;
mod polling;
mod projection;
mod proxy;
mod recovery;
mod run;
mod scheduling;
mod shuffle;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use drizzle_apps::{sum, ysb};

/// Measurements of Drizzle, each beside what it is compared with, from one run.
#[derive(Debug, Parser)]
#[command(name = "drizzle-perf", version)]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Whether results stay right while processes are killed, stopped, cut off, added and drained.
    Chaos(chaos::Flags),
    /// How fast data goes through the job, from memory.
    DataPlane(data_plane::Flags),
    /// When results come after the end of their window, with asserted and with derived watermarks.
    Latency(latency::Flags),
    /// Whether polling adapts: throughput of more workers than processors, beside one for each.
    Polling(polling::Flags),
    /// What losses cost: workers and drivers that are killed or fall silent, and workers that come and go.
    Recovery(recovery::Flags),
    /// The other side of a shuffle, which that measurement starts as a process of its own.
    #[command(hide = true)]
    ShufflePeer(shuffle::PeerFlags),
    /// What scheduling costs: the paper's micro-benchmarks, up to 128 workers.
    Scheduling(scheduling::Flags),
    /// The jobs themselves, which measurements start as processes of their own.
    #[command(hide = true)]
    Sum(Box<sum::SumArguments>),
    /// See there.
    #[command(hide = true)]
    Ysb(Box<ysb::YsbArguments>),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().measurement {
        Measurement::Ysb(arguments) => {
            drizzle::node::abort_on_panic_outside_tasks();
            return ysb::main(*arguments);
        }
        Measurement::Sum(arguments) => {
            drizzle::node::abort_on_panic_outside_tasks();
            return sum::main(*arguments);
        }
        Measurement::Chaos(flags) => chaos::measure(&flags),
        Measurement::DataPlane(flags) => data_plane::measure(&flags),
        Measurement::Latency(flags) => latency::measure(&flags),
        Measurement::Polling(flags) => polling::measure(&flags),
        Measurement::Recovery(flags) => recovery::measure(&flags),
        Measurement::Scheduling(flags) => scheduling::measure(&flags),
        Measurement::ShufflePeer(flags) => shuffle::peer(&flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
