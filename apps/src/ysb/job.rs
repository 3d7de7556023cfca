//! The job, on the public API of Drizzle.

use std::sync::Arc;

use anyhow::Result;
use drizzle::connectors::{JsonLines, JsonLinesSink, Lines, MappedFile};
use drizzle::dataflow::{
    Dataflow, DataflowOptions, Job, Lookup, Owned, Sink, Tumbling, WindowResult,
};
use drizzle::node::{Collect, Outlet};

use super::event::AdEvent;
use super::flags::{Input, JobFlags};
use super::generator::Generator;
use super::results::{encode_json, encode_row};
use super::table::AdTable;

/// What the job yields: a campaign, a window, and how many views there were.
pub type Counts = Owned<WindowResult<u32, u64>>;

/// Builds the job. Every node does so from the same flags.
pub fn job(flags: &JobFlags, outlet: &Outlet) -> Result<Job> {
    let table = Arc::new(flags.table()?);
    match flags.input()? {
        Input::Generated => {
            let events = Generator::new(flags.generator()?, &table)?;
            let sink = Collect::<Counts, _>::new(outlet, encode_row);
            assemble(flags, table, events, sink)
        }
        Input::File { events, output } => {
            let encode = encode_json(table.clone());
            let sink = JsonLinesSink::<Counts, _>::new(output, encode);
            assemble(flags, table, MappedFile::open(events)?, sink)
        }
    }
}

fn assemble<L: Lines, S: Sink<Counts>>(
    flags: &JobFlags,
    table: Arc<AdTable>,
    lines: L,
    sink: S,
) -> Result<Job> {
    let mut source = JsonLines::<L, AdEvent<'static>>::new(lines)
        .out_of_orderness(flags.out_of_orderness.into())
        .keep("event_type", "view");
    if let Some(output) = flags.dead_letter() {
        source = source.dead_letter(output);
    }
    let options = DataflowOptions { partitions: flags.partitions(), combine: flags.combine() };
    let flow = Dataflow::new("ysb", options);
    flow.source("events", source)
        .lookup_join("campaigns", table, |event| event.ad_id, |_, campaign: u32| campaign)
        .key_by(|campaign| *campaign)
        .window(Tumbling::of(flags.window()))
        .count("counts")
        .sink("results", sink);
    Ok(flow.build()?)
}

impl Lookup<str> for AdTable {
    type Value = u32;

    fn lookup(&self, ad_id: &str) -> Option<u32> {
        self.campaign_of(ad_id)
    }

    fn fingerprint(&self) -> u64 {
        AdTable::fingerprint(self)
    }
}
