//! What scheduling costs: the paper's micro-benchmarks (section 5.2.1 and 5.2.2), from 4 to 128 workers, with
//! groups of 1 to 100 batches, with and without pre-scheduling. A group of 1 without pre-scheduling
//! is what a central scheduler does. The paper's figures stand beside; they are of 4 to 128 machines,
//! and these of one, so shapes compare and milliseconds do not.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use drizzle::clock::monotonic_now;
use serde_json::{Value, json};

use crate::figures::median;
use crate::machine;
use crate::run::sum;

/// How the measurement is done.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Runs of each row. They take turns: every row once, and then all again.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Threads that light workers share.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Fewer rows: 4 and 128 workers, groups of 1 and 100, one round.
    #[arg(long)]
    quick: bool,
    /// No further round begins after so many seconds.
    #[arg(long, default_value_t = 480)]
    limit_s: u64,
    /// Write the figures as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workers {
    /// Light ones.
    Light,
    /// A process each.
    Processes,
    /// Threads of their own.
    Threads,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    stages: u32,
    workers: u32,
    kind: Workers,
    tasks: u32,
    group_size: u64,
    prescheduling: bool,
    batches: u64,
    interval_ms: Option<u64>,
}

/// Tasks of a machine in the paper.
const TASKS_OF_WORKER: u32 = 4;
/// Batches of a run in the paper.
const BATCHES: u64 = 100;
/// CPU of scheduling a task should cost less, in nanoseconds.
const TASK_GOAL_NS: f64 = 1000.0;
/// CPU of the driver for a batch of 100 ms on 128 workers should be less, in microseconds.
const DRIVER_GOAL_US: f64 = 300.0;
/// And that part of it that is deciding and sending.
const DRIVER_SCHEDULING_GOAL_US: f64 = 100.0;

/// Milliseconds of a micro-batch in the paper, by workers: of a central scheduler (Spark), and of
/// Drizzle by the size of its groups.
type Published = (u32, f64, [(u64, f64); 3]);

/// Figures 4a and 5b, read from the plots.
const ONE_STAGE: [Published; 6] = [
    (4, 15.3, [(25, 3.09), (50, 2.56), (100, 2.16)]),
    (8, 21.3, [(25, 3.27), (50, 2.65), (100, 2.30)]),
    (16, 32.2, [(25, 3.95), (50, 3.13), (100, 2.50)]),
    (32, 55.2, [(25, 4.90), (50, 3.46), (100, 3.02)]),
    (64, 99.6, [(25, 5.34), (50, 4.32), (100, 3.56)]),
    (128, 195.3, [(25, 9.46), (50, 5.68), (100, 4.18)]),
];
const TWO_STAGES: [Published; 6] = [
    (4, 40.3, [(1, 34.8), (10, 16.5), (100, 14.7)]),
    (8, 44.6, [(1, 40.0), (10, 17.7), (100, 14.5)]),
    (16, 61.5, [(1, 52.0), (10, 20.4), (100, 17.5)]),
    (32, 89.9, [(1, 80.5), (10, 25.5), (100, 21.4)]),
    (64, 137.7, [(1, 128.6), (10, 33.2), (100, 26.5)]),
    (128, 245.7, [(1, 228.8), (10, 56.4), (100, 42.8)]),
];

impl Row {
    /// As in the paper: so many workers, 4 tasks on each, 100 batches, as fast as they go.
    fn of_paper(kind: Workers, stages: u32, workers: u32) -> Row {
        Row {
            stages,
            workers,
            kind,
            tasks: TASKS_OF_WORKER * workers,
            group_size: 100,
            prescheduling: true,
            batches: BATCHES,
            interval_ms: None,
        }
    }

    /// The flags of a run.
    fn command(&self, threads: u16) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let numbers = [
            ("--stages", u64::from(self.stages)),
            ("--workers", u64::from(self.workers)),
            ("--tasks", u64::from(self.tasks)),
            ("--group-size", self.group_size),
            ("--batches", self.batches),
        ];
        for (name, number) in numbers {
            words.extend([name.to_owned(), number.to_string()]);
        }
        match self.kind {
            Workers::Light => words.extend(["--light".to_owned(), threads.to_string()]),
            Workers::Processes => words.push("--processes".to_owned()),
            Workers::Threads => {}
        }
        if !self.prescheduling {
            words.push("--no-prescheduling".to_owned());
        }
        if let Some(interval_ms) = self.interval_ms {
            words.extend(["--interval".to_owned(), format!("{interval_ms}ms")]);
        }
        words
    }

    /// What the paper has for it.
    fn of_others_ms(&self) -> Option<f64> {
        let figures = if self.stages == 1 { &ONE_STAGE } else { &TWO_STAGES };
        let (_, central, groups) = figures.iter().find(|(workers, ..)| *workers == self.workers)?;
        let is_as_there =
            self.tasks == TASKS_OF_WORKER * self.workers && self.interval_ms.is_none();
        match (is_as_there, self.prescheduling) {
            (false, _) => None,
            (true, false) => (self.group_size == 1).then_some(*central),
            (true, true) => {
                groups.iter().find(|(group, _)| *group == self.group_size).map(|&(_, ms)| ms)
            }
        }
    }
}

