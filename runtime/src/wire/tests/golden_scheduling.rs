//! The bytes of everything that schedulers say: each variant by its name, and the head of its frame.
//! A change here is a change of the protocol: raise `WIRE_VERSION`.

use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::history::History;
use drizzle_scheduler::message::{
    Combined, Content, Coverage, Decision, DriverMessage, Errand, GroupStatistics, Holding, Move,
    Order, Purpose, Recover, Report, Restore, Rollback, ScheduleGroup, SourceRange, Standing,
    TakenRange, WorkerMessage,
};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{
    BatchId, CoreId, CutId, Epoch, GroupId, Incarnation, Instant, Life, OrderNumber, PartitionId,
    Sequence, StageId, Term, Watermark, WorkerId,
};
use expect_test::{Expect, expect};

use super::Message;
use super::golden::words;
use super::variants::{Variants, assert_all};
use crate::wire::frame::HEADER_LEN;
use crate::wire::message::{ToDriver, ToWorker};

const STAGE: StageId = StageId(0xa1);
const PARTITION: PartitionId = PartitionId(0xa2);
const CUT: CutId = CutId { term: Term(0xa3), number: OrderNumber(0xa4) };
const LIFE: Life = Life { worker: WorkerId(0xa5), incarnation: Incarnation(0xa6) };
const FROM: CoreId = CoreId { worker: WorkerId(0xa7), core: 0xa8 };
const TO: CoreId = CoreId { worker: WorkerId(0xa9), core: 0xaa };
const RANGE: SourceRange = SourceRange { stage: STAGE, partition: PARTITION, from: 0xab, to: 0xac };
const TAKEN: TakenRange =
    TakenRange { batch: BatchId(0xad), range: RANGE, ended: true, watermark: Watermark(0xae) };
const MOVE: Move = Move { stage: STAGE, partition: PARTITION, from: FROM, to: TO };
const ERRAND: Errand = Errand { core: FROM, taken: TAKEN, floor: Watermark(0xaf) };
const SNAPSHOT: Snapshot = Snapshot {
    stage: STAGE,
    partition: PARTITION,
    batch: BatchId(0xb0),
    since: None,
    incarnation: Incarnation(0xb1),
};
const COVERAGE: Coverage =
    Coverage { stage: STAGE, partition: PARTITION, first: BatchId(0xb2), last: BatchId(u64::MAX) };

fn check<T: Variants>(values: &[T], message: impl Fn(&T) -> Message, expected: &Expect) {
    let mut text = String::new();
    for value in values {
        text += &format!("{}\n", value.variant());
        text += &words(&message(value).encoded()[HEADER_LEN..]);
    }
    expected.assert_eq(&text);
}

fn of_order(order: &Order) -> Message {
    Message::ToWorker(ToWorker::Order(DriverMessage { term: Term(0x33), order: order.clone() }))
}

fn of_decision(decision: &Decision) -> Message {
    of_order(&Order::Decision { number: OrderNumber(0x44), decision: decision.clone() })
}

fn of_report(report: &Report) -> Message {
    let (worker, incarnation, report) = (WorkerId(0x11), Incarnation(0x22), report.clone());
    Message::ToDriver(ToDriver::Report(WorkerMessage { worker, incarnation, report }))
}

fn placement() -> Placement {
    let cores_by_stage = vec![vec![TO, FROM, TO], vec![], vec![FROM]];
    Placement { epoch: Epoch(9), from_batch: BatchId(10), cores_by_stage }
}

fn group(purpose: Purpose, contents: &[Content], placement: Option<Placement>) -> ScheduleGroup {
    ScheduleGroup {
        group: GroupId(1),
        epoch: Epoch(2),
        predecessor: BatchId(3),
        first_batch: BatchId(4),
        batch_count: 5,
        start: Instant(6),
        interval_ns: 7,
        origin: Instant(8),
        purpose,
        contents: contents.into(),
        placement: placement.map(Arc::new),
    }
}

fn manifest() -> Manifest {
    let position = SourcePosition {
        stage: STAGE,
        partition: PARTITION,
        after: BatchId(6),
        offset: 7,
        watermark: Watermark(8),
        ended: false,
    };
    Manifest {
        sequence: Sequence(1),
        term: Term(2),
        batch: BatchId(3),
        number: OrderNumber(4),
        snapshots: vec![SNAPSHOT, Snapshot { since: Some(BatchId(5)), ..SNAPSHOT }],
        positions: vec![position],
    }
}

