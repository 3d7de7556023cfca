//! Bodies as rkyv archives: the only place that treats bytes as records.
//!
//! A body without records is empty. Any other is the archive of a `Vec` of records, in one canonical
//! form: the records from its start, zeros up to a multiple of 4, and the root (`ArchivedVec`: the
//! offset back to the records, and their number). Bytes between the fields of a record are zero.
//!
//! An island of `unsafe`. Its invariants:
//!
//! 1. **Typed writer.** All open bytes of an [`ArchiveWriter<R>`]'s segment are whole records
//!    `R::Archived`, each of which passed `R::Archived`'s own check after it was written. (For plain
//!    fields the check is no code at all. It is there because `Archive::resolve` is a safe function
//!    that a user may write.)
//! 2. **Checked body.** `CheckedBody { archived, record_count, .. }` starts with `record_count`
//!    values of the type `archived`, all valid. It is made only by [`ArchiveWriter::close`] (by 1)
//!    and by [`BodyCheck`], which checks each of them.
//! 3. **Alignment.** A body starts at a multiple of 16 (`segment`), and no record needs more; sizes
//!    are multiples of alignments, so each record in it is aligned.
//! 4. **Own spot.** What is written or checked here lies in bytes that the caller alone may touch
//!    (an open segment, a local buffer) or that nobody writes any more (a published body), and each
//!    index is below a count that was compared with the length.
#![allow(unsafe_code)]

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rkyv::bytecheck::CheckBytes;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place};
use thiserror::Error;

use crate::record::{MAX_RECORD_BYTES, Plain, Record};
use crate::segment::{SEGMENT_ALIGN, SegmentSlice, SegmentWriter};

/// The root is the same for all records: an offset and a length of 32 bits each.
type Root = ArchivedVec<u8>;
const ROOT_BYTES: usize = size_of::<Root>();
const ROOT_ALIGN: usize = align_of::<Root>();
const _: () = assert!(ROOT_BYTES == 8 && ROOT_ALIGN == 4);

/// The most that closing an archive takes: alignment and root.
pub(crate) const CLOSING_BYTES: usize = ROOT_ALIGN - 1 + ROOT_BYTES;

/// What the compiler checks of a record type that is written to a block or read from one.
struct Layout<R: Record>(PhantomData<R>);

impl<R: Record> Layout<R> {
    const SIZE: usize = {
        let size = size_of::<R::Archived>();
        assert!(size > 0, "a record has at least one byte");
        assert!(size <= MAX_RECORD_BYTES, "a record is larger than MAX_RECORD_BYTES");
        assert!(align_of::<R::Archived>() <= SEGMENT_ALIGN, "a record is aligned to 16 at most");
        assert!(!std::mem::needs_drop::<R::Archived>(), "an archived record has nothing to drop");
        assert!(size_of::<R::Resolver>() == 0, "a record has neither variants nor outside data");
        size
    };
}

/// Size of one archived record.
pub const fn record_size<R: Record>() -> usize {
    Layout::<R>::SIZE
}

/// Size of the body that holds `record_count` records.
pub(crate) fn body_len(record_count: u64, record_size: u64) -> Option<u64> {
    if record_count == 0 {
        return Some(0);
    }
    let records_len = record_count.checked_mul(record_size)?;
    records_len.checked_next_multiple_of(ROOT_ALIGN as u64)?.checked_add(ROOT_BYTES as u64)
}

/// Writes records of one type into a segment.
#[derive(Debug)]
pub(crate) struct ArchiveWriter<R: Record> {
    target: SegmentWriter,
    record: PhantomData<fn(R)>,
}

impl<R: Record> ArchiveWriter<R> {
    /// A writer into a segment without open bytes.
    pub(crate) fn new(target: SegmentWriter) -> ArchiveWriter<R> {
        assert_eq!(target.open_len(), 0, "the open bytes are records of this writer");
        ArchiveWriter { target, record: PhantomData }
    }

    /// Appends a record, if there is room for it and for closing the archive.
    #[inline]
    pub(crate) fn push(&mut self, record: &R) -> bool {
        let size = Layout::<R>::SIZE;
        let position = self.target.open_len();
        let Some(spot) = self.target.spot(size, CLOSING_BYTES) else { return false };
        write_record(record, position, spot.cast());
        self.target.advance(size);
        true
    }

