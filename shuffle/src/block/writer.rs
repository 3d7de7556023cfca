//! Writing a block: records go one by one to where readers will find them.

use std::sync::Arc;

use drizzle_scheduler::message::{BlockNotice, SourceRange};

use crate::archive::{ArchiveWriter, CLOSING_BYTES, record_size};
use crate::block::Block;
use crate::block::header::{BlockHeader, MAX_PARTITIONS, MAX_RANGES};
use crate::record::Record;
use crate::store::{BlockStore, StoreFull};

/// What a block's header says beside what its writer knows.
#[derive(Clone, Debug)]
pub struct BlockParts {
    /// Who wrote it, what it holds and what it covers.
    pub notice: BlockNotice,
    /// Source ranges that its content depends on and that the driver may not know yet.
    pub ranges: Arc<[SourceRange]>,
}

/// Writes the blocks of one edge for one destination core, batch after batch, into consecutive space
/// of its segment.
///
/// For each block: [`begin_section`](Self::begin_section) before the records of an upstream
/// partition, [`append`](Self::append) for each record, and [`finish`](Self::finish).
#[derive(Debug)]
pub struct BlockWriter<R: Record> {
    /// `None` before the first record: an edge that is never used needs no memory.
    archive: Option<ArchiveWriter<R>>,
    /// Its segment is larger than others: it is not kept for the next block.
    is_oversize: bool,
    /// Bytes of the last block: the next one is likely to take about as many, and should not have to
    /// move because the rest of its segment is shorter.
    expected_len: usize,
    /// Of the open block: for each section begun or skipped, the number of its first record.
    section_starts: Vec<u32>,
}

impl<R: Record> BlockWriter<R> {
    /// A writer without a segment.
    pub fn new() -> BlockWriter<R> {
        let (is_oversize, expected_len) = (false, 0);
        BlockWriter { archive: None, is_oversize, expected_len, section_starts: Vec::new() }
    }

    /// Says that the records to come are those of the upstream partition with this index in the
    /// block's list. Sections may be left out (they have no records), not revisited.
    ///
    /// # Panics
    /// If this or a later section has begun already.
    pub fn begin_section(&mut self, upstream_index: usize) {
        assert!(self.section_starts.len() <= upstream_index, "sections are written in order");
        assert!(upstream_index < MAX_PARTITIONS, "a block covers a limited number of partitions");
        let record_count = self.record_count() as u32;
        self.section_starts.resize(upstream_index + 1, record_count);
    }

    /// Appends a record to the current section.
    ///
    /// # Errors
    /// If the store has no memory for it. The block stays open as it was: the same record can be
    /// appended later, or the block discarded.
    #[inline]
    pub fn append(&mut self, store: &mut BlockStore, record: &R) -> Result<(), StoreFull> {
        if let Some(archive) = &mut self.archive
            && archive.push(record)
        {
            return Ok(());
        }
        self.append_elsewhere(store, record)
    }

    /// Records of the open block.
    pub fn record_count(&self) -> usize {
        self.archive.as_ref().map_or(0, ArchiveWriter::record_count)
    }

    /// Bytes of the records of the open block.
    pub fn open_bytes(&self) -> usize {
        self.archive.as_ref().map_or(0, ArchiveWriter::open_len)
    }

    /// Forgets the open block, for a task that failed half-way.
    pub fn discard(&mut self) {
        self.section_starts.clear();
        if let Some(archive) = &mut self.archive {
            archive.discard();
        }
    }

    /// Closes the open block and starts the next one. Needs no memory from the store.
    ///
    /// # Panics
    /// If records were appended before the first section, or for sections that
    /// `parts.notice.upstream` does not list, or if lists are longer than a header allows.
    pub fn finish(&mut self, parts: BlockParts) -> Block {
        let BlockParts { notice, ranges } = parts;
        let upstream_count = notice.upstream.len();
        assert!(upstream_count <= MAX_PARTITIONS, "too many upstream partitions for a block");
        assert!(notice.downstream.len() <= MAX_PARTITIONS, "too many downstream partitions");
        assert!(ranges.len() <= MAX_RANGES, "too many source ranges for a block");
        let record_counts = self.take_record_counts(upstream_count);
        let body = match &mut self.archive {
            Some(archive) => archive.close(),
            None => crate::archive::CheckedBody::empty::<R>(),
        };
        if std::mem::take(&mut self.is_oversize) {
            // Held by a writer without need, it would be missing elsewhere.
            self.archive = None;
        }
        self.prepare_for(body.bytes().len());
        let header = BlockHeader {
            notice,
            record_counts,
            ranges,
            record_size: record_size::<R>() as u32,
            body_len: body.bytes().len() as u32,
            checksum: 0,
        };
        Block::new(header, body)
    }

    /// Gives the segment up if a block as long as the last one does not fit into its rest.
    fn prepare_for(&mut self, expected_len: usize) {
        self.expected_len = expected_len;
        self.archive.take_if(|archive| !archive.has_room(expected_len));
    }

    fn take_record_counts(&mut self, upstream_count: usize) -> Arc<[u32]> {
        let record_count = self.record_count() as u32;
        let starts = &mut self.section_starts;
        assert!(starts.len() <= upstream_count, "the block has a section that it does not cover");
        // One more than there are sections, so that each one's end is there too.
        starts.resize(upstream_count + 1, record_count);
        assert!(starts[0] == 0, "records were appended before the first section");
        let counts = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        starts.clear();
        counts
    }

    /// Moves the open block to a segment with room for it and for the record.
    #[cold]
    #[inline(never)]
    fn append_elsewhere(&mut self, store: &mut BlockStore, record: &R) -> Result<(), StoreFull> {
        let open_bytes = self.open_bytes();
        if open_bytes == 0 {
            // Nothing to move, so the store may have the segment back before it looks for one.
            self.archive = None;
        }
        let least = open_bytes + record_size::<R>() + CLOSING_BYTES;
        let target = match store.segment_for(least.max(self.expected_len)) {
            Err(_) if least < self.expected_len => store.segment_for(least)?,
            found => found?,
        };
        self.is_oversize = target.capacity() > store.options().segment_bytes;
        match &mut self.archive {
            Some(archive) => archive.move_to(target),
            None => self.archive = Some(ArchiveWriter::new(target)),
        }
        let archive = self.archive.as_mut().expect("it was set above");
        assert!(archive.push(record), "the segment was chosen for its room");
        Ok(())
    }
}

impl<R: Record> Default for BlockWriter<R> {
    fn default() -> Self {
        BlockWriter::new()
    }
}
