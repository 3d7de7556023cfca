//! Calls and words that have one place, or none.

use std::collections::BTreeSet;

use super::source::{Source, find_word};
use super::{Tree, Violation, covers};

struct Ban {
    words: &'static [&'static str],
    /// Where the ban holds; an empty list is everywhere.
    within: &'static [&'static str],
    allowed: &'static [&'static str],
    tests: Tests,
    advice: &'static str,
}

#[derive(PartialEq)]
enum Tests {
    Banned,
    Allowed,
}

// Some words are in pieces, so that this file does not break its own rule or those of simple greps.
const BANS: &[Ban] = &[
    Ban {
        words: &["Instant::now", "SystemTime"],
        within: &[],
        allowed: &["runtime/src/clock.rs", "tools/xtask/src/sim.rs"],
        tests: Tests::Banned,
        advice: "take the time as an argument; only runtime/src/clock.rs reads a clock",
    },
    Ban {
        words: &["thread::spawn", "thread::Builder", "thread::scope"],
        within: &[],
        allowed: &[
            "runtime/src/host.rs",
            "runtime/src/node.rs",
            // A disk is waited for on a thread of its own, so that no core and no control loop waits.
            "runtime/src/storage/desk.rs",
            // So is a sender over TCP, and whoever sends has threads instead of cores.
            "runtime/src/connectors/tcp_lines.rs",
            "perf/src/shuffle/mailbox.rs",
            "perf/src/proxy.rs",
        ],
        tests: Tests::Allowed,
        advice: "threads are started by hosts, nodes, the storage desk and lines over TCP only, and to measure two cores or disturb a network",
    },
    Ban {
        words: &["thread::sleep"],
        within: &[],
        allowed: &["perf/"],
        tests: Tests::Banned,
        advice: "wait for an event, not for time",
    },
    Ban {
        words: &["async", ".await"],
        within: &[],
        allowed: &["runtime/src/host/glommio.rs", "runtime/src/host/direct.rs"],
        tests: Tests::Banned,
        advice: "nothing suspends in the middle; async stays behind the glommio host",
    },
    Ban {
        words: &["glommio::", "use glommio;"],
        within: &[],
        allowed: &["runtime/src/host.rs"],
        tests: Tests::Banned,
        advice: "glommio stays behind the small trait of runtime/src/host",
    },
    Ban {
        words: &["println!", "print!"],
        within: &[],
        allowed: &["apps/src/", "perf/src/", "scheduler/src/bin/", "tools/"],
        tests: Tests::Banned,
        advice: "only programs print; return a value or count it",
    },
    Ban {
        words: &["todo!", "unimplemented!", "dbg!", concat!("#[", "ignore")],
        within: &[],
        allowed: &[],
        tests: Tests::Banned,
        advice: "finish it, or take it out",
    },
];

/// Banned in comments and strings too.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let test_files = test_files(tree);
    let judge = |(path, text)| {
        let source = Source::new(text);
        let is_test = test_files.iter().any(|entry| covers(entry, path));
        let mut violations = banned(path, &source, is_test);
        violations.extend(marks(path, &source));
        violations.extend(default_options(path, &source));
        violations
    };
    tree.modules().flat_map(judge).collect()
}

/// The files that exist only for tests, as entries of an allow list.
pub(super) fn test_files(tree: &Tree) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (path, text) in tree.modules() {
        let mut parts = path.split('/');
        if parts.any(|part| matches!(part, "tests" | "tests.rs" | "benches")) {
            files.insert(path.to_owned());
        }
        let folder = module_folder(path);
        let source = Source::new(text);
        let declared = source.test_modules();
        files.extend(declared.iter().map(|name| format!("{folder}/{name}.rs")));
    }
    files
}

/// The folder in which the submodules of a module stand.
fn module_folder(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let roots = ["/mod", "/lib", "/main"];
    roots.iter().find_map(|root| stem.strip_suffix(root)).unwrap_or(stem)
}

fn banned(path: &str, source: &Source<'_>, is_test: bool) -> Vec<Violation> {
    let mut violations = Vec::new();
    let holds = |ban: &&Ban| {
        let within = ban.within.is_empty() || ban.within.iter().any(|entry| covers(entry, path));
        within && !ban.allowed.iter().any(|entry| covers(entry, path))
    };
    for ban in BANS.iter().filter(holds) {
        for word in ban.words {
            let found = source
                .find(word)
                .into_iter()
                .filter(|at| ban.tests == Tests::Banned || !(is_test || source.in_test(*at)));
            let advice = format!("`{word}`: {}", ban.advice);
            violations
                .extend(found.map(|at| Violation::new(path, source.line(at), advice.as_str())));
        }
    }
    violations
}

fn marks(path: &str, source: &Source<'_>) -> Vec<Violation> {
    let found = MARKS.iter().flat_map(|mark| find_word(source.text, mark));
    let advice = "an unfinished mark: finish it, or open an issue and take the mark out";
    found.map(|at| Violation::new(path, source.line(at), advice)).collect()
}

/// Choices that matter have no default, neither written nor derived.
fn default_options(path: &str, source: &Source<'_>) -> Vec<Violation> {
    let named_options = |rest: &str| {
        let name = rest.trim_start().split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
        name.is_some_and(|name| name.ends_with("Options"))
    };
    let written = source.find("Default for").into_iter();
    let written = written.filter(|at| named_options(&source.code[at + "Default for".len()..]));
    let derived = source.find("struct").into_iter().filter(|at| {
        let attributes = source.code[..*at].lines().rev().skip(1);
        let mut attributes = attributes.take_while(|line| line.trim_start().starts_with("#["));
        named_options(&source.code[at + "struct".len()..])
            && attributes.any(|line| line.contains("derive") && line.contains("Default"))
    });
    let advice = "options have no default: name each choice where it is made";
    written.chain(derived).map(|at| Violation::new(path, source.line(at), advice)).collect()
}
