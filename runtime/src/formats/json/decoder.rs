//! Decodes lines, one by one or in chunks.

use std::marker::PhantomData;

use super::general::{self, Slots, is_blank};
use super::learn::take_apart;
use super::record::{Fields, JsonRecord, Keep};
use super::scan::{
    BATCH_LINES, InstructionSet, MOST_WORDS, Miss, OVERHANG, Rows, Scanned, Scanner, Shape, Span,
    Stop, WORD_BYTES, window_bytes,
};
use super::table::Table;
use crate::dataflow::{EventTimes, InputCounters, Stamp};

/// After so many lines in a row without a shape, lines are not scanned for a while.
const DROUGHT: u32 = 64;
/// For so many lines.
const REST: usize = 256;
/// Then so many are scanned to see whether times have changed.
const PROBES: u32 = 16;
/// Lines of less than 320 bytes are usual.
const SHORT_WORDS: usize = 5;
/// Lines that long have no shape.
const LONG_BYTES: usize = MOST_WORDS * WORD_BYTES;
/// A batch of so few bytes had mostly short lines.
const SHORT_BATCH: usize = BATCH_LINES * SHORT_WORDS * WORD_BYTES;

/// What a line turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<T> {
    /// JSON white space only, or nothing.
    Blank,
    /// No valid record.
    Malformed(Malformed),
    /// A record.
    Record(T),
}

/// Why a line is no valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not valid UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// The text is not valid JSON, or something follows the object.
    #[error("not valid JSON")]
    NotJson,
    /// The text begins another JSON value than an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A declared field is not there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A declared field is of another kind or out of range.
    #[error("field {0} is of the wrong kind")]
    WrongKind(&'static str),
}

/// Whole lines in one piece of memory, each ended by a newline but perhaps the last.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The lines, and what may be read ahead behind them: it means nothing.
    readable: &'a [u8],
    length: usize,
    shift_ms: u64,
}

impl<'a> Chunk<'a> {
    /// These lines.
    pub fn new(lines: &'a [u8]) -> Chunk<'a> {
        Chunk::start_of(lines, lines.len())
    }

    /// The first `length` bytes of a piece of memory that goes on behind them. Decoding is faster
    /// where it can read ahead, by up to [`READ_AHEAD`](Chunk::READ_AHEAD).
    pub fn start_of(memory: &'a [u8], length: usize) -> Chunk<'a> {
        // A last line without its newline must not seem to go on.
        let whole = memory[..length].ends_with(b"\n");
        let readable = if whole { memory } else { &memory[..length] };
        Chunk { readable, length, shift_ms: 0 }
    }

    /// The same, `shift_ms` later: that is added to event times after parsing, in milliseconds.
    pub fn later(self, shift_ms: u64) -> Chunk<'a> {
        Chunk { shift_ms, ..self }
    }

    /// More bytes than that behind the lines are of no use.
    pub const READ_AHEAD: usize = window_bytes(MOST_WORDS);

    /// The lines.
    pub fn lines(&self) -> &'a [u8] {
        &self.readable[..self.length]
    }
}

/// Decodes lines. It keeps its memory and what it learnt from line to line.
#[derive(Debug)]
pub struct JsonDecoder<R> {
    slots: Slots,
    keep: Option<Keep>,
    fast: FastPath,
    /// The last lines of a chunk, with room behind them.
    tail: Vec<u8>,
    record: PhantomData<fn() -> R>,
}

impl<R: JsonRecord> JsonDecoder<R> {
    /// A decoder for records of type `R`.
    #[expect(clippy::new_without_default, reason = "a decoder is made in one way, by name")]
    pub fn new() -> JsonDecoder<R> {
        JsonDecoder::keeping(None)
    }

    /// The same for lines of which only some are wanted.
    pub fn keeping(keep: Option<Keep>) -> JsonDecoder<R> {
        JsonDecoder {
            slots: Slots::new(R::FIELDS),
            keep,
            fast: FastPath::new(InstructionSet::best()),
            tail: Vec::new(),
            record: PhantomData,
        }
    }

    /// The same with other instructions than the best ones.
    ///
    /// # Panics
    /// If this processor does not have them.
    pub fn with_instructions(self, set: InstructionSet) -> JsonDecoder<R> {
        JsonDecoder { fast: FastPath::new(set), ..self }
    }