fn standing() -> Standing {
    Standing { ranges: vec![TAKEN], coverage: vec![COVERAGE] }
}

fn history() -> History {
    History {
        applied: OrderNumber(1),
        epoch: Epoch(2),
        members: [(WorkerId(3), (Incarnation(4), 5))].into(),
        fenced: [LIFE].into(),
        fallen: [WorkerId(6)].into(),
        placements: [Arc::new(placement())].into_iter().collect(),
        groups: vec![(Arc::new(group(Purpose::Process, &[], None)), BatchId(7))],
        last_group: GroupId(8),
        last_batch: BatchId(9),
        manifest: Some(Arc::new(manifest())),
        checkpoint: Some(BatchId(10)),
        prepared: vec![MOVE],
        moves: vec![(MOVE, BatchId(11))],
    }
}

fn recover() -> Recover {
    let rollback =
        |from| Rollback { stage: STAGE, partition: PARTITION, after: BatchId(1), to: TO, from };
    let position = Restore::Position { offset: 2, watermark: Watermark(3), ended: true };
    Recover {
        epoch: Epoch(4),
        manifest: Some(Arc::new(manifest())),
        placements: vec![Arc::new(placement())],
        moved: vec![rollback(Restore::Manifest), rollback(Restore::Copy), rollback(position)],
        errands: vec![ERRAND],
        replay_through: BatchId(5),
        released_through: BatchId(6),
    }
}

fn decisions() -> Vec<Decision> {
    let (raw, partial) = (Content::Raw, Content::Partial);
    let later = Recover { manifest: None, placements: vec![], moved: vec![], ..recover() };
    vec![
        Decision::Admit([(LIFE, 1)].into()),
        Decision::ScheduleGroup(Arc::new(group(Purpose::Process, &[], None))),
        Decision::ScheduleGroup(Arc::new(group(
            Purpose::Flush,
            &[raw, partial],
            Some(placement()),
        ))),
        Decision::CutGroup { cut: CUT, proposed: BatchId(1) },
        Decision::CommitCut { cut: CUT, last_batch: BatchId(1) },
        Decision::Fence([LIFE].into()),
        Decision::Recover(Arc::new(recover())),
        Decision::Recover(Arc::new(later)),
        Decision::Checkpoint { batch: BatchId(1) },
        Decision::AbandonCheckpoint { batch: BatchId(1) },
        Decision::Durable(Arc::new(manifest())),
        Decision::Prepare([MOVE].into()),
        Decision::AbandonMoves,
    ]
}

fn orders() -> Vec<Order> {
    vec![
        Order::Decision { number: OrderNumber(0x44), decision: Decision::AbandonMoves },
        Order::Release { batch: BatchId(1), stage: STAGE },
        Order::Recorded { through: BatchId(1) },
        Order::Welcome(Arc::new(history())),
        Order::Welcome(Arc::new(History::default())),
        Order::TakeOver { cut: CUT },
        Order::Leave { life: LIFE },
        Order::Speculate([ERRAND].into()),
    ]
}

fn reports() -> Vec<Report> {
    let statistics = GroupStatistics {
        tasks: 3,
        run_ns: 4,
        schedule_ns: 5,
        overtaken: 6,
        worst_delay_ns: 7,
        run_ns_by_core: vec![8, 9],
        combined: vec![Combined { records_in: 10, records_out: 11 }],
    };
    let (group, epoch, number) = (GroupId(1), Epoch(2), OrderNumber(3));
    let batch = BatchId(4);
    let holding = Holding {
        promise: BatchId(1),
        history: History::default(),
        recent: vec![(number, Decision::Checkpoint { batch })],
        standing: standing(),
    };
    vec![
        Report::GroupDone { group, epoch, last_batch: batch, statistics },
        Report::StageDone { batch, stage: STAGE },
        Report::Ranges(vec![TAKEN, TakenRange { ended: false, ..TAKEN }]),
        Report::Refused { group, expected: batch },
        Report::Promise { cut: CUT, last_batch: batch },
        Report::Fenced { number, standing: standing() },
        Report::Holding(Box::new(holding)),
        Report::Snapshots { batch, snapshots: vec![SNAPSHOT] },
        Report::NoSnapshot { batch },
        Report::HighMark,
        Report::Prepared { number },
        Report::Progress { completed: vec![batch, BatchId(5)] },
    ]
}

