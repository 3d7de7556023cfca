//! The job, on the public API of Drizzle: one stage, or two with a shuffle.

use std::time::Duration;

use anyhow::Result;
use drizzle::dataflow::{
    Aggregate, Combine, Combining, Dataflow, DataflowOptions, Job, Owned, Tumbling, WindowResult,
};
use drizzle::node::Outlet;
use drizzle::shuffle::{PartitionKey, partition_of};

use super::flags::{JobFlags, Stages};
use super::numbers::PartialSum;
use super::tally::{Summed, Tallies};

/// Builds the job. Every node does so from the same flags.
pub fn job(flags: &JobFlags, outlet: &Outlet) -> Result<Job> {
    // What a task yields crosses the shuffle as it is, as the map output in the paper.
    let options = DataflowOptions { partitions: flags.reducers(), combine: Combine::Never };
    let flow = Dataflow::new("sum", options);
    let sums = flow.source("sums", flags.numbers());
    match flags.stages() {
        Stages::One => sums.sink("results", Tallies::<Owned<PartialSum>>::new(outlet)),
        Stages::Two => {
            let keys = keys(flags.reducers());
            // An offset is a window of its own, which the batch that took it also closes.
            sums.key_by(move |sum: &PartialSum| keys[sum.part as usize])
                .window(Tumbling::of(Duration::from_millis(1)))
                .aggregate("totals", Total)
                .sink("results", Tallies::<Owned<WindowResult<u32, u64>>>::new(outlet));
        }
    }
    Ok(flow.build()?)
}

/// A key for each reducer, so that every one of them has something to reduce.
pub fn keys(reducers: u32) -> Vec<u32> {
    let leads_to =
        |key: &u32, reducer: u32| partition_of(key.partition_hash(), reducers).0 == reducer;
    let key = |reducer| (0..u32::MAX).find(|key| leads_to(key, reducer));
    (0..reducers).map(|reducer| key(reducer).expect("some key leads to each partition")).collect()
}

/// The sum of what the tasks of a batch have for one reducer.
#[derive(Clone, Copy, Debug)]
struct Total;

impl Aggregate<Owned<PartialSum>> for Total {
    type Value = u64;
    type Accumulator = u64;
    type Output = u64;

    const COMBINING: Combining = Combining::AcrossPartitions;

    fn value(&self, record: &PartialSum) -> u64 {
        record.sum
    }
    fn zero(&self) -> u64 {
        0
    }
    fn add(&self, total: &mut u64, sum: u64) {
        *total = total.wrapping_add(sum);
    }
    fn merge(&self, total: &mut u64, other: u64) {
        *total = total.wrapping_add(other);
    }
    fn output(&self, total: &u64) -> u64 {
        *total
    }
}

impl From<&PartialSum> for Summed {
    fn from(partial: &PartialSum) -> Summed {
        Summed { key: partial.task.into(), offset: partial.offset, sum: partial.sum }
    }
}

impl From<&WindowResult<u32, u64>> for Summed {
    fn from(result: &WindowResult<u32, u64>) -> Summed {
        Summed { key: result.key.into(), offset: result.window_start, sum: result.value }
    }
}