fn rows(flags: &Flags) -> Vec<Row> {
    let workers: &[u32] = if flags.quick { &[4, 128] } else { &[4, 8, 16, 32, 64, 128] };
    let groups: &[u64] = if flags.quick { &[1, 100] } else { &[1, 10, 25, 50, 100] };
    let mut rows = goals(flags);
    for stages in [1, 2] {
        for &workers in workers {
            let row = Row::of_paper(Workers::Light, stages, workers);
            rows.push(Row { group_size: 1, prescheduling: false, ..row });
            rows.extend(groups.iter().map(|&group_size| Row { group_size, ..row }));
            if stages == 2 && !flags.quick {
                rows.push(Row { prescheduling: false, ..row });
            }
        }
        for &workers in if flags.quick { &workers[..1] } else { workers } {
            let row = Row::of_paper(Workers::Processes, stages, workers);
            rows.extend([Row { group_size: 1, prescheduling: false, ..row }, row]);
        }
    }
    rows
}

/// The rows that have a goal: few and many tasks on a worker for each of two processors, and the
/// driver of 128 workers.
fn goals(flags: &Flags) -> Vec<Row> {
    let shorter = if flags.quick { 4 } else { 1 };
    let row = Row { workers: 2, ..Row::of_paper(Workers::Threads, 1, 2) };
    let driver = Row::of_paper(Workers::Light, 1, 128);
    vec![
        Row { tasks: 8, batches: 20_000 / shorter, ..row },
        Row { tasks: 512, batches: 1_000 / shorter, ..row },
        Row { tasks: 8, batches: 20_000 / shorter, stages: 2, ..row },
        Row { tasks: 512, batches: 1_000 / shorter, stages: 2, ..row },
        Row { interval_ms: Some(100), batches: 100 / shorter, ..driver },
        Row { interval_ms: Some(100), batches: 100 / shorter, group_size: 10, ..driver },
    ]
}

