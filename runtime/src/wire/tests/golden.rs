//! The bytes of every message. A change here is a change of the protocol: raise `WIRE_VERSION`.
//!
//! The first line is the frame's header (magic, version, kind, lengths of head and body, checksum,
//! reserved), the others are its head. What schedulers say is in `golden_scheduling.rs`.

use std::sync::Arc;

use drizzle_scheduler::message::{BlockNotice, Content, SourceRange, TakenRange};
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, Life, PartitionId, StageId, Term,
    Watermark, WorkerId,
};
use drizzle_shuffle::{BlockHeader, BundleHeader, Place};
use expect_test::{Expect, expect};

use super::Message;
use crate::io::SystemCalls;
use crate::wire::frame::HEADER_LEN;
use crate::wire::message::{
    CoreCosts, DataHead, FinalReport, MappedPlace, MemoryPeaks, Peer, Regained, Request, Returning,
    StatePart, TaskPanic, TimeByKind, ToDriver, ToWorker, WorkerStatus,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as lines of words.
pub(super) fn words(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.chunks(4).map(hex).collect::<Vec<_>>().join(" ") + "\n";
    bytes.chunks(32).map(line).collect()
}

fn check(message: &Message, expected: &Expect) {
    let bytes = message.encoded();
    let (header, head) = bytes.split_at(HEADER_LEN);
    let fields = [0..4, 4..6, 6..8, 8..12, 12..16, 16..20, 20..24];
    let mut text = fields.map(|field| hex(&header[field])).join(" ") + "\n";
    text += &words(head);
    expected.assert_eq(&text);
}

fn driver(message: ToDriver, expected: &Expect) {
    check(&Message::ToDriver(message), expected);
}

fn worker(message: ToWorker, expected: &Expect) {
    check(&Message::ToWorker(message), expected);
}

fn data(head: DataHead, expected: &Expect) {
    check(&Message::Data(head), expected);
}

fn core(worker: u32, core: u16) -> CoreId {
    CoreId { worker: WorkerId(worker), core }
}

#[test]
fn joining_has_these_bytes() {
    driver(
        ToDriver::Hello { cores: 0x0102, process: 0x0304_0506 },
        &expect![[r#"
            44525a4c 0900 0100 07000000 00000000 782d42ed 00000000
            01020106 050403
        "#]],
    );
    let data_address = "127.0.0.1:4660".parse().expect("an address");
    driver(
        ToDriver::Joined {
            fingerprint: 0x0102_0304_0506_0708,
            data_address,
            runtime: "plain".to_owned(),
        },
        &expect![[r#"
            44525a4c 0900 0100 19000000 00000000 46bb9624 00000000
            02080706 05040302 01047f00 00013412 05000000 706c6169 6e
        "#]],
    );
    let data_address = "[fe80::1%5]:4660".parse().expect("an address");
    driver(
        ToDriver::Joined { fingerprint: 1, data_address, runtime: String::new() },
        &expect![[r#"
            44525a4c 0900 0100 28000000 00000000 c1381e07 00000000
            02010000 00000000 0006fe80 00000000 00000000 00000000 00013412 00000000
            05000000 00000000
        "#]],
    );
    driver(
        ToDriver::CannotJoin { reason: "no file".into() },
        &expect![[r#"
            44525a4c 0900 0100 0c000000 00000000 9d439cdd 00000000
            03070000 006e6f20 66696c65
        "#]],
    );
    driver(
        ToDriver::Ready,
        &expect![[r#"
            44525a4c 0900 0100 01000000 00000000 9f36a41b 00000000
            04
        "#]],
    );
}

#[test]
fn what_a_worker_says_while_it_works_has_these_bytes() {
    let status = WorkerStatus { completed: 2, records: 3, ..WorkerStatus::default() };
    driver(
        ToDriver::Heartbeat { sent_ns: 1, status },
        &expect![[r#"
            44525a4c 0900 0100 1b000000 00000000 08c053c0 00000000
            06010000 00000000 00020000 00000000 00030000 00000000 000000
        "#]],
    );
    let (stalled, paused) = (Some("batch 3".into()), Some("full".into()));
    let status = WorkerStatus { completed: 2, records: 3, stalled, paused };
    driver(
        ToDriver::Heartbeat { sent_ns: 1, status },
        &expect![[r#"
            44525a4c 0900 0100 2e000000 00000000 f6bce4dc 00000000
            06010000 00000000 00020000 00000000 00030000 00000000 00010700 00006261
            74636820 33010400 00006675 6c6c
        "#]],
    );
    driver(
        ToDriver::Results { rows: b"rows".to_vec() },
        &expect![[r#"
            44525a4c 0900 0100 09000000 00000000 90461452 00000000
            07040000 00726f77 73
        "#]],
    );
    driver(
        ToDriver::PeerLost {
            worker: WorkerId(1),
            incarnation: Incarnation(2),
            reason: "reset".into(),
        },
        &expect![[r#"
            44525a4c 0900 0100 16000000 00000000 ad5ee589 00000000
            08010000 00020000 00000000 00050000 00726573 6574
        "#]],
    );
    driver(
        ToDriver::Regained { core: 3, epoch: Epoch(2), what: Regained::Time },
        &expect![[r#"
            44525a4c 0900 0100 0c000000 00000000 1e839da0 00000000
            0d030002 00000000 00000002
        "#]],
    );
    driver(
        ToDriver::Notice { line: "slow".into() },
        &expect![[r#"
        44525a4c 0900 0100 09000000 00000000 a2ad794c 00000000
        0e040000 00736c6f 77
    "#]],
    );
    driver(
        ToDriver::Failed { reason: "panicked".into() },
        &expect![[r#"
            44525a4c 0900 0100 0d000000 00000000 70d9c237 00000000
            09080000 0070616e 69636b65 64
        "#]],
    );
    let counters = vec![("lines".into(), 1), ("bad".into(), 2)];
    let memory =
        MemoryPeaks { blocks_bytes: 5, state_bytes: 6, results_bytes: 7, spilled_bytes: 8 };
    let time = TimeByKind::from_times([8, 9, 10, 11, 12, 13, 14, 15]);
    let calls = SystemCalls::from_counts([16, 17, 18, 19, 20, 21, 22, 23]);
    let control_calls = SystemCalls::from_counts([24, 25, 26, 27, 28, 29, 30, 31]);
    let costs = CoreCosts { time, calls, memory };
    let report = FinalReport {
        counters,
        control_cpu_ns: 3,
        cores_cpu_ns: 4,
        task_cpu_ns: 32,
        idle_poll_ns: 33,
        costs,
        control_calls,
    };
    driver(
        ToDriver::Finished(Box::new(report)),
        &expect![[r#"
            44525a4c 0900 0100 25010000 00000000 180e55d8 00000000
            0a020000 00050000 006c696e 65730100 00000000 00000300 00006261 64020000
            00000000 00030000 00000000 00040000 00000000 00200000 00000000 00210000
            00000000 00080000 00000000 00090000 00000000 000a0000 00000000 000b0000
            00000000 000c0000 00000000 000d0000 00000000 000e0000 00000000 000f0000
            00000000 00100000 00000000 00110000 00000000 00120000 00000000 00130000
            00000000 00140000 00000000 00150000 00000000 00160000 00000000 00170000
            00000000 00050000 00000000 00060000 00000000 00070000 00000000 00080000
            00000000 00180000 00000000 00190000 00000000 001a0000 00000000 001b0000
            00000000 001c0000 00000000 001d0000 00000000 001e0000 00000000 001f0000
            00000000 00
        "#]],
    );
}

#[test]
fn welcoming_has_these_bytes() {
    let arguments = vec!["ysb".into(), "--rate".into(), String::new()];
    let (term, incarnation) = (Term(1), Incarnation(3));
    worker(
        ToWorker::Welcome { term, worker: WorkerId(2), incarnation, arguments },
        &expect![[r#"
            44525a4c 0900 0200 2e000000 00000000 0faca1a7 00000000
            40010000 00000000 00020000 00030000 00000000 00030000 00030000 00797362
            06000000 2d2d7261 74650000 0000
        "#]],
    );
    worker(
        ToWorker::Refused { reason: "full".into() },
        &expect![[r#"
            44525a4c 0900 0200 09000000 00000000 f0348833 00000000
            41040000 0066756c 6c
        "#]],
    );
    let peer = |number: u32, address: &str| Peer {
        worker: WorkerId(number),
        incarnation: Incarnation(2),
        cores: 3,
        address: address.parse().expect("an address"),
    };
    let peers = vec![peer(0, "10.0.0.1:256"), peer(1, "[::1]:1")];
    worker(
        ToWorker::Peers { cores_on_host: 4, peers },
        &expect![[r#"
            44525a4c 0900 0200 47000000 00000000 f1c3df6d 00000000
            42040000 00020000 00000000 00020000 00000000 00030004 0a000001 00010100
            00000200 00000000 00000300 06000000 00000000 00000000 00000000 01010000
            00000000 000000
        "#]],
    );
}

#[test]
fn returning_and_asking_have_these_bytes() {
    driver(
        ToDriver::Return(Returning {
            life: Life { worker: WorkerId(1), incarnation: Incarnation(2) },
            cores: 3,
            process: 4,
            fingerprint: 5,
            data_address: "127.0.0.1:4660".parse().expect("an address"),
            runtime: "plain".to_owned(),
            term: Term(6),
        }),
        &expect![[r#"
            44525a4c 0900 0100 33000000 00000000 2846372b 00000000
            0b010000 00020000 00000000 00030004 00000005 00000000 00000004 7f000001
            34120500 0000706c 61696e06 00000000 000000
        "#]],
    );
    worker(
        ToWorker::Wait,
        &expect![[r#"
            44525a4c 0900 0200 01000000 00000000 42098959 00000000
            49
        "#]],
    );
    let (stage, batch, epoch) = (StageId(1), BatchId(2), Epoch(3));
    driver(
        ToDriver::Panicked(TaskPanic { stage, batch, epoch, cause: "odd".to_owned() }),
        &expect![[r#"
            44525a4c 0900 0100 1a000000 00000000 bd5030e2 00000000
            0f010002 00000000 00000003 00000000 00000003 0000006f 6464
        "#]],
    );
    worker(
        ToWorker::Back { term: Term(7) },
        &expect![[r#"
            44525a4c 0900 0200 09000000 00000000 2619cf71 00000000
            47070000 00000000 00
        "#]],
    );
    driver(
        ToDriver::Ask(Request::Status),
        &expect![[r#"
            44525a4c 0900 0100 02000000 00000000 f18db4a9 00000000
            0c01
        "#]],
    );
    driver(
        ToDriver::Ask(Request::Scale { workers: 8 }),
        &expect![[r#"
            44525a4c 0900 0100 06000000 00000000 c4baf41e 00000000
            0c020800 0000
        "#]],
    );
    driver(
        ToDriver::Ask(Request::Drain { worker: WorkerId(9) }),
        &expect![[r#"
            44525a4c 0900 0100 06000000 00000000 d07fa0fb 00000000
            0c030900 0000
        "#]],
    );
    driver(
        ToDriver::Ask(Request::Savepoint { to: "here".into() }),
        &expect![[r#"
            44525a4c 0900 0100 0a000000 00000000 36c74c5c 00000000
            0c040400 00006865 7265
        "#]],
    );
    worker(
        ToWorker::Answer { text: "two".into() },
        &expect![[r#"
            44525a4c 0900 0200 08000000 00000000 1bebc2dc 00000000
            48030000 0074776f
        "#]],
    );
}

#[test]
fn what_else_the_driver_says_has_these_bytes() {
    worker(
        ToWorker::HeartbeatAnswer { sent_ns: 1, driver_ns: 2 },
        &expect![[r#"
            44525a4c 0900 0200 11000000 00000000 667cca2e 00000000
            44010000 00000000 00020000 00000000 00
        "#]],
    );
    worker(
        ToWorker::Finish,
        &expect![[r#"
            44525a4c 0900 0200 01000000 00000000 92c6ca14 00000000
            45
        "#]],
    );
    worker(
        ToWorker::Abort { reason: "why".into() },
        &expect![[r#"
            44525a4c 0900 0200 08000000 00000000 6a8cf129 00000000
            46030000 00776879
        "#]],
    );
}

#[test]
fn data_frames_have_these_bytes() {
    let incarnation = Incarnation(2);
    data(
        DataHead::Hello { worker: WorkerId(1), incarnation, to: WorkerId(3), rendezvous: None },
        &expect![[r#"
            44525a4c 0900 0300 12000000 00000000 f5bc0041 00000000
            80010000 00020000 00000000 00030000 0000
        "#]],
    );
    let rendezvous = Some([7; 16]);
    data(
        DataHead::Hello { worker: WorkerId(1), incarnation, to: WorkerId(3), rendezvous },
        &expect![[r#"
            44525a4c 0900 0300 22000000 00000000 22dcebe3 00000000
            80010000 00020000 00000000 00030000 00010707 07070707 07070707 07070707
            0707
        "#]],
    );
    data(
        DataHead::Met,
        &expect![[r#"
            44525a4c 0900 0300 01000000 00000000 94945db2 00000000
            84
        "#]],
    );
    data(
        DataHead::Released { copied: 12 },
        &expect![[r#"
            44525a4c 0900 0300 09000000 00000000 5c3c1fd2 00000000
            860c0000 00000000 00
        "#]],
    );
    data(
        DataHead::Retired { segment: 13 },
        &expect![[r#"
            44525a4c 0900 0300 05000000 00000000 800a4265 00000000
            870d0000 00
        "#]],
    );
    let batch = BatchId(4);
    data(
        DataHead::Completed { from: core(1, 2), to_core: 3, batch },
        &expect![[r#"
            44525a4c 0900 0300 11000000 00000000 5045a1fb 00000000
            82010000 00020003 00040000 00000000 00
        "#]],
    );
    let (stage, partition) = (StageId(5), PartitionId(6));
    let range = SourceRange { stage, partition, from: 7, to: 8 };
    let taken = TakenRange { batch, range, ended: true, watermark: Watermark(9) };
    data(
        DataHead::Ranges { to_core: 3, ranges: vec![taken] },
        &expect![[r#"
            44525a4c 0900 0300 2e000000 00000000 112b9f1d 00000000
            83030001 00000004 00000000 00000005 00060000 00070000 00000000 00080000
            00000000 00010900 00000000 0000
        "#]],
    );
    let part = StatePart {
        stage,
        partition,
        batch,
        since: Some(BatchId(3)),
        total: 7,
        offset: 4,
        bytes: vec![10, 11, 12],
    };
    data(
        DataHead::State { to_core: 3, part },
        &expect![[r#"
            44525a4c 0900 0300 31000000 00000000 28fa908d 00000000
            88030005 00060000 00040000 00000000 00010300 00000000 00000700 00000000
            00000400 00000000 00000300 00000a0b 0c
        "#]],
    );
    let notice = BlockNotice {
        epoch: Epoch(1),
        incarnation,
        attempt: Attempt(3),
        sender: core(4, 5),
        batch: BatchId(6),
        edge: EdgeId(7),
        content: Content::Raw,
        upstream: [PartitionId(8)].into(),
        downstream: [PartitionId(9)].into(),
        watermark: Watermark(10),
    };
    let header = BlockHeader {
        notice,
        record_counts: [2].into(),
        ranges: Arc::default(),
        record_size: 24,
        body_len: 56,
        checksum: 0x0102_0304,
    };
    let nothing = BlockHeader {
        notice: BlockNotice { downstream: [PartitionId(12)].into(), ..header.notice.clone() },
        record_counts: [0].into(),
        body_len: 0,
        checksum: 0,
        ..header.clone()
    };
    let header = BundleHeader::new(vec![(11, header), (13, nothing)]);
    let place = Place { offset: 64, generation: 15 };
    let places = vec![MappedPlace { segment: 14, place }];
    data(
        DataHead::Mapped { header: header.clone(), places },
        &expect![[r#"
            44525a4c 0900 0300 76000000 00000000 005cbd94 00000000
            85447a42 6b020001 00201108 00610000 00010000 00000000 00020000 00000000
            00060000 00000000 000a0000 00000000 00030000 00040000 00050007 00180000
            00020000 00010801 00000b01 0901000d 010c0100 01023800 00000403 0201f811
            b9520100 00000e00 00004000 00000f00 00000000 0000
        "#]],
    );
    data(
        DataHead::Blocks { header },
        &expect![[r#"
            44525a4c 0900 0300 62000000 38000000 04aa8e97 00000000
            81447a42 6b020001 00201108 00610000 00010000 00000000 00020000 00000000
            00060000 00000000 000a0000 00000000 00030000 00040000 00050007 00180000
            00020000 00010801 00000b01 0901000d 010c0100 01023800 00000403 0201f811
            b952
        "#]],
    );
}