    /// How many lines of chunks had no known shape and were parsed byte by byte.
    pub fn general_lines(&self) -> u64 {
        self.fast.general_lines
    }

    /// Decodes a line, given without the newline that ends it. This is what defines its meaning.
    #[inline]
    pub fn decode<'a>(&'a mut self, line: &'a [u8]) -> Line<R::Of<'a>> {
        if is_blank(line) {
            return Line::Blank;
        }
        match general::decode(line, R::FIELDS, &mut self.slots) {
            Ok(text) => Line::Record(R::from_fields(&self.slots.fields(text, R::EVENT_TIME, 0))),
            Err(reason) => Line::Malformed(reason),
        }
    }

    /// Decodes all lines of `chunk` in order. `emit` gets each valid record that is to be kept, with
    /// its stamp; `times` is told of all valid ones; `malformed` gets the bytes of those that are not.
    pub fn decode_lines<E, M>(
        &mut self,
        chunk: Chunk<'_>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        emit: E,
        malformed: M,
    ) where
        E: FnMut(&R::Of<'_>, &Stamp),
        M: FnMut(&[u8]),
    {
        let JsonDecoder { slots, keep, fast, tail, .. } = self;
        let (keep, shift_ms) = (keep.as_ref(), chunk.shift_ms);
        let record = PhantomData::<fn() -> R>;
        let mut run = Run { slots, keep, shift_ms, times, counters, emit, malformed, record };
        let done = run.decode(fast, chunk.readable, chunk.length);
        let rest = &chunk.lines()[done..];
        if rest.is_empty() {
            return;
        }
        // The scan reads beyond the end of a line, which only a copy allows here.
        tail.clear();
        tail.extend_from_slice(rest);
        tail.resize(rest.len() + window_bytes(MOST_WORDS), 0);
        let done = run.decode(fast, tail, rest.len());
        assert_eq!(done, rest.len(), "a window behind the last line is enough for all of them");
    }
}

/// Chunks on their way to `emit` and `malformed`.
struct Run<'r, R, E, M> {
    slots: &'r mut Slots,
    keep: Option<&'r Keep>,
    shift_ms: u64,
    times: &'r mut EventTimes,
    counters: &'r mut InputCounters,
    emit: E,
    malformed: M,
    record: PhantomData<fn() -> R>,
}

