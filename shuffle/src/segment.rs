//! Mapped memory that blocks lie in: written once, front to back, by one writer, and read by many.
//!
//! An island of `unsafe`. Its invariants:
//!
//! 1. **Map.** `[base, base + capacity)` lies in one mapping, private and anonymous or of a sealed
//!    memory file ([`shared`]) that no other process can write to; readable and writable, zeroed by the
//!    kernel and so always initialized, `base` a multiple of 16, alive as long as the [`Segment`].
//!    Nobody makes a `&mut [u8]` of it.
//! 2. **One writer.** At most one [`SegmentWriter`] exists per segment: it is made only by
//!    [`SegmentWriter::claim`], when the store's `Arc` is the only one, and it holds a second one.
//! 3. **Frontier.** `published <= tail <= capacity`, and `published` is a multiple of 16. The writer
//!    writes only at or above `published`, which never falls during the life of the writer.
//! 4. **Published bytes do not change.** A [`SegmentSlice`] is made only by
//!    [`SegmentWriter::publish`] and [`Landing::finish`], lies wholly below `published`, and holds an
//!    `Arc`. With 3 nobody writes to it while its writer lives; with 2 no other writer exists before the
//!    slice is gone; by 6 a landing that could write to it is no more.
//! 5. **Reuse happens after reading.** `Arc::get_mut` succeeds only after every other `Arc` was
//!    dropped, and synchronizes with those drops (they release, it acquires), so all reads through
//!    slices happen before the first write of the next writer. Readers in other processes are waited
//!    for by those who sent them there, who hold slices meanwhile (`runtime`).
//! 6. **A landing alone writes its bytes.** A [`Landing`] is made only by [`SegmentWriter::land`], of
//!    bytes wholly below `published` that no slice and no other landing covers; it holds an `Arc` and is
//!    not `Clone`. `filled <= len`. Who was given its [`spot`](Landing::spot) writes there only while
//!    he holds the landing.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

pub mod shared;

use shared::{HEADER_BYTES, Place, SharedFile, after_header, next_generation};

/// Every block starts at a multiple of this, so that archived records of any type are aligned.
pub const SEGMENT_ALIGN: usize = 16;

/// One mapping. Its memory is reached through [`SegmentWriter`] and [`SegmentSlice`] only.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    /// Set if other processes may read it.
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: SharedFile,
    generation: u64,
}

impl Segment {
    /// Maps `capacity` bytes (a multiple of 16) and touches them all: a fault in the middle of a
    /// batch would cost 2.5 us a page.
    ///
    /// # Errors
    /// What the system answers when it will not map them.
    pub fn map(capacity: usize) -> io::Result<Segment> {
        assert!(capacity.is_multiple_of(SEGMENT_ALIGN), "a segment is a multiple of 16 bytes");
        let map = MmapOptions::new().len(capacity).populate().map_anon()?;
        Ok(Segment { map: MmapRaw::from(map), shared: None })
    }

    /// The same, in a memory file that other processes may read, of which it takes a part for itself.
    ///
    /// # Errors
    /// What the system answers when it will not have it.
    pub fn share(bytes: usize) -> io::Result<Segment> {
        assert!(bytes > HEADER_BYTES, "there is room for more than the header");
        assert!(bytes.is_multiple_of(SEGMENT_ALIGN), "a segment is a multiple of 16 bytes");
        let (file, map) = SharedFile::create(bytes)?;
        Ok(Segment { map, shared: Some(Shared { file, generation: 0 }) })
    }

    /// How much blocks may take of it.
    pub fn capacity(&self) -> usize {
        self.map.len() - self.header_bytes()
    }

    /// How much memory it takes.
    pub fn mapped_bytes(&self) -> usize {
        self.map.len()
    }

    fn header_bytes(&self) -> usize {
        self.shared.as_ref().map_or(0, |_| HEADER_BYTES)
    }

