//! Runs of the job as processes of their own, and the figures of those that were verified.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs the Yahoo Streaming Benchmark with these flags; the report of a verified run.
pub(crate) fn ysb(flags: &[String]) -> Result<Value> {
    job("ysb", flags)
}

/// Runs the micro-benchmark with these flags; the report of a verified run.
pub(crate) fn sum(flags: &[String]) -> Result<Value> {
    job("sum", flags)
}

fn job(app: &str, flags: &[String]) -> Result<Value> {
    let report = Scratch::new("report");
    let output = Command::new("/proc/self/exe")
        .arg(app)
        .args(flags)
        .arg("--report")
        .arg(&report.0)
        .stdin(Stdio::null())
        .output()
        .context("cannot start the job")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{app} {} failed: {}", flags.join(" "), said.trim());
    let text = std::fs::read_to_string(&report.0).context("the job wrote no report")?;
    let report: Value = serde_json::from_str(&text).context("the job's report is no JSON")?;
    ensure!(report["verified"] == true, "the output of {app} {} is wrong", flags.join(" "));
    Ok(report)
}

/// A file or folder that is removed when it is no longer needed.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One of that name, which is not there yet.
    pub(crate) fn new(name: &str) -> Scratch {
        let name = format!("drizzle-perf-{}-{name}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
