//! What a core keeps for others and for later, where something outlives its process: the blocks that it
//! wrote, until a checkpoint covers them; which ranges it has told whom; and its way to storage.
//!
//! What is kept is decided by the scheduler; how partitions come and go is in [`super::states`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use drizzle_scheduler::checkpoint::{Manifest, Snapshot};
use drizzle_scheduler::local::{BlockName, LocalAction, LocalEvent, Published};
use drizzle_scheduler::message::{BlockNotice, TakenRange};
use drizzle_scheduler::{BatchId, CoreId, Life, PartitionId, StageId, WorkerId};
use drizzle_shuffle::Block;

use super::Core;
use super::laps::Doing;
use super::spill::{Retained, Spill, Spilled};
use crate::io::Waker;
use crate::storage::{Desk, StorageError};
use crate::transport::Parcel;

/// A partition of a stage.
pub(super) type Place = (StageId, PartitionId);
/// What a range is known by.
type RangeKey = (BatchId, StageId, PartitionId);

/// See the module's text.
pub(super) struct Keeping {
    pub(super) storage: Desk,
    pub(super) waker: Waker,
    /// Blocks that this core wrote, until a durable manifest covers their readers.
    pub(super) retained: BTreeMap<BlockName, Retained>,
    /// Where they go for lack of memory.
    pub(super) spill: Spill,
    /// Blocks that are to be sent once more and are to be read back before.
    pub(super) resending: VecDeque<(BlockName, CoreId, BlockNotice)>,
    /// Which ranges that are not recorded yet each core was told.
    told: BTreeMap<CoreId, BTreeSet<RangeKey>>,
    /// Restores in the making: which request, and the last batch of the state.
    pub(super) loading: BTreeMap<Place, (u64, BatchId)>,
    /// The newest request for a state ahead of a move.
    pub(super) preloading: BTreeMap<Place, u64>,
    requests: u64,
    /// States that are being put together, a part in each step of the core.
    pub(super) thawing: VecDeque<Thawing>,
    /// The last batch of states that were loaded ahead of a move.
    pub(super) ahead: BTreeMap<Place, BatchId>,
    /// After which batch partitions were shipped.
    pub(super) shipped: BTreeMap<Place, BatchId>,
    /// What was frozen and not handed to storage yet: together it makes one file.
    pub(super) frozen: Vec<(Snapshot, Vec<u8>)>,
    /// What needs nothing from storage.
    pub(super) ready: VecDeque<Answer>,
    /// There are no more answers than requests, of which a desk takes a limited number.
    pub(super) answers: (Sender<Answer>, Receiver<Answer>),
    published: Vec<Published>,
}

/// What is there now.
#[derive(Debug)]
pub(super) enum Answer {
    /// Blocks are in the file, or could not be written.
    Spilled { blocks: Vec<(BlockName, Spilled)>, file: Result<Arc<File>, StorageError> },
    /// Snapshots are durable, or could not be written.
    Written { snapshots: Vec<Snapshot>, result: Result<(), StorageError> },
    /// The pieces of a partition.
    Loaded {
        place: Place,
        batch: BatchId,
        why: Why,
        pieces: Result<Vec<(BatchId, Vec<u8>)>, StorageError>,
    },
    /// A state that needed nothing from storage.
    Ready { place: Place, request: u64 },
    /// There was nothing to load ahead.
    NothingAhead { place: Place },
}

/// A state whose pieces are there.
#[derive(Debug)]
pub(super) struct Thawing {
    pub(super) place: Place,
    pub(super) batch: BatchId,
    pub(super) why: Why,
    pub(super) pieces: VecDeque<(BatchId, Vec<u8>)>,
    /// How far the first of them was applied; nothing was yet.
    pub(super) from: Option<usize>,
}

/// What a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A partition that starts again, by that request.
    Restore { request: u64 },
    /// A partition that will move here, by that request.
    Ahead { request: u64 },
}

/// How often a load is tried.
const LOAD_TRIES: usize = 3;

impl Keeping {
    /// With so much memory for the blocks that the core writes.
    pub(super) fn new(storage: Desk, waker: Waker, memory_bytes: usize) -> Keeping {
        Keeping {
            storage,
            waker,
            retained: BTreeMap::new(),
            spill: Spill::new(memory_bytes),
            resending: VecDeque::new(),
            told: BTreeMap::new(),
            loading: BTreeMap::new(),
            preloading: BTreeMap::new(),
            requests: 0,
            thawing: VecDeque::new(),
            ahead: BTreeMap::new(),
            shipped: BTreeMap::new(),
            frozen: Vec::new(),
            ready: VecDeque::new(),
            answers: unbounded(),
            published: Vec::new(),
        }
    }

