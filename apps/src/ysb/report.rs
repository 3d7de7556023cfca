//! What a run comes to: the table at its end, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use drizzle::connectors::{Fingerprint, Output};
use drizzle::node::JobReport;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::flags::{Input, JobFlags, RateFlag, WatermarkFlag};
use super::generator::Generator;
use super::oracle::{Expected, ResultRow, Verdict};
use super::output::Summary;
use super::replay::Memory;
use super::results::TimedRow;
use crate::costs::{CoreTime, calls_json, time_json};
use crate::flags::ClusterFlags;

/// Makes sure, before the job runs, that its report can be written and is none of the `other` files.
/// What an earlier run reported is gone from then on.
pub(super) fn prepare(path: &Path, others: impl Iterator<Item = PathBuf>) -> Result<()> {
    for other in others {
        let same = Output::new(path).would_overwrite(&other) || is_same(path, &other)?;
        ensure!(
            !same,
            "--report {} would overwrite {}: choose another path",
            path.display(),
            other.display()
        );
    }
    fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))
}

/// Whether two files have the same path, if neither is there yet.
fn is_same(path: &Path, other: &Path) -> Result<bool> {
    let absolute = |path: &Path| {
        std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
    };
    Ok(absolute(path)? == absolute(other)?)
}

/// How the job was run.
pub struct Shape {
    group_size: u64,
    polling: String,
    cpus: usize,
}

impl Shape {
    pub(super) fn new(cluster: &ClusterFlags, flags: &JobFlags, cpus: usize) -> Shape {
        Shape { group_size: cluster.group_size, polling: flags.polling().to_string(), cpus }
    }
}

/// A finished run and its verdict.
pub struct Report {
    group_size: u64,
    polling: String,
    cpus: usize,
    job: JobReport,
    counters: Counters,
    windows: u64,
    results: u64,
    latency: Option<Latency>,
    watermark: WatermarkFlag,
    verdict: Judgement,
    /// Over all rows that the driver collected, in their order.
    output_hash: Option<u64>,
}

/// The counters of the benchmark: `lines = blank + malformed + ok`,
/// `ok = filtered + unmatched + late + counted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    lines: u64,
    blank: u64,
    malformed: u64,
    ok: u64,
    filtered: u64,
    unmatched: u64,
    late: u64,
    counted: u64,
}

/// Time from the end of a window, on the generator's clock, until a result was handed to the sink.
struct Latency {
    rows: Histogram<u64>,
    last_rows: Histogram<u64>,
    windows: BTreeMap<u64, Window>,
}

/// What one window came to.
#[derive(Default)]
struct Window {
    rows: u64,
    /// Of its last row; nothing if the window was flushed before its end.
    latency_ns: Option<u64>,
}

/// What was compared with what.
enum Judgement {
    /// Generated events: every window with a sequential run.
    Oracle(Verdict),
    /// A file: the counters among themselves, and what was written with what was counted. `None`
    /// where the output lies on other hosts.
    Counters { add_up: bool, written: Option<Summary> },
}

impl Judgement {
    /// Counters among themselves, and what was written with what was counted.
    fn of_file(flags: &JobFlags, job: &JobReport, counters: &Counters) -> Result<Judgement> {
        let results = count(job, "counts.results");
        let output = flags.output().filter(|_| job.all_on_this_host);
        let written = output.map(|output| Summary::read(&output)).transpose()?;
        if has_gaps(job) {
            let add_up = written.is_some();
            return Ok(Judgement::Counters { add_up, written });
        }
        let add_up = counters.add_up() && results == count(job, "results.written");
        Ok(Judgement::Counters { add_up, written })
    }

    /// Rows and counters with what a sequential run expects.
    fn of_rows(expected: &Expected, counters: Option<&Counters>, rows: &[TimedRow]) -> Judgement {
        let mut verdict = expected.compare(rows.iter().map(|row| row.row));
        if let Some(counters) = counters {
            verdict.require("events", expected.events, counters.ok);
            verdict.require("filtered events", expected.filtered, counters.filtered);
            verdict.require("counted events", expected.counted, counters.counted);
        }
        Judgement::Oracle(verdict)
    }
}

