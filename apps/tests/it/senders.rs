//! Jobs that read what somebody sends over TCP: what they count, whatever is killed, and what the sender may
//! forget meanwhile.

use std::fs;
use std::io::{PipeWriter, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use drizzle::connectors::{LineServer, ServerOptions, ServerStatus};

use crate::inputs::{INPUTS, Input, counters, read_output, read_report, read_whole};
use crate::matrix::difference;
use crate::process::{Folder, Process, arguments, run, start};
use crate::recovery::{TIMELINE, times};

/// How long anything may take before the test fails.
const LONG: Duration = Duration::from_secs(60);
/// What a sender keeps.
const KEPT: ServerOptions = ServerOptions { kept_bytes: 1 << 30 };

/// A sender on a free port.
fn serve(input: impl Read + Send + 'static) -> LineServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    LineServer::start(listener, input, KEPT).expect("threads can be started")
}

#[track_caller]
fn wait(server: &LineServer, is_there: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
    let status = server.wait(LONG, &is_there);
    assert!(is_there(&status), "{status:?}");
    status
}

/// What a sender says to whoever wants its stream from the beginning.
fn ask_from_the_beginning(server: &LineServer) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.write_all(b"from 0\n").expect("it reads");
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("it answers");
        said.extend(byte);
    }
    String::from_utf8(said).expect("a header is text")
}

#[test]
fn inputs_that_are_sent_give_their_answers_and_are_acknowledged() {
    for input in Input::all() {
        let folder = Folder::new(&format!("senders-{}", input.name));
        let [out, dead, report] =
            ["counts.jsonl", "dead.jsonl", "report"].map(|name| folder.at(name));
        let server = serve(fs::File::open(input.events()).expect("it is part of the clone"));
        let address = server.address().to_string();
        let ads = input.ads();
        let files = [
            ["--tcp", &address, "--ads", &ads, "--out", &out],
            ["--dead-letter", &dead, "--report", &report, "--workers", "2"],
        ];
        run(&arguments(&format!("ysb {}", input.flags), &files.concat())).verified();
        assert_eq!(difference(&read_output(Path::new(&out)), &input.lines), "", "{}", input.name);
        assert_eq!(counters(&read_report(Path::new(&report))), input.counters, "{}", input.name);
        assert!(read_whole(Path::new(&dead)) == input.dead_letters, "{}", input.name);
        let status = wait(&server, ServerStatus::is_complete);
        assert_eq!((status.kept_bytes, status.calls), (0, 1), "{status:?}");
    }
}

/// How often the events of an input are sent, by each of two senders, before and after something happens.
const REPEATED: u64 = 10;

/// A job with a folder that reads what two senders send.
struct SentJob {
    input: Input,
    once: Vec<u8>,
    folder: Folder,
    servers: [LineServer; 2],
    inputs: [PipeWriter; 2],
    words: String,
    driver: Process,
    address: String,
}

impl SentJob {
    fn start(name: &str, words: &str) -> SentJob {
        let input = Input::load(INPUTS[0]);
        let once = fs::read(input.events()).expect("it is part of the clone");
        let folder = Folder::new(&format!("senders-{name}"));
        let [first, second] = [(); 2].map(|()| pipe().expect("there are pipes"));
        let servers = [first.0, second.0].map(serve);
        let inputs = [first.1, second.1];
        // Repeated events come after later ones, and none of them is late.
        let words = format!("ysb driver --workers 2 --out-of-orderness 24h {words} {TIMELINE}");
        let mut driver = drive(&input, &folder, &servers, &words, &["--listen", "127.0.0.1:0"]);
        let address = driver.listens_on();
        SentJob { input, once, folder, servers, inputs, words, driver, address }
    }

    fn workers(&self) -> [Process; 2] {
        [(); 2].map(|()| start(&arguments("ysb worker --driver", &[&self.address])))
    }

    /// Starts the driver again, which was killed, on its folder.
    fn resume(&mut self) {
        let more = ["--listen", &self.address, "--resume"];
        self.driver = drive(&self.input, &self.folder, &self.servers, &self.words, &more);
        self.driver.listens_on();
    }

    /// Has the input sent by both.
    fn send(&mut self) {
        for input in &mut self.inputs {
            for _ in 0..REPEATED {
                input.write_all(&self.once).expect("the sender reads");
            }
        }
    }

    fn wait_for(&mut self, change: &str) {
        self.driver.wait_for(&format!("\"change\":\"{change}\""));
    }

    /// Waits until something was acknowledged to both senders.
    fn wait_until_acknowledged(&self) {
        self.servers.iter().for_each(|server| drop(wait(server, |status| status.oldest > 0)));
    }

