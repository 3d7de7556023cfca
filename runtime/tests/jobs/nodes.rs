//! A driver that keeps a journal, beside workers that say what real ones would and run nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use drizzle::node::{
    Change, ClusterEvent, DriverConfig, Exposure, JobDurability, JobReport, NodeError, Observer,
    Outlet, ProgressReport, Request, StopFlag, ask_driver, listen_for_workers, run_driver,
};
use drizzle::scheduler::message::{Decision, DriverMessage, Order};
use drizzle::scheduler::{Incarnation, Life, Term, WorkerId};
use drizzle::wire::{
    FrameDecoder, Peer, Returning, ToDriver, ToWorker, WorkerStatus, decode_to_worker,
    encode_to_driver,
};

use super::cluster::Case;

/// A folder of a test, gone with it.
pub struct TestFolder(pub PathBuf);

impl TestFolder {
    pub fn new(name: &str) -> TestFolder {
        let path = std::env::temp_dir().join(format!("drizzle-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        TestFolder(path)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a driver says to people, line by line, and what changes.
struct Told(Sender<String>);

impl Observer for Told {
    fn results(&mut self, _: &[u8]) {}
    fn progress(&mut self, _: &ProgressReport) {}
    fn notice(&mut self, line: &str) {
        let _ = self.0.send(line.to_owned());
    }
    fn event(&mut self, event: &ClusterEvent) {
        let text = match &event.change {
            Change::WorkerJoined { worker, .. } => format!("event: {worker} joined"),
            Change::WorkerLost { worker, .. } => format!("event: {worker} lost"),
            Change::Recovered { .. } => "event: recovered".to_owned(),
            Change::TookOver => "event: took over".to_owned(),
            Change::WorkerLeft { worker } => format!("event: {worker} left"),
            Change::Fenced
            | Change::Loaded
            | Change::Replayed
            | Change::CaughtUp
            | Change::Moved { .. }
            | Change::Relieved { .. }
            | Change::Durable { .. } => return,
        };
        let _ = self.0.send(text);
    }
}

/// A driver on a thread.
struct Driver {
    address: SocketAddr,
    told: Receiver<String>,
    thread: JoinHandle<Result<JobReport, NodeError>>,
}

impl Driver {
    fn start(folder: &Path, resume: bool) -> Driver {
        Driver::start_for(1, folder, resume)
    }

    /// One that begins with so many workers.
    fn start_for(workers: u32, folder: &Path, resume: bool) -> Driver {
        Driver::start_on(listener(), workers, folder, resume)
    }

    /// One that listens already.
    fn start_on(listener: TcpListener, workers: u32, folder: &Path, resume: bool) -> Driver {
        let case = Case::new(workers, 1, 10);
        let config = DriverConfig {
            durability: JobDurability::Folder {
                path: folder.to_owned(),
                checkpoint_interval: Duration::from_secs(1),
            },
            resume,
            ..case.cluster().driver
        };
        let address = listener.local_addr().expect("it listens");
        let (say, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let job = case.job(&Outlet::nowhere());
            let stop = StopFlag::default();
            run_driver(&config, &job, listener, Vec::new(), &mut Told(say), &stop)
        });
        Driver { address, told, thread }
    }

    /// Waits until it says that.
    fn wait_for(&self, words: &str) {
        let limit = Duration::from_secs(10);
        while !self.told.recv_timeout(limit).expect("it says so in time").contains(words) {}
    }

    fn end(self) -> String {
        let result = self.thread.join().expect("it does not panic");
        result.expect_err("no job ends well without workers").to_string()
    }
}

fn listener() -> TcpListener {
    let any = "127.0.0.1:0".parse().expect("an address");
    listen_for_workers(any, Exposure::Loopback).expect("a free port")
}

/// A worker that runs nothing.
struct Worker {
    stream: TcpStream,
    decoder: FrameDecoder,
    life: Life,
}

impl Worker {
    fn call(driver: &Driver) -> Worker {
        Worker::call_at(driver.address)
    }

    fn call_at(address: SocketAddr) -> Worker {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let life = Life { worker: WorkerId(0), incarnation: Incarnation(0) };
        Worker { stream, decoder: FrameDecoder::new(), life }
    }

    /// Calls, and joins as a worker does.
    fn join(driver: &Driver) -> Worker {
        let mut worker = Worker::call(driver);
        worker.say(&ToDriver::Hello { cores: 1, process: 1 });
        worker.is_welcomed();
        worker
    }

    /// Is welcomed, at once or when it is known who is left of the workers before.
    fn is_welcomed(&mut self) {
        let (number, incarnation) = loop {
            match self.hear() {
                ToWorker::Wait => {}
                ToWorker::Welcome { worker, incarnation, .. } => break (worker, incarnation),
                other => panic!("a worker is welcomed: {other:?}"),
            }
        };
        self.life = Life { worker: number, incarnation };
        self.say(&ToDriver::Joined {
            fingerprint: fingerprint(),
            data_address: data_address(),
            runtime: "none".to_owned(),
        });
        let ToWorker::Peers { peers, .. } = self.hear() else { panic!("it hears who is there") };
        assert!(peers.iter().any(|peer| peer.life() == self.life), "{peers:?}");
        self.say(&ToDriver::Ready);
    }

    /// Says that it followed a driver of that term.
    fn come_back(driver: &Driver, life: Life, term: Term) -> Worker {
        let mut worker = Worker::call(driver);
        worker.life = life;
        worker.say(&ToDriver::Return(Returning {
            life,
            cores: 1,
            process: 1,
            fingerprint: fingerprint(),
            data_address: data_address(),
            runtime: "none".to_owned(),
            term,
        }));
        worker
    }

    fn say(&mut self, message: &ToDriver) {
        let mut bytes = Vec::new();
        encode_to_driver(message, &mut bytes);
        self.stream.write_all(&bytes).expect("the driver listens");
    }

    /// The next message, but for answers to heartbeats; each keeps the driver patient.
    fn hear(&mut self) -> ToWorker {
        self.say(&ToDriver::Heartbeat { sent_ns: 1, status: WorkerStatus::default() });
        let mut piece = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("good frames") {
                match decode_to_worker(frame.head).expect("a good message") {
                    ToWorker::HeartbeatAnswer { .. } => continue,
                    message => return message,
                }
            }
            let count = self.stream.read(&mut piece).expect("the driver speaks");
            assert!(count > 0, "the driver hung up");
            self.decoder.push(&piece[..count]);
        }
    }

    /// Waits for an order that is as wanted.
    fn wait_for(&mut self, is_wanted: impl Fn(&Order) -> bool) -> DriverMessage {
        loop {
            if let ToWorker::Order(message) = self.hear()
                && is_wanted(&message.order)
            {
                return message;
            }
        }
    }

    /// Ends the job, as a task that fails does.
    fn fail(mut self) {
        self.say(&ToDriver::Failed { reason: "enough".to_owned() });
        // A socket that is closed with bytes unread takes back what was said.
        let mut piece = [0; 4096];
        while self.stream.read(&mut piece).is_ok_and(|count| count > 0) {}
    }
}

fn data_address() -> SocketAddr {
    "127.0.0.1:1".parse().expect("an address")
}

fn fingerprint() -> u64 {
    Case::new(1, 1, 10).job(&Outlet::nowhere()).plan().fingerprint
}

fn is_group(order: &Order) -> bool {
    matches!(order, Order::Decision { decision: Decision::ScheduleGroup(_), .. })
}

fn is_recovery(order: &Order) -> bool {
    matches!(order, Order::Decision { decision: Decision::Recover(_), .. })
}

#[test]
fn a_driver_with_a_journal_gives_what_a_lost_worker_had_to_the_next() {
    let folder = TestFolder::new("lost-worker");
    let driver = Driver::start(&folder.0, false);
    let mut first = Worker::join(&driver);
    first.wait_for(is_group);
    let life = first.life;
    drop(first);
    driver.wait_for("event: worker 0 lost");
    let mut second = Worker::join(&driver);
    assert_eq!(second.life.worker, life.worker, "a number that is free is used again");
    assert!(second.life.incarnation > life.incarnation, "a life is not");
    second.wait_for(|order| matches!(order, Order::Welcome(_)));
    second.wait_for(is_recovery);
    driver.wait_for("event: recovered");
    // The life that was lost is refused by name.
    let mut first = Worker::come_back(&driver, life, Term(1));
    assert_eq!(first.hear(), ToWorker::Back { term: Term(1) });
    first.wait_for(|order| *order == Order::Leave { life });
    second.fail();
    assert!(driver.end().contains("enough"));
}

#[test]
fn a_new_driver_takes_the_workers_of_an_earlier_one_back() {
    let folder = TestFolder::new("new-driver");
    let driver = Driver::start(&folder.0, false);
    let mut worker = Worker::join(&driver);
    worker.wait_for(is_group);
    let life = worker.life;
    worker.fail();
    driver.end();

    let refused = Driver::start(&folder.0, false).end();
    assert!(refused.contains("add --resume"), "{refused}");

    let driver = Driver::start(&folder.0, true);
    let mut worker = Worker::come_back(&driver, life, Term(1));
    assert_eq!(worker.hear(), ToWorker::Back { term: Term(2) });
    let asked = worker.wait_for(|order| matches!(order, Order::TakeOver { .. }));
    assert_eq!(asked.term, Term(2));
    // It never answers, and somebody else comes.
    drop(worker);
    let mut other = Worker::join(&driver);
    assert!(other.life.incarnation.0 > 2 << 32, "{:?}", other.life);
    // Nobody ever took a range, so the job begins anew.
    other.wait_for(is_group);
    other.fail();
    assert!(driver.end().contains("enough"));
}

#[test]
fn workers_that_do_not_come_back_are_not_waited_for() {
    let folder = TestFolder::new("nobody-back");
    let driver = Driver::start(&folder.0, false);
    let mut worker = Worker::join(&driver);
    worker.wait_for(is_group);
    worker.fail();
    driver.end();

    let driver = Driver::start(&folder.0, true);
    let mut other = Worker::join(&driver);
    assert_eq!(other.life.worker, WorkerId(0), "numbers do not grow with every driver");
    other.wait_for(is_group);
    other.fail();
    driver.end();
}

#[test]
fn a_worker_that_comes_before_it_is_known_who_is_left_is_told_to_wait() {
    let folder = TestFolder::new("told-to-wait");
    let driver = Driver::start(&folder.0, false);
    let mut worker = Worker::join(&driver);
    worker.wait_for(is_group);
    worker.fail();
    driver.end();

    let listener = listener();
    let mut other = Worker::call_at(listener.local_addr().expect("it listens"));
    other.say(&ToDriver::Hello { cores: 1, process: 1 });
    let driver = Driver::start_on(listener, 1, &folder.0, true);
    // It is said before anything else, so that the worker knows what to do if this driver is lost too.
    assert_eq!(other.hear(), ToWorker::Wait);
    other.is_welcomed();
    other.fail();
    driver.end();
}

#[test]
fn a_job_that_goes_on_does_not_wait_for_ever_for_as_many_as_it_began_with() {
    let folder = TestFolder::new("fewer");
    let driver = Driver::start(&folder.0, false);
    let mut worker = Worker::join(&driver);
    worker.wait_for(is_group);
    worker.fail();
    driver.end();

    let driver = Driver::start_for(2, &folder.0, true);
    let mut other = Worker::join(&driver);
    other.wait_for(is_group);
    other.fail();
    driver.end();
}

#[test]
fn who_operates_a_cluster_is_answered() {
    let folder = TestFolder::new("asked");
    let driver = Driver::start(&folder.0, false);
    let status = ask_driver(driver.address, Request::Status).expect("an answer");
    assert!(status.contains(r#""state":"waiting for workers""#), "{status}");
    let refused = ask_driver(driver.address, Request::Scale { workers: 2 });
    assert!(refused.is_err_and(|error| error.to_string().contains("not begun")));

    let mut worker = Worker::join(&driver);
    worker.wait_for(is_group);
    let status = ask_driver(driver.address, Request::Status).expect("an answer");
    for part in [r#""job":"loads""#, r#""state":"running""#, r#""state":"ready""#, r#""term":1"#] {
        assert!(status.contains(part), "{part} is not in {status}");
    }
    let more = ask_driver(driver.address, Request::Scale { workers: 2 }).expect("an answer");
    assert!(more.contains(&format!("worker --driver {}", driver.address)), "{more}");
    let only = ask_driver(driver.address, Request::Drain { worker: WorkerId(0) });
    assert!(only.is_err_and(|error| error.to_string().contains("only worker")));
    worker.fail();
    driver.end();
}

#[test]
fn peers_are_told_who_joins_and_who_is_lost() {
    let folder = TestFolder::new("peers");
    let driver = Driver::start(&folder.0, false);
    let mut first = Worker::join(&driver);
    first.wait_for(is_group);
    let second = Worker::join(&driver);
    let mut peers = |count: usize| loop {
        if let ToWorker::Peers { peers, .. } = first.hear()
            && peers.len() == count
        {
            break peers.iter().map(Peer::life).collect::<Vec<Life>>();
        }
    };
    let both = peers(2);
    assert!(both.contains(&second.life), "{both:?}");
    drop(second);
    let left = peers(1);
    assert_eq!(left, [first.life]);
    first.fail();
    driver.end();
}
