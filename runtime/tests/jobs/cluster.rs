//! The job on a local cluster of threads, watched so that a hanging test ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drizzle::dataflow::{Combine, Dataflow, DataflowOptions, Job, Owned, Tumbling, WindowResult};
use drizzle::host::{Cpus, Polling};
use drizzle::io::{self, HostKind, IoKind};
use drizzle::node::{
    ClusterConfig, Collect, DRIVER_PATIENCE, DriverConfig, Exposure, JobDurability, JobOptions,
    JobReport, JobSetup, LightThreads, LocalWorkers, Memory, NodeError, Observer, Outlet,
    ProgressReport, StopFlag, TASK_ATTEMPTS, WorkerConfig, run_local,
};
use drizzle::scheduler::driver::Balance;
use drizzle::scheduler::plan::{Pacing, Prescheduling};

use super::job::*;

/// Batches that a source may run ahead.
const AHEAD: u64 = 4;

/// How often user code panics before it does not any more.
#[derive(Clone, Debug)]
pub struct Panics(Arc<AtomicU32>);

impl Panics {
    pub fn new(count: u32) -> Panics {
        Panics(Arc::new(AtomicU32::new(count)))
    }

    /// Whether there is none left. If there is, this is one.
    fn are_over(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }
}

/// A job and the cluster that it runs on.
#[derive(Clone, Debug)]
pub struct Case {
    pub workers: u32,
    pub cores: u16,
    pub group_size: u64,
    pub prescheduling: Prescheduling,
    pub combine: Combine,
    /// Of the keyed stages.
    pub partitions: u32,
    pub source: Readings,
    pub interval: Duration,
    /// Of a core.
    pub memory: usize,
    /// Threads that light workers share; none where workers have threads of their own.
    pub light: Option<u16>,
    /// So many panics of the trouble are left.
    pub panics: Panics,
    pub durability: JobDurability,
}

impl Case {
    pub fn new(workers: u32, cores: u16, group_size: u64) -> Case {
        Case {
            workers,
            cores,
            group_size,
            prescheduling: Prescheduling::On,
            combine: Combine::BeforeShuffle,
            partitions: 6,
            source: Readings {
                length: LENGTH,
                batch: 20,
                pacing: Pacing::Unpaced,
                trouble: Trouble::None,
            },
            interval: Duration::from_millis(2),
            memory: 64 << 20,
            light: None,
            panics: Panics::new(u32::MAX),
            durability: JobDurability::None,
        }
    }

    pub fn not_prescheduled(self) -> Case {
        Case { prescheduling: Prescheduling::Off, ..self }
    }

    pub fn not_combined(self) -> Case {
        Case { combine: Combine::Never, ..self }
    }

    pub fn light(self, threads: u16) -> Case {
        Case { light: Some(threads), ..self }
    }

    fn workers_are(&self) -> LocalWorkers {
        match self.light {
            None => LocalWorkers::Threads,
            Some(threads) => LocalWorkers::Light(LightThreads {
                threads,
                host: HostKind::Plain,
                io: IoKind::Epoll,
                polling: Polling::Block,
            }),
        }
    }

    pub fn with(self, trouble: Trouble) -> Case {
        Case { source: Readings { trouble, ..self.source }, ..self }
    }

    pub fn job(&self, outlet: &Outlet) -> Job {
        let trouble = self.source.trouble;
        let [panics, more_panics] = [self.panics.clone(), self.panics.clone()];
        let options = DataflowOptions { partitions: self.partitions, combine: self.combine };
        let sink = Collect::<Owned<Loads>, _>::new(outlet, encode);
        let flow = Dataflow::new("loads", options);
        flow.source("readings", self.source.clone())
            .filter("good", move |reading| {
                let is_bad = trouble == Trouble::FilterPanics && reading.time >= 600;
                assert!(!is_bad || panics.are_over(), "a reading of {} is too late", reading.time);
                reading.is_good
            })
            .key_by(|reading| reading.sensor)
            .window(Tumbling::of(Duration::from_millis(SMALL_MS)))
            .count("counts")
            .map("rooms", move |counted: &WindowResult<u64, u64>| {
                let is_bad = trouble == Trouble::MapPanics && counted.window_start >= 300;
                assert!(!is_bad || more_panics.are_over(), "sensor {} has no room", counted.key);
                ((counted.key % 4) as u32, counted.value)
            })
            .key_by(|&(room, _)| room)
            .window(Tumbling::of(Duration::from_millis(LARGE_MS)))
            .aggregate("loads", Load { trouble })
            .sink("results", Troubled { inner: sink, trouble });
        flow.build().expect("the job is well-formed")
    }

