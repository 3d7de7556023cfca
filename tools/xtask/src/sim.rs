//! `cargo xtask sim`: the simulator on all cores of this machine. One process for each, which share a
//! pipe; this one merges what they say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
cargo xtask sim [--seed N] [--seeds N] [--trace] [--bug NAME|all] [--jobs N]

Runs the deterministic simulator of scheduler/src/sim: whole jobs on simulated clusters, with nodes,
network and storage failing in every way that it knows. One process for each core of this machine.

  --seed N     the first seed (default 0)
  --seeds N    how many (default 1000; 1 with --trace; 2000 with --bug)
  --trace      print what happened, one line for each transition, with a legend
  --bug NAME   build a mistake in: success is that it is found, and that the same seed passes without
               it. `all` tries each of them and prints a table. Without a name it lists them.
  --jobs N     so many processes

It prints the matrix of faults by phases of the protocol: how often which was injected when. With
10,000 seeds or more a cell that is zero, and not known to be impossible, is a failure.

A seed that failed is run again with --seed N --trace; put it into scheduler/src/sim/seeds.txt, and it
is run with every `cargo test` for ever.
";

const MANY: u64 = 10_000;
const PAUSE: Duration = Duration::from_secs(2);

struct Arguments {
    first: u64,
    seeds: Option<u64>,
    traced: bool,
    bug: Option<String>,
    jobs: usize,
}

/// What the processes said.
#[derive(Default)]
struct Report {
    done: u64,
    steps: u64,
    failures: BTreeMap<u64, String>,
    matrix: BTreeMap<usize, Vec<u64>>,
}

