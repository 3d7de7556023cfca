//! 64 bytes at a time, in one vector; what takes less is done as with AVX2.

use std::arch::x86_64::*;

use super::avx2::{number, prefetch};
use super::{Marks, WORD_BYTES, scan_lines};

scan_lines! {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt")]
}

/// How far bytes lie above their ranges, at most 255 each.
type Outside = __m512i;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn none_outside() -> Outside {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load(word: &[u8; WORD_BYTES]) -> __m512i {
    // SAFETY: invariant 2, the array has the 64 bytes of the vector.
    unsafe { _mm512_loadu_si512(word.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn marks(word: &[u8; WORD_BYTES]) -> Marks {
    let bytes = load(word);
    // By low nibble, the quote or the backslash that has it. Bytes of 0x80 and more yield 0.
    let table = _mm_setr_epi8(1, 0, 0x22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x5c, 0, 0, 0);
    let escaped = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), bytes);
    let plain = _mm512_cmpneq_epi8_mask(bytes, escaped);
    let plain = _mm512_mask_cmpge_epu8_mask(plain, bytes, _mm512_set1_epi8(0x20));
    let newline = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(b'\n' as i8));
    Marks { special: !plain, newline }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn check(
    outside: Outside,
    word: &[u8; WORD_BYTES],
    least: &[u8; WORD_BYTES],
    span: &[u8; WORD_BYTES],
) -> Outside {
    let above = _mm512_subs_epu8(_mm512_sub_epi8(load(word), load(least)), load(span));
    _mm512_or_si512(outside, above)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn any(outside: Outside) -> u64 {
    u64::from(_mm512_test_epi64_mask(outside, outside))
}
