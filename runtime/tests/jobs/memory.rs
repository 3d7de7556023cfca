//! Jobs with little memory: a slow sink, a slow core, a slow driver, records larger than a segment. The
//! results are those of a plain loop, and no more memory was taken than was given.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use drizzle::connectors::ConnectorError;
use drizzle::dataflow::{
    Aggregate, Choice, Combine, Combining, Dataflow, DataflowOptions, EventTimes, InputCounters,
    Job, Limit, Owned, Reread, Source, SourceReader, Stamp, Tumbling, WindowResult,
};
use drizzle::host::{Cpus, Polling};
use drizzle::io::{self, HostKind, IoKind};
use drizzle::node::{
    ClusterConfig, Collect, DRIVER_PATIENCE, DriverConfig, Exposure, JobDurability, JobOptions,
    JobReport, JobSetup, LocalWorkers, Memory, NodeError, Observer, Outlet, ProgressReport,
    StopFlag, TASK_ATTEMPTS, WorkerConfig, run_local,
};
use drizzle::scheduler::driver::Balance;
use drizzle::scheduler::plan::{Pacing, Prescheduling};
use drizzle::scheduler::{Instant, PartitionId};

use super::cluster::watched;

const MIB: usize = 1 << 20;
const PARTITIONS: u32 = 4;
const KEYS: u64 = 101;
const WINDOW_MS: u64 = 1000;
/// Numbers of several partitions. An offset counts them, and every tenth begins a millisecond.
#[derive(Clone, Debug)]
struct Numbers {
    length: u64,
    /// Bytes of input that a number stands for.
    bytes: u64,
}

fn number(partition: u64, offset: u64) -> (u32, u64) {
    let word = (partition << 32 | offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((word >> 40) as u32 % KEYS as u32, word >> 50)
}

impl Source for Numbers {
    type Record = Owned<(u32, u64)>;
    type Reader = Numbers;

    fn partition_count(&self) -> u32 {
        PARTITIONS
    }
    fn pacing(&self) -> Pacing {
        Pacing::Unpaced
    }
    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        self.length
    }
    fn out_of_orderness_ms(&self) -> u64 {
        0
    }
    fn open(&self) -> Result<Numbers, ConnectorError> {
        Ok(self.clone())
    }
}

impl SourceReader for Numbers {
    type Record = Owned<(u32, u64)>;

    fn first_offset(&self, _partition: PartitionId) -> u64 {
        0
    }
    fn choose(&mut self, _partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        let to = (from + (limit.bytes / self.bytes).max(1)).min(self.length);
        Choice { to, ended: to == self.length, asserted: None }
    }
    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&(u32, u64), &Stamp),
    {
        for offset in range {
            counters.lines += 1;
            counters.ok += 1;
            emit(&number(u64::from(partition.0), offset), &times.stamp(offset / 10));
        }
        Ok(())
    }
}

/// Adds numbers that travel `N` times each.
#[derive(Clone, Copy, Debug)]
struct Sum<const N: usize>;

impl<const N: usize> Aggregate<Owned<(u32, u64)>> for Sum<N>
where
    [u64; N]: drizzle::shuffle::Record,
{
    type Value = [u64; N];
    type Accumulator = u64;
    type Output = u64;

    const COMBINING: Combining = Combining::AcrossPartitions;

    fn value(&self, record: &(u32, u64)) -> [u64; N] {
        [record.1; N]
    }
    fn zero(&self) -> u64 {
        0
    }
    fn add(&self, sum: &mut u64, value: [u64; N]) {
        assert!(value.iter().all(|word| *word == value[0]), "every copy has arrived");
        *sum += value[0];
    }
    fn merge(&self, sum: &mut u64, other: u64) {
        *sum += other;
    }
    fn output(&self, sum: &u64) -> u64 {
        *sum
    }
}

/// Something that does not move until somebody lets it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// What is slow until its gate opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Nothing,
    /// The sink, as soon as it has a row of key 0: one core waits there.
    Sink,
    /// A core, in a source task of the first partition, once it has read so much.
    Core(u64),
}

type Results = BTreeMap<(u64, u32), u64>;

#[derive(Clone)]
struct Case {
    workers: u32,
    cores: u16,
    /// Of a worker.
    memory: usize,
    length: u64,
    /// Each number has a key of its own, instead of one of a few.
    keys_apart: bool,
    /// Sums are summed again, behind a second shuffle.
    twice: bool,
    slow: Slow,
    gate: Gate,
    /// Numbers that all cores have read, and keys given out.
    seen: Arc<AtomicU64>,
}

