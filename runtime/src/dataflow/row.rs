//! Records that flow between operators, and what the engine knows about each.

use drizzle_scheduler::Watermark;

/// The type of a record, which may borrow from the bytes that it was parsed from.
///
/// It is implemented for one stand-in type and names the real one for each lifetime:
///
/// ```
/// use drizzle::dataflow::Row;
/// struct AdEvent<'a> { ad_id: &'a str }
/// impl Row for AdEvent<'static> { type Of<'a> = AdEvent<'a>; }
/// ```
pub trait Row: 'static {
    /// The record itself.
    type Of<'a>;
}

/// A record that owns what it holds: what `map` and the joins yield.
#[derive(Clone, Copy, Debug)]
pub struct Owned<T>(std::marker::PhantomData<T>);

impl<T: 'static> Row for Owned<T> {
    type Of<'a> = T;
}

/// What travels beside a record through the operators of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Event time in milliseconds.
    pub event_time: u64,
    /// Watermark of the record's source partition just before it: a record whose window it has
    /// closed is late. It depends on the source partition alone, never on workers or batches.
    pub watermark: Watermark,
}

impl Stamp {
    /// The stamp of no record.
    pub const ZERO: Stamp = Stamp { event_time: 0, watermark: Watermark::NONE };
}
