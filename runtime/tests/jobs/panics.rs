//! Jobs with a folder whose user functions panic: a worker's life each time, and others try again.

use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use drizzle::node::{
    JobDurability, JobReport, NodeError, Observer, Outlet, ProgressReport, StopFlag, run_driver,
    run_worker,
};

use super::cluster::{Case, Panics, watched};
use super::job::{Results, Trouble, everything};
use super::nodes::TestFolder;

/// Results by key, of which the last holds, and what is said.
#[derive(Default)]
struct Told {
    results: Results,
    notices: Vec<String>,
}

impl Observer for Told {
    fn results(&mut self, rows: &[u8]) {
        for row in rows.as_chunks::<32>().0 {
            let (words, _) = row.as_chunks::<8>();
            let [room, start, most, sum] = [0, 1, 2, 3].map(|n| u64::from_le_bytes(words[n]));
            self.results.insert((room, start), (most, sum));
        }
    }
    fn progress(&mut self, _: &ProgressReport) {}
    fn notice(&mut self, line: &str) {
        self.notices.push(line.to_owned());
    }
}

type Ended = JoinHandle<Result<(), NodeError>>;

/// How a job ended, what it told, and how each of its workers ended.
struct Outcome {
    report: Result<JobReport, NodeError>,
    told: Told,
    workers: Vec<Result<(), NodeError>>,
}

/// Runs a job whose trouble comes so often, on workers that have a connection each.
fn run(workers: u32, trouble: Trouble, panics: u32) -> Outcome {
    let folder = TestFolder::new(&format!("panics-{workers}-{trouble:?}-{panics}"));
    let durability = JobDurability::Folder {
        path: folder.0.clone(),
        checkpoint_interval: Duration::from_millis(20),
    };
    let case = Case { durability, panics: Panics::new(panics), ..Case::new(workers, 1, 10) };
    let case = case.with(trouble);
    watched(move || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let workers: Vec<Ended> = (0..workers).map(|_| start_worker(&case, address)).collect();
        let (job, mut told) = (case.job(&Outlet::nowhere()), Told::default());
        let (config, stop) = (case.cluster().driver, StopFlag::default());
        let report = run_driver(&config, &job, listener, Vec::new(), &mut told, &stop);
        let ended = |worker: Ended| worker.join().expect("no panic leaves a task");
        let workers = workers.into_iter().map(ended).collect();
        Outcome { report, told, workers }
    })
}

fn start_worker(case: &Case, address: SocketAddr) -> Ended {
    let mut config = case.cluster().worker;
    // One that is between two lives when the job ends need not look for another driver.
    config.patience = Duration::ZERO;
    thread::spawn(move || run_worker(address, &config))
}

/// A job whose trouble passes has all its results, and lost as many lives.
fn check_passing(workers: u32, trouble: Trouble, panics: u32, words: &[&str]) {
    let Outcome { report, told, workers } = run(workers, trouble, panics);
    let report = report.unwrap_or_else(|error| panic!("{trouble:?}: {error}: {:?}", told.notices));
    assert_eq!(told.results, everything().results, "{trouble:?}: {:?}", told.notices);
    assert_eq!(report.lost_workers, panics, "{:?}", told.notices);
    let lost = told.notices.iter().find(|line| line.contains(" is lost: "));
    let lost = lost.expect("a line says what a life was lost by");
    assert!(words.iter().all(|word| lost.contains(word)), "{lost}");
    assert!(workers.iter().all(Result::is_ok), "{workers:?}");
}

#[test]
fn a_user_function_that_panics_once_costs_a_life_and_no_result() {
    let words = ["stage \"readings\" failed in batch ", "an operator panicked: a reading of "];
    check_passing(2, Trouble::FilterPanics, 1, &words);
    let words = ["stage \"counts\" failed in batch ", "an operator panicked: sensor "];
    check_passing(2, Trouble::MapPanics, 1, &words);
}

#[test]
fn the_only_worker_of_a_job_comes_back_and_tries_again() {
    let words = ["stage \"readings\" failed in batch ", "an operator panicked: a reading of "];
    check_passing(1, Trouble::FilterPanics, 2, &words);
    let words = ["stage \"counts\" failed in batch ", "an operator panicked: sensor "];
    check_passing(1, Trouble::MapPanics, 2, &words);
}

#[test]
fn a_user_function_that_always_panics_ends_the_job_after_three_attempts() {
    for workers in [1, 2, 3] {
        for (trouble, stage) in [
            (Trouble::FilterPanics, "readings"),
            (Trouble::MapPanics, "counts"),
            (Trouble::AggregatePanics, "counts"),
        ] {
            let Outcome { report, told, .. } = run(workers, trouble, u32::MAX);
            let error = report.expect_err("it cannot go on").to_string();
            let stage = format!("stage \"{stage}\" failed in batch ");
            for words in ["worker ", &stage, "3 times in a row: an operator panicked: "] {
                assert!(error.contains(words), "{words:?} is not in {error:?}: {:?}", told.notices);
            }
        }
    }
}