#[test]
fn decisions_have_these_bytes() {
    let decisions = decisions();
    assert_all(decisions.iter().cloned());
    assert_all(recover().moved.into_iter().map(|rollback| rollback.from));
    check(
        &decisions,
        of_decision,
        &expect![[r#"
        Admit
        43330000 00000000 00014400 00000000 00000101 000000a5 000000a6 00000000
        00000001 00
        ScheduleGroup
        43330000 00000000 00014400 00000000 00000201 00000000 00000002 00000000
        00000003 00000000 00000004 00000000 00000005 00000000 00000006 00000000
        00000007 00000000 00000008 00000000 00000001 00000000 00
        ScheduleGroup
        43330000 00000000 00014400 00000000 00000201 00000000 00000002 00000000
        00000003 00000000 00000004 00000000 00000005 00000000 00000006 00000000
        00000007 00000000 00000008 00000000 00000002 02000000 01020109 00000000
        0000000a 00000000 00000002 000000a7 000000a8 00a90000 00aa0003 00000003
        00000001 00000001 00000000 00010000 000000
        CutGroup
        43330000 00000000 00014400 00000000 000003a3 00000000 000000a4 00000000
        00000001 00000000 000000
        CommitCut
        43330000 00000000 00014400 00000000 000004a3 00000000 000000a4 00000000
        00000001 00000000 000000
        Fence
        43330000 00000000 00014400 00000000 00000501 000000a5 000000a6 00000000
        000000
        Recover
        43330000 00000000 00014400 00000000 00000604 00000000 00000001 01000000
        00000000 02000000 00000000 03000000 00000000 04000000 00000000 02000000
        a100a200 0000b000 00000000 000000b1 00000000 000000a1 00a20000 00b00000
        00000000 00010500 00000000 0000b100 00000000 00000100 0000a100 a2000000
        06000000 00000000 07000000 00000000 08000000 00000000 00010000 00090000
        00000000 000a0000 00000000 00020000 00a70000 00a800a9 000000aa 00030000
        00030000 00010000 00010000 00000001 00000000 00030000 00a100a2 00000001
        00000000 000000a9 000000aa 0001a100 a2000000 01000000 00000000 a9000000
        aa0002a1 00a20000 00010000 00000000 00a90000 00aa0003 02000000 00000000
        03000000 00000000 01010000 00a70000 00a800ad 00000000 000000a1 00a20000
        00ab0000 00000000 00ac0000 00000000 0001ae00 00000000 0000af00 00000000
        00000500 00000000 00000600 00000000 0000
        Recover
        43330000 00000000 00014400 00000000 00000604 00000000 00000000 00000000
        00000000 01000000 a7000000 a800ad00 00000000 0000a100 a2000000 ab000000
        00000000 ac000000 00000000 01ae0000 00000000 00af0000 00000000 00050000
        00000000 00060000 00000000 00
        Checkpoint
        43330000 00000000 00014400 00000000 00000701 00000000 000000
        AbandonCheckpoint
        43330000 00000000 00014400 00000000 00000801 00000000 000000
        Durable
        43330000 00000000 00014400 00000000 00000901 00000000 00000002 00000000
        00000003 00000000 00000004 00000000 00000002 000000a1 00a20000 00b00000
        00000000 0000b100 00000000 0000a100 a2000000 b0000000 00000000 01050000
        00000000 00b10000 00000000 00010000 00a100a2 00000006 00000000 00000007
        00000000 00000008 00000000 00000000
        Prepare
        43330000 00000000 00014400 00000000 00000a01 000000a1 00a20000 00a70000
        00a800a9 000000aa 00
        AbandonMoves
        43330000 00000000 00014400 00000000 00000b
    "#]],
    );
}

#[test]
fn orders_have_these_bytes() {
    let orders = orders();
    assert_all(orders.iter().cloned());
    check(
        &orders,
        of_order,
        &expect![[r#"
        Decision
        43330000 00000000 00014400 00000000 00000b
        Release
        43330000 00000000 00020100 00000000 0000a100
        Recorded
        43330000 00000000 00030100 00000000 0000
        Welcome
        43330000 00000000 00040100 00000000 00000200 00000000 00000100 00000300
        00000400 00000000 00000500 01000000 a5000000 a6000000 00000000 01000000
        06000000 01000000 09000000 00000000 0a000000 00000000 02000000 a7000000
        a800a900 0000aa00 03000000 03000000 01000000 01000000 00000100 00000000
        01000000 01000000 00000000 02000000 00000000 03000000 00000000 04000000
        00000000 05000000 00000000 06000000 00000000 07000000 00000000 08000000
        00000000 01000000 00000700 00000000 00000800 00000000 00000900 00000000
        00000101 00000000 00000002 00000000 00000003 00000000 00000004 00000000
        00000002 000000a1 00a20000 00b00000 00000000 0000b100 00000000 0000a100
        a2000000 b0000000 00000000 01050000 00000000 00b10000 00000000 00010000
        00a100a2 00000006 00000000 00000007 00000000 00000008 00000000 00000000
        010a0000 00000000 00010000 00a100a2 000000a7 000000a8 00a90000 00aa0001
        000000a1 00a20000 00a70000 00a800a9 000000aa 000b0000 00000000 00
        Welcome
        43330000 00000000 00040000 00000000 00000000 00000000 00000000 00000000
        00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
        00000000 00000000
        TakeOver
        43330000 00000000 0005a300 00000000 0000a400 00000000 0000
        Leave
        43330000 00000000 0006a500 0000a600 00000000 0000
        Speculate
        43330000 00000000 00070100 0000a700 0000a800 ad000000 00000000 a100a200
        0000ab00 00000000 0000ac00 00000000 000001ae 00000000 000000af 00000000
        000000
    "#]],
    );
}

#[test]
fn reports_have_these_bytes() {
    let reports = reports();
    assert_all(reports.iter().cloned());
    check(
        &reports,
        of_report,
        &expect![[r#"
        GroupDone
        05110000 00220000 00000000 00010100 00000000 00000200 00000000 00000400
        00000000 00000300 00000000 00000400 00000000 00000500 00000000 00000600
        00000000 00000700 00000000 00000200 00000800 00000000 00000900 00000000
        00000100 00000a00 00000000 00000b00 00000000 0000
        StageDone
        05110000 00220000 00000000 00020400 00000000 0000a100
        Ranges
        05110000 00220000 00000000 00030200 0000ad00 00000000 0000a100 a2000000
        ab000000 00000000 ac000000 00000000 01ae0000 00000000 00ad0000 00000000
        00a100a2 000000ab 00000000 000000ac 00000000 00000000 ae000000 00000000
        Refused
        05110000 00220000 00000000 00040100 00000000 00000400 00000000 0000
        Promise
        05110000 00220000 00000000 0005a300 00000000 0000a400 00000000 00000400
        00000000 0000
        Fenced
        05110000 00220000 00000000 00060300 00000000 00000100 0000ad00 00000000
        0000a100 a2000000 ab000000 00000000 ac000000 00000000 01ae0000 00000000
        00010000 00a100a2 000000b2 00000000 000000ff ffffffff ffffff
        Holding
        05110000 00220000 00000000 00070100 00000000 00000000 00000000 00000000
        00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
        00000000 00000000 00000000 00000000 00000000 01000000 03000000 00000000
        07040000 00000000 00010000 00ad0000 00000000 00a100a2 000000ab 00000000
        000000ac 00000000 00000001 ae000000 00000000 01000000 a100a200 0000b200
        00000000 0000ffff ffffffff ffff
        Snapshots
        05110000 00220000 00000000 00080400 00000000 00000100 0000a100 a2000000
        b0000000 00000000 00b10000 00000000 00
        NoSnapshot
        05110000 00220000 00000000 00090400 00000000 0000
        HighMark
        05110000 00220000 00000000 000a
        Prepared
        05110000 00220000 00000000 000b0300 00000000 0000
        Progress
        05110000 00220000 00000000 000c0200 00000400 00000000 00000500 00000000
        0000
    "#]],
    );
}
