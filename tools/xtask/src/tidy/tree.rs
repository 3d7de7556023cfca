//! The files that tidy judges: what git tracks, and what it would track if it were added.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Larger files are data; no rule reads their text.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// The files of a checkout, read once.
pub struct Tree {
    root: PathBuf,
    files: BTreeMap<String, File>,
}

struct File {
    bytes: u64,
    /// Absent where the file is no text, or too large to be a text of ours.
    text: Option<String>,
}

impl Tree {
    /// Reads the checkout at `root`; without git, everything below it but `target/`.
    pub fn open(root: &Path) -> Result<Tree> {
        let paths = match listed_by_git(root) {
            Some(paths) => paths,
            None => found_by_walking(root)?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            let full = root.join(&path);
            // What git still lists although it was deleted is not in the tree.
            let Ok(metadata) = fs::metadata(&full) else { continue };
            let bytes = metadata.len();
            let text = if bytes <= MAX_TEXT_BYTES { fs::read_to_string(&full).ok() } else { None };
            files.insert(path, File { bytes, text });
        }
        Ok(Tree { root: root.to_owned(), files })
    }

    /// A tree without a disk, for the tests of the rules.
    #[cfg(test)]
    pub(super) fn of(texts: &[(&str, &str)]) -> Tree {
        let file = |text: &str| File { bytes: text.len() as u64, text: Some(text.to_owned()) };
        let files = texts.iter().map(|(path, text)| (String::from(*path), file(text))).collect();
        Tree { root: PathBuf::new(), files }
    }

    /// Where the checkout stands.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All paths, relative to the root, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The text of one file, if it is there and is a text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, file)| Some((path.as_str(), file.text.as_deref()?)))
    }

    /// The modules: all Rust files but test data.
    pub(super) fn modules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with(".rs") && !path.contains("tests/data/"))
    }

    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file.bytes))
    }

    /// Whether a file or a folder with this path is there.
    pub(super) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let below = self.files.range(folder.clone()..).next();
        self.files.contains_key(path) || below.is_some_and(|(next, _)| next.starts_with(&folder))
    }
}

/// None where git is missing, `root` is no checkout, or it lies in a checkout of something else.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .ok()?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let paths: Vec<String> =
        listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    let complete = output.status.success() && paths.iter().any(|path| path == "Cargo.toml");
    complete.then_some(paths)
}

fn found_by_walking(root: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let path = entry.path();
            let relative = path.strip_prefix(root).context("an entry lies below the root")?;
            let skipped = relative == Path::new("target") || relative == Path::new(".git");
            if skipped {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else {
                paths.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    Ok(paths)
}
