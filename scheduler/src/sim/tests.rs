//! Seeds that every `cargo test` runs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::*;

const HASHED: SimOptions = SimOptions { bug: None, trace: Lines::Hashed };

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

/// Derives from all sources of this crate, so that with every change other seeds are tried. FNV-1a,
/// small enough to be typed.
fn fresh_seed() -> u64 {
    let mut bytes = Vec::new();
    collect_sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut bytes);
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    1_000_000 + hash % 1_000_000_000
}

/// In the order of their names, whatever the file system says.
fn collect_sources(folder: &Path, bytes: &mut Vec<u8>) {
    let entries = fs::read_dir(folder).expect("the sources are there when they are tested");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect_sources(&path, bytes);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            bytes.extend(fs::read(&path).expect("it can be read"));
        }
    }
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