/// Runs it.
pub fn run(root: &Path, arguments: &[&str]) -> Result<ExitCode> {
    if arguments.iter().any(|argument| matches!(*argument, "--help" | "-h" | "help")) {
        say(HELP.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = parse(arguments)?;
    let binary = build(root)?;
    match arguments.bug.as_deref() {
        None => run_seeds(&binary, &arguments),
        Some("") => list_bugs(&binary),
        Some("all") => all_bugs(&binary, &arguments),
        Some(bug) => {
            let found = find(&binary, bug, &arguments)?;
            say(&format!("{bug}: {}", found.text()));
            Ok(if found.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn parse(arguments: &[&str]) -> Result<Arguments> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { first: 0, seeds: None, traced: false, bug: None, jobs };
    let mut arguments = arguments.iter().peekable();
    while let Some(&name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
        match name {
            "--trace" => parsed.traced = true,
            "--seed" => parsed.first = value()?.parse().context("--seed N")?,
            "--seeds" => parsed.seeds = Some(value()?.parse().context("--seeds N")?),
            "--jobs" => parsed.jobs = value()?.parse().context("--jobs N")?,
            "--bug" => {
                let name = arguments.next_if(|next| !next.starts_with("--"));
                parsed.bug = Some(name.copied().unwrap_or_default().to_owned());
            }
            other => bail!("no such argument: {other}; see `cargo xtask sim --help`"),
        }
    }
    ensure!(parsed.jobs > 0, "--jobs is at least 1");
    Ok(parsed)
}

fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let package = ["build", "--release", "--quiet", "-p", "drizzle-scheduler"];
    let binary = ["--features", "simulator", "--bin", "drizzle-sim"];
    let mut command = Command::new(cargo);
    command.current_dir(root).args(package).args(binary);
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "the simulator does not build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(target).join("release/drizzle-sim"))
}

fn run_seeds(binary: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let seeds = arguments.seeds.unwrap_or(if arguments.traced { 1 } else { 1000 });
    if arguments.traced {
        let mut command = Command::new(binary);
        command.args(["--trace", "--seed", &arguments.first.to_string()]);
        let status = command.args(["--seeds", &seeds.to_string()]).status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let began = now();
    let report = run_shards(binary, arguments, seeds, &[])?;
    let names = Names::read(binary)?;
    say(&names.table(&report.matrix));
    let missing = names.missing(&report.matrix);
    let seconds = began.elapsed().as_secs();
    let (done, failed, steps) = (report.done, report.failures.len(), report.steps);
    say(&format!(
        "{done} seeds from {}, {failed} failed, {steps} events, {seconds} s",
        arguments.first
    ));
    for line in &names.impossible {
        say(&format!("impossible: {line}"));
    }
    for line in &missing {
        say(&format!("never happened: {line}"));
    }
    for (seed, failure) in report.failures.iter().take(20) {
        say(&format!("seed {seed} failed: {failure}"));
        say(&format!("  again: cargo xtask sim --seed {seed} --trace"));
    }
    let is_covered = missing.is_empty() || seeds < MANY;
    let is_good = report.failures.is_empty() && is_covered && report.done == seeds;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the rows and columns of the matrix are called.
#[derive(Default)]
struct Names {
    faults: Vec<String>,
    phases: Vec<String>,
    bugs: Vec<String>,
    impossible: Vec<String>,
    /// The cells of those.
    excepted: Vec<(usize, usize)>,
}

impl Names {
    fn read(binary: &Path) -> Result<Names> {
        let output = Command::new(binary).arg("--names").output().context("ask for names")?;
        let mut names = Names::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let name = rest.split_once(' ').map_or(rest, |(_, name)| name).to_owned();
            match kind {
                "fault" => names.faults.push(name),
                "phase" => names.phases.push(name),
                "bug" => names.bugs.push(rest.to_owned()),
                "impossible" => names.except(rest),
                _ => bail!("the simulator says: {line}"),
            }
        }
        Ok(names)
    }

    fn except(&mut self, line: &str) {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        if let [fault, phase, why] = words[..]
            && let (Ok(fault), Ok(phase)) = (fault.parse(), phase.parse())
        {
            self.excepted.push((fault, phase));
            let cell = self.cell(fault, phase);
            self.impossible.push(format!("{cell}: {why}"));
        }
    }

    fn cell(&self, fault: usize, phase: usize) -> String {
        format!("{} in {}", self.faults[fault], self.phases[phase])
    }

    fn table(&self, matrix: &BTreeMap<usize, Vec<u64>>) -> String {
        let mut lines = vec![format!("{:<20}", "fault \\ phase")];
        for phase in &self.phases {
            lines[0].push_str(&format!("{phase:>9}"));
        }
        for (row, counts) in matrix {
            let counts = counts.iter().map(|count| format!("{count:>9}")).collect::<String>();
            lines.push(format!("{:<20}{counts}", self.faults[*row]));
        }
        lines.join("\n")
    }

    /// Cells that are zero and could be otherwise.
    fn missing(&self, matrix: &BTreeMap<usize, Vec<u64>>) -> Vec<String> {
        let cells = matrix.iter().flat_map(|(&fault, counts)| {
            counts.iter().enumerate().map(move |(phase, &count)| (fault, phase, count))
        });
        let zero = cells.filter(|&(fault, phase, count)| {
            count == 0 && !self.excepted.contains(&(fault, phase))
        });
        zero.map(|(fault, phase, _)| self.cell(fault, phase)).collect()
    }
}

/// Starts the processes and listens until all have ended.
fn run_shards(binary: &Path, arguments: &Arguments, seeds: u64, more: &[&str]) -> Result<Report> {
    let (reader, writer) = std::io::pipe().context("open a pipe")?;
    let mut children: Vec<Child> = Vec::new();
    for shard in 0..arguments.jobs {
        let mut command = Command::new(binary);
        command.args(["--seed", &arguments.first.to_string(), "--seeds", &seeds.to_string()]);
        command.args(["--shard", &format!("{shard}/{}", arguments.jobs)]).args(more);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?);
        children.push(command.spawn().context("start the simulator")?);
    }
    drop(writer);
    let mut report = Report::default();
    let (began, mut said) = (now(), now());
    for line in BufReader::new(reader).lines() {
        report.hear(&line.context("read from the simulator")?);
        if said.elapsed() >= PAUSE {
            let (done, failed) = (report.done, report.failures.len());
            let seconds = began.elapsed().as_secs();
            say(&format!("{done} of {seeds} seeds, {failed} failed, {seconds} s"));
            said = now();
        }
    }
    for child in &mut children {
        child.wait().context("wait for the simulator")?;
    }
    Ok(report)
}

impl Report {
    /// A line of one of the processes; each was written at once.
    fn hear(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("progress"), Some(seeds), steps) => {
                self.done += seeds.parse::<u64>().unwrap_or_default();
                self.steps += steps.and_then(|steps| steps.parse().ok()).unwrap_or(0);
            }
            (Some("failed"), Some(seed), text) => {
                let text = text.unwrap_or_default().to_owned();
                self.failures.insert(seed.parse().unwrap_or_default(), text);
            }
            (Some("matrix"), Some(row), Some(counts)) => {
                let counts = counts.split(' ').map(|count| count.parse().unwrap_or_default());
                let counts: Vec<u64> = counts.collect();
                let sums = self.matrix.entry(row.parse().unwrap_or_default()).or_default();
                sums.resize(counts.len().max(sums.len()), 0);
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            _ => {}
        }
    }
}

/// Whether a deliberate mistake was found.
enum Found {
    /// In that seed, which passes without it.
    Seed(u64, String),
    /// In that seed, which fails without it too.
    Anyway(u64),
    Never,
}

impl Found {
    fn is_good(&self) -> bool {
        matches!(self, Found::Seed(..))
    }

    fn text(&self) -> String {
        match self {
            Found::Seed(seed, failure) => {
                let failure: String = failure.chars().take(160).collect();
                format!("found by seed {seed}, which passes without it: {failure}")
            }
            Found::Anyway(seed) => format!("seed {seed} fails, but without the bug as well"),
            Found::Never => "NOT FOUND".to_owned(),
        }
    }
}

/// Looks for a bug, in rounds: it is mostly found within a few hundred seeds.
fn find(binary: &Path, bug: &str, arguments: &Arguments) -> Result<Found> {
    let seeds = arguments.seeds.unwrap_or(2000);
    let end = arguments.first + seeds;
    let mut first = arguments.first;
    while first < end {
        let count = 200.min(end - first);
        let round =
            Arguments { first, seeds: None, traced: false, bug: None, jobs: arguments.jobs };
        let report = run_shards(binary, &round, count, &["--bug", bug])?;
        ensure!(report.done > 0, "the simulator did not run");
        if let Some((&seed, failure)) = report.failures.iter().next() {
            let alone = Arguments { first: seed, jobs: 1, ..round };
            let without = run_shards(binary, &alone, 1, &[])?;
            return Ok(match without.failures.is_empty() {
                true => Found::Seed(seed, failure.clone()),
                false => Found::Anyway(seed),
            });
        }
        first += count;
    }
    Ok(Found::Never)
}

fn all_bugs(binary: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for bug in Names::read(binary)?.bugs {
        let found = find(binary, &bug, arguments)?;
        say(&format!("{bug:<26} {}", found.text()));
        if !found.is_good() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn list_bugs(binary: &Path) -> Result<ExitCode> {
    say("name one of them, or `all`:");
    Names::read(binary)?.bugs.iter().for_each(|bug| say(&format!("  {bug}")));
    Ok(ExitCode::FAILURE)
}

#[allow(clippy::print_stdout, reason = "the answer of the command")]
fn say(text: &str) {
    println!("{text}");
}

/// How long it takes is part of the answer.
#[allow(clippy::disallowed_methods, reason = "a chore may look at the clock")]
fn now() -> Instant {
    Instant::now()
}
