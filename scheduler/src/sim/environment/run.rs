//! Runs: what goes into the tasks, what they make of it, and where it goes.

use super::blocks::Block;
use super::core_node::Place;
use super::{Event, Simulation, name};
use crate::ids::{BatchId, Life, PartitionId, Task, Watermark};
use crate::local::{Intake, LocalEvent, Published, Run};
use crate::message::{BlockNotice, Purpose, SourceRange, TakenRange};
use crate::plan::{Pacing, StageKind};
use crate::sim::auditor::{Facts, Written};
use crate::sim::data::{Basis, Change, Output, Record, Target, digest_of, source_watermark};
use crate::sim::generator::{Contract, INTERVAL, STEP_NS, Telling, ZERO};
use crate::sim::trace::Kind;

/// A run under way.
#[derive(Debug)]
pub(super) struct Running {
    run: Run,
    serial: u64,
    ranges: Vec<TakenRange>,
    done: Vec<Done>,
    run_ns: u64,
}

/// What a task of a run comes to.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) partition: PartitionId,
    inputs: u64,
    pub(super) routed: Vec<(Target, Record)>,
    pub(super) watermark: Watermark,
    pub(super) basis: Basis,
    change: Option<Change>,
    taken: Option<TakenRange>,
    /// How often the state had been dropped or replaced when the task began.
    state_serial: u64,
}

fn sum(records: &[Record]) -> u64 {
    records.iter().fold(0, |sum: u64, record| sum.wrapping_add(record.hash()))
}

impl Simulation {
    pub(super) fn run_begins(&mut self, life: Life, core: u16, run: Run) {
        let who = life.incarnation.0 << 8 | u64::from(core);
        let numbers = [who, run.batch.0 << 8 | u64::from(run.stage.0), u64::from(run.attempt.0)];
        self.trace.note(self.now, Kind::Start, numbers, || {
            format!("{}.{core} run {}", name(life), show(&run))
        });
        let mut done = Vec::new();
        for &partition in run.partitions.iter() {
            let task = if self.job.is_source(run.stage) {
                self.source_task((life, core), &run, partition)
            } else {
                self.fold_task((life, core), &run, partition)
            };
            let Some(task) = task else { return };
            done.push(task);
        }
        let ranges: Vec<TakenRange> = done.iter().filter_map(|done| done.taken).collect();
        let records: usize = done.iter().map(|done| done.routed.len()).sum();
        let length = self.dice.between(10, 60) + 2 * records as u64;
        let oddities = self.processes[&life.worker].oddities;
        let is_slow = self.now < oddities.slow_until && oddities.slow_core == core;
        let length = if is_slow { length * 20 } else { length };
        let tells = self.scenario.tells_early == Telling::AtOnce
            && !ranges.is_empty()
            && run.recorded.is_none();
        let Some(it) = self.core(life, core) else { return };
        it.runs += 1;
        let serial = it.runs;
        let told = ranges.clone();
        let run_ns = length * STEP_NS;
        it.running = Some(Running { run, serial, ranges, done, run_ns });
        if tells {
            self.tell_core(life, core, LocalEvent::Taken(&told));
        }
        self.push(self.now + length, Event::RunEnds { life, core, serial });
    }

