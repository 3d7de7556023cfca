//! The shape of the tree: what stands at the top, how modules begin, and that the texts name
//! paths that exist.

use super::{Tree, Violation};

const TOP_FOLDERS: &[&str] = &["runtime", "shuffle", "scheduler", "apps", "perf", "tools"];
const TOP_FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "README.md", "ARCHITECTURE.md", "LICENSE"];
const TEXTS: &[&str] = &["README.md", "ARCHITECTURE.md"];

pub(super) fn top_level(tree: &Tree) -> Vec<Violation> {
    let misplaced = tree.paths().filter(|path| {
        let known = match path.split_once('/') {
            Some((folder, _)) => TOP_FOLDERS.contains(&folder),
            None => TOP_FILES.contains(path),
        };
        !known && !path.starts_with('.')
    });
    let advice = "the top level is fixed; move it below one of the six folders";
    misplaced.map(|path| Violation::new(path, 0, advice)).collect()
}

pub(super) fn module_docs(tree: &Tree) -> Vec<Violation> {
    let silent = tree.modules().filter(|(_, text)| !text.starts_with("//!"));
    let advice = "start the module with `//!` and say what it is for";
    silent.map(|(path, _)| Violation::new(path, 1, advice)).collect()
}

pub(super) fn named_paths(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for text_path in TEXTS {
        let Some(text) = tree.text(text_path) else {
            violations.push(Violation::new(text_path, 0, "write it: newcomers start here"));
            continue;
        };
        for (line, path) in quoted_paths(text) {
            if !exists(tree, &path) {
                let advice = format!("`{path}` does not exist; correct the text");
                violations.push(Violation::new(text_path, line, advice));
            }
        }
    }
    violations
}

/// The words in backticks that claim to be paths into the repository, outside of code fences.
fn quoted_paths(text: &str) -> Vec<(usize, String)> {
    let mut in_fence = false;
    let mut paths = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
            continue;
        }
        if in_fence {
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        let named = quoted.flat_map(expand_braces).filter(|word| is_path(word));
        paths.extend(named.map(|path| (index + 1, path)));
    }
    paths
}

fn is_path(word: &str) -> bool {
    let plain = !word.contains(|c: char| c.is_whitespace() || "*<>$:".contains(c));
    let in_folder = word.split_once('/').is_some_and(|(folder, _)| TOP_FOLDERS.contains(&folder));
    let is_file = [".rs", ".toml", ".md"].iter().any(|end| word.ends_with(end));
    plain && (in_folder || is_file)
}

/// From the root, or, for a bare file name, anywhere.
fn exists(tree: &Tree, path: &str) -> bool {
    let anywhere = || tree.paths().any(|known| known.rsplit('/').next() == Some(path));
    tree.has(path) || (!path.contains('/') && anywhere())
}

/// `a/{b,c}.rs` stands for `a/b.rs` and `a/c.rs`.
fn expand_braces(word: &str) -> Vec<String> {
    let parts = word.split_once('{').and_then(|(before, rest)| {
        let (choices, after) = rest.split_once('}')?;
        Some((before, choices, after))
    });
    match parts {
        None => vec![word.to_owned()],
        Some((before, choices, after)) => {
            choices.split(',').map(|choice| format!("{before}{}{after}", choice.trim())).collect()
        }
    }
}
