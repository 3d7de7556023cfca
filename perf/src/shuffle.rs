//! How fast blocks go from core to core, by the engine's own path, each way beside its limit.
//!
//! Every way: records of 32 bytes are appended to a block, which is published, handed over, received
//! and checked as there is need, and read. The reader sums up what it reads; sums that differ from
//! what was written are an error, and no figure.

mod exchange;
mod limits;
mod mailbox;

use anyhow::{Result, ensure};
use drizzle::io::bare::Sending;
use drizzle::shuffle::{Block, Record, StoreOptions};
use rkyv::{Archive, Deserialize, Serialize};
use serde_json::{Value, json};

use crate::figures::median;

pub(crate) use exchange::{PeerFlags, peer};

/// A record of 32 bytes.
#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
struct Entry {
    key: u64,
    first: u64,
    second: u64,
    third: u64,
}

/// Sizes of the blocks, and how many of them one run moves.
const SIZES: [(usize, u64); 3] = [(4 << 10, 100_000), (64 << 10, 16_000), (1 << 20, 1_000)];
/// Size of the blocks whose hand-over is timed, and how many go there and back.
const HANDOVER_BYTES: usize = 4 << 10;
const HANDOVERS: u64 = 10_000;

/// Memory of each side.
const STORE: StoreOptions = StoreOptions { segment_bytes: 256 << 10, max_bytes: 16 << 20 };

/// A way that blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Between two threads of a process.
    Cores,
    /// Between two processes, by shared memory.
    Processes,
    /// Between two processes, as between hosts.
    Tcp,
}

impl Path {
    const ALL: [Path; 3] = [Path::Cores, Path::Processes, Path::Tcp];

    fn name(self) -> &'static str {
        match self {
            Path::Cores => "cores",
            Path::Processes => "processes",
            Path::Tcp => "tcp",
        }
    }

    fn limit_name(self) -> &'static str {
        match self {
            Path::Cores | Path::Processes => "memcpy out of cache",
            Path::Tcp => "bare io_uring stream",
        }
    }

    /// Nanoseconds that so many blocks take.
    fn stream(self, load: Load) -> Result<u64> {
        match self {
            Path::Cores => mailbox::stream(load),
            Path::Processes | Path::Tcp => exchange::stream(self, load),
        }
    }

    /// The same for bytes alone.
    fn limit(self, load: Load) -> Result<u64> {
        match self {
            Path::Cores | Path::Processes => Ok(limits::copy(load)),
            Path::Tcp => Ok(limits::stream(load, Sending::Copied)?.0),
        }
    }

    /// Nanoseconds of each round trip of a block.
    fn handovers(self) -> Result<Vec<u64>> {
        let load = Load { bytes: HANDOVER_BYTES, blocks: HANDOVERS };
        match self {
            Path::Cores => mailbox::handovers(load),
            Path::Processes | Path::Tcp => exchange::handovers(self, load),
        }
    }
}

/// So many blocks of so many bytes.
#[derive(Clone, Copy, Debug)]
struct Load {
    bytes: usize,
    blocks: u64,
}

impl Load {
    /// Records of a block, whose end takes some bytes too, as does the head of a shared segment.
    fn records(self) -> u64 {
        self.bytes as u64 / 32 - 4
    }

    /// The records of a block.
    fn of_block(self, block: u64) -> impl Iterator<Item = Entry> {
        let first = block * self.records();
        (first..first + self.records()).map(entry)
    }

    /// GB/s of records.
    fn rate(self, elapsed_ns: u64) -> f64 {
        (self.blocks * self.records() * 32) as f64 / elapsed_ns as f64
    }

    /// What a reader of all blocks has to find.
    fn tally(self) -> Tally {
        let mut tally = Tally::default();
        (0..self.blocks * self.records()).for_each(|number| tally.add(entry(number)));
        tally
    }
}

fn entry(number: u64) -> Entry {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Entry { key: number, first: number ^ 0x5555, second: mixed, third: !number }
}

/// What was in the records that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    records: u64,
    keys: u64,
    first: u64,
    second: u64,
    third: u64,
}

