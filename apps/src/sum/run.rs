//! How the micro-benchmark is started, as a local cluster or a worker of one.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use drizzle::host::Cpus;
use drizzle::node::{
    self, ClusterConfig, DRIVER_PATIENCE, DriverConfig, Exposure, JobDurability, JobFactory,
    JobSetup, LightThreads, LocalWorkers, NodeError, Observer, Outlet, ProgressReport,
    WorkerConfig,
};
use drizzle::scheduler::driver::Balance;

use super::flags::{JobFlags, LocalFlags, Node, SumArguments};
use super::job::job;
use super::report::Report;
use super::tally::{Tally, decode};
use crate::flags::WorkerFlags;
use crate::launch::{Failure, JOB_FAILED, choose_runtime, conclude, sentence, worker_command};

/// Runs the benchmark as the arguments say.
pub fn main(arguments: SumArguments) -> ExitCode {
    conclude(match arguments.node {
        None => local(arguments.local),
        Some(Node::Worker(flags)) => worker(&flags),
    })
}

/// A driver and its workers on this host.
fn local(flags: LocalFlags) -> Result<ExitCode, Failure> {
    let LocalFlags { cluster, processes, light, job: mut flags } = flags;
    let cpus = Cpus::available();
    flags.check()?;
    let cores = cluster.workers as usize * usize::from(cluster.cores);
    // Light workers share the executors and rings of their threads.
    let threads = light.map_or(cores, usize::from);
    let runtime = choose_runtime(&mut flags.host, &mut flags.io, threads)?;
    let stop = node::stop_on_signals().context("cannot catch signals")?;
    let worker_cores = cluster.cores;
    let command = move |address: SocketAddr| worker_command("sum", address, worker_cores);
    let workers = match (light, processes) {
        (Some(threads), _) => LocalWorkers::Light(LightThreads {
            threads,
            host: flags.host.chosen(),
            io: flags.io.chosen(),
            polling: flags.polling(),
        }),
        (None, true) => LocalWorkers::Processes(Box::new(command)),
        (None, false) => LocalWorkers::Threads,
    };
    let config = ClusterConfig {
        driver: DriverConfig {
            workers: cluster.workers,
            group_size: cluster.group_size,
            interval: flags.interval(),
            prescheduling: flags.prescheduling(),
            ahead: flags.ahead(),
            task_attempts: node::TASK_ATTEMPTS,
            durability: JobDurability::None,
            balance: Balance::Off,
            resume: false,
            savepoint: None,
            arguments: to_arguments(&flags)?,
        },
        worker: worker_config(cluster.cores, cpus),
        workers,
    };
    let job = job(&flags, &Outlet::nowhere())?;
    eprintln!("runtime: {runtime}");
    let mut watcher = Watcher::default();
    let report = node::run_local(&config, &job, &mut watcher, &stop)?;
    let report = Report::new(&cluster, light, &flags, report, &watcher.tally);
    print!("{report}");
    if let Some(path) = &cluster.report {
        report.write(path)?;
    }
    Ok(if report.is_verified() { ExitCode::SUCCESS } else { ExitCode::from(JOB_FAILED) })
}

fn worker(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    let config = worker_config(flags.cores, Cpus::available());
    match node::run_worker(flags.driver, &config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The driver that started this process has said it already.
        Err(NodeError::Aborted(_) | NodeError::Setup(_)) => Err(Failure::Said),
        Err(error) => Err(error.into()),
    }
}

fn worker_config(cores: u16, cpus: Cpus) -> WorkerConfig {
    let factory: JobFactory = Arc::new(|arguments: &[String], outlet: &Outlet| {
        let flags = from_arguments(arguments).map_err(|error| sentence(&error))?;
        let job = job(&flags, outlet).map_err(|error| sentence(&error))?;
        Ok(JobSetup { job, options: flags.options() })
    });
    WorkerConfig {
        cores,
        cpus,
        exposure: Exposure::Loopback,
        factory,
        patience: DRIVER_PATIENCE,
        notice: |_| {},
    }
}

/// The job and its flags as they travel to workers.
fn to_arguments(flags: &JobFlags) -> anyhow::Result<Vec<String>> {
    Ok(vec!["sum".to_owned(), serde_json::to_string(flags)?])
}

fn from_arguments(arguments: &[String]) -> anyhow::Result<JobFlags> {
    match arguments {
        [app, flags] if app == "sum" => {
            serde_json::from_str(flags).context("the driver's flags are not those of this binary")
        }
        _ => anyhow::bail!("the driver runs another job than sum: run the same binary everywhere"),
    }
}

/// Collects the results.
#[derive(Default)]
struct Watcher {
    tally: Tally,
}

impl Observer for Watcher {
    fn results(&mut self, rows: &[u8]) {
        decode(rows).for_each(|tally| self.tally.merge(&tally));
    }

    fn progress(&mut self, progress: &ProgressReport) {
        eprintln!("{:>4} s   {}", progress.elapsed_ns / 1_000_000_000, progress.completed);
    }

    fn notice(&mut self, line: &str) {
        eprintln!("{line}");
    }
}
