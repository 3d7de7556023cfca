//! Aggregation in front of a block: one entry for each key and window instead of one for each
//! record (the paper's section 3.5, optimisation within a batch).

use std::ops::Range;

use thiserror::Error;

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
    index: Index,
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

impl<K, A> Combiner<K, A> {
    /// About how many bytes each of many entries takes.
    pub const ENTRY_BYTES: usize = size_of::<Slot<K, A>>() + 4 * size_of::<u32>();

    /// Bytes of memory that it has, used or not.
    pub fn memory_bytes(&self) -> usize {
        self.index.places.capacity() * size_of::<u32>()
            + self.slots.capacity() * size_of::<Slot<K, A>>()
    }
}

impl<K: Copy + Eq, A: Copy> Combiner<K, A> {
    /// An empty one.
    ///
    /// # Panics
    /// If it may hold no entry at all, or more than 2^32 - 1.
    pub fn new(options: CombinerOptions) -> Combiner<K, A> {
        assert!(options.max_entries > 0, "a combiner holds at least one entry");
        assert!(u32::try_from(options.max_entries).is_ok(), "slots are numbered with 32 bits");
        Combiner { options, index: Index::new(), slots: Vec::new() }
    }

    /// Applies `update` to the accumulator of `key` (whose partition hash is `hash`) and window,
    /// which is `init` if this is the first time. The number of the entry, in the order in which they were
    /// first seen.
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
    ) -> Result<usize, CombinerFull> {
        let slot_hash = slot_hash(hash, window_start);
        let slots = &self.slots;
        let is_same = |number: usize| {
            let entry = &slots[number].entry;
            entry.key == key && entry.window_start == window_start
        };
        match self.index.find(slot_hash, is_same) {
            Ok(number) => {
                update(&mut self.slots[number].entry.accumulator);
                Ok(number)
            }
            Err(_) if self.slots.len() == self.options.max_entries => Err(CombinerFull),
            Err(place) => {
                // First of all, because it is a user's and may panic.
                let mut accumulator = init;
                update(&mut accumulator);
                let entry = PartialEntry { key, window_start, accumulator };
                self.add(place, Slot { key_hash: hash, slot_hash, entry });
                Ok(self.slots.len() - 1)
            }
        }
    }

    /// Entries by their numbers.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn entries(&self, numbers: Range<usize>) -> impl Iterator<Item = &PartialEntry<K, A>> {
        self.slots[numbers].iter().map(|slot| &slot.entry)
    }

    #[inline(never)]
    fn add(&mut self, place: usize, slot: Slot<K, A>) {
        self.slots.push(slot);
        self.index.set(place, self.slots.len() - 1);
        if self.index.is_crowded(self.slots.len()) {
            self.index.grow(self.slots.iter().map(|slot| slot.slot_hash));
        }
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
        self.index.clear(self.slots.iter().map(|slot| slot.slot_hash));
        let Some((number, error)) = stopped else {
            self.slots.clear();
            return Ok(());
        };
        self.slots.drain(..number);
        self.index.fill(self.slots.iter().map(|slot| slot.slot_hash));
        Err(error)
    }

    /// Forgets all entries, for a task that failed half-way.
    pub fn discard(&mut self) {
        self.index.clear(self.slots.iter().map(|slot| slot.slot_hash));
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

/// Keys that get here share their partition, that is the high bits of their hash: the index looks at the
/// low ones. Windows begin at round numbers, of which only a product's upper half is mixed well.
#[inline]
fn slot_hash(key_hash: u64, window_start: u64) -> u64 {
    key_hash ^ (window_start.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
}

/// Finds slots by their hashes. A place holds the number of a slot plus one, or 0; a slot is at the first
/// free place from its hash on, and at least half of the places are free, so that a search is short.
#[derive(Debug)]
struct Index {
    /// A power of two of them.
    places: Vec<u32>,
}

impl Index {
    const FIRST_PLACES: usize = 16;

    fn new() -> Index {
        Index { places: vec![0; Index::FIRST_PLACES] }
    }

    /// The slot for which `is_same` holds, or the place where it would be.
    #[inline]
    fn find(&self, hash: u64, is_same: impl Fn(usize) -> bool) -> Result<usize, usize> {
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            match (self.places[place] as usize).checked_sub(1) {
                None => return Err(place),
                Some(number) if is_same(number) => return Ok(number),
                Some(_) => place = (place + 1) & mask,
            }
        }
    }

    fn set(&mut self, place: usize, number: usize) {
        self.places[place] = number as u32 + 1;
    }

    fn is_crowded(&self, slots: usize) -> bool {
        slots * 2 > self.places.len()
    }

    /// Doubles the places, for slots of these hashes.
    #[cold]
    fn grow(&mut self, hashes: impl Iterator<Item = u64>) {
        let places = self.places.len() * 2;
        self.places.clear();
        self.places.resize(places, 0);
        self.fill(hashes);
    }

    /// Takes in slots of these hashes, where there are none.
    fn fill(&mut self, hashes: impl Iterator<Item = u64>) {
        for (number, hash) in hashes.enumerate() {
            match self.find(hash, |_| false) {
                Ok(_) => unreachable!("no slot is the same"),
                Err(place) => self.set(place, number),
            }
        }
    }

    /// Forgets the slots, which have these hashes: where they are few, without touching all places.
    fn clear(&mut self, hashes: impl ExactSizeIterator<Item = u64>) {
        if hashes.len() * 16 >= self.places.len() {
            self.places.fill(0);
            return;
        }
        let mask = self.places.len() - 1;
        for (number, hash) in (1..).zip(hashes) {
            let mut place = hash as usize & mask;
            // It is there, and places before it may have been cleared already.
            while self.places[place] != number {
                place = (place + 1) & mask;
            }
            self.places[place] = 0;
        }
    }
}

#[cfg(test)]
mod tests;
