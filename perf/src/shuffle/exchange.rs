//! Blocks between two processes: this one, and a peer that it starts.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use drizzle::clock::monotonic_now;
use drizzle::core::Meeting;
use drizzle::core::exchange::{Exchange, Press};
use drizzle::io::IoKind;
use drizzle::shuffle::{Block, Readers, Record};
use drizzle::transport::{Rendezvous, meet};

use super::{Entry, Load, Path, STORE, Tally, limits, pin};

/// What waits for longer than this hangs.
const LIMIT_NS: u64 = 60_000_000_000;

/// The other side of a measurement.
#[derive(Debug, Args)]
pub(crate) struct PeerFlags {
    /// Where the measurement listens.
    #[arg(long)]
    address: SocketAddr,
    /// What to do.
    #[arg(long, value_enum)]
    task: Task,
    /// Size of a block.
    #[arg(long)]
    bytes: usize,
    /// How many there are.
    #[arg(long)]
    blocks: u64,
    /// Where memory is shared, in hexadecimal digits.
    #[arg(long)]
    rendezvous: Option<String>,
}

/// What the other side does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Task {
    /// Reads all blocks and tells what was in them.
    Read,
    /// Answers each block with another one.
    Echo,
    /// Takes bytes that are no blocks.
    Drain,
}

/// A peer at work, and the connection to it.
pub(super) struct Peer {
    process: Child,
    pub(super) stream: TcpStream,
}

