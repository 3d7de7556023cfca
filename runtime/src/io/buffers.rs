//! Buffers that a ring's receives take by themselves: a ring of them, which the kernel takes from as
//! bytes arrive and which we give back to. An island of unsafe code.
//!
//! 1. The memory is one mapping, which lives as long as its [`ProvidedBuffers`] and never moves. It is
//!    reached by raw pointers and atomics only, but for bytes under 3. Whoever registers it keeps it
//!    until the ring has no operation left that takes buffers; what cannot be drained is leaked.
//! 2. The mapping begins with `count` entries of the kernel's layout, a power of two; the tail lies in
//!    the last field of the first one, which no entry uses. The kernel only reads there. It reads
//!    entries below the tail, so one is written before the tail passes it, and only by the one
//!    thread that owns the ring.
//! 3. A buffer is the kernel's from the moment that it is given back to the completion that names it.
//!    Then it is a [`Piece`]'s: only completions make one, it is not `Clone`, and giving back takes
//!    it. So nobody writes the bytes of a piece, and they were written by the kernel.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use memmap2::MmapMut;

/// The one group of buffers that a ring has.
pub(super) const GROUP: u16 = 0;

/// An entry of the ring of buffers, as the kernel lays it out.
#[repr(C)]
struct Entry {
    address: u64,
    length: u32,
    id: u16,
    /// In the first entry this is the tail of the ring.
    tail: AtomicU16,
}

/// Memory that receives take pieces of.
pub(super) struct ProvidedBuffers {
    /// Keeps what `base` names.
    _map: MmapMut,
    base: NonNull<u8>,
    count: u16,
    size: usize,
    /// Entries ever given back, as the kernel counts them.
    tail: u16,
}

/// Bytes that arrived in a buffer, which is ours until it is given back.
#[derive(Debug)]
pub(super) struct Piece {
    id: u16,
    start: usize,
    end: usize,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Leaves out the first bytes.
    pub(super) fn skip(&mut self, count: usize) {
        assert!(count <= self.len(), "within the piece");
        self.start += count;
    }
}

impl ProvidedBuffers {
    /// So many buffers of so many bytes, all of them the kernel's. Not known to it yet.
    pub(super) fn new(count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && u32::try_from(size).is_ok(), "as the kernel wants it");
        let mut map = MmapMut::map_anon(entries_len(count) + usize::from(count) * size)?;
        let base = NonNull::new(map.as_mut_ptr()).expect("a mapping is nowhere near zero");
        let mut buffers = ProvidedBuffers { _map: map, base, count, size, tail: 0 };
        (0..count).for_each(|id| buffers.offer(id));
        Ok(buffers)
    }

    /// Lets receives of this ring take them. The caller keeps rule 1.
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.base.as_ptr().expose_provenance() as u64;
        // SAFETY: (1), (2) the entries lie there, and stay.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0) }
    }

    /// What a completion has put into buffer `id`.
    pub(super) fn piece(&self, id: u16, length: usize) -> Piece {
        assert!(id < self.count && length <= self.size, "the kernel names buffers that it has");
        Piece { id, start: 0, end: length }
    }

    pub(super) fn bytes(&self, piece: &Piece) -> &[u8] {
        let start = self.buffer(piece.id).wrapping_add(piece.start);
        // SAFETY: (1), (3) within the buffer, whose bytes were written and are nobody else's now.
        unsafe { std::slice::from_raw_parts(start, piece.len()) }
    }

    /// Lets the kernel have the buffer again.
    #[allow(clippy::needless_pass_by_value)] // nobody may read it after
    pub(super) fn give_back(&mut self, piece: Piece) {
        self.offer(piece.id);
    }

    fn offer(&mut self, id: u16) {
        let base = self.base.cast::<Entry>().as_ptr();
        let entry = base.wrapping_add(usize::from(self.tail & (self.count - 1)));
        let address = self.buffer(id).expose_provenance() as u64;
        let length = u32::try_from(self.size).expect("asserted when it was made");
        // SAFETY: (2) an entry of the mapping that the kernel does not look at now.
        unsafe { (*entry).address = address };
        // SAFETY: (2) as above.
        unsafe { (*entry).length = length };
        // SAFETY: (2) as above.
        unsafe { (*entry).id = id };
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: (1), (2) the tail's place, of which all that is ever made is this reference to an atomic.
        let tail = unsafe { &(*base).tail };
        tail.store(self.tail, Ordering::Release);
    }

    fn buffer(&self, id: u16) -> *const u8 {
        let offset = entries_len(self.count) + usize::from(id) * self.size;
        self.base.as_ptr().wrapping_add(offset).cast_const()
    }
}

/// Length of the entries, so that the buffers begin with a page.
fn entries_len(count: u16) -> usize {
    const PAGE: usize = 4096;
    (usize::from(count) * size_of::<Entry>()).next_multiple_of(PAGE)
}
