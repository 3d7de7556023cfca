//! Jobs that outlive their processes: workers and drivers that are killed, stopped, started again and
//! added while the job runs, with checkpoints in a folder. Every result is compared with a sequential run.
//!
//! The driver's timeline goes to its standard error, so that a test waits for what happens to a cluster
//! as it waits for what is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::between::Between;
use crate::inputs::{INPUTS, Input, read_output, read_whole};
use crate::matrix::difference;
use crate::process::{Ended, Folder, Process, arguments, children_of, kill, run, start};

/// A job of a few seconds with checkpoints that come often, and windows that end often.
const JOB: &str = "--duration 3s --rate 2000 --window 200ms --checkpoint-interval 100ms";
/// The same for a job that is disturbed more than once.
const LONGER: &str = "--duration 6s --rate 2000 --window 200ms --checkpoint-interval 100ms";
/// Where events of the cluster are noted.
pub const TIMELINE: &str = "--timeline /dev/stderr";

/// A driver with a folder, and where it listens.
struct Cluster {
    folder: Folder,
    words: String,
    address: String,
    driver: Process,
}

impl Cluster {
    /// Starts a driver of `workers` on a free port, which waits for them.
    fn start(name: &str, workers: u32, job: &str) -> Cluster {
        let folder = Folder::new(&format!("recovery-{name}"));
        let words = format!("--workers {workers} {job} {TIMELINE}");
        let driver = drive(&folder, &words, "127.0.0.1:0", &[]);
        let mut cluster = Cluster { folder, words, address: String::new(), driver };
        cluster.address = cluster.driver.listens_on();
        cluster
    }

    /// Kills the driver and starts another where it was, which goes on with its job.
    fn restart_driver(&mut self) {
        self.driver.kill();
        self.driver = drive(&self.folder, &self.words, &self.address, &["--resume"]);
        self.driver.listens_on();
    }

    fn worker(&self) -> Process {
        start(&arguments("ysb worker --driver", &[&self.address]))
    }

    fn workers<const N: usize>(&self) -> [Process; N] {
        std::array::from_fn(|_| self.worker())
    }

    /// Waits until something is noted that has not been waited for yet.
    fn wait_for(&mut self, change: &str) -> String {
        self.driver.wait_for(&format!("\"change\":\"{change}\""))
    }

    /// Waits for the end of the job, whose results are right and whose workers end well.
    fn finish<const N: usize>(self, workers: [Process; N]) -> Ended {
        let ended = self.driver.wait().verified();
        let verdict = ended.stdout.lines().last().unwrap_or_default();
        assert!(verdict.contains("0 lost, 0 duplicated"), "{}", ended.said());
        for worker in workers {
            worker.wait().exited(0);
        }
        ended
    }
}

/// Starts a driver on a folder.
fn drive(folder: &Folder, words: &str, address: &str, more: &[&str]) -> Process {
    let (data, upsert) = (folder.at("data"), folder.at("results"));
    let paths = ["--listen", address, "--data", &data, "--upsert", &upsert];
    start(&arguments(&format!("ysb driver {words}"), &[&paths[..], more].concat()))
}

#[test]
fn worker_that_is_killed_costs_no_result() {
    let mut cluster = Cluster::start("killed", 3, JOB);
    let [first, lost, third] = cluster.workers::<3>();
    cluster.wait_for("durable");
    lost.signal("KILL");
    cluster.wait_for("lost");
    cluster.wait_for("recovered");
    cluster.finish([first, third]);
}

#[test]
fn blocks_that_were_written_to_a_file_are_sent_once_more() {
    // A checkpoint takes as long as 32 batches, in which more is written than there is memory for.
    let job = "--duration 8s --rate 60000 --window 1s --interval 100ms --checkpoint-interval 1h --no-combine \
               --memory 4MiB";
    let mut cluster = Cluster::start("spilled", 3, job);
    let [first, lost, third] = cluster.workers::<3>();
    cluster.driver.wait_for("written to a file");
    lost.signal("KILL");
    cluster.wait_for("lost");
    cluster.wait_for("recovered");
    cluster.finish([first, third]);
}

#[test]
fn worker_that_stood_still_comes_back_as_another() {
    let mut cluster = Cluster::start("still", 2, LONGER);
    let [still, other] = cluster.workers::<2>();
    cluster.wait_for("durable");
    still.signal("STOP");
    cluster.wait_for("lost");
    cluster.wait_for("recovered");
    still.signal("CONT");
    let line = cluster.wait_for("joined");
    let ended = cluster.finish([other, still]);
    let lives = ended.stderr.lines().filter(|line| line.contains("\"joined\""));
    assert_eq!(lives.count(), 3, "its second life is a life of its own: {line} {}", ended.said());
}

#[test]
fn driver_that_is_killed_is_followed_by_another() {
    let mut cluster = Cluster::start("driver", 2, JOB);
    let workers = cluster.workers::<2>();
    cluster.wait_for("durable");
    cluster.restart_driver();
    cluster.wait_for("took over");
    let ended = cluster.finish(workers);
    assert!(!ended.stderr.contains("\"joined\""), "nobody has a new life: {}", ended.said());
}

