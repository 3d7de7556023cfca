//! How the benchmark is started, as a local cluster, a driver or a worker.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use drizzle::host::Cpus;
use drizzle::node::{
    self, ClusterConfig, ClusterEvent, DRIVER_PATIENCE, DriverConfig, Exposure, JobFactory,
    JobReport, JobSetup, LocalWorkers, NodeError, Observer, Outlet, ProgressReport, Reach,
    StopFlag, WorkerConfig,
};

use super::flags::{DriverFlags, JobFlags, LocalFlags, Node, YsbArguments, YsbWorkerFlags};
use super::job::job;
use super::replay::Memory;
use super::report::{self, Report, Shape};
use super::results::{Collected, TimedRow, decode_rows, read_upserts};
use crate::flags::ClusterFlags;
use crate::launch::{Failure, JOB_FAILED, choose_runtime, conclude, sentence, worker_command};
use crate::timeline::Timeline;

/// How long a worker that a driver has started looks for it: no other comes to its address.
const CHILD_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the benchmark as the arguments say.
pub fn main(arguments: YsbArguments) -> ExitCode {
    let result = match arguments.node {
        None => local(arguments.local),
        Some(Node::Driver(flags)) => driver(*flags),
        Some(Node::Worker(flags)) => worker(&flags),
    };
    conclude(result)
}

/// A driver and its workers on this host.
fn local(flags: LocalFlags) -> Result<ExitCode, Failure> {
    let LocalFlags { cluster, processes, job: mut flags } = flags;
    let cpus = Cpus::available();
    let cores = cluster.workers * u32::from(cluster.cores);
    flags.settle(cores)?;
    let runtime = choose_runtime(&mut flags.host, &mut flags.io, cores as usize)?;
    let worker_cores = cluster.cores;
    let command = move |address: SocketAddr| worker_command("ysb", address, worker_cores);
    let memory = Memory::default();
    let worker =
        worker_config(cluster.cores, cpus.clone(), Exposure::Loopback, memory.clone(), 0, |_| {});
    let reach = if processes { Reach::ManyProcesses } else { Reach::OneProcess };
    run_as_driver(&cluster, &flags, reach, &cpus, &memory, |driver, job, observer, stop| {
        eprintln!("runtime: {runtime}");
        let workers = match processes {
            true => LocalWorkers::Processes(Box::new(command)),
            false => LocalWorkers::Threads,
        };
        let config = ClusterConfig { driver, worker, workers };
        node::run_local(&config, job, observer, stop)
    })
}

/// A driver whose workers are started elsewhere.
fn driver(flags: DriverFlags) -> Result<ExitCode, Failure> {
    let DriverFlags { listen, insecure, cluster, job: mut flags } = flags;
    let cpus = Cpus::available();
    flags.settle(cluster.workers * u32::from(cluster.cores))?;
    let exposure = exposure(insecure);
    let listener: TcpListener = node::listen_for_workers(listen, exposure)?;
    let address = listener.local_addr().context("the listener has no address")?;
    let (reach, memory) = (Reach::ManyProcesses, Memory::default());
    run_as_driver(&cluster, &flags, reach, &cpus, &memory, |driver, job, observer, stop| {
        // Only now is everything else known to be right.
        eprintln!("waiting on {address} for {} workers", driver.workers);
        node::run_driver(&driver, job, listener, Vec::new(), observer, stop)
    })
}

fn worker(YsbWorkerFlags { node: flags, burn }: &YsbWorkerFlags) -> Result<ExitCode, Failure> {
    let say = if flags.child { |_: &str| {} } else { |line: &str| eprintln!("{line}") };
    let exposure = exposure(flags.insecure);
    let mut config =
        worker_config(flags.cores, Cpus::available(), exposure, Memory::default(), *burn, say);
    if flags.child {
        // The next driver listens elsewhere, and starts workers of its own.
        config.patience = CHILD_PATIENCE;
    }
    match node::run_worker(flags.driver, &config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The driver that started this process has said it already.
        Err(NodeError::Aborted(_) | NodeError::Setup(_)) if flags.child => Err(Failure::Said),
        Err(error) => Err(error.into()),
    }
}

