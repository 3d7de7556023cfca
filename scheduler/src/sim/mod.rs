//! The deterministic simulator: whole jobs on clusters of nothing but decisions, in one thread and in
//! simulated time, with everything going wrong that may. A seed is a run: what the job is, how large
//! the cluster, what fails and when, how long each message takes. Two runs of a seed are the same.
//!
//! Four parts that know as little of each other as they can:
//!
//! * the generator makes a scenario of a seed: the plan, the cluster, the faults;
//! * the environment does what nodes, network and storage do, to the real
//!   [`Driver`](crate::driver::Driver), [`Worker`](crate::worker::Worker) and
//!   [`LocalScheduler`](crate::local::LocalScheduler);
//! * the auditor sees everything and knows what must hold, step by step and at the end, where the
//!   sinks must hold what a plain sequential run over the recorded ranges gives;
//! * the trace has a line for each transition; `cargo xtask sim --seed N --trace` prints it.
//!
//! A run has two phases. First faults are injected, by the clock or when the protocol enters a certain
//! phase (the matrix of both is in [`coverage`]). Then everything heals, and the job must end.
//!
//! # Does it find anything?
//!
//! These mistakes can be built in (`--bug NAME`; [`Bug`](crate::bugs::Bug) says what each is). Each is
//! found within 2,000 seeds, and the same seed passes without it.
//!
//! 1. `deduplication-off`: a block that arrives once more is counted and folded once more.
//! 2. `term-check-off`: a worker obeys a driver of an older term.
//! 3. `incarnation-check-off`: a core takes blocks of a fenced incarnation.
//! 4. `range-not-relayed`: a core relays only the ranges that it took itself.
//! 5. `retention-short`: blocks are forgotten one batch before their last reader is safe.
//! 6. `prefill-left-out`: a new owner does not count what its own core holds already.
//! 7. `attempts-folded`: a block of another attempt is not recognised as a repetition.
//! 8. `cut-off-by-one`: the driver commits one batch less than the largest promise.
//! 9. `second-group-survives-cut`: a cut voids the rest of its group, but not the one after it.
//! 10. `abandoned-clears-changes`: a snapshot holds the changes since the last one that was begun.
//! 11. `release-before-manifest`: workers hear of a manifest before it is durable.
//! 12. `stale-manifest`: a new driver starts from the manifest before the newest.
//! 13. `redirect-forgotten`: blocks written after a recovery go to the owner of before.
//! 14. `copy-freed-early`: the old owner of a moved partition drops its copy when it has shipped it.
//!
//! # How to read a trace
//!
//! [`LEGEND`] explains the lines. Look for `!!`, which is a fault; then for the `Fence` that the driver
//! decides, the answers `<= Fenced`, and the `Recover` that names the new owners. After it the new
//! owners `Restore`, the others send again what they have kept, and the `run` lines of a replay have
//! an attempt above 0 (`a5`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bugs::{Bug, Bugs};
use coverage::Matrix;
use environment::Simulation;
use generator::Scenario;

mod auditor;
pub mod coverage;
mod data;
mod dice;
mod environment;
mod generator;
mod trace;

pub use trace::{LEGEND, Lines};

/// How to run a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// The mistake that is built in, if any.
    pub bug: Option<Bug>,
    /// Whether the lines of the trace are kept.
    pub trace: Lines,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Hash over all transitions.
    pub hash: u64,
    /// Which rule was broken, if any.
    pub failure: Option<String>,
    /// Faults by phases.
    pub matrix: Matrix,
    /// Events of the simulation.
    pub steps: u64,
    /// The lines of the trace, where they were wanted.
    pub lines: Vec<String>,
}

/// Runs a seed. A panic of a state machine is a failure like any other.
pub fn run(seed: u64, options: SimOptions) -> Outcome {
    let bugs = options.bug.map_or(Bugs::NONE, Bugs::planted);
    let mut simulation = Simulation::new(Scenario::new(seed), bugs, options.trace);
    let end = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let failure = match end {
        Ok(()) => simulation.auditor.failure.take(),
        Err(panic) => Some(format!("panic: {}", reason(&*panic))),
    };
    Outcome {
        hash: simulation.trace.hash(),
        failure,
        matrix: simulation.matrix.clone(),
        steps: simulation.steps,
        lines: simulation.trace.take_lines(),
    }
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

/// Seeds that once failed, oldest first.
pub fn kept_seeds() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines();
    let numbers = lines.filter_map(|line| line.split('#').next().map(str::trim));
    numbers.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed")).collect()
}

#[cfg(test)]
mod tests;