impl Peer {
    pub(super) fn start(task: Task, load: Load, rendezvous: Option<&Rendezvous>) -> Result<Peer> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let task = task.to_possible_value().expect("no task is hidden");
        let mut command = Command::new("/proc/self/exe");
        command.arg("shuffle-peer").arg("--task").arg(task.get_name());
        command.arg("--address").arg(listener.local_addr()?.to_string());
        command.arg("--bytes").arg(load.bytes.to_string());
        command.arg("--blocks").arg(load.blocks.to_string());
        if let Some(rendezvous) = rendezvous {
            let name = u128::from_be_bytes(rendezvous.name());
            command.arg("--rendezvous").arg(format!("{name:032x}"));
        }
        let process = command.stdin(Stdio::null()).spawn().context("cannot start a peer")?;
        let (stream, _) = listener.accept().context("the peer did not connect")?;
        stream.set_nodelay(true)?;
        Ok(Peer { process, stream })
    }

    pub(super) fn end(mut self) -> Result<()> {
        let status = self.process.wait().context("cannot wait for the peer")?;
        if status.success() { Ok(()) } else { bail!("the peer failed: {status}") }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended if all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One side of a run.
struct Side {
    exchange: Exchange,
    press: Press<Entry>,
    load: Load,
    arrived: Vec<Block>,
    deadline: u64,
}

impl Side {
    fn new(stream: TcpStream, meeting: Option<Meeting>, load: Load) -> Result<Side> {
        let readers = if meeting.is_some() { Readers::Processes } else { Readers::Threads };
        let exchange = Exchange::new::<Entry>(IoKind::Uring, stream, meeting, STORE)?;
        let press = Press::new(STORE, readers);
        let deadline = monotonic_now() + LIMIT_NS;
        Ok(Side { exchange, press, load, arrived: Vec::new(), deadline })
    }

    fn turn(&mut self) -> Result<()> {
        if monotonic_now() > self.deadline {
            bail!("no block came for 60 s");
        }
        self.exchange
            .turn(&mut self.arrived)
            .map_err(|reason| anyhow!("the peer is lost: {reason}"))
    }

    /// Writes a block and queues it, as soon as there is memory and not too much is queued.
    fn send(&mut self, number: u64) -> Result<()> {
        loop {
            if !self.exchange.is_congested()
                && let Ok(block) = self.press.print(self.load.of_block(number))
            {
                self.exchange.send(block);
                return self.turn();
            }
            self.turn()?;
        }
    }

    /// Turns until a block is there.
    fn next(&mut self) -> Result<Block> {
        while self.arrived.is_empty() {
            self.turn()?;
        }
        Ok(self.arrived.remove(0))
    }

    /// Reads all blocks.
    fn read_all(&mut self) -> Result<Tally> {
        let (mut tally, mut blocks) = (Tally::default(), 0);
        while blocks < self.load.blocks {
            self.turn()?;
            blocks += self.arrived.len() as u64;
            self.arrived.drain(..).for_each(|block| tally.read(&block));
        }
        Ok(tally)
    }
}

/// What the peer does.
pub(crate) fn peer(flags: &PeerFlags) -> Result<()> {
    pin(1);
    let load = Load { bytes: flags.bytes, blocks: flags.blocks };
    let stream = TcpStream::connect(flags.address).context("cannot reach the measurement")?;
    let meeting = match &flags.rendezvous {
        None => None,
        Some(name) => {
            let name = u128::from_str_radix(name, 16).context("no rendezvous has this name")?;
            Some(Meeting::Met(meet(name.to_be_bytes())?))
        }
    };
    match flags.task {
        Task::Drain => limits::drain(stream, load),
        Task::Read => {
            let mut side = Side::new(stream, meeting, load)?;
            let Tally { records, keys, first, second, third } = side.read_all()?;
            let answer = [
                Entry { key: records, first: keys, second: 0, third: 0 },
                Entry { key: 0, first, second, third },
            ];
            side.exchange.send(side.press.print(answer.into_iter())?);
            linger(side)
        }
        Task::Echo => {
            let mut side = Side::new(stream, meeting, load)?;
            let mut tally = Tally::default();
            for number in 0..load.blocks {
                let block = side.next()?;
                tally.read(&block);
                drop(block);
                side.send(number)?;
            }
            tally.check(load)?;
            linger(side)
        }
    }
}

/// Stays until the other side has what was sent, and hangs up.
fn linger(mut side: Side) -> Result<()> {
    while side.exchange.turn(&mut side.arrived).is_ok() && monotonic_now() < side.deadline {}
    Ok(())
}

fn start(path: Path, task: Task, load: Load) -> Result<(Peer, Side)> {
    pin(0);
    let rendezvous = match path {
        Path::Processes => Some(Rendezvous::new()?),
        Path::Cores | Path::Tcp => None,
    };
    let peer = Peer::start(task, load, rendezvous.as_ref())?;
    let stream = peer.stream.try_clone()?;
    let mut side = Side::new(stream, rendezvous.map(Meeting::Expected), load)?;
    // The peer says that memory is shared before anything else.
    while path == Path::Processes && !side.exchange.is_sharing() {
        side.turn()?;
    }
    Ok((peer, side))
}

fn end(peer: Peer, side: Side) -> Result<()> {
    drop(side);
    peer.stream.shutdown(std::net::Shutdown::Both)?;
    peer.end()
}

/// Nanoseconds from the first block's begin until the peer has told what it read.
pub(super) fn stream(path: Path, load: Load) -> Result<u64> {
    let (peer, mut side) = start(path, Task::Read, load)?;
    let began = monotonic_now();
    (0..load.blocks).try_for_each(|number| side.send(number))?;
    let answer = side.next()?;
    let elapsed_ns = monotonic_now() - began;
    let [counts, sums] = answer.records::<Entry>() else { bail!("the peer answers nonsense") };
    let (counts, sums) = (Entry::unarchive(counts), Entry::unarchive(sums));
    let Entry { first, second, third, .. } = sums;
    let tally = Tally { records: counts.key, keys: counts.first, first, second, third };
    drop(answer);
    tally.check(load)?;
    end(peer, side)?;
    Ok(elapsed_ns)
}

/// Nanoseconds of each round trip.
pub(super) fn handovers(path: Path, load: Load) -> Result<Vec<u64>> {
    let (peer, mut side) = start(path, Task::Echo, load)?;
    let (mut times, mut tally) = (Vec::new(), Tally::default());
    for number in 0..load.blocks {
        let began = monotonic_now();
        side.send(number)?;
        let block = side.next()?;
        tally.read(&block);
        times.push(monotonic_now() - began);
    }
    tally.check(load)?;
    end(peer, side)?;
    Ok(times)
}
