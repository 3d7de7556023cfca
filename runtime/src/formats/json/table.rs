//! The shapes that lines have had, found by hash; those that are not used any more make room.

use super::scan::Shape;

/// How many shapes are kept.
const CAPACITY: usize = 256;
/// How many of them may share a place of the index.
const MOST_ALIKE: usize = 8;
const INDEX_BITS: u32 = 12;
const SIGHTINGS_BITS: u32 = 10;
/// So many lines without a shape pay for learning one, so that learning stays cheap beside them.
const PRICE: u32 = 32;
/// Sightings are forgotten after so many lines without a shape.
const MEMORY: u32 = 4096;

/// Shapes of lines of less than `W` words.
#[derive(Debug)]
pub(super) struct Table<const W: usize> {
    /// By the upper bits of the hash, the first shape to try.
    index: Box<[u16; 1 << INDEX_BITS]>,
    /// Number 0 is the one that no line has.
    shapes: Vec<Shape<W>>,
    /// The shape that is looked at next when one must go.
    hand: usize,
    /// Hashes that were seen once, by their lower bits.
    sightings: Box<[u64; 1 << SIGHTINGS_BITS]>,
    misses: u32,
    /// What lines without a shape have paid.
    credit: u32,
}

impl<const W: usize> Table<W> {
    pub(super) fn new() -> Table<W> {
        Table {
            index: Box::new([0; 1 << INDEX_BITS]),
            shapes: vec![Shape::none()],
            hand: 0,
            sightings: Box::new([0; 1 << SIGHTINGS_BITS]),
            misses: 0,
            credit: PRICE * CAPACITY as u32,
        }
    }

    /// The first shape to try for a line of that hash.
    #[inline]
    pub(super) fn first(&self, hash: u64) -> u16 {
        self.index[place(hash)]
    }

    /// All shapes, by number.
    #[inline]
    pub(super) fn shapes(&self) -> &[Shape<W>] {
        &self.shapes
    }

    /// Notes a line without a shape. Tells whether such a one came before, not long ago: then it is
    /// worth learning, unless much was learnt lately.
    pub(super) fn sight(&mut self, hash: u64) -> bool {
        self.misses += 1;
        if self.misses == MEMORY {
            self.misses = 0;
            self.sightings.fill(0);
        }
        self.credit = (self.credit + 1).min(PRICE * CAPACITY as u32);
        let sighting = &mut self.sightings[hash as usize % (1 << SIGHTINGS_BITS)];
        let again = *sighting == hash && self.credit >= PRICE;
        *sighting = hash;
        again
    }

    /// Adds a shape, or puts it in the place of one that is like it.
    pub(super) fn learn(&mut self, mut shape: Shape<W>) {
        self.credit = self.credit.saturating_sub(PRICE);
        let first = self.first(shape.hash());
        let known = self.chain(first).find(|id| self.shape(*id).is_like(&shape));
        if let Some(known) = known {
            shape.set_next(self.shape(known).next());
            self.shapes[usize::from(known)] = shape;
            return;
        }
        if self.chain(first).count() == MOST_ALIKE {
            return;
        }
        let id = if self.shapes.len() <= CAPACITY {
            self.shapes.push(Shape::none());
            self.shapes.len() - 1
        } else {
            self.make_room()
        };
        let first = &mut self.index[place(shape.hash())];
        shape.set_next((*first != 0).then_some(*first));
        *first = id as u16;
        self.shapes[id] = shape;
    }

    /// Takes out a shape that no line had since the hand came by.
    fn make_room(&mut self) -> usize {
        loop {
            self.hand = self.hand % CAPACITY + 1;
            if !self.shapes[self.hand].take_touched() {
                break;
            }
        }
        self.take_out(self.hand as u16);
        self.hand
    }

    fn take_out(&mut self, id: u16) {
        let (place, next) = (place(self.shape(id).hash()), self.shape(id).next());
        let before =
            self.chain(self.index[place]).find(|other| self.shape(*other).next() == Some(id));
        match before {
            Some(before) => self.shapes[usize::from(before)].set_next(next),
            None => self.index[place] = next.unwrap_or(0),
        }
    }

    fn shape(&self, id: u16) -> &Shape<W> {
        &self.shapes[usize::from(id)]
    }

    /// The shapes of one place of the index.
    fn chain(&self, first: u16) -> impl Iterator<Item = u16> {
        let first = (first != 0).then_some(first);
        std::iter::successors(first, |id| self.shape(*id).next())
    }
}

#[inline]
fn place(hash: u64) -> usize {
    (hash >> (u64::BITS - INDEX_BITS)) as usize
}
