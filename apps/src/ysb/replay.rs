//! Events held in memory and replayed: what the engine can do when its input costs no more than
//! reading it.
//!
//! The events are those of the [generator](super::generator), spread over [`WINDOWS`] whole windows;
//! pass k is k times that span later. They are held as JSON lines or as records of 32 bytes.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use clap::ValueEnum;
use drizzle::connectors::{Fingerprint, LineReader, Lines, Replay, TimedRecord};
use drizzle::formats::Chunk;
use drizzle::scheduler::PartitionId;
use serde::{Deserialize, Serialize};

use super::generator::{EventFields, Generator, GeneratorOptions, Rate};
use super::table::AdTable;
use crate::size::Size;

/// Windows that one pass fills.
pub const WINDOWS: u64 = 10;

/// What events are held as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Format {
    /// JSON lines, parsed in every pass
    Json,
    /// Records of 32 bytes, parsed before
    Binary,
}

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// Seed of the events.
    pub seed: u64,
    /// How much memory they take.
    pub size: Size,
    /// What they are held as.
    pub format: Format,
    /// How often they are read.
    pub passes: NonZeroU64,
    /// How many source partitions share them.
    pub partitions: NonZeroU32,
    /// Length of a window.
    pub window_ms: NonZeroU64,
}

/// Events in memory.
#[derive(Clone, Debug)]
pub enum Held {
    /// Lines.
    Json(Replay<u8>),
    /// Records.
    Binary(Replay<AdRecord>),
}

/// The events of one process: made by whoever asks first, shared by its driver and workers.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<OnceLock<(ReplayOptions, Held)>>);

impl Memory {
    /// The events that the options describe. A process replays one input in its life.
    pub fn get(&self, options: ReplayOptions, table: &AdTable) -> Result<Held> {
        if self.0.get().is_none() {
            let held = make(&options, table)?;
            // Somebody else may have been faster, with the same.
            drop(self.0.set((options, held)));
        }
        let (made_for, held) = self.0.get().context("it was set above")?;
        anyhow::ensure!(*made_for == options, "this process replays another input already");
        Ok(held.clone())
    }
}

/// An event as 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AdRecord {
    /// [`ad_number`] of the ad's id.
    pub ad: u64,
    /// When, in milliseconds.
    pub event_time: u64,
    /// Number of the user.
    pub user: u32,
    /// Number of the page.
    pub page: u32,
    /// Number of the ad's type.
    pub ad_type: u32,
    /// Number in [`EVENT_TYPES`](super::generator::EVENT_TYPES).
    pub event_type: u32,
}

const _: () = assert!(size_of::<AdRecord>() == 32);

impl TimedRecord for AdRecord {
    #[inline]
    fn event_time(&self) -> u64 {
        self.event_time
    }
}

/// The number that stands for an ad's id in records: a hash of it, so that joining it with its
/// campaign is a lookup by key as it is with lines.
pub fn ad_number(id: &str) -> u64 {
    Fingerprint::new("ad").bytes(id.as_bytes()).finish()
}

fn make(options: &ReplayOptions, table: &AdTable) -> Result<Held> {
    let span_ms = WINDOWS.checked_mul(options.window_ms.get()).context("the window is too long")?;
    let generator = Generator::new(generator(options, table, span_ms)?, table)?;
    let events = generator.total().context("its rate is given")?;
    let partitions = 0..options.partitions.get();
    let identity = Fingerprint::new("events in memory").number(generator.fingerprint()).finish();
    let passes = options.passes;
    Ok(match options.format {
        Format::Json => {
            let lines = |partition| lines(&generator, share(options, events, partition), partition);
            let held = partitions.map(lines).collect::<Result<_>>()?;
            Held::Json(Replay::new(held, passes, span_ms, identity)?)
        }
        Format::Binary => {
            let ads: Vec<u64> = table.ads().iter().map(|ad| ad_number(&ad.id)).collect();
            let records = |partition| {
                let indexes = (u64::from(partition)..).step_by(options.partitions.get() as usize);
                let indexes = indexes.take(share(options, events, partition) as usize);
                indexes.map(|index| record(&generator.plan().fields(index), &ads)).collect()
            };
            Held::Binary(Replay::new(partitions.map(records).collect(), passes, span_ms, identity)?)
        }
    })
}

/// A generator of as many events as fit, spread evenly over the windows of a pass.
fn generator(options: &ReplayOptions, table: &AdTable, span_ms: u64) -> Result<GeneratorOptions> {
    let sized = |rate| GeneratorOptions {
        seed: options.seed,
        partitions: options.partitions,
        rate,
        duration_ns: span_ms.saturating_mul(1_000_000),
        window_ms: options.window_ms,
    };
    let event_bytes = match options.format {
        Format::Json => Generator::new(sized(Rate::Max), table)?.mean_bytes() + 1,
        Format::Binary => size_of::<AdRecord>() as u64,
    };
    let per_second = (options.size.0 / event_bytes).saturating_mul(1000) / span_ms;
    let per_second = NonZeroU64::new(per_second).with_context(|| {
        format!("--replay {} holds no event for each second: give it more", options.size)
    })?;
    Ok(sized(Rate::PerSecond(per_second)))
}

/// How many of all events belong to a partition.
fn share(options: &ReplayOptions, events: u64, partition: u32) -> u64 {
    events.saturating_sub(partition.into()).div_ceil(options.partitions.get().into())
}

fn lines(generator: &Generator, events: u64, partition: u32) -> Result<Box<[u8]>> {
    let bytes = events.saturating_mul(generator.mean_bytes() + 2);
    let mut lines = Vec::with_capacity(usize::try_from(bytes)?);
    let each = |chunk: Chunk<'_>| lines.extend_from_slice(chunk.lines());
    generator.open()?.read_chunks(PartitionId(partition), 0..events, each)?;
    Ok(lines.into_boxed_slice())
}

fn record(event: &EventFields, ads: &[u64]) -> AdRecord {
    AdRecord {
        ad: ads[event.ad as usize],
        event_time: event.event_time,
        user: event.user,
        page: event.page,
        ad_type: event.ad_type,
        event_type: event.event_type,
    }
}