    /// Whatever is under way for this partition does not count any more; the number of what comes.
    pub(super) fn replace(&mut self, place: Place) -> u64 {
        self.loading.remove(&place);
        self.preloading.remove(&place);
        self.next_request()
    }

    pub(super) fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Whether what was asked for is still wanted.
    pub(super) fn is_wanted(&self, place: Place, batch: BatchId, why: Why) -> bool {
        match why {
            Why::Restore { request } => self.loading.get(&place) == Some(&(request, batch)),
            Why::Ahead { request } => self.preloading.get(&place) == Some(&request),
        }
    }

    pub(super) fn next_answer(&mut self) -> Option<Answer> {
        self.ready.pop_front().or_else(|| self.answers.1.try_recv().ok())
    }

    /// Asks storage for the pieces of a partition.
    pub(super) fn load(&mut self, place: Place, manifest: &Manifest, why: Why) {
        let snapshots: Vec<Snapshot> = manifest.snapshots_of(place.0, place.1).copied().collect();
        let (batch, give, waker) = (manifest.batch, self.answers.0.clone(), self.waker.clone());
        let asked = self.storage.ask(move |storage| {
            let mut pieces = storage.load(&snapshots);
            for _ in 1..LOAD_TRIES {
                if pieces.is_ok() {
                    break;
                }
                pieces = storage.load(&snapshots);
            }
            let batches = snapshots.iter().map(|snapshot| snapshot.batch);
            let pieces = pieces.map(|pieces| batches.zip(pieces).collect());
            let _ = give.send(Answer::Loaded { place, batch, why, pieces });
            waker.wake();
        });
        if let Err(closed) = asked {
            let pieces = Err(StorageError(closed.to_string()));
            self.ready.push_back(Answer::Loaded { place, batch, why, pieces });
        }
    }

    /// Hands what was frozen to storage.
    fn write_frozen(&mut self, core: CoreId) {
        if self.frozen.is_empty() {
            return;
        }
        let pieces = std::mem::take(&mut self.frozen);
        let snapshots: Vec<Snapshot> = pieces.iter().map(|(snapshot, _)| *snapshot).collect();
        let (give, waker, written) =
            (self.answers.0.clone(), self.waker.clone(), snapshots.clone());
        let asked = self.storage.ask(move |storage| {
            let result = storage.write_snapshots(core, &pieces);
            let _ = give.send(Answer::Written { snapshots: written, result });
            waker.wake();
        });
        if let Err(closed) = asked {
            let result = Err(StorageError(closed.to_string()));
            self.ready.push_back(Answer::Written { snapshots, result });
        }
    }

    /// Those of the ranges that `to` was not told yet.
    fn news_for(&mut self, to: CoreId, ranges: &[TakenRange]) -> Vec<TakenRange> {
        let told = self.told.entry(to).or_default();
        let key = |taken: &TakenRange| (taken.batch, taken.range.stage, taken.range.partition);
        ranges.iter().filter(|taken| told.insert(key(taken))).copied().collect()
    }

    /// Nobody need be told of ranges up to this batch any more.
    fn recorded(&mut self, through: BatchId) {
        let first = (through.next(), StageId(0), PartitionId(0));
        self.told.values_mut().for_each(|told| *told = told.split_off(&first));
    }

    /// A worker is gone, or there in another life.
    fn forget_worker(&mut self, worker: WorkerId) {
        self.told.retain(|core, _| core.worker != worker);
    }
}

impl Core {
    /// Notes what a run has written: the scheduler is told of it, and somebody may need it once more.
    pub(super) fn retain_outgoing(&mut self) -> Vec<Published> {
        let Some(keeping) = &mut self.keeping else { return Vec::new() };
        let mut published = std::mem::take(&mut keeping.published);
        published.clear();
        for (to, block) in &self.outgoing {
            let (notice, bytes) = (block.notice().clone(), block.body().len() as u64);
            keeping.retained.insert(BlockName::of(&notice), Retained::Here(block.clone()));
            published.push(Published { to: *to, notice, bytes });
        }
        published
    }

    pub(super) fn give_back(&mut self, published: Vec<Published>) {
        if let Some(keeping) = &mut self.keeping {
            keeping.published = published;
        }
    }