impl Case {
    fn new(workers: u32, cores: u16, memory: usize, slow: Slow) -> Case {
        let (gate, seen) = (Gate::default(), Arc::default());
        Case {
            workers,
            cores,
            memory,
            length: 60_000,
            keys_apart: false,
            twice: false,
            slow,
            gate,
            seen,
        }
    }

    fn job<const N: usize>(&self, outlet: &Outlet) -> Job
    where
        [u64; N]: drizzle::shuffle::Record,
    {
        let options = DataflowOptions { partitions: 6, combine: Combine::Never };
        let (slow, gate) = (self.slow, self.gate.clone());
        let sink = Collect::<Owned<WindowResult<u32, u64>>, _>::new(outlet, {
            let gate = gate.clone();
            move |row: &WindowResult<u32, u64>, _: Instant, out: &mut Vec<u8>| {
                if slow == Slow::Sink && row.key == 0 {
                    gate.pass();
                }
                for word in [row.window_start, row.key.into(), row.value] {
                    out.extend(word.to_le_bytes());
                }
            }
        });
        let (seen, keys_apart) = (self.seen.clone(), self.keys_apart);
        let counted = self.seen.clone();
        let flow = Dataflow::new("numbers", options);
        let sums = flow
            .source("numbers", Numbers { length: self.length, bytes: 16 * N as u64 })
            .filter("slow", move |_| {
                let before = seen.fetch_add(1, Ordering::Relaxed);
                if slow == Slow::Core(before) {
                    gate.pass();
                }
                true
            })
            .key_by(move |&(key, _)| match keys_apart {
                true => counted.load(Ordering::Relaxed) as u32,
                false => key,
            })
            .window(Tumbling::of(Duration::from_millis(WINDOW_MS)))
            .aggregate("sums", Sum::<N>);
        match self.twice {
            false => sums.sink("results", sink),
            true => sums
                .map("again", |sum: &WindowResult<u32, u64>| (sum.key, sum.value))
                .key_by(|&(key, _)| key)
                .window(Tumbling::of(Duration::from_millis(WINDOW_MS)))
                .aggregate("sums of sums", Sum::<1>)
                .sink("results", sink),
        }
        flow.build().expect("the job is well-formed")
    }

    fn cluster<const N: usize>(&self) -> ClusterConfig
    where
        [u64; N]: drizzle::shuffle::Record,
    {
        let case = self.clone();
        let options = JobOptions {
            prescheduling: Prescheduling::On,
            ahead: 32,
            memory: Memory::EachWorker(self.memory),
            batch_bytes: MIB as u64,
            durability: JobDurability::None,
            host: io::Choice::Exactly(HostKind::Plain),
            io: io::Choice::Exactly(IoKind::Epoll),
            polling: Polling::Block,
        };
        ClusterConfig {
            driver: DriverConfig {
                workers: self.workers,
                group_size: 20,
                interval: Duration::from_millis(2),
                prescheduling: Prescheduling::On,
                ahead: 32,
                task_attempts: TASK_ATTEMPTS,
                durability: JobDurability::None,
                balance: Balance::Off,
                resume: false,
                savepoint: None,
                arguments: Vec::new(),
            },
            worker: WorkerConfig {
                cores: self.cores,
                cpus: Cpus::available(),
                exposure: Exposure::Loopback,
                factory: Arc::new(move |_, outlet| {
                    Ok(JobSetup { job: case.job::<N>(outlet), options: options.clone() })
                }),
                patience: DRIVER_PATIENCE,
                notice: |_| {},
            },
            workers: LocalWorkers::Threads,
        }
    }

