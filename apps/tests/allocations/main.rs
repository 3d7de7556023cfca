//! What the benchmark's hot path does not do: allocate per event, or call the system per event. A process
//! of its own, because an allocator counts for a whole process; hence also one test, which runs its
//! jobs one after the other.

#![deny(unsafe_code)]

mod counting;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use drizzle::host::{Cpus, Polling};
use drizzle::io::{Choice, HostKind, IoKind};
use drizzle::node::{
    ClusterConfig, DRIVER_PATIENCE, DriverConfig, Exposure, JobDurability, JobOptions, JobReport,
    JobSetup, LocalWorkers, Observer, Outlet, ProgressReport, StopFlag, TASK_ATTEMPTS,
    WorkerConfig, run_local,
};
use drizzle::scheduler::driver::Balance;
use drizzle::scheduler::plan::Prescheduling;
use drizzle_apps::ysb::flags::JobFlags;
use drizzle_apps::ysb::job::job;
use drizzle_apps::ysb::replay::Memory;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    job: JobFlags,
}

/// The driver's side, which wants to know nothing.
struct Nobody;

impl Observer for Nobody {
    fn results(&mut self, _rows: &[u8]) {}
    fn progress(&mut self, _progress: &ProgressReport) {}
    fn notice(&mut self, line: &str) {
        eprintln!("notice: {line}");
    }
}

/// What a run took.
#[derive(Debug)]
struct Run {
    events: u64,
    batches: u64,
    allocations: u64,
    report: JobReport,
}

/// Reads 4 MB of events so often, with so many bytes in a batch of one of the two cores.
fn run(passes: u64, batch_bytes: u64, more: &str) -> Run {
    let words = format!("job --replay 4MB --passes {passes} --partitions 4 {more}");
    let flags = Flags::parse_from(words.split_whitespace()).job;
    let options = JobOptions {
        prescheduling: Prescheduling::On,
        ahead: 32,
        memory: drizzle::node::Memory::EachCore(64 << 20),
        batch_bytes,
        durability: JobDurability::None,
        host: Choice::Exactly(HostKind::Plain),
        io: Choice::Exactly(IoKind::Epoll),
        polling: Polling::Block,
    };
    let memory = Memory::default();
    let build = move |outlet: &Outlet| job(&flags, outlet, &memory).expect("the flags are right");
    // What is replayed is made here, and shared with the workers.
    let plan = build(&Outlet::nowhere());
    let config = ClusterConfig {
        driver: DriverConfig {
            workers: 2,
            group_size: 100,
            interval: Duration::from_millis(1),
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
            cores: 1,
            cpus: Cpus::available(),
            exposure: Exposure::Loopback,
            factory: Arc::new(move |_, outlet| {
                Ok(JobSetup { job: build(outlet), options: options.clone() })
            }),
            patience: DRIVER_PATIENCE,
            notice: |_| {},
        },
        workers: LocalWorkers::Threads,
    };
    let before = ALLOCATOR.allocations();
    let report = run_local(&config, &plan, &mut Nobody, &StopFlag::default());
    let allocations = ALLOCATOR.allocations() - before;
    let report = report.expect("the job ends well");
    let (events, batches) = (report.counters["events.lines"], report.last_batch.0);
    Run { events, batches, allocations, report }
}

/// What a run may ask for: once, for each batch (its blocks, tasks and messages), and for each window (its
/// tables and results).
const ALLOCATIONS: [u64; 3] = [40_000, 24, 80];
/// Windows that a pass over the events spans.
const WINDOWS_PER_PASS: u64 = 10;
/// Events for each allocation, and each system call, that more events bring.
const EVENTS_PER_ALLOCATION: u64 = 100;
const EVENTS_PER_CALL: u64 = 1000;

#[test]
fn neither_memory_nor_the_system_is_asked_for_anything_per_event() {
    for more in ["", "--no-combine", "--format binary", "--format binary --no-combine"] {
        let mut runs = Vec::new();
        for passes in [8, 32] {
            let run = run(passes, 256 << 10, more);
            let [once, per_batch, per_window] = ALLOCATIONS;
            let windows = passes * WINDOWS_PER_PASS;
            let most = once + per_batch * run.batches + per_window * windows;
            assert!(run.allocations <= most, "{more}: more than {most}: {run:?}");
            runs.push(run);
        }
        let (events, allocations) =
            (runs[1].events - runs[0].events, runs[1].allocations - runs[0].allocations);
        if more.contains("binary") {
            let most = events / EVENTS_PER_ALLOCATION;
            assert!(allocations <= most, "{more}: {allocations} for {events} more events");
        }
        let calls = runs[1].report.costs.calls.total();
        let most = runs[1].events / EVENTS_PER_CALL + runs[1].batches;
        assert!(calls <= most, "{more}: {calls} system calls: {:?}", runs[1]);
    }
}
