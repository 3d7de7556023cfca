//! A driver and its workers, each started by hand as a process of its own.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use crate::inputs::{INPUTS, Input, counters, read_output, read_report};
use crate::matrix::difference;
use crate::process::{Ended, Folder, Process, arguments, run, start};

/// Generated events, enough of them that no job ends before a test has disturbed it.
const LONG: &str = "--duration 50s --rate 2000 --window 100ms";
/// Something that nobody who speaks the protocol says.
const GARBAGE: [&[u8]; 4] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    &[0xff; 4096],
    &[0; 64],
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
];

/// A driver that waits for workers or runs their job.
struct Cluster {
    driver: Process,
    address: String,
}

impl Cluster {
    /// Starts a driver on a free port and waits until it listens.
    fn start(words: &str, more: &[&str]) -> Cluster {
        let words = format!("ysb driver --listen 127.0.0.1:0 {words}");
        let mut driver = start(&arguments(&words, more));
        let address = driver.listens_on();
        Cluster { driver, address }
    }

    fn worker(&self) -> Process {
        start(&arguments("ysb worker --driver", &[&self.address]))
    }

    fn workers<const N: usize>(&self) -> [Process; N] {
        std::array::from_fn(|_| self.worker())
    }

    /// Waits until the job runs: progress is shown from then on.
    fn wait_for_progress(&mut self) -> String {
        self.driver.wait_for(" results")
    }

    /// Says something to the driver that it does not understand, and hangs up.
    fn send(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(&self.address).expect("the driver listens");
        // It may hang up first.
        let _ = stream.write_all(bytes);
    }

    /// Connects and says nothing for as long as the result lives.
    fn stay_silent(&self) -> TcpStream {
        TcpStream::connect(&self.address).expect("the driver listens")
    }
}

/// A file job on a cluster of two workers gives its answer, although much else comes to the port.
fn input_gives_its_answer(input: &Input, words: &str) -> Ended {
    let folder = Folder::new(&format!("cluster-{}-{}", input.name, words.len()));
    let (out, report) = (folder.at("counts.jsonl"), folder.at("report.json"));
    let (events, ads) = (input.events(), input.ads());
    let files = ["--events", &events, "--ads", &ads, "--out", &out, "--report", &report];
    let cluster = Cluster::start(&format!("--workers 2 {} {words}", input.flags), &files);
    GARBAGE.iter().for_each(|bytes| cluster.send(bytes));
    let silent = cluster.stay_silent();
    let workers = cluster.workers::<2>();
    let ended = cluster.driver.wait().verified();
    drop(silent);
    for worker in workers {
        worker.wait().ended_well();
    }
    let lines = read_output(Path::new(&out));
    assert_eq!(difference(&lines, &input.lines), "", "{}", ended.said());
    assert_eq!(counters(&read_report(Path::new(&report))), input.counters, "{}", ended.said());
    let local = folder.at("local.jsonl");
    let files = ["--events", &events, "--ads", &ads, "--out", &local];
    run(&arguments(&format!("ysb {}", input.flags), &files)).verified();
    assert_eq!(difference(&lines, &read_output(Path::new(&local))), "", "{}", ended.said());
    ended
}

#[test]
fn result_on_a_cluster_equals_the_local_one() {
    input_gives_its_answer(&Input::load(INPUTS[1]), "");
    input_gives_its_answer(&Input::load(INPUTS[3]), "--no-prescheduling --group-size 7");
}

#[test]
fn strangers_and_a_worker_too_many_do_not_disturb_a_job_and_interrupt_ends_it_well() {
    let mut cluster = Cluster::start(&format!("--workers 2 {LONG}"), &[]);
    let workers = cluster.workers::<2>();
    cluster.wait_for_progress();
    let third = cluster.worker().wait().exited(2);
    third.says_only(&["has all its 2 workers", "--workers"]);
    GARBAGE.iter().for_each(|bytes| cluster.send(bytes));
    let _silent = cluster.stay_silent();
    let line = cluster.wait_for_progress();
    assert!(!line.contains("batch 0 "), "who is silent does not hold up the job: {line}");
    cluster.driver.signal("INT");
    let ended = cluster.driver.wait().verified();
    assert!(ended.stdout.contains("stopped at a cut"), "{}", ended.said());
    for worker in workers {
        worker.wait().ended_well();
    }
}

