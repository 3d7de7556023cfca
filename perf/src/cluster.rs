//! A cluster of real processes: a driver and workers of the Yahoo Streaming Benchmark, to be killed,
//! stopped, started and added while the job runs. What happened when, the driver writes down.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drizzle::clock::monotonic_now;
use drizzle::connectors::UpsertLog;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::proxy::Proxy;

/// What a cluster runs.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Workers that the job starts with, each of one core.
    pub(crate) workers: u32,
    /// Flags of the job and of its driver.
    pub(crate) flags: Vec<String>,
    /// How long all of it may take.
    pub(crate) limit: Duration,
    /// Whether a proxy stands between each worker and the driver.
    pub(crate) proxied: bool,
    /// Whether the folder of a job that failed is kept.
    pub(crate) keep_failed: bool,
}

/// Processes, the folder of their files, and when to give up.
pub(crate) struct Cluster {
    shape: Shape,
    folder: PathBuf,
    address: String,
    driver: Option<Child>,
    workers: Vec<Worker>,
    has_failed: bool,
    limit_ns: u64,
    drivers: u32,
}

/// A worker process.
struct Worker {
    child: Child,
    proxy: Option<Proxy>,
    has_ended: bool,
}

/// Something that the driver wrote down.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When, by the monotonic clock of this host.
    pub(crate) at_ns: u64,
    /// What.
    pub(crate) change: String,
    /// About what.
    pub(crate) fields: Value,
}

