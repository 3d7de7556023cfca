//! Sources of lines, and the source of records that decodes them as JSON.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use drizzle_scheduler::plan::Pacing;
use drizzle_scheduler::{Instant, PartitionId};

use super::part_files::{Output, PartFile};
use super::{ConnectorError, Fingerprint};
use crate::dataflow::{
    Choice, EventTimes, InputCounters, Limit, Reread, Row, Source, SourceReader, Stamp,
};
use crate::formats::{Chunk, JsonDecoder, JsonRecord, Keep};

/// Where lines come from. The contract is that of [`Source`], below the level of records.
pub trait Lines: Clone + Send + Sync + 'static {
    /// One core's way to read them.
    type Reader: LineReader;

    /// How many partitions there are, at least 1.
    fn partition_count(&self) -> u32;
    /// Whether batches wait for their start time.
    fn pacing(&self) -> Pacing;
    /// Hash over what must be equal on every node.
    fn fingerprint(&self) -> u64;
    /// Where lines that were read can be read again.
    fn reread(&self) -> Reread;
    /// Opens them on one core.
    fn open(&self) -> Result<Self::Reader, ConnectorError>;
}

/// Lines as one core reads them.
pub trait LineReader: Send + 'static {
    /// The job starts at `start` in the driver's time, as in [`SourceReader::start`].
    fn start(&mut self, _start: Instant) {}

    /// The offset at which `partition` begins.
    fn first_offset(&self, partition: PartitionId) -> u64;

    /// Chooses what the next batch takes, as in [`SourceReader::choose`].
    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice;

    /// Calls `each` with the lines of `range`, in order and as many at a time as lie together.
    fn read_chunks<F: FnMut(Chunk<'_>)>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        each: F,
    ) -> Result<(), ConnectorError>;

    /// Nobody will ask for what is before `offset` again, as in [`SourceReader::durable`].
    fn durable(&mut self, _partition: PartitionId, _offset: u64) {}

    /// `partition` goes on elsewhere.
    fn leave(&mut self, _partition: PartitionId) {}

    /// Something that a person should know, as in [`SourceReader::notice`].
    fn notice(&mut self) -> Option<String> {
        None
    }

    /// The job ends well.
    fn close(&mut self) {}
}

/// Where the last line ends within `limit` bytes, or the first one if that is longer.
pub(super) fn whole_lines(bytes: &[u8], limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if bytes.len() <= limit {
        return bytes.len();
    }
    let (within, beyond) = bytes.split_at(limit);
    match memchr::memrchr(b'\n', within) {
        Some(newline) => newline + 1,
        None => memchr::memchr(b'\n', beyond).map_or(bytes.len(), |at| limit + at + 1),
    }
}

/// A source that decodes each line of `L` as a JSON record `R`.
///
/// ```no_run
/// # use drizzle::{dataflow::Row, formats::{Field, FieldKind, Fields, JsonRecord}};
/// # struct Tick { time: u64 }
/// # impl Row for Tick { type Of<'a> = Tick; }
/// # impl JsonRecord for Tick {
/// #     const FIELDS: &'static [Field] = &[Field { name: "t", kind: FieldKind::UnsignedText }];
/// #     const EVENT_TIME: usize = 0;
/// #     fn from_fields<'a>(fields: &Fields<'a>) -> Tick { Tick { time: fields.unsigned(0) } }
/// # }
/// use std::time::Duration;
/// use drizzle::connectors::{JsonLines, MappedFile, Output};
///
/// let source = JsonLines::<MappedFile, Tick>::new(MappedFile::open("ticks.jsonl")?)
///     .out_of_orderness(Duration::from_secs(3))
///     .dead_letter(Output::new("bad.jsonl"));
/// # Ok::<(), drizzle::connectors::ConnectorError>(())
/// ```
#[derive(Debug)]
pub struct JsonLines<L, R> {
    lines: L,
    out_of_orderness_ms: u64,
    keep: Option<Keep>,
    dead_letter: Option<Output>,
    record: PhantomData<fn() -> R>,
}

impl<L: Clone, R> Clone for JsonLines<L, R> {
    fn clone(&self) -> JsonLines<L, R> {
        JsonLines {
            lines: self.lines.clone(),
            out_of_orderness_ms: self.out_of_orderness_ms,
            keep: self.keep.clone(),
            dead_letter: self.dead_letter.clone(),
            record: PhantomData,
        }
    }
}

impl<L: Lines, R: JsonRecord> JsonLines<L, R> {
    /// Records in order of event time; malformed lines are counted and nothing else.
    pub fn new(lines: L) -> JsonLines<L, R> {
        JsonLines {
            lines,
            out_of_orderness_ms: 0,
            keep: None,
            dead_letter: None,
            record: PhantomData,
        }
    }

    /// How far event times may run backwards without being late (whole milliseconds).
    pub fn out_of_orderness(self, bound: Duration) -> JsonLines<L, R> {
        let out_of_orderness_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        JsonLines { out_of_orderness_ms, ..self }
    }

