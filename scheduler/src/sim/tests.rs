//! Seeds that every `cargo test` runs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::*;

const HASHED: SimOptions = SimOptions { bug: None, trace: Lines::Hashed };

/// All sources of this crate but tests.
const SOURCES: [&str; 66] = [
    include_str!("../adapt.rs"),
    include_str!("../balance.rs"),
    include_str!("../balance/extras.rs"),
    include_str!("../bugs.rs"),
    include_str!("../checkpoint.rs"),
    include_str!("../driver/checkpoints.rs"),
    include_str!("../driver/cutting.rs"),
    include_str!("../driver/events.rs"),
    include_str!("../driver/groups.rs"),
    include_str!("../driver/journaling.rs"),
    include_str!("../driver/members.rs"),
    include_str!("../driver/mod.rs"),
    include_str!("../driver/recovery.rs"),
    include_str!("../driver/releases.rs"),
    include_str!("../driver/replacement.rs"),
    include_str!("../driver/rescale.rs"),
    include_str!("../driver/stragglers.rs"),
    include_str!("../driver/takeover.rs"),
    include_str!("../history.rs"),
    include_str!("../ids.rs"),
    include_str!("../journal.rs"),
    include_str!("../lib.rs"),
    include_str!("../lineage.rs"),
    include_str!("../local/changes.rs"),
    include_str!("../local/credit.rs"),
    include_str!("../local/errands.rs"),
    include_str!("../local/events.rs"),
    include_str!("../local/groups.rs"),
    include_str!("../local/inputs.rs"),
    include_str!("../local/lane.rs"),
    include_str!("../local/lanes.rs"),
    include_str!("../local/mod.rs"),
    include_str!("../local/ranges.rs"),
    include_str!("../local/recovery.rs"),
    include_str!("../local/releases.rs"),
    include_str!("../local/retention.rs"),
    include_str!("../local/snapshots.rs"),
    include_str!("../local/stage_lanes.rs"),
    include_str!("../local/start.rs"),
    include_str!("../local/waiting.rs"),
    include_str!("../message.rs"),
    include_str!("../placement.rs"),
    include_str!("../plan.rs"),
    include_str!("auditor.rs"),
    include_str!("auditor/model.rs"),
    include_str!("auditor/sinks.rs"),
    include_str!("auditor/versions.rs"),
    include_str!("coverage.rs"),
    include_str!("data.rs"),
    include_str!("dice.rs"),
    include_str!("environment.rs"),
    include_str!("environment/blocks.rs"),
    include_str!("environment/core_node.rs"),
    include_str!("environment/driver_node.rs"),
    include_str!("environment/faults.rs"),
    include_str!("environment/network.rs"),
    include_str!("environment/phases.rs"),
    include_str!("environment/run.rs"),
    include_str!("environment/states.rs"),
    include_str!("environment/storage.rs"),
    include_str!("environment/worker_node.rs"),
    include_str!("generator.rs"),
    include_str!("mod.rs"),
    include_str!("trace.rs"),
    include_str!("../tuner.rs"),
    include_str!("../worker.rs"),
];

/// Where each bug was found when this was written; elsewhere it is found too.
const FOUND_BY: [(Bug, u64); 14] = [
    (Bug::DeduplicationOff, 24),
    (Bug::TermCheckOff, 202),
    (Bug::IncarnationCheckOff, 64),
    (Bug::RangeNotRelayed, 118),
    (Bug::RetentionShort, 0),
    (Bug::PrefillLeftOut, 4),
    (Bug::AttemptsFolded, 0),
    (Bug::CutOffByOne, 2),
    (Bug::SecondGroupSurvivesCut, 0),
    (Bug::AbandonedClearsChanges, 8),
    (Bug::ReleaseBeforeManifest, 0),
    (Bug::StaleManifest, 61),
    (Bug::RedirectForgotten, 0),
    (Bug::CopyFreedEarly, 55),
];

/// FNV-1a over the sources, small enough to be typed: with every change other seeds are tried.
fn fresh_seed() -> u64 {
    let bytes = SOURCES.iter().flat_map(|source| source.bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    1_000_000 + hash % 1_000_000_000
}

#[track_caller]
fn check(seeds: impl Iterator<Item = u64>) {
    let mut failed = String::new();
    for seed in seeds {
        if let Some(failure) = run(seed, HASHED).failure {
            let _ = writeln!(failed, "seed {seed}: {failure}");
        }
    }
    assert!(failed.is_empty(), "`cargo xtask sim --seed N --trace` shows how:\n{failed}");
}

#[test]
fn seeds_that_once_failed_pass() {
    check(kept_seeds().into_iter());
}

#[test]
fn three_hundred_fresh_seeds_pass() {
    let first = fresh_seed();
    // Past the capture of tests' output: it is to be seen also when all is well.
    let _ = writeln!(io::stderr(), "simulator: seeds {first} to {}", first + 299);
    check(first..first + 300);
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for seed in fresh_seed()..fresh_seed() + 25 {
        let [one, two] = [(); 2].map(|()| run(seed, HASHED));
        assert_eq!((one.hash, one.steps), (two.hash, two.steps), "seed {seed}");
        let traced = run(seed, SimOptions { bug: None, trace: Lines::Kept });
        assert_eq!(one.hash, traced.hash, "seed {seed}: reading along changes nothing");
        assert!(!traced.lines.is_empty(), "seed {seed}");
    }
}

#[test]
fn every_deliberate_mistake_is_found() {
    let mut lost = String::new();
    for (bug, known) in FOUND_BY {
        let options = SimOptions { bug: Some(bug), trace: Lines::Hashed };
        let is_found_by = |seed: &u64| {
            run(*seed, options).failure.is_some() && run(*seed, HASHED).failure.is_none()
        };
        match [known].into_iter().chain(0..2_000).find(is_found_by) {
            Some(seed) if seed == known => {}
            Some(seed) => eprintln!("{} is found by {seed} now", bug.name()),
            None => {
                let _ = writeln!(lost, "{} is not found any more", bug.name());
            }
        }
    }
    assert!(lost.is_empty(), "{lost}");
}

#[test]
fn every_bug_is_described() {
    let text = include_str!("mod.rs");
    for bug in Bug::ALL {
        assert!(text.contains(&format!("`{}`", bug.name())), "{} has no line", bug.name());
        assert!(FOUND_BY.iter().any(|(found, _)| *found == bug), "{} has no seed", bug.name());
    }
}