impl Report {
    /// Judges a run.
    pub(super) fn new(
        shape: &Shape,
        flags: &JobFlags,
        memory: &Memory,
        job: JobReport,
        rows: &[TimedRow],
    ) -> Result<Report> {
        let counters = Counters::of(&job);
        let whole = Some(&counters).filter(|_| !has_gaps(&job));
        let window_ms = flags.window_ms();
        let (verdict, latency) = match flags.input()? {
            Input::File { .. } | Input::Sent { .. } => {
                (Judgement::of_file(flags, &job, &counters)?, None)
            }
            Input::Replayed(options) => {
                let table = Arc::new(flags.table()?);
                let held = memory.get(options, &table)?;
                let expected = Expected::replayed(&held, &table, window_ms, &taken(&job));
                (Judgement::of_rows(&expected, whole, rows), None)
            }
            Input::Generated => {
                let table = Arc::new(flags.table()?);
                let plan = Generator::new(flags.generator()?, &table)?.plan();
                let expected = Expected::run(&plan, &table, window_ms, &taken(&job));
                let clocked = flags.rate != RateFlag::Max;
                let latency = clocked
                    .then(|| Latency::of(rows, job.origin_ns, plan.base_ms(), window_ms.get()));
                (Judgement::of_rows(&expected, whole, rows), latency)
            }
        };
        let (windows, results) = match &verdict {
            Judgement::Oracle(verdict) => (verdict.windows, verdict.results),
            Judgement::Counters { written, .. } => (
                written.as_ref().map_or(0, |written| written.windows),
                count(&job, "counts.results"),
            ),
        };
        Ok(Report {
            group_size: shape.group_size,
            polling: shape.polling.clone(),
            cpus: shape.cpus,
            job,
            counters,
            windows,
            results,
            latency,
            watermark: flags.watermark,
            output_hash: (!rows.is_empty()).then(|| hash_of(rows)),
            verdict,
        })
    }

    /// Whether the run did what it should.
    pub fn is_verified(&self) -> bool {
        match &self.verdict {
            Judgement::Oracle(verdict) => verdict.holds(),
            Judgement::Counters { add_up, .. } => *add_up && self.lost_and_duplicated() == (0, 0),
        }
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.to_json())?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    fn to_json(&self) -> Value {
        let (lost, duplicated) = self.lost_and_duplicated();
        let latency = self.latency.as_ref();
        let names = |part: usize| {
            let runtimes = self.job.runtimes.iter();
            let mut names: Vec<&str> =
                runtimes.filter_map(|name| name.split(", ").nth(part)).collect();
            names.dedup();
            names.join(", ")
        };
        let per_window = latency.map(|latency| {
            let windows = latency.windows.iter();
            let row = |(start, window): (&u64, &Window)| {
                json!({
                    "window_start": start,
                    "latency_us": window.latency_ns.map(micros),
                    "rows": window.rows,
                })
            };
            windows.map(row).collect::<Vec<Value>>()
        });
        json!({
            "events": self.events(),
            "events_per_second": self.events_per_second(),
            "events_per_second_per_core": self.events_per_second_per_core(),
            "windows": self.windows_or_null(),
            "results": self.results,
            "window_latency_us": latency.map(|latency| quantiles(&latency.rows)),
            "window_last_latency_us": latency.map(|latency| quantiles(&latency.last_rows)),
            "scheduling_ns_per_task": self.scheduling_ns_per_task(),
            "schedule_messages": self.job.schedule_messages,
            "tasks": self.job.statistics.tasks,
            "local_scheduling_ns": self.job.statistics.schedule_ns,
            "control_cpu_ns": self.job.control_cpu_ns,
            "cores_cpu_ns": self.job.cores_cpu_ns,
            "run_ns": self.job.statistics.run_ns,
            "release_messages": self.job.release_messages,
            "groups": self.job.groups,
            "batches": self.job.last_batch.0,
            "time_ns_by_kind": time_json(&self.job),
            "system_calls": calls_json(&self.job),
            "memory_peak_bytes": {
                "spilled": self.job.costs.memory.spilled_bytes,
                "blocks": self.job.costs.memory.blocks_bytes,
                "state": self.job.costs.memory.state_bytes,
                "results": self.job.costs.memory.results_bytes,
            },
            "overtaken": self.job.statistics.overtaken,
            "worst_delay_us": micros(self.job.statistics.worst_delay_ns),
            "lost": lost,
            "duplicated": duplicated,
            "verified": self.is_verified(),
            "origin_ns": self.job.origin_ns,
            "lost_workers": self.job.lost_workers,
            "recoveries": self.job.recoveries,
            "moved_partitions": self.job.moved_partitions,
            "relieved_partitions": self.job.relieved_partitions,
            "resumed": self.job.resumed,
            "output_hash": self.output_hash.map(|hash| format!("{hash:016x}")),
            "stopped": self.job.stopped,
            "counters": self.counters.to_json(),
            "per_window": per_window,
            "host": names(0),
            "io": names(1),
            "poll": self.polling,
            "group_size": self.group_size,
            "workers": self.job.workers,
            "cores": self.cores_of_each(),
        })
    }

