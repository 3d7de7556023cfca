//! The fast path over many lines: marks of 64 bytes at a time find the shape of each line, and one
//! comparison with it proves the whole line valid.
//!
//! The marks of a line, its quotes, backslashes and control characters, are hashed into an index of
//! shapes. A line of a shape has its marks at the same places, as many bytes, and every byte within
//! the range that the shape has for it. So it differs from the line that the shape was learnt from in
//! bytes of string values, which are no marks and hence need no escape, and in digits, and means the
//! same. All that depends on the data is computed without branches; a branch is taken only for a line
//! that has no shape, and ends the scan.
//!
//! This is an island of unsafe code. Its invariants:
//!
//! 1. Functions of an instruction set run only after the processor was found to have it: a
//!    [`Scanner`] of that set cannot be made otherwise.
//! 2. Vectors are loaded from references to arrays of just their size. There is no other access to
//!    memory through a pointer.
//! 3. A line that passed is valid UTF-8. Either its shape allows nothing but ASCII in it, which
//!    [`Shape`] finds out from its own ranges, or the line was validated for itself. Its hit holds the
//!    bytes that were looked at, and nobody else can make one. Bytes that another process changes
//!    meanwhile are excluded by the third invariant of mapped files.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod shape;

use super::table::Table;
use crate::dataflow::{EventTimes, Stamp};

pub(super) use shape::{ByteRange, Shape, Sketch};

/// How many bytes are marked at a time.
pub(super) const WORD_BYTES: usize = 64;
/// How far behind the last word a field may be read, whatever is there.
pub(super) const OVERHANG: usize = 16;
/// How many lines are scanned before their records are made. So they are still in the first cache.
pub(super) const BATCH_LINES: usize = 64;

/// How far ahead bytes are asked for. The processor's own look-ahead is not enough: it stops at pages,
/// and a line is soon done.
const AHEAD_BYTES: usize = 4096;

/// How many bytes from the start of a line are looked at if it may have `W` words.
pub(super) const fn window_bytes(words: usize) -> usize {
    words * WORD_BYTES + OVERHANG
}

/// Instructions that lines can be scanned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// 64 bytes at a time: x86-64 with AVX-512 BW and VL and BMI 2.
    Avx512,
    /// 32 bytes at a time: x86-64 with AVX2 and BMI 2.
    Avx2,
    /// 8 bytes at a time, on any processor.
    Portable,
}

impl InstructionSet {
    /// All that there are, the best one first.
    pub const ALL: [InstructionSet; 3] =
        [InstructionSet::Avx512, InstructionSet::Avx2, InstructionSet::Portable];

    /// The best one that this processor has.
    pub fn best() -> InstructionSet {
        let best = InstructionSet::ALL.into_iter().find(|set| set.is_available());
        best.expect("every processor has the portable ones")
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && InstructionSet::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(not(target_arch = "x86_64"))]
            InstructionSet::Avx512 | InstructionSet::Avx2 => false,
            InstructionSet::Portable => true,
        }
    }
}

/// Scans with an instruction set that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner(InstructionSet);

/// Lines that are about to be scanned: from `from` on, as far as they start before `limit`.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    bytes: &'a [u8],
    from: usize,
    limit: usize,
    shift_ms: u64,
}

/// The lines of a span that passed, and why there are not more.
pub(super) struct Scanned<'a, const W: usize> {
    /// Those that are to be kept.
    pub(super) hits: Hits<'a, W>,
    /// How many passed, kept or not.
    pub(super) lines: usize,
    /// Where the first line starts that did not pass.
    pub(super) next: usize,
    pub(super) stop: Stop,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A batch is full.
    Full,
    /// The next line starts at or beyond the limit.
    Limit,
    /// The next line has no shape.
    Miss(Miss),
    /// The next line does not end within its window.
    TooLong,
}

/// A line without a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Miss {
    /// How long it is, without its newline.
    pub(super) length: usize,
    /// Hash of its length and marks.
    pub(super) hash: u64,
}

/// Memory for the hits of a batch.
#[derive(Debug)]
pub(super) struct Rows(Box<[Row; BATCH_LINES]>);

/// A line that passed.
#[derive(Clone, Copy, Debug)]
struct Row {
    stamp: Stamp,
    start: usize,
    shape: u16,
}

