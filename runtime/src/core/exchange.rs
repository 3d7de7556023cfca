//! What cores do with blocks and nothing else: write them, hand them over, take them in. For
//! measurements, which want the engine's own path without a job around it.
//!
//! A [`Press`] writes blocks. They go to another thread through a mailbox of
//! [`CoreMail`](crate::transport::CoreMail), or to another process through an [`Exchange`], which is one end of a link
//! as a core has it: what arrives there is received, checked and typed by the same code.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::message::{BlockNotice, Content};
use drizzle_scheduler::plan::{Edge, Pacing, Pattern, Plan, Stage, StageKind};
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, PartitionId, StageId, Watermark, WorkerId,
};
use drizzle_shuffle::{
    Block, BlockParts, BlockStore, BlockWriter, BodyCheck, Bundle, Readers, Record, StoreFull,
    StoreOptions, checker,
};

use super::links::{Arrival, Edges, Intake, LinkPlan, Links, Meeting};
use crate::io::{Completion, Io, IoKind, open};
use crate::transport::{Cargo, Parcel};

/// The life of both ends.
const INCARNATION: Incarnation = Incarnation(1);
/// Sends that wait are enough to go on with while another block is written.
const ENOUGH_WAITING: usize = 2;
/// The other end.
const PEER: WorkerId = WorkerId(1);

/// Writes blocks of one record type, one batch after the other.
#[derive(Debug)]
pub struct Press<R: Record> {
    store: BlockStore,
    writer: BlockWriter<R>,
    batch: u64,
    partitions: Arc<[PartitionId]>,
}

impl<R: Record> Press<R> {
    /// A press with memory of its own.
    pub fn new(options: StoreOptions, readers: Readers) -> Press<R> {
        Press {
            store: BlockStore::for_readers(options, readers),
            writer: BlockWriter::new(),
            batch: 0,
            partitions: Arc::new([PartitionId(0)]),
        }
    }

    /// Writes and publishes a block of these records.
    ///
    /// # Errors
    /// If there is no memory: readers have to release blocks first. Nothing is written then.
    pub fn print(&mut self, records: impl Iterator<Item = R>) -> Result<Block, StoreFull> {
        self.writer.begin_section(0);
        for record in records {
            if let Err(full) = self.writer.append(&mut self.store, &record) {
                self.writer.discard();
                return Err(full);
            }
        }
        self.batch += 1;
        let notice = BlockNotice {
            epoch: Epoch(1),
            incarnation: INCARNATION,
            attempt: Attempt(0),
            sender: CoreId { worker: PEER, core: 0 },
            batch: BatchId(self.batch),
            edge: EdgeId(0),
            content: Content::Raw,
            upstream: self.partitions.clone(),
            downstream: self.partitions.clone(),
            watermark: Watermark(0),
        };
        Ok(self.writer.finish(BlockParts { notice, ranges: Arc::default() }))
    }
}

/// One end of a link to another process, for blocks of one record type.
pub struct Exchange {
    io: Box<dyn Io>,
    links: Links,
    store: BlockStore,
    edges: OneEdge,
    completions: Vec<Completion>,
    arrivals: Vec<Arrival>,
}

impl Exchange {
    /// Takes a connection over, on the thread that will use it. What arrives is copied to memory of
    /// its own.
    ///
    /// # Errors
    /// What the system answers.
    pub fn new<R: Record>(
        io: IoKind,
        stream: TcpStream,
        meeting: Option<Meeting>,
        options: StoreOptions,
    ) -> io::Result<Exchange> {
        let plan = LinkPlan { worker: PEER, incarnation: INCARNATION, stream, meeting };
        Ok(Exchange {
            io: open(io)?,
            links: Links::new(vec![plan])?,
            store: BlockStore::new(options),
            edges: OneEdge::new::<R>(),
            completions: Vec::new(),
            arrivals: Vec::new(),
        })
    }

    /// Queues a block; it leaves in the next turn.
    pub fn send(&mut self, block: Block) {
        self.links.send(PEER, &Cargo::Blocks(Bundle::new(0, block)));
    }

    /// Whether enough waits to be sent to keep the link busy. What is written beyond that would be out
    /// of the caches when it leaves.
    pub fn is_congested(&self) -> bool {
        self.links.waiting(PEER) >= ENOUGH_WAITING
    }

    /// Whether memory is shared with the peer.
    pub fn is_sharing(&self) -> bool {
        self.links.is_sharing(PEER)
    }

    /// One turn of a core's loop over its links: what arrived is appended. Never waits.
    ///
    /// # Errors
    /// In a sentence, when the link is no more.
    pub fn turn(&mut self, arrived: &mut Vec<Block>) -> Result<(), String> {
        let (edges, store) = (&self.edges, &mut self.store);
        let mut intake = Intake { edges, store, cores: 1 };
        let mut result = self.links.drive(&mut *self.io, &mut intake, &mut self.arrivals);
        self.io.poll(&mut self.completions);
        for Completion { token, outcome } in self.completions.drain(..) {
            let taken = self.links.completed(token, outcome, &mut intake, &mut self.arrivals);
            result = result.and(taken);
        }
        arrived.extend(self.arrivals.drain(..).filter_map(|arrival| match arrival.parcel {
            Parcel::Block(block) => Some(block),
            Parcel::Completed { .. } | Parcel::Ranges { .. } | Parcel::State(_) => None,
        }));
        result.map_err(|(_, closed)| closed.to_string())
    }

    /// Sleeps until something happens, or for so long.
    pub fn park(&mut self, timeout: Duration) {
        self.io.park(Some(timeout));
    }
}

/// A plan of two stages and what its edge carries.
struct OneEdge {
    plan: Plan,
    check: BodyCheck,
}

impl OneEdge {
    fn new<R: Record>() -> OneEdge {
        let stage = |name: &str, kind| Stage { name: name.to_owned(), kind, partition_count: 1 };
        let (from, to, pattern) = (StageId(0), StageId(1), Pattern::AllToAll);
        let plan = Plan {
            name: "exchange".to_owned(),
            stages: vec![
                stage("write", StageKind::Source(Pacing::Unpaced)),
                stage("read", StageKind::Stateful),
            ],
            edges: vec![Edge { from, to, pattern, batch_delta: 0 }],
            fingerprint: 0,
        };
        OneEdge { plan, check: checker::<R>() }
    }
}

impl Edges for OneEdge {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn check_of(&self, edge: EdgeId, _content: Content) -> Option<BodyCheck> {
        (edge == EdgeId(0)).then_some(self.check)
    }
}
