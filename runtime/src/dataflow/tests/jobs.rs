//! How a job is put together: names, open streams, the plan and its fingerprint.

use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::EdgeId;
use drizzle_scheduler::message::Content;
use drizzle_scheduler::plan::{Pacing, StageKind};

use super::harness::*;
use super::operators::Odd;
use crate::dataflow::{Combine, Dataflow, Job, JobError, Tumbling};

/// What a job is built from that nodes must agree on.
#[derive(Clone)]
struct Parts {
    name: &'static str,
    operator: &'static str,
    table: u64,
    source: u64,
    window_ms: u64,
    source_partitions: usize,
    partitions: u32,
}

const PARTS: Parts = Parts {
    name: "job",
    operator: "windows",
    table: 1,
    source: 1,
    window_ms: 10,
    source_partitions: 2,
    partitions: 4,
};

fn build(parts: &Parts) -> Job {
    let flow = Dataflow::new(parts.name, options(parts.partitions, Combine::Never));
    let mut items = Items::new(&vec![Vec::new(); parts.source_partitions]);
    items.fingerprint = parts.source;
    let table = Arc::new(Odd { fingerprint: parts.table });
    flow.source("items", items)
        .lookup_join("names", table, |item: &Item| &item.key, |item, _| item.key)
        .key_by(|&key| key)
        .window(Tumbling::of(Duration::from_millis(parts.window_ms)))
        .count(parts.operator)
        .sink("rows", Results::new());
    flow.build().unwrap()
}

fn fingerprint(parts: &Parts) -> u64 {
    build(parts).plan().fingerprint
}

#[test]
fn fingerprints_are_equal_where_everything_is() {
    assert_eq!(fingerprint(&PARTS), fingerprint(&PARTS.clone()));
}

#[test]
fn fingerprints_differ_where_anything_does() {
    let variants = [
        PARTS,
        Parts { name: "another job", ..PARTS },
        Parts { operator: "others", ..PARTS },
        Parts { table: 2, ..PARTS },
        Parts { source: 2, ..PARTS },
        Parts { window_ms: 20, ..PARTS },
        Parts { source_partitions: 3, ..PARTS },
        Parts { partitions: 5, ..PARTS },
    ];
    let mut fingerprints: Vec<u64> = variants.iter().map(fingerprint).collect();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), variants.len());
}

#[test]
fn a_plan_has_a_stage_for_each_side_of_a_shuffle() {
    let job = build(&PARTS);
    let plan = job.plan();
    let stages: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| (stage.name.as_str(), stage.kind, stage.partition_count))
        .collect();
    let expected =
        [("items", StageKind::Source(Pacing::Unpaced), 2), ("windows", StageKind::Stateful, 4)];
    assert_eq!(stages, expected);
    assert_eq!(plan.edges.len(), 1);
    assert_eq!((plan.edges[0].from, plan.edges[0].to), (SOURCE, WINDOW));
    for content in [Content::Raw, Content::Partial] {
        assert!(job.check_of(EdgeId(0), content).is_some());
        assert!(job.check_of(EdgeId(1), content).is_none(), "no such edge");
    }
}

fn flow() -> Dataflow {
    Dataflow::new("job", options(1, Combine::Never))
}

#[test]
fn two_operators_of_one_name_are_an_error() {
    let flow = flow();
    let same = flow.source("items", Items::new(&[vec![]])).filter("same", |_| true);
    same.map("same", |item| *item).sink("rows", Rows::<Item>::new());
    let error = flow.build().unwrap_err();
    assert_eq!(error, JobError::SameName("same".to_owned()));
    assert!(error.to_string().contains("\"same\""));
}

#[test]
fn a_stream_that_was_dropped_before_a_sink_is_an_error() {
    let flow = flow();
    let _ = flow.source("items", Items::new(&[vec![]])).filter("all", |_| true);
    assert_eq!(flow.build().unwrap_err(), JobError::OpenStream);
}

#[test]
fn a_stream_that_is_still_open_is_an_error() {
    let flow = flow();
    let stream = flow.source("items", Items::new(&[vec![]]));
    assert_eq!(flow.build().unwrap_err(), JobError::OpenStream);
    stream.sink("rows", Rows::<Item>::new());
}

#[test]
fn a_window_that_leads_to_no_sink_is_an_error() {
    let flow = flow();
    let keyed = flow.source("items", Items::new(&[vec![]])).key_by(|item| item.key);
    let _ = keyed.window(Tumbling::of(Duration::from_millis(1))).count("windows");
    assert_eq!(flow.build().unwrap_err(), JobError::OpenStream);
}

#[test]
fn windows_are_aligned_to_zero_and_at_least_a_millisecond_long() {
    let window = Tumbling::of(Duration::from_millis(10));
    assert_eq!([0, 9, 10, 25].map(|time| window.start_of(time)), [0, 0, 10, 20]);
    assert_eq!((window.end_of(20), window.end_of(u64::MAX)), (30, u64::MAX));
    assert_eq!(Tumbling::of(Duration::from_nanos(1)).length_ms(), 1);
    assert_eq!(Tumbling::of(Duration::ZERO).length_ms(), 1);
    assert_eq!(Tumbling::of(Duration::from_micros(1500)).length_ms(), 2);
    assert_eq!(Tumbling::of(Duration::MAX).length_ms(), u64::MAX / 4);
}
