//! Sinks by the contracts that survive losses.

use drizzle_scheduler::Epoch;

use super::*;
use crate::connectors::{GrowingFile, LineReader, Lines, UpsertLog, UpsertSink, UpsertWriter};
use crate::dataflow::{Beginning, Origin, Piece};

type Encode = fn(&(u64, u64), &mut Vec<u8>, &mut Vec<u8>);
type Row64 = Owned<(u64, u64)>;

/// A writer of pairs, the key first, for one life of the owner of partition 0.
fn upserts(log: &UpsertLog, life: u64) -> UpsertWriter<Encode> {
    let encode: Encode = |(key, value), key_out, value_out| {
        key_out.extend(key.to_string().as_bytes());
        value_out.extend(value.to_string().as_bytes());
    };
    let sink = UpsertSink::<Row64, Encode>::new(log.clone(), encode);
    let context = SinkContext { partition: PartitionId(0), incarnation: Incarnation(life) };
    Sink::<Row64>::open(&sink, &context).unwrap()
}

fn upsert(writer: &mut UpsertWriter<Encode>, batch: u64, key: u64, value: u64) {
    let writer: &mut dyn SinkWriter<Row64> = writer;
    writer.write(BatchId(batch), Instant(100 * batch), &(key, value)).unwrap();
    writer.end_batch(BatchId(batch)).unwrap();
}

fn begin(writer: &mut UpsertWriter<Encode>, epoch: u64, after: u64) {
    let writer: &mut dyn SinkWriter<Row64> = writer;
    writer.begin(Beginning { epoch: Epoch(epoch), after: BatchId(after) }).unwrap();
}

/// Key, value, batch and time of all that counts.
fn held(log: &UpsertLog) -> Vec<(String, String, u64, u64)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let rows = log.read().unwrap().into_iter();
    rows.map(|(key, it)| (text(&key), text(&it.value), it.batch.0, it.at.0)).collect()
}

fn row(key: &str, value: &str, batch: u64, at: u64) -> (String, String, u64, u64) {
    (key.to_owned(), value.to_owned(), batch, at)
}

#[test]
fn what_a_lost_writer_wrote_counts_up_to_the_checkpoint_that_its_successor_starts_from() {
    let folder = Folder::new("upsert-lost");
    let log = UpsertLog::new(&folder.0);
    log.prepare().unwrap();
    let mut lost = upserts(&log, 5);
    let _never_wrote = upserts(&log, 9);
    upsert(&mut lost, 3, 1, 10);
    upsert(&mut lost, 7, 2, 20);
    // The successor is an older process than the one that was lost.
    let mut successor = upserts(&log, 2);
    begin(&mut successor, 4, 5);
    assert_eq!(held(&log), [row("1", "10", 3, 300)]);
    upsert(&mut successor, 8, 2, 21);
    // It wakes and does not know.
    upsert(&mut lost, 9, 2, 99);
    upsert(&mut lost, 9, 3, 99);
    assert_eq!(held(&log), [row("1", "10", 3, 300), row("2", "21", 8, 800)]);
}

#[test]
fn a_beginning_that_nobody_ran_from_voids_nothing() {
    let folder = Folder::new("upsert-superseded");
    let log = UpsertLog::new(&folder.0);
    log.prepare().unwrap();
    let mut before = upserts(&log, 1);
    begin(&mut before, 2, 10);
    upsert(&mut before, 15, 1, 10);
    // It is to start again from an older checkpoint, and then a newer one becomes durable.
    let mut after = upserts(&log, 2);
    begin(&mut after, 4, 5);
    assert_eq!(held(&log), []);
    begin(&mut after, 4, 20);
    assert_eq!(held(&log), [row("1", "10", 15, 1500)]);
}

#[test]
fn a_value_that_is_written_again_by_a_successor_has_been_there_since_the_first_time() {
    let folder = Folder::new("upsert-shown");
    let log = UpsertLog::new(&folder.0);
    log.prepare().unwrap();
    let mut lost = upserts(&log, 1);
    upsert(&mut lost, 7, 1, 10);
    let mut successor = upserts(&log, 2);
    begin(&mut successor, 2, 5);
    upsert(&mut successor, 9, 1, 10);
    assert_eq!(held(&log), [row("1", "10", 9, 700)]);
}

#[test]
fn the_same_value_once_more_has_been_there_since_the_first_time() {
    let folder = Folder::new("upsert-again");
    let log = UpsertLog::new(&folder.0);
    log.prepare().unwrap();
    let mut writer = upserts(&log, 1);
    upsert(&mut writer, 3, 1, 10);
    upsert(&mut writer, 4, 1, 10);
    assert_eq!(held(&log), [row("1", "10", 4, 300)]);
    upsert(&mut writer, 5, 1, 11);
    assert_eq!(held(&log), [row("1", "11", 5, 500)]);
}

#[test]
fn a_tail_that_was_not_written_to_its_end_does_not_count() {
    let folder = Folder::new("upsert-tail");
    let log = UpsertLog::new(&folder.0);
    log.prepare().unwrap();
    let mut writer = upserts(&log, 1);
    upsert(&mut writer, 1, 1, 10);
    upsert(&mut writer, 2, 2, 20);
    let path = folder.0.join("upsert-00000-1.log");
    let whole = fs::read(&path).unwrap();
    let frame = whole.len() / 2;
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(held(&log).len(), len / frame, "of {len} bytes");
    }
    for index in 0..whole.len() {
        let mut bad = whole.clone();
        bad[index] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(held(&log).len(), index / frame, "with byte {index} flipped");
    }
}

