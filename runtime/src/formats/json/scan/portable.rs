//! 8 bytes at a time, in a plain number, for any processor.

use super::{Marks, OVERHANG, WORD_BYTES, scan_lines};

scan_lines! {
    #[inline(never)]
}

/// How far bytes lie above their ranges, at most 255 each.
type Outside = [u8; WORD_BYTES];

fn none_outside() -> Outside {
    [0; WORD_BYTES]
}

#[inline]
pub(super) fn marks(word: &[u8; WORD_BYTES]) -> Marks {
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

/// Nothing: there are no portable means, and this path is not that fast.
#[inline]
fn prefetch(_: &[u8], _: usize) {}

/// The number of the digits that start there, as many as `order` has.
#[inline]
fn number(digits: &[u8; OVERHANG], order: &[u8; OVERHANG]) -> u64 {
    let missing = order.iter().filter(|from| **from >= 0x80).count();
    let digits = u128::from_le_bytes(*digits) ^ u128::from_ne_bytes([b'0'; OVERHANG]);
    let digits = digits << (8 * missing % 128);
    number_of_8(digits as u64) * 100_000_000 + number_of_8((digits >> 64) as u64)
}

/// The number whose 8 digits are given by value, the first of them lowest.
#[inline]
fn number_of_8(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(1 + (10 << 8)) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(1 + (100 << 16)) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(1 + (10_000 << 32)) >> 32
}