    /// Yields only the records whose text field `field` is exactly `text`; the parser finds that out
    /// on the way. The others are valid all the same: they are counted, as `NAME.filtered`, and their
    /// event times count.
    ///
    /// # Panics
    /// If the record declares no such field of kind `Text`.
    pub fn keep(self, field: &str, text: &str) -> JsonLines<L, R> {
        JsonLines { keep: Some(Keep::equal::<R>(field, text)), ..self }
    }

    /// Where malformed lines go, verbatim: a part for each source partition that has any. After a loss, lines that
    /// are read again are there at least once, as [`Output`] says.
    pub fn dead_letter(self, output: Output) -> JsonLines<L, R> {
        JsonLines { dead_letter: Some(output), ..self }
    }

    /// The source of the lines.
    pub fn lines(&self) -> &L {
        &self.lines
    }
}

impl<L: Lines, R: JsonRecord> Source for JsonLines<L, R> {
    type Record = R;
    type Reader = JsonLinesReader<L::Reader, R>;

    fn partition_count(&self) -> u32 {
        self.lines.partition_count()
    }

    fn pacing(&self) -> Pacing {
        self.lines.pacing()
    }

    fn fingerprint(&self) -> u64 {
        let fields = R::FIELDS.iter();
        let fingerprint = fields
            .fold(Fingerprint::new("json lines"), |hash, field| hash.bytes(field.name.as_bytes()));
        let fingerprint = match &self.keep {
            Some(keep) => fingerprint.number(keep.field() as u64).bytes(keep.text().as_bytes()),
            None => fingerprint,
        };
        fingerprint.number(self.lines.fingerprint()).number(self.out_of_orderness_ms).finish()
    }

    fn out_of_orderness_ms(&self) -> u64 {
        self.out_of_orderness_ms
    }

    fn reread(&self) -> Reread {
        self.lines.reread()
    }

    fn open(&self) -> Result<JsonLinesReader<L::Reader, R>, ConnectorError> {
        let dead_letters =
            self.dead_letter.clone().map(|output| DeadLetters { output, parts: BTreeMap::new() });
        let decoder = JsonDecoder::keeping(self.keep.clone());
        Ok(JsonLinesReader { lines: self.lines.open()?, decoder, dead_letters })
    }
}

/// JSON lines as one core reads them.
#[derive(Debug)]
pub struct JsonLinesReader<L, R> {
    lines: L,
    decoder: JsonDecoder<R>,
    dead_letters: Option<DeadLetters>,
}

impl<L: LineReader, R: JsonRecord> SourceReader for JsonLinesReader<L, R> {
    type Record = R;

    fn start(&mut self, start: Instant) {
        self.lines.start(start);
    }

    fn first_offset(&self, partition: PartitionId) -> u64 {
        self.lines.first_offset(partition)
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        self.lines.choose(partition, from, limit)
    }

    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&<R as Row>::Of<'_>, &Stamp),
    {
        let JsonLinesReader { lines, decoder, dead_letters } = self;
        let mut kept = Ok(());
        lines.read_chunks(partition, range, |chunk| {
            decoder.decode_lines(chunk, times, counters, &mut emit, |line| {
                if let (Some(dead_letters), Ok(())) = (dead_letters.as_mut(), &kept) {
                    kept = dead_letters.keep(partition, line);
                }
            });
        })?;
        kept?;
        match dead_letters {
            Some(dead_letters) => dead_letters.flush(partition),
            None => Ok(()),
        }
    }

    fn durable(&mut self, partition: PartitionId, offset: u64) {
        self.lines.durable(partition, offset);
    }

    fn leave(&mut self, partition: PartitionId) {
        self.lines.leave(partition);
    }

    fn notice(&mut self) -> Option<String> {
        self.lines.notice()
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.lines.close();
        match &mut self.dead_letters {
            Some(dead_letters) => dead_letters.parts.values_mut().try_for_each(PartFile::flush),
            None => Ok(()),
        }
    }
}

/// The malformed lines of the source partitions that one core reads.
#[derive(Debug)]
struct DeadLetters {
    output: Output,
    /// Made when a partition has its first malformed line: a core does not know before which
    /// partitions it will read, its own or, after a loss, parts of any other.
    parts: BTreeMap<PartitionId, PartFile>,
}

impl DeadLetters {
    fn keep(&mut self, partition: PartitionId, line: &[u8]) -> Result<(), ConnectorError> {
        let part = match self.parts.entry(partition) {
            std::collections::btree_map::Entry::Occupied(part) => part.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(self.output.create_part(partition)?)
            }
        };
        part.append(|buffer| buffer.extend_from_slice(line))
    }

    /// At the end of each read, so that the file shows what a batch refused even if the job fails.
    fn flush(&mut self, partition: PartitionId) -> Result<(), ConnectorError> {
        match self.parts.get_mut(&partition) {
            Some(part) => part.flush(),
            None => Ok(()),
        }
    }
}
