//! Lengths of files and functions, and calls of `unwrap` outside tests: limits with a ratchet.
//!
//! A line of `tools/xtask/ratchet.txt` excepts one place with its present number. It must be lowered
//! when the place improves and goes when the place keeps the limit.

use std::collections::BTreeMap;

use super::source::Source;
use super::words::test_files;
use super::{Tree, Violation, covers};

const RATCHET: &str = "tools/xtask/ratchet.txt";
const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_UNWRAPS: usize = 0;

/// What is too much, by the key that a line of the ratchet names.
type Excesses = BTreeMap<String, Excess>;

struct Excess {
    path: String,
    line: usize,
    count: usize,
    advice: String,
}

struct Exception {
    line: usize,
    allowed: usize,
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let excesses = excesses(tree);
    let (exceptions, mut violations) = exceptions(tree.text(RATCHET).unwrap_or_default());
    for (key, excess) in &excesses {
        let allowed = exceptions.get(key).map_or(0, |exception| exception.allowed);
        if excess.count > allowed {
            let advice = format!("{} (or `{key} {}` in {RATCHET})", excess.advice, excess.count);
            violations.push(Violation::new(&excess.path, excess.line, advice));
        }
    }
    for (key, exception) in &exceptions {
        let advice = match excesses.get(key) {
            None => format!("`{key}` keeps the limit: take the line out"),
            Some(excess) if excess.count < exception.allowed => {
                format!("`{key}` is down to {}: lower the number", excess.count)
            }
            Some(_) => continue,
        };
        violations.push(Violation::new(RATCHET, exception.line, advice));
    }
    violations
}

fn excesses(tree: &Tree) -> Excesses {
    let test_files = test_files(tree);
    let mut excesses = Excesses::new();
    for (path, text) in tree.modules() {
        if test_files.iter().any(|entry| covers(entry, path)) {
            continue;
        }
        let source = Source::new(text);
        excesses.extend(long_file(path, &source));
        excesses.extend(unwraps(path, &source));
        for (key, excess) in long_functions(path, &source) {
            // Of several functions with one name, the longest speaks.
            if excesses.get(&key).is_none_or(|known| known.count < excess.count) {
                excesses.insert(key, excess);
            }
        }
    }
    excesses
}

fn long_file(path: &str, source: &Source<'_>) -> Option<(String, Excess)> {
    let count = source.lines_without_tests();
    let advice = format!("{count} lines without tests, {MAX_FILE_LINES} are allowed: split it");
    let excess = Excess { path: path.to_owned(), line: 0, count, advice };
    (count > MAX_FILE_LINES).then(|| (format!("file {path}"), excess))
}

fn unwraps(path: &str, source: &Source<'_>) -> Option<(String, Excess)> {
    let found: Vec<usize> =
        source.find(".unwrap()").into_iter().filter(|at| !source.in_test(*at)).collect();
    let count = found.len();
    let line = source.line(*found.first()?);
    let advice = format!("{count} x unwrap: return the error, or `expect` with why it holds");
    let excess = Excess { path: path.to_owned(), line, count, advice };
    (count > MAX_UNWRAPS).then(|| (format!("unwrap {path}"), excess))
}

fn long_functions(path: &str, source: &Source<'_>) -> Vec<(String, Excess)> {
    let functions = source.functions().into_iter();
    let long = functions
        .filter(|function| function.lines > MAX_FUNCTION_LINES && !source.in_test(function.offset));
    let entry = |function: super::source::Function| {
        let (name, count, line) = (function.name, function.lines, function.line);
        let advice =
            format!("`{name}` has {count} lines, {MAX_FUNCTION_LINES} are allowed: cut it");
        let excess = Excess { path: path.to_owned(), line, count, advice };
        (format!("function {path}::{name}"), excess)
    };
    long.map(entry).collect()
}

/// Reads `kind place number`; `#` starts a comment.
fn exceptions(text: &str) -> (BTreeMap<String, Exception>, Vec<Violation>) {
    let mut exceptions = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> =
            line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let parsed = match words[..] {
            [] => continue,
            [kind @ ("file" | "function" | "unwrap"), place, number] => {
                number.parse().ok().map(|allowed| (format!("{kind} {place}"), allowed))
            }
            _ => None,
        };
        let Some((key, allowed)) = parsed else {
            let advice = "write `file|function|unwrap path[::function] number`";
            violations.push(Violation::new(RATCHET, index + 1, advice));
            continue;
        };
        exceptions.insert(key, Exception { line: index + 1, allowed });
    }
    (exceptions, violations)
}
