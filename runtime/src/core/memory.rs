//! The memory of one core: what it may write and receive, and what happens when that is short.
//!
//! Nothing here fails a job or stops it for good as long as each single batch fits:
//!
//! * **Sources pause.** While more than half of the core's memory for blocks is held, or a peer holds
//!   much of what was sent to it, source tasks take empty ranges. Empty blocks need no memory, so
//!   batches go on and memory comes back. The other half is for the batch that had begun.
//! * **Source tasks take less** when what the last one wrote came near to that.
//! * **Other tasks that write wait** while more than half is held, unless nothing older is. So the
//!   oldest unfinished batch never waits: all that is held then is of later batches. Tasks that write
//!   nothing never wait.
//! * **What other processes send** lies in memory of its own. Each core of theirs knows its part of it,
//!   and counts as there what it sent for batches that the peer has not reported as finished.
//!   That is more than what really lies there, so a connection never has to wait behind a block
//!   that there is no room for, when the block that would make room is behind it.

use std::collections::{BTreeMap, VecDeque};

use drizzle_scheduler::local::{Retention, Run};
use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{BatchId, CoreId, StageId, WorkerId};
use drizzle_shuffle::{Block, BlockStore, BlockWatch, Readers, StoreOptions};

use crate::dataflow::stage::IntakeState;
use crate::wire::MemoryPeaks;

#[cfg(test)]
mod tests;

/// What a core may take, in bytes.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// For blocks that it writes.
    pub written: StoreOptions,
    /// For blocks that it receives from other processes.
    pub received: StoreOptions,
    /// For open windows.
    pub state_bytes: usize,
    /// For records that are combined before a shuffle.
    pub combiner_bytes: usize,
    /// What workers in other processes keep for blocks of this core.
    pub peers: BTreeMap<WorkerId, usize>,
    /// About how many bytes of input the source tasks of a batch take at most.
    pub batch_bytes: u64,
}

/// The memory of a core. See the module's text.
pub(super) struct Memory {
    options: MemoryOptions,
    pub(super) written: BlockStore,
    pub(super) received: BlockStore,
    /// Stages whose tasks may have to wait: they write, and are no source.
    waiting_stages: Vec<StageId>,
    /// Blocks of earlier batches that may still be held, oldest first; none if no task ever waits.
    live: VecDeque<(BatchId, BlockWatch)>,
    peers: BTreeMap<WorkerId, Peer>,
    /// How much source tasks take of their input now, by what they write,
    batch_bytes: u64,
    /// and by how long they run.
    timely_bytes: u64,
    state_peak_bytes: usize,
}

/// What was sent to a worker in another process.
#[derive(Debug, Default)]
struct Peer {
    /// How much may be there.
    allowed: usize,
    /// For batches that not all of its cores have reported as finished, oldest first.
    sent: VecDeque<(BatchId, usize)>,
    sent_bytes: usize,
    /// The last batch that each core of it has finished, as far as it has said so.
    completed: BTreeMap<CoreId, BatchId>,
}

/// A batch is more than a peer's memory: waiting would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{batch} sends {bytes} bytes to {worker}, which has memory for {allowed} from this core: \
     give the workers more memory or the job smaller batches"
)]
pub(super) struct TooMuchToSend {
    batch: BatchId,
    worker: WorkerId,
    bytes: usize,
    allowed: usize,
}

/// The most that all segments together hold of `bytes` that were received: each may be used by half.
const SEGMENT_LOSS: usize = 2;
/// A batch may come on top of half of it.
const BATCH_LOSS: usize = 3;
/// Source tasks take at least so many bytes of their input.
const LEAST_BATCH_BYTES: u64 = 256;
/// So many at first, until it is known how long that takes.
const FIRST_TIMELY_BYTES: u64 = 64 << 10;
/// Source tasks that ran longer take less: between two tasks a core answers its driver, and one that is
/// slow would else take ever more at once.
const LONG_RUN_NS: u64 = 200_000_000;
/// Those that ran shorter take more.
const SHORT_RUN_NS: u64 = 50_000_000;

