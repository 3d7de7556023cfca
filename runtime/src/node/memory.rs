//! How the memory of a worker is shared out: one number from the user, several limits for each core.
//!
//! Of what falls to a core, 6 parts in 16 are for blocks, 6 for keyed state, 2 for results that wait
//! to leave, 1 for records that are combined before a shuffle, and 1 for what is not counted: headers,
//! buffers of connections, the tables of partitions. Where other processes send blocks, half of those
//! for blocks is for what they send.

use std::collections::BTreeMap;

use drizzle_scheduler::WorkerId;
use drizzle_scheduler::plan::Plan;
use drizzle_shuffle::StoreOptions;

use crate::core::MemoryOptions;
use crate::wire::Peer;

/// How much memory a worker may take for blocks, keyed state and results that wait to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes for each of its cores.
    EachCore(usize),
    /// So many bytes for all its cores together.
    EachWorker(usize),
}

/// Sizes of a segment of blocks.
const MIN_SEGMENT_BYTES: usize = 4 * 1024;
const MAX_SEGMENT_BYTES: usize = 256 * 1024;

/// A core cannot do with less, whatever the job.
const LEAST_BYTES: usize = 4 << 20;
/// What every core of another process must be able to send to a worker.
const LEAST_FROM_CORE: usize = 16 * 1024;
/// What a partition costs beside its state.
const PARTITION_BYTES: usize = 8 * 1024;

/// The cores of a job as one worker sees them.
#[derive(Clone, Copy, Debug)]
pub struct CoreCounts {
    /// Of the worker.
    pub own: usize,
    /// Of the job.
    pub all: usize,
    /// Of those, the ones in other processes than the worker's.
    pub elsewhere: usize,
}

/// What one core may take, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreShares {
    /// For blocks that it writes.
    pub(crate) written: StoreOptions,
    /// For blocks that other processes send to it.
    pub(crate) received_bytes: usize,
    /// For open windows.
    pub(crate) state_bytes: usize,
    /// For records that are combined before a shuffle.
    pub(crate) combiner_bytes: usize,
    /// For results that wait to leave.
    pub(crate) results_bytes: usize,
}

/// The memory is too little for the job on so many cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} of memory for a worker are too little for this job's cores and partitions: \
     the least that works is {}",
    Size(*.given_bytes),
    Size(*.least_bytes)
)]
pub struct TooLittleMemory {
    /// What a worker may take.
    pub given_bytes: usize,
    /// What it must be able to take.
    pub least_bytes: usize,
}

impl Memory {
    /// Whether the cores of a worker can run the job with it.
    ///
    /// # Errors
    /// If it is too little, with the least that is enough.
    pub fn check(self, plan: &Plan, cores: CoreCounts) -> Result<(), TooLittleMemory> {
        self.share(plan, cores).map(drop)
    }

    /// The share of each core.
    pub(crate) fn share(
        self,
        plan: &Plan,
        cores: CoreCounts,
    ) -> Result<CoreShares, TooLittleMemory> {
        let of_core = self.of_core(cores.own);
        let least = least_of_core(plan, cores);
        if of_core < least {
            let (given_bytes, least_bytes) = (of_core * cores.own, least * cores.own);
            return Err(TooLittleMemory { given_bytes, least_bytes });
        }
        let part = of_core / 16;
        let received_bytes = if cores.elsewhere > 0 { 3 * part } else { 0 };
        let max_bytes = 6 * part - received_bytes;
        // The segments that writers hold without need take at most a quarter, so that sources that
        // pause at a half can be sure that something else will be released.
        let fair = max_bytes / (4 * writers(plan, cores));
        let segment_bytes = 1 << fair.max(1).ilog2();
        Ok(CoreShares {
            written: StoreOptions {
                segment_bytes: segment_bytes.clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
                max_bytes,
            },
            received_bytes,
            state_bytes: 6 * part,
            combiner_bytes: part,
            results_bytes: 2 * part,
        })
    }

    fn of_core(self, cores: usize) -> usize {
        match self {
            Memory::EachCore(bytes) => bytes,
            Memory::EachWorker(bytes) => bytes / cores.max(1),
        }
    }
}

/// How many segments the writers of a core hold: one for each edge and core.
fn writers(plan: &Plan, cores: CoreCounts) -> usize {
    plan.edges.len().max(1) * cores.all.max(1)
}