    pub fn setup(&self, outlet: &Outlet) -> JobSetup {
        let options = JobOptions {
            prescheduling: self.prescheduling,
            ahead: AHEAD,
            memory: Memory::EachCore(self.memory),
            batch_bytes: 1 << 20,
            durability: self.durability.clone(),
            host: io::Choice::Exactly(HostKind::Plain),
            io: io::Choice::Exactly(IoKind::Epoll),
            polling: Polling::Block,
        };
        JobSetup { job: self.job(outlet), options }
    }

    pub fn cluster(&self) -> ClusterConfig {
        let case = self.clone();
        ClusterConfig {
            driver: DriverConfig {
                workers: self.workers,
                group_size: self.group_size,
                interval: self.interval,
                prescheduling: self.prescheduling,
                ahead: AHEAD,
                task_attempts: TASK_ATTEMPTS,
                durability: self.durability.clone(),
                balance: Balance::Off,
                resume: false,
                savepoint: None,
                arguments: Vec::new(),
            },
            worker: WorkerConfig {
                cores: self.cores,
                cpus: Cpus::available(),
                exposure: Exposure::Loopback,
                factory: Arc::new(move |_, outlet| Ok(case.setup(outlet))),
                patience: DRIVER_PATIENCE,
                notice: |_| {},
            },
            workers: self.workers_are(),
        }
    }

    pub fn run(&self) -> Outcome {
        self.run_until(false)
    }

    /// Runs it, and with `stops` only until the first results are there.
    pub fn run_until(&self, stops: bool) -> Outcome {
        let case = self.clone();
        watched(move || {
            let job = case.job(&Outlet::nowhere());
            run_cluster(&case.cluster(), &job, stops)
        })
    }
}

/// How a job ended, and the results that came before.
pub struct Outcome {
    pub report: Result<JobReport, NodeError>,
    pub results: Results,
}

/// Gathers results, and sets the flag when there are some.
pub struct Watcher {
    pub results: Results,
    pub stop: Option<Arc<AtomicBool>>,
}

impl Observer for Watcher {
    fn results(&mut self, rows: &[u8]) {
        let (rows, rest) = rows.as_chunks::<32>();
        assert!(rest.is_empty(), "rows come whole");
        for row in rows {
            let (words, _) = row.as_chunks::<8>();
            let [room, start, most, sum] = [0, 1, 2, 3].map(|n| u64::from_le_bytes(words[n]));
            let before = self.results.insert((room, start), (most, sum));
            assert_eq!(before, None, "two results of room {room} at {start}");
        }
        if let Some(stop) = &self.stop {
            stop.store(true, Ordering::Relaxed);
        }
    }
    fn progress(&mut self, _progress: &ProgressReport) {}
    fn notice(&mut self, line: &str) {
        eprintln!("notice: {line}");
    }
}

pub fn run_cluster(cluster: &ClusterConfig, job: &Job, stops: bool) -> Outcome {
    let flag = Arc::new(AtomicBool::new(false));
    let mut watcher = Watcher { results: Results::new(), stop: stops.then(|| flag.clone()) };
    let report = run_local(cluster, job, &mut watcher, &StopFlag::new(flag));
    Outcome { report, results: watcher.results }
}

/// Runs `body` and fails if it hangs.
pub fn watched<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || drop(done.send(body())));
    match result.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => {
            thread.join().expect("it has sent its result");
            value
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the job hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the job panicked"),
    }
}
