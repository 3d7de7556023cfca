//! The owner of one core's segments: it hands them to writers and takes them back when the last
//! reader has let go.

use std::sync::Arc;

use thiserror::Error;

use crate::block::header::MAX_BODY_BYTES;
use crate::segment::shared::HEADER_BYTES;
use crate::segment::{Landing, Segment, SegmentWriter};

/// Segments are mapped in whole pages.
const PAGE_BYTES: usize = 4096;

/// How much memory a core's blocks may take.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Size of an ordinary segment. Each writer holds one, so a core with `n` writers needs at
    /// least `n` of them; a block that is larger gets a larger one.
    pub segment_bytes: usize,
    /// Limit of all segments together, mapped but free ones included.
    pub max_bytes: usize,
}

/// There is no segment to write in. Not an error but back-pressure: try again when readers have
/// released blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "block store is full: {requested_bytes} bytes wanted, {mapped_bytes} of {max_bytes} mapped{}",
    refusal(.system_error)
)]
pub struct StoreFull {
    /// Size of the segment that was asked for.
    pub requested_bytes: usize,
    /// Size of the segments that there are.
    pub mapped_bytes: usize,
    /// The limit.
    pub max_bytes: usize,
    /// Set if it was not the limit but the system that refused.
    pub system_error: Option<i32>,
}

fn refusal(system_error: &Option<i32>) -> String {
    system_error.map_or(String::new(), |code| format!(", the system refused (error {code})"))
}

/// Who may read the segments of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// The threads of this process.
    Threads,
    /// Other processes of this host too: segments are memory files, with a descriptor each. Where the
    /// system has no more of these, a segment is an ordinary one, whose blocks have to be sent.
    Processes,
}

/// Pooled segments of one core.
#[derive(Debug)]
pub struct BlockStore {
    options: StoreOptions,
    readers: Readers,
    segments: Vec<Arc<Segment>>,
    mapped_bytes: usize,
    peak_bytes: usize,
    /// Where bodies from other processes go.
    receiving: Option<SegmentWriter>,
}

impl BlockStore {
    /// A store without any segment yet, for the threads of this process.
    ///
    /// # Panics
    /// If an ordinary segment is empty, larger than the limit, or larger than a block may be.
    pub fn new(options: StoreOptions) -> BlockStore {
        BlockStore::for_readers(options, Readers::Threads)
    }

    /// A store without any segment yet.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn for_readers(options: StoreOptions, readers: Readers) -> BlockStore {
        let options = StoreOptions {
            segment_bytes: options.segment_bytes.next_multiple_of(PAGE_BYTES),
            ..options
        };
        assert!(options.segment_bytes > 0, "segments hold something");
        assert!(options.segment_bytes <= options.max_bytes, "one segment fits under the limit");
        assert!(options.segment_bytes <= MAX_BODY_BYTES as usize, "a segment is one block at most");
        BlockStore {
            options,
            readers,
            segments: Vec::new(),
            mapped_bytes: 0,
            peak_bytes: 0,
            receiving: None,
        }
    }

    /// Bytes of the segments that a reader or a writer still holds.
    pub fn retained_bytes(&self) -> usize {
        // A count that is read without synchronization is good enough for a figure: nobody
        // touches memory because of it.
        let held = self.segments.iter().filter(|segment| Arc::strong_count(segment) > 1);
        held.map(|segment| segment.mapped_bytes()).sum()
    }

    /// Bytes of all segments, free ones included. Never more than the limit.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// The most bytes that were ever mapped at a time.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// The options, as rounded to whole pages.
    pub fn options(&self) -> StoreOptions {
        self.options
    }

    /// A writer with room for at least `min_bytes`, in a free segment or in a new one.
    pub(crate) fn segment_for(&mut self, min_bytes: usize) -> Result<SegmentWriter, StoreFull> {
        if min_bytes > MAX_BODY_BYTES as usize {
            return Err(self.full(min_bytes, None));
        }
        let fitting = self.segments.iter_mut().filter(|segment| segment.capacity() >= min_bytes);
        let free = fitting.filter_map(|segment| is_free(segment).then_some(segment));
        // The smallest that fits, and the first of these: it is the likeliest to be in a cache.
        if let Some(segment) = free.min_by_key(|segment| segment.capacity()) {
            return Ok(SegmentWriter::claim(segment).expect("only this store could hold it again"));
        }
        self.map_for(min_bytes)
    }

    /// Memory for `len` bytes that come from elsewhere.
    pub(crate) fn land(&mut self, len: usize) -> Result<Landing, StoreFull> {
        // A writer without room is dropped before the store looks for a segment: its own may be free.
        let roomy = self.receiving.take().filter(|writer| writer.has_room(len));
        let mut writer = match roomy {
            Some(writer) => writer,
            None => self.segment_for(len)?,
        };
        let landing = writer.land(len);
        self.receiving = Some(writer);
        Ok(landing)
    }

    fn map_for(&mut self, min_bytes: usize) -> Result<SegmentWriter, StoreFull> {
        let min_bytes = match self.readers {
            Readers::Threads => min_bytes,
            Readers::Processes => min_bytes + HEADER_BYTES,
        };
        let least = min_bytes.next_multiple_of(PAGE_BYTES).max(self.options.segment_bytes);
        self.make_room(least);
        let available = self.options.max_bytes - self.mapped_bytes;
        if least > available {
            return Err(self.full(least, None));
        }
        // An over-size block grows by doubling, so that moving its records stays cheap.
        let capacity = match least == self.options.segment_bytes {
            true => least,
            false => least.next_power_of_two().min(available / PAGE_BYTES * PAGE_BYTES),
        };
        let segment = match self.readers {
            Readers::Threads => Segment::map(capacity),
            Readers::Processes => Segment::share(capacity),
        };
        let segment = segment
            .map_err(|error| self.full(capacity, Some(error.raw_os_error().unwrap_or(0))))?;
        let mut segment = Arc::new(segment);
        let writer = SegmentWriter::claim(&mut segment).expect("it is new");
        self.mapped_bytes += capacity;
        self.peak_bytes = self.peak_bytes.max(self.mapped_bytes);
        self.segments.push(segment);
        Ok(writer)
    }

    /// Unmaps free segments (none of which was large enough) until `needed` more bytes may be
    /// mapped.
    fn make_room(&mut self, needed: usize) {
        let (mapped_bytes, max_bytes) = (&mut self.mapped_bytes, self.options.max_bytes);
        self.segments.retain_mut(|segment| {
            let fits = needed <= max_bytes - *mapped_bytes;
            if fits || !is_free(segment) {
                return true;
            }
            *mapped_bytes -= segment.mapped_bytes();
            false
        });
    }

    fn full(&self, requested_bytes: usize, system_error: Option<i32>) -> StoreFull {
        let (mapped_bytes, max_bytes) = (self.mapped_bytes, self.options.max_bytes);
        StoreFull { requested_bytes, mapped_bytes, max_bytes, system_error }
    }
}

/// Whether neither a writer nor a reader holds the segment.
fn is_free(segment: &mut Arc<Segment>) -> bool {
    Arc::get_mut(segment).is_some()
}

#[cfg(test)]
mod tests;
