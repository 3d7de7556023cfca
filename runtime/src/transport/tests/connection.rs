//! Framed TCP: frames of any size, both ways at once, and every way to end.

use std::collections::VecDeque;
use std::io::Write;

use drizzle_scheduler::{BatchId, Incarnation, WorkerId};
use drizzle_shuffle::{ArrivingBlock, Block, BlockStore, Bundle, Record, checker};

use super::{Entry, Pair, ROUNDS, Victim, block, core, store};
use crate::transport::{Closed, Connection};
use crate::wire::{DataHead, FrameError, FrameKind, decode_data, encode_data};

fn hello(worker: u32) -> DataHead {
    DataHead::Hello {
        worker: WorkerId(worker),
        incarnation: Incarnation(1),
        to: WorkerId(0),
        rendezvous: None,
    }
}

fn bytes_of(head: &DataHead) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_data(head, 0, &mut bytes);
    bytes
}

fn send_block(connection: &mut Connection, to_core: u16, block: &Block) {
    connection.send_bundle(&Bundle::new(to_core, block.clone()));
}

/// What a frame held, its block taken in as a core does.
#[derive(Debug)]
enum Arrived {
    Head(DataHead),
    Block(u16, Block),
}

/// What comes in at one end, and the blocks of the frame that is arriving.
#[derive(Default)]
struct Taker {
    arrived: Vec<Arrived>,
    coming: VecDeque<(u16, ArrivingBlock)>,
}

impl Taker {
    fn take(&mut self, connection: &mut Connection, store: &mut BlockStore) {
        loop {
            while let Some((to_core, mut block)) = self.coming.pop_front() {
                if !connection.take_body(&mut block) {
                    self.coming.push_front((to_core, block));
                    return;
                }
                let block = block.finish().unwrap().validate(checker::<Entry>()).unwrap();
                self.arrived.push(Arrived::Block(to_core, block));
            }
            let Some(frame) = connection.next_head().unwrap() else { return };
            assert_eq!(frame.kind, FrameKind::Data);
            match decode_data(frame.head, frame.body_len).unwrap() {
                DataHead::Blocks { header } => {
                    let blocks = header.blocks().iter();
                    self.coming.extend(
                        blocks.map(|(core, header)| (*core, store.expect(header).unwrap())),
                    );
                }
                head => self.arrived.push(Arrived::Head(head)),
            }
        }
    }
}

/// Turns until so many frames have come to the near and to the far end.
fn exchange(pair: &mut Pair, near: usize, far: usize) -> (Vec<Arrived>, Vec<Arrived>) {
    let (mut to_near, mut to_far) = (Taker::default(), Taker::default());
    let mut store = store();
    for _ in 0..ROUNDS {
        if (to_near.arrived.len(), to_far.arrived.len()) == (near, far) {
            return (to_near.arrived, to_far.arrived);
        }
        pair.turn().unwrap();
        to_near.take(&mut pair.near, &mut store);
        to_far.take(&mut pair.far, &mut store);
    }
    panic!("only {:?} and {:?} came", to_near.arrived, to_far.arrived);
}

fn assert_same(arrived: &Arrived, to_core: u16, sent: &Block) {
    let Arrived::Block(core, block) = arrived else { panic!("{arrived:?} is no block") };
    assert_eq!((*core, block.notice()), (to_core, sent.notice()));
    assert_eq!(block.header().ranges, sent.header().ranges);
    assert_eq!(block.header().record_counts, sent.header().record_counts);
    let entries = |block: &Block| -> Vec<Entry> {
        block.records::<Entry>().iter().map(Entry::unarchive).collect()
    };
    assert_eq!(entries(block), entries(sent));
}

#[test]
fn blocks_of_no_one_and_a_million_bytes_arrive_whole_and_in_order() {
    let (mut pair, mut store) = (Pair::new(), store());
    let sizes = [0, 1, (1 << 20) / 24, 0, 2];
    let blocks: Vec<Block> = (1..).zip(sizes).map(|(n, size)| block(&mut store, n, size)).collect();
    assert!(blocks[2].body().len() > 1_000_000);
    for (to_core, block) in (0..).zip(&blocks) {
        send_block(&mut pair.near, to_core, block);
    }
    pair.near.send(|out| encode_data(&hello(5), 0, out));
    assert!(!pair.near.is_flushed());
    let (_, arrived) = exchange(&mut pair, 0, 6);
    for ((to_core, sent), arrived) in (0..).zip(&blocks).zip(&arrived) {
        assert_same(arrived, to_core, sent);
    }
    assert!(matches!(&arrived[5], Arrived::Head(head) if *head == hello(5)));
    while !pair.near.is_flushed() {
        pair.turn().unwrap();
    }
}

#[test]
fn large_blocks_pass_each_other_without_either_end_waiting_for_the_other() {
    let (mut pair, mut store) = (Pair::new(), store());
    let blocks: Vec<Block> = (1..=3).map(|n| block(&mut store, n, (1 << 20) / 24)).collect();
    for block in &blocks {
        send_block(&mut pair.near, 1, block);
        send_block(&mut pair.far, 2, block);
    }
    let (to_near, to_far) = exchange(&mut pair, 3, 3);
    for ((sent, near), far) in blocks.iter().zip(&to_near).zip(&to_far) {
        assert_same(near, 2, sent);
        assert_same(far, 1, sent);
    }
}