#[test]
fn job_goes_on_with_new_processes_after_all_were_killed() {
    let mut cluster = Cluster::start("full-stop", 2, JOB);
    let workers = cluster.workers::<2>();
    cluster.wait_for("durable");
    cluster.driver.kill();
    for mut worker in workers {
        worker.kill();
    }
    cluster.restart_driver();
    let workers = cluster.workers::<2>();
    cluster.finish(workers);
}

#[test]
fn worker_that_joins_later_can_finish_the_job_alone() {
    let mut cluster = Cluster::start("joins", 2, LONGER);
    let [first, second] = cluster.workers::<2>();
    cluster.wait_for("durable");
    let third = cluster.worker();
    cluster.wait_for("joined");
    cluster.wait_for("durable");
    for worker in [first, second] {
        worker.signal("KILL");
        cluster.wait_for("recovered");
    }
    cluster.finish([third]);
}

#[test]
fn folder_of_an_earlier_run_or_another_job_is_refused_and_left_alone() {
    let folder = Folder::new("recovery-refused");
    let (data, upsert) = (folder.at("data"), folder.at("results"));
    let words = "ysb --duration 300ms --rate 1000 --window 100ms";
    let paths = ["--data", &data, "--upsert", &upsert];
    run(&arguments(words, &paths)).verified();
    let refused = run(&arguments(words, &paths)).exited(2);
    refused.says_only(&[&data, "earlier run", "--resume"]);
    let other = run(&arguments(&format!("{words} --seed 7 --resume"), &paths)).exited(2);
    other.says_only(&[&data, "belongs to the job \"ysb\""]);
    // What there was to do, the first run has done.
    run(&arguments(&format!("{words} --resume"), &paths)).verified();
}

#[test]
fn local_jobs_go_on_after_they_were_killed() {
    for nodes in ["", "--processes"] {
        let folder = Folder::new(&format!("recovery-local{nodes}"));
        let (data, upsert) = (folder.at("data"), folder.at("results"));
        let paths = ["--data", &data, "--upsert", &upsert];
        let words = format!("ysb {nodes} {JOB} {TIMELINE}");
        let mut job = start(&arguments(&words, &paths));
        job.wait_for("\"change\":\"durable\"");
        let children = children_of(job.id());
        job.signal("KILL");
        // They would look for their driver for a while.
        children.into_iter().for_each(kill);
        job.wait();
        let ended = run(&arguments(&format!("{words} --resume"), &paths)).verified();
        assert!(ended.stdout.contains("0 lost, 0 duplicated"), "{}", ended.said());
    }
}

#[test]
fn process_that_a_local_driver_started_may_be_killed() {
    let folder = Folder::new("recovery-child");
    let (data, upsert) = (folder.at("data"), folder.at("results"));
    let paths = ["--data", &data, "--upsert", &upsert];
    let words = format!("ysb --processes {JOB} {TIMELINE}");
    let mut job = start(&arguments(&words, &paths));
    job.wait_for("\"change\":\"durable\"");
    let child = children_of(job.id()).into_iter().next().expect("it has started workers");
    kill(child);
    job.wait_for("\"change\":\"recovered\"");
    let ended = job.wait().verified();
    assert!(ended.stdout.contains("0 lost, 0 duplicated"), "{}", ended.said());
}

/// How often the events of an input are repeated, so that a job lasts until it has been disturbed.
const REPEATED: u64 = 20;

/// A file job with transactional output, of which a worker is killed, shows every line once, and each
/// malformed line at least once.
fn killed_worker_costs_no_line(output: &str) {
    let input = Input::load(INPUTS[1]);
    let folder = Folder::new(&format!("recovery-{output}"));
    let [events, out, data] = ["events.jsonl", output, "data"].map(|name| folder.at(name));
    let dead = folder.at(&format!("dead-{output}"));
    write_repeated(&input, &events);
    // Repeated events come after later ones, and none of them is late.
    let words = "ysb driver --listen 127.0.0.1:0 --workers 2 --out-of-orderness 24h";
    let words = format!("{words} --memory 64MiB --checkpoint-interval 50ms {TIMELINE}");
    let ads = input.ads();
    let files = ["--events", &events, "--ads", &ads, "--out", &out, "--data", &data];
    let files = [&files[..], &["--dead-letter", &dead]].concat();
    let mut driver = start(&arguments(&words, &files));
    let address = driver.listens_on();
    let worker = || start(&arguments("ysb worker --driver", &[&address]));
    let (mut lost, other) = (worker(), worker());
    driver.wait_for("\"change\":\"joined\"");
    driver.wait_for("\"change\":\"joined\"");
    lost.kill();
    driver.wait_for("\"change\":\"recovered\"");
    let ended = driver.wait().exited(0);
    other.wait().exited(0);
    let mut expected: Vec<String> = input.lines.iter().map(|line| times(line, REPEATED)).collect();
    expected.sort_unstable();
    let lines = read_output(Path::new(&out));
    assert_eq!(difference(&lines, &expected), "", "{}", ended.said());
    assert_no_letter_is_missing(&input, &dead, &ended);
}