impl<R, E, M> Run<'_, R, E, M>
where
    R: JsonRecord,
    E: FnMut(&R::Of<'_>, &Stamp),
    M: FnMut(&[u8]),
{
    /// Decodes the lines in the first `real` bytes, but those that start too close to the end of
    /// `bytes`. Returns where the first of these starts, or `real`.
    fn decode(&mut self, fast: &mut FastPath, bytes: &[u8], real: usize) -> usize {
        let mut at = 0;
        loop {
            let FastPath { scanner, lane, short, long, rows, drought, .. } = fast;
            if *drought >= DROUGHT {
                *drought = DROUGHT - PROBES;
                at = self.without_scan(fast, bytes, at, real);
                continue;
            }
            let (next, stop) = match lane {
                Lane::Short => self.batch(*scanner, short, rows, bytes, at, real),
                Lane::Long => self.batch(*scanner, long, rows, bytes, at, real),
            };
            if next > at {
                *drought = 0;
            }
            let scanned = next - at;
            at = next;
            match stop {
                Stop::Full if *lane == Lane::Long && scanned < SHORT_BATCH => *lane = Lane::Short,
                Stop::Full => {}
                Stop::Limit => return at,
                Stop::Miss(miss) => at += self.miss(fast, &bytes[at..at + miss.length], miss) + 1,
                Stop::TooLong => at = self.too_long(fast, bytes, at, real),
            }
        }
    }

    /// Handles a line without a shape. Returns its length.
    fn miss(&mut self, fast: &mut FastPath, line: &[u8], miss: Miss) -> usize {
        fast.general_lines += 1;
        fast.drought += 1;
        if self.general(line) {
            match fast.lane {
                Lane::Short => self.learn(&mut fast.short, line, miss.hash),
                Lane::Long => self.learn(&mut fast.long, line, miss.hash),
            }
        }
        line.len()
    }

    /// Handles a line whose end was not seen: here, or by scanning for longer ones. Returns where to
    /// go on.
    fn too_long(&mut self, fast: &mut FastPath, bytes: &[u8], at: usize, real: usize) -> usize {
        let newline = memchr::memchr(b'\n', &bytes[at..real]);
        let length = newline.unwrap_or(real - at);
        if fast.lane == Lane::Short && newline.is_some() && length < LONG_BYTES {
            fast.lane = Lane::Long;
            return at;
        }
        fast.general_lines += 1;
        self.general(&bytes[at..at + length]);
        (at + length + 1).min(real)
    }

    /// Handles some lines without looking for their shapes. Returns where to go on.
    fn without_scan(&mut self, fast: &mut FastPath, bytes: &[u8], at: usize, real: usize) -> usize {
        let mut at = at;
        for line in lines(&bytes[at..real]).take(REST) {
            fast.general_lines += 1;
            self.general(line);
            at = (at + line.len() + 1).min(real);
        }
        at
    }

    /// Scans lines and makes records of those that have a shape.
    #[inline]
    fn batch<const W: usize>(
        &mut self,
        scanner: Scanner,
        table: &Table<W>,
        rows: &mut Rows,
        bytes: &[u8],
        from: usize,
        real: usize,
    ) -> (usize, Stop) {
        let span = Span::new(bytes, from, real, W, self.shift_ms);
        let Scanned { hits, lines, next, stop } = scanner.scan(table, span, self.times, rows);
        self.counters.lines += lines as u64;
        self.counters.ok += lines as u64;
        self.counters.filtered += (lines - hits.len()) as u64;
        for hit in hits.iter() {
            let fields = Fields {
                text: hit.text,
                values: hit.shape.values(),
                unescaped: &[],
                event_time: (R::EVENT_TIME, hit.stamp.event_time),
            };
            match self.keep {
                // The scan has compared the start of it.
                Some(keep) if keep.text().len() > OVERHANG && !keep.keeps(&fields) => {
                    self.counters.filtered += 1;
                }
                Some(_) | None => (self.emit)(&R::from_fields(&fields), hit.stamp),
            }
        }
        (next, stop)
    }

    /// Decodes one line on the general path. Tells whether it is a record.
    fn general(&mut self, line: &[u8]) -> bool {
        self.counters.lines += 1;
        if is_blank(line) {
            self.counters.blank += 1;
            return false;
        }
        let Ok(text) = general::decode(line, R::FIELDS, self.slots) else {
            self.counters.malformed += 1;
            (self.malformed)(line);
            return false;
        };
        self.counters.ok += 1;
        let fields = self.slots.fields(text, R::EVENT_TIME, self.shift_ms);
        let stamp = self.times.stamp(fields.unsigned(R::EVENT_TIME));
        match self.keep {
            Some(keep) if !keep.keeps(&fields) => self.counters.filtered += 1,
            Some(_) | None => (self.emit)(&R::from_fields(&fields), &stamp),
        }
        true
    }

    /// Perhaps learns from a line that was a record just now.
    fn learn<const W: usize>(&self, table: &mut Table<W>, line: &[u8], hash: u64) {
        if !table.sight(hash) {
            return;
        }
        let Ok(line) = std::str::from_utf8(line) else { return };
        if let Some(sketch) = take_apart(line, R::FIELDS, &self.slots.values) {
            table.learn(Shape::new(line, sketch, R::EVENT_TIME, self.keep));
        }
    }
}

/// What the fast path knows, for lines of usual length and for longer ones.
#[derive(Debug)]
struct FastPath {
    scanner: Scanner,
    lane: Lane,
    short: Table<SHORT_WORDS>,
    long: Table<MOST_WORDS>,
    rows: Rows,
    /// How many lines in a row had no shape, within limits.
    drought: u32,
    general_lines: u64,
}

/// Which of them lines are scanned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Short,
    Long,
}

impl FastPath {
    fn new(set: InstructionSet) -> FastPath {
        FastPath {
            scanner: Scanner::new(set),
            lane: Lane::Short,
            short: Table::new(),
            long: Table::new(),
            rows: Rows::new(),
            drought: 0,
            general_lines: 0,
        }
    }
}

/// The lines of a chunk without the newlines that end them. After the last newline nothing begins.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = &rest[(end + 1).min(rest.len())..];
        Some(line)
    })
}
