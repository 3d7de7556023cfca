//! A bench on which a job runs in one thread: every stage on every core, batch after batch, with the
//! blocks carried by hand. Beside it a source, sinks and aggregates, and a plain model of a window.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drizzle_scheduler::local::{self, Retention, Run};
use drizzle_scheduler::message::{Purpose, TakenRange};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::plan::{Pacing, Plan, StageKind};
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, Epoch, Incarnation, Instant, PartitionId, StageId, Watermark,
    WorkerId,
};
use drizzle_shuffle::{Block, BlockStore, StoreOptions};

use crate::connectors::ConnectorError;
use crate::core::CoreClock;
use crate::dataflow::stage::{Intake, IntakeState, Output, Stage, StageContext, TaskError};
use crate::dataflow::{
    Aggregate, Choice, Combine, Combining, Dataflow, DataflowOptions, EventTimes, InputCounters,
    Job, Limit, Owned, Reread, Sink, SinkContext, SinkWriter, Source, SourceReader, Stamp,
    Tumbling, WindowResult,
};

pub(crate) const SOURCE: StageId = StageId(0);
pub(crate) const WINDOW: StageId = StageId(1);
/// Length of the windows of [`windowed`].
pub(crate) const WINDOW_MS: u64 = 10;

/// A record of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: u32,
    pub(crate) time: u64,
    pub(crate) value: u64,
}

pub(crate) fn item(key: u32, time: u64, value: u64) -> Item {
    Item { key, time, value }
}

/// Items that differ in their event time alone.
pub(crate) fn at(times: &[u64]) -> Vec<Item> {
    times.iter().map(|&time| item(1, time, 1)).collect()
}

/// What each batch takes of a partition, over and over; empty for everything at once.
pub(crate) type Cuts = Vec<u64>;

/// Partitions of items in memory; an offset counts items.
#[derive(Clone, Debug)]
pub(crate) struct Items {
    pub(crate) partitions: Arc<Vec<Vec<Item>>>,
    pub(crate) cuts: Cuts,
    pub(crate) out_of_orderness_ms: u64,
    /// Where all partitions begin.
    pub(crate) first: u64,
    /// What is asserted after the items up to an offset.
    pub(crate) assert: fn(u64) -> Option<Watermark>,
    /// Whether a partition's end is told.
    pub(crate) ends: bool,
    pub(crate) fingerprint: u64,
    /// What the source was told that it may forget: everything of a partition before an offset.
    pub(crate) told: Arc<Mutex<Vec<(u32, u64)>>>,
}

impl Items {
    pub(crate) fn new(partitions: &[Vec<Item>]) -> Items {
        Items {
            partitions: Arc::new(partitions.to_vec()),
            cuts: Vec::new(),
            out_of_orderness_ms: 0,
            first: 0,
            assert: |_| None,
            ends: true,
            fingerprint: 1,
            told: Arc::default(),
        }
    }

    pub(crate) fn cut(self, cuts: &[u64]) -> Items {
        Items { cuts: cuts.to_vec(), ..self }
    }

    pub(crate) fn endless(self) -> Items {
        Items { ends: false, ..self }
    }

    pub(crate) fn out_of_orderness(self, out_of_orderness_ms: u64) -> Items {
        Items { out_of_orderness_ms, ..self }
    }
}

impl Source for Items {
    type Record = Owned<Item>;
    type Reader = ItemReader;

    fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }
    fn pacing(&self) -> Pacing {
        Pacing::Unpaced
    }
    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
    fn out_of_orderness_ms(&self) -> u64 {
        self.out_of_orderness_ms
    }
    fn open(&self) -> Result<ItemReader, ConnectorError> {
        Ok(ItemReader { items: self.clone(), chosen: vec![0; self.partitions.len()] })
    }
}

pub(crate) struct ItemReader {
    items: Items,
    /// How often each partition was asked to choose.
    chosen: Vec<usize>,
}

impl SourceReader for ItemReader {
    type Record = Owned<Item>;

    fn first_offset(&self, _partition: PartitionId) -> u64 {
        self.items.first
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        let length = self.items.partitions[partition.index()].len() as u64;
        let cuts = &self.items.cuts;
        let turn = &mut self.chosen[partition.index()];
        let wanted = if cuts.is_empty() { limit.bytes } else { cuts[*turn % cuts.len()] };
        *turn += 1;
        let to = from.saturating_add(wanted).min(length);
        Choice { to, ended: self.items.ends && to == length, asserted: (self.items.assert)(to) }
    }

    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&Item, &Stamp),
    {
        let items = &self.items.partitions[partition.index()];
        for item in &items[range.start as usize..range.end as usize] {
            counters.lines += 1;
            counters.ok += 1;
            emit(item, &times.stamp(item.time));
        }
        Ok(())
    }

    fn durable(&mut self, partition: PartitionId, offset: u64) {
        self.items.told.lock().unwrap().push((partition.0, offset));
    }
}

