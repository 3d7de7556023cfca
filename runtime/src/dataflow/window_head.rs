//! The head of a stage behind a window: folds the blocks of a batch into its windows, then yields
//! the results of the windows that the batch's watermark closes.
//!
//! Records are folded in (batch, upstream partition) order, whatever order the blocks came in.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::Content;
use drizzle_scheduler::{PartitionId, Watermark};
use drizzle_shuffle::{
    Block, Combiner, CombinerOptions, PartialEntry, PartitionKey, RawEntry, Record, partition_of,
};

use crate::connectors::ConnectorError;
use crate::dataflow::aggregate::Aggregate;
use crate::dataflow::stage::{Head, Intake, RunningHead, StageContext, TaskError};
use crate::dataflow::window::{Tumbling, WindowResult};
use crate::dataflow::{Owned, Row, Stamp};

/// A keyed window and its aggregate, over records of type `R`.
pub struct WindowHead<R, K, A> {
    pub(super) name: Arc<str>,
    pub(super) window: Tumbling,
    pub(super) aggregate: A,
    pub(super) marker: std::marker::PhantomData<fn() -> (R, K)>,
}

impl<R, K, A: Clone> Clone for WindowHead<R, K, A> {
    fn clone(&self) -> Self {
        WindowHead {
            name: self.name.clone(),
            window: self.window,
            aggregate: self.aggregate.clone(),
            marker: std::marker::PhantomData,
        }
    }
}

impl<R, K, A> Head for WindowHead<R, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    A: Aggregate<R>,
{
    type Record = Owned<WindowResult<K, A::Output>>;
    type Running = RunningWindows<R, K, A>;

    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError> {
        let partition_count = context.plan.stage(context.stage).partition_count;
        Ok(RunningWindows {
            head: self.clone(),
            partition_count,
            partitions: (0..partition_count).map(|_| BTreeMap::new()).collect(),
            spare: Vec::new(),
            in_run: vec![false; partition_count as usize],
            table_bytes: vec![0; partition_count as usize],
            state_bytes: 0,
            results: 0,
        })
    }
}

/// The open windows of one core.
pub struct RunningWindows<R: Row, K: Record, A: Aggregate<R>> {
    head: WindowHead<R, K, A>,
    partition_count: u32,
    /// Of all partitions; for each its open windows by start.
    partitions: Vec<BTreeMap<u64, Combiner<K, A::Accumulator>>>,
    /// Tables of closed windows, to be used again.
    spare: Vec<Combiner<K, A::Accumulator>>,
    /// For each partition, whether the current run is for it: a block may cover others too.
    in_run: Vec<bool>,
    /// For each partition, the memory of its open windows when they were looked at last.
    table_bytes: Vec<usize>,
    /// Of all partitions together.
    state_bytes: usize,
    results: u64,
}

/// A window holds all its keys, however many.
const TABLE_OPTIONS: CombinerOptions = CombinerOptions { max_entries: u32::MAX as usize };

/// How many empty tables are kept.
const SPARE_TABLES: usize = 64;
/// Larger ones are not: they would be memory that nobody can see.
const SPARE_TABLE_BYTES: usize = 16 * 1024;

impl<R, K, A> RunningWindows<R, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    A: Aggregate<R>,
{
    fn fold(&mut self, blocks: &[Block]) {
        let mut sections: Vec<(PartitionId, usize, Range<usize>)> = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let with_records = block.sections().filter(|(_, records)| !records.is_empty());
            sections.extend(with_records.map(|(upstream, records)| (upstream, index, records)));
        }
        sections.sort_unstable_by_key(|(upstream, index, _)| (*upstream, *index));
        for (_, index, records) in sections {
            match blocks[index].notice().content {
                Content::Raw => self.fold_raw(&blocks[index], records),
                Content::Partial => self.fold_partial(&blocks[index], records),
            }
        }
    }

    fn fold_raw(&mut self, block: &Block, records: Range<usize>) {
        for record in &block.records::<RawEntry<K, A::Value>>()[records] {
            let entry = RawEntry::<K, A::Value>::unarchive(record);
            self.fold_one(entry.key, entry.window_start, |aggregate, gathered| {
                aggregate.add(gathered, entry.value);
            });
        }
    }

    fn fold_partial(&mut self, block: &Block, records: Range<usize>) {
        for record in &block.records::<PartialEntry<K, A::Accumulator>>()[records] {
            let entry = PartialEntry::<K, A::Accumulator>::unarchive(record);
            self.fold_one(entry.key, entry.window_start, |aggregate, gathered| {
                aggregate.merge(gathered, entry.accumulator);
            });
        }
    }

    fn fold_one(
        &mut self,
        key: K,
        window_start: u64,
        gather: impl FnOnce(&A, &mut A::Accumulator),
    ) {
        let hash = key.partition_hash();
        let partition = partition_of(hash, self.partition_count);
        if !self.in_run[partition.index()] {
            return;
        }
        let windows = &mut self.partitions[partition.index()];
        let spare = &mut self.spare;
        let table = windows
            .entry(window_start)
            .or_insert_with(|| spare.pop().unwrap_or_else(|| Combiner::new(TABLE_OPTIONS)));
        let aggregate = &self.head.aggregate;
        let zero = aggregate.zero();
        table
            .fold(key, hash, window_start, zero, |gathered| gather(aggregate, gathered))
            .expect("a table holds as many keys as can be numbered");
    }
}

impl<R, K, A> RunningHead for RunningWindows<R, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    A: Aggregate<R>,
{
    type Record = Owned<WindowResult<K, A::Output>>;

    fn begin(&mut self, run: &Run, intake: &mut Intake<'_>) -> Result<(), TaskError> {
        self.in_run.fill(false);
        for partition in run.partitions.iter() {
            self.in_run[partition.index()] = true;
        }
        self.fold(intake.inputs);
        Ok(())
    }

    fn emit<F>(
        &mut self,
        run: &Run,
        partition: PartitionId,
        _intake: &mut Intake<'_>,
        mut emit: F,
    ) -> Result<(), TaskError>
    where
        F: FnMut(&WindowResult<K, A::Output>, &Stamp),
    {
        let window = self.head.window;
        let windows = &mut self.partitions[partition.index()];
        while let Some(first) = windows.first_entry() {
            let (window_start, window_end) = (*first.key(), window.end_of(*first.key()));
            if window_end > run.watermark.0 {
                break;
            }
            let mut table = first.remove();
            let stamp = Stamp { event_time: window_end - 1, watermark: Watermark::NONE };
            let drained = table.drain(|_, entry| -> Result<(), Infallible> {
                self.results += 1;
                let value = self.head.aggregate.output(&entry.accumulator);
                let key = entry.key;
                emit(&WindowResult { key, window_start, window_end, value }, &stamp);
                Ok(())
            });
            let Ok(()) = drained;
            let is_small = table.memory_bytes() <= SPARE_TABLE_BYTES;
            if is_small && self.spare.len() < SPARE_TABLES {
                self.spare.push(table);
            }
        }
        let bytes = windows.values().map(Combiner::memory_bytes).sum();
        let before = std::mem::replace(&mut self.table_bytes[partition.index()], bytes);
        self.state_bytes = self.state_bytes - before + bytes;
        Ok(())
    }

    fn watermark(&self, run: &Run) -> Watermark {
        run.watermark
    }

    fn records(&self) -> u64 {
        0
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        report(&self.head.name, "results", self.results);
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}
