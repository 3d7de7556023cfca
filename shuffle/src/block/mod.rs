//! Blocks: the immutable records of one batch and edge for one downstream core.
//!
//! A [`Block`] comes into being in two ways only: a [`writer::BlockWriter`] closes it, or bytes from
//! another process pass [`BlockStore::receive`] and [`UncheckedBlock::validate`]. From then on its
//! records are read in place without any check.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use drizzle_scheduler::ids::PartitionId;
use drizzle_scheduler::message::BlockNotice;
use rkyv::Archive;
use thiserror::Error;

use crate::archive::{BodyCheck, BodyError, CheckedBody};
use crate::record::Record;
use crate::segment::shared::{PeerSegment, PeerSegmentError, Place, SharedFile};
use crate::segment::{Landing, SegmentSlice};
use crate::store::{BlockStore, StoreFull};

use self::header::BlockHeader;

pub mod bundle;
pub mod header;
pub mod writer;

/// Bytes that are copied before their checksum is taken: they are still in the first caches then.
const COPIED_AT_ONCE: usize = 64 * 1024;

/// A closed block. Cloning shares it; the memory that it lies in is free again when the last clone
/// is gone.
#[derive(Clone)]
pub struct Block {
    inner: Arc<Inner>,
}

struct Inner {
    header: BlockHeader,
    body: CheckedBody,
    /// Of the body; computed when somebody asks, because hand-over inside a process does not.
    checksum: OnceLock<u32>,
}

impl Block {
    pub(crate) fn new(header: BlockHeader, body: CheckedBody) -> Block {
        debug_assert_eq!(header.record_count(), body.record_count() as u64, "one of them lies");
        Block { inner: Arc::new(Inner { header, body, checksum: OnceLock::new() }) }
    }

    /// What it says of itself. `checksum` in it is 0 if the block was written by this process: ask
    /// [`checksum`](Self::checksum).
    pub fn header(&self) -> &BlockHeader {
        &self.inner.header
    }

    /// The same records, of which something else is said: that fewer partitions are to read them, or
    /// that their sender knows a newer placement.
    ///
    /// # Panics
    /// If it would be of other tasks.
    pub fn renamed(&self, notice: BlockNotice) -> Block {
        let own = self.notice();
        assert_eq!((own.batch, own.edge), (notice.batch, notice.edge), "a block stays what it is");
        assert_eq!(own.upstream, notice.upstream, "its sections are those of its upstream tasks");
        let header = BlockHeader { notice, ..self.header().clone() };
        let checksum = self.inner.checksum.clone();
        Block { inner: Arc::new(Inner { header, body: self.inner.body.clone(), checksum }) }
    }

    /// What it says to the scheduler of the core that reads it.
    pub fn notice(&self) -> &BlockNotice {
        &self.inner.header.notice
    }

    /// Its bytes, as they go to another process: an rkyv archive, or nothing if it has no records.
    pub fn body(&self) -> &[u8] {
        self.inner.body.bytes()
    }

    /// The memory file that its bytes lie in and their place there, if it has any and other processes
    /// may read them.
    pub fn shared(&self) -> Option<(&SharedFile, Place)> {
        self.inner.body.slice()?.shared()
    }

    /// Its records, in place.
    ///
    /// # Panics
    /// If it holds records of another type: the edge tells the type, so that is our bug.
    #[inline]
    pub fn records<R: Record>(&self) -> &[<R as Archive>::Archived] {
        self.inner.body.records::<R>()
    }

    /// How many records it has.
    pub fn record_count(&self) -> usize {
        self.inner.body.record_count()
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.record_count() == 0
    }

    /// Which of its records came from `notice().upstream[upstream_index]`.
    ///
    /// # Panics
    /// If it does not cover that many upstream partitions.
    pub fn section(&self, upstream_index: usize) -> Range<usize> {
        let counts = &self.inner.header.record_counts;
        let sum = |counts: &[u32]| counts.iter().map(|&count| count as usize).sum::<usize>();
        let start = sum(&counts[..upstream_index]);
        start..start + counts[upstream_index] as usize
    }

    /// All upstream partitions that it covers, ascending, each with the records that came from it.
    pub fn sections(&self) -> impl Iterator<Item = (PartitionId, Range<usize>)> + '_ {
        let header = &self.inner.header;
        let mut end = 0;
        header.notice.upstream.iter().zip(header.record_counts.iter()).map(
            move |(&partition, &count)| {
                let start = end;
                end += count as usize;
                (partition, start..end)
            },
        )
    }

    /// crc32c of the body. The first call computes it.
    pub fn checksum(&self) -> u32 {
        *self.inner.checksum.get_or_init(|| crc32c::crc32c(self.body()))
    }

    /// Something that tells when the block is gone, without keeping it.
    pub fn watch(&self) -> BlockWatch {
        BlockWatch(Arc::downgrade(&self.inner))
    }
}

/// Tells whether anybody still holds a block.
pub struct BlockWatch(Weak<Inner>);

impl BlockWatch {
    /// Whether the last clone of the block has been dropped.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for BlockWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BlockWatch(gone: {})", self.is_gone())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Block").field("header", self.header()).finish_non_exhaustive()
    }
}

