//! Chaos: the Yahoo Streaming Benchmark on real processes, with checkpoints and an upsert log, while
//! workers and drivers are killed, stopped, cut off, added and drained by a schedule that comes from a
//! seed alone. At the end the job is left in peace, and its results must be those of a sequential run.

mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use drizzle::clock::monotonic_now;
use drizzle::node::{Request, ask_driver};
use drizzle::scheduler::WorkerId;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Shape, pause_until};
use crate::figures::{median, write_json};
use crate::machine;
use crate::proxy::{Direction, Trouble};
use schedule::{Fault, Kind, schedule};

/// How much happens.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// For how long faults come.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// What the schedule of faults comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Events per second.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Workers that the job starts with.
const WORKERS: u32 = 4;
/// With fewer workers than that nobody is taken away; one joins instead.
const FEWEST: usize = 3;
/// With more workers than that nobody joins; one leaves instead.
const MOST: usize = 6;
/// How long the job is left in peace before its end, in seconds.
const PEACE_S: u64 = 15;
/// How long it may take beyond the time for which events are generated.
const BEYOND: Duration = Duration::from_secs(120);

/// What is to be undone, and on whom.
#[derive(Clone, Copy, Debug)]
enum Undo {
    /// A worker is started in place of one that was killed.
    Start,
    /// A worker goes on.
    Continue(usize),
    /// A worker's network is well again.
    Mend(usize),
    /// A driver is started.
    Driver,
}

/// A cluster in trouble.
struct Chaos {
    cluster: Cluster,
    began_ns: u64,
    /// What is to be undone, by when.
    undo: Vec<(u64, Undo)>,
    /// Workers to which something is being done.
    troubled: Vec<usize>,
    counts: BTreeMap<&'static str, u64>,
    ended: u64,
}

/// Runs the job through its faults, and judges it.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let faults = schedule(flags.seed, flags.minutes * 60 * 1000);
    println!("seed {}: {} faults in {} min", flags.seed, faults.len(), flags.minutes);
    let length_s = flags.minutes * 60 + PEACE_S;
    let words = [
        ["--rate", &flags.rate.to_string()],
        ["--window", "1s"],
        ["--interval", "10ms"],
        ["--duration", &format!("{length_s}s")],
        ["--checkpoint-interval", "1s"],
        ["--group-size", "50"],
        ["--memory", "128MiB"],
    ];
    let words = words.concat().into_iter().map(str::to_owned).collect();
    let limit = Duration::from_secs(length_s) + BEYOND;
    let shape = Shape { workers: WORKERS, flags: words, limit, proxied: true, keep_failed: true };
    let mut cluster = Cluster::start(shape)?;
    let folder = cluster.folder().to_owned();
    let seed = flags.seed;
    let failed = || format!("seed {seed} failed; what it left is in {}", folder.display());
    cluster.wait_for("durable", 1, 0).with_context(failed)?;
    let mut chaos = Chaos::new(cluster);
    chaos.run(&faults).with_context(failed)?;
    let (counts, ended) = (chaos.counts, chaos.ended);
    let report = chaos.cluster.finish().with_context(failed)?;
    print_and_write(flags, &counts, ended, &report)
}

impl Chaos {
    fn new(cluster: Cluster) -> Chaos {
        Chaos {
            cluster,
            began_ns: monotonic_now(),
            undo: Vec::new(),
            troubled: Vec::new(),
            counts: BTreeMap::new(),
            ended: 0,
        }
    }

    /// Does everything of a schedule, and undoes what is to be undone.
    fn run(&mut self, faults: &[Fault]) -> Result<()> {
        for fault in faults {
            let at_ns = self.began_ns + fault.at_ms * 1_000_000;
            self.undo_until(at_ns)?;
            pause_until(at_ns);
            self.replace_ended()?;
            self.cluster.check()?;
            self.strike(fault)?;
        }
        self.undo_until(u64::MAX)?;
        self.say("now it is left in peace");
        self.replace_ended()
    }