    /// Where its bytes begin.
    fn base(&self) -> NonNull<u8> {
        let start = NonNull::new(self.map.as_mut_ptr()).expect("nothing is mapped at address 0");
        match &self.shared {
            Some(_) => after_header(start),
            None => start,
        }
    }
}

/// The one writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    segment: Arc<Segment>,
    /// Start of the mapping; beside the `Arc` to save two loads per record.
    base: NonNull<u8>,
    capacity: usize,
    /// End of what readers may hold; the open bytes start here.
    published: usize,
    /// End of the open bytes.
    tail: usize,
}

// SAFETY: `base` points into the mapping that `segment` keeps alive (1), which is tied to no thread;
// by 2 and 3 the writer is the only one that touches the bytes from `published` on.
unsafe impl Send for SegmentWriter {}

impl SegmentWriter {
    /// The writer of a segment that nobody else holds: neither another writer nor a reader.
    pub fn claim(segment: &mut Arc<Segment>) -> Option<SegmentWriter> {
        let unique = Arc::get_mut(segment)?;
        if let Some(shared) = &mut unique.shared {
            shared.generation = next_generation(&unique.map);
        }
        let capacity = unique.capacity();
        let base = segment.base();
        Some(SegmentWriter { segment: Arc::clone(segment), base, capacity, published: 0, tail: 0 })
    }

    /// Size of the segment.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that were written and not published.
    #[inline]
    pub fn open_len(&self) -> usize {
        self.tail - self.published
    }

    /// Whether `len` more bytes would fit.
    #[inline]
    pub fn has_room(&self, len: usize) -> bool {
        len <= self.capacity - self.tail
    }

    /// Where the next `len` bytes go, if `len + spare` more bytes fit. The pointer may be written
    /// through until the writer is used again; [`advance`](Self::advance) makes them open bytes.
    #[inline]
    pub(crate) fn spot(&mut self, len: usize, spare: usize) -> Option<NonNull<u8>> {
        if !self.has_room(len + spare) {
            return None;
        }
        // SAFETY: `tail <= capacity` (3), so the result is inside the mapping or just behind it (1).
        Some(unsafe { self.base.add(self.tail) })
    }

    /// Takes `len` bytes behind the open ones, which the caller has written, into them.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(self.has_room(len), "the spot was there");
        self.tail += len;
    }

    /// Copies `bytes` behind the open ones.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn extend(&mut self, bytes: &[u8]) {
        let spot = self.spot(bytes.len(), 0).expect("the caller made sure that there is room");
        // SAFETY: `spot` is good for `len` bytes that only this writer touches (1, 2, 3); `bytes`
        // is a shared slice, which by 4 cannot reach above `published`, so they do not overlap.
        unsafe { spot.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        self.advance(bytes.len());
    }

    /// Forgets the open bytes.
    pub fn discard(&mut self) {
        self.tail = self.published;
    }

    /// Moves the open bytes behind those of `target`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn move_open_to(&mut self, target: &mut SegmentWriter) {
        let len = self.open_len();
        let spot = target.spot(len, 0).expect("the target was chosen for its room");
        // SAFETY: `published <= capacity` (3), so this stays inside the mapping (1).
        let open = unsafe { self.base.add(self.published) };
        // SAFETY: `open` has `len` initialized bytes (1, 3); `spot` is good for `len` bytes (1) of
        // another mapping, because two writers never share a segment (2).
        unsafe { spot.copy_from_nonoverlapping(open, len) };
        target.advance(len);
        self.discard();
    }

    /// Gives the next `len` bytes away, to be written by whoever brings them.
    ///
    /// # Panics
    /// If they do not fit, or there are open bytes.
    pub fn land(&mut self, len: usize) -> Landing {
        assert_eq!(self.open_len(), 0, "open bytes are published before others are given away");
        assert!(self.has_room(len), "the caller made sure that there is room");
        let offset = self.published;
        self.advance(len);
        self.close_open();
        Landing { segment: Arc::clone(&self.segment), offset, len, filled: 0 }
    }

    /// Closes the open bytes: from here on they never change, and whoever holds the slice may read
    /// them. What follows starts at the next multiple of 16.
    pub fn publish(&mut self) -> SegmentSlice {
        let (offset, len) = (self.published, self.open_len());
        self.close_open();
        SegmentSlice { segment: Arc::clone(&self.segment), offset, len }
    }

    fn close_open(&mut self) {
        // The capacity is a multiple of 16 too, so this stays within it.
        self.tail = self.tail.next_multiple_of(SEGMENT_ALIGN);
        self.published = self.tail;
    }
}

