//! Segments that other processes of this host may read: memory files, sealed so that nobody else can
//! write to them, shrink or grow them.
//!
//! The first 64 bytes of such a file hold its generation: how many writers it has had. A place in it
//! names the generation that it was written in, so that a reader notices when it comes too late.
//!
//! An island of `unsafe`. Its invariants:
//!
//! 1. **Map.** Every mapping here is at least [`HEADER_BYTES`] long and starts at a page; its file is
//!    sealed against shrinking before anybody looks at it, so each of its bytes stays readable as long
//!    as the mapping lives.
//! 2. **No reference to what others write.** A [`PeerSegment`] is reached by raw pointers only: its
//!    bytes are copied to memory of our own, and everything that is decided is decided by the copy.
//! 3. **The generation is a word of its own**, aligned, and used atomically by writer and readers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use thiserror::Error;

use super::{Landing, SEGMENT_ALIGN};
use crate::block::header::MAX_BODY_BYTES;

/// What stands before the bytes of blocks.
pub(crate) const HEADER_BYTES: usize = 64;
const _: () = assert!(HEADER_BYTES.is_multiple_of(SEGMENT_ALIGN));

/// Longest file that a reader maps: the longest block, doubled as a segment grows.
const MAX_FILE_BYTES: u64 = 2 * MAX_BODY_BYTES as u64;

/// Where a body lies in a memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of its first byte, from the start of the file; a multiple of 16.
    pub offset: u32,
    /// Of the file, when the body was written.
    pub generation: u64,
}

/// The memory file of a segment, as whoever hands it to readers sees it.
#[derive(Debug)]
pub struct SharedFile {
    file: File,
    life: SegmentLife,
}

/// Tells whether a segment still exists, without keeping it.
#[derive(Clone, Debug)]
pub struct SegmentLife(Arc<()>);

impl SegmentLife {
    /// A number that no other segment has as long as somebody holds this.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether the segment is gone. For one that asks and holds a single one of these.
    pub fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl SharedFile {
    /// A file of so many bytes, mapped to be written, all touched, and then sealed.
    pub(super) fn create(bytes: usize) -> io::Result<(SharedFile, MmapRaw)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("drizzle-segment", flags)?);
        file.set_len(bytes as u64)?;
        let map = MmapOptions::new().len(bytes).populate().map_raw(&file)?;
        // Against later mappings to write; this one stays.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
        fcntl_add_seals(&file, seals)?;
        fcntl_add_seals(&file, SealFlags::SEAL)?;
        Ok((SharedFile { file, life: SegmentLife(Arc::default()) }, map))
    }

    /// The descriptor, for readers.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Tells whether the segment still exists.
    pub fn life(&self) -> SegmentLife {
        self.life.clone()
    }
}

/// The generation of a file that is mapped here.
fn generation(map: &MmapRaw) -> &AtomicU64 {
    // SAFETY: (1), (3): mapped, aligned to a page, and nothing but this word is ever there.
    unsafe { AtomicU64::from_ptr(map.as_mut_ptr().cast()) }
}

/// Begins the next generation: readers of earlier ones are too late.
pub(super) fn next_generation(map: &MmapRaw) -> u64 {
    let next = generation(map).load(Ordering::Relaxed) + 1;
    generation(map).store(next, Ordering::Relaxed);
    // Before anything that the new writer writes.
    fence(Ordering::SeqCst);
    next
}

/// Another process's segment, mapped to be read.
#[derive(Debug)]
pub struct PeerSegment {
    map: MmapRaw,
}

/// Why a peer's segment, or a place in it, cannot be used.
#[derive(Debug, Error)]
pub enum PeerSegmentError {
    /// It is not sealed, so that its bytes could go away while they are read.
    #[error("its segment is not sealed")]
    NotSealed,
    /// It is too short or too long for a segment.
    #[error("its segment has {0} bytes")]
    Length(u64),
    /// The place is not in it.
    #[error("its segment of {bytes} bytes has none at {offset} for {len}")]
    Outside {
        /// Length of the segment.
        bytes: usize,
        /// Start of the place.
        offset: u32,
        /// How many bytes there should be.
        len: usize,
    },
    /// The bytes are of another generation: they were given up before they were read.
    #[error("its segment is of generation {actual}, but the block is of {expected}")]
    Generation {
        /// That of the place.
        expected: u64,
        /// That of the segment.
        actual: u64,
    },
    /// The system will not map it.
    #[error("its segment cannot be mapped: {0}")]
    System(#[from] io::Error),
}

impl PeerSegment {
    /// Maps a peer's segment, with all its pages.
    ///
    /// # Errors
    /// If it is no sealed memory file, or cannot be mapped.
    pub fn map(descriptor: OwnedFd) -> Result<PeerSegment, PeerSegmentError> {
        let file = File::from(descriptor);
        // A descriptor of anything else has no seals.
        let seals = fcntl_get_seals(&file).map_err(|_| PeerSegmentError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(PeerSegmentError::NotSealed);
        }
        let bytes = fstat(&file).map_err(io::Error::from)?.st_size as u64;
        if bytes <= HEADER_BYTES as u64 || bytes > MAX_FILE_BYTES {
            return Err(PeerSegmentError::Length(bytes));
        }
        let map = MmapOptions::new().len(bytes as usize).populate().map_raw_read_only(&file)?;
        Ok(PeerSegment { map })
    }

    /// Copies what is missing of a landing of `len` bytes in all, of which as many lie at `place`; at
    /// most `limit` bytes.
    ///
    /// # Errors
    /// If the place is not in this segment, or no longer what it was.
    pub fn copy_to(
        &self,
        place: Place,
        len: usize,
        landing: &mut Landing,
        limit: usize,
    ) -> Result<(), PeerSegmentError> {
        let (offset, bytes) = (place.offset as usize, self.map.len());
        if offset < HEADER_BYTES || offset.checked_add(len).is_none_or(|end| end > bytes) {
            return Err(PeerSegmentError::Outside { bytes, offset: place.offset, len });
        }
        self.check_generation(place)?;
        let (spot, missing) = landing.spot();
        let from = len.checked_sub(missing).expect("the landing is for this body");
        let count = missing.min(limit);
        // SAFETY: (1): `offset + from + count <= bytes`, by the check above.
        let source = unsafe { self.map.as_ptr().add(offset + from) };
        // SAFETY: (1), (2): `source` is readable for `count` bytes, `spot` is writable for them and
        // in memory of our own. Should the peer write at the same time, the copy is wrong and is
        // found to be so: by the generation, or by its checksum.
        unsafe { source.copy_to_nonoverlapping(spot.as_ptr(), count) };
        landing.advance(count);
        fence(Ordering::Acquire);
        self.check_generation(place)
    }

    fn check_generation(&self, place: Place) -> Result<(), PeerSegmentError> {
        let actual = generation(&self.map).load(Ordering::Acquire);
        let expected = place.generation;
        match actual == expected {
            true => Ok(()),
            false => Err(PeerSegmentError::Generation { expected, actual }),
        }
    }
}

/// Where the bytes of blocks begin in a mapping of such a file.
pub(super) fn after_header(base: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: (1) it is longer than the header.
    unsafe { base.add(HEADER_BYTES) }
}

#[cfg(test)]
mod tests;
