//! The auditor sees everything that happens and knows what must hold:
//!
//! * a task runs after what it depends on, and folds every input exactly once;
//! * all attempts of a task are equal in what goes in, what comes out, in state and watermark, as long
//!   as they depend on the same ranges; a watermark never falls;
//! * nothing that lives depends on a range that only the dead knew;
//! * nothing is released, written for ever or made visible before it is safe;
//! * a block, snapshot or copy that somebody asks for is there;
//! * at the end the sinks hold what a plain sequential run makes of the recorded ranges, and in it
//!   every record that the sources gave, once.

use std::collections::{BTreeMap, BTreeSet};

use super::data::{Basis, Job, Output};
use super::dice::mix;
use super::generator::{Contract, Scenario};
use crate::ids::{Attempt, BatchId, Epoch, Life, PartitionId, StageId, Task, Watermark};
use crate::journal::{JournalEntry, Record};
use crate::local::Run;
use crate::message::{BlockNotice, Decision, Order, TakenRange};
use crate::plan::Plan;

mod model;
mod sinks;
mod versions;

pub(super) use sinks::{Sink, Written};
pub(super) use versions::Versions;

/// What all attempts of a task that depend on the same ranges have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) watermark: Watermark,
    /// Digest of the inputs.
    pub(super) inputs: u64,
    /// Digest of the outputs, with where they go.
    pub(super) outputs: u64,
    /// Digest of the state after it.
    pub(super) state: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Auditor {
    job: Job,
    contract: Contract,
    lengths: Vec<u64>,
    is_stopped: bool,
    pub(super) versions: Versions,
    facts: BTreeMap<Task, Vec<(u64, Facts)>>,
    /// Lives that a driver has given up: what they do does not count any more.
    doomed: BTreeSet<Life>,
    pub(super) sink: Sink,
    /// Batches of manifests in the journal.
    pub(super) durable: BatchId,
    pub(super) failure: Option<String>,
}

fn digest(basis: &Basis) -> u64 {
    basis.iter().fold(0, |sum, &version| mix(sum ^ u64::from(version)))
}

impl Auditor {
    pub(super) fn new(scenario: &Scenario, job: &Job) -> Auditor {
        Auditor {
            job: job.clone(),
            contract: scenario.contract,
            lengths: scenario.lengths.clone(),
            is_stopped: false,
            versions: Versions::new(job.source_count()),
            facts: BTreeMap::new(),
            doomed: BTreeSet::new(),
            sink: Sink::default(),
            durable: BatchId(0),
            failure: None,
        }
    }

    /// A rule is broken. The first time counts.
    pub(super) fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    /// Keeps a value, or fails with what went wrong.
    pub(super) fn check<T>(&mut self, result: Result<T, String>, who: &str) -> Option<T> {
        result.map_err(|what| self.fail(format!("{who}: {what}"))).ok()
    }

    pub(super) fn user_stops(&mut self) {
        self.is_stopped = true;
    }

    /// A worker that counts obeys a driver, whichever it is: what that driver has fenced is over.
    pub(super) fn hears_of_the_lost(&mut self, who: Life, order: &Order) {
        if self.doomed.contains(&who) {
            return;
        }
        match order {
            Order::Decision { decision: Decision::Fence(lives), .. } => {
                self.doomed.extend(&**lives);
            }
            // With nobody left to tell, those who join later hear of a fence.
            Order::Welcome(history) => self.doomed.extend(&history.fenced),
            Order::Decision { .. }
            | Order::Recorded { .. }
            | Order::Release { .. }
            | Order::TakeOver { .. }
            | Order::Leave { .. }
            | Order::Speculate(_) => {}
        }
    }

    /// An entry of the journal is there for ever.
    pub(super) fn journaled(&mut self, entry: &JournalEntry) {
        match &entry.record {
            Record::Opened | Record::Members(_) | Record::Fenced(_) | Record::End(_) => {}
            Record::Ranges(ranges) => ranges.iter().for_each(|taken| self.recorded(taken)),
            Record::Manifest(manifest) => {
                if manifest.batch <= self.durable {
                    self.fail(format!("a manifest of {} after {}", manifest.batch, self.durable));
                }
                if manifest.batch > self.versions.recorded_through() {
                    self.fail(format!("{} is durable before its ranges are", manifest.batch));
                }
                self.durable = manifest.batch;
            }
        }
    }

    /// A range is fixed for ever.
    pub(super) fn recorded(&mut self, taken: &TakenRange) {
        let source = self.job.source(taken.range.stage, taken.range.partition);
        let result = self.versions.record(source, taken);
        self.check(result, "the journal");
    }

    /// The inputs of a task on one edge, as picked: every upstream partition is there, once.
    pub(super) fn inputs_are_complete(
        &mut self,
        task: Task,
        edge: crate::ids::EdgeId,
        picked: &[&BlockNotice],
    ) {
        let spec = self.job.plan.edge(edge);
        if task.batch.0 <= spec.batch_delta {
            if !picked.is_empty() {
                self.fail(format!("{task} folds {edge} of a batch that never was"));
            }
            return;
        }
        for upstream in self.job.partitions(spec.from) {
            let covers = |notice: &&&BlockNotice| notice.upstream.contains(&upstream);
            let count = picked.iter().filter(covers).count();
            let expected = usize::from(Plan::connects(spec, upstream, task.partition));
            if count > expected {
                self.fail(format!("{task} folds {edge} of {upstream} {count} times"));
                return;
            }
            if count < expected {
                self.fail(format!("{task} runs without {edge} of {upstream}"));
                return;
            }
        }
    }

