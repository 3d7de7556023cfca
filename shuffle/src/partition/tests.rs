//! Tests of the partition hash.

use proptest::prelude::*;

use super::*;

/// These values are a promise: checkpoints depend on them.
#[test]
fn hashes_of_version_1_never_change() {
    assert_eq!(PARTITION_HASH_VERSION, 1);
    let long = "the quick brown fox jumps over the lazy dog";
    let hashes = [
        0u64.partition_hash(),
        1u64.partition_hash(),
        u64::MAX.partition_hash(),
        (-1i32).partition_hash(),
        "".partition_hash(),
        "a".partition_hash(),
        "exactly 16 bytes".partition_hash(),
        long.partition_hash(),
        (1u32, 2u32).partition_hash(),
        (2u32, 1u32, "x").partition_hash(),
    ];
    assert_eq!(hashes, GOLDEN, "{hashes:#018x?}");
}

/// Computed from the module's text by a program in another language.
const GOLDEN: [u64; 10] = [
    0xf5bb_b786_ac40_58c7,
    0x7c00_d1a3_93fe_75d9,
    0x5a7e_21c6_aa99_e123,
    0x5a7e_21c6_aa99_e123,
    0xfcd6_a911_1163_1185,
    0xef83_7b11_cd57_5c7f,
    0x6aea_0651_683a_8a23,
    0x97b7_0132_de18_37db,
    0x6952_bb34_3bc1_76a3,
    0x6e11_fd3d_413d_a1d5,
];

#[test]
fn equal_keys_hash_alike_in_every_form() {
    assert_eq!(7u8.partition_hash(), 7u64.partition_hash());
    assert_eq!(7u16.partition_hash(), 7i64.partition_hash());
    assert_eq!((-7i32).partition_hash(), (-7i64).partition_hash());
    assert_eq!("abc".partition_hash(), b"abc".partition_hash());
    assert_eq!(b"abc".partition_hash(), b"abc"[..].partition_hash());
    assert_eq!(<&u32 as PartitionKey>::partition_hash(&&5), 5u32.partition_hash());
}

#[test]
fn padding_and_order_make_a_difference() {
    assert_ne!("a".partition_hash(), "a\0".partition_hash());
    assert_ne!([0u8; 16].partition_hash(), [0u8; 32].partition_hash());
    assert_ne!((1u32, 2u32).partition_hash(), (2u32, 1u32).partition_hash());
}

#[test]
fn the_partition_is_the_share_of_the_high_bits() {
    assert_eq!(partition_of(0, 10), PartitionId(0));
    assert_eq!(partition_of(u64::MAX, 10), PartitionId(9));
    assert_eq!(partition_of(1 << 63, 10), PartitionId(5));
    assert_eq!(partition_of(u64::MAX, u32::MAX), PartitionId(u32::MAX - 1));
}

/// Chi-squared of how many keys each partition gets, over its expectation (the number of partitions
/// less one).
fn unevenness(hashes: impl Iterator<Item = u64>, partition_count: u32) -> f64 {
    let mut counts = vec![0u32; partition_count as usize];
    let mut total = 0.0;
    for hash in hashes {
        counts[partition_of(hash, partition_count).index()] += 1;
        total += 1.0;
    }
    let expected = total / f64::from(partition_count);
    let square = |count: u32| (f64::from(count) - expected).powi(2) / expected;
    counts.into_iter().map(square).sum::<f64>() / f64::from(partition_count - 1)
}

proptest! {
    #[test]
    fn keys_in_sequence_spread_evenly(
        partition_count in 2u32..300, start: u64, shift in 0u32..40,
    ) {
        let keys = (0..20_000u64).map(|key| start.wrapping_add(key << shift));
        let numbers = unevenness(keys.clone().map(|key| key.partition_hash()), partition_count);
        let bytes = unevenness(keys.clone().map(|key| key.to_le_bytes().partition_hash()), partition_count);
        let text = unevenness(keys.map(|key| format!("campaign-{key}").as_str().partition_hash()), partition_count);
        // With one degree of freedom a good hash reaches 20 once in 100,000 times.
        let limit = 1.0 + 20.0 / f64::from(partition_count - 1).sqrt();
        for found in [numbers, bytes, text] {
            prop_assert!(found < limit, "{} of at most {}", found, limit);
        }
    }
}