/// Lines that passed and are to be kept.
pub(super) struct Hits<'a, const W: usize> {
    bytes: &'a [u8],
    rows: &'a [Row],
    shapes: &'a [Shape<W>],
}

/// One of them.
pub(super) struct Hit<'a, const W: usize> {
    pub(super) text: &'a str,
    pub(super) shape: &'a Shape<W>,
    pub(super) stamp: &'a Stamp,
}

impl Scanner {
    /// # Panics
    /// If this processor does not have these instructions.
    pub(super) fn new(set: InstructionSet) -> Scanner {
        assert!(set.is_available(), "the processor has no {set:?}");
        Scanner(set)
    }

    /// Scans until the end of the span or of a batch, or to the first line that does not pass.
    #[inline]
    pub(super) fn scan<'a, const W: usize>(
        self,
        table: &'a Table<W>,
        span: Span<'a>,
        times: &mut EventTimes,
        rows: &'a mut Rows,
    ) -> Scanned<'a, W> {
        let end = match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: invariant 1, this scanner was made for AVX-512.
            InstructionSet::Avx512 => unsafe { avx512::scan(table, span, times, rows) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: invariant 1, this scanner was made for AVX2.
            InstructionSet::Avx2 => unsafe { avx2::scan(table, span, times, rows) },
            #[cfg(not(target_arch = "x86_64"))]
            InstructionSet::Avx512 | InstructionSet::Avx2 => unreachable!("no such processor"),
            InstructionSet::Portable => portable::scan(table, span, times, rows),
        };
        let hits = Hits { bytes: span.bytes, rows: &rows.0[..end.kept], shapes: table.shapes() };
        Scanned { hits, lines: end.lines, next: end.next, stop: end.stop }
    }
}

impl<'a> Span<'a> {
    /// The lines from `from` on that start at least a window for `words` words before the end of
    /// `bytes`, and before `real`. Times are moved by `shift_ms`.
    pub(super) fn new(
        bytes: &'a [u8],
        from: usize,
        real: usize,
        words: usize,
        shift_ms: u64,
    ) -> Span<'a> {
        let limit = (bytes.len() + 1).saturating_sub(window_bytes(words)).min(real);
        Span { bytes, from, limit, shift_ms }
    }
}

impl Rows {
    pub(super) fn new() -> Rows {
        let stamp = Stamp { event_time: 0, watermark: drizzle_scheduler::Watermark(0) };
        Rows(Box::new([Row { stamp, start: 0, shape: 0 }; BATCH_LINES]))
    }
}

impl<'a, const W: usize> Hits<'a, W> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// They come in the order of their lines.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Hit<'a, W>> {
        let Hits { bytes, rows, shapes } = *self;
        rows.iter().map(move |row| {
            let shape = &shapes[usize::from(row.shape)];
            let line = &bytes[row.start..row.start + shape.length()];
            // SAFETY: invariant 3, the scan has found this line valid, and bytes and shapes are
            // borrowed since then.
            let text = unsafe { std::str::from_utf8_unchecked(line) };
            Hit { text, shape, stamp: &row.stamp }
        })
    }
}

/// What a scan of one instruction set returns.
struct End {
    kept: usize,
    lines: usize,
    next: usize,
    stop: Stop,
}

/// Marks of 64 bytes, a bit for each.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// Quotes, backslashes and control characters.
    special: u64,
    newline: u64,
}