fn exposure(insecure: bool) -> Exposure {
    if insecure { Exposure::Insecure } else { Exposure::Loopback }
}

fn worker_config(
    cores: u16,
    cpus: Cpus,
    exposure: Exposure,
    memory: Memory,
    burn: u64,
    notice: fn(&str),
) -> WorkerConfig {
    let factory: JobFactory = Arc::new(move |arguments: &[String], outlet: &Outlet| {
        let mut flags = from_arguments(arguments).map_err(|error| sentence(&error))?;
        flags.burn = burn;
        let job = job(&flags, outlet, &memory).map_err(|error| sentence(&error))?;
        Ok(JobSetup { job, options: flags.options() })
    });
    WorkerConfig { cores, cpus, exposure, factory, patience: DRIVER_PATIENCE, notice }
}

/// The job and its flags as they travel to workers.
fn to_arguments(flags: &JobFlags) -> Result<Vec<String>> {
    Ok(vec!["ysb".to_owned(), serde_json::to_string(flags)?])
}

fn from_arguments(arguments: &[String]) -> Result<JobFlags> {
    match arguments {
        [app, flags] if app == "ysb" => {
            serde_json::from_str(flags).context("the driver's flags are not those of this binary")
        }
        _ => anyhow::bail!("the driver runs another job than ysb: run the same binary everywhere"),
    }
}

/// Builds the job, runs it by `run`, and reports.
fn run_as_driver(
    cluster: &ClusterFlags,
    flags: &JobFlags,
    reach: Reach,
    cpus: &Cpus,
    memory: &Memory,
    run: impl FnOnce(
        DriverConfig,
        &drizzle::dataflow::Job,
        &mut dyn Observer,
        &StopFlag,
    ) -> Result<JobReport, NodeError>,
) -> Result<ExitCode, Failure> {
    let stop = node::stop_on_signals().context("cannot catch signals")?;
    let job = job(flags, &Outlet::nowhere(), memory)?;
    let cores = usize::from(cluster.cores);
    let reach = match reach {
        Reach::ManyProcesses if flags.data.is_some() => Reach::GrowingProcesses,
        reach => reach,
    };
    let counts = reach.count(cores, cluster.workers as usize * cores);
    flags.memory().check(job.plan(), counts).context("--memory")?;
    let config = driver_config(cluster, flags)?;
    let outputs = || [flags.output(), flags.dead_letter()].into_iter().flatten();
    if let Some(path) = &cluster.report {
        let inputs = [flags.events.clone(), flags.ads.clone()].into_iter().flatten();
        let written = outputs().map(|output| output.path().to_owned());
        report::prepare(path, inputs.chain(written))?;
    }
    // One that is refused touches nothing of an earlier run; one that goes on finds what it has written.
    node::check_folder(&config, &job)?;
    prepare(flags)?;
    let timeline = Timeline::open(cluster.timeline.as_deref())?;
    if flags.data.is_some() {
        eprintln!("this job {}", job.survives(&flags.durability()));
    }
    let mut watcher = Watcher { timeline, ..Watcher::default() };
    let report = run(config, &job, &mut watcher, &stop)?;
    watcher.clear_line();
    complete(flags, &report)?;
    let shape = Shape::new(cluster, flags, cpus.count());
    let rows = watcher.rows_of(flags)?;
    let report = Report::new(&shape, flags, memory, report, &rows)?;
    print!("{report}");
    if let Some(path) = &cluster.report {
        report.write(path)?;
    }
    Ok(if report.is_verified() { ExitCode::SUCCESS } else { ExitCode::from(JOB_FAILED) })
}