/// Why bytes from another process are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReceiveError {
    /// Nothing is wrong with the bytes: there is no memory for them now.
    #[error(transparent)]
    Full(#[from] StoreFull),
    /// The body is not as long as its header says.
    #[error("a body of {actual} bytes where its header says {expected}")]
    Length {
        /// What the header says.
        expected: u32,
        /// What came.
        actual: usize,
    },
    /// The body is not what was sent.
    #[error("the body's checksum is {actual:#010x} where its header says {expected:#010x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the body has.
        actual: u32,
    },
    /// The body is what was sent, and no archive of the edge's records.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl BlockStore {
    /// Takes in a body that came from another process: compares length and checksum with its
    /// (decoded) header and copies it to a segment.
    ///
    /// # Errors
    /// [`ReceiveError::Full`] is back-pressure; any other means that the sender or the way is broken.
    pub fn receive(
        &mut self,
        header: &BlockHeader,
        body: &[u8],
    ) -> Result<UncheckedBlock, ReceiveError> {
        if body.len() != header.body_len as usize {
            return Err(ReceiveError::Length { expected: header.body_len, actual: body.len() });
        }
        let mut arrival = self.expect(header)?;
        arrival.fill(body);
        arrival.finish()
    }

    /// Memory for a body that will come from another process, in whatever pieces.
    ///
    /// # Errors
    /// If there is none: that is back-pressure.
    pub fn expect(&mut self, header: &BlockHeader) -> Result<ArrivingBlock, StoreFull> {
        let landing = match header.body_len {
            0 => None,
            len => Some(self.land(len as usize)?),
        };
        Ok(ArrivingBlock { header: header.clone(), landing, checksum: (0, 0) })
    }
}

/// A block whose body is on its way from another process.
#[derive(Debug)]
pub struct ArrivingBlock {
    header: BlockHeader,
    /// `None` if it has no body.
    landing: Option<Landing>,
    /// Checksum of so many bytes: of each piece while it is still in a cache.
    checksum: (u32, usize),
}

impl ArrivingBlock {
    /// What it says of itself.
    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// How many bytes have not come.
    pub fn missing(&self) -> usize {
        self.landing.as_ref().map_or(0, Landing::missing)
    }

    /// Copies what fits of bytes that have come, and says how many did.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = self.landing.as_mut().map_or(0, |landing| landing.fill(bytes));
        self.sum();
        count
    }

    /// Copies what is missing from another process's segment, where the whole body lies at `place`.
    ///
    /// # Errors
    /// If it does not lie there, or no longer.
    pub fn copy_from(
        &mut self,
        segment: &PeerSegment,
        place: Place,
    ) -> Result<(), PeerSegmentError> {
        let len = self.header.body_len as usize;
        while let Some(landing) = self.landing.as_mut().filter(|landing| landing.missing() > 0) {
            segment.copy_to(place, len, landing, COPIED_AT_ONCE)?;
            self.sum();
        }
        Ok(())
    }

    /// The memory alone, for whoever puts the bytes there; to be given back.
    ///
    /// # Panics
    /// If there is no body, or it is lent already.
    pub fn lend(&mut self) -> Landing {
        self.landing.take().expect("there is memory to be lent")
    }

    /// Takes the memory back.
    ///
    /// # Panics
    /// If it is not lent.
    pub fn give_back(&mut self, landing: Landing) {
        assert!(self.landing.is_none(), "only lent memory is given back");
        self.landing = Some(landing);
        self.sum();
    }

    /// The block, once everything has come. Compares length and checksum with the header.
    ///
    /// # Errors
    /// That the sender or the way is broken.
    ///
    /// # Panics
    /// If bytes are missing.
    pub fn finish(self) -> Result<UncheckedBlock, ReceiveError> {
        let ArrivingBlock { header, landing, checksum: (checksum, len) } = self;
        let slice = landing.map(Landing::finish);
        if len != header.body_len as usize {
            return Err(ReceiveError::Length { expected: header.body_len, actual: len });
        }
        match checksum == header.checksum {
            true => Ok(UncheckedBlock { header, slice }),
            false => Err(mismatch(&header, checksum)),
        }
    }

    /// What lies in our own memory is what is checked: it is what will be read.
    fn sum(&mut self) {
        if let Some(landing) = &self.landing {
            let (checksum, len) = self.checksum;
            let bytes = landing.bytes();
            self.checksum = (crc32c::crc32c_append(checksum, &bytes[len..]), bytes.len());
        }
    }
}

fn mismatch(header: &BlockHeader, actual: u32) -> ReceiveError {
    ReceiveError::Checksum { expected: header.checksum, actual }
}

/// A block that arrived whole, and whose records nobody has looked at.
#[derive(Debug)]
pub struct UncheckedBlock {
    header: BlockHeader,
    slice: Option<SegmentSlice>,
}

impl UncheckedBlock {
    /// What it says of itself: the edge in it tells which check to use.
    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Checks the records against the edge's type.
    ///
    /// # Errors
    /// [`ReceiveError::Body`].
    pub fn validate(self, check: BodyCheck) -> Result<Block, ReceiveError> {
        let record_count = self.header.record_count() as usize;
        let body = check.apply(self.slice, self.header.record_size, record_count)?;
        Ok(Block::new(self.header, body))
    }
}

#[cfg(test)]
mod tests;
