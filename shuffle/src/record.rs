//! Which types may travel in a block: plain, fixed-size ones, with nothing out of line.
//!
//! The bounds say it to the compiler: a record is serialized with [`Plain`], which can neither write
//! nor allocate, so a type that stores anything beside itself (a string, a vector) is no [`Record`].
//! Prefer integers and byte arrays: `bool`, `char` and the like work, and cost a loop over all
//! records when a block arrives from another process (4 to 6 ns an entry).

use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedU64, ArchivedUsize};
use rkyv::rancor::{Failure, Fallible};
use rkyv::{Archive, Deserialize, Portable, Serialize};

// The archive format is chosen by Cargo features, which any crate of the build could add to. These
// lines refuse another one: little endian, aligned, 32-bit offsets.
const _: fn(ArchivedU64) -> rkyv::rend::u64_le = |value| value;
const _: () = assert!(align_of::<ArchivedU64>() == 8);
const _: () = assert!(size_of::<ArchivedUsize>() == 4 && align_of::<ArchivedUsize>() == 4);

/// The word that stands for this archive format in every block header: rkyv 0.8, little endian (1),
/// aligned (1), 32-bit offsets.
pub const ARCHIVE_FORMAT: u32 = 0x0008_1120;

/// Largest archived record, in bytes.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The serializer, deserializer and checker of plain records: it has no memory of its own.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Fallible for Plain {
    type Error = Failure;
}

/// A plain type that can travel in a block.
///
/// Implemented for every type that qualifies; derive rkyv's `Archive`, `Serialize` and `Deserialize`
/// on a `Copy` struct of integers and arrays. A generic record of records is a record.
pub trait Record:
    Copy
    + Send
    + Sync
    + 'static
    + Archive<
        Archived: Portable + Send + Sync + 'static + CheckBytes<Plain> + Deserialize<Self, Plain>,
    >
    + Serialize<Plain>
{
    /// The native value of an archived one.
    #[inline]
    fn unarchive(archived: &Self::Archived) -> Self {
        // No plain type can fail here; one whose author made it fail is a user's panic.
        archived.deserialize(&mut Plain).expect("a plain record deserializes")
    }
}

impl<T> Record for T where
    T: Copy
        + Send
        + Sync
        + 'static
        + Archive<
            Archived: Portable + Send + Sync + 'static + CheckBytes<Plain> + Deserialize<T, Plain>,
        >
        + Serialize<Plain>
{
}

/// A record of a window edge that was not aggregated yet. `V` may be `()`.
#[derive(Clone, Copy, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct RawEntry<K, V> {
    /// What it is grouped by.
    pub key: K,
    /// Start of its window, in milliseconds of event time.
    pub window_start: u64,
    /// What is to be aggregated.
    pub value: V,
}

/// What one block's records of one key and window came to.
#[derive(Clone, Copy, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct PartialEntry<K, A> {
    /// What it is grouped by.
    pub key: K,
    /// Start of its window, in milliseconds of event time.
    pub window_start: u64,
    /// The aggregate so far.
    pub accumulator: A,
}

#[cfg(test)]
mod tests;