/// Everything that a sink was given: batch, partition, record.
#[derive(Debug)]
pub(crate) struct Rows<T>(Arc<Mutex<Vec<(BatchId, PartitionId, T)>>>);

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Rows<T> {
        Rows(self.0.clone())
    }
}

impl<T: Clone> Rows<T> {
    pub(crate) fn new() -> Rows<T> {
        Rows(Arc::default())
    }

    pub(crate) fn all(&self) -> Vec<(BatchId, PartitionId, T)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn records(&self) -> Vec<T> {
        self.all().into_iter().map(|(_, _, record)| record).collect()
    }
}

impl<T: Clone + Send + 'static> Sink<Owned<T>> for Rows<T> {
    type Writer = RowWriter<T>;

    fn fingerprint(&self) -> u64 {
        1
    }
    fn open(&self, context: &SinkContext) -> Result<Self::Writer, ConnectorError> {
        Ok(RowWriter { rows: self.clone(), partition: context.partition })
    }
}

pub(crate) struct RowWriter<T> {
    rows: Rows<T>,
    partition: PartitionId,
}

impl<T: Clone + Send + 'static> SinkWriter<Owned<T>> for RowWriter<T> {
    fn write(&mut self, batch: BatchId, _: Instant, record: &T) -> Result<(), ConnectorError> {
        self.rows.0.lock().unwrap().push((batch, self.partition, record.clone()));
        Ok(())
    }
    fn end_batch(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }
    fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// The sum of all values: exact and commutative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum;

impl Aggregate<Owned<Item>> for Sum {
    type Value = u64;
    type Accumulator = u64;
    type Output = u64;

    const COMBINING: Combining = Combining::AcrossPartitions;

    fn value(&self, item: &Item) -> u64 {
        item.value
    }
    fn zero(&self) -> u64 {
        0
    }
    fn add(&self, sum: &mut u64, value: u64) {
        *sum += value;
    }
    fn merge(&self, sum: &mut u64, other: u64) {
        *sum += other;
    }
    fn output(&self, sum: &u64) -> u64 {
        *sum
    }
}

/// A hash over the sequence of all values: associative, and different for any other order. Its
/// accumulator is (hash, factor).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence;

const FACTOR: u64 = 1_000_003;

impl Aggregate<Owned<Item>> for Sequence {
    type Value = u64;
    type Accumulator = (u64, u64);
    type Output = u64;

    const COMBINING: Combining = Combining::WithinPartition;

    fn value(&self, item: &Item) -> u64 {
        item.value
    }
    fn zero(&self) -> (u64, u64) {
        (0, 1)
    }
    fn add(&self, gathered: &mut (u64, u64), value: u64) {
        self.merge(gathered, (value, FACTOR));
    }
    fn merge(&self, gathered: &mut (u64, u64), other: (u64, u64)) {
        let (hash, factor) = *gathered;
        let hash = hash.wrapping_mul(other.1).wrapping_add(other.0);
        *gathered = (hash, factor.wrapping_mul(other.1));
    }
    fn output(&self, gathered: &(u64, u64)) -> u64 {
        gathered.0
    }
}

pub(crate) fn options(partitions: u32, combine: Combine) -> DataflowOptions {
    DataflowOptions { partitions, combine }
}

pub(crate) type Results = Rows<WindowResult<u32, u64>>;

/// `items` by key in windows of [`WINDOW_MS`], aggregated, and where the results will be.
pub(crate) fn windowed<A>(items: Items, aggregate: A, options: DataflowOptions) -> (Bench, Results)
where
    A: Aggregate<Owned<Item>, Output = u64>,
{
    let rows = Rows::new();
    let flow = Dataflow::new("windowed", options);
    flow.source("items", items)
        .key_by(|item| item.key)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS)))
        .aggregate("windows", aggregate)
        .sink("rows", rows.clone());
    (Bench::new(flow.build().unwrap(), 1), rows)
}

/// How one batch is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) purpose: Purpose,
    pub(crate) intake: IntakeState,
}

pub(crate) const PROCESS: Batch = Batch { purpose: Purpose::Process, intake: IntakeState::Open };
pub(crate) const PAUSED: Batch = Batch { intake: IntakeState::Paused, ..PROCESS };
pub(crate) const FLUSH: Batch = Batch { purpose: Purpose::Flush, ..PROCESS };

/// A core of the bench.
struct BenchCore {
    store: BlockStore,
    stages: Vec<Option<Box<dyn Stage>>>,
}

/// Puts blocks in the order in which they arrive.
pub(crate) type Arrival = Box<dyn Fn(&mut Vec<Block>)>;

