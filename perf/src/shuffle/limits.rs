//! What the machine allows: bytes copied in memory, and bytes sent through a socket by the same driver
//! of IO, without frames, checksums or records. That driver receives once per operation, so a stream of
//! multishot receives could be faster than this limit.

use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use drizzle::clock::monotonic_now;
use drizzle::io::{Body, Io, IoKind, Op, Outcome, open};

use super::exchange::{Peer, Task};
use super::{Load, pin};

/// More than any cache holds.
const FAR: usize = 256 << 20;
/// Bytes of one receive.
const PIECE: usize = 256 << 10;

/// Nanoseconds that copying the blocks' records takes, piece by piece, from and to memory.
pub(super) fn copy(load: Load) -> u64 {
    pin(0);
    let piece = (load.records() * 32) as usize;
    let (source, mut target) = (vec![1u8; FAR], vec![2u8; FAR]);
    let began = monotonic_now();
    let starts = (0..FAR - piece).step_by(piece).cycle();
    for start in starts.take(load.blocks as usize) {
        target[start..start + piece].copy_from_slice(&source[start..start + piece]);
        std::hint::black_box(&mut target);
    }
    monotonic_now() - began
}

/// Turns until the operation is done.
fn wait(io: &mut dyn Io) -> Outcome {
    let mut completions = Vec::new();
    loop {
        io.poll(&mut completions);
        if let Some(completion) = completions.pop() {
            return completion.outcome;
        }
        std::hint::spin_loop();
    }
}

/// Nanoseconds until a peer has taken as many bytes as the blocks' records have.
pub(super) fn stream(load: Load) -> Result<u64> {
    pin(0);
    let peer = Peer::start(Task::Drain, load, None)?;
    let stream = Arc::new(peer.stream.try_clone()?);
    let mut io = open(IoKind::Uring)?;
    let body: Arc<Vec<u8>> = Arc::new(vec![7; (load.records() * 32) as usize]);
    let began = monotonic_now();
    for _ in 0..load.blocks {
        let (head, bodies) = (Vec::new(), vec![body.clone() as Body]);
        io.submit(1, Op::Send { stream: stream.clone(), head, bodies });
        let Outcome::Sent { result, .. } = wait(&mut *io) else { bail!("a send was awaited") };
        result?;
    }
    io.submit(2, Op::Recv { stream, buffer: Vec::with_capacity(1), limit: 1 });
    let Outcome::Received { buffer, .. } = wait(&mut *io) else { bail!("an answer was awaited") };
    let elapsed_ns = monotonic_now() - began;
    ensure!(buffer == [7], "the peer answers nonsense");
    peer.end()?;
    Ok(elapsed_ns)
}

/// The peer's side.
pub(super) fn drain(stream: TcpStream, load: Load) -> Result<()> {
    let stream = Arc::new(stream);
    let mut io = open(IoKind::Uring)?;
    let mut buffer = Vec::with_capacity(PIECE);
    let mut missing = load.blocks * load.records() * 32;
    while missing > 0 {
        buffer.clear();
        io.submit(1, Op::Recv { stream: stream.clone(), buffer, limit: PIECE });
        let Outcome::Received { buffer: back, result } = wait(&mut *io) else {
            bail!("bytes were awaited")
        };
        ensure!(result? > 0, "the measurement hung up");
        missing -= back.len() as u64;
        buffer = back;
    }
    io.submit(2, Op::Send { stream, head: vec![7], bodies: Vec::new() });
    let Outcome::Sent { result, .. } = wait(&mut *io) else { bail!("a send was awaited") };
    Ok(result?)
}
