//! Connectors over real files in a folder of the test's own.

mod merging;
mod surviving;

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drizzle_scheduler::{BatchId, Incarnation, Instant, PartitionId};
use proptest::prelude::*;

use super::{
    ConnectorError, JsonLines, JsonLinesSink, LineReader, Lines, MappedFile, Output, Replay,
    TimedRecord,
};
use crate::dataflow::{
    Choice, EventTimes, InputCounters, Limit, Owned, Row, Sink, SinkContext, SinkWriter, Source,
    SourceReader, Stamp,
};
use crate::formats::{Chunk, Field, FieldKind, Fields, JsonRecord};

/// A folder that is empty at first and gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("drizzle-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
    fn names(&self) -> Vec<String> {
        names(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| name(e).unwrap()).collect();
    names.sort();
    names
}

fn limit(bytes: u64) -> Limit {
    Limit { cut: Instant(0), bytes }
}

// Mapped file.

fn partitioned(path: &Path, bytes: u64) -> MappedFile {
    MappedFile::open_partitioned(path, NonZeroU64::new(bytes).unwrap()).unwrap()
}

/// The lines of a chunk without their newlines.
fn lines_of(chunk: Chunk<'_>) -> impl Iterator<Item = Vec<u8>> + '_ {
    chunk.lines().split_inclusive(|&byte| byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.to_vec()
    })
}

/// The lines of each partition, each batch taking about `batch_bytes`.
fn read_all(lines: &MappedFile, batch_bytes: u64) -> Vec<Vec<Vec<u8>>> {
    let mut reader = lines.open().unwrap();
    let read = |partition| {
        let mut read = Vec::new();
        let mut from = reader.first_offset(partition);
        loop {
            let choice = reader.choose(partition, from, &limit(batch_bytes));
            assert!(choice.to > from || choice.ended, "a batch takes something or is the last");
            assert_eq!(choice.asserted, None);
            let before = read.len();
            let each = |chunk: Chunk<'_>| read.extend(lines_of(chunk));
            reader.read_chunks(partition, from..choice.to, each).unwrap();
            assert!(choice.to - from <= batch_bytes || read.len() == before + 1);
            if choice.ended {
                return read;
            }
            from = choice.to;
        }
    };
    (0..lines.partition_count()).map(PartitionId).map(read).collect()
}

#[test]
fn partitions_own_the_lines_that_start_in_them() {
    let folder = Folder::new("own");
    let path = folder.file("in", "aa\nbbbbbbbbbbbb\ncc\n\ndd");
    let owned = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    let expected: Vec<Vec<Vec<u8>>> = vec![
        owned(&["aa", "bbbbbbbbbbbb"]),
        owned(&[]),
        owned(&[]),
        owned(&[]),
        owned(&["cc", ""]),
        owned(&["dd"]),
    ];
    assert_eq!(read_all(&partitioned(&path, 4), 1), expected);
    assert_eq!(read_all(&partitioned(&path, 4), 1000), expected);
}

#[test]
fn a_final_newline_starts_no_line_and_a_missing_one_loses_none() {
    let folder = Folder::new("final");
    for (content, expected) in
        [("", 0), ("\n", 1), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2), ("a\r\n", 1)]
    {
        let path = folder.file("in", content);
        let read = read_all(&partitioned(&path, 1000), 1);
        assert_eq!((read.len(), read[0].len()), (1, expected), "{content:?}");
    }
}

#[test]
fn a_file_has_a_partition_for_each_64_mib() {
    let folder = Folder::new("count");
    let path = folder.file("in", "");
    for (length, expected) in [(0, 1), (1, 1), (64 << 20, 1), ((64 << 20) + 1, 2), (1 << 30, 16)] {
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_eq!(MappedFile::open(&path).unwrap().partition_count(), expected, "{length}");
    }
}

#[test]
fn an_input_truncated_meanwhile_is_said_and_survived() {
    let folder = Folder::new("truncated");
    let path = folder.file("in", "line\n".repeat(10_000));
    let mut reader = MappedFile::open(&path).unwrap().open().unwrap();
    let first = reader.choose(PartitionId(0), 0, &limit(100));
    fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    let read = reader.read_chunks(PartitionId(0), 0..first.to, |_| ());
    assert!(matches!(read, Err(ConnectorError::Truncated { was: 50_000, is: 10, .. })));

    // What a choice met is not forgotten, even if the file is whole again when it is read.
    let next = reader.choose(PartitionId(0), first.to, &limit(100));
    assert!(next.to > first.to && !next.ended);
    fs::File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();
    let read = reader.read_chunks(PartitionId(0), first.to..next.to, |_| ());
    assert!(matches!(read, Err(ConnectorError::Truncated { is: 10, .. })));
}