/// A job and the cores that it runs on.
pub(crate) struct Bench {
    pub(crate) job: Job,
    pub(crate) placement: Arc<Placement>,
    pub(crate) batch_bytes: u64,
    pub(crate) store: StoreOptions,
    pub(crate) arrival: Arrival,
    /// What the latest batch's source tasks took.
    pub(crate) taken: Vec<TakenRange>,
    /// The blocks of the latest batch, and the cores that they were for.
    pub(crate) blocks: Vec<(CoreId, Block)>,
    batch: BatchId,
    cores: BTreeMap<CoreId, BenchCore>,
}

pub(crate) fn core(number: u32) -> CoreId {
    CoreId { worker: WorkerId(number), core: 0 }
}

impl Bench {
    /// The job on so many cores, its partitions spread over them.
    pub(crate) fn new(job: Job, cores: u32) -> Bench {
        let cores: Vec<CoreId> = (0..cores).map(core).collect();
        let placement = Placement::spread(job.plan(), &cores, Epoch(1), BatchId(1));
        Bench {
            job,
            placement: Arc::new(placement),
            batch_bytes: 1 << 20,
            store: StoreOptions { segment_bytes: 4096, max_bytes: 64 << 20 },
            arrival: Box::new(|_| {}),
            taken: Vec::new(),
            blocks: Vec::new(),
            batch: BatchId(0),
            cores: BTreeMap::new(),
        }
    }

    pub(crate) fn on_cores(self, cores: u32) -> Bench {
        Bench::new(self.job, cores)
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.job.plan().clone()
    }

    /// Runs one batch through every stage.
    pub(crate) fn run(&mut self, batch: Batch) -> Result<(), TaskError> {
        self.batch = self.batch.next();
        self.taken.clear();
        self.blocks.clear();
        for stage in self.plan().stage_ids() {
            for core in self.placement.cores_of(stage) {
                let mut inputs = self.inputs(stage, core);
                (self.arrival)(&mut inputs);
                let partitions = self.placement.partitions_on(stage, core);
                self.run_stage(batch, stage, core, &partitions, &inputs)?;
            }
        }
        Ok(())
    }

    pub(crate) fn batch(&mut self) {
        self.run(PROCESS).unwrap();
    }

    /// Runs batches until every source partition has ended; how many these were.
    pub(crate) fn finish(&mut self) -> u64 {
        loop {
            self.batch();
            if self.taken.iter().all(|taken| taken.ended) {
                return self.batch.0;
            }
        }
    }

    /// The blocks of the current batch that a stage reads on a core.
    pub(crate) fn inputs(&self, stage: StageId, core: CoreId) -> Vec<Block> {
        let plan = self.plan();
        let blocks = self
            .blocks
            .iter()
            .filter(|(to, block)| *to == core && plan.edge(block.notice().edge).to == stage);
        blocks.map(|(_, block)| block.clone()).collect()
    }

    /// Runs the tasks of some partitions of one stage in the current batch.
    pub(crate) fn run_stage(
        &mut self,
        batch: Batch,
        stage: StageId,
        core: CoreId,
        partitions: &[PartitionId],
        inputs: &[Block],
    ) -> Result<(), TaskError> {
        let plan = self.plan();
        let is_source = matches!(plan.stage(stage).kind, StageKind::Source(_));
        let watermarks = inputs.iter().map(|block| block.notice().watermark);
        let run = Run {
            batch: self.batch,
            stage,
            partitions: partitions.into(),
            watermark: watermarks.min().unwrap_or(Watermark::NONE),
            cut: Instant(self.batch.0),
            purpose: batch.purpose,
            attempt: Attempt(0),
            contents: Arc::default(),
            recorded: None,
            intake: local::Intake::Normal,
        };
        assert_eq!(is_source, inputs.is_empty(), "sources and only they read no block");
        let (place, store) = try_open(&self.job, self.store, &mut self.cores, stage, core)?;
        let mut intake = Intake {
            origin: Instant(0),
            inputs,
            folded: None,
            ranges: Vec::new(),
            intake: batch.intake,
            batch_bytes: self.batch_bytes,
            notices: Vec::new(),
        };
        let mut output = Output {
            clock: &CoreClock::default(),
            placement: &self.placement,
            epoch: self.placement.epoch,
            store,
            outgoing: &mut self.blocks,
        };
        let result = place.as_mut().unwrap().run(&run, &mut intake, &mut output);
        self.taken.extend(intake.ranges);
        result
    }

    pub(crate) fn batch_id(&self) -> BatchId {
        self.batch
    }

