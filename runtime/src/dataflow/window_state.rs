//! The open windows of one partition, and what of them changed after a batch.
//!
//! Entries of a window are numbered as they come. A mark for every [`CHUNK`] of them says which batch
//! changed one last, so that a snapshot holds little more than what changed, and marking costs a
//! record next to nothing.
//!
//! A piece: the number of open windows (u32) and their starts (u64 each), the size of an entry (u32),
//! how many there are (u64), and the entries, archived, one behind the other. A window that a later piece does not name was closed.

use std::collections::BTreeMap;
use std::ops::Range;

use drizzle_scheduler::BatchId;
use drizzle_shuffle::{
    Combiner, CombinerOptions, PartialEntry, PartitionKey, Record, append_record, read_record,
    record_size,
};

use super::state::{Extent, Piece, PieceReader, StateError};

/// Entries that share a mark.
const CHUNK: usize = 64;
/// A window holds all its keys, however many.
const TABLE_OPTIONS: CombinerOptions = CombinerOptions { max_entries: u32::MAX as usize };
/// So many entries are applied at a time: a fraction of a millisecond.
const THAWED_AT_ONCE: usize = 4096;
/// How many empty tables are kept.
const SPARE_TABLES: usize = 64;
/// Larger ones are not: they would be memory that nobody can see.
const SPARE_TABLE_BYTES: usize = 16 * 1024;

/// See the module's text.
#[derive(Debug)]
pub(super) struct OpenWindows<K, A> {
    /// By start.
    windows: BTreeMap<u64, Table<K, A>>,
}

/// One window.
#[derive(Debug)]
pub(super) struct Table<K, A> {
    entries: Combiner<K, A>,
    /// For each chunk of entries the last batch that changed one.
    changed: Vec<BatchId>,
}

/// Tables of closed windows, to be used again.
#[derive(Debug)]
pub(super) struct SpareTables<K, A>(Vec<Table<K, A>>);

impl<K, A> Default for OpenWindows<K, A> {
    fn default() -> Self {
        OpenWindows { windows: BTreeMap::new() }
    }
}

impl<K: Copy + Eq, A: Copy> SpareTables<K, A> {
    pub(super) fn new() -> SpareTables<K, A> {
        SpareTables(Vec::new())
    }

    /// Takes back a table whose entries were drained.
    pub(super) fn put(&mut self, mut table: Table<K, A>) {
        table.changed.clear();
        if table.entries.memory_bytes() <= SPARE_TABLE_BYTES && self.0.len() < SPARE_TABLES {
            self.0.push(table);
        }
    }

    fn take(&mut self) -> Table<K, A> {
        let new = || Table { entries: Combiner::new(TABLE_OPTIONS), changed: Vec::new() };
        self.0.pop().unwrap_or_else(new)
    }
}

impl<K: Record + PartitionKey, A: Record> OpenWindows<K, A> {
    /// Gathers something for `key`, whose hash is `hash`, in the window that starts there.
    pub(super) fn fold(
        &mut self,
        spare: &mut SpareTables<K, A>,
        batch: BatchId,
        (key, hash): (K, u64),
        window_start: u64,
        zero: A,
        gather: impl FnOnce(&mut A),
    ) {
        let table = self.windows.entry(window_start).or_insert_with(|| spare.take());
        let number = table.entries.fold(key, hash, window_start, zero, gather);
        let number = number.expect("a table holds as many keys as can be numbered");
        let chunk = number / CHUNK;
        match table.changed.get_mut(chunk) {
            Some(changed) => *changed = batch,
            None => table.changed.push(batch),
        }
    }

    /// The first window, if `is_closed` says so of its start.
    pub(super) fn pop(
        &mut self,
        is_closed: impl FnOnce(u64) -> bool,
    ) -> Option<(u64, Table<K, A>)> {
        let first = self.windows.first_entry()?;
        let start = *first.key();
        is_closed(start).then(|| (start, first.remove()))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.windows.values().map(|table| table.entries.memory_bytes()).sum()
    }

    /// How many entries belong to a piece of that extent.
    pub(super) fn weigh(&self, extent: Extent) -> u64 {
        self.windows.values().map(|table| table.weigh(extent)).sum()
    }

    /// Appends what belongs to a piece of that extent.
    pub(super) fn freeze(&self, extent: Extent, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.windows.len() as u32).to_le_bytes());
        self.windows.keys().for_each(|start| out.extend_from_slice(&start.to_le_bytes()));
        let size = record_size::<PartialEntry<K, A>>();
        out.extend_from_slice(&(size as u32).to_le_bytes());
        let count = self.weigh(extent);
        out.extend_from_slice(&count.to_le_bytes());
        out.reserve(count as usize * size);
        for table in self.windows.values() {
            for entries in table.chunks(extent) {
                table.entries.entries(entries).for_each(|entry| append_record(entry, out));
            }
        }
    }

    /// Applies a piece, or [so many](THAWED_AT_ONCE) of its entries from the `from`-th on; says where to go on.
    pub(super) fn thaw(
        &mut self,
        spare: &mut SpareTables<K, A>,
        piece: &Piece<'_>,
        from: usize,
    ) -> Result<Option<usize>, StateError> {
        let mut reader = PieceReader(piece.bytes);
        let count = reader.u32()?;
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(reader.u64()?);
        }
        if !open.is_sorted_by(|a, b| a < b) {
            return Err(StateError::Content("its windows are not in order"));
        }
        self.windows.retain(|start, _| open.binary_search(start).is_ok());
        let size = record_size::<PartialEntry<K, A>>();
        if reader.u32()? as usize != size {
            return Err(StateError::Content("its entries have another size"));
        }
        let count = reader.u64()?;
        let entries = reader.0.chunks_exact(size);
        if !entries.remainder().is_empty() || entries.len() as u64 != count {
            return Err(StateError::Content("entries are missing"));
        }
        let (all, end) = (entries.len(), from.saturating_add(THAWED_AT_ONCE));
        for bytes in entries.skip(from).take(THAWED_AT_ONCE) {
            let entry: PartialEntry<K, A> = read_record(bytes)
                .map_err(|_| StateError::Content("an entry has a value that its type lacks"))?;
            if open.binary_search(&entry.window_start).is_err() {
                return Err(StateError::Content("an entry is of a window that is not open"));
            }
            let PartialEntry { key, window_start, accumulator } = entry;
            let hash = key.partition_hash();
            self.fold(spare, piece.batch, (key, hash), window_start, accumulator, |gathered| {
                *gathered = accumulator;
            });
        }
        Ok((end < all).then_some(end))
    }
}

impl<K: Copy + Eq, A: Copy> Table<K, A> {
    /// The entries that belong to a piece of that extent, chunk by chunk.
    fn chunks(&self, extent: Extent) -> impl Iterator<Item = Range<usize>> {
        let chunks = self.changed.iter().enumerate();
        let included = chunks.filter(move |(_, changed)| extent.includes(**changed));
        included.map(|(chunk, _)| {
            let first = chunk * CHUNK;
            first..(first + CHUNK).min(self.entries.len())
        })
    }

    fn weigh(&self, extent: Extent) -> u64 {
        self.chunks(extent).map(|entries| entries.len() as u64).sum()
    }

    /// Hands out all entries, and is empty afterwards.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&PartialEntry<K, A>)) {
        let drained = self.entries.drain(|_, entry| {
            each(entry);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = drained;
    }
}