#[test]
fn worker_with_another_table_or_no_input_is_refused_and_the_driver_waits_on() {
    let input = Input::load(INPUTS[0]);
    let folder = Folder::new("cluster-plan");
    let [ads, events, out, away] =
        ["ads.json", "events.jsonl", "counts.jsonl", "away.jsonl"].map(|name| folder.at(name));
    fs::copy(input.ads(), &ads).expect("the folder is ours");
    fs::copy(input.events(), &events).expect("the folder is ours");
    let files = ["--events", &events, "--ads", &ads, "--out", &out];
    let mut cluster = Cluster::start("--workers 2", &files);
    let first = cluster.worker();
    // It has read its files.
    cluster.driver.wait_for("1 are here");

    // As if this one ran on a host whose files are others.
    fs::write(&ads, r#"{"an-ad": "a-campaign"}"#).expect("the folder is ours");
    let another = cluster.worker();
    let process = format!("process {}", another.id());
    another.wait().exited(2).says_only(&[&process, "built another plan"]);
    cluster.driver.wait_for(&process);
    fs::copy(input.ads(), &ads).expect("the folder is ours");

    fs::rename(&events, &away).expect("the folder is ours");
    let blind = cluster.worker();
    let process = format!("process {}", blind.id());
    blind.wait().exited(2).says_only(&[&events]);
    cluster.driver.wait_for(&process);
    fs::rename(&away, &events).expect("the folder is ours");

    let second = cluster.worker();
    let ended = cluster.driver.wait().verified();
    assert_eq!(difference(&read_output(Path::new(&out)), &input.lines), "", "{}", ended.said());
    first.wait().ended_well();
    second.wait().ended_well();
}

/// The driver has lost this worker, and says so once.
#[track_caller]
fn names_the_lost(driver: &Ended, process: u32) {
    let complaint = driver.complaint();
    let name = format!("process {process})");
    assert!(complaint.contains(&name) && complaint.contains("lost"), "{}", driver.said());
    assert_eq!(driver.stdout, "", "there is no result: {}", driver.said());
}

#[test]
fn job_ends_with_one_sentence_when_a_worker_is_killed() {
    let mut cluster = Cluster::start(&format!("--workers 3 {LONG}"), &[]);
    let [first, lost, third] = cluster.workers::<3>();
    cluster.wait_for_progress();
    lost.signal("KILL");
    names_the_lost(&cluster.driver.wait().exited(1), lost.id());
    for worker in [first, third] {
        worker.wait().exited(1).complaint();
    }
}

#[test]
fn job_ends_with_one_sentence_when_a_worker_stands_still() {
    let mut cluster = Cluster::start(&format!("--workers 2 {LONG}"), &[]);
    let [still, other] = cluster.workers::<2>();
    cluster.wait_for_progress();
    still.signal("STOP");
    names_the_lost(&cluster.driver.wait().exited(1), still.id());
    other.wait().exited(1).complaint();
    // When it wakes, it hears that the job is over.
    still.signal("CONT");
    still.wait().exited(1).complaint();
}

#[test]
fn workers_end_with_one_sentence_when_the_driver_is_killed() {
    let mut cluster = Cluster::start(&format!("--workers 2 {LONG}"), &[]);
    let workers = cluster.workers::<2>();
    cluster.wait_for_progress();
    cluster.driver.signal("KILL");
    assert_eq!(cluster.driver.wait().status.code(), None, "a signal has no exit code");
    for worker in workers {
        let ended = worker.wait().exited(1);
        assert!(ended.complaint().contains("driver"), "{}", ended.said());
    }
}

#[test]
fn worker_that_leaves_before_the_job_begins_may_come_again() {
    let mut cluster = Cluster::start("--workers 2 --duration 300ms --rate 1000", &[]);
    let early = cluster.worker();
    // It has been welcomed once the driver counts it.
    cluster.driver.wait_for("1 are here");
    early.signal("KILL");
    cluster.driver.wait_for("left before the job began");
    let workers = cluster.workers::<2>();
    cluster.driver.wait().verified();
    for worker in workers {
        worker.wait().ended_well();
    }
}

#[test]
fn waiting_driver_stops_when_it_is_told() {
    let cluster = Cluster::start("--workers 2", &[]);
    let worker = cluster.worker();
    cluster.driver.signal("TERM");
    let ended = cluster.driver.wait().exited(1);
    assert!(ended.complaint().contains("stopped"), "{}", ended.said());
    // It was told, refused, or could not connect any more.
    assert_ne!(worker.wait().status.code(), Some(0));
}

/// The outputs of a local driver are closed only when its workers have ended too.
#[test]
fn processes_of_a_local_driver_do_not_outlive_it() {
    let mut driver = start(&arguments(&format!("ysb --processes {LONG}"), &[]));
    driver.wait_for(" results");
    driver.signal("KILL");
    assert_eq!(driver.wait().status.code(), None, "a signal has no exit code");
}

#[test]
fn local_jobs_stop_at_a_cut_when_they_are_interrupted() {
    for (nodes, signal) in [("", "INT"), ("--processes", "TERM")] {
        let mut driver = start(&arguments(&format!("ysb {nodes} {LONG}"), &[]));
        driver.wait_for(" results");
        driver.signal(signal);
        let ended = driver.wait().verified();
        assert!(ended.stdout.contains("stopped at a cut"), "{}", ended.said());
    }
}

/// More signals than fit into the time within which they count as one.
const MANY: usize = 100_000;

#[test]
fn second_interrupt_ends_a_job_at_once() {
    // Nothing stops at a cut while no batch can be done: its only worker stands still.
    let mut cluster = Cluster::start(&format!("--workers 1 {LONG}"), &[]);
    let [worker] = cluster.workers::<1>();
    cluster.wait_for_progress();
    worker.signal("STOP");
    // Signals that come together are one wish, so this goes on until one is a second.
    for _ in 0..MANY {
        if cluster.driver.has_ended() {
            break;
        }
        cluster.driver.signal("INT");
    }
    let ended = cluster.driver.wait();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said());
    worker.signal("CONT");
    worker.wait().exited(1).complaint();
}
