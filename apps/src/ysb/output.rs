//! What a run on a file wrote, read back: each campaign and window once, and together as many views
//! as were counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use drizzle::connectors::Output;
use serde::Deserialize;

/// What the lines of an output come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Different windows.
    pub windows: u64,
    /// Lines.
    pub rows: u64,
    /// Sum of their counts.
    pub counted: u64,
    /// Views in lines that repeat a campaign and window.
    pub repeated: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    campaign_id: String,
    window_start: u64,
    count: u64,
}

impl Summary {
    /// Reads an output that lies on this host.
    pub fn read(output: &Output) -> Result<Summary> {
        let mut summary = Summary::default();
        let mut seen: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for path in files(output.path())? {
            let cannot = || format!("cannot read {} back", path.display());
            for line in BufReader::new(File::open(&path).with_context(cannot)?).lines() {
                let line = line.with_context(cannot)?;
                let Line { campaign_id, window_start, count } = serde_json::from_str(&line)
                    .with_context(|| format!("{} holds the line {line:?}", path.display()))?;
                summary.rows += 1;
                summary.counted += count;
                if !seen.entry(window_start).or_default().insert(campaign_id) {
                    summary.repeated += count;
                }
            }
        }
        summary.windows = seen.len() as u64;
        Ok(summary)
    }

    /// Views that are missing of the `counted` ones, and views that are there too often.
    pub fn lost_and_duplicated(&self, counted: u64) -> (u64, u64) {
        let lost = counted.saturating_sub(self.counted - self.repeated);
        (lost, self.counted.saturating_sub(counted).max(self.repeated))
    }
}

/// The file, or the files of the folder.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let files = entries.map(|entry| entry.map(|entry| entry.path()));
    let files: std::io::Result<Vec<PathBuf>> = files.collect();
    let mut files = files.with_context(|| format!("cannot list {}", path.display()))?;
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("part-") && name.ends_with(".jsonl")
    });
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::Summary;
    use drizzle::connectors::Output;

    #[test]
    fn a_repeated_row_is_told_from_a_missing_one() {
        let path = std::env::temp_dir().join(format!("drizzle-out-{}.jsonl", std::process::id()));
        let row = |campaign: &str, count: u64| {
            format!(
                "{{\"campaign_id\": \"{campaign}\", \"window_start\": 0, \"count\": {count}}}\n"
            )
        };
        std::fs::write(&path, [row("a", 2), row("b", 3), row("b", 1)].concat()).unwrap();
        let summary = Summary::read(&Output::new(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(summary, Summary { windows: 1, rows: 3, counted: 6, repeated: 1 });
        assert_eq!(summary.lost_and_duplicated(5), (0, 1));
        assert_eq!(summary.lost_and_duplicated(7), (2, 1));
    }
}