impl Memory {
    pub(super) fn new(
        plan: &Plan,
        options: MemoryOptions,
        readers: Readers,
        retention: Retention,
    ) -> Memory {
        let writes = |stage: &StageId| plan.edges_out_of(*stage).next().is_some();
        let waiting_stages = plan.stage_ids().filter(|&stage| !plan.is_source(stage));
        let allowed = |bytes: &usize| bytes * 2 / (SEGMENT_LOSS * BATCH_LOSS);
        let peers = options
            .peers
            .iter()
            .map(|(&worker, bytes)| (worker, Peer { allowed: allowed(bytes), ..Peer::default() }));
        let peers: BTreeMap<WorkerId, Peer> = peers.collect();
        // What a batch writes for its input is not known yet, so the first ones are small where
        // memory is: they double until they are as large as they may be.
        let narrowest = peers.values().map(|peer| peer.allowed).min().unwrap_or(usize::MAX);
        let first = (options.written.max_bytes / 64).min(narrowest / 8) as u64;
        Memory {
            written: BlockStore::for_readers(options.written, readers),
            received: BlockStore::new(options.received),
            // Where blocks are retained it is a checkpoint that frees memory, which may wait for these very
            // tasks: then only sources pause.
            waiting_stages: match retention {
                Retention::WhenFolded => waiting_stages.filter(writes).collect(),
                Retention::UntilDurable { .. } => Vec::new(),
            },
            live: VecDeque::new(),
            peers,
            batch_bytes: first.max(LEAST_BATCH_BYTES).min(options.batch_bytes),
            timely_bytes: FIRST_TIMELY_BYTES.min(options.batch_bytes),
            state_peak_bytes: 0,
            options,
        }
    }

    /// Whether source tasks may take input, and how much.
    pub(super) fn intake(&self) -> (IntakeState, u64) {
        let is_short = self.is_half_held()
            || self.peers.values().any(|peer| peer.sent_bytes > peer.allowed / 2);
        let state = if is_short { IntakeState::Paused } else { IntakeState::Open };
        (state, self.batch_bytes.min(self.timely_bytes))
    }

    /// Whether a task must wait until blocks of older batches are released.
    pub(super) fn must_wait(&mut self, run: &Run) -> bool {
        if !self.waiting_stages.contains(&run.stage) || !self.is_half_held() {
            return false;
        }
        self.forget_gone();
        let mut older = self.live.iter().filter(|(batch, _)| *batch < run.batch);
        older.any(|(_, block)| !block.is_gone())
    }

    /// A run has written these blocks.
    pub(super) fn wrote(
        &mut self,
        own: WorkerId,
        run: &Run,
        blocks: &[(CoreId, Block)],
    ) -> Result<(), TooMuchToSend> {
        let of_batch = blocks.iter().filter(|(_, block)| !block.is_empty());
        for (to, block) in of_batch.clone().filter(|(to, _)| to.worker != own) {
            if let Some(peer) = self.peers.get_mut(&to.worker) {
                peer.sent(*to, run.batch, block.body().len());
            }
        }
        if !self.waiting_stages.is_empty() {
            self.forget_gone();
            self.live.extend(of_batch.map(|(_, block)| (run.batch, block.watch())));
        }
        self.check(run.batch, blocks)
    }

    /// What a task sends to a worker at once must fit: waiting would not help.
    fn check(&self, batch: BatchId, blocks: &[(CoreId, Block)]) -> Result<(), TooMuchToSend> {
        for (&worker, &Peer { allowed, .. }) in &self.peers {
            let there = blocks.iter().filter(|(to, _)| to.worker == worker);
            let bytes: usize = there.map(|(_, block)| block.body().len()).sum();
            if bytes > allowed {
                return Err(TooMuchToSend { batch, worker, bytes, allowed });
            }
        }
        Ok(())
    }