#[test]
fn many_small_messages_arrive_in_order_whenever_they_are_sent() {
    let mut pair = Pair::new();
    let completed =
        |batch| DataHead::Completed { from: core(1), to_core: 0, batch: BatchId(batch) };
    let mut taker = Taker::default();
    let mut store = store();
    for batch in 1..=5000 {
        pair.near.send(|out| encode_data(&completed(batch), 0, out));
        if batch % 100 == 0 {
            pair.turn().unwrap();
            taker.take(&mut pair.far, &mut store);
        }
    }
    let arrived = taker.arrived;
    let (_, rest) = exchange(&mut pair, 0, 5000 - arrived.len());
    let all = arrived.iter().chain(&rest);
    for (batch, arrived) in (1..).zip(all) {
        assert!(matches!(arrived, Arrived::Head(head) if *head == completed(batch)));
    }
}

#[test]
fn an_end_that_takes_nothing_still_sends() {
    let mut pair = Pair::new();
    pair.far.send(|out| encode_data(&hello(1), 0, out));
    pair.near.send(|out| encode_data(&hello(2), 0, out));
    let mut store = store();
    let mut taker = Taker::default();
    for _ in 0..ROUNDS {
        pair.far.drive_sends(&mut *pair.io);
        pair.near.drive(&mut *pair.io);
        let mut completions = Vec::new();
        pair.io.park(super::PATIENCE);
        pair.io.poll(&mut completions);
        for completion in completions {
            let end = match Connection::number_of(completion.token) {
                1 => &mut pair.near,
                _ => &mut pair.far,
            };
            end.completed(completion.outcome).unwrap();
        }
        taker.take(&mut pair.near, &mut store);
        if !taker.arrived.is_empty() {
            break;
        }
    }
    let arrived = taker.arrived;
    assert!(matches!(&arrived[..], [Arrived::Head(head)] if *head == hello(1)));
    assert!(pair.far.next_frame().unwrap().is_none(), "nothing was received meanwhile");
    let (_, to_far) = exchange(&mut pair, 0, 1);
    assert!(matches!(&to_far[..], [Arrived::Head(head)] if *head == hello(2)));
}

#[test]
fn a_bad_frame_ends_the_connection_with_a_typed_reason_after_the_good_ones() {
    let good = bytes_of(&hello(4));
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    type Check = fn(&FrameError) -> bool;
    let cases: [(&str, Vec<u8>, Check); 5] = [
        (
            "other protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            |error| matches!(error, FrameError::Magic { found } if found == b"GET "),
        ),
        (
            "version",
            damaged(4, 1),
            |error| matches!(error, FrameError::Version { peer, own } if *peer == own ^ 1),
        ),
        ("kind", damaged(6, 0x40), |error| matches!(error, FrameError::UnknownKind { .. })),
        ("reserved", damaged(20, 1), |error| matches!(error, FrameError::Reserved { found: 1 })),
        ("head", damaged(24, 1), |error| matches!(error, FrameError::Checksum { .. })),
    ];
    for (name, bad, is_expected) in cases {
        let (mut peer, mut victim) = Victim::new();
        peer.write_all(&good).unwrap();
        peer.write_all(&bad).unwrap();
        peer.write_all(&good).unwrap();
        let (heads, closed) = victim.heads_and_end();
        assert_eq!(heads.len(), 1, "{name}: what came before counts, what came after does not");
        assert!(
            matches!(&closed, Closed::BadFrame(error) if is_expected(error)),
            "{name}: {closed}"
        );
        assert!(victim.connection.next_frame().is_err(), "{name}: it stays closed");
    }
}

#[test]
fn an_end_between_frames_is_told_from_one_within() {
    let good = bytes_of(&hello(4));
    let (mut peer, mut victim) = Victim::new();
    peer.write_all(&good).unwrap();
    drop(peer);
    let (heads, closed) = victim.heads_and_end();
    assert_eq!(heads.len(), 1);
    assert!(matches!(closed, Closed::ByPeer), "{closed}");

    let (mut peer, mut victim) = Victim::new();
    peer.write_all(&good).unwrap();
    peer.write_all(&good[..10]).unwrap();
    drop(peer);
    let (heads, closed) = victim.heads_and_end();
    assert_eq!(heads.len(), 1);
    let unfinished = FrameError::Unfinished { received: 10 };
    assert!(matches!(closed, Closed::BadFrame(error) if error == unfinished), "{closed}");
}

#[test]
fn sending_to_an_end_that_is_gone_is_an_error_and_no_signal() {
    let (peer, mut victim) = Victim::new();
    drop(peer);
    let block = block(&mut store(), 1, (1 << 20) / 24);
    (0..8).for_each(|_| send_block(&mut victim.connection, 0, &block));
    let (heads, closed) = victim.heads_and_end();
    assert!(heads.is_empty());
    assert!(matches!(closed, Closed::ByPeer | Closed::Broken(_)), "{closed}");
}

#[test]
fn a_connection_gives_its_stream_back_when_nothing_is_under_way() {
    let mut pair = Pair::new();
    pair.far.send(|out| encode_data(&hello(1), 0, out));
    pair.near.drive(&mut *pair.io);
    let Pair { near, far, .. } = pair;
    assert!(near.into_stream().is_none(), "a receive is under way");
    assert!(far.into_stream().is_some(), "what was only queued does not hold it");
}