#[test]
fn what_is_appended_meanwhile_is_not_read() {
    let folder = Folder::new("appended");
    let path = folder.file("in", "a\nb");
    let lines = MappedFile::open(&path).unwrap();
    fs::write(&path, "a\nbc\nd\n").unwrap();
    assert_eq!(read_all(&lines, 1000), [[b"a", b"b"]]);
}

#[test]
fn what_cannot_be_mapped_is_said_in_one_sentence() {
    let folder = Folder::new("cannot");
    let said = |path: &Path| MappedFile::open(path).unwrap_err().to_string();
    let missing = folder.0.join("missing");
    assert_eq!(
        said(&missing),
        format!("cannot open {}: No such file or directory (os error 2)", missing.display())
    );
    assert_eq!(
        said(Path::new("/dev/null")),
        "cannot read /dev/null: it is a pipe, socket or device, and only regular files can be mapped"
    );
    assert!(said(&folder.0).ends_with("it is a folder, and only regular files can be mapped"));
}

proptest! {
    #[test]
    fn all_partitions_together_hold_each_line_once(
        content in "[ab\n]{0,60}",
        partition_bytes in 1u64..40,
        batch_bytes in 0u64..50,
    ) {
        let folder = Folder::new("together");
        let path = folder.file("in", &content);
        let whole = content.strip_suffix('\n').unwrap_or(&content);
        let expected: Vec<&str> =
            if content.is_empty() { Vec::new() } else { whole.split('\n').collect() };
        let read = read_all(&partitioned(&path, partition_bytes), batch_bytes).concat();
        let read: Vec<&str> = read.iter().map(|line| std::str::from_utf8(line).unwrap()).collect();
        prop_assert_eq!(read, expected);
    }
}

// JSON lines.

struct Tick;

impl Row for Tick {
    type Of<'a> = u64;
}

impl JsonRecord for Tick {
    const FIELDS: &'static [Field] = &[Field { name: "t", kind: FieldKind::UnsignedText }];
    const EVENT_TIME: usize = 0;
    fn from_fields<'a>(fields: &Fields<'a>) -> u64 {
        fields.unsigned(0)
    }
}

#[test]
fn lines_are_counted_by_what_they_are_and_malformed_ones_are_kept_verbatim() {
    let folder = Folder::new("dead");
    let path = folder.file("in", b"{\"t\": 5}\n\n \r\nno\xff\r\n{\"t\": \"3\"}\n{\"t\": []}");
    let dead = Output::new(folder.0.join("dead/letters.jsonl"));
    dead.prepare().unwrap();
    let source = JsonLines::<_, Tick>::new(partitioned(&path, 20))
        .out_of_orderness(Duration::from_secs(3))
        .dead_letter(dead.clone());
    assert_eq!((source.partition_count(), source.out_of_orderness_ms()), (2, 3000));

    let mut reader = source.open().unwrap();
    let (mut counters, mut stamps) = (InputCounters::default(), Vec::new());
    for partition in (0..2).map(PartitionId) {
        let from = reader.first_offset(partition);
        let to = reader.choose(partition, from, &limit(1000)).to;
        let mut times = EventTimes::new(source.out_of_orderness_ms());
        let emit = |record: &u64, stamp: &Stamp| stamps.push((*record, stamp.event_time));
        reader.read(partition, from..to, &mut times, &mut counters, emit).unwrap();
    }
    reader.close().unwrap();
    dead.merge().unwrap();
    dead.forget_merge().unwrap();

    assert_eq!(counters, InputCounters { lines: 6, blank: 2, malformed: 2, ok: 2, filtered: 0 });
    assert_eq!(stamps, [(5, 5), (3, 3)]);
    assert_eq!(fs::read(dead.path()).unwrap(), b"no\xff\r\n{\"t\": []}\n");
    assert_eq!(names(&folder.0.join("dead")), ["letters.jsonl"]);
}

