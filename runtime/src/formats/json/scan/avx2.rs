//! 64 bytes at a time, in two vectors.

use std::arch::x86_64::*;

use super::{Marks, WORD_BYTES, scan_lines};

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