/// Runs every row in turn, and prints medians.
pub(crate) fn measure(flags: &Flags) -> Result<()> {
    let began_ns = monotonic_now();
    let rows = rows(flags);
    let mut runs: Vec<Vec<Value>> = vec![Vec::new(); rows.len()];
    let rounds = if flags.quick { 1 } else { flags.rounds };
    for round in 1..=rounds {
        let elapsed_s = (monotonic_now() - began_ns) / 1_000_000_000;
        if round > 1 && elapsed_s * u64::from(round) / u64::from(round - 1) > flags.limit_s {
            eprintln!("{elapsed_s} s have passed: {} of {rounds} rounds were run", round - 1);
            break;
        }
        for (index, row) in rows.iter().enumerate() {
            eprint!("\r\x1b[Kround {round} of {rounds}, row {} of {}", index + 1, rows.len());
            runs[index].push(sum(&row.command(flags.threads))?);
        }
        eprintln!();
    }
    let table: Result<Vec<Value>> =
        rows.iter().zip(&runs).map(|(row, runs)| figures(row, runs, flags.threads)).collect();
    let table = table?;
    let report = json!({
        "machine": machine::describe(),
        "runtimes": runs[0][0]["runtimes"],
        "poll": runs[0][0]["poll"],
        "threads_of_light_workers": flags.threads,
        "rounds": runs[0].len(),
        "rows": table,
        "verified": true,
    });
    print(&report)?;
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The medians of a row's runs, whose results must be the same.
fn figures(row: &Row, runs: &[Value], threads: u16) -> Result<Value> {
    let of = |key: &str| -> Result<f64> {
        let figures: Option<Vec<f64>> = runs.iter().map(|run| run[key].as_f64()).collect();
        Ok(median(&figures.with_context(|| format!("a run reports no {key}"))?))
    };
    let digest = &runs[0]["digest"];
    ensure!(runs.iter().all(|run| run["digest"] == *digest), "runs of {row:?} differ");
    let tasks = of("tasks_run")?;
    let (ms_per_batch, scheduling_ns) = (of("ms_per_batch")?, of("scheduling_cpu_ns_per_task")?);
    let compute_ns = of("task_cpu_ns")? / tasks;
    let local_ns = of("local_scheduling_ns")? / tasks;
    // So many tasks run at a time, at most.
    let slots = match row.kind {
        Workers::Light => u32::from(threads).min(row.workers),
        Workers::Processes | Workers::Threads => row.workers,
    };
    let slots = f64::from(slots.min(std::thread::available_parallelism()?.get() as u32));
    let in_batch_ms = |ns_per_task: f64| ns_per_task * tasks / row.batches as f64 / slots / 1e6;
    let messages_ns = (scheduling_ns - local_ns).max(0.0);
    let (compute_ms, transfer_ms) = (in_batch_ms(compute_ns), in_batch_ms(messages_ns));
    Ok(json!({
        "stages": row.stages,
        "workers": row.workers,
        "light": row.kind == Workers::Light,
        "processes": row.kind == Workers::Processes,
        "tasks": row.tasks,
        "group_size": row.group_size,
        "prescheduling": row.prescheduling,
        "interval_ms": row.interval_ms,
        "batches": row.batches,
        "ms_per_batch": ms_per_batch,
        "paper_ms_per_batch": row.of_others_ms(),
        "scheduling_cpu_ns_per_task": scheduling_ns,
        "idle_poll_ns_per_task": of("idle_poll_ns_per_task")?,
        "driver_cpu_us_per_batch": of("driver_cpu_us_per_batch")?,
        "driver_scheduling_us_per_batch": of("driver_scheduling_us_per_batch")?,
        "group_message_bytes": of("group_message_bytes")?,
        "cpu_ns_per_task": json!({
            "local_scheduling": local_ns,
            "messages": messages_ns,
            "compute": compute_ns,
        }),
        "wall_ms_per_batch": json!({
            "scheduler_delay": (ms_per_batch - compute_ms - transfer_ms).max(0.0),
            "task_transfer": transfer_ms,
            "compute": compute_ms,
        }),
        "digest": digest,
    }))
}

fn print(report: &Value) -> Result<()> {
    let machine = &report["machine"];
    println!(
        "machine   Linux {}, {} x {}",
        machine["kernel"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["model"].as_str().unwrap_or_default(),
    );
    println!(
        "runtime   {}, {} polling, light workers on {} threads, median of {} rounds",
        report["runtimes"][0].as_str().unwrap_or_default(),
        report["poll"].as_str().unwrap_or_default(),
        report["threads_of_light_workers"],
        report["rounds"],
    );
    println!(
        "{:>6} {:>9} {:>6} {:>6} {:>4} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>6}  digest",
        "stages",
        "workers",
        "tasks",
        "group",
        "pre",
        "ms/batch",
        "paper ms",
        "delay ms",
        "transfer",
        "compute",
        "CPU ns/t",
        "idle ns/t",
        "driver us",
        "bytes",
    );
    let rows = report["rows"].as_array().context("no rows")?;
    rows.iter().for_each(print_row);
    Ok(())
}

fn print_row(row: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let kind = match (row["light"] == true, row["processes"] == true) {
        (true, _) => "light",
        (_, true) => "proc",
        (false, false) => "own",
    };
    let pre = if row["prescheduling"] == true { "on" } else { "off" };
    let paper = row["paper_ms_per_batch"].as_f64();
    let wall = &row["wall_ms_per_batch"];
    println!(
        "{:>6} {:>3} {:>5} {:>6} {:>6} {:>4} {:>9.3} {:>9} {:>8.3} {:>8.3} {:>8.3} {:>9.0} {:>9.0} {:>9.1} {:>6}  {}{}",
        row["stages"],
        row["workers"],
        kind,
        row["tasks"],
        row["group_size"],
        pre,
        number(&row["ms_per_batch"]),
        paper.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}")),
        number(&wall["scheduler_delay"]),
        number(&wall["task_transfer"]),
        number(&wall["compute"]),
        number(&row["scheduling_cpu_ns_per_task"]),
        number(&row["idle_poll_ns_per_task"]),
        number(&row["driver_cpu_us_per_batch"]),
        number(&row["group_message_bytes"]),
        row["digest"].as_str().unwrap_or_default(),
        verdict(row),
    );
}

/// For rows that have a goal, whether it was reached.
fn verdict(row: &Value) -> String {
    let said = |reached: bool| if reached { "reached" } else { "missed" };
    let figure = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let is_goal = row["light"] == false && row["processes"] == false;
    if is_goal {
        let reached = figure("scheduling_cpu_ns_per_task") < TASK_GOAL_NS;
        return format!("  goal {TASK_GOAL_NS:.0} ns: {}", said(reached));
    }
    match row["interval_ms"].as_u64() {
        Some(interval_ms) => {
            let (scheduling_us, cpu_us) =
                (figure("driver_scheduling_us_per_batch"), figure("driver_cpu_us_per_batch"));
            format!(
                "  every {interval_ms} ms; driver scheduling {scheduling_us:.1} us, goal \
                 {DRIVER_SCHEDULING_GOAL_US:.0}: {}; all of its CPU, goal {DRIVER_GOAL_US:.0}: {}",
                said(scheduling_us < DRIVER_SCHEDULING_GOAL_US),
                said(cpu_us < DRIVER_GOAL_US),
            )
        }
        None => String::new(),
    }
}
