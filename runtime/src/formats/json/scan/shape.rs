//! What the bytes of a line must be for it to mean the same as a line that was learnt.

use std::cell::Cell;
use std::fmt;

use super::{OVERHANG, WORD_BYTES, hash, portable};
use crate::formats::json::general::Value;
use crate::formats::json::record::Keep;

/// What one byte may be, if it is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange {
    least: u8,
    /// The largest one, less `least`.
    span: u8,
}

impl ByteRange {
    /// Any ASCII character. Marks apart, these are what a string may hold without escapes.
    pub(crate) const ASCII: ByteRange = ByteRange { least: 0, span: 0x7f };
    /// Any byte, for lines that are validated one by one.
    const ANY: ByteRange = ByteRange { least: 0, span: 0xff };
    pub(crate) const DIGIT: ByteRange = ByteRange { least: b'0', span: 9 };
    pub(crate) const DIGIT_BUT_0: ByteRange = ByteRange { least: b'1', span: 8 };

    pub(crate) fn only(byte: u8) -> ByteRange {
        ByteRange { least: byte, span: 0 }
    }
}

/// A line taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sketch {
    /// For each of its bytes, the newline not included.
    pub(crate) ranges: Vec<ByteRange>,
    /// For each declared field: `InLine` or `Digits`.
    pub(crate) values: Vec<Value>,
}

/// The shape of lines of less than `W` words of 64 bytes.
#[repr(C, align(64))]
pub(crate) struct Shape<const W: usize> {
    least: [[u8; WORD_BYTES]; W],
    span: [[u8; WORD_BYTES]; W],
    special: [u64; W],
    length: u64,
    /// Where the digits of the event time start.
    time_start: usize,
    /// How the 16 bytes that start there are shuffled so that the digits are the last ones: for each
    /// byte where it comes from, 0x80 for 0.
    time_order: [u8; OVERHANG],
    /// Another shape in the same place of the index, or 0.
    next: u16,
    /// Whether it allows more than ASCII.
    beyond_ascii: bool,
    touched: Cell<bool>,
    keep: KeepAt,
    values: Box<[Value]>,
    hash: u64,
}

/// A predicate on the first bytes of a field, at its place in lines of this shape.
#[derive(Clone, Copy)]
struct KeepAt {
    start: usize,
    wanted: u128,
    mask: u128,
}

impl<const W: usize> Shape<W> {
    /// The shape that no line has.
    pub(crate) fn none() -> Shape<W> {
        Shape {
            least: [[0; WORD_BYTES]; W],
            span: [[0xff; WORD_BYTES]; W],
            special: [0; W],
            length: u64::MAX,
            time_start: 0,
            time_order: [0; OVERHANG],
            next: 0,
            beyond_ascii: true,
            touched: Cell::new(false),
            keep: KeepAt { start: 0, wanted: 0, mask: 0 },
            values: Box::default(),
            hash: 0,
        }
    }

    /// The shape of `line`, which is valid and has less bytes than fit into `W` words. The sketch is
    /// that of this line; field `time` of it is the event time.
    ///
    /// # Panics
    /// If that is not so.
    pub(crate) fn new(line: &str, sketch: Sketch, time: usize, keep: Option<&Keep>) -> Shape<W> {
        let Sketch { ranges, values } = sketch;
        let length = line.len();
        assert!(length < W * WORD_BYTES && ranges.len() == length, "a line fits its window");
        let Value::Digits { start, end } = values[time] else {
            panic!("an event time consists of digits");
        };
        assert!(start < end && end - start <= OVERHANG && end <= length, "digits lie in the line");
        let mut shape = Shape::none();
        let text = if line.is_ascii() { ByteRange::ASCII } else { ByteRange::ANY };
        let ranges = ranges.into_iter().chain([ByteRange::only(b'\n')]);
        let places = shape.least.as_flattened_mut().iter_mut();
        for ((least, span), range) in places.zip(shape.span.as_flattened_mut()).zip(ranges) {
            let range = if range == ByteRange::ASCII { text } else { range };
            (*least, *span) = (range.least, range.span);
        }
        // Behind the line there are no marks.
        let mut words = [[b' '; WORD_BYTES]; W];
        words.as_flattened_mut()[..length].copy_from_slice(line.as_bytes());
        shape.special = words.map(|word| portable::marks(&word).special);
        shape.length = length as u64;
        shape.beyond_ascii = !shape.allows_ascii_only();
        let missing = OVERHANG - (end - start);
        shape.time_start = start;
        shape.time_order =
            std::array::from_fn(|to| to.checked_sub(missing).map_or(0x80, |from| from as u8));
        if let Some(keep) = keep {
            shape.keep = KeepAt::new(keep, values[keep.field()]);
        }
        shape.hash = hash(&shape.special, length);
        shape.values = values.into();
        shape
    }

