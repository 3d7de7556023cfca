//! Workers beside a driver that says what the test wants.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use drizzle::node::{NodeError, run_worker};
use drizzle::wire::{FrameDecoder, ToDriver, ToWorker, decode_to_driver, encode_to_worker};

use super::cluster::Case;

/// Takes a worker's call, and its greeting.
fn greeted(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("a worker calls");
    let (mut decoder, mut piece) = (FrameDecoder::new(), [0; 4096]);
    loop {
        if let Some(frame) = decoder.next_frame().expect("good frames") {
            let message = decode_to_driver(frame.head).expect("a good message");
            assert!(matches!(message, ToDriver::Hello { .. }), "{message:?}");
            return stream;
        }
        let count = stream.read(&mut piece).expect("the worker speaks");
        assert!(count > 0, "the worker hung up");
        decoder.push(&piece[..count]);
    }
}

fn say(stream: &mut TcpStream, message: &ToWorker) {
    let mut bytes = Vec::new();
    encode_to_worker(message, &mut bytes);
    stream.write_all(&bytes).expect("the worker is there");
}

/// A worker for whoever listens there.
fn start(listener: &TcpListener) -> JoinHandle<Result<(), NodeError>> {
    let address = listener.local_addr().expect("it listens");
    let config = Case::new(1, 1, 10).cluster().worker;
    thread::spawn(move || run_worker(address, &config))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

#[test]
fn a_worker_that_was_told_to_wait_and_loses_its_driver_looks_for_the_next() {
    let listener = listener();
    let worker = start(&listener);
    for _ in 0..2 {
        let mut driver = greeted(&listener);
        say(&mut driver, &ToWorker::Wait);
        driver.shutdown(Shutdown::Both).expect("it is connected");
    }
    let mut driver = greeted(&listener);
    say(&mut driver, &ToWorker::Finish);
    worker.join().expect("it does not panic").expect("a job that is over ends well");
}

#[test]
fn a_worker_that_was_told_nothing_ends_with_its_driver() {
    let listener = listener();
    let worker = start(&listener);
    drop(greeted(&listener));
    let error = worker.join().expect("it does not panic").expect_err("there is no driver");
    let said = error.to_string();
    assert!(said.contains("is lost") && said.contains("the job ends here"), "{said}");
}