    /// A task has run.
    pub(super) fn task_ran(&mut self, life: Life, task: Task, basis: &Basis, facts: Facts) {
        let key = digest(basis);
        let known = self.facts.entry(task).or_default();
        match known.iter().find(|(known, _)| *known == key) {
            None => known.push((key, facts)),
            Some((_, known)) if *known == facts => {}
            Some((_, known)) => {
                let known = *known;
                self.fail(format!("attempts of {task} differ: {known:?}, and now {facts:?}"));
            }
        }
        self.depends_on_the_living(life, basis, || format!("{task}"));
    }

    /// Nothing that counts may depend on a range other than the recorded one.
    pub(super) fn depends_on_the_living(
        &mut self,
        life: Life,
        basis: &Basis,
        who: impl FnOnce() -> String,
    ) {
        if self.doomed.contains(&life) {
            return;
        }
        if let Some(version) = self.versions.orphan(basis) {
            let what = format!("{} on {life} depends on a lost {:?}", who(), version.taken);
            self.fail(what);
        }
    }

    /// A state was put together again: it is what it was.
    pub(super) fn restored(&mut self, task: Task, basis: &Basis, state: u64) {
        if task.batch == BatchId(0) {
            return;
        }
        let key = digest(basis);
        let known = self.facts.get(&task).and_then(|known| known.iter().find(|(k, _)| *k == key));
        match known {
            Some((_, facts)) if facts.state == state => {}
            Some(_) => self.fail(format!("the restored state after {task} is not what it was")),
            None => self.fail(format!("a state after {task} was restored that never was")),
        }
    }

    /// A core lets go of what a manifest covers.
    pub(super) fn released(&mut self, who: Life, through: BatchId) {
        if through > self.durable {
            let durable = self.durable;
            self.fail(format!("{who} releases {through}, but durable is {durable}"));
        }
    }

    /// A core writes what cannot be taken back.
    pub(super) fn told_recorded(&mut self, who: &str, through: BatchId) {
        let recorded = self.versions.recorded_through();
        if through > recorded {
            self.fail(format!("{who} says {through} is recorded, but only {recorded} is"));
        }
    }

    /// Output of a task that just ended.
    pub(super) fn upserts(
        &mut self,
        run: &Run,
        partition: PartitionId,
        token: (Epoch, Attempt),
        output: &Output,
    ) -> Option<Written> {
        let result = self.sink.upsert((run.batch, partition), token, output);
        self.check(result, "the store")
    }

    /// Output that stays.
    pub(super) fn commits(
        &mut self,
        batch: BatchId,
        partition: PartitionId,
        output: &Output,
    ) -> Option<Written> {
        let result = self.sink.commit((batch, partition), output);
        self.check(result, "the store")
    }

    /// What is staged leaves the job at a checkpoint, or with recorded ranges.
    pub(super) fn contract(&self) -> Contract {
        self.contract
    }

    /// The job says that it is done: `last_batch` was the last with input.
    pub(super) fn finished(&mut self, last_batch: BatchId) {
        let flush = last_batch.next();
        if self.versions.recorded_through() < flush {
            let through = self.versions.recorded_through();
            self.fail(format!(
                "the job ended with {flush}, but ranges are known through {through}"
            ));
            return;
        }
        let result = model::run(&self.job, &self.versions, flush);
        let Some(expected) = self.check(result, "the sequential run") else { return };
        if self.contract == Contract::Upsert {
            let ends = self.ends(flush);
            self.sink.settle_upserts(|record| record.offset() >= ends[&record.source()]);
        }
        let sinks = self.job.plan.stage_ids().filter(|&stage| self.job.is_sink(stage));
        let sinks: Vec<StageId> = sinks.collect();
        for (stage, batch) in
            sinks.iter().flat_map(|&s| (1..=flush.0).map(move |b| (s, BatchId(b))))
        {
            for partition in self.job.partitions(stage) {
                let place = (batch, partition);
                let expected = expected.get(&place).map_or(&[][..], Vec::as_slice);
                let found = self.sink.read(place);
                if found != expected {
                    let (found, expected) = (found.len(), expected.len());
                    self.fail(format!(
                        "the sink holds other records of {batch} {partition} than a sequential \
                         run: {found} instead of {expected}"
                    ));
                    return;
                }
            }
        }
        self.every_record_once(flush);
    }

    /// How far each source partition was read.
    fn ends(&self, flush: BatchId) -> BTreeMap<(StageId, PartitionId), u64> {
        let end = |(index, place): (usize, (StageId, PartitionId))| {
            let last = self.versions.recorded(index).nth(flush.0 as usize - 1);
            (place, last.map_or(0, |taken| taken.range.to))
        };
        self.job.sources().enumerate().map(end).collect()
    }

    fn every_record_once(&mut self, flush: BatchId) {
        let mut expected = BTreeSet::new();
        let sources: Vec<_> = self.job.sources().collect();
        for (index, &(stage, partition)) in sources.iter().enumerate() {
            let to =
                self.versions.recorded(index).nth(flush.0 as usize - 1).map_or(0, |t| t.range.to);
            if !self.is_stopped && to != self.lengths[index] {
                self.fail(format!("{partition} of {stage} was not read to its end: {to}"));
            }
            expected.extend((0..to).map(|o| super::data::Record::new(stage, partition, o)));
        }
        for (batch, partition, record) in self.sink.all().collect::<Vec<_>>() {
            if !expected.remove(&record.origin()) {
                self.fail(format!("{record:?} is in the sink twice, once in {batch} {partition}"));
            }
        }
        if let Some(lost) = expected.first() {
            let count = expected.len();
            self.fail(format!("{count} records never reached the sink, the first is {lost:?}"));
        }
    }
}