/// Removes what an earlier run has written, unless this one goes on with it.
fn prepare(flags: &JobFlags) -> Result<()> {
    let begins_anew = !flags.resume && flags.from_savepoint.is_none();
    for output in [flags.output(), flags.dead_letter()].into_iter().flatten() {
        match begins_anew {
            true => output.prepare()?,
            // The batches of the job that was saved have the same numbers.
            false if !flags.resume => output.forget_merge()?,
            false => {}
        }
    }
    match flags.upsert_log() {
        Some(log) if begins_anew => Ok(log.prepare()?),
        _ => Ok(()),
    }
}

/// Makes one file of each output's parts, where they are here.
fn complete(flags: &JobFlags, report: &JobReport) -> Result<()> {
    for output in [flags.output(), flags.dead_letter()].into_iter().flatten() {
        if !report.all_on_this_host {
            let path = output.path().display();
            eprintln!("{path} is in parts on the workers' hosts: nothing was merged");
            continue;
        }
        output.merge()?;
        // Only a job with a folder can go on after that.
        if flags.data.is_none() {
            output.forget_merge()?;
        }
    }
    if let Some(dead_letter) = flags.dead_letter()
        && (report.lost_workers > 0 || report.resumed)
    {
        let path = dead_letter.path().display();
        eprintln!("{path} may hold lines more than once: what was lost was read again");
    }
    Ok(())
}

fn driver_config(cluster: &ClusterFlags, flags: &JobFlags) -> Result<DriverConfig> {
    Ok(DriverConfig {
        workers: cluster.workers,
        group_size: cluster.group_size,
        interval: flags.interval.into(),
        prescheduling: flags.prescheduling(),
        ahead: flags.ahead(),
        task_attempts: node::TASK_ATTEMPTS,
        durability: flags.durability(),
        balance: flags.balance(),
        resume: flags.resume,
        savepoint: flags.from_savepoint.clone(),
        arguments: to_arguments(flags)?,
    })
}

/// Collects the results, and shows a person how far the job is.
#[derive(Default)]
struct Watcher {
    rows: Vec<TimedRow>,
    timeline: Timeline,
    records: u64,
    elapsed_ns: u64,
    line: bool,
}

impl Watcher {
    /// Removes a progress line that is on the screen.
    fn clear_line(&mut self) {
        if std::mem::take(&mut self.line) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Watcher {
    /// The results of the job, as its sink says that they hold.
    fn rows_of(self, flags: &JobFlags) -> Result<Vec<TimedRow>> {
        if let Some(log) = flags.upsert_log() {
            return Ok(read_upserts(&log)?);
        }
        if flags.data.is_none() {
            return Ok(self.rows);
        }
        let mut collected = Collected::default();
        self.rows.iter().for_each(|row| collected.add(row));
        Ok(collected.rows())
    }
}

impl Observer for Watcher {
    fn results(&mut self, rows: &[u8]) {
        self.rows.extend(decode_rows(rows));
    }

    fn event(&mut self, event: &ClusterEvent) {
        self.timeline.note(event);
    }

    fn progress(&mut self, progress: &ProgressReport) {
        let since_ns = progress.elapsed_ns.saturating_sub(self.elapsed_ns).max(1);
        let news = progress.records.saturating_sub(self.records);
        let per_second = u128::from(news) * 1_000_000_000 / u128::from(since_ns);
        self.records = progress.records;
        self.elapsed_ns = progress.elapsed_ns;
        let line = format!(
            "{:>4} s   {}   {} events   {} /s   {} results",
            progress.elapsed_ns / 1_000_000_000,
            progress.completed,
            super::report::thousands(progress.records),
            super::report::thousands(per_second as u64),
            super::report::thousands(self.rows.len() as u64),
        );
        match std::io::stderr().is_terminal() {
            true => {
                eprint!("\r\x1b[K{line}");
                self.line = true;
            }
            false => eprintln!("{line}"),
        }
    }

    fn notice(&mut self, line: &str) {
        self.clear_line();
        eprintln!("{line}");
    }
}
