//! 64 bytes at a time, in one vector.

use std::arch::x86_64::*;

use super::{Marks, OVERHANG, WORD_BYTES, scan_lines};

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

/// Asks for the bytes at `at`, which may lie beyond the end.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(bytes: &[u8], at: usize) {
    let address = bytes.as_ptr().wrapping_add(at);
    _mm_prefetch::<_MM_HINT_T0>(address.cast());
}

/// The number of the digits that start there, moved to the end of the vector by `order`.
#[inline]
#[target_feature(enable = "avx2")]
fn number(digits: &[u8; OVERHANG], order: &[u8; OVERHANG]) -> u64 {
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