    fn windows_or_null(&self) -> Option<u64> {
        let known = match &self.verdict {
            Judgement::Oracle(_) => true,
            Judgement::Counters { written, .. } => written.is_some(),
        };
        known.then_some(self.windows)
    }

    fn lost_and_duplicated(&self) -> (u64, u64) {
        match &self.verdict {
            Judgement::Oracle(verdict) => (verdict.lost, verdict.duplicated),
            Judgement::Counters { written: Some(written), .. } => match has_gaps(&self.job) {
                true => (0, written.repeated),
                false => written.lost_and_duplicated(self.counters.counted),
            },
            Judgement::Counters { written: None, .. } => (0, 0),
        }
    }

    fn events(&self) -> u64 {
        match (has_gaps(&self.job), &self.verdict) {
            (true, Judgement::Oracle(verdict)) => verdict.events,
            (_, _) => self.counters.lines,
        }
    }

    /// Cores of each worker that joined.
    fn cores_of_each(&self) -> u32 {
        self.job.cores / self.job.workers.max(1)
    }

    fn events_per_second(&self) -> f64 {
        self.events() as f64 / (self.job.elapsed_ns.max(1) as f64 / 1e9)
    }

    fn events_per_second_per_core(&self) -> f64 {
        let cores = self.job.cores.max(1) as usize;
        // Of other hosts it is not known how many processors they have.
        let most = if self.job.all_on_this_host { self.cpus.max(1) } else { cores };
        self.events_per_second() / cores.min(most) as f64
    }

    /// CPU time of deciding and of passing messages, over driver and workers, for each task.
    fn scheduling_ns_per_task(&self) -> f64 {
        let total_ns = self.job.control_cpu_ns + self.job.statistics.schedule_ns;
        total_ns as f64 / self.job.statistics.tasks.max(1) as f64
    }
}

impl Counters {
    fn of(job: &JobReport) -> Counters {
        Counters {
            lines: count(job, "events.lines"),
            blank: count(job, "events.blank"),
            malformed: count(job, "events.malformed"),
            ok: count(job, "events.ok"),
            filtered: count(job, "events.filtered"),
            unmatched: count(job, "campaigns.unmatched"),
            late: count(job, "counts.late"),
            counted: count(job, "counts.counted"),
        }
    }

    fn add_up(&self) -> bool {
        self.lines == self.blank + self.malformed + self.ok
            && self.ok == self.filtered + self.unmatched + self.late + self.counted
    }

