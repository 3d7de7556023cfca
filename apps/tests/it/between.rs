//! Something between a worker and its driver that reads what the driver says, so that a test does something
//! to the worker at a point that no output tells.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use drizzle::scheduler::BatchId;
use drizzle::scheduler::message::{Decision, DriverMessage, Order, Purpose};
use drizzle::wire::{FrameDecoder, ToWorker, decode_to_worker, encode_to_worker};

/// A relay that withholds the end of the job from one worker, and with it that its last checkpoint is
/// durable: the driver waits for a worker that has shown nothing of it.
pub struct Between {
    address: String,
    withheld: Receiver<()>,
}

impl Between {
    /// Listens for one worker of the driver at that address.
    pub fn start(driver: &str) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let driver = driver.to_owned();
        let (tell, withheld) = channel();
        spawn(move || {
            let (worker, _) = listener.accept().expect("the worker calls");
            let driver = TcpStream::connect(driver).expect("the driver listens");
            relay(worker, driver, &tell);
        });
        Between { address, withheld }
    }

    /// Where the worker is to look for its driver.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits until the driver has told the worker to complete what it wrote, which it does not hear.
    pub fn wait_for_the_end(&self) {
        self.withheld.recv().expect("the job comes to its end");
    }
}

fn relay(worker: TcpStream, driver: TcpStream, tell: &Sender<()>) {
    let mut to_driver = driver.try_clone().expect("a second descriptor");
    let mut from_worker = worker.try_clone().expect("a second descriptor");
    spawn(move || {
        // Either may go first.
        let _ = std::io::copy(&mut from_worker, &mut to_driver);
        let _ = to_driver.shutdown(Shutdown::Both);
    });
    pass_on(driver, worker, tell);
}

/// Passes on what the driver says, until nothing more is to be heard.
fn pass_on(mut driver: TcpStream, mut worker: TcpStream, tell: &Sender<()>) {
    let (mut decoder, mut piece) = (FrameDecoder::new(), [0; 4096]);
    let mut last = None;
    let mut is_over = false;
    while let Ok(count @ 1..) = driver.read(&mut piece) {
        decoder.push(&piece[..count]);
        let mut bytes = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("good frames") {
            let message = decode_to_worker(frame.head).expect("a good message");
            last = last.or(last_batch(&message));
            is_over |= last.is_some_and(|last| is_durable(&message, last));
            match message {
                // Whoever asks may have failed already.
                ToWorker::Finish if is_over => drop(tell.send(())),
                _ if is_over => {}
                message => encode_to_worker(&message, &mut bytes),
            }
        }
        if worker.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = worker.shutdown(Shutdown::Both);
}

fn decision(message: &ToWorker) -> Option<&Decision> {
    match message {
        ToWorker::Order(DriverMessage { order: Order::Decision { decision, .. }, .. }) => {
            Some(decision)
        }
        _ => None,
    }
}

/// The last batch of the job, when it is scheduled.
fn last_batch(message: &ToWorker) -> Option<BatchId> {
    match decision(message)? {
        Decision::ScheduleGroup(group) if group.purpose == Purpose::Flush => {
            Some(group.first_batch)
        }
        _ => None,
    }
}

fn is_durable(message: &ToWorker, batch: BatchId) -> bool {
    matches!(decision(message), Some(Decision::Durable(manifest)) if manifest.batch >= batch)
}

fn spawn(body: impl FnOnce() + Send + 'static) {
    // Nobody joins it: it ends with the processes on both sides.
    thread::Builder::new().name("between".to_owned()).spawn(body).expect("a thread can be started");
}