fn least_of_core(plan: &Plan, cores: CoreCounts) -> usize {
    let written = 4 * MIN_SEGMENT_BYTES * writers(plan, cores);
    let received = LEAST_FROM_CORE * cores.elsewhere / cores.own.max(1);
    // Blocks have 6 parts in 16, or twice 3.
    let blocks = match cores.elsewhere {
        0 => written.div_ceil(6) * 16,
        _ => written.max(received).div_ceil(3) * 16,
    };
    let partitions: usize = plan.stages.iter().map(|stage| stage.partition_count as usize).sum();
    let partitions = partitions.div_ceil(cores.all.max(1)) * PARTITION_BYTES;
    LEAST_BYTES.max(blocks).max(partitions)
}

/// Whether the workers of a job share one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They do: blocks go from core to core by pointer.
    OneProcess,
    /// Each has its own: blocks are copied when they arrive.
    ManyProcesses,
    /// The same, and more may come: who is alone keeps room for what one like itself would send.
    GrowingProcesses,
}

impl Reach {
    /// The cores of a job as a worker with `own` of them sees them.
    pub fn count(self, own: usize, all: usize) -> CoreCounts {
        let elsewhere = match self {
            Reach::OneProcess => 0,
            Reach::ManyProcesses => all - own,
            Reach::GrowingProcesses => own.max(all - own),
        };
        CoreCounts { own, all: all.max(own + elsewhere), elsewhere }
    }
}

/// What each core of a worker may take, beside all its peers.
pub(crate) struct WorkerShares {
    own: CoreShares,
    cores: CoreCounts,
    reach: Reach,
    /// For each peer in another process: how many cores it has, and how many bytes it keeps for each
    /// core of this worker.
    peers: BTreeMap<WorkerId, (usize, usize)>,
}

impl WorkerShares {
    /// The shares of `worker`, which is one of `all`.
    pub(crate) fn new(
        memory: Memory,
        plan: &Plan,
        worker: WorkerId,
        all: &[Peer],
        reach: Reach,
    ) -> Result<WorkerShares, TooLittleMemory> {
        let sum: usize = all.iter().map(|peer| usize::from(peer.cores)).sum();
        let share = |peer: &Peer| {
            let cores = reach.count(usize::from(peer.cores), sum);
            Ok((memory.share(plan, cores)?, cores))
        };
        let own = all.iter().find(|peer| peer.worker == worker).expect("it is one of them");
        let (own, cores) = share(own)?;
        let mut peers = BTreeMap::new();
        for peer in all.iter().filter(|peer| peer.worker != worker) {
            let (shares, cores) = share(peer)?;
            if cores.elsewhere > 0 {
                peers.insert(peer.worker, (cores.own, shares.part_of_each(cores)));
            }
        }
        Ok(WorkerShares { own, cores, reach, peers })
    }

    /// Of a core that owns the connections to `linked`.
    pub(crate) fn of_core(
        &self,
        linked: impl Iterator<Item = WorkerId>,
        batch_bytes: u64,
    ) -> MemoryOptions {
        let part_of_each = self.own.part_of_each(self.cores);
        let senders: usize = linked.filter_map(|worker| self.peers.get(&worker)).map(|p| p.0).sum();
        let received_bytes = match self.reach {
            Reach::OneProcess | Reach::ManyProcesses => senders * part_of_each,
            // Those that come are nobody's yet.
            Reach::GrowingProcesses => self.own.received_bytes.max(senders * part_of_each),
        };
        let fair = (part_of_each / 4).max(MIN_SEGMENT_BYTES);
        let segment_bytes = (1 << fair.ilog2()).min(MAX_SEGMENT_BYTES);
        MemoryOptions {
            written: self.own.written,
            received: StoreOptions { segment_bytes, max_bytes: received_bytes + segment_bytes },
            state_bytes: self.own.state_bytes,
            combiner_bytes: self.own.combiner_bytes,
            peers: self.peers.iter().map(|(&worker, &(_, bytes))| (worker, bytes)).collect(),
            batch_bytes,
        }
    }

    /// For the results of all cores that wait to leave.
    pub(crate) fn results_bytes(&self) -> usize {
        self.own.results_bytes * self.cores.own
    }
}

impl CoreShares {
    /// What a worker of such cores keeps for each core elsewhere.
    fn part_of_each(&self, cores: CoreCounts) -> usize {
        self.received_bytes * cores.own / cores.elsewhere.max(1)
    }
}

/// A number of bytes for people.
pub(crate) struct Size(pub(crate) usize);

impl std::fmt::Display for Size {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [("GiB", 1usize << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let is_exact = |unit: usize| self.0 >= unit && self.0.is_multiple_of(unit);
        let fitting = units.into_iter().find(|&(_, unit)| self.0 >= 10 * unit || is_exact(unit));
        let (name, unit) = fitting.unwrap_or(("B", 1));
        // Rounded up, so that what is called the least is enough.
        write!(out, "{}{name}", self.0.div_ceil(unit))
    }
}

#[cfg(test)]
mod tests;