    /// A source task has written these blocks: the next one takes less or more.
    pub(super) fn source_wrote(&mut self, blocks: &[(CoreId, Block)]) {
        let bytes: usize = blocks.iter().map(|(_, block)| block.body().len()).sum();
        let narrowest = self.peers.values().map(|peer| peer.allowed / 2).min();
        let most = (self.options.written.max_bytes / 8).min(narrowest.unwrap_or(usize::MAX));
        if bytes > most / 2 {
            self.batch_bytes = (self.batch_bytes / 2).max(LEAST_BATCH_BYTES);
        } else if bytes > 0 && bytes < most / 4 {
            self.batch_bytes = (self.batch_bytes * 2).min(self.options.batch_bytes);
        }
    }

    /// A source task ran for so long: the next one takes less or more.
    pub(super) fn source_ran(&mut self, run_ns: u64) {
        if run_ns > LONG_RUN_NS {
            let share = u128::from(self.timely_bytes) * u128::from(LONG_RUN_NS);
            self.timely_bytes = ((share / u128::from(run_ns)) as u64).max(LEAST_BATCH_BYTES);
        } else if run_ns < SHORT_RUN_NS {
            self.timely_bytes = (self.timely_bytes * 2).min(self.options.batch_bytes);
        }
    }

    /// Another core has finished all batches up to this one.
    pub(super) fn completed(&mut self, core: CoreId, batch: BatchId) {
        if let Some(peer) = self.peers.get_mut(&core.worker) {
            peer.completed(core, batch);
        }
    }

    /// A worker has joined. It has as much memory for this core as those that were there have.
    pub(super) fn add_peer(&mut self, worker: WorkerId) {
        let narrowest = self.peers.values().map(|peer| peer.allowed).min();
        let allowed = narrowest.unwrap_or(self.options.received.max_bytes / BATCH_LOSS);
        self.peers.insert(worker, Peer { allowed, ..Peer::default() });
    }

    /// A worker is gone, with what was sent to it.
    pub(super) fn forget_peer(&mut self, worker: WorkerId) {
        self.peers.remove(&worker);
    }

    /// Whether open windows of so many bytes are more than the core may keep.
    pub(super) fn is_state_too_large(&mut self, bytes: usize) -> bool {
        self.state_peak_bytes = self.state_peak_bytes.max(bytes);
        bytes > self.options.state_bytes
    }

    pub(super) fn options(&self) -> &MemoryOptions {
        &self.options
    }

    /// What blocks hold: here, and with the peers that they were sent to.
    pub(super) fn held_bytes(&self) -> usize {
        let sent: usize = self.peers.values().map(|peer| peer.sent_bytes).sum();
        self.written.retained_bytes() + sent
    }

    /// The most that blocks and open windows took.
    pub(super) fn peaks(&self) -> MemoryPeaks {
        let blocks_bytes = self.written.peak_bytes() + self.received.peak_bytes();
        MemoryPeaks {
            blocks_bytes: blocks_bytes as u64,
            state_bytes: self.state_peak_bytes as u64,
            results_bytes: 0,
            spilled_bytes: 0,
        }
    }

    /// Whether sources will soon have to pause.
    pub(super) fn is_short(&self) -> bool {
        self.written.retained_bytes() > self.options.written.max_bytes / 8 * 3
    }

    fn is_half_held(&self) -> bool {
        self.written.retained_bytes() > self.options.written.max_bytes / 2
    }

    fn forget_gone(&mut self) {
        while self.live.front().is_some_and(|(_, block)| block.is_gone()) {
            self.live.pop_front();
        }
    }
}

impl Peer {
    fn sent(&mut self, to: CoreId, batch: BatchId, bytes: usize) {
        self.completed.entry(to).or_default();
        self.sent_bytes += bytes;
        match self.sent.back_mut() {
            Some((last, sum)) if *last >= batch => *sum += bytes,
            Some(_) | None => self.sent.push_back((batch, bytes)),
        }
    }

    fn completed(&mut self, core: CoreId, batch: BatchId) {
        let known = self.completed.entry(core).or_default();
        *known = batch.max(*known);
        let all = self.completed.values().copied().min().unwrap_or_default();
        while let Some(&(first, bytes)) = self.sent.front()
            && first <= all
        {
            self.sent.pop_front();
            self.sent_bytes -= bytes;
        }
    }
}
