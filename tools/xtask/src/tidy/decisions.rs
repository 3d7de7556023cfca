//! What keeps decisions pure: the same events give the same actions, on every machine and in the
//! simulator. Decisions name nothing of the standard library but what is on a short list; the
//! simulator and its program may use more of it, but no clock, thread, socket or file. That the
//! crate has no dependency is the affair of `arrows`, that it has no unsafe code that of `unsafety`.

use super::source::{Source, is_identifier};
use super::words::test_files;
use super::{Tree, Violation, covers};

/// What decisions may name, each with all below it. A new entry needs the same answer in every run.
const PURE: &[&str] = &[
    "std::array",
    "std::cmp",
    "std::collections::BTreeMap",
    "std::collections::BTreeSet",
    "std::collections::BinaryHeap",
    "std::collections::VecDeque",
    "std::collections::btree_map",
    "std::collections::btree_set",
    "std::collections::vec_deque",
    "std::convert",
    "std::error",
    "std::fmt",
    "std::iter",
    "std::marker",
    "std::mem",
    "std::num",
    "std::ops",
    "std::slice",
    "std::str",
    "std::sync::Arc",
];

/// What nothing below `scheduler/` may name, tests included.
const OUTSIDE: &[&str] = &["std::time", "std::thread", "std::net", "std::fs"];

/// What the simulator may not name either: it returns what its program prints.
const TALKING: &[&str] = &["std::io", "std::env", "std::process", "std::os"];

/// The same in every place: the order of hashed collections and the rounding of floats are nobody's.
const NOWHERE: &[(&str, &str)] = &[
    ("HashMap", "iterate ordered collections only"),
    ("HashSet", "iterate ordered collections only"),
    ("RandomState", "iterate ordered collections only"),
    ("f32", "use whole numbers"),
    ("f64", "use whole numbers"),
];

/// A part of the crate that has rules of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    Decisions,
    Simulator,
    /// The simulator's command line.
    Program,
    Tests,
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let test_files = test_files(tree);
    let judge = |(path, text): (&str, &str)| {
        let Some(inside) = path.strip_prefix("scheduler/") else { return Vec::new() };
        if inside == "build.rs" {
            let advice =
                "a build script runs on one machine; decisions are built from source alone";
            return vec![Violation::new(path, 0, advice)];
        }
        let is_test = test_files.iter().any(|entry| covers(entry, path));
        let source = Source::new(text);
        let mut violations = words(path, &source, zone(inside, is_test));
        violations.extend(paths(path, &source, zone(inside, is_test)));
        violations.sort_by_key(|violation| violation.line);
        violations
    };
    tree.modules().flat_map(judge).collect()
}

fn zone(inside: &str, is_test: bool) -> Zone {
    match inside {
        _ if is_test => Zone::Tests,
        _ if covers("src/sim.rs", inside) => Zone::Simulator,
        _ if covers("src/bin/", inside) => Zone::Program,
        _ => Zone::Decisions,
    }
}

fn words(path: &str, source: &Source<'_>, zone: Zone) -> Vec<Violation> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut ban = |word: &str, advice: &str| {
        let advice = format!("`{word}`: {advice}");
        found.extend(source.find(word).into_iter().map(|at| (at, advice.clone())));
    };
    for (word, advice) in NOWHERE {
        ban(word, advice);
    }
    if matches!(zone, Zone::Decisions | Zone::Simulator) {
        ban("eprintln!", "return a value; only the simulator's program prints");
        ban("eprint!", "return a value; only the simulator's program prints");
        ban("thread_local!", "nothing here belongs to a thread");
    }
    if zone == Zone::Decisions {
        ban("crate::sim", "decisions do not know that they are simulated");
    }
    found.extend(floats(&source.code).into_iter().map(|at| {
        let advice = "a number with a fraction or an exponent: use whole numbers";
        (at, advice.to_owned())
    }));
    // A test that is inside of a module of decisions obeys these as well.
    found.into_iter().map(|(at, advice)| Violation::new(path, source.line(at), advice)).collect()
}

