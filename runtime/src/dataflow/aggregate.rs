//! Aggregates over the records of a key and window.

use drizzle_shuffle::Record;

use crate::dataflow::Row;

/// How records become one result.
///
/// The result must not depend on how its records were split into accumulators that were merged.
pub trait Aggregate<R: Row>: Clone + Send + Sync + 'static {
    /// What one record contributes; it crosses the shuffle where nothing is combined before it.
    type Value: Record;
    /// What has been gathered; it crosses the shuffle where records are combined before it.
    type Accumulator: Record;
    /// The result.
    type Output: 'static;

    /// How far records may be gathered before the shuffle.
    const COMBINING: Combining;

    /// What `record` contributes.
    fn value(&self, record: &R::Of<'_>) -> Self::Value;
    /// Nothing gathered yet.
    fn zero(&self) -> Self::Accumulator;
    /// Gathers one value.
    fn add(&self, accumulator: &mut Self::Accumulator, value: Self::Value);
    /// Gathers what was gathered elsewhere.
    fn merge(&self, accumulator: &mut Self::Accumulator, other: Self::Accumulator);
    /// The result of what was gathered.
    fn output(&self, accumulator: &Self::Accumulator) -> Self::Output;
}

/// How far an aggregate may be combined before the shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combining {
    /// Exact and commutative: over all upstream partitions of a core.
    AcrossPartitions,
    /// Only within one upstream partition; partial results are merged in partition order.
    WithinPartition,
}

/// How many records there are.
#[derive(Clone, Copy, Debug)]
pub struct Count;

impl<R: Row> Aggregate<R> for Count {
    type Value = ();
    type Accumulator = u64;
    type Output = u64;

    const COMBINING: Combining = Combining::AcrossPartitions;

    fn value(&self, _record: &R::Of<'_>) {}
    fn zero(&self) -> u64 {
        0
    }
    fn add(&self, count: &mut u64, _value: ()) {
        *count += 1;
    }
    fn merge(&self, count: &mut u64, other: u64) {
        *count += other;
    }
    fn output(&self, count: &u64) -> u64 {
        *count
    }
}
