//! Unsafe code: in the islands only, each site argued from a numbered invariant of its module.

use super::source::Source;
use super::{Tree, Violation, covers};

/// Modules, each with its submodules.
const ISLANDS: &[&str] = &[
    "shuffle/src/segment.rs",
    "shuffle/src/archive.rs",
    "runtime/src/io.rs",
    "runtime/src/host.rs",
    "runtime/src/mailbox.rs",
    "runtime/src/clock.rs",
    "runtime/src/connectors/mapped_file.rs",
    "runtime/src/formats/json/scan.rs",
    "apps/tests/allocations/counting.rs",
];

/// How far above the site, in lines of code, its comment may end.
const NEAR: usize = 3;

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.modules().flat_map(|(path, text)| judge(tree, path, text)).collect()
}

fn judge(tree: &Tree, path: &str, text: &str) -> Vec<Violation> {
    let source = Source::new(text);
    let sites = source.find("unsafe");
    if sites.is_empty() {
        return Vec::new();
    }
    if !ISLANDS.iter().any(|island| covers(island, path)) {
        let advice = "unsafe code outside of the islands; the list is in tools/xtask/src/tidy";
        return sites.iter().map(|at| Violation::new(path, source.line(*at), advice)).collect();
    }
    let invariants = invariants(tree, path, text);
    let missing = |at: &usize| {
        let advice = missing_argument(&source, *at, &invariants)?;
        Some(Violation::new(path, source.line(*at), advice))
    };
    sites.iter().filter_map(missing).collect()
}

fn missing_argument(source: &Source<'_>, at: usize, invariants: &[u32]) -> Option<&'static str> {
    let rest = source.code[at + "unsafe".len()..].trim_start();
    let comment = comment_above(source.text, source.line(at));
    if rest.starts_with('{') || rest.starts_with("impl") {
        let Some((_, argument)) = comment.split_once("SAFETY") else {
            return Some("write a SAFETY comment above: which invariant makes this sound here");
        };
        let cited = numbers(argument).iter().any(|number| invariants.contains(number));
        return (!cited).then_some("the SAFETY comment cites no number of the module's invariants");
    }
    // A declaration: its caller has to argue, and must be told what.
    let declares = rest.strip_prefix("fn").is_some_and(|rest| rest.starts_with(' '));
    let told = comment.contains("SAFETY") || comment.contains("# Safety");
    (declares && !told).then_some("say under `# Safety` what the caller has to keep")
}

/// The comment that ends at most a few lines of code above a line (counted from one).
fn comment_above(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line - 1).map(str::trim).collect();
    let is_comment = |line: &&&str| line.starts_with("//");
    let code = lines.iter().rev().take_while(|line| !is_comment(line)).count();
    if code > NEAR {
        return String::new();
    }
    let block = lines.iter().rev().skip(code).take_while(is_comment).copied();
    let mut block: Vec<&str> = block.collect();
    block.reverse();
    block.join("\n")
}

/// The numbers of the invariants that the module's doc lists; if it lists none, its parent's.
fn invariants(tree: &Tree, path: &str, text: &str) -> Vec<u32> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let parents = [format!("{folder}/mod.rs"), format!("{folder}.rs")];
    let parents = parents.iter().filter_map(|parent| tree.text(parent));
    let mut lists = std::iter::once(text).chain(parents).map(listed);
    lists.find(|list| !list.is_empty()).unwrap_or_default()
}

/// The numbers of lines such as `//! 1. text` or `//! - I1: text`.
fn listed(text: &str) -> Vec<u32> {
    let docs = text.lines().filter_map(|line| line.strip_prefix("//!"));
    let number = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "-*(I".contains(c));
        let end = line.find(|c: char| !c.is_ascii_digit())?;
        let marked = line[end..].starts_with(['.', ')', ':', '*']);
        marked.then(|| line[..end].parse().ok()).flatten()
    };
    docs.filter_map(number).collect()
}

/// The whole numbers of a text that are no part of a longer word, `I1` apart.
fn numbers(text: &str) -> Vec<u32> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter_map(|word| word.strip_prefix('I').unwrap_or(word).parse().ok()).collect()
}
