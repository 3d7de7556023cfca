//! Control links, over a stream and within a process.

use std::io::Write;

use super::{ROUNDS, Victim, core};
use crate::io::{IoKind, Waker, open};
use crate::transport::{Closed, Connection, Endpoint, LocalLink};
use crate::wire::{DataHead, FrameKind, ToDriver, ToWorker, encode_data};
use crate::wire::{encode_to_driver, encode_to_worker, frame::append_frame};

type DriverSide = Endpoint<ToWorker, ToDriver>;

fn refused(text: &str) -> ToWorker {
    ToWorker::Refused { reason: text.to_owned() }
}

fn failed(text: &str) -> ToDriver {
    ToDriver::Failed { reason: text.to_owned() }
}

/// Writes `bytes` to the driver's side of a link and lets it read: the messages, and the end if any.
fn read_by_driver(bytes: &[u8]) -> (Vec<ToDriver>, Result<(), Closed>) {
    let (mut peer, victim) = Victim::new();
    peer.write_all(bytes).unwrap();
    drop(peer);
    let (mut io, mut link) = (victim.io, DriverSide::Stream(victim.connection));
    let mut messages = Vec::new();
    for _ in 0..ROUNDS {
        link.drive(&mut *io);
        io.park(super::PATIENCE);
        let mut completions = Vec::new();
        io.poll(&mut completions);
        for completion in completions {
            if let Err(closed) = link.completed(completion.outcome) {
                return (messages, Err(closed));
            }
        }
        if let Err(closed) = link.receive(&mut messages) {
            return (messages, Err(closed));
        }
    }
    panic!("the link has not ended");
}

#[test]
fn messages_arrive_before_the_end_of_the_link() {
    let mut bytes = Vec::new();
    encode_to_driver(&failed("one"), &mut bytes);
    encode_to_driver(&failed("two"), &mut bytes);
    let (messages, end) = read_by_driver(&bytes);
    assert_eq!(messages, [failed("one"), failed("two")]);
    assert!(matches!(end, Err(Closed::ByPeer)));
}

#[test]
fn frames_of_another_kind_break_the_protocol() {
    let mut bytes = Vec::new();
    encode_to_driver(&failed("one"), &mut bytes);
    encode_to_worker(&ToWorker::Finish, &mut bytes);
    let (messages, end) = read_by_driver(&bytes);
    assert_eq!(messages.len(), 1);
    assert!(matches!(end, Err(Closed::Protocol(_))), "{end:?}");

    let mut bytes = Vec::new();
    let batch = drizzle_scheduler::BatchId(1);
    encode_data(&DataHead::Completed { from: core(1), to_core: 0, batch }, 0, &mut bytes);
    let (messages, end) = read_by_driver(&bytes);
    assert_eq!(messages.len(), 0);
    assert!(matches!(end, Err(Closed::Protocol(_))), "{end:?}");
}

#[test]
fn a_frame_without_sense_is_a_bad_message() {
    let mut bytes = Vec::new();
    append_frame(FrameKind::ToDriver, 0, &mut bytes, |writer| writer.u8(250));
    let (messages, end) = read_by_driver(&bytes);
    assert!(messages.is_empty());
    assert!(matches!(end, Err(Closed::BadMessage(_))), "{end:?}");
}

#[test]
fn a_local_link_carries_messages_both_ways_and_wakes_the_other_side() {
    let (mut first, mut second) = (open(IoKind::Epoll).unwrap(), open(IoKind::Epoll).unwrap());
    let (driver, worker) = LocalLink::pair(first.waker(), second.waker());
    let mut driver: DriverSide = Endpoint::Local(driver);
    let mut worker: Endpoint<ToDriver, ToWorker> = Endpoint::Local(worker);
    driver.send(refused("a")).unwrap();
    driver.send(refused("b")).unwrap();
    second.park(None); // would last for ever without a wake
    worker.send(failed("c")).unwrap();
    first.park(None);
    let (mut to_worker, mut to_driver) = (Vec::new(), Vec::new());
    worker.receive(&mut to_worker).unwrap();
    driver.receive(&mut to_driver).unwrap();
    assert_eq!(to_worker, [refused("a"), refused("b")]);
    assert_eq!(to_driver, [failed("c")]);
    assert!(driver.is_flushed());
}

#[test]
fn a_local_link_ends_after_its_last_message_when_the_other_side_is_gone() {
    let (driver, worker) = LocalLink::pair(Waker::detached(), Waker::detached());
    let mut driver: DriverSide = Endpoint::Local(driver);
    let mut worker: Endpoint<ToDriver, ToWorker> = Endpoint::Local(worker);
    worker.send(failed("last words")).unwrap();
    drop(worker);
    let mut messages = Vec::new();
    assert!(matches!(driver.receive(&mut messages), Err(Closed::ByPeer)));
    assert_eq!(messages, [failed("last words")]);
    assert!(matches!(driver.send(ToWorker::Finish), Err(Closed::ByPeer)));
}

#[test]
fn links_name_the_other_side() {
    let (driver, _worker) =
        LocalLink::<ToWorker, ToDriver>::pair(Waker::detached(), Waker::detached());
    assert_eq!(Endpoint::Local(driver).peer(), "a thread of this process");
    let (near, far) = super::streams();
    let address = near.local_addr().unwrap().to_string();
    assert_eq!(DriverSide::Stream(Connection::new(far, 0).unwrap()).peer(), address);
}