    /// A source takes a range, or reads one that is recorded.
    fn source_task(&mut self, at: (Life, u16), run: &Run, partition: PartitionId) -> Option<Done> {
        let (life, core) = at;
        let place = (run.stage, partition);
        let source = self.job.source(run.stage, partition);
        let mut basis = vec![0; self.job.source_count()];
        if let Some((taken, _)) = run.recorded {
            let Some(version) = self.auditor.versions.find(source, &taken) else {
                self.auditor.fail(format!("{taken:?} is to be read again, but nobody took it"));
                return None;
            };
            basis[source] = version;
            return Some(self.read(run, taken, basis, None));
        }
        let kind = self.job.plan.stage(run.stage).kind;
        let clock = self.clock(life);
        let is_paced = kind == StageKind::Source(Pacing::Clock) && run.purpose == Purpose::Process;
        if is_paced && run.cut > clock {
            self.auditor.fail(format!("{} takes input before its time", show(run)));
        }
        let before = BatchId(run.batch.0 - 1);
        let it = self.core(life, core)?;
        let state_serial = it.serial(place);
        let Some(state) = it.state_after(kind, place, before) else {
            let had = it.states.get(&place).map(|state| state.batch);
            let task = show(run);
            self.auditor
                .fail(format!("{}.{core} {task} without its position: {had:?}", name(life)));
            return None;
        };
        let from = state.offset;
        let parent = state.basis.get(source).copied().unwrap_or_default();
        let to = self.choose(run, source, from);
        let length = self.scenario.lengths[source];
        let taken = TakenRange {
            batch: run.batch,
            range: SourceRange { stage: run.stage, partition, from, to },
            ended: to == length,
            watermark: match run.purpose {
                Purpose::Process => source_watermark(to),
                Purpose::Flush => Watermark::END,
            },
        };
        let version = self.auditor.versions.take(source, parent, taken);
        basis[source] = self.auditor.check(version, &format!("{}.{core}", name(life)))?;
        if self.scenario.durability == crate::driver::Durability::None {
            self.auditor.recorded(&taken);
        }
        Some(self.read(run, taken, basis, Some(state_serial)))
    }

    /// How far a source reads.
    fn choose(&mut self, run: &Run, source: usize, from: u64) -> u64 {
        let length = self.scenario.lengths[source];
        let rate = self.scenario.rate;
        let there = match self.job.plan.stage(run.stage).kind {
            StageKind::Source(Pacing::Clock) => {
                let passed = (run.cut.0 / STEP_NS).saturating_sub(ZERO);
                length.min(passed * rate / INTERVAL)
            }
            StageKind::Source(Pacing::Unpaced) | StageKind::Stateful | StageKind::Stateless => {
                length
            }
        };
        let most = there.saturating_sub(from).min(3 * rate);
        match (run.intake, run.purpose) {
            (Intake::Empty, _) | (_, Purpose::Flush) => from,
            (Intake::Normal, Purpose::Process) if self.dice.chance(40) => from + most,
            (Intake::Normal, Purpose::Process) => from + self.dice.below(most + 1),
        }
    }

    /// The records of a range, on their way.
    fn read(&self, run: &Run, taken: TakenRange, basis: Basis, state_serial: Option<u64>) -> Done {
        let SourceRange { stage, partition, from, to } = taken.range;
        let records: Vec<Record> =
            (from..to).map(|offset| Record::new(stage, partition, offset)).collect();
        let route = |&record: &Record| self.job.route(stage, partition, record, run.purpose);
        Done {
            partition,
            inputs: sum(&records),
            routed: records.iter().map(route).collect(),
            watermark: taken.watermark,
            basis,
            change: None,
            taken: Some(taken),
            state_serial: state_serial.unwrap_or(u64::MAX),
        }
    }

    /// A task that reads blocks.
    fn fold_task(&mut self, at: (Life, u16), run: &Run, partition: PartitionId) -> Option<Done> {
        let (life, core) = at;
        let place = (run.stage, partition);
        let kind = self.job.plan.stage(run.stage).kind;
        let (records, mut basis, watermark) = self.gather(at, run, partition)?;
        if watermark != run.watermark {
            let (given, task) = (run.watermark, show(run));
            self.auditor.fail(format!("{task} was given {given:?}, its inputs say {watermark:?}"));
        }
        let before = BatchId(run.batch.0 - 1);
        let it = self.core(life, core)?;
        let state_serial = it.serial(place);
        let Some(state) = it.state_after(kind, place, before) else {
            let had = it.states.get(&place).map(|state| state.batch);
            let task = show(run);
            self.auditor.fail(format!("{}.{core} {task} without its state: {had:?}", name(life)));
            return None;
        };
        let (out, change) = match kind {
            StageKind::Stateful => {
                let (out, change) = state.kept.fold(run.purpose, run.watermark, &records);
                (out, Some(change))
            }
            StageKind::Source(_) | StageKind::Stateless => (records.clone(), None),
        };
        if kind == StageKind::Stateful {
            let before = state.watermark.unwrap_or(Watermark::NONE);
            let earlier = state.basis.clone();
            if before > run.watermark {
                let task = show(run);
                self.auditor.fail(format!("the watermark of {task} falls from {before:?}"));
            }
            let joined = self.auditor.versions.join(&mut basis, &earlier);
            self.auditor.check(joined, &format!("{}.{core} {}", name(life), show(run)))?;
        }
        let route = |&record: &Record| self.job.route(run.stage, partition, record, run.purpose);
        Some(Done {
            partition,
            inputs: sum(&records),
            routed: out.iter().map(route).collect(),
            watermark: run.watermark,
            basis,
            change,
            taken: None,
            state_serial,
        })
    }