    fn allows_ascii_only(&self) -> bool {
        let ranges = self.least.as_flattened().iter().zip(self.span.as_flattened());
        let mut ranges = ranges.take(self.length());
        ranges.all(|(least, span)| least.saturating_add(*span) < 0x80)
    }

    /// Whether both are the same but for what their texts may hold.
    pub(crate) fn is_like(&self, other: &Shape<W>) -> bool {
        let narrow = |span: u8| span.min(ByteRange::ASCII.span);
        let spans = self.span.as_flattened().iter().zip(other.span.as_flattened());
        self.length == other.length
            && self.special == other.special
            && self.least == other.least
            && spans.fold(true, |like, (a, b)| like & (narrow(*a) == narrow(*b)))
    }

    /// Hash of the length and the marks of its lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How long its lines are, without the newline.
    #[inline]
    pub(crate) fn length(&self) -> usize {
        self.length as usize
    }

    /// The declared fields.
    #[inline]
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    /// Another shape to be tried where this one does not fit.
    #[inline]
    pub(crate) fn next(&self) -> Option<u16> {
        (self.next != 0).then_some(self.next)
    }

    pub(crate) fn set_next(&mut self, next: Option<u16>) {
        self.next = next.unwrap_or(0);
    }

    /// Remembers that a line had this shape.
    #[inline]
    pub(super) fn touch(&self) {
        self.touched.set(true);
    }

    /// Whether a line had it since the last call.
    pub(crate) fn take_touched(&self) -> bool {
        self.touched.replace(false)
    }

    /// The ranges of 64 bytes: their least values and their spans.
    #[inline]
    pub(super) fn range(&self, word: usize) -> (&[u8; WORD_BYTES], &[u8; WORD_BYTES]) {
        (&self.least[word], &self.span[word])
    }

    /// Not 0 if a line with these marks has another shape.
    #[inline]
    pub(super) fn differs(&self, special: &[u64; W], length: usize) -> u64 {
        let mut difference = self.length ^ length as u64;
        for (own, other) in self.special.iter().zip(special) {
            difference |= own ^ other;
        }
        difference
    }

    /// Whether a line of this shape is UTF-8.
    #[inline]
    pub(super) fn is_text(&self, line: &[u8]) -> bool {
        !self.beyond_ascii || std::str::from_utf8(line).is_ok()
    }

    /// The 16 bytes that start with the digits of the event time, and how to shuffle them.
    #[inline]
    pub(super) fn time<'w>(&self, window: &'w [u8]) -> (&'w [u8; OVERHANG], &[u8; OVERHANG]) {
        (sixteen(window, self.time_start), &self.time_order)
    }

    /// Whether the predicate may keep a line of this shape: it looks at 16 bytes.
    #[inline]
    pub(super) fn keeps(&self, window: &[u8]) -> bool {
        let KeepAt { start, wanted, mask } = self.keep;
        (u128::from_le_bytes(*sixteen(window, start)) ^ wanted) & mask == 0
    }
}

impl<const W: usize> fmt::Debug for Shape<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shape").field("length", &self.length).finish_non_exhaustive()
    }
}

impl KeepAt {
    fn new(keep: &Keep, value: Value) -> KeepAt {
        let Value::InLine { start, end } = value else { panic!("a predicate is about a text") };
        let (mut wanted, mut mask) = ([0; OVERHANG], [0; OVERHANG]);
        if end - start == keep.text().len() {
            for (place, byte) in keep.text().bytes().take(OVERHANG).enumerate() {
                (wanted[place], mask[place]) = (byte, 0xff);
            }
        } else {
            // There is no newline within a line.
            (wanted[0], mask[0]) = (b'\n', 0xff);
        }
        KeepAt { start, wanted: u128::from_le_bytes(wanted), mask: u128::from_le_bytes(mask) }
    }
}

#[inline]
fn sixteen(window: &[u8], start: usize) -> &[u8; OVERHANG] {
    window[start..].first_chunk().expect("a window has an overhang")
}