#[test]
fn dead_letters_of_a_core_that_is_lost_stay_when_another_reads_the_same_partition() {
    let folder = Folder::new("dead-again");
    let path = folder.file("in", "{\"t\": 1}\nfirst\n{\"t\": 2}\nsecond\nthird\n");
    let dead = Output::new(folder.0.join("dead.jsonl"));
    dead.prepare().unwrap();
    let source = JsonLines::<_, Tick>::new(MappedFile::open(&path).unwrap());
    let source = source.dead_letter(dead.clone());
    let read = |range: std::ops::Range<u64>| {
        let mut reader = source.open().unwrap();
        let (mut times, mut counters) = (EventTimes::new(0), InputCounters::default());
        reader.read(PartitionId(0), range, &mut times, &mut counters, |_, _| {}).unwrap();
    };
    read(0..31);
    // One goes on behind what is known, another one reads again what the first had taken.
    read(31..37);
    read(9..15);
    // Another one was killed while it wrote.
    fs::write(folder.0.join("dead.jsonl.parts/part-00000-00000000000000000003.jsonl"), "thi")
        .unwrap();
    dead.merge().unwrap();
    assert_eq!(fs::read_to_string(dead.path()).unwrap(), "first\nsecond\nthird\nfirst\n");
}

#[test]
fn fingerprints_tell_different_inputs_apart() {
    let folder = Folder::new("fingerprints");
    let source = |content: &str| {
        JsonLines::<_, Tick>::new(MappedFile::open(folder.file("in", content)).unwrap())
    };
    assert_eq!(source("ab").fingerprint(), source("xy").fingerprint());
    assert_ne!(source("ab").fingerprint(), source("abc").fingerprint());
    let late = source("ab").out_of_orderness(Duration::from_secs(1));
    assert_ne!(source("ab").fingerprint(), late.fingerprint());
}

// Sink and part files.

