//! The rules of style that a machine can check, each a function from a `Tree` to its violations.

mod arrows;
mod decisions;
mod hygiene;
mod layout;
mod length;
mod licences;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod unsafety;
mod words;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub use tree::Tree;

/// One rule. Its name is also the name of its test in `tools/xtask/tests/tidy.rs`.
pub struct Rule {
    /// What the rule is called.
    pub name: &'static str,
    /// What the rule asks for, in one line.
    pub summary: &'static str,
    /// Finds what breaks it.
    pub check: fn(&Tree) -> Vec<Violation>,
}

/// All rules, in the order in which they run.
pub const RULES: &[Rule] = &[
    Rule {
        name: "arrows",
        summary: "scheduler <- shuffle <- runtime <- apps <- perf; scheduler depends on nothing",
        check: arrows::check,
    },
    Rule {
        name: "top_level",
        summary: "the top level holds the six folders, the manifest, the texts and dot files only",
        check: layout::top_level,
    },
    Rule {
        name: "module_docs",
        summary: "every module starts with `//!`",
        check: layout::module_docs,
    },
    Rule {
        name: "named_paths",
        summary: "paths named in README.md and ARCHITECTURE.md exist",
        check: layout::named_paths,
    },
    Rule {
        name: "banned_words",
        summary: "clocks, threads, async, floats and leftovers only where they belong",
        check: words::check,
    },
    Rule {
        name: "decisions",
        summary: "no clock, IO, thread, float or hashed collection in scheduler/",
        check: decisions::check,
    },
    Rule {
        name: "unsafe_islands",
        summary: "unsafe code in named files only, each site with a SAFETY comment citing an invariant",
        check: unsafety::check,
    },
    Rule {
        name: "lengths",
        summary: "files of 600 lines, functions of 70, no unwrap; exceptions in the ratchet",
        check: length::check,
    },
    Rule {
        name: "machine_paths",
        summary: "no absolute path of one machine and no registry host in the tree",
        check: hygiene::machine_paths,
    },
    Rule { name: "blobs", summary: "no file over 1 MiB but test inputs", check: hygiene::blobs },
    Rule {
        name: "licences",
        summary: "every dependency may be used under a licence of the short list",
        check: licences::check,
    },
];

/// One place where a rule is broken, with what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    path: String,
    line: usize,
    advice: String,
}

impl Violation {
    /// `line` counts from one; zero stands for the whole file.
    fn new(path: &str, line: usize, advice: impl Into<String>) -> Violation {
        Violation { path: path.to_owned(), line, advice: advice.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.advice),
            line => write!(f, "{}:{line}: {}", self.path, self.advice),
        }
    }
}

/// The root of the checkout that holds this crate.
pub fn workspace_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root =
        manifest.ancestors().nth(2).context("tools/xtask stands two levels below the root")?;
    Ok(root.to_owned())
}

/// How many packages the lock file names, ours included.
pub fn crate_count(tree: &Tree) -> usize {
    let lock = tree.text("Cargo.lock").unwrap_or_default();
    lock.lines().filter(|line| *line == "[[package]]").count()
}

/// Whether the entry of an allow list stands for `path`: `a/b/` for all below it, `a/b.rs` for that
/// module and its submodules.
fn covers(entry: &str, path: &str) -> bool {
    if entry.ends_with('/') {
        return path.starts_with(entry);
    }
    let folder = entry.strip_suffix(".rs").and_then(|module| path.strip_prefix(module));
    path == entry || folder.is_some_and(|rest| rest.starts_with('/'))
}
