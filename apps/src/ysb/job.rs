//! The job, on the public API of Drizzle.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::Result;
use drizzle::connectors::{
    GrowingFile, JsonLines, JsonLinesSink, Lines, MappedFile, Output, Replay, UpsertSink,
};
use drizzle::dataflow::{
    Dataflow, DataflowOptions, Head, Job, Lookup, Owned, Sink, Stream, Transform, Tumbling,
    WindowResult,
};
use drizzle::node::{Collect, Outlet};

use super::event::AdEvent;
use super::flags::{Input, JobFlags, WatermarkFlag};
use super::generator::{Generator, VIEW};
use super::replay::{AdRecord, Held, Memory};
use super::results::{encode_json, encode_row, encode_upsert};
use super::table::AdTable;

/// What the job yields: a campaign, a window, and how many views there were.
pub type Counts = Owned<WindowResult<u32, u64>>;

/// Builds the job. Every node does so from the same flags; `memory` holds what a process replays.
pub fn job(flags: &JobFlags, outlet: &Outlet, memory: &Memory) -> Result<Job> {
    let table = Arc::new(flags.table()?);
    let collect = || Collect::<Counts, _>::new(outlet, encode_row);
    match flags.input()? {
        Input::Generated => {
            let events = Generator::new(flags.generator()?, &table)?;
            let events = match flags.watermark {
                WatermarkFlag::Asserted => events,
                WatermarkFlag::Derived => events.deriving_watermarks(),
            };
            match flags.upsert_log() {
                Some(log) => {
                    let sink = UpsertSink::<Counts, _>::new(log, encode_upsert);
                    from_lines(flags, table, events, sink)
                }
                None => from_lines(flags, table, events, collect()),
            }
        }
        Input::Replayed(options) => match memory.get(options, &table)? {
            Held::Json(lines) => from_lines(flags, table, lines, collect()),
            Held::Binary(records) => from_records(flags, table, records, collect()),
        },
        Input::File { events, output } => {
            let sink = written(flags, output, &table);
            match flags.follow {
                true => from_lines(flags, table, GrowingFile::open(events)?, sink),
                false => from_lines(flags, table, MappedFile::open(events)?, sink),
            }
        }
        Input::Sent { senders, output } => {
            let sink = written(flags, output, &table);
            from_lines(flags, table, senders, sink)
        }
    }
}

/// Counts as lines of JSON, which are seen once whatever is lost where the job has a folder.
fn written(flags: &JobFlags, output: Output, table: &Arc<AdTable>) -> impl Sink<Counts> {
    let sink = JsonLinesSink::<Counts, _>::new(output, encode_json(table.clone()));
    if flags.data.is_some() { sink.transactional() } else { sink }
}

fn from_lines<L: Lines, S: Sink<Counts>>(
    flags: &JobFlags,
    table: Arc<AdTable>,
    lines: L,
    sink: S,
) -> Result<Job> {
    let mut source = JsonLines::<L, AdEvent<'static>>::new(lines)
        .out_of_orderness(flags.out_of_orderness())
        .keep("event_type", "view");
    if let Some(output) = flags.dead_letter() {
        source = source.dead_letter(output);
    }
    let flow = Dataflow::new("ysb", options(flags));
    let steps = flags.burn;
    let campaigns = flow.source("events", source).lookup_join(
        "campaigns",
        table,
        move |event| {
            if steps > 0 {
                burn(steps);
            }
            event.ad_id
        },
        |_, campaign: u32| campaign,
    );
    count(flags, campaigns, sink);
    Ok(flow.build()?)
}

/// The same for events that were parsed before.
fn from_records<S: Sink<Counts>>(
    flags: &JobFlags,
    table: Arc<AdTable>,
    records: Replay<AdRecord>,
    sink: S,
) -> Result<Job> {
    let flow = Dataflow::new("ysb", options(flags));
    let campaigns = flow
        .source("events", records.keep(|event: &AdRecord| event.event_type == VIEW))
        .lookup_join("campaigns", table, |event| &event.ad, |_, campaign: u32| campaign);
    count(flags, campaigns, sink);
    Ok(flow.build()?)
}

/// What follows once the campaign is known.
fn count<H, T, S>(flags: &JobFlags, campaigns: Stream<H, T>, sink: S)
where
    H: Head,
    T: Transform<H::Record, Out = Owned<u32>>,
    S: Sink<Counts>,
{
    campaigns
        .key_by(|campaign| *campaign)
        .window(Tumbling::of(flags.window()))
        .count("counts")
        .sink("results", sink);
}

/// Takes time. The bytes are filled by the C library, so that a build without optimisation takes about as long.
#[cold]
fn burn(steps: u64) {
    let mut bytes = [0_u8; 16 << 10];
    for step in 0..steps {
        bytes.fill(black_box(step as u8));
        black_box(&mut bytes);
    }
}

fn options(flags: &JobFlags) -> DataflowOptions {
    DataflowOptions { partitions: flags.partitions(), combine: flags.combine() }
}

impl Lookup<str> for AdTable {
    type Value = u32;

    #[inline]
    fn lookup(&self, ad_id: &str) -> Option<u32> {
        self.campaign_of(ad_id)
    }

    fn fingerprint(&self) -> u64 {
        AdTable::fingerprint(self)
    }
}

impl Lookup<u64> for AdTable {
    type Value = u32;

    #[inline]
    fn lookup(&self, ad: &u64) -> Option<u32> {
        self.campaign_of_number(*ad)
    }

    fn fingerprint(&self) -> u64 {
        AdTable::fingerprint(self)
    }
}