fn write_numbers(output: &Output, partition: u32, numbers: std::ops::Range<u64>) {
    let encode = |number: &u64, text: &mut Vec<u8>| text.extend(number.to_string().as_bytes());
    let sink = JsonLinesSink::<Owned<u64>, _>::new(output.clone(), encode);
    let context = SinkContext { partition: PartitionId(partition), incarnation: Incarnation(1) };
    let mut writer = Sink::<Owned<u64>>::open(&sink, &context).unwrap();
    // A closure's writer does not say for which row it writes.
    let writer: &mut dyn SinkWriter<Owned<u64>> = &mut writer;
    for number in numbers {
        writer.write(BatchId(1), Instant(0), &number).unwrap();
    }
    writer.end_batch(BatchId(1)).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_path_with_jsonl_gives_one_file_in_the_order_of_partitions() {
    let folder = Folder::new("one");
    let output = Output::new(folder.0.join("sub/out.jsonl"));
    output.prepare().unwrap();
    write_numbers(&output, 100_000, 3..4);
    write_numbers(&output, 10, 2..3);
    write_numbers(&output, 9, 1..2);
    assert_eq!(names(&folder.0.join("sub")), ["out.jsonl.parts"]);
    output.merge().unwrap();
    assert_eq!(fs::read_to_string(output.path()).unwrap(), "1\n2\n3\n");
    // A job that goes on after its end does it once more.
    output.merge().unwrap();
    assert_eq!(fs::read_to_string(output.path()).unwrap(), "1\n2\n3\n");
    assert_eq!(names(&folder.0.join("sub/out.jsonl.parts")), ["merged.json"]);
    output.forget_merge().unwrap();
    assert_eq!(names(&folder.0.join("sub")), ["out.jsonl"]);
}

#[test]
fn any_other_path_is_a_folder_of_parts() {
    let folder = Folder::new("many");
    let output = Output::new(&folder.0);
    write_numbers(&output, 3, 0..20_000);
    write_numbers(&output, 0, 0..0);
    output.merge().unwrap();
    assert_eq!(folder.names(), ["part-00000.jsonl", "part-00003.jsonl"]);
    let text = fs::read_to_string(folder.0.join("part-00003.jsonl")).unwrap();
    assert!(text.lines().eq((0..20_000).map(|number| number.to_string())));
    // The next owner of a partition leaves the part of the one before alone.
    write_numbers(&output, 3, 7..8);
    assert_eq!(fs::read_to_string(folder.0.join("part-00003.jsonl")).unwrap(), text);
    let part = folder.0.join("part-00003-00000000000000000001.jsonl");
    assert_eq!(fs::read_to_string(part).unwrap(), "7\n");
}

#[test]
fn preparing_removes_what_an_earlier_run_left_and_nothing_else() {
    let folder = Folder::new("stale");
    for name in ["part-00007.jsonl", "part-x.jsonl", "part-.jsonl", "notes.txt"] {
        folder.file(name, "kept?");
    }
    let one = folder.file("one.jsonl", "stale");
    Output::new(&folder.0).prepare().unwrap();
    assert_eq!(folder.names(), ["notes.txt", "one.jsonl", "part-.jsonl", "part-x.jsonl"]);

    let output = Output::new(&one);
    write_numbers(&output, 7, 0..1);
    output.prepare().unwrap();
    assert!(!one.exists());
    output.merge().unwrap();
    assert_eq!(fs::read_to_string(&one).unwrap(), "", "a job without results has an empty file");
}

#[test]
fn an_output_that_would_overwrite_an_input_can_be_told() {
    let folder = Folder::new("overwrite");
    let input = folder.file("in.jsonl", "x");
    let part = folder.file("part-00001.jsonl", "x");
    assert!(Output::new(folder.0.join("./in.jsonl")).would_overwrite(&input));
    assert!(Output::new(&folder.0).would_overwrite(&part));
    assert!(!Output::new(&folder.0).would_overwrite(&input));
    assert!(!Output::new(folder.0.join("out.jsonl")).would_overwrite(&input));
    assert!(!Output::new(folder.0.join("no/such/out")).would_overwrite(&input));
}

#[test]
fn an_output_that_cannot_be_is_said_in_one_sentence() {
    let folder = Folder::new("impossible");
    let file = folder.file("file", "x");
    let said = Output::new(&file).prepare().unwrap_err().to_string();
    assert_eq!(said, format!("cannot create folder {}: File exists (os error 17)", file.display()));
    fs::create_dir_all(folder.0.join("dir.jsonl/full")).unwrap();
    let said = Output::new(folder.0.join("dir.jsonl")).prepare().unwrap_err().to_string();
    assert!(said.contains("dir.jsonl: Is a directory"), "{said}");
}

// Replays.

impl TimedRecord for u64 {
    fn event_time(&self) -> u64 {
        *self
    }
}

/// Every choice of a replay, at most so many bytes each, and what each of them says.
fn replay_all<S: Source>(source: &S, bytes: u64, mut each: impl FnMut(&Stamp)) -> InputCounters {
    let (mut reader, mut counters) = (source.open().unwrap(), InputCounters::default());
    for partition in (0..source.partition_count()).map(PartitionId) {
        let mut times = EventTimes::new(0);
        let mut from = reader.first_offset(partition);
        loop {
            let Choice { to, ended, .. } = reader.choose(partition, from, &limit(bytes));
            if to > from {
                let emit = |_: &<S::Record as Row>::Of<'_>, stamp: &Stamp| each(stamp);
                reader.read(partition, from..to, &mut times, &mut counters, emit).unwrap();
            }
            if ended {
                break;
            }
            assert!(to > from, "a replay always has more until it ends");
            from = to;
        }
    }
    counters
}

#[test]
fn each_pass_of_a_replay_is_a_span_later() {
    let passes = NonZeroU64::new(3).unwrap();
    let lines = b"{\"t\": 1}\n{\"t\": 2}\nno\n".as_slice();
    let more = b"{\"t\": 5}\n".as_slice();
    let expected = [1, 2, 11, 12, 21, 22, 5, 15, 25];
    for bytes in [1, 9, 12, 1000] {
        let partitions = vec![lines.into(), more.into()];
        let replay = Replay::new(partitions, passes, 10, 1).unwrap();
        let mut times = Vec::new();
        let source = JsonLines::<_, Tick>::new(replay);
        let counters = replay_all(&source, bytes, |stamp| times.push(stamp.event_time));
        assert_eq!(times, expected, "{bytes}");
        assert_eq!((counters.lines, counters.malformed, counters.ok), (12, 3, 9));

        let partitions: Vec<Box<[u64]>> = vec![Box::new([1, 2]), Box::new([5]), Box::new([])];
        let mut times = Vec::new();
        let replay = Replay::new(partitions, passes, 10, 1).unwrap();
        let source = replay.clone().keep(|_| true);
        let counters = replay_all(&source, bytes, |stamp| times.push(stamp.event_time));
        assert_eq!((times.as_slice(), counters.ok), (expected.as_slice(), 9), "{bytes}");
        let (mut times, source) = (Vec::new(), replay.keep(|&time| time == 2));
        let counters = replay_all(&source, bytes, |stamp| times.push(stamp.event_time));
        assert_eq!((times.as_slice(), counters.filtered), ([2, 12, 22].as_slice(), 6), "{bytes}");
    }
    assert!(Replay::<u64>::new(Vec::new(), NonZeroU64::MAX, 2, 1).is_err());
}
