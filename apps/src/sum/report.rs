//! What a run comes to: a few lines at its end, and the same as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use drizzle::node::JobReport;
use drizzle::scheduler::plan::Prescheduling;
use serde_json::{Value, json};

use super::flags::{JobFlags, Stages};
use super::job::keys;
use super::oracle::expected;
use super::tally::Tally;
use crate::flags::ClusterFlags;

/// A finished run and its verdict.
pub(super) struct Report {
    flags: JobFlags,
    group_size: u64,
    /// Threads that light workers shared.
    light: Option<u16>,
    job: JobReport,
    tally: Tally,
    /// All that was taken was summed, each once, and nothing that should be was left.
    verified: bool,
}

impl Report {
    /// Judges a run.
    pub(super) fn new(
        cluster: &ClusterFlags,
        light: Option<u16>,
        flags: &JobFlags,
        job: JobReport,
        tally: &Tally,
    ) -> Report {
        let numbers = flags.numbers();
        let taken: Vec<u64> = job.taken.iter().map(|&(.., from, to)| to - from).collect();
        let keys = match flags.stages() {
            Stages::One => Vec::new(),
            Stages::Two => keys(flags.reducers()),
        };
        let complete = job.stopped || taken.iter().all(|&to| to == numbers.batches);
        let equal = *tally == expected(&numbers, flags.stages(), &keys, &taken);
        Report {
            flags: flags.clone(),
            group_size: cluster.group_size,
            light,
            job,
            tally: *tally,
            verified: complete && equal,
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verified
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.to_json())?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Batches that took something: more than were asked for never do.
    fn batches(&self) -> u64 {
        let longest = self.job.taken.iter().map(|&(.., from, to)| to - from).max();
        longest.unwrap_or(0).max(1)
    }

    fn ms_per_batch(&self) -> f64 {
        self.job.elapsed_ns as f64 / 1e6 / self.batches() as f64
    }

    fn tasks(&self) -> f64 {
        self.job.statistics.tasks.max(1) as f64
    }

    /// CPU time of all threads that is neither spent in task bodies nor in looking for work in vain, for
    /// each task: scheduling and messages.
    fn scheduling_cpu_ns_per_task(&self) -> f64 {
        let total_ns = self.job.control_cpu_ns + self.job.cores_cpu_ns;
        let other_ns = self.job.task_cpu_ns + self.job.idle_poll_ns;
        (total_ns as f64 - other_ns as f64) / self.tasks()
    }

    fn to_json(&self) -> Value {
        let numbers = self.flags.numbers();
        json!({
            "stages": self.stages(),
            "workers": self.job.workers,
            "light": self.light,
            "cores": self.job.cores,
            "tasks": numbers.tasks,
            "numbers": numbers.count,
            "batches": self.batches(),
            "group_size": self.group_size,
            "prescheduling": self.flags.prescheduling() == Prescheduling::On,
            "interval_ms": self.flags.pace().map(|pace| pace.as_secs_f64() * 1e3),
            "elapsed_ns": self.job.elapsed_ns,
            "ms_per_batch": self.ms_per_batch(),
            "tasks_run": self.job.statistics.tasks,
            "run_ns": self.job.statistics.run_ns,
            "local_scheduling_ns": self.job.statistics.schedule_ns,
            "worst_delay_us": self.job.statistics.worst_delay_ns as f64 / 1e3,
            "scheduling_cpu_ns_per_task": self.scheduling_cpu_ns_per_task(),
            "idle_poll_ns_per_task": self.job.idle_poll_ns as f64 / self.tasks(),
            "driver_scheduling_us_per_batch":
                self.job.driver_schedule_ns as f64 / 1e3 / self.batches() as f64,
            "driver_cpu_us_per_batch": self.job.driver_cpu_ns as f64 / 1e3 / self.batches() as f64,
            "group_message_bytes": self.job.group_message_bytes,
            "task_cpu_ns": self.job.task_cpu_ns,
            "idle_poll_ns": self.job.idle_poll_ns,
            "driver_cpu_ns": self.job.driver_cpu_ns,
            "control_cpu_ns": self.job.control_cpu_ns,
            "cores_cpu_ns": self.job.cores_cpu_ns,
            "groups": self.job.groups,
            "schedule_messages": self.job.schedule_messages,
            "release_messages": self.job.release_messages,
            "runtimes": self.job.runtimes,
            "poll": self.flags.polling().to_string(),
            "rows": self.tally.rows,
            "digest": format!("{:016x}", self.tally.digest),
            "stopped": self.job.stopped,
            "verified": self.verified,
        })
    }

    fn stages(&self) -> u32 {
        match self.flags.stages() {
            Stages::One => 1,
            Stages::Two => 2,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = self.flags.numbers();
        writeln!(
            out,
            "{:<20}{} of {} tasks in {} stages      {:.3} ms each",
            "batches",
            self.batches(),
            numbers.tasks,
            self.stages(),
            self.ms_per_batch(),
        )?;
        writeln!(
            out,
            "{:<20}group {}      {:.2} us CPU of scheduling and messages, {:.2} us in its body",
            "task",
            self.group_size,
            self.scheduling_cpu_ns_per_task() / 1e3,
            self.job.task_cpu_ns as f64 / 1e3 / self.tasks(),
        )?;
        let runtimes: Vec<&str> = self.job.runtimes.iter().map(String::as_str).collect();
        writeln!(
            out,
            "{:<20}{}, {} polling, {} workers, {} cores{}",
            "runtime",
            runtimes.join(" and "),
            self.flags.polling(),
            self.job.workers,
            self.job.cores,
            self.light.map_or_else(String::new, |threads| format!(", light on {threads} threads")),
        )?;
        let stopped = if self.job.stopped { ", stopped at a cut" } else { "" };
        let Tally { rows, digest, .. } = self.tally;
        match self.verified {
            true => writeln!(
                out,
                "{:<20}{rows} sums equal to a plain loop, digest {digest:016x}{stopped}",
                "verified",
            ),
            false => writeln!(
                out,
                "{:<20}{rows} sums differ from a plain loop, digest {digest:016x}{stopped}",
                "NOT VERIFIED",
            ),
        }
    }
}