    /// Every partition of every stage.
    pub(crate) fn places(&self) -> Vec<(StageId, PartitionId)> {
        let plan = self.plan();
        let places = plan.stage_ids().flat_map(|stage| {
            let count = plan.stage(stage).partition_count;
            (0..count).map(move |partition| (stage, PartitionId(partition)))
        });
        places.collect()
    }

    /// Forgets all that the cores hold, and spreads the partitions over so many.
    pub(crate) fn spread_anew(&mut self, cores: u32) {
        let cores: Vec<CoreId> = (0..cores).map(core).collect();
        let epoch = self.placement.epoch.next();
        let placement = Placement::spread(self.job.plan(), &cores, epoch, self.batch.next());
        self.placement = Arc::new(placement);
        self.cores.clear();
    }

    /// The stage on the core that owns the partition, opened.
    pub(crate) fn stage_of(
        &mut self,
        (stage, partition): (StageId, PartitionId),
    ) -> &mut dyn Stage {
        let core = self.placement.core_of(stage, partition);
        let place = try_open(&self.job, self.store, &mut self.cores, stage, core).unwrap();
        &mut **place.0.as_mut().unwrap()
    }

    /// What all stages counted, summed over the cores.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        for stage in self.cores.values().flat_map(|core| core.stages.iter().flatten()) {
            stage.counters(&mut |operator, what, count| {
                *counters.entry(format!("{operator}.{what}")).or_default() += count;
            });
        }
        counters
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.counters();
        *counters.get(name).unwrap_or_else(|| panic!("{name} is none of {counters:?}"))
    }

    pub(crate) fn close(&mut self) -> Result<(), ConnectorError> {
        let mut stages = self.cores.values_mut().flat_map(|core| core.stages.iter_mut().flatten());
        stages.try_for_each(|stage| stage.close())
    }

    /// The watermark of the blocks of the latest batch, which agree in it.
    pub(crate) fn watermark(&self) -> Watermark {
        let watermark = self.blocks[0].1.notice().watermark;
        assert!(self.blocks.iter().all(|(_, block)| block.notice().watermark == watermark));
        watermark
    }

    /// The offsets that the latest batch took of the only partition.
    pub(crate) fn range(&self) -> Range<u64> {
        self.ranges().remove(0)
    }

    /// The offsets that the latest batch took, by partition.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let mut taken = self.taken.clone();
        taken.sort_unstable_by_key(|taken| taken.range.partition);
        taken.iter().map(|taken| taken.range.from..taken.range.to).collect()
    }
}

type Opened<'a> = (&'a mut Option<Box<dyn Stage>>, &'a mut BlockStore);

/// The stage on a core, opened if it was not, and the core's memory.
fn try_open<'a>(
    job: &Job,
    store: StoreOptions,
    cores: &'a mut BTreeMap<CoreId, BenchCore>,
    stage: StageId,
    core: CoreId,
) -> Result<Opened<'a>, ConnectorError> {
    let plan = job.plan().clone();
    let stage_count = plan.stages.len();
    let (incarnation, combiner_bytes) = (Incarnation(1), 64 << 20);
    let retention = Retention::WhenFolded;
    let context = StageContext { plan, stage, core, incarnation, combiner_bytes, retention };
    let own = cores.entry(core).or_insert_with(|| BenchCore {
        store: BlockStore::new(store),
        stages: (0..stage_count).map(|_| None).collect(),
    });
    let place = &mut own.stages[stage.index()];
    if place.is_none() {
        *place = Some(job.open_stage(&context)?);
    }
    Ok((place, &mut own.store))
}

/// What a window job must come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// By window start and key, the values that passed, in the order of partitions and offsets.
    pub(crate) values: BTreeMap<(u64, u32), Vec<u64>>,
    pub(crate) late: u64,
    pub(crate) counted: u64,
}

/// The whole job in a plain loop.
pub(crate) fn model(partitions: &[Vec<Item>], out_of_orderness_ms: u64) -> Expected {
    let mut expected = Expected::default();
    for items in partitions {
        let mut largest = 0;
        for item in items {
            let start = item.time / WINDOW_MS * WINDOW_MS;
            if start + WINDOW_MS + out_of_orderness_ms <= largest {
                expected.late += 1;
            } else {
                expected.counted += 1;
                expected.values.entry((start, item.key)).or_default().push(item.value);
            }
            largest = largest.max(item.time);
        }
    }
    expected
}

/// Results by window start and key; each may be there once.
pub(crate) fn by_window(rows: &[WindowResult<u32, u64>]) -> BTreeMap<(u64, u32), u64> {
    let mut results = BTreeMap::new();
    for row in rows {
        assert_eq!(row.window_end, row.window_start + WINDOW_MS);
        let before = results.insert((row.window_start, row.key), row.value);
        assert_eq!(before, None, "two results of key {} at {}", row.key, row.window_start);
    }
    results
}
