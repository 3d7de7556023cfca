//! The terminal of a stage in front of a window: decides lateness, combines records if asked to,
//! and writes one block for each core downstream.

use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::{BlockNotice, Content, SourceRange, TakenRange};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{CoreId, EdgeId, Incarnation, PartitionId, StageId, Watermark};
use drizzle_shuffle::{
    BlockParts, BlockWriter, Combiner, CombinerOptions, PartialEntry, PartitionKey, RawEntry,
    Record, StoreFull, partition_of,
};

use crate::connectors::ConnectorError;
use crate::dataflow::aggregate::{Aggregate, Combining};
use crate::dataflow::job::Combine;
use crate::dataflow::stage::{OpenTerminal, Output, StageContext, TaskError, Terminal};
use crate::dataflow::state::Keeps;
use crate::dataflow::window::Tumbling;
use crate::dataflow::{Row, Stamp};

/// How many keys and windows a batch may hold before they are written out early.
fn combiner_options<K: Record, A: Record>(bytes: usize) -> CombinerOptions {
    // A table that grows is there twice for a moment, and may then be filled by half.
    let max_entries = bytes / (4 * Combiner::<K, A>::ENTRY_BYTES);
    CombinerOptions { max_entries: max_entries.clamp(1, 1 << 20) }
}

/// The way into a keyed window.
pub struct ShuffleTerminal<R, F, K, A> {
    pub(super) name: Arc<str>,
    pub(super) edge: EdgeId,
    pub(super) to: StageId,
    pub(super) key: F,
    pub(super) window: Tumbling,
    pub(super) aggregate: A,
    pub(super) combine: Combine,
    pub(super) marker: std::marker::PhantomData<fn() -> (R, K)>,
}

impl<R, F: Clone, K, A: Clone> Clone for ShuffleTerminal<R, F, K, A> {
    fn clone(&self) -> Self {
        ShuffleTerminal {
            name: self.name.clone(),
            edge: self.edge,
            to: self.to,
            key: self.key.clone(),
            window: self.window,
            aggregate: self.aggregate.clone(),
            combine: self.combine,
            marker: std::marker::PhantomData,
        }
    }
}