/// The events of an input as often as said, one after the other.
fn write_repeated(input: &Input, path: &str) {
    let mut once = fs::read(input.events()).expect("it is part of the clone");
    if once.last() != Some(&b'\n') {
        once.push(b'\n');
    }
    fs::write(path, once.repeat(REPEATED as usize)).expect("the folder is ours");
}

/// Asserts that each malformed line is there as often as in the input, or more often, and nothing else.
fn assert_no_letter_is_missing(input: &Input, dead: &str, ended: &Ended) {
    let mut missing: BTreeMap<&[u8], u64> = BTreeMap::new();
    for line in input.dead_letters.split_inclusive(|&byte| byte == b'\n') {
        *missing.entry(line).or_default() += REPEATED;
    }
    let letters = read_whole(Path::new(dead));
    for line in letters.split_inclusive(|&byte| byte == b'\n') {
        let left = missing.get_mut(line).unwrap_or_else(|| panic!("{line:?}: {}", ended.said()));
        *left = left.saturating_sub(1);
    }
    assert!(missing.values().all(|&left| left == 0), "letters are missing: {}", ended.said());
    assert!(ended.stderr.contains("may hold lines more than once"), "{}", ended.said());
}

/// A line of the output whose count is so many times as large.
pub fn times(line: &str, factor: u64) -> String {
    let (before, count) = line.rsplit_once("\"count\": ").expect("a line has a count");
    let count: u64 = count.trim_end().trim_end_matches('}').parse().expect("a number");
    format!("{before}\"count\": {}}}\n", count * factor)
}

#[test]
fn worker_that_is_killed_costs_no_line_of_a_file() {
    killed_worker_costs_no_line("counts.jsonl");
}

#[test]
fn worker_that_is_killed_costs_no_line_of_part_files() {
    killed_worker_costs_no_line("counts");
}

#[test]
fn job_that_is_resumed_after_its_end_leaves_its_output_as_it_is() {
    let input = Input::load(INPUTS[1]);
    let folder = Folder::new("recovery-ended");
    let [out, dead, data] = ["counts.jsonl", "dead.jsonl", "data"].map(|name| folder.at(name));
    let (events, ads) = (input.events(), input.ads());
    let files = ["--events", &events, "--ads", &ads, "--out", &out, "--data", &data];
    let files = [&files[..], &["--dead-letter", &dead]].concat();
    run(&arguments("ysb --checkpoint-interval 5ms", &files)).verified();
    for _ in 0..2 {
        let ended = run(&arguments("ysb --checkpoint-interval 5ms --resume", &files)).exited(0);
        let lines = read_output(Path::new(&out));
        assert_eq!(difference(&lines, &input.lines), "", "{}", ended.said());
        assert!(read_whole(Path::new(&dead)) == input.dead_letters, "{}", ended.said());
    }
}

#[test]
fn worker_that_is_killed_while_the_job_completes_its_output_leaves_it_to_the_next_run() {
    let input = Input::load(INPUTS[0]);
    let folder = Folder::new("recovery-finishing");
    let [out, data] = ["counts.jsonl", "data"].map(|name| folder.at(name));
    let (events, ads) = (input.events(), input.ads());
    let files = ["--events", &events, "--ads", &ads, "--out", &out, "--data", &data];
    // The only checkpoint is the last one: no other shows what ends with the input.
    let words = "ysb driver --listen 127.0.0.1:0 --workers 2 --checkpoint-interval 1h";
    let mut driver = start(&arguments(words, &files));
    let address = driver.listens_on();
    let between = Between::start(&address);
    let worker = |address: &str| start(&arguments("ysb worker --driver", &[address]));
    let (mut lost, other) = (worker(between.address()), worker(&address));
    between.wait_for_the_end();
    lost.kill();
    let ended = driver.wait().exited(1);
    let complaint = ended.complaint();
    for words in ["is lost", "while it completed its output", "--resume"] {
        assert!(complaint.contains(words), "{words:?} is missing: {}", ended.said());
    }
    // It may have completed its own part, or have been told that the job has failed.
    other.wait();
    assert!(!Path::new(&out).exists(), "nobody says that it is complete: {}", ended.said());
    let shown = read_output(&Path::new(&out).with_extension("jsonl.parts"));
    assert!(shown.len() < input.lines.len(), "something is left to show: {}", ended.said());

    let mut driver = start(&arguments(&format!("{words} --resume"), &files));
    let address = driver.listens_on();
    let workers = [worker(&address), worker(&address)];
    let ended = driver.wait().exited(0);
    for worker in workers {
        worker.wait().exited(0);
    }
    let lines = read_output(Path::new(&out));
    assert_eq!(difference(&lines, &input.lines), "", "{}", ended.said());
}
