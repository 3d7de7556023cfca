//! Decodes lines, one by one or in chunks.

use std::marker::PhantomData;

use super::general::{Slot, Value, is_blank, project};
use super::record::{Fields, JsonRecord, Keep};
use crate::dataflow::{EventTimes, InputCounters, Stamp};

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
    /// The lines.
    pub bytes: &'a [u8],
    /// What is added to their event times after parsing, in milliseconds.
    pub shift_ms: u64,
}

/// Decodes lines. It keeps its memory from line to line.
#[derive(Debug)]
pub struct JsonDecoder<R> {
    slots: Vec<Slot>,
    keep: Option<Keep>,
    record: PhantomData<fn() -> R>,
}

impl<R: JsonRecord> JsonDecoder<R> {
    /// A decoder for records of type `R`.
    #[expect(clippy::new_without_default, reason = "a decoder is made in one way, by name")]
    pub fn new() -> JsonDecoder<R> {
        let slots = R::FIELDS.iter().map(|_| Slot::default()).collect();
        JsonDecoder { slots, keep: None, record: PhantomData }
    }

    /// The same for lines of which only some are wanted.
    pub fn keeping(keep: Option<Keep>) -> JsonDecoder<R> {
        JsonDecoder { keep, ..JsonDecoder::new() }
    }

    /// Decodes a line, given without the newline that ends it.
    #[inline]
    pub fn decode<'a>(&'a mut self, line: &'a [u8]) -> Line<R::Of<'a>> {
        if is_blank(line) {
            return Line::Blank;
        }
        match self.project(line) {
            Ok(text) => Line::Record(R::from_fields(&Fields { text, slots: &self.slots })),
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
        mut emit: E,
        mut malformed: M,
    ) where
        E: FnMut(&R::Of<'_>, &Stamp),
        M: FnMut(&[u8]),
    {
        for line in lines(chunk.bytes) {
            counters.lines += 1;
            if is_blank(line) {
                counters.blank += 1;
                continue;
            }
            let Ok(text) = self.project(line) else {
                counters.malformed += 1;
                malformed(line);
                continue;
            };
            counters.ok += 1;
            self.shift(chunk.shift_ms);
            let fields = Fields { text, slots: &self.slots };
            let stamp = times.stamp(fields.unsigned(R::EVENT_TIME));
            match &self.keep {
                Some(keep) if fields.text(keep.field()) != keep.text() => counters.filtered += 1,
                Some(_) | None => emit(&R::from_fields(&fields), &stamp),
            }
        }
    }

    /// Fills the slots from a line that is not blank.
    fn project<'a>(&mut self, line: &'a [u8]) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(line).map_err(|_| Malformed::NotUtf8)?;
        project(text, R::FIELDS, &mut self.slots)?;
        Ok(text)
    }

    /// Moves the event time in the slots.
    fn shift(&mut self, shift_ms: u64) {
        if let Value::Unsigned(time) = &mut self.slots[R::EVENT_TIME].value {
            *time = time.saturating_add(shift_ms);
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