    /// Whether so many more bytes would fit.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.target.has_room(len)
    }

    /// How many records are open.
    pub(crate) fn record_count(&self) -> usize {
        self.target.open_len() / Layout::<R>::SIZE
    }

    /// Bytes of the open records.
    pub(crate) fn open_len(&self) -> usize {
        self.target.open_len()
    }

    /// Goes on in `target`, with the open records.
    pub(crate) fn move_to(&mut self, mut target: SegmentWriter) {
        assert_eq!(target.open_len(), 0, "the open bytes are records of this writer");
        self.target.move_open_to(&mut target);
        self.target = target;
    }

    /// Forgets the open records.
    pub(crate) fn discard(&mut self) {
        self.target.discard();
    }

    /// Closes the archive and publishes it.
    pub(crate) fn close(&mut self) -> CheckedBody {
        let record_count = self.record_count();
        if record_count == 0 {
            return CheckedBody::empty::<R>();
        }
        let closing = Closing::new(self.target.open_len(), record_count);
        self.target.extend(closing.bytes());
        let slice = Some(self.target.publish());
        CheckedBody { slice, archived: TypeId::of::<R::Archived>(), record_count }
    }
}

/// Writes one record to a spot that `push` found.
#[inline]
fn write_record<R: Record>(record: &R, position: usize, spot: NonNull<R::Archived>) {
    let resolver = record.serialize(&mut Plain).expect("a plain record serializes");
    // SAFETY: (3), (4): `push` took the spot for `size_of::<R::Archived>()` bytes that nobody else
    // touches, aligned. Zeros make what lies between the fields the same every time.
    unsafe { spot.write_bytes(0, 1) };
    // SAFETY: (4): the same spot, now initialized whatever the segment held before.
    let place = unsafe { Place::new_unchecked(position, spot.as_ptr()) };
    record.resolve(resolver, place);
    // SAFETY: (3), (4): aligned and initialized, as above; `Place` cannot leave uninitialized bytes.
    let checked = unsafe { R::Archived::check_bytes(spot.as_ptr(), &mut Plain) };
    assert!(checked.is_ok(), "a record was resolved to something that is not valid");
}

/// Appends one archived record, outside any block: snapshots are made of them.
pub fn append_record<R: Record>(record: &R, out: &mut Vec<u8>) {
    let mut archived = MaybeUninit::<R::Archived>::uninit();
    write_record(record, 0, NonNull::from(&mut archived).cast());
    let first: *const u8 = archived.as_ptr().cast();
    // SAFETY: (4): a local buffer of this size, all bytes of which `write_record` has initialized.
    out.extend_from_slice(unsafe { std::slice::from_raw_parts(first, Layout::<R>::SIZE) });
}

/// Reads one record that [`append_record`] has written, wherever its bytes lie.
///
/// # Errors
/// If there are not exactly as many bytes, or they hold a value that the type does not have.
pub fn read_record<R: Record>(bytes: &[u8]) -> Result<R, BodyError> {
    let size = Layout::<R>::SIZE;
    if bytes.len() != size {
        let (expected, actual) = (size as u64, bytes.len() as u64);
        return Err(BodyError::Length { expected, actual });
    }
    let mut archived = MaybeUninit::<R::Archived>::uninit();
    // SAFETY: (4): the bytes were counted, and the target is a local buffer of that size.
    unsafe { archived.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), size) };
    // SAFETY: (3), (4): aligned, because it is a local variable of that type, and initialized.
    let checked = unsafe { R::Archived::check_bytes(archived.as_ptr(), &mut Plain) };
    checked.map_err(|_| BodyError::Record { index: 0 })?;
    // SAFETY: (2): it was checked just now, and nobody has touched it since.
    Ok(R::unarchive(unsafe { archived.assume_init_ref() }))
}

/// What follows the records of a body: alignment and root.
struct Closing {
    /// Zeros, then the root in the last 8 bytes.
    bytes: [u8; CLOSING_BYTES + 1],
    len: usize,
}

impl Closing {
    fn new(records_len: usize, record_count: usize) -> Closing {
        #[repr(C, align(4))]
        struct Aligned([u8; ROOT_BYTES]);

        let root_position = records_len.next_multiple_of(ROOT_ALIGN);
        let mut root = Aligned([0; ROOT_BYTES]);
        // SAFETY: (4): `root` is initialized and has the size and alignment of `Root`.
        let place = unsafe { Place::new_unchecked(root_position, root.0.as_mut_ptr().cast()) };
        Root::resolve_from_len(record_count, VecResolver::from_pos(0), place);
        let mut bytes = [0; CLOSING_BYTES + 1];
        bytes[CLOSING_BYTES + 1 - ROOT_BYTES..].copy_from_slice(&root.0);
        Closing { bytes, len: root_position - records_len + ROOT_BYTES }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.len..]
    }
}