// Staged lines.

type Line = fn(&u64, &mut Vec<u8>);

fn staged(output: &Output) -> crate::connectors::JsonLinesWriter<Line> {
    let encode: Line = |number, text| text.extend(number.to_string().as_bytes());
    let sink = JsonLinesSink::<Owned<u64>, Line>::new(output.clone(), encode).transactional();
    let context = SinkContext { partition: PartitionId(3), incarnation: Incarnation(1) };
    Sink::<Owned<u64>>::open(&sink, &context).unwrap()
}

fn stage(writer: &mut dyn SinkWriter<Owned<u64>>, batch: u64) {
    writer.write(BatchId(batch), Instant(0), &batch).unwrap();
    writer.end_batch(BatchId(batch)).unwrap();
}

fn frozen(writer: &mut dyn SinkWriter<Owned<u64>>, since: Option<u64>) -> Vec<u8> {
    let mut piece = Vec::new();
    writer.freeze(since.map(BatchId), &mut piece);
    piece
}

fn shown(folder: &Folder) -> Vec<(String, String)> {
    let read = |name: String| {
        let text = fs::read_to_string(folder.0.join(&name)).unwrap();
        (name, text)
    };
    folder.names().into_iter().map(read).collect()
}

#[test]
fn staged_lines_are_seen_once_whoever_shows_them() {
    let folder = Folder::new("staged");
    let output = Output::new(&folder.0);
    output.prepare().unwrap();
    let mut writer = staged(&output);
    let owner: &mut dyn SinkWriter<Owned<u64>> = &mut writer;
    (1..=4).for_each(|batch| stage(owner, batch));
    assert_eq!(shown(&folder), []);
    let piece = frozen(owner, None);
    stage(owner, 5);
    // The checkpoint of batch 4 is durable, and the owner is lost before it hears of it.
    let mut writer = staged(&output);
    let successor: &mut dyn SinkWriter<Owned<u64>> = &mut writer;
    let origin = Origin::Checkpoint;
    successor.thaw(&Piece { batch: BatchId(4), origin, bytes: &piece }).unwrap();
    let part =
        |batch: u64, lines: &str| (format!("part-00003-{batch:020}.jsonl"), lines.to_owned());
    assert_eq!(shown(&folder), [part(4, "1\n2\n3\n4\n")]);
    // It was not lost after all.
    owner.durable(BatchId(4)).unwrap();
    assert_eq!(shown(&folder), [part(4, "1\n2\n3\n4\n")]);
    stage(successor, 5);
    stage(successor, 6);
    assert_eq!(frozen(successor, Some(4)), b"5\n6\n");
    successor.durable(BatchId(5)).unwrap();
    assert_eq!(shown(&folder), [part(4, "1\n2\n3\n4\n"), part(5, "5\n")]);
}

#[test]
fn staged_lines_go_along_with_a_partition_that_moves() {
    let folder = Folder::new("staged-move");
    let output = Output::new(&folder.0);
    output.prepare().unwrap();
    let mut writer = staged(&output);
    let before: &mut dyn SinkWriter<Owned<u64>> = &mut writer;
    (1..=2).for_each(|batch| stage(before, batch));
    let piece = frozen(before, None);
    let mut writer = staged(&output);
    let after: &mut dyn SinkWriter<Owned<u64>> = &mut writer;
    let origin = Origin::Move;
    after.thaw(&Piece { batch: BatchId(2), origin, bytes: &piece }).unwrap();
    stage(after, 3);
    assert_eq!(shown(&folder), []);
    assert_eq!(frozen(after, None), b"1\n2\n3\n");
    after.durable(BatchId(3)).unwrap();
    let name = format!("part-00003-{:020}.jsonl", 3);
    assert_eq!(shown(&folder), [(name, "1\n2\n3\n".to_owned())]);
}

// A file that grows.

#[test]
fn a_growing_file_is_taken_line_by_line_and_read_again_the_same() {
    use std::io::Write;
    let folder = Folder::new("growing");
    let path = folder.file("log", "a\nbb\nc");
    let lines = GrowingFile::open(&path).unwrap();
    let mut reader = Lines::open(&lines).unwrap();
    let partition = PartitionId(0);
    let mut take = |from: u64| {
        let limit = Limit { cut: Instant(0), bytes: 1 << 20 };
        reader.choose(partition, from, &limit).to
    };
    assert_eq!(take(0), 5);
    assert_eq!(take(5), 5);
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(b"c\ndd\n").unwrap();
    assert_eq!(take(5), 11);
    let mut read = |range: std::ops::Range<u64>| {
        let mut text = Vec::new();
        let each = |chunk: Chunk<'_>| text.extend_from_slice(chunk.lines());
        reader.read_chunks(partition, range, each).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert_eq!(read(5..11), "cc\ndd\n");
    assert_eq!(read(0..5), "a\nbb\n");
    file.set_len(3).unwrap();
    let limit = Limit { cut: Instant(0), bytes: 1 };
    reader.choose(partition, 11, &limit);
    let error = reader.read_chunks(partition, 11..12, |_| {}).unwrap_err();
    assert!(error.to_string().ends_with("it must only grow"), "{error}");
}