    /// The inputs of a task: its records, what they depend on, and the smallest watermark.
    fn gather(
        &mut self,
        (life, core): (Life, u16),
        run: &Run,
        partition: PartitionId,
    ) -> Option<(Vec<Record>, Basis, Watermark)> {
        let task = Task { batch: run.batch, stage: run.stage, partition };
        let process = self.processes.get(&life.worker)?;
        let it = &process.cores[usize::from(core)];
        let none = Vec::new();
        let blocks = it.inputs.get(&(run.batch, run.stage)).unwrap_or(&none);
        let mut records = Vec::new();
        let mut basis = vec![0; self.job.source_count()];
        let mut watermark: Option<Watermark> = None;
        for (edge, spec) in self.job.plan.edges_into(run.stage) {
            let kept: Vec<&Block> = blocks.iter().filter(|b| b.notice.edge == edge).collect();
            let notices: Vec<&BlockNotice> = kept.iter().map(|block| &block.notice).collect();
            let picked = it.scheduler.inputs(edge, partition, &notices);
            let notices: Vec<&BlockNotice> = picked.iter().map(|&index| notices[index]).collect();
            self.auditor.inputs_are_complete(task, edge, &notices);
            for block in picked.iter().map(|&index| kept[index]) {
                let mine = block.load.records.iter().filter(|&&(up, down, _)| {
                    down == partition && block.notice.upstream.contains(&up)
                });
                records.extend(mine.map(|&(_, _, record)| record));
                let joined = self.auditor.versions.join(&mut basis, &block.load.basis);
                self.auditor.check(joined, &format!("{}.{core} {task}", name(life)))?;
                if spec.batch_delta == 0 {
                    let lowest = watermark.map_or(block.notice.watermark, |watermark| {
                        watermark.min(block.notice.watermark)
                    });
                    watermark = Some(lowest);
                }
            }
        }
        if self.auditor.failure.is_some() {
            return None;
        }
        Some((records, basis, watermark.unwrap_or(Watermark::NONE)))
    }

    pub(super) fn run_ends(&mut self, life: Life, core: u16, serial: u64) {
        let Some(it) = self.core(life, core) else { return };
        if it.running.as_ref().is_none_or(|running| running.serial != serial) {
            return;
        }
        let Some(Running { run, ranges, done, run_ns, .. }) = it.running.take() else { return };
        let who = life.incarnation.0 << 8 | u64::from(core);
        let records: usize = done.iter().map(|done| done.routed.len()).sum();
        let numbers = [who, run.batch.0 << 8 | u64::from(run.stage.0), records as u64];
        self.trace.note(self.now, Kind::End, numbers, || {
            let took: Vec<String> =
                ranges.iter().map(|t| format!("[{}, {})", t.range.from, t.range.to)).collect();
            let took = if took.is_empty() { String::new() } else { format!(" took {took:?}") };
            format!("{}.{core} end {}{took} {records} records", name(life), show(&run))
        });
        for done in &done {
            self.task_ends((life, core), &run, done);
        }
        let blocks = self.blocks((life, core), &run, &done);
        let published: Vec<Published> = blocks.iter().map(|(it, _)| it.clone()).collect();
        let combined = self.combined(&run, &done);
        self.retain((life, core), &blocks);
        let event = LocalEvent::RunDone {
            run: &run,
            ranges: &ranges,
            published: &published,
            combined: &combined,
            run_ns,
        };
        self.tell_core(life, core, event);
        self.send_blocks((life, core), blocks);
        self.pump(life, core);
    }