/// Why bytes are not the body that their header promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The header's record size is not that of the edge's record type.
    #[error("records have {actual} bytes where the edge's have {expected}")]
    RecordSize {
        /// What the edge's type has.
        expected: u32,
        /// What the header says.
        actual: u32,
    },
    /// The length does not fit the number of records.
    #[error("a body of {actual} bytes where its records need {expected}")]
    Length {
        /// What the records need.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// The archive's root does not point to the records.
    #[error("the archive's root does not point to its records")]
    Root,
    /// A record holds a value that its type does not have.
    #[error("record {index} holds a value that its type does not have")]
    Record {
        /// Its number, from 0.
        index: usize,
    },
}

/// How to check that bytes are records of one type; made by [`checker`].
#[derive(Clone, Copy, Debug)]
pub struct BodyCheck {
    archived: TypeId,
    record_size: u32,
    check: fn(&[u8], usize) -> Result<(), BodyError>,
}

/// The check for bodies of `R`, to be looked up by edge when a block arrives.
pub fn checker<R: Record>() -> BodyCheck {
    BodyCheck {
        archived: TypeId::of::<R::Archived>(),
        record_size: Layout::<R>::SIZE as u32,
        check: check_records::<R>,
    }
}

impl BodyCheck {
    /// Size of the records that it checks.
    pub fn record_size(&self) -> u32 {
        self.record_size
    }

    /// Checks a body (`None` if it is empty) and types it.
    pub(crate) fn apply(
        &self,
        slice: Option<SegmentSlice>,
        record_size: u32,
        record_count: usize,
    ) -> Result<CheckedBody, BodyError> {
        if record_size != self.record_size {
            return Err(BodyError::RecordSize { expected: self.record_size, actual: record_size });
        }
        (self.check)(slice.as_ref().map_or(&[], SegmentSlice::bytes), record_count)?;
        Ok(CheckedBody { slice, archived: self.archived, record_count })
    }
}

fn check_records<R: Record>(body: &[u8], record_count: usize) -> Result<(), BodyError> {
    let size = Layout::<R>::SIZE;
    let (expected, actual) = (body_len(record_count as u64, size as u64), body.len() as u64);
    if expected != Some(actual) {
        return Err(BodyError::Length { expected: expected.unwrap_or(u64::MAX), actual });
    }
    if record_count == 0 {
        return Ok(());
    }
    let records_len = record_count * size;
    if body[records_len..] != *Closing::new(records_len, record_count).bytes() {
        return Err(BodyError::Root);
    }
    let first = body.as_ptr().cast::<R::Archived>();
    assert!(first.is_aligned(), "a body starts at a multiple of 16");
    for index in 0..record_count {
        // SAFETY: (4): `index < record_count`, and the body has that many records (length above).
        let record = unsafe { first.add(index) };
        // SAFETY: (3), (4): aligned (asserted; sizes are multiples of alignments) and inside the body.
        let checked = unsafe { R::Archived::check_bytes(record, &mut Plain) };
        checked.map_err(|_| BodyError::Record { index })?;
    }
    Ok(())
}

/// Bytes that are known to be records of one type.
#[derive(Clone, Debug)]
pub(crate) struct CheckedBody {
    /// `None`: no records.
    slice: Option<SegmentSlice>,
    /// The type, as archived, of its records.
    archived: TypeId,
    record_count: usize,
}

impl CheckedBody {
    /// No records of `R`.
    pub(crate) fn empty<R: Record>() -> CheckedBody {
        CheckedBody { slice: None, archived: TypeId::of::<R::Archived>(), record_count: 0 }
    }

    /// The whole archive.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.slice.as_ref().map_or(&[], SegmentSlice::bytes)
    }

    /// Where it lies, if it has any bytes.
    pub(crate) fn slice(&self) -> Option<&SegmentSlice> {
        self.slice.as_ref()
    }

    /// How many records there are.
    #[inline]
    pub(crate) fn record_count(&self) -> usize {
        self.record_count
    }

    /// The records, in place.
    ///
    /// # Panics
    /// If they are of another type: a bug of ours, who know the type of each edge.
    #[inline]
    pub(crate) fn records<R: Record>(&self) -> &[<R as Archive>::Archived] {
        assert!(
            self.archived == TypeId::of::<R::Archived>(),
            "a block was read as {}, which is not what it holds",
            std::any::type_name::<R>()
        );
        let Some(slice) = &self.slice else { return &[] };
        // Not through the root: its relative pointer leaves the root's own bytes, and the canonical
        // form says where the records are.
        let first = slice.bytes().as_ptr().cast::<R::Archived>();
        // SAFETY: the body starts with `record_count` valid values of this type (2), aligned (3),
        // which do not change while `self` holds the slice (segment 4).
        unsafe { std::slice::from_raw_parts(first, self.record_count) }
    }
}

#[cfg(test)]
mod tests;