    fn to_json(self) -> Value {
        json!({
            "lines": self.lines,
            "blank": self.blank,
            "malformed": self.malformed,
            "ok": self.ok,
            "filtered": self.filtered,
            "unmatched": self.unmatched,
            "late": self.late,
            "counted": self.counted,
        })
    }
}

/// Two runs of the same output have the same hash, whatever the order in which its rows came.
fn hash_of(rows: &[TimedRow]) -> u64 {
    let mut rows: Vec<ResultRow> = rows.iter().map(|timed| timed.row).collect();
    rows.sort_unstable();
    let add = |hash: Fingerprint, row: &ResultRow| {
        hash.number(row.window_start).number(row.campaign.into()).number(row.count)
    };
    rows.iter().fold(Fingerprint::new("rows"), add).finish()
}

/// How far each source partition was read. Those that are compared with an oracle begin at 0, also where
/// this driver knows only what was taken since a checkpoint.
fn taken(job: &JobReport) -> Vec<u64> {
    job.taken.iter().map(|&(.., to)| to).collect()
}

/// Whether counters are missing: those of workers that were lost, and of the time before a driver came back.
fn has_gaps(job: &JobReport) -> bool {
    job.lost_workers > 0 || job.resumed
}

fn count(job: &JobReport, name: &str) -> u64 {
    job.counters.get(name).copied().unwrap_or(0)
}

impl Latency {
    fn of(rows: &[TimedRow], origin_ns: u64, base_ms: u64, window_ms: u64) -> Latency {
        let mut all = new_histogram();
        let mut last_rows = new_histogram();
        let mut windows: BTreeMap<u64, Window> = BTreeMap::new();
        for timed in rows {
            let start = timed.row.window_start;
            let end_ns = (start + window_ms - base_ms.min(start)).saturating_mul(1_000_000);
            let window = windows.entry(start).or_default();
            window.rows += 1;
            // A window that was flushed before its end has no latency.
            if let Some(latency_ns) = timed.at.0.checked_sub(origin_ns.saturating_add(end_ns)) {
                all.saturating_record(latency_ns);
                window.latency_ns = Some(window.latency_ns.unwrap_or(0).max(latency_ns));
            }
        }
        for latency_ns in windows.values().filter_map(|window| window.latency_ns) {
            last_rows.saturating_record(latency_ns);
        }
        Latency { rows: all, last_rows, windows }
    }
}

/// From 1 us to an hour, to three digits, in nanoseconds.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are valid")
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let at = |quantile| micros(histogram.value_at_quantile(quantile));
    json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": micros(histogram.max()) })
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<12}{:>19}      {} /s        {} /s per core",
            "events",
            thousands(self.events()),
            thousands(self.events_per_second().round() as u64),
            thousands(self.events_per_second_per_core().round() as u64),
        )?;
        let windows = self.windows_or_null().map_or_else(|| "?".to_owned(), thousands);
        writeln!(out, "{:<12}{windows:>19}      {} results", "windows", thousands(self.results))?;
        self.write_counters(out)?;
        self.write_latency(out)?;
        let statistics = &self.job.statistics;
        writeln!(
            out,
            "{:<20}{} ran      {} overtaken      worst delay {:.2} ms",
            "batches",
            thousands(self.job.last_batch.0),
            thousands(statistics.overtaken),
            statistics.worst_delay_ns as f64 / 1e6,
        )?;
        let groups = (self.job.groups * u64::from(self.job.workers)).max(1);
        let sent = self.job.schedule_messages + self.job.release_messages;
        // One, and with a driver that releases every reduce task many more.
        let messages = (sent as f64 / groups as f64 * 10.0).round() / 10.0;
        writeln!(
            out,
            "{:<20}group {}        {:.2} us CPU per task      {messages} message per worker and group",
            "scheduling",
            self.group_size,
            self.scheduling_ns_per_task() / 1e3,
        )?;
        writeln!(out, "{:<20}{}", "core time", CoreTime(&self.job))?;
        let runtimes: Vec<&str> = self.job.runtimes.iter().map(String::as_str).collect();
        let cores = self.cores_of_each();
        let plural = if cores == 1 { "core" } else { "cores" };
        let workers = if self.job.workers == 1 { "worker" } else { "workers" };
        writeln!(
            out,
            "{:<20}{}, {} polling, {} {workers} x {} {plural}",
            "runtime",
            runtimes.join(" and "),
            self.polling,
            self.job.workers,
            cores,
        )?;
        self.write_verdict(out)
    }
}