    /// The state takes what the task changed, and what leaves the job leaves it.
    fn task_ends(&mut self, (life, core): (Life, u16), run: &Run, done: &Done) {
        let (stage, partition) = (run.stage, done.partition);
        let place: Place = (stage, partition);
        let kind = self.job.plan.stage(stage).kind;
        let is_sink = self.job.is_sink(stage);
        let to_sink = done.routed.iter().filter(|(target, _)| *target == Target::Sink);
        let records = to_sink.map(|&(_, record)| record).collect();
        let output = Output { records, basis: done.basis.clone() };
        let contract = self.auditor.contract();
        let plan = self.job.plan.clone();
        let Some(it) = self.core(life, core) else { return };
        let recorded = it.recorded;
        let token = (it.scheduler.epoch(), run.attempt);
        let is_void = run.recorded.is_none() && it.serial(place) != done.state_serial;
        let mut state_digest = 0;
        if !is_void && run.recorded.is_none() {
            let state = it.states.entry(place).or_default();
            state.batch = run.batch;
            state.basis.clone_from(&done.basis);
            state.watermark = Some(done.watermark);
            if let Some(taken) = done.taken {
                state.offset = taken.range.to;
            }
            if let Some(change) = &done.change {
                state.apply(run.batch, change.clone());
                state_digest = state.kept.digest();
            }
            let back = done.routed.iter().filter_map(|&(target, record)| match target {
                Target::Edge(edge, to) if plan.edge(edge).batch_delta == 1 => Some((to, record)),
                Target::Edge(..) | Target::Sink => None,
            });
            state.feedback.insert(run.batch, back.collect());
            let waits = match contract {
                Contract::Upsert => false,
                Contract::Transactional => true,
                Contract::Append => run.batch > recorded,
            };
            if is_sink && waits {
                state.staged.insert(run.batch, output.clone());
            }
        }
        if !is_void {
            let task = Task { batch: run.batch, stage, partition };
            let outputs = digest_of(&done.routed);
            let (watermark, inputs) = (done.watermark, done.inputs);
            let facts = Facts { watermark, inputs, outputs, state: state_digest };
            self.auditor.task_ran(life, task, &done.basis, facts);
        }
        let writes_now = match contract {
            Contract::Upsert => true,
            Contract::Transactional => false,
            Contract::Append => run.batch <= recorded,
        };
        if !is_sink || is_void || !writes_now {
            return;
        }
        let written = match contract {
            Contract::Upsert => self.auditor.upserts(run, partition, token, &output),
            Contract::Transactional | Contract::Append => {
                self.auditor.commits(run.batch, partition, &output)
            }
        };
        let numbers = [life.incarnation.0, run.batch.0, written.map_or(9, Written::number)];
        self.trace.note(self.now, Kind::Sink, numbers, || {
            let count = output.records.len();
            format!(
                "{}.{core} sink {} {partition} {count} records {written:?} {kind:?}",
                name(life),
                run.batch
            )
        });
    }
}

/// A run, short enough for a line.
fn show(run: &Run) -> String {
    let partitions: Vec<String> = run.partitions.iter().map(|p| p.0.to_string()).collect();
    let recorded = if run.recorded.is_some() { " recorded" } else { "" };
    let flush = match run.purpose {
        Purpose::Process => "",
        Purpose::Flush => " flush",
    };
    format!(
        "b{} s{} p{} a{}{recorded}{flush}",
        run.batch.0,
        run.stage.0,
        partitions.join(","),
        run.attempt.0
    )
}