impl<R, F, K, A> OpenTerminal<R> for ShuffleTerminal<R, F, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    F: Fn(&R::Of<'_>) -> K + Clone + Send + Sync + 'static,
    A: Aggregate<R>,
{
    type Running = RunningShuffle<R, F, K, A>;

    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError> {
        let writers = match self.combine {
            Combine::Never => Writers::Raw(Vec::new()),
            Combine::BeforeShuffle => {
                let options = combiner_options::<K, A::Accumulator>(context.combiner_bytes);
                Writers::Combining(Combiner::new(options), Vec::new())
            }
        };
        Ok(RunningShuffle {
            shuffle: self.clone(),
            core: context.core,
            incarnation: context.incarnation,
            destinations: Destinations::default(),
            writers,
            window: 0..0,
            late: 0,
            counted: 0,
            full: None,
        })
    }
}

/// A shuffle at work on one core.
pub struct RunningShuffle<R: Row, F, K: Record, A: Aggregate<R>> {
    shuffle: ShuffleTerminal<R, F, K, A>,
    core: CoreId,
    incarnation: Incarnation,
    destinations: Destinations,
    writers: Writers<K, A::Value, A::Accumulator>,
    /// The window of the last record: the next one's is mostly the same, and division is slow.
    window: Range<u64>,
    late: u64,
    counted: u64,
    full: Option<StoreFull>,
}

/// One writer for each destination, raw or behind a combiner.
enum Writers<K: Record, V: Record, A: Record> {
    Raw(Vec<BlockWriter<RawEntry<K, V>>>),
    Combining(Combiner<K, A>, Vec<BlockWriter<PartialEntry<K, A>>>),
}

/// The cores of the stage downstream under one placement.
#[derive(Debug, Default)]
struct Destinations {
    placement: Option<Arc<Placement>>,
    /// Each core with its partitions, which every block for it covers.
    cores: Vec<(CoreId, Arc<[PartitionId]>)>,
    /// For each partition, the place of its core in `cores`.
    by_partition: Vec<u16>,
}

impl Destinations {
    fn new(placement: &Arc<Placement>, stage: StageId) -> Destinations {
        let cores = placement.cores_of(stage);
        let place = |core: &CoreId| cores.binary_search(core).expect("every core is listed");
        Destinations {
            placement: Some(placement.clone()),
            by_partition: placement.cores_by_stage[stage.index()]
                .iter()
                .map(|core| place(core) as u16)
                .collect(),
            cores: cores
                .iter()
                .map(|&core| (core, placement.partitions_on(stage, core).into()))
                .collect(),
        }
    }

    fn of(&self, hash: u64) -> usize {
        let partition = partition_of(hash, self.by_partition.len() as u32);
        usize::from(self.by_partition[partition.index()])
    }
}

impl<R, F, K, A> RunningShuffle<R, F, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    F: Fn(&R::Of<'_>) -> K + Clone + Send + Sync + 'static,
    A: Aggregate<R>,
{
    #[cold]
    fn turn_to(&mut self, event_time: u64) {
        let start = self.shuffle.window.start_of(event_time);
        self.window = start..self.shuffle.window.end_of(start);
    }

    /// Writes out what was combined so far.
    fn drain(&mut self, output: &mut Output<'_>) -> Result<(), StoreFull> {
        let Writers::Combining(combiner, writers) = &mut self.writers else { return Ok(()) };
        let destinations = &self.destinations;
        combiner.drain(|hash, entry| writers[destinations.of(hash)].append(output.store, entry))
    }

    #[inline]
    fn write(
        &mut self,
        record: &R::Of<'_>,
        window_start: u64,
        output: &mut Output<'_>,
    ) -> Result<(), StoreFull> {
        let aggregate = &self.shuffle.aggregate;
        let key = (self.shuffle.key)(record);
        let hash = key.partition_hash();
        let value = aggregate.value(record);
        match &mut self.writers {
            Writers::Raw(writers) => {
                let entry = RawEntry { key, window_start, value };
                return writers[self.destinations.of(hash)].append(output.store, &entry);
            }
            Writers::Combining(combiner, _) => {
                let fold = |gathered: &mut A::Accumulator| aggregate.add(gathered, value);
                let zero = aggregate.zero();
                if combiner.fold(key, hash, window_start, zero, fold).is_ok() {
                    return Ok(());
                }
            }
        }
        self.drain(output)?;
        self.write(record, window_start, output)
    }
}

impl<R: Row, F: 'static, K: Record, A: Aggregate<R>> Keeps for RunningShuffle<R, F, K, A> {}

impl<R, F, K, A> Terminal<R> for RunningShuffle<R, F, K, A>
where
    R: Row,
    K: Record + PartitionKey,
    F: Fn(&R::Of<'_>) -> K + Clone + Send + Sync + 'static,
    A: Aggregate<R>,
{
    fn begin(&mut self, _run: &Run, output: &mut Output<'_>) -> Result<(), TaskError> {
        let known = self.destinations.placement.as_ref();
        if known.is_none_or(|known| !Arc::ptr_eq(known, output.placement)) {
            self.destinations = Destinations::new(output.placement, self.shuffle.to);
            let count = self.destinations.cores.len();
            match &mut self.writers {
                Writers::Raw(writers) => writers.resize_with(count, BlockWriter::new),
                Writers::Combining(_, writers) => writers.resize_with(count, BlockWriter::new),
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        index: usize,
        _partition: PartitionId,
        output: &mut Output<'_>,
    ) -> Result<(), TaskError> {
        let across = A::COMBINING == Combining::AcrossPartitions;
        if index > 0 && !across {
            self.drain(output)?;
        }
        match &mut self.writers {
            Writers::Raw(writers) => writers.iter_mut().for_each(|w| w.begin_section(index)),
            Writers::Combining(_, writers) if index == 0 || !across => {
                writers.iter_mut().for_each(|w| w.begin_section(index));
            }
            Writers::Combining(..) => {}
        }
        Ok(())
    }

    #[inline]
    fn push(&mut self, record: &R::Of<'_>, stamp: &Stamp, output: &mut Output<'_>) {
        if !self.window.contains(&stamp.event_time) {
            self.turn_to(stamp.event_time);
        }
        if self.window.end <= stamp.watermark.0 {
            self.late += 1;
            return;
        }
        self.counted += 1;
        if self.full.is_none() {
            self.full = self.write(record, self.window.start, output).err();
        }
    }

    fn finish(
        &mut self,
        run: &Run,
        watermark: Watermark,
        ranges: &[TakenRange],
        output: &mut Output<'_>,
    ) -> Result<(), TaskError> {
        if let Some(full) = self.full.take() {
            return Err(full.into());
        }
        self.drain(output)?;
        let taken = ranges.iter().map(|taken| taken.range).filter(|range| range.from < range.to);
        let ranges: Arc<[SourceRange]> = taken.collect();
        // What the job's flag says: the driver adapts nothing yet.
        let content = match &self.writers {
            Writers::Raw(_) => Content::Raw,
            Writers::Combining(..) => Content::Partial,
        };
        for (index, (core, downstream)) in self.destinations.cores.iter().enumerate() {
            let notice = BlockNotice {
                epoch: output.epoch,
                incarnation: self.incarnation,
                attempt: run.attempt,
                sender: self.core,
                batch: run.batch,
                edge: self.shuffle.edge,
                content,
                upstream: run.partitions.clone(),
                downstream: downstream.clone(),
                watermark,
            };
            let parts = BlockParts { notice, ranges: ranges.clone() };
            let block = match &mut self.writers {
                Writers::Raw(writers) => writers[index].finish(parts),
                Writers::Combining(_, writers) => writers[index].finish(parts),
            };
            output.outgoing.push((*core, block));
        }
        Ok(())
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        report(&self.shuffle.name, "late", self.late);
        report(&self.shuffle.name, "counted", self.counted);
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}
