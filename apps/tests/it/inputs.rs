//! The inputs with known answers, and what an output must look like.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Inputs by folder, with the flags that their answers are for.
pub const INPUTS: [(&str, &str); 4] = [
    ("plain", ""),
    ("hostile", ""),
    ("disorder", "--out-of-orderness 3s"),
    ("late", "--out-of-orderness 500ms"),
];

/// The counters of a report.
const COUNTERS: [&str; 8] =
    ["lines", "blank", "malformed", "ok", "filtered", "unmatched", "late", "counted"];

/// An input and its answer.
pub struct Input {
    pub name: &'static str,
    pub flags: &'static str,
    /// The output, each line with its newline, sorted.
    pub lines: Vec<String>,
    pub counters: BTreeMap<String, u64>,
    /// Malformed lines as they came, in the order of the input.
    pub dead_letters: Vec<u8>,
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Expected {
    windows: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
}

impl Input {
    pub fn load((name, flags): (&'static str, &'static str)) -> Input {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ysb").join(name);
        let expected = fs::read(folder.join("expected.json")).expect("it is part of the clone");
        let expected: Expected = serde_json::from_slice(&expected).expect("it is what we expect");
        let events = fs::read(folder.join("events.jsonl")).expect("it is part of the clone");
        let (dead_letters, malformed) = dead_letters(&events);
        let counter = |name: &str| (name.to_owned(), *expected.counters.get(name).unwrap_or(&0));
        let counters: BTreeMap<String, u64> = COUNTERS.map(counter).into();
        assert_eq!(malformed, counters["malformed"], "this test finds other lines malformed");
        let mut lines: Vec<String> = expected.windows.iter().map(line).collect();
        lines.sort_unstable();
        Input { name, flags, lines, counters, dead_letters, folder }
    }

    pub fn all() -> [Input; 4] {
        INPUTS.map(Input::load)
    }

    pub fn events(&self) -> String {
        self.file("events.jsonl")
    }

    pub fn ads(&self) -> String {
        self.file("ads.json")
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("the path of the clone is text").to_owned()
    }
}

/// A line of the output, to the byte.
fn line((window, count): (&String, &u64)) -> String {
    let (campaign, start) = window.split_once('|').expect("campaign and start");
    let campaign = serde_json::to_string(campaign).expect("a string is JSON");
    format!("{{\"campaign_id\": {campaign}, \"window_start\": {start}, \"count\": {count}}}\n")
}

/// What must be set aside, and how many lines it is.
fn dead_letters(events: &[u8]) -> (Vec<u8>, u64) {
    let lines = events.split_inclusive(|&byte| byte == b'\n');
    let is_blank = |line: &&[u8]| line.iter().all(|byte| b" \t\r\n".contains(byte));
    let malformed: Vec<&[u8]> =
        lines.filter(|line| !is_blank(line) && !is_well_formed(line)).collect();
    let mut bytes = malformed.concat();
    if bytes.last().is_some_and(|&last| last != b'\n') {
        bytes.push(b'\n'); // The last line of a file may lack it.
    }
    (bytes, malformed.len() as u64)
}

/// The rule, by building the whole value of a line. It is stricter than the rule where a value that
/// nobody asks for is a number beyond 1e308 or a lone surrogate; the inputs have neither.
fn is_well_formed(line: &[u8]) -> bool {
    let Ok(Value::Object(event)) = serde_json::from_slice(line) else { return false };
    let is_time = match event.get("event_time") {
        Some(Value::String(digits)) => {
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            only_digits && digits.parse::<u128>().is_ok_and(|time| time < 1 << 63)
        }
        Some(Value::Number(time)) => time.as_u64().is_some_and(|time| time < 1 << 63),
        _ => false,
    };
    let is_text = |name: &str| event.get(name).is_some_and(Value::is_string);
    is_time && is_text("ad_id") && is_text("event_type")
}

/// The lines of an output, sorted, each with its newline. Asserts that nothing else is there.
pub fn read_output(path: &Path) -> Vec<String> {
    let text = String::from_utf8(read_whole(path)).expect("output is text");
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// All bytes of a file, or of the part files of a folder in their order.
pub fn read_whole(path: &Path) -> Vec<u8> {
    if path.is_file() {
        let parts = format!("{}.parts", path.display());
        // A job with a folder leaves a note of what was merged.
        let mut left = fs::read_dir(&parts).into_iter().flatten();
        let stays = |name: &str| name == "merged.json" || name.starts_with('.');
        let is_left = left
            .any(|entry| !entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(stays)));
        assert!(!is_left, "{parts} should hold no part after the merge");
        return fs::read(path).expect("we can read it");
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut parts: Vec<PathBuf> =
        entries.map(|entry| entry.expect("we can list it").path()).collect();
    let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    // What a worker that was killed had not shown yet has a name with a dot before it.
    parts.retain(|path| name(path).is_some_and(|name| !name.starts_with('.')));
    parts.sort_unstable();
    let is_part = |path: &PathBuf| {
        name(path).is_some_and(|name| name.starts_with("part-") && name.ends_with(".jsonl"))
    };
    assert!(parts.iter().all(is_part), "only part files: {parts:?}");
    parts.iter().flat_map(|part| fs::read(part).expect("we can read it")).collect()
}

/// A report as it was written.
pub fn read_report(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("a report is JSON")
}

/// The counters of a report.
pub fn counters(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["counters"].clone()).expect("counters are numbers")
}
