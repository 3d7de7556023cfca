//! 64 bytes at a time, in two vectors.

use std::arch::x86_64::*;

use super::{Marks, OVERHANG, WORD_BYTES, scan_lines};

scan_lines! {
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
}

/// How far bytes lie above their ranges, at most 255 each.
type Outside = __m256i;

const HALF: usize = WORD_BYTES / 2;

#[inline]
#[target_feature(enable = "avx2")]
fn none_outside() -> Outside {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(half: &[u8; HALF]) -> __m256i {
    // SAFETY: invariant 2, the array has the 32 bytes of the vector.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn half_marks(half: &[u8; HALF]) -> (u32, u32) {
    let bytes = load(half);
    // By low nibble, the quote or the backslash that has it. Bytes of 0x80 and more yield 0.
    let table = _mm_setr_epi8(1, 0, 0x22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x5c, 0, 0, 0);
    let escaped = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), bytes);
    let control = _mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f));
    let special =
        _mm256_or_si256(_mm256_cmpeq_epi8(bytes, escaped), _mm256_cmpeq_epi8(bytes, control));
    let newline = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'\n' as i8));
    (_mm256_movemask_epi8(special) as u32, _mm256_movemask_epi8(newline) as u32)
}

#[inline]
#[target_feature(enable = "avx2")]
fn marks(word: &[u8; WORD_BYTES]) -> Marks {
    let (halves, _) = word.as_chunks::<HALF>();
    let (low, high) = (half_marks(&halves[0]), half_marks(&halves[1]));
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Marks { special: join(low.0, high.0), newline: join(low.1, high.1) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn check(
    mut outside: Outside,
    word: &[u8; WORD_BYTES],
    least: &[u8; WORD_BYTES],
    span: &[u8; WORD_BYTES],
) -> Outside {
    let (word, _) = word.as_chunks::<HALF>();
    let (least, _) = least.as_chunks::<HALF>();
    let (span, _) = span.as_chunks::<HALF>();
    for half in 0..2 {
        let above = _mm256_sub_epi8(load(&word[half]), load(&least[half]));
        outside = _mm256_or_si256(outside, _mm256_subs_epu8(above, load(&span[half])));
    }
    outside
}

#[inline]
#[target_feature(enable = "avx2")]
fn any(outside: Outside) -> u64 {
    u64::from(_mm256_testz_si256(outside, outside) == 0)
}

/// Asks for the bytes at `at`, which may lie beyond the end.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch(bytes: &[u8], at: usize) {
    let address = bytes.as_ptr().wrapping_add(at);
    _mm_prefetch::<_MM_HINT_T0>(address.cast());
}

/// The number of the digits that start there, moved to the end of the vector by `order`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn number(digits: &[u8; OVERHANG], order: &[u8; OVERHANG]) -> u64 {
    // SAFETY: invariant 2, the array has the 16 bytes of the vector.
    let digits = unsafe { _mm_loadu_si128(digits.as_ptr().cast()) };
    // SAFETY: invariant 2, the array has the 16 bytes of the vector.
    let order = unsafe { _mm_loadu_si128(order.as_ptr().cast()) };
    let digits = _mm_shuffle_epi8(_mm_sub_epi8(digits, _mm_set1_epi8(b'0' as i8)), order);
    let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(1 << 8 | 10));
    let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
    let fours = _mm_packus_epi32(fours, fours);
    let eights = _mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10_000));
    let eights = _mm_cvtsi128_si64(eights) as u64;
    (eights & 0xffff_ffff) * 100_000_000 + (eights >> 32)
}
