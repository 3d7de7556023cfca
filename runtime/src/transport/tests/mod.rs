//! Connections over loopback, control links, and the mesh of a process.

#![allow(clippy::disallowed_methods)] // the cores of a mesh are threads

mod connection;
mod control;
mod mesh;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::message::{BlockNotice, Content, SourceRange};
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, PartitionId, StageId, Watermark, WorkerId,
};
use drizzle_shuffle::{Block, BlockParts, BlockStore, BlockWriter, RawEntry, StoreOptions};

use crate::io::{Completion, Io, IoKind, open};
use crate::transport::{Closed, Connection};

type Entry = RawEntry<u64, u64>;

/// So many parks in vain are a failure; each may last `PATIENCE`.
const ROUNDS: u32 = 2_000;
const PATIENCE: Option<Duration> = Some(Duration::from_millis(20));

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn store() -> BlockStore {
    BlockStore::new(StoreOptions { segment_bytes: 64 << 10, max_bytes: 16 << 20 })
}

/// A block of so many records, of 24 bytes each.
fn block(store: &mut BlockStore, batch: u64, records: u64) -> Block {
    let mut writer = BlockWriter::<Entry>::new();
    writer.begin_section(0);
    for key in 0..records {
        writer.append(store, &Entry { key, window_start: batch, value: key ^ batch }).unwrap();
    }
    let range = SourceRange { stage: StageId(0), partition: PartitionId(3), from: 0, to: records };
    let notice = BlockNotice {
        epoch: Epoch(1),
        incarnation: Incarnation(2),
        attempt: Attempt(0),
        sender: core(1),
        batch: BatchId(batch),
        edge: EdgeId(0),
        content: Content::Raw,
        upstream: [PartitionId(3)].into(),
        downstream: [PartitionId(0), PartitionId(4)].into(),
        watermark: Watermark(99),
    };
    writer.finish(BlockParts { notice, ranges: Arc::new([range]) })
}

fn core(worker: u32) -> CoreId {
    CoreId { worker: WorkerId(worker), core: 0 }
}

/// Both ends of a connection, on one driver of IO.
struct Pair {
    io: Box<dyn Io>,
    near: Connection,
    far: Connection,
}

impl Pair {
    fn new() -> Pair {
        let (near, far) = streams();
        Pair {
            io: open(IoKind::Epoll).unwrap(),
            near: Connection::new(near, 1).unwrap(),
            far: Connection::new(far, 2).unwrap(),
        }
    }

    /// Moves what can be moved; the error is that of the far end.
    fn turn(&mut self) -> Result<(), Closed> {
        self.near.drive(&mut *self.io);
        self.far.drive(&mut *self.io);
        self.io.park(PATIENCE);
        let mut completions = Vec::new();
        self.io.poll(&mut completions);
        let mut result = Ok(());
        for Completion { token, outcome } in completions {
            match Connection::number_of(token) {
                1 => self.near.completed(outcome).unwrap(),
                _ => result = self.far.completed(outcome),
            }
        }
        result
    }
}

/// A connection whose other end is a plain stream that may write anything.
struct Victim {
    io: Box<dyn Io>,
    connection: Connection,
}

impl Victim {
    fn new() -> (TcpStream, Victim) {
        let (near, far) = streams();
        let connection = Connection::new(far, 7).unwrap();
        (near, Victim { io: open(IoKind::Epoll).unwrap(), connection })
    }

    /// Receives until the connection ends: the heads of the frames that came, and why it ended.
    fn heads_and_end(&mut self) -> (Vec<Vec<u8>>, Closed) {
        let mut heads = Vec::new();
        for _ in 0..ROUNDS {
            let mut completions = Vec::new();
            self.connection.drive(&mut *self.io);
            self.io.park(PATIENCE);
            self.io.poll(&mut completions);
            for Completion { outcome, .. } in completions {
                if let Err(closed) = self.connection.completed(outcome) {
                    return (heads, closed);
                }
            }
            loop {
                match self.connection.next_frame() {
                    Ok(Some(frame)) => heads.push(frame.head.to_vec()),
                    Ok(None) => break,
                    Err(closed) => return (heads, closed),
                }
            }
        }
        panic!("the connection has not ended; {heads:?} came");
    }
}
