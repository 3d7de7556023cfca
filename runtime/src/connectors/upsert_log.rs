//! A sink by the upsert contract, in files: results are there as soon as their batch has run, and what
//! lost workers have written for batches that are run again does not count.
//!
//! Each writer appends to a file of its own, `upsert-PARTITION-LIFE.log`, so that no two processes write the
//! same one. A file is a sequence of frames:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | length of what follows the checksum | |
//! | 4..8 | checksum | CRC-32C of what follows |
//! | 8 | kind | 1: a beginning, 2: the rows of a batch |
//! | 9..17 | batch | the last one before it, or the one of the rows |
//! | 17..25 | epoch of a beginning, or when the rows were written, in the driver's time | nanoseconds |
//! | 25.. | of rows: each its key's length (u16), its key, its value's length (u16) and its value | |
//!
//! A *beginning* says that the partition starts there with the batch after that one: rows of later batches
//! that stand under beginnings before it are void ([`Beginning`]). That is how the store refuses
//! writers which were lost: it is decided when it is read ([`UpsertLog::read`]), so that a process that was
//! stopped and does not know it may write what it likes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use drizzle_scheduler::{BatchId, Epoch, Incarnation, Instant, PartitionId};

use super::{ConnectorError, Fingerprint};
use crate::dataflow::{Beginning, Row, Sink, SinkContext, SinkWriter};

const HEAD_LEN: usize = 8;
const BEGINNING: u8 = 1;
const ROWS: u8 = 2;
/// No frame is longer: a length beyond is damage.
const MAX_FRAME: usize = 64 << 20;

/// A folder of such files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpsertLog {
    folder: PathBuf,
}

/// The last that was written of a key, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upserted {
    /// The value.
    pub value: Vec<u8>,
    /// The batch that wrote it.
    pub batch: BatchId,
    /// When this value was first there, in the driver's time.
    pub at: Instant,
}

impl UpsertLog {
    /// The log in that folder. Touches nothing yet.
    pub fn new(folder: impl Into<PathBuf>) -> UpsertLog {
        UpsertLog { folder: folder.into() }
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates the folder, and removes what an earlier job left.
    pub fn prepare(&self) -> Result<(), ConnectorError> {
        fs::create_dir_all(&self.folder).map_err(error("create folder", &self.folder))?;
        for (_, path) in self.files()? {
            fs::remove_file(&path).map_err(error("remove", &path))?;
        }
        Ok(())
    }

    /// What the store holds now, by key. May be called while a job writes.
    pub fn read(&self) -> Result<BTreeMap<Vec<u8>, Upserted>, ConnectorError> {
        let mut by_partition: BTreeMap<u32, Vec<Span>> = BTreeMap::new();
        for (partition, path) in self.files()? {
            let bytes = fs::read(&path).map_err(error("read", &path))?;
            by_partition.entry(partition).or_default().extend(spans(&bytes));
        }
        let mut rows = BTreeMap::new();
        by_partition.into_values().for_each(|spans| merge(spans, &mut rows));
        Ok(rows)
    }

    fn files(&self) -> Result<Vec<(u32, PathBuf)>, ConnectorError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(error("list", &self.folder))? {
            let entry = entry.map_err(error("list", &self.folder))?;
            let name = entry.file_name();
            let partition = name.to_str().and_then(|name| {
                let name = name.strip_prefix("upsert-")?.strip_suffix(".log")?;
                name.split_once('-')?.0.parse().ok()
            });
            files.extend(partition.map(|partition: u32| (partition, entry.path())));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn file_of(&self, partition: PartitionId, life: Incarnation) -> PathBuf {
        self.folder.join(format!("upsert-{:05}-{}.log", partition.0, life.0))
    }
}

/// What stands under one beginning.
#[derive(Debug)]
struct Span {
    beginning: Option<Beginning>,
    rows: Vec<(BatchId, Instant, Vec<u8>, Vec<u8>)>,
}

/// Reads a file up to its end, or to where its writer was killed.
fn spans(bytes: &[u8]) -> Vec<Span> {
    // Who does not say that it begins was the first to have the partition, and voids nothing.
    let mut spans = vec![Span { beginning: None, rows: Vec::new() }];
    let mut rest = bytes;
    while let Some((content, behind)) = next_frame(rest) {
        rest = behind;
        let Some((&kind, fields)) = content.split_first() else { break };
        let Some((batch, fields)) = number(fields) else { break };
        let Some((second, fields)) = number(fields) else { break };
        match kind {
            BEGINNING => {
                let beginning = Beginning { epoch: Epoch(second), after: BatchId(batch) };
                spans.push(Span { beginning: Some(beginning), rows: Vec::new() });
            }
            ROWS => {
                let span = spans.last_mut().expect("there is one from the start");
                let mut fields = fields;
                while let Some((key, behind)) = text(fields)
                    && let Some((value, behind)) = text(behind)
                {
                    span.rows.push((BatchId(batch), Instant(second), key.into(), value.into()));
                    fields = behind;
                }
            }
            _ => break,
        }
    }
    spans
}

fn next_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
    let (len, checksum) = head.split_at(4);
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    let (content, rest) = rest.split_at_checked(len).filter(|_| len <= MAX_FRAME)?;
    let is_whole = crc32c::crc32c(content).to_le_bytes() == checksum;
    is_whole.then_some((content, rest))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

/// Adds what counts of a partition's rows: of each key the value that was written last, by the owner who
/// began last, and when that value was first there, whoever wrote it.
fn merge(mut spans: Vec<Span>, rows: &mut BTreeMap<Vec<u8>, Upserted>) {
    spans.sort_by_key(|span| span.beginning);
    // The last beginning says up to which batch the others count. One in between that nobody ran from
    // voids nothing: the checkpoint behind which the last one starts may hold what stands before it.
    let last = spans.len().saturating_sub(1);
    let limit = spans.last().and_then(|span| span.beginning).map(|beginning| beginning.after);
    let mut first_at: BTreeMap<(Vec<u8>, Vec<u8>), Instant> = BTreeMap::new();
    let mut written = Vec::new();
    for (place, span) in spans.into_iter().enumerate() {
        for (batch, at, key, value) in span.rows {
            let first = first_at.entry((key.clone(), value.clone())).or_insert(at);
            *first = at.min(*first);
            if place == last || limit.is_none_or(|limit| batch <= limit) {
                written.push((place, batch, at, key, value));
            }
        }
    }
    written.sort();
    for (_, batch, at, key, value) in written {
        let said = (key, value);
        let at = first_at.get(&said).copied().unwrap_or(at);
        let (key, value) = said;
        rows.insert(key, Upserted { value, batch, at });
    }
}

/// Writes each record as the key and value that `encode` makes of it.
pub struct UpsertSink<R, F> {
    log: UpsertLog,
    encode: F,
    record: PhantomData<fn() -> R>,
}

impl<R, F> UpsertSink<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    /// A sink into `log`; `encode` appends a record's key and its value.
    pub fn new(log: UpsertLog, encode: F) -> UpsertSink<R, F> {
        UpsertSink { log, encode, record: PhantomData }
    }
}

impl<R, F: Clone> Clone for UpsertSink<R, F> {
    fn clone(&self) -> UpsertSink<R, F> {
        UpsertSink { log: self.log.clone(), encode: self.encode.clone(), record: PhantomData }
    }
}

impl<R, F> Sink<R> for UpsertSink<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    type Writer = UpsertWriter<F>;