fn paths(path: &str, source: &Source<'_>, zone: Zone) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, name) in library_paths(&source.code) {
        let zone = if source.in_test(at) { Zone::Tests } else { zone };
        let advice = match zone {
            _ if is_below(OUTSIDE, &name) => "no clock, thread, socket or file in the scheduler",
            Zone::Tests | Zone::Program => continue,
            Zone::Simulator if is_below(TALKING, &name) => {
                "the simulator neither prints nor asks; its program does"
            }
            Zone::Simulator => continue,
            Zone::Decisions if is_below(PURE, &name) => continue,
            Zone::Decisions => "not on the list of tools/xtask/src/tidy/decisions.rs",
        };
        violations.push(Violation::new(path, source.line(at), format!("`{name}`: {advice}")));
    }
    violations
}

/// Whether the list has `name` or something above it. A glob, or a module under another name, could
/// bring in what is below it.
fn is_below(list: &[&str], name: &str) -> bool {
    let starts = |entry: &str| {
        name.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    list.iter().any(|entry| starts(entry))
}

/// The paths into the standard library, braces taken apart, with `std` for `core` and `alloc`.
fn library_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for root in ["std", "core", "alloc"] {
        for (at, _) in code.match_indices(root) {
            let (before, after) = (&code[..at], &code[at + root.len()..]);
            let longer = |c: char| is_identifier(c) || c == '\'';
            let is_whole = !before.ends_with(longer) && !after.starts_with(longer);
            let parent = before.strip_suffix("::").unwrap_or_default();
            let is_root = !parent.ends_with(|c: char| is_identifier(c) || c == '>');
            if !(is_whole && is_root) {
                continue;
            }
            // `use std as other`: what the other name then brings in cannot be seen.
            let import = before.trim_end_matches(':').trim_end();
            let is_renamed = import.ends_with("use") || import.ends_with("crate");
            if let Some(rest) = after.strip_prefix("::") {
                branches(code, code.len() - rest.len(), "std", &mut paths);
            } else if is_renamed && after.trim_start().starts_with("as ") {
                paths.push((at, "std".to_owned()));
            }
        }
    }
    paths
}

/// The paths that begin at `at`, below `above`; where they end.
fn branches(code: &str, at: usize, above: &str, paths: &mut Vec<(usize, String)>) -> usize {
    let rest = &code[at..];
    if !rest.starts_with('{') {
        let length = rest.find(|c: char| !is_identifier(c)).unwrap_or(rest.len());
        let length = if rest.starts_with('*') { 1 } else { length };
        let name = format!("{above}::{}", &rest[..length]);
        let end = at + length;
        return match code[end..].strip_prefix("::") {
            // `Vec::<u8>` is a path to `Vec`.
            Some(below) if below.starts_with(|c: char| is_identifier(c) || "{*".contains(c)) => {
                branches(code, end + "::".len(), &name, paths)
            }
            Some(_) | None => {
                paths.push((at, name));
                end
            }
        };
    }
    let mut at = at + 1;
    while let Some(next) = code[at..].find(|c: char| is_identifier(c) || "*}".contains(c)) {
        at += next;
        if code[at..].starts_with('}') {
            return at + 1;
        }
        at = branches(code, at, above, paths);
        // The other name of `a as b` is no path.
        let item_end = code[at..].find([',', '}']).unwrap_or(code.len() - at);
        at += item_end;
    }
    code.len()
}

/// Where numbers with a fraction or an exponent stand.
fn floats(code: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let is_start = |at: usize| {
        let before = code[..at].chars().next_back();
        // Neither the end of a name, nor the field of a tuple; but the end of a range.
        let is_field = before == Some('.') && !code[..at].ends_with("..");
        bytes[at].is_ascii_digit() && !before.is_some_and(is_identifier) && !is_field
    };
    (0..bytes.len()).filter(|&at| is_start(at) && is_float(&code[at..])).collect()
}

fn is_float(number: &str) -> bool {
    let digits =
        |text: &str| text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let rest = &number[digits(number)..];
    let mut after = rest.chars();
    match after.next() {
        // No range, and no method of a whole number.
        Some('.') => !after.next().is_some_and(|c| c == '.' || c == '_' || c.is_alphabetic()),
        Some('e' | 'E') => {
            let exponent = after.as_str().trim_start_matches(['+', '-', '_']);
            exponent.starts_with(|c: char| c.is_ascii_digit())
        }
        Some(_) | None => false,
    }
}