    /// Tells cores that are about to get blocks which ranges these may depend on.
    pub(super) fn relay_ranges(&mut self, to: impl Iterator<Item = CoreId>) {
        let Some(keeping) = &mut self.keeping else { return };
        let ranges = self.scheduler.ranges_to_relay();
        if ranges.is_empty() {
            return;
        }
        let mut news = Vec::new();
        for to in to.filter(|&to| to != self.core) {
            let ranges = keeping.news_for(to, &ranges);
            if !ranges.is_empty() {
                news.push((to, ranges));
            }
        }
        let from = Life { worker: self.core.worker, incarnation: self.context.incarnation };
        for (to, ranges) in news {
            self.hand_over(to, Parcel::Ranges { from, ranges: ranges.into() });
        }
    }

    /// Ranges have come that others know.
    pub(super) fn learn(&mut self, now_ns: u64, from: Life, ranges: &[TakenRange]) {
        let event = LocalEvent::Learned { from, ranges };
        self.scheduler.handle(self.clock.at(now_ns), event, &mut self.actions);
    }

    /// These lives are over: their connections are closed, and nothing is owed to them.
    pub(super) fn close_fenced(&mut self, lives: &[Life]) {
        for life in lives {
            self.links.close(life.worker, life.incarnation);
            self.memory.forget_peer(life.worker);
            if let Some(keeping) = &mut self.keeping {
                keeping.forget_worker(life.worker);
            }
        }
    }

    /// Performs what is only asked for where something is kept.
    pub(super) fn perform_kept(&mut self, action: LocalAction) -> Result<(), String> {
        match action {
            LocalAction::Resend { block, to, notice } => {
                self.resend(block, to, notice)?;
            }
            LocalAction::Reuse { block, notice } => {
                let block = self.retained(&block)?.renamed(notice);
                self.inputs.add(&self.context.plan, block);
            }
            LocalAction::Forget { through } => self.forget(through)?,
            LocalAction::Recorded { through } => {
                self.kept().recorded(through);
                let mut stages = self.stages.iter_mut().flatten();
                stages.try_for_each(|stage| stage.recorded(through)).map_err(|e| e.to_string())?;
            }
            LocalAction::DropEarly { life, after } => self.inputs.drop_of(life, after),
            LocalAction::Restore { stage, partition, after, from } => {
                self.restore((stage, partition), after, from)?;
            }
            LocalAction::DropPartition { stage, partition } => {
                self.drop_partition((stage, partition));
            }
            LocalAction::Snapshot { stage, partition, batch, chain } => {
                self.snapshot((stage, partition), batch, &chain)?;
            }
            LocalAction::Preload { stage, partition, manifest } => {
                self.preload((stage, partition), manifest.as_deref());
            }
            LocalAction::Ship { stage, partition, batch, to, since } => {
                self.ship_state((stage, partition), batch, to, since)?;
            }
            LocalAction::DropCopy { stage, partition } => self.drop_copy((stage, partition)),
            LocalAction::Report(_)
            | LocalAction::Advertise { .. }
            | LocalAction::Release { .. } => {
                unreachable!("{action:?} is asked for everywhere")
            }
        }
        Ok(())
    }

    /// What is kept: asked for only where something is.
    pub(super) fn kept(&mut self) -> &mut Keeping {
        self.keeping.as_mut().expect("only a core that keeps something is asked for it")
    }

    pub(super) fn send_block(&mut self, to: CoreId, block: Block) {
        self.hand_over(to, Parcel::Block(block));
        self.laps.lap(Doing::Send);
    }

    /// A manifest covers all batches up to this one.
    fn forget(&mut self, through: BatchId) -> Result<(), String> {
        let plan = self.context.plan.clone();
        let reader = |name: &BlockName| name.batch.0 + plan.edge(name.edge).batch_delta;
        let Keeping { retained, spill, .. } = self.kept();
        retained.retain(|name, block| {
            let is_needed = reader(name) > through.0;
            if let (Retained::Spilled(spilled), false) = (block, is_needed) {
                spill.forget(spilled);
            }
            is_needed
        });
        spill.tidy();
        let mut stages = self.stages.iter_mut().flatten();
        stages.try_for_each(|stage| stage.durable(through)).map_err(|error| error.to_string())?;
        let manifest = self.scheduler.history().manifest.clone();
        for position in manifest.iter().flat_map(|manifest| &manifest.positions) {
            if let Some(stage) = &mut self.stages[position.stage.index()] {
                stage.covered(position);
            }
        }
        Ok(())
    }

    /// Hands to storage what was frozen; to be called when all that was decided is performed.
    pub(super) fn write_frozen(&mut self) {
        let core = self.core;
        if let Some(keeping) = &mut self.keeping {
            keeping.write_frozen(core);
        }
    }
}
