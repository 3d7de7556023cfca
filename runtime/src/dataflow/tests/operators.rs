//! Operators within a stage, and sinks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use drizzle_scheduler::{BatchId, Instant, PartitionId};

use super::harness::*;
use crate::connectors::ConnectorError;
use crate::dataflow::stage::TaskError;
use crate::dataflow::{Combine, Dataflow, Lookup, Owned, Sink, SinkContext, SinkWriter};

/// Values of odd keys.
pub(super) struct Odd {
    pub(super) fingerprint: u64,
}

impl Lookup<u32> for Odd {
    type Value = String;

    fn lookup(&self, key: &u32) -> Option<String> {
        (key % 2 == 1).then(|| format!("odd {key}"))
    }
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn keys(count: u32) -> Items {
    let items: Vec<Item> = (0..count).map(|key| item(key, 1, u64::from(key))).collect();
    Items::new(&[items]).cut(&[3])
}

fn flow() -> Dataflow {
    Dataflow::new("operators", options(1, Combine::Never))
}

#[test]
fn a_filter_keeps_records_and_counts_the_others() {
    let (flow, rows) = (flow(), Rows::new());
    flow.source("items", keys(10)).filter("small", |item| item.key < 4).sink("rows", rows.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    bench.finish();
    let records: Vec<u32> = rows.records().iter().map(|item: &Item| item.key).collect();
    assert_eq!(records, [0, 1, 2, 3]);
    let expected = [
        ("items.blank", 0),
        ("items.filtered", 0),
        ("items.lines", 10),
        ("items.malformed", 0),
        ("items.ok", 10),
        ("rows.written", 4),
        ("small.dropped", 6),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(bench.counters(), expected);
}

#[test]
fn map_and_filter_map_turn_records_into_others() {
    let (flow, rows) = (flow(), Rows::new());
    flow.source("items", keys(7))
        .map("doubled", |item| item.value * 2)
        .filter_map("texts", |&value: &u64| (value % 3 != 0).then(|| format!("v{value}")))
        .sink("rows", rows.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    bench.finish();
    assert_eq!(rows.records(), ["v2", "v4", "v8", "v10"].map(str::to_owned));
    assert_eq!(bench.counter("texts.dropped"), 3);
    assert_eq!(bench.counters().keys().filter(|name| name.starts_with("doubled")).count(), 0);
}

#[test]
fn a_lookup_join_joins_what_a_key_leads_to_and_counts_the_unmatched() {
    let (flow, rows) = (flow(), Rows::new());
    flow.source("items", keys(6))
        .lookup_join(
            "names",
            Arc::new(Odd { fingerprint: 1 }),
            |item: &Item| &item.key,
            |item, name| (item.value, name),
        )
        .sink("rows", rows.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    bench.finish();
    let expected = [1, 3, 5].map(|key| (key, format!("odd {key}")));
    assert_eq!(rows.records(), expected);
    assert_eq!(bench.counter("names.unmatched"), 3);
}

#[test]
fn counters_of_a_chain_are_those_of_what_reached_each_operator() {
    let (flow, rows) = (flow(), Rows::<Item>::new());
    flow.source("items", keys(20))
        .filter("first", |item| item.key >= 5)
        .filter("second", |item| item.key % 5 == 0)
        .sink("rows", rows);
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    bench.finish();
    let names = ["items.ok", "first.dropped", "second.dropped", "rows.written"];
    assert_eq!(names.map(|name| bench.counter(name)), [20, 5, 12, 3]);
}

/// What a sink was asked to do, in words.
#[derive(Clone, Debug, Default)]
struct Diary {
    lines: Arc<Mutex<Vec<String>>>,
    /// The key whose record cannot be written.
    refuses: Option<u32>,
}

impl Diary {
    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Sink<Owned<Item>> for Diary {
    type Writer = (Diary, PartitionId);

    fn fingerprint(&self) -> u64 {
        0
    }
    fn open(&self, context: &SinkContext) -> Result<Self::Writer, ConnectorError> {
        let partition = context.partition;
        self.note(format!("{partition} open"));
        Ok((self.clone(), partition))
    }
}

impl SinkWriter<Owned<Item>> for (Diary, PartitionId) {
    fn write(&mut self, batch: BatchId, _: Instant, item: &Item) -> Result<(), ConnectorError> {
        if self.0.refuses == Some(item.key) {
            return Err(ConnectorError::Other(format!("key {} is too much", item.key)));
        }
        self.0.note(format!("{} {batch} key {}", self.1, item.key));
        Ok(())
    }
    fn end_batch(&mut self, batch: BatchId) -> Result<(), ConnectorError> {
        self.0.note(format!("{} {batch} ends", self.1));
        Ok(())
    }
    fn close(&mut self) -> Result<(), ConnectorError> {
        self.0.note(format!("{} closed", self.1));
        Ok(())
    }
}

#[test]
fn a_sink_gets_the_records_of_each_partition_the_end_of_each_batch_and_of_the_job() {
    let (flow, diary) = (flow(), Diary::default());
    let items = Items::new(&[vec![item(1, 1, 1), item(2, 1, 1)], vec![item(3, 1, 1)]]).cut(&[1]);
    flow.source("items", items).sink("diary", diary.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    assert_eq!(bench.finish(), 2);
    bench.close().unwrap();
    let expected = [
        "partition 0 open",
        "partition 0 batch 1 key 1",
        "partition 1 open",
        "partition 1 batch 1 key 3",
        "partition 0 batch 1 ends",
        "partition 1 batch 1 ends",
        "partition 0 batch 2 key 2",
        "partition 0 batch 2 ends",
        "partition 1 batch 2 ends",
        "partition 0 closed",
        "partition 1 closed",
    ];
    assert_eq!(diary.lines(), expected);
}

#[test]
fn a_sink_that_cannot_write_fails_its_task_and_gets_nothing_more() {
    let (flow, diary) = (flow(), Diary { refuses: Some(1), ..Diary::default() });
    flow.source("items", keys(3)).sink("diary", diary.clone());
    let mut bench = Bench::new(flow.build().unwrap(), 1);
    let error = bench.run(PROCESS).unwrap_err();
    assert!(matches!(error, TaskError::Connector(_)));
    assert_eq!(error.to_string(), "key 1 is too much");
    assert_eq!(diary.lines(), ["partition 0 open", "partition 0 batch 1 key 0"]);
    assert_eq!(bench.counter("diary.written"), 1);
}
