//! Aggregation in front of a block: one entry for each key and window instead of one for each
//! record (the paper's section 3.5, optimisation within a batch).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use thiserror::Error;

use crate::partition::combine;
use crate::record::PartialEntry;

/// How much a combiner may hold.
#[derive(Clone, Copy, Debug)]
pub struct CombinerOptions {
    /// Most entries, each a key and a window, between two drains.
    pub max_entries: usize,
}

/// There is no room for another key: drain first, then fold again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the combiner holds as many entries as it may")]
pub struct CombinerFull;

/// Partial aggregates by key and window, in the order in which they were first seen. The order makes
/// all attempts of a block equal.
#[derive(Debug)]
pub struct Combiner<K, A> {
    options: CombinerOptions,
    /// Numbers of slots.
    index: HashTable<u32>,
    slots: Vec<Slot<K, A>>,
}

#[derive(Clone, Copy, Debug)]
struct Slot<K, A> {
    /// Of the key alone: it chooses the partition.
    key_hash: u64,
    /// Of key and window: it finds the slot.
    slot_hash: u64,
    entry: PartialEntry<K, A>,
}

impl<K: Copy + Eq, A: Copy> Combiner<K, A> {
    /// An empty one.
    ///
    /// # Panics
    /// If it may hold no entry at all, or more than 2^32.
    pub fn new(options: CombinerOptions) -> Combiner<K, A> {
        assert!(options.max_entries > 0, "a combiner holds at least one entry");
        assert!(u32::try_from(options.max_entries).is_ok(), "slots are numbered with 32 bits");
        Combiner { options, index: HashTable::new(), slots: Vec::new() }
    }

    /// Applies `update` to the accumulator of `key` (whose partition hash is `hash`) and window,
    /// which is `init` if this is the first time.
    ///
    /// # Errors
    /// If the key is new and there is no room for it; `update` was not called then.
    #[inline]
    pub fn fold(
        &mut self,
        key: K,
        hash: u64,
        window_start: u64,
        init: A,
        update: impl FnOnce(&mut A),
    ) -> Result<(), CombinerFull> {
        // Keys that get here share their partition, that is the high bits of their hash, and the
        // table looks at these: mix once more.
        let slot_hash = combine(hash, window_start);
        let slots = &mut self.slots;
        let is_same = |&number: &u32| {
            let entry = &slots[number as usize].entry;
            entry.key == key && entry.window_start == window_start
        };
        let rehash = |&number: &u32| slots[number as usize].slot_hash;
        match self.index.entry(slot_hash, is_same, rehash) {
            Entry::Occupied(found) => {
                update(&mut slots[*found.get() as usize].entry.accumulator);
            }
            Entry::Vacant(vacant) => {
                if slots.len() == self.options.max_entries {
                    return Err(CombinerFull);
                }
                // First of all, because it is a user's and may panic.
                let mut accumulator = init;
                update(&mut accumulator);
                let entry = PartialEntry { key, window_start, accumulator };
                vacant.insert(slots.len() as u32);
                slots.push(Slot { key_hash: hash, slot_hash, entry });
            }
        }
        Ok(())
    }

    /// Hands out all entries with their keys' partition hashes, in the order in which they were
    /// first seen, and is empty afterwards. Memory is kept for the next batch.
    ///
    /// # Errors
    /// The first error of `each`. The entry that it was about, and all after it, stay.
    pub fn drain<E>(
        &mut self,
        mut each: impl FnMut(u64, &PartialEntry<K, A>) -> Result<(), E>,
    ) -> Result<(), E> {
        let stopped = self.slots.iter().enumerate().find_map(|(number, slot)| {
            each(slot.key_hash, &slot.entry).err().map(|error| (number, error))
        });
        self.index.clear();
        let Some((number, error)) = stopped else {
            self.slots.clear();
            return Ok(());
        };
        self.slots.drain(..number);
        let slots = &self.slots;
        for (number, slot) in slots.iter().enumerate() {
            let rehash = |&number: &u32| slots[number as usize].slot_hash;
            self.index.insert_unique(slot.slot_hash, number as u32, rehash);
        }
        Err(error)
    }

    /// Forgets all entries, for a task that failed half-way.
    pub fn discard(&mut self) {
        self.index.clear();
        self.slots.clear();
    }

    /// How many entries it holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests;
