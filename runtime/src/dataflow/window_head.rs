//! The head of a stage behind a window: folds the blocks of a batch into its windows, then yields
//! the results of the windows that the batch's watermark closes.
//!
//! Records are folded in (batch, upstream partition) order, whatever order the blocks came in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::Content;
use drizzle_scheduler::{BatchId, PartitionId, Watermark};
use drizzle_shuffle::{Block, PartialEntry, PartitionKey, RawEntry, Record, partition_of};

use crate::connectors::ConnectorError;
use crate::dataflow::aggregate::Aggregate;
use crate::dataflow::stage::{Head, Intake, RunningHead, StageContext, TaskError};
use crate::dataflow::state::{Extent, Keeps, Slot, StateError};
use crate::dataflow::window::{Tumbling, WindowResult};
use crate::dataflow::window_state::{OpenWindows, SpareTables};
use crate::dataflow::{Owned, Piece, Row, Stamp};

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
            partitions: (0..partition_count).map(|_| OpenWindows::default()).collect(),
            aside: BTreeMap::new(),
            spare: SpareTables::new(),
            in_run: vec![false; partition_count as usize],
            table_bytes: vec![0; partition_count as usize],
            state_bytes: 0,
            batch: BatchId(0),
            results: 0,
        })
    }
}

/// The open windows of one core.
pub struct RunningWindows<R: Row, K: Record, A: Aggregate<R>> {
    head: WindowHead<R, K, A>,
    partition_count: u32,
    /// Of all partitions.
    partitions: Vec<OpenWindows<K, A::Accumulator>>,
    /// States that no task works on.
    aside: BTreeMap<(PartitionId, Slot), OpenWindows<K, A::Accumulator>>,
    spare: SpareTables<K, A::Accumulator>,
    /// For each partition, whether the current block is to be folded for it.
    in_run: Vec<bool>,
    /// For each partition, the memory of its open windows when they were looked at last.
    table_bytes: Vec<usize>,
    /// Of all partitions together.
    state_bytes: usize,
    /// The batch that runs.
    batch: BatchId,
    results: u64,
}

impl<R, K, A> RunningWindows<R, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    A: Aggregate<R>,
{
    fn fold(&mut self, run: &Run, intake: &Intake<'_>) {
        let blocks = intake.inputs;
        let mut sections: Vec<(PartitionId, usize, Range<usize>)> = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let with_records = block.sections().filter(|(_, records)| !records.is_empty());
            sections.extend(with_records.map(|(upstream, records)| (upstream, index, records)));
        }
        sections.sort_unstable_by_key(|(upstream, index, _)| (*upstream, *index));
        if intake.folded.is_none() {
            self.choose(&run.partitions);
        }
        for (_, index, records) in sections {
            if let Some(folded) = intake.folded {
                self.choose(&folded[index]);
            }
            match blocks[index].notice().content {
                Content::Raw => self.fold_raw(&blocks[index], records),
                Content::Partial => self.fold_partial(&blocks[index], records),
            }
        }
    }

    /// Folds from now on for these partitions alone: a block may hold records of others.
    fn choose(&mut self, partitions: &[PartitionId]) {
        self.in_run.fill(false);
        partitions.iter().for_each(|partition| self.in_run[partition.index()] = true);
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
        let aggregate = &self.head.aggregate;
        let zero = aggregate.zero();
        let (windows, spare) = (&mut self.partitions[partition.index()], &mut self.spare);
        windows.fold(spare, self.batch, (key, hash), window_start, zero, |gathered| {
            gather(aggregate, gathered);
        });
    }

    fn slot(&mut self, partition: PartitionId, slot: Slot) -> &mut OpenWindows<K, A::Accumulator> {
        match slot {
            Slot::Live => &mut self.partitions[partition.index()],
            Slot::Copy | Slot::Ahead => self.aside.entry((partition, slot)).or_default(),
        }
    }

    fn take(&mut self, partition: PartitionId, slot: Slot) -> OpenWindows<K, A::Accumulator> {
        match slot {
            Slot::Live => std::mem::take(&mut self.partitions[partition.index()]),
            Slot::Copy | Slot::Ahead => self.aside.remove(&(partition, slot)).unwrap_or_default(),
        }
    }

    /// Takes the memory of a partition's windows into account.
    fn measure(&mut self, partition: PartitionId) {
        let bytes = self.partitions[partition.index()].memory_bytes();
        let before = std::mem::replace(&mut self.table_bytes[partition.index()], bytes);
        self.state_bytes = self.state_bytes - before + bytes;
    }
}

impl<R, K, A> Keeps for RunningWindows<R, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    A: Aggregate<R>,
{
    fn freeze(&mut self, partition: PartitionId, slot: Slot, extent: Extent, out: &mut Vec<u8>) {
        self.slot(partition, slot).freeze(extent, out);
    }

    fn weigh(&self, partition: PartitionId, extent: Extent) -> u64 {
        self.partitions[partition.index()].weigh(extent)
    }

    fn thaw(
        &mut self,
        partition: PartitionId,
        slot: Slot,
        piece: &Piece<'_>,
        from: usize,
    ) -> Result<Option<usize>, StateError> {
        let mut windows = self.take(partition, slot);
        let thawed = windows.thaw(&mut self.spare, piece, from);
        *self.slot(partition, slot) = windows;
        self.measure(partition);
        thawed
    }

    fn clear(&mut self, partition: PartitionId, slot: Slot) {
        self.take(partition, slot);
        self.measure(partition);
    }

    fn shift(&mut self, partition: PartitionId, from: Slot, to: Slot) {
        let windows = self.take(partition, from);
        *self.slot(partition, to) = windows;
        self.measure(partition);
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
        self.batch = run.batch;
        self.fold(run, intake);
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
        let is_closed = |start| window.end_of(start) <= run.watermark.0;
        while let Some((window_start, mut table)) =
            self.partitions[partition.index()].pop(is_closed)
        {
            let window_end = window.end_of(window_start);
            let stamp = Stamp { event_time: window_end - 1, watermark: Watermark::NONE };
            table.drain(|entry| {
                self.results += 1;
                let value = self.head.aggregate.output(&entry.accumulator);
                let key = entry.key;
                emit(&WindowResult { key, window_start, window_end, value }, &stamp);
            });
            self.spare.put(table);
        }
        self.measure(partition);
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