    /// Runs the job; the gate opens with the first notice that contains `opener`.
    fn run<const N: usize>(&self, opener: &'static str) -> (Result<JobReport, NodeError>, Watcher)
    where
        [u64; N]: drizzle::shuffle::Record,
    {
        let case = self.clone();
        watched(move || {
            let job = case.job::<N>(&Outlet::nowhere());
            let mut watcher = Watcher { gate: case.gate.clone(), opener, ..Watcher::default() };
            let stop = StopFlag::new(Arc::new(AtomicBool::new(false)));
            let report = run_local(&case.cluster::<N>(), &job, &mut watcher, &stop);
            (report, watcher)
        })
    }

    /// Runs it and compares results and memory with what they should be.
    fn check<const N: usize>(&self, opener: &'static str) -> (JobReport, Watcher)
    where
        [u64; N]: drizzle::shuffle::Record,
    {
        let (report, watcher) = self.run::<N>(opener);
        let report = report.expect("the job ends well");
        assert_eq!(watcher.results, self.expected());
        let taken = report.costs.memory.blocks_bytes
            + report.costs.memory.state_bytes
            + report.costs.memory.results_bytes;
        let given = self.memory as u64 * u64::from(self.workers);
        assert!(report.costs.memory.blocks_bytes > 0 && taken <= given, "{:?}", report.costs);
        (report, watcher)
    }

    fn expected(&self) -> Results {
        let mut results = Results::new();
        for partition in 0..u64::from(PARTITIONS) {
            for offset in 0..self.length {
                let number = number(partition, offset);
                let window = offset / 10 / WINDOW_MS * WINDOW_MS;
                *results.entry((window, number.0)).or_default() += number.1;
            }
        }
        results
    }
}

#[derive(Default)]
struct Watcher {
    results: Results,
    notices: Vec<String>,
    gate: Gate,
    opener: &'static str,
}

impl Observer for Watcher {
    fn results(&mut self, rows: &[u8]) {
        let (rows, rest) = rows.as_chunks::<24>();
        assert!(rest.is_empty(), "rows come whole");
        for row in rows {
            let (words, _) = row.as_chunks::<8>();
            let [start, key, sum] = [0, 1, 2].map(|n| u64::from_le_bytes(words[n]));
            let before = self.results.insert((start, key as u32), sum);
            assert_eq!(before, None, "two results of key {key} at {start}");
        }
    }
    fn progress(&mut self, _progress: &ProgressReport) {}
    fn notice(&mut self, line: &str) {
        eprintln!("notice: {line}");
        self.notices.push(line.to_owned());
        if line.contains(self.opener) {
            self.gate.open();
        }
    }
}

#[test]
fn little_memory_is_kept_and_changes_no_result() {
    for (workers, cores, memory) in [(1, 1, 4 * MIB), (2, 1, 4 * MIB), (1, 3, 12 * MIB)] {
        Case::new(workers, cores, memory, Slow::Nothing).check::<1>("never");
    }
}

#[test]
fn a_slow_sink_pauses_sources_aloud_and_changes_no_result() {
    let case = Case { length: 200_000, ..Case::new(2, 1, 4 * MIB, Slow::Sink) };
    let (_, watcher) = case.check::<1>("sources are paused");
    let said = watcher.notices.iter().find(|line| line.contains("sources are paused"));
    let said = said.expect("the gate was opened by it");
    assert!(said.contains("has taken no input for 2"), "{said}");
    assert!(said.contains("of its memory"), "{said}");
}

#[test]
fn tasks_in_the_middle_wait_for_memory_and_not_for_each_other() {
    for (workers, cores) in [(2, 1), (1, 3)] {
        let memory = 4 * MIB * usize::from(cores);
        let case = Case::new(workers, cores, memory, Slow::Sink);
        Case { length: 200_000, twice: true, ..case }.check::<1>("sources are paused");
    }
}

#[test]
fn a_slow_core_pauses_the_sources_of_others_and_changes_no_result() {
    let case = Case { length: 200_000, ..Case::new(2, 1, 4 * MIB, Slow::Core(5_000)) };
    let (_, watcher) = case.check::<1>("sources are paused");
    assert!(watcher.notices.iter().any(|line| line.contains("sources are paused")));
}

#[test]
fn records_larger_than_a_segment_travel_with_little_memory() {
    let case = Case { length: 400, ..Case::new(2, 1, 6 * MIB, Slow::Nothing) };
    case.check::<7000>("never");
}

#[test]
fn open_windows_beyond_the_memory_fail_the_job_with_the_name_of_their_operator() {
    let case = Case::new(1, 1, 4 * MIB, Slow::Nothing);
    let case = Case { keys_apart: true, length: 1_000_000, ..case };
    let (report, _) = case.run::<1>("never");
    let reason = report.expect_err("it cannot keep so many keys").to_string();
    for words in ["stage \"sums\"", "open windows take", "1536KiB", "more memory"] {
        assert!(reason.contains(words), "{words:?} is not in {reason:?}");
    }
    assert!(!reason.contains('\n'), "one line: {reason:?}");
}

#[test]
fn too_little_memory_is_refused_before_anything_runs() {
    let (report, _) = Case::new(2, 2, MIB, Slow::Nothing).run::<1>("never");
    let error = report.expect_err("it is too little").to_string();
    assert!(error.contains("could not join: 1MiB of memory"), "{error}");
    assert!(error.ends_with("the least that works is 8MiB"), "{error}");
}
