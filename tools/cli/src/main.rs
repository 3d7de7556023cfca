//! `drizzle`: operates a cluster by speaking to its driver, and sends it what it is to read.

#![forbid(unsafe_code)]

mod send;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use drizzle::node::{Request, ask_driver};
use drizzle::scheduler::WorkerId;

/// Operate a Drizzle cluster.
///
/// Everything is asked of the driver, at the address that it listens on:
///
///   drizzle status                     what the job and its workers do
///   drizzle scale --workers 4          more workers, or fewer
///   drizzle drain 2                    let worker 2 leave when nothing depends on it
///   drizzle savepoint before-upgrade   keep the newest checkpoint, to start another job from it
///
/// but for this, which a job connects to (ysb --tcp 127.0.0.1:7500):
///
///   drizzle send events.jsonl          send lines, and keep them until no job will ask for them again
#[derive(Debug, Parser)]
#[command(name = "drizzle", version, verbatim_doc_comment)]
struct Arguments {
    /// The driver's address.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    driver: SocketAddr,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what the job and its workers do.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change how many workers the job has: new ones are started where the driver started its own, else it says
    /// how to; the ones with the highest numbers leave. Partitions move while the job runs.
    Scale {
        /// How many.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
        workers: u32,
    },
    /// Keep the newest checkpoint in a folder of its own, which the driver's host knows by that path. A job starts
    /// from it with --from-savepoint; the states are matched by the names of operators.
    Savepoint {
        /// A folder that holds no savepoint yet.
        to: PathBuf,
    },
    /// Let a worker leave as soon as nothing depends on it.
    Drain {
        /// Its number, as `drizzle status` tells it.
        worker: u32,
    },
    /// Send lines to the job that connects, and keep them until it has said that it will not ask for them again.
    /// Ends when that holds for all of them.
    Send(send::SendFlags),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let ask = |request| -> Result<String> { Ok(ask_driver(arguments.driver, request)?) };
    match &arguments.command {
        Command::Status { json } => {
            let text = ask(Request::Status)?;
            if *json {
                println!("{text}");
                return Ok(());
            }
            let status = serde_json::from_str(&text).context("the driver's answer is no JSON")?;
            print!("{}", status::table(&status));
        }
        Command::Scale { workers } => println!("{}", ask(Request::Scale { workers: *workers })?),
        Command::Savepoint { to } => {
            let to = std::path::absolute(to).context("cannot make the path absolute")?;
            let to = to.to_str().context("the path is no text")?.to_owned();
            println!("{}", ask(Request::Savepoint { to })?);
        }
        Command::Drain { worker } => {
            println!("{}", ask(Request::Drain { worker: WorkerId(*worker) })?);
        }
        Command::Send(flags) => send::run(flags)?,
    }
    Ok(())
}