/// Bytes of a segment that come from elsewhere: whoever holds it may write them, front to back.
#[derive(Debug)]
pub struct Landing {
    segment: Arc<Segment>,
    offset: usize,
    len: usize,
    /// How many of the bytes have come.
    filled: usize,
}

impl Landing {
    /// How many bytes have not come.
    pub fn missing(&self) -> usize {
        self.len - self.filled
    }

    /// Copies what fits of `bytes`, and says how many did.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.missing());
        let (spot, _) = self.spot();
        // SAFETY: `spot` is good for `missing` bytes that only this landing touches (6); `bytes` is a
        // shared slice, which by 4 and 6 cannot lie there.
        unsafe { spot.copy_from_nonoverlapping(NonNull::from(bytes).cast(), count) };
        self.filled += count;
        count
    }

    /// The bytes that have come.
    pub fn bytes(&self) -> &[u8] {
        let base = self.segment.base();
        // SAFETY: the bytes lie inside the mapping (1, 6).
        let start = unsafe { base.add(self.offset) };
        // SAFETY: initialized (1); only this landing writes here, behind `filled` or by `&mut` (6).
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.filled) }
    }

    /// Where the next bytes go, and how many there is room for. The pointer is good as long as the
    /// landing lives, wherever it is moved, and nothing else writes there as long as the landing
    /// itself is not used.
    pub fn spot(&mut self) -> (NonNull<u8>, usize) {
        let base = self.segment.base();
        // SAFETY: `offset + filled` is within the mapping or just behind it (1, 6).
        (unsafe { base.add(self.offset + self.filled) }, self.missing())
    }

    /// Takes note of bytes that were written to the [`spot`](Self::spot). (The mapping is always
    /// initialized, so a wrong number is wrong data and nothing worse.)
    ///
    /// # Panics
    /// If they are more than there was room for.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.missing(), "no more comes than there is room for");
        self.filled += count;
    }

    /// The bytes, which from here on never change.
    ///
    /// # Panics
    /// If some have not come.
    pub fn finish(self) -> SegmentSlice {
        assert_eq!(self.missing(), 0, "all bytes have come");
        let Landing { segment, offset, len, .. } = self;
        SegmentSlice { segment, offset, len }
    }
}

/// Published bytes of a segment; they start at a multiple of 16.
#[derive(Clone, Debug)]
pub struct SegmentSlice {
    segment: Arc<Segment>,
    offset: usize,
    len: usize,
}

impl SegmentSlice {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the slice lies inside the mapping (1, 4).
        let start = unsafe { self.segment.base().add(self.offset) };
        // SAFETY: `len` initialized bytes (1) that nobody writes while `self` holds its `Arc` (4),
        // and the mapping lives as long as that.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
    }

    /// The memory file that the bytes lie in and their place there, if other processes may read it.
    pub fn shared(&self) -> Option<(&SharedFile, Place)> {
        let Shared { file, generation } = self.segment.shared.as_ref()?;
        let offset = u32::try_from(HEADER_BYTES + self.offset).ok()?;
        Some((file, Place { offset, generation: *generation }))
    }
}

#[cfg(test)]
mod tests;
