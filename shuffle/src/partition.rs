//! The partition of a key: a fixed hash, the same on every machine and in every release.
//!
//! State and checkpoints are kept by partition, so this hash may never change silently: another
//! function is another [`PARTITION_HASH_VERSION`]. Version 1, in full:
//!
//! * `fold(a, b)`: the low half of the 128-bit product `a * b`, xor its high half.
//! * An integer, zero- or sign-extended to 64 bits as `x`: with `low` and `high` the halves of
//!   `(x ^ P0) * P1`, the hash is `fold(low ^ P2, high ^ P3)`.
//! * Bytes (and strings, by their UTF-8 bytes; arrays of bytes like slices): `state = P0`; for each
//!   16 bytes, the last ones padded with zeros, read as little-endian words `a` and `b`:
//!   `state = fold(a ^ P1, b ^ state)`; the hash is `fold(state ^ P2, length ^ P3)`.
//! * A tuple: the hash of its first element, then for each other element's hash `h`:
//!   `state = fold(state ^ P0, h ^ P1)`.
//!
//! It is made of the mixing step of wyhash. It is no defence against keys chosen by an attacker:
//! such keys make one partition heavy, as would sending one key often.

use drizzle_scheduler::ids::PartitionId;

/// Version of the hash, compared when a worker joins and written into checkpoints.
pub const PARTITION_HASH_VERSION: u16 = 1;

const P0: u64 = 0xa076_1d64_78bd_642f;
const P1: u64 = 0xe703_7ed1_a0b4_28db;
const P2: u64 = 0x8ebc_6af0_9c88_c6e3;
const P3: u64 = 0x5899_65cc_7537_4cc3;

/// Something that records are grouped by.
pub trait PartitionKey: Eq {
    /// Its hash, independent of platform and release; see the module's text.
    fn partition_hash(&self) -> u64;
}

/// The partition that a hash belongs to. It takes the high bits; equal shares for any count.
///
/// # Panics
/// If there are no partitions.
#[inline]
pub fn partition_of(hash: u64, partition_count: u32) -> PartitionId {
    assert!(partition_count > 0, "a stage has at least one partition");
    PartitionId((((hash >> 32) * u64::from(partition_count)) >> 32) as u32)
}

#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = product(a, b);
    low ^ high
}

#[inline]
fn product(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    (product as u64, (product >> 64) as u64)
}

#[inline]
fn hash_word(word: u64) -> u64 {
    let (low, high) = product(word ^ P0, P1);
    fold(low ^ P2, high ^ P3)
}

#[inline]
fn hash_bytes(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let mut state = P0;
    for chunk in chunks {
        state = hash_chunk(state, chunk);
    }
    if !rest.is_empty() {
        let mut chunk = [0; 16];
        chunk[..rest.len()].copy_from_slice(rest);
        state = hash_chunk(state, &chunk);
    }
    fold(state ^ P2, bytes.len() as u64 ^ P3)
}

#[inline]
fn hash_chunk(state: u64, chunk: &[u8; 16]) -> u64 {
    let both = u128::from_le_bytes(*chunk);
    fold(both as u64 ^ P1, (both >> 64) as u64 ^ state)
}

#[inline]
fn combine(state: u64, hash: u64) -> u64 {
    fold(state ^ P0, hash ^ P1)
}

macro_rules! integer_keys {
    ($($integer:ty),*) => {
        $(impl PartitionKey for $integer {
            #[inline]
            fn partition_hash(&self) -> u64 {
                // Sign-extends the signed ones: equal numbers hash alike whatever their width.
                hash_word(*self as u64)
            }
        })*
    };
}

integer_keys!(u8, u16, u32, u64, i32, i64);

impl PartitionKey for [u8] {
    #[inline]
    fn partition_hash(&self) -> u64 {
        hash_bytes(self)
    }
}

impl<const N: usize> PartitionKey for [u8; N] {
    #[inline]
    fn partition_hash(&self) -> u64 {
        hash_bytes(self)
    }
}

impl PartitionKey for str {
    #[inline]
    fn partition_hash(&self) -> u64 {
        hash_bytes(self.as_bytes())
    }
}

impl<K: PartitionKey + ?Sized> PartitionKey for &K {
    #[inline]
    fn partition_hash(&self) -> u64 {
        (**self).partition_hash()
    }
}

impl<A: PartitionKey, B: PartitionKey> PartitionKey for (A, B) {
    #[inline]
    fn partition_hash(&self) -> u64 {
        combine(self.0.partition_hash(), self.1.partition_hash())
    }
}

impl<A: PartitionKey, B: PartitionKey, C: PartitionKey> PartitionKey for (A, B, C) {
    #[inline]
    fn partition_hash(&self) -> u64 {
        combine(combine(self.0.partition_hash(), self.1.partition_hash()), self.2.partition_hash())
    }
}

#[cfg(test)]
mod tests;