impl Report {
    fn write_counters(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judgement::Counters { .. } = &self.verdict else { return Ok(()) };
        let Counters { lines, blank, malformed, ok, filtered, unmatched, late, counted } =
            self.counters;
        let [lines, blank, malformed, ok] = [lines, blank, malformed, ok].map(thousands);
        let [filtered, unmatched, late, counted] =
            [filtered, unmatched, late, counted].map(thousands);
        writeln!(
            out,
            "{:<20}lines {lines} = blank {blank} + malformed {malformed} + ok {ok}",
            "counters"
        )?;
        writeln!(
            out,
            "{:<20}ok {ok} = filtered {filtered} + unmatched {unmatched} + late {late} + counted {counted}",
            ""
        )
    }

    fn write_latency(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(latency) = self.latency.as_ref().filter(|latency| !latency.rows.is_empty()) else {
            return Ok(());
        };
        let at = |quantile| latency.rows.value_at_quantile(quantile) as f64 / 1e6;
        writeln!(
            out,
            "{:<20}p50 {:.2} ms      p95 {:.2} ms      p99 {:.2} ms      max {:.2} ms     \
             (watermark {})",
            "window latency",
            at(0.5),
            at(0.95),
            at(0.99),
            latency.rows.max() as f64 / 1e6,
            match self.watermark {
                WatermarkFlag::Asserted => "asserted by source",
                WatermarkFlag::Derived => "derived from data",
            },
        )
    }

    fn write_verdict(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stopped = if self.job.stopped { ", stopped at a cut" } else { "" };
        match &self.verdict {
            Judgement::Oracle(verdict) if verdict.holds() => writeln!(
                out,
                "{:<20}{} windows equal to a sequential run, 0 lost, 0 duplicated{stopped}",
                "verified",
                thousands(verdict.windows),
            ),
            Judgement::Oracle(verdict) => {
                writeln!(
                    out,
                    "{:<20}results differ from a sequential run, {} lost, {} duplicated{stopped}",
                    "NOT VERIFIED",
                    thousands(verdict.lost),
                    thousands(verdict.duplicated),
                )?;
                verdict.differences.iter().try_for_each(|text| writeln!(out, "{:<20}{text}", ""))
            }
            Judgement::Counters { .. } if self.is_verified() && has_gaps(&self.job) => writeln!(
                out,
                "{:<20}each row once; the counters of lost workers are missing, so that the rows \
                 were not compared with them{stopped}",
                "in part verified",
            ),
            Judgement::Counters { written, .. } if self.is_verified() => {
                let rows = thousands(self.results);
                let counted = thousands(self.counters.counted);
                match written {
                    Some(_) => writeln!(
                        out,
                        "{:<20}{rows} rows, each once, hold the {counted} counted events, \
                         0 lost, 0 duplicated{stopped}",
                        "verified",
                    ),
                    None => writeln!(
                        out,
                        "{:<20}the counters add up; the rows are on the workers' hosts{stopped}",
                        "verified",
                    ),
                }
            }
            Judgement::Counters { .. } => {
                let (lost, duplicated) = self.lost_and_duplicated();
                writeln!(
                    out,
                    "{:<20}counters or rows do not add up, {} lost, {} duplicated{stopped}",
                    "NOT VERIFIED",
                    thousands(lost),
                    thousands(duplicated),
                )
            }
        }
    }
}