/// The loop over lines. Every instruction set has its own: what it calls must be compiled for the
/// same set to become a part of it.
macro_rules! scan_lines {
    ($(#[$attribute:meta])*) => {
        $(#[$attribute])*
        pub(super) fn scan<const W: usize>(
            table: &$crate::formats::json::table::Table<W>,
            span: super::Span<'_>,
            times: &mut $crate::dataflow::EventTimes,
            rows: &mut super::Rows,
        ) -> super::End {
            let super::Span { bytes, from, limit, shift_ms } = span;
            let mut now = *times;
            let (mut next, mut kept) = (from, 0);
            let mut lines = 0;
            let stop = loop {
                if lines == super::BATCH_LINES {
                    break super::Stop::Full;
                }
                if next >= limit {
                    break super::Stop::Limit;
                }
                let window = &bytes[next..next + super::window_bytes(W)];
                for word in 0..W {
                    prefetch(bytes, next + super::AHEAD_BYTES + word * super::WORD_BYTES);
                }
                let (words, _) = window.as_chunks::<{ super::WORD_BYTES }>();
                let mut special = [0; W];
                let mut newline = [0; W];
                for word in 0..W {
                    let marks = marks(&words[word]);
                    special[word] = marks.special;
                    newline[word] = marks.newline;
                }
                let Some(length) = super::first_bit(&newline) else {
                    break super::Stop::TooLong;
                };
                super::trim(&mut special, length);
                let hash = super::hash(&special, length);
                let mut id = table.first(hash);
                let shape = loop {
                    let shape = &table.shapes()[usize::from(id)];
                    let mut outside = none_outside();
                    for word in 0..W {
                        let range = shape.range(word);
                        outside = check(outside, &words[word], range.0, range.1);
                    }
                    if shape.differs(&special, length) | any(outside) == 0 {
                        break Some(shape);
                    }
                    let Some(other) = shape.next() else { break None };
                    id = other;
                };
                let Some(shape) = shape.filter(|shape| shape.is_text(&window[..length])) else {
                    break super::Stop::Miss(super::Miss { length, hash });
                };
                shape.touch();
                let (digits, order) = shape.time(window);
                let stamp = now.stamp(number(digits, order).saturating_add(shift_ms));
                rows.0[kept] = super::Row { stamp, start: next, shape: id };
                kept += usize::from(shape.keeps(window));
                lines += 1;
                next += length + 1;
            };
            *times = now;
            super::End { kept, lines, next, stop }
        }
    };
}
use scan_lines;

/// The place of the first bit that is set.
#[inline]
fn first_bit<const W: usize>(bits: &[u64; W]) -> Option<usize> {
    let mut first = usize::MAX;
    for (word, bits) in bits.iter().enumerate().rev() {
        let place = word * WORD_BYTES + bits.trailing_zeros() as usize;
        first = if *bits == 0 { first } else { place };
    }
    (first != usize::MAX).then_some(first)
}

/// Clears all bits from `length` on.
#[inline]
fn trim<const W: usize>(bits: &mut [u64; W], length: usize) {
    let row = &LOW_BITS[length % 8];
    let start = LOW_BITS_START - length / 8;
    let (masks, _) = row[start..start + 8 * W].as_chunks::<8>();
    for (bits, mask) in bits.iter_mut().zip(masks) {
        *bits &= u64::from_le_bytes(*mask);
    }
}

/// The most words that a line may have.
pub(super) const MOST_WORDS: usize = 16;
const LOW_BITS_START: usize = MOST_WORDS * WORD_BYTES / 8;

/// For each n below 8: ones, as many bytes as the longest line has bits, then n ones, then zeros. A
/// view that begins at the right byte has as many ones as a line has bytes.
static LOW_BITS: [[u8; 2 * LOW_BITS_START + 8]; 8] = {
    let mut rows = [[0; 2 * LOW_BITS_START + 8]; 8];
    let mut ones = 0;
    while ones < 8 {
        let mut byte = 0;
        while byte < LOW_BITS_START {
            rows[ones][byte] = 0xff;
            byte += 1;
        }
        rows[ones][LOW_BITS_START] = (1 << ones) - 1;
        ones += 1;
    }
    rows
};

/// Hash of a line's marks and length; its upper bits are the best ones.
#[inline]
fn hash<const W: usize>(special: &[u64; W], length: usize) -> u64 {
    let mut hash = (length as u64).wrapping_mul(MULTIPLIERS[MOST_WORDS]);
    for (word, multiplier) in special.iter().zip(&MULTIPLIERS) {
        hash = hash.wrapping_add(word.wrapping_mul(*multiplier));
    }
    hash
}

/// Odd numbers without a pattern, by the finish of splitmix64.
const MULTIPLIERS: [u64; MOST_WORDS + 1] = {
    let mut numbers = [0; MOST_WORDS + 1];
    let mut index = 0;
    while index < numbers.len() {
        let mut z = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        numbers[index] = (z ^ (z >> 31)) | 1;
        index += 1;
    }
    numbers
};