impl Tally {
    fn add(&mut self, entry: Entry) {
        self.records += 1;
        self.keys = self.keys.wrapping_add(entry.key);
        self.first = self.first.wrapping_add(entry.first);
        self.second = self.second.wrapping_add(entry.second);
        self.third = self.third.wrapping_add(entry.third);
    }

    fn read(&mut self, block: &Block) {
        block.records::<Entry>().iter().for_each(|archived| self.add(Entry::unarchive(archived)));
    }

    fn check(self, load: Load) -> Result<()> {
        ensure!(self == load.tally(), "what was read is not what was written: {self:?}");
        Ok(())
    }
}

/// The medians of all ways.
pub(crate) struct Shuffled {
    /// Rates: `path, bytes, gbps, limit, limit_gbps`.
    pub(crate) rows: Vec<Value>,
    /// Times: `path, bytes, p50_us, p99_us`.
    pub(crate) handovers: Vec<Value>,
    /// Bare streams over TCP: `bytes, send_gbps, send_zc_gbps, zc_copied`.
    pub(crate) sends: Vec<Value>,
}

/// Measures all ways in turn, so often, and tells the medians.
pub(crate) fn measure(rounds: u32) -> Result<Shuffled> {
    let mut rows = Vec::new();
    for path in Path::ALL {
        for (bytes, blocks) in SIZES {
            let load = Load { bytes, blocks };
            let (mut rates, mut limits) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                rates.push(load.rate(path.stream(load)?));
                limits.push(load.rate(path.limit(load)?));
            }
            let (rate, limit) = (median(&rates), median(&limits));
            eprintln!(
                "{:<10}{bytes:>8} bytes {rate:>7.2} GB/s, {} {limit:>7.2} GB/s: {:.0} %",
                path.name(),
                path.limit_name(),
                100.0 * rate / limit
            );
            rows.push(json!({
                "path": path.name(), "bytes": bytes, "gbps": rate,
                "limit": path.limit_name(), "limit_gbps": limit,
            }));
        }
    }
    let handovers = Path::ALL.iter().map(|&path| handover(path, rounds));
    let handovers = handovers.collect::<Result<_>>()?;
    let sends = SIZES.map(|(bytes, blocks)| sends(Load { bytes, blocks }, rounds));
    Ok(Shuffled { rows, handovers, sends: sends.into_iter().collect::<Result<_>>()? })
}

/// A bare stream by copying and by zero-copy sends, in turn.
fn sends(load: Load, rounds: u32) -> Result<Value> {
    let (mut copying, mut zero_copy, mut part) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        copying.push(load.rate(limits::stream(load, Sending::Copied)?.0));
        let (elapsed_ns, notified) = limits::stream(load, Sending::ZeroCopy)?;
        zero_copy.push(load.rate(elapsed_ns));
        part.push(notified.copied as f64 / notified.sends as f64);
    }
    let (copying, zero_copy, part) = (median(&copying), median(&zero_copy), median(&part));
    eprintln!(
        "bare      {:>8} bytes SEND {copying:>7.2} GB/s, SEND_ZC {zero_copy:>7.2} GB/s, {:.0} % copied",
        load.bytes,
        100.0 * part
    );
    Ok(json!({
        "bytes": load.bytes, "send_gbps": copying, "send_zc_gbps": zero_copy, "zc_copied": part,
    }))
}

fn handover(path: Path, rounds: u32) -> Result<Value> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.extend(path.handovers()?);
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 2e3;
    let (p50_us, p99_us) = (at(0.5), at(0.99));
    eprintln!("{:<10}hand-over of 4 KiB: p50 {p50_us:.1} us, p99 {p99_us:.1} us", path.name());
    Ok(json!({ "path": path.name(), "bytes": HANDOVER_BYTES, "p50_us": p50_us, "p99_us": p99_us }))
}

/// Keeps the calling thread on a processor, if it may run there. By its number: asked for a list, the
/// system leaves out what the caller's parent was kept away from.
fn pin(processor: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: processor });
}
