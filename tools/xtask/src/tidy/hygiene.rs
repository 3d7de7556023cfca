//! What must not be in a tree that others clone: paths of one machine, registry hosts, large blobs.

use super::source::is_identifier;
use super::{Tree, Violation};

/// Test inputs may be large and may say anything.
const TEST_INPUTS: &str = "apps/tests/data/";
const MAX_BYTES: u64 = 1 << 20;

// In pieces, so that this file does not break its own rule.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];
const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", "."),
    concat!("deb.", "debian"),
    concat!("archive.", "ubuntu"),
];

pub(super) fn machine_paths(tree: &Tree) -> Vec<Violation> {
    let judged = tree
        .texts()
        .filter(|(path, _)| !path.ends_with("Cargo.lock") && !path.starts_with(TEST_INPUTS));
    judged.flat_map(|(path, text)| machine_paths_in(path, text)).collect()
}

fn machine_paths_in(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut report = |advice: String| violations.push(Violation::new(path, index + 1, advice));
        for machine_path in MACHINE_PATHS.iter().filter(|machine| is_absolute_in(line, machine)) {
            report(format!("`{machine_path}` is a path of one machine; take it from a flag"));
        }
        for host in REGISTRY_HOSTS.iter().filter(|host| line.contains(**host)) {
            report(format!("`{host}` is a registry's host; let the package manager name it"));
        }
    }
    violations
}

/// Whether `line` holds the path itself, not the tail of a longer one.
fn is_absolute_in(line: &str, machine_path: &str) -> bool {
    line.match_indices(machine_path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| is_identifier(c) || "-.}])*/~".contains(c))
    })
}

pub(super) fn blobs(tree: &Tree) -> Vec<Violation> {
    let large =
        tree.sizes().filter(|(path, bytes)| *bytes > MAX_BYTES && !path.starts_with(TEST_INPUTS));
    let violation = |(path, bytes)| {
        let advice =
            format!("{bytes} bytes are too many; generate it, or put it into {TEST_INPUTS}");
        Violation::new(path, 0, advice)
    };
    large.map(violation).collect()
}