/// How often the timeline is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Cluster {
    /// Starts a driver and its workers in a folder of their own.
    pub(crate) fn start(shape: Shape) -> Result<Cluster> {
        let folder = std::env::temp_dir().join(format!(
            "drizzle-cluster-{}-{}",
            std::process::id(),
            monotonic_now()
        ));
        fs::create_dir_all(&folder).context("cannot create a folder for the cluster")?;
        // A port that is free now; nobody else here takes ports.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let limit_ns = monotonic_now() + shape.limit.as_nanos() as u64;
        let (driver, workers, drivers) = (None, Vec::new(), 0);
        let has_failed = shape.keep_failed;
        let mut cluster =
            Cluster { shape, folder, address, driver, workers, has_failed, limit_ns, drivers };
        cluster.start_driver()?;
        for _ in 0..cluster.shape.workers {
            cluster.add_worker()?;
        }
        Ok(cluster)
    }

    /// Starts a driver, which goes on where an earlier one was.
    pub(crate) fn start_driver(&mut self) -> Result<()> {
        self.drivers += 1;
        let resume = (self.drivers > 1).then_some("--resume".to_owned());
        let workers = self.shape.workers.to_string();
        let mut command = self.command("driver")?;
        command.args(["--listen", &self.address, "--workers", &workers]);
        command.arg("--data").arg(self.folder.join("data"));
        command.arg("--upsert").arg(self.folder.join("results"));
        command.arg("--timeline").arg(self.folder.join("timeline"));
        command.arg("--report").arg(self.folder.join("report"));
        command.args(&self.shape.flags).args(resume);
        self.driver = Some(command.spawn().context("cannot start a driver")?);
        // It says so when it listens.
        while self.count_said("waiting on") < self.drivers as usize {
            ensure!(monotonic_now() < self.limit_ns, "the driver does not listen: {}", self.said());
            pause(LOOK_EVERY);
        }
        Ok(())
    }

    fn count_said(&self, words: &str) -> usize {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default().matches(words).count()
    }

    /// Starts one more worker; its place among them.
    pub(crate) fn add_worker(&mut self) -> Result<usize> {
        let proxy = self.shape.proxied.then(|| Proxy::start(self.address()?)).transpose()?;
        let address = proxy.as_ref().map_or(self.address.clone(), |p| p.address().to_string());
        let mut command = self.command("worker")?;
        command.args(["--driver", &address, "--cores", "1"]);
        let child = command.spawn().context("cannot start a worker")?;
        self.workers.push(Worker { child, proxy, has_ended: false });
        Ok(self.workers.len() - 1)
    }

    fn command(&self, role: &str) -> Result<Command> {
        let said = File::options().create(true).append(true).open(self.folder.join("said"))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["ysb", role]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        Ok(command)
    }

    /// Sends a worker a signal; when that was.
    pub(crate) fn signal(&mut self, worker: usize, signal: Signal) -> Result<u64> {
        let at_ns = monotonic_now();
        // Its number may be somebody else's by now.
        if self.workers[worker].has_ended {
            return Ok(at_ns);
        }
        kill_process(Pid::from_child(&self.workers[worker].child), signal)?;
        Ok(at_ns)
    }

    /// The workers that have not ended, by their places.
    pub(crate) fn here(&self) -> Vec<usize> {
        let workers = self.workers.iter().enumerate();
        workers.filter(|(_, worker)| !worker.has_ended).map(|(place, _)| place).collect()
    }

    /// Workers that have ended and were not known to, and how.
    pub(crate) fn take_ended(&mut self) -> Result<Vec<(usize, ExitStatus)>> {
        let mut ended = Vec::new();
        for (place, worker) in self.workers.iter_mut().enumerate() {
            if !worker.has_ended
                && let Some(status) = worker.child.try_wait()?
            {
                worker.has_ended = true;
                ended.push((place, status));
            }
        }
        Ok(ended)
    }

    /// What stands between a worker and the driver.
    pub(crate) fn proxy(&self, worker: usize) -> Option<&Proxy> {
        self.workers[worker].proxy.as_ref()
    }

    /// Where the driver listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.address.parse()?)
    }

    /// Whether there should be a driver.
    pub(crate) fn has_driver(&self) -> bool {
        self.driver.is_some()
    }

    /// Fails if the driver has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let status = self.driver.as_mut().map(Child::try_wait).transpose()?.flatten();
        status.map_or(Ok(()), |status| bail!("the driver ended ({status}): {}", self.said()))
    }

    /// Asks the driver to stop the job, as Ctrl-C does.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let driver = self.driver.as_ref().context("there is no driver")?;
        Ok(kill_process(Pid::from_child(driver), Signal::INT)?)
    }

    /// Kills the driver; when that was.
    pub(crate) fn kill_driver(&mut self) -> Result<u64> {
        let mut driver = self.driver.take().context("there is no driver")?;
        let at_ns = monotonic_now();
        driver.kill()?;
        driver.wait()?;
        Ok(at_ns)
    }

    /// All that drivers have written down so far.
    pub(crate) fn timeline(&self) -> Vec<Event> {
        let text = fs::read_to_string(self.folder.join("timeline")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let event = |fields: Value| {
            let at_ns = fields["at_ns"].as_u64()?;
            let change = fields["change"].as_str()?.to_owned();
            Some(Event { at_ns, change, fields })
        };
        events.filter_map(event).collect()
    }

    /// When the first results of the last window were there: about its end.
    pub(crate) fn last_window(&self) -> Result<u64> {
        let rows = UpsertLog::new(self.folder.join("results")).read()?;
        let last =
            rows.iter().max_by_key(|(key, _)| key.first_chunk().map(|b| u64::from_le_bytes(*b)));
        let (key, _) = last.context("no window has ended yet")?;
        let of_last =
            rows.iter().filter(|(other, _)| other.first_chunk::<8>() == key.first_chunk());
        of_last.map(|(_, upserted)| upserted.at.0).min().context("a window has rows")
    }

    /// Waits until something stands in the timeline `count` times after `after_ns`; the last of these.
    pub(crate) fn wait_for(&mut self, change: &str, count: usize, after_ns: u64) -> Result<Event> {
        loop {
            let events = self.timeline();
            let mut found = events.iter().filter(|e| e.change == change && e.at_ns > after_ns);
            if let Some(event) = found.nth(count - 1) {
                return Ok(event.clone());
            }
            if let Some(driver) = &mut self.driver
                && let Some(status) = driver.try_wait()?
            {
                bail!("the driver ended ({status}) before {change:?}: {}", self.said());
            }
            ensure!(monotonic_now() < self.limit_ns, "no {change:?} in time: {}", self.said());
            pause(LOOK_EVERY);
        }
    }

    /// Waits for the end of the job; the report of a verified run.
    pub(crate) fn finish(mut self) -> Result<Value> {
        let mut driver = self.driver.take().context("there is no driver")?;
        let status = loop {
            if let Some(status) = driver.try_wait()? {
                break status;
            }
            if monotonic_now() > self.limit_ns {
                let _ = driver.kill();
                let _ = driver.wait();
                bail!("the job did not end in time: {}", self.said());
            }
            pause(LOOK_EVERY);
        };
        ensure!(status.success(), "the job failed ({status}): {}", self.said());
        let text = fs::read_to_string(self.folder.join("report"))?;
        let mut report: Value = serde_json::from_str(&text)?;
        ensure!(report["verified"] == true, "the output is wrong: {}", self.said());
        let timeline = self.timeline().into_iter().map(|event| event.fields);
        report["timeline"] = timeline.collect();
        self.has_failed = false;
        Ok(report)
    }

    /// The last words of all processes.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(self.folder.join("said")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join(" | ")
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let workers = self.workers.iter_mut().map(|worker| &mut worker.child);
        for child in workers.chain(&mut self.driver) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !self.has_failed && std::env::var_os("DRIZZLE_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Measuring is the one place where time may simply pass.
#[allow(clippy::disallowed_methods)]
pub(crate) fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// Lets time pass up to a moment of the monotonic clock.
pub(crate) fn pause_until(at_ns: u64) {
    pause(Duration::from_nanos(at_ns.saturating_sub(monotonic_now())));
}