    fn fingerprint(&self) -> u64 {
        let path = self.log.folder.as_os_str().as_encoded_bytes();
        Fingerprint::new("upsert log").bytes(path).finish()
    }

    fn open(&self, context: &SinkContext) -> Result<UpsertWriter<F>, ConnectorError> {
        let path = self.log.file_of(context.partition, context.incarnation);
        fs::create_dir_all(&self.log.folder).map_err(error("create folder", &self.log.folder))?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(error("create", &path))?;
        let (key, value, rows) = (Vec::new(), Vec::new(), Vec::new());
        Ok(UpsertWriter { path, file, encode: self.encode.clone(), key, value, rows })
    }
}

/// One partition of the sink.
pub struct UpsertWriter<F> {
    path: PathBuf,
    file: File,
    encode: F,
    /// The frame of the batch that runs, but for its head.
    rows: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<F> UpsertWriter<F> {
    /// Appends a frame in one call: whoever is killed leaves all of it or a tail that is no frame.
    fn append(&mut self, content: &[u8]) -> Result<(), ConnectorError> {
        let mut frame = (content.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
        frame.extend_from_slice(content);
        self.file.write_all(&frame).map_err(error("write", &self.path))
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.append(&rows)?;
        self.rows = rows;
        self.rows.clear();
        Ok(())
    }
}

/// What a frame holds before its rows.
fn head(kind: u8, batch: BatchId, second: u64) -> Vec<u8> {
    let mut head = vec![kind];
    head.extend_from_slice(&batch.0.to_le_bytes());
    head.extend_from_slice(&second.to_le_bytes());
    head
}

impl<R, F> SinkWriter<R> for UpsertWriter<F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>, &mut Vec<u8>) + Send + 'static,
{
    fn write(
        &mut self,
        batch: BatchId,
        now: Instant,
        record: &R::Of<'_>,
    ) -> Result<(), ConnectorError> {
        if self.rows.is_empty() {
            self.rows = head(ROWS, batch, now.0);
        }
        self.key.clear();
        self.value.clear();
        (self.encode)(record, &mut self.key, &mut self.value);
        for text in [&self.key, &self.value] {
            let len = u16::try_from(text.len()).map_err(|_| {
                ConnectorError::Other(format!("a key or value of {} bytes is too long", text.len()))
            })?;
            self.rows.extend_from_slice(&len.to_le_bytes());
            self.rows.extend_from_slice(text);
        }
        if self.rows.len() > MAX_FRAME / 2 { self.flush() } else { Ok(()) }
    }

    fn end_batch(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        self.flush()
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.flush()
    }

    fn begin(&mut self, beginning: Beginning) -> Result<(), ConnectorError> {
        self.rows.clear();
        self.append(&head(BEGINNING, beginning.after, beginning.epoch.0))
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConnectorError {
    let path = path.to_path_buf();
    move |source| ConnectorError::File { action, path, source }
}
