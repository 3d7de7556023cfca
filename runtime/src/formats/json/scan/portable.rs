//! 8 bytes at a time, in a plain number, for any processor.

use super::{Marks, WORD_BYTES, scan_lines};

scan_lines! {}

/// How far bytes lie above their ranges, at most 255 each.
type Outside = [u8; WORD_BYTES];

fn none_outside() -> Outside {
    [0; WORD_BYTES]
}

#[inline]
fn marks(word: &[u8; WORD_BYTES]) -> Marks {
    let (parts, _) = word.as_chunks::<8>();
    let mut marks = Marks::default();
    for (index, part) in parts.iter().enumerate() {
        let bytes = u64::from_le_bytes(*part);
        let quotes = zeros(bytes ^ repeat(b'"')) | zeros(bytes ^ repeat(b'\\'));
        let special = quotes | zeros(bytes & repeat(0xe0));
        marks.special |= gather(special) << (8 * index);
        marks.newline |= gather(zeros(bytes ^ repeat(b'\n'))) << (8 * index);
    }
    marks
}

#[inline]
fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The upper bit of each byte that is 0.
#[inline]
fn zeros(bytes: u64) -> u64 {
    let low = repeat(0x7f);
    !(((bytes & low) + low) | bytes | low)
}

/// The upper bits of all bytes, side by side.
#[inline]
fn gather(bits: u64) -> u64 {
    (bits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Compilers make vectors of it.
#[inline]
fn check(
    mut outside: Outside,
    word: &[u8; WORD_BYTES],
    least: &[u8; WORD_BYTES],
    span: &[u8; WORD_BYTES],
) -> Outside {
    for byte in 0..WORD_BYTES {
        outside[byte] |= word[byte].wrapping_sub(least[byte]).saturating_sub(span[byte]);
    }
    outside
}

#[inline]
fn any(outside: Outside) -> u64 {
    u64::from(outside.iter().fold(0, |any, byte| any | byte))
}

/// The marks of one byte, as the lowest bits.
pub(super) fn mark(byte: u8) -> Marks {
    // Between characters that are no marks.
    let mut word = [b' '; WORD_BYTES];
    word[0] = byte;
    marks(&word)
}
