//! What the machine allows: bytes copied in memory, and bytes sent through a socket by rings that do
//! nothing else, without frames, checksums or records.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use drizzle::clock::monotonic_now;
use drizzle::io::bare::{self, Notified, Sending};

use super::exchange::{Peer, Task};
use super::{Load, pin};

/// More than any cache holds.
const FAR: usize = 256 << 20;

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

/// Nanoseconds until a peer has taken as many bytes as the blocks' records have, and what was said of
/// zero-copy sends.
pub(super) fn stream(load: Load, sending: Sending) -> Result<(u64, Notified)> {
    pin(0);
    let mut peer = Peer::start(Task::Drain, load, None)?;
    let block = Arc::new(vec![7; (load.records() * 32) as usize]);
    let began = monotonic_now();
    let notified = bare::send(&peer.stream, &block, load.blocks, sending)?;
    let mut answer = [0];
    peer.stream.read_exact(&mut answer)?;
    let elapsed_ns = monotonic_now() - began;
    ensure!(answer == [7], "the peer answers nonsense");
    peer.end()?;
    Ok((elapsed_ns, notified))
}

/// The peer's side.
pub(super) fn drain(mut stream: TcpStream, load: Load) -> Result<()> {
    bare::drain(&stream, load.blocks * load.records() * 32)?;
    Ok(stream.write_all(&[7])?)
}