    fn say(&self, line: &str) {
        let seconds = (monotonic_now() - self.began_ns) as f64 / 1e9;
        println!("{seconds:>7.2} s  {line}");
    }

    /// Workers that something can be done to.
    fn healthy(&self) -> Vec<usize> {
        let mut here = self.cluster.here();
        here.retain(|worker| !self.troubled.contains(worker));
        here
    }

    /// Does one fault. Whom it hits depends on who is there, and on nothing else.
    fn strike(&mut self, fault: &Fault) -> Result<()> {
        let healthy = self.healthy();
        let is_driver_here = self.cluster.has_driver();
        let mut kind = fault.kind;
        if kind.takes_away() && healthy.len() < FEWEST {
            kind = Kind::Join;
        }
        if kind == Kind::Join && self.cluster.here().len() >= MOST {
            kind = Kind::Drain;
        }
        if matches!(kind, Kind::Drain | Kind::Driver) && !is_driver_here {
            kind = Kind::Reset;
        }
        let Some(&victim) = healthy.get(fault.victim as usize % healthy.len().max(1)) else {
            self.say("nobody is well enough for a fault");
            return Ok(());
        };
        *self.counts.entry(kind.name()).or_default() += 1;
        let until_ns = monotonic_now() + fault.length_ms * 1_000_000;
        let length_ms = fault.length_ms;
        let line = match kind {
            Kind::Join => {
                let worker = self.cluster.add_worker()?;
                format!("process {worker} joins")
            }
            Kind::Drain => self.drain(fault.victim)?,
            Kind::Driver => {
                self.cluster.kill_driver()?;
                self.undo.push((until_ns, Undo::Driver));
                format!("the driver is killed for {length_ms} ms")
            }
            Kind::Kill | Kind::Stop => {
                let signal = if kind == Kind::Kill { Signal::KILL } else { Signal::STOP };
                self.cluster.signal(victim, signal)?;
                self.undo.push(match kind {
                    Kind::Kill => (until_ns, Undo::Start),
                    _ => (until_ns, Undo::Continue(victim)),
                });
                self.troubled.push(victim);
                format!("process {victim}: {} for {length_ms} ms", kind.name())
            }
            Kind::Delay | Kind::OneWay | Kind::Flip | Kind::Reset => {
                self.cut(victim, kind, fault, until_ns)
            }
        };
        self.say(&line);
        Ok(())
    }

    /// Does something to the network between a worker and its driver.
    fn cut(&mut self, victim: usize, kind: Kind, fault: &Fault, until_ns: u64) -> String {
        let Some(proxy) = self.cluster.proxy(victim) else { return String::new() };
        let way =
            if fault.detail.is_multiple_of(2) { Direction::ToDriver } else { Direction::ToWorker };
        let delay = Duration::from_millis(1 + fault.detail % 200);
        let length_ms = fault.length_ms;
        let line = match kind {
            Kind::Delay => {
                proxy.set(Trouble::Delay(delay));
                format!("process {victim}: its messages are {delay:?} late for {length_ms} ms")
            }
            Kind::OneWay => {
                proxy.set(Trouble::Stall(way));
                format!("process {victim}: nothing passes {way:?} for {length_ms} ms")
            }
            Kind::Flip => {
                proxy.set(Trouble::Flip(way, fault.detail));
                format!("process {victim}: a bit is flipped {way:?}")
            }
            Kind::Reset | Kind::Kill | Kind::Stop | Kind::Join | Kind::Drain | Kind::Driver => {
                proxy.reset();
                format!("process {victim}: its connection is reset")
            }
        };
        if matches!(kind, Kind::Delay | Kind::OneWay) {
            self.undo.push((until_ns, Undo::Mend(victim)));
            self.troubled.push(victim);
        }
        line
    }