    /// Ends the input, waits for the job's end, and compares what it wrote.
    fn finish(self, workers: impl IntoIterator<Item = Process>) {
        let SentJob { input, folder, servers, inputs, driver, .. } = self;
        drop(inputs);
        let ended = driver.wait().exited(0);
        let survives = "whoever sends \"events\" must live on";
        assert!(ended.stderr.contains(survives), "{}", ended.said());
        workers.into_iter().for_each(|worker| drop(worker.wait().exited(0)));
        let mut expected: Vec<String> =
            input.lines.iter().map(|line| times(line, 4 * REPEATED)).collect();
        expected.sort_unstable();
        let lines = read_output(Path::new(&folder.at("counts.jsonl")));
        assert_eq!(difference(&lines, &expected), "", "{}", ended.said());
        for server in &servers {
            assert_eq!(wait(server, ServerStatus::is_complete).kept_bytes, 0);
        }
    }
}

fn drive(
    input: &Input,
    folder: &Folder,
    servers: &[LineServer; 2],
    words: &str,
    more: &[&str],
) -> Process {
    let senders = servers.each_ref().map(|server| server.address().to_string());
    let (ads, out, data) = (input.ads(), folder.at("counts.jsonl"), folder.at("data"));
    let files = ["--ads", &ads, "--out", &out, "--data", &data];
    let senders = ["--tcp", &senders[0], "--tcp", &senders[1]];
    start(&arguments(words, &[&files[..], &senders, more].concat()))
}

#[test]
fn worker_that_is_killed_costs_no_line_that_was_sent() {
    let mut job = SentJob::start("killed", "--checkpoint-interval 20ms");
    let [lost, other] = job.workers();
    job.send();
    job.wait_until_acknowledged();
    lost.signal("KILL");
    job.wait_for("recovered");
    job.send();
    job.finish([other]);
}

#[test]
fn what_no_checkpoint_covers_is_sent_again() {
    let mut job = SentJob::start("sent-again", "--checkpoint-interval 1h");
    let [lost, other] = job.workers();
    job.send();
    let all = 2 * REPEATED * job.once.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let all = grouped(all);
    job.driver.wait_for(&format!(" {all} events "));
    assert!(job.servers.iter().all(|server| server.status().durable.is_none()));
    lost.signal("KILL");
    job.wait_for("recovered");
    job.send();
    // What a lost worker had read, others have asked for.
    for server in &job.servers {
        wait(server, |status| status.calls >= 1);
    }
    let calls: u64 = job.servers.iter().map(|server| server.status().calls).sum();
    assert!(calls >= 3, "{calls} calls");
    job.finish([other]);
}

/// A number as progress shows it.
fn grouped(number: u64) -> String {
    assert!((1000..1_000_000).contains(&number), "with one comma");
    format!("{},{:03}", number / 1000, number % 1000)
}

#[test]
fn job_that_was_stopped_goes_on_with_what_its_sender_still_has() {
    let mut job = SentJob::start("full-stop", "--checkpoint-interval 20ms");
    let workers = job.workers();
    job.send();
    job.wait_until_acknowledged();
    job.driver.kill();
    workers.into_iter().for_each(|mut worker| worker.kill());
    for server in &job.servers {
        let oldest = server.status().oldest;
        assert_eq!(ask_from_the_beginning(server), format!("gone {oldest}\n"));
    }
    job.resume();
    let workers = job.workers();
    job.send();
    job.finish(workers);
}

#[test]
fn sender_that_comes_later_is_waited_for_and_the_driver_says_so() {
    let input = Input::load(INPUTS[0]);
    for nodes in ["", "--processes"] {
        let folder = Folder::new(&format!("senders-later{nodes}"));
        let (ads, out) = (input.ads(), folder.at("counts.jsonl"));
        // A port that was just given back is not given out again soon.
        let first = serve(std::io::empty());
        let place = first.address();
        drop(first);
        let address = place.to_string();
        let files = ["--tcp", &address, "--ads", &ads, "--out", &out];
        let mut job = start(&arguments(&format!("ysb {nodes}"), &files));
        job.wait_for(&format!("no connection to the sender at {place}"));
        let listener = std::iter::repeat_with(|| TcpListener::bind(place)).flatten().next();
        let listener = listener.expect("it is tried until it is free");
        let events = fs::File::open(input.events()).expect("it is part of the clone");
        let server = LineServer::start(listener, events, KEPT).expect("threads can be started");
        job.wait_for(&format!("the sender at {place} is there"));
        job.wait().exited(0);
        assert_eq!(difference(&read_output(Path::new(&out)), &input.lines), "");
        wait(&server, ServerStatus::is_complete);
    }
}

#[test]
fn sender_that_is_no_address_is_refused_before_anything_runs() {
    let input = Input::load(INPUTS[0]);
    let folder = Folder::new("senders-refused");
    let (ads, out) = (input.ads(), folder.at("counts.jsonl"));
    let files = ["--ads", &ads, "--out", &out];
    run(&arguments("ysb --tcp localhost", &files)).exited(2).says_only(&["localhost", "HOST:PORT"]);
    let twice = "ysb --tcp localhost:7 --tcp localhost:7";
    run(&arguments(twice, &files)).exited(2).says_only(&["localhost:7", "twice"]);
    let both = format!("ysb --tcp localhost:7 --events {}", input.events());
    run(&arguments(&both, &files)).exited(2);
}