    /// Asks the driver to part with one of its workers.
    fn drain(&mut self, victim: u64) -> Result<String> {
        let address = self.cluster.address()?;
        let status = ask_driver(address, Request::Status);
        let status: Value = match status.map(|text| serde_json::from_str(&text)) {
            Ok(Ok(status)) => status,
            // One that has just been started has no answer yet.
            Ok(Err(_)) | Err(_) => return Ok("the driver does not say who could leave".to_owned()),
        };
        let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
        let numbers: Vec<u64> = workers.iter().filter_map(|w| w["worker"].as_u64()).collect();
        let Some(&worker) = numbers.get(victim as usize % numbers.len().max(1)) else {
            return Ok("nobody is there to leave".to_owned());
        };
        let request = Request::Drain { worker: WorkerId(worker as u32) };
        Ok(match ask_driver(address, request) {
            Ok(answer) => format!("drain: {answer}"),
            Err(refused) => format!("drain: {refused}"),
        })
    }

    /// Undoes what is due until then, each at its time.
    fn undo_until(&mut self, until_ns: u64) -> Result<()> {
        loop {
            let due = self.undo.iter().enumerate().filter(|(_, (at_ns, _))| *at_ns <= until_ns);
            let Some((index, _)) = due.min_by_key(|(_, (at_ns, _))| *at_ns) else { return Ok(()) };
            let (at_ns, undo) = self.undo.swap_remove(index);
            pause_until(at_ns);
            let line = match undo {
                Undo::Start => format!("process {} is started", self.cluster.add_worker()?),
                Undo::Continue(worker) => {
                    self.cluster.signal(worker, Signal::CONT)?;
                    self.troubled.retain(|&other| other != worker);
                    format!("process {worker} goes on")
                }
                Undo::Mend(worker) => {
                    if let Some(proxy) = self.cluster.proxy(worker) {
                        proxy.set(Trouble::None);
                    }
                    self.troubled.retain(|&other| other != worker);
                    format!("process {worker}: its network is well again")
                }
                Undo::Driver => {
                    self.cluster.start_driver()?;
                    "a driver is started".to_owned()
                }
            };
            self.say(&line);
        }
    }

    /// Starts workers in place of those that have ended by themselves, if there are few.
    fn replace_ended(&mut self) -> Result<()> {
        for (worker, status) in self.cluster.take_ended()? {
            self.troubled.retain(|&other| other != worker);
            self.ended += u64::from(!status.success());
            self.say(&format!("process {worker} has ended: {status}"));
        }
        while self.cluster.here().len() < FEWEST {
            let worker = self.cluster.add_worker()?;
            self.say(&format!("process {worker} is started, for want of workers"));
        }
        Ok(())
    }
}

/// What it came to.
fn print_and_write(
    flags: &Flags,
    counts: &BTreeMap<&'static str, u64>,
    ended: u64,
    report: &Value,
) -> Result<()> {
    let windows = report["per_window"].as_array().context("no windows")?;
    let latencies = windows.iter().filter_map(|window| window["latency_us"].as_f64());
    let latencies: Vec<f64> = latencies.map(|latency_us| latency_us / 1e3).collect();
    let worst = latencies.iter().copied().fold(f64::NAN, f64::max);
    let total: u64 = counts.values().sum();
    let kinds: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("faults       {total}: {}", kinds.join(", "));
    println!(
        "recoveries   {}, lost workers {}, as the last driver counted",
        report["recoveries"], report["lost_workers"]
    );
    println!(
        "windows      {}, latency median {:.1} ms, worst {worst:.1} ms",
        latencies.len(),
        median(&latencies)
    );
    println!("verified     {} lost, {} duplicated", report["lost"], report["duplicated"]);
    let figures = json!({
        "machine": machine::describe(),
        "seed": flags.seed,
        "minutes": flags.minutes,
        "rate": flags.rate,
        "faults": total,
        "by_kind": counts,
        "ended_by_themselves": ended,
        "recoveries": report["recoveries"],
        "lost_workers": report["lost_workers"],
        "windows": latencies.len(),
        "median_window_ms": median(&latencies),
        "worst_window_ms": worst,
        "lost": report["lost"],
        "duplicated": report["duplicated"],
        "verified": report["verified"],
    });
    write_json(flags.json.as_deref(), &figures)
}
