//! Strategies for every message that nodes may send.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use drizzle_scheduler::message::{
    BlockNotice, DriverMessage, GroupStatistics, Order, Purpose, Report, ScheduleGroup,
    SourceRange, TakenRange, WorkerMessage,
};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, GroupId, Incarnation, Instant, PartitionId, StageId,
    Term, Watermark, WorkerId,
};
use drizzle_shuffle::{BlockHeader, Content};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::Message;
use crate::wire::message::{DataHead, FinalReport, Peer, ToDriver, ToWorker, WorkerStatus};

pub(super) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        to_driver().prop_map(Message::ToDriver),
        to_worker().prop_map(Message::ToWorker),
        data_head().prop_map(Message::Data),
    ]
}

pub(super) fn to_driver() -> impl Strategy<Value = ToDriver> {
    prop_oneof![
        any::<(u16, u32)>().prop_map(|(cores, process)| ToDriver::Hello { cores, process }),
        (any::<u64>(), address(), text()).prop_map(|(fingerprint, data_address, runtime)| {
            ToDriver::Joined { fingerprint, data_address, runtime }
        }),
        text().prop_map(|reason| ToDriver::CannotJoin { reason }),
        Just(ToDriver::Ready),
        worker_message().prop_map(ToDriver::Report),
        (any::<u64>(), status())
            .prop_map(|(sent_ns, status)| ToDriver::Heartbeat { sent_ns, status }),
        vec(any::<u8>(), 0..100).prop_map(|rows| ToDriver::Results { rows }),
        (worker(), text()).prop_map(|(worker, reason)| ToDriver::PeerLost { worker, reason }),
        text().prop_map(|reason| ToDriver::Failed { reason }),
        final_report().prop_map(ToDriver::Finished),
    ]
}

pub(super) fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        (any::<u64>(), worker(), incarnation(), vec(text(), 0..5)).prop_map(
            |(term, worker, incarnation, arguments)| {
                ToWorker::Welcome { term: Term(term), worker, incarnation, arguments }
            }
        ),
        text().prop_map(|reason| ToWorker::Refused { reason }),
        (any::<u32>(), vec(peer(), 0..5))
            .prop_map(|(cores_on_host, peers)| ToWorker::Peers { cores_on_host, peers }),
        (any::<u64>(), order())
            .prop_map(|(term, order)| ToWorker::Order(DriverMessage { term: Term(term), order })),
        any::<(u64, u64)>()
            .prop_map(|(sent_ns, driver_ns)| ToWorker::HeartbeatAnswer { sent_ns, driver_ns }),
        Just(ToWorker::Finish),
        text().prop_map(|reason| ToWorker::Abort { reason }),
    ]
}

pub(super) fn data_head() -> impl Strategy<Value = DataHead> {
    prop_oneof![
        (worker(), incarnation(), worker()).prop_map(|(worker, incarnation, to)| DataHead::Hello {
            worker,
            incarnation,
            to
        }),
        (any::<u16>(), block_header())
            .prop_map(|(to_core, header)| DataHead::Block { to_core, header }),
        (core(), any::<u16>(), batch()).prop_map(|(from, to_core, batch)| DataHead::Completed {
            from,
            to_core,
            batch
        }),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        schedule_group().prop_map(|group| Order::ScheduleGroup(Arc::new(group))),
        (batch(), stage()).prop_map(|(batch, stage)| Order::Release { batch, stage }),
        batch().prop_map(|proposed| Order::CutGroup { proposed }),
        batch().prop_map(|last_batch| Order::CommitCut { last_batch }),
    ]
}

fn schedule_group() -> impl Strategy<Value = ScheduleGroup> {
    let ids = any::<(u64, u64, u64)>();
    let batches = (0..u64::MAX).prop_flat_map(|first| (Just(first), 1..=u64::MAX - first));
    let times = any::<(u64, u64, u64)>();
    let purpose = prop_oneof![Just(Purpose::Process), Just(Purpose::Flush)];
    (ids, batches, times, purpose, option::of(placement())).prop_map(
        |((group, epoch, predecessor), (first, count), (start, interval, origin), purpose, p)| {
            ScheduleGroup {
                group: GroupId(group),
                epoch: Epoch(epoch),
                predecessor: BatchId(predecessor),
                first_batch: BatchId(first),
                batch_count: count,
                start: Instant(start),
                interval_ns: interval,
                origin: Instant(origin),
                purpose,
                placement: p.map(Arc::new),
            }
        },
    )
}

fn placement() -> impl Strategy<Value = Placement> {
    (any::<u64>(), batch(), vec(vec(core(), 0..6), 0..4)).prop_map(
        |(epoch, from_batch, cores_by_stage)| Placement {
            epoch: Epoch(epoch),
            from_batch,
            cores_by_stage,
        },
    )
}

fn worker_message() -> impl Strategy<Value = WorkerMessage> {
    (worker(), incarnation(), report()).prop_map(|(worker, incarnation, report)| WorkerMessage {
        worker,
        incarnation,
        report,
    })
}

fn report() -> impl Strategy<Value = Report> {
    let group = || any::<u64>().prop_map(GroupId);
    prop_oneof![
        (group(), batch(), any::<[u64; 5]>()).prop_map(|(group, last_batch, numbers)| {
            Report::GroupDone { group, last_batch, statistics: statistics(numbers) }
        }),
        (batch(), stage()).prop_map(|(batch, stage)| Report::StageDone { batch, stage }),
        vec((batch(), range(), any::<bool>()), 0..6).prop_map(|ranges| {
            let ranges = ranges.into_iter();
            let taken = ranges.map(|(batch, range, ended)| TakenRange { batch, range, ended });
            Report::Ranges(taken.collect())
        }),
        (group(), batch()).prop_map(|(group, expected)| Report::Refused { group, expected }),
        batch().prop_map(|last_batch| Report::Promise { last_batch }),
    ]
}

fn statistics(
    [tasks, run_ns, schedule_ns, overtaken, worst_delay_ns]: [u64; 5],
) -> GroupStatistics {
    GroupStatistics { tasks, run_ns, schedule_ns, overtaken, worst_delay_ns }
}

fn range() -> impl Strategy<Value = SourceRange> {
    let offsets = any::<u64>().prop_flat_map(|from| (Just(from), from..=u64::MAX));
    (stage(), any::<u32>(), offsets).prop_map(|(stage, partition, (from, to))| SourceRange {
        stage,
        partition: PartitionId(partition),
        from,
        to,
    })
}

fn status() -> impl Strategy<Value = WorkerStatus> {
    (any::<u64>(), any::<u64>(), option::of(text()))
        .prop_map(|(completed, records, stalled)| WorkerStatus { completed, records, stalled })
}

fn final_report() -> impl Strategy<Value = FinalReport> {
    (vec((text(), any::<u64>()), 0..5), any::<u64>(), any::<u64>()).prop_map(
        |(counters, control_cpu_ns, cores_cpu_ns)| FinalReport {
            counters,
            control_cpu_ns,
            cores_cpu_ns,
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    (worker(), incarnation(), any::<u16>(), address()).prop_map(
        |(worker, incarnation, cores, address)| Peer { worker, incarnation, cores, address },
    )
}

fn block_header() -> impl Strategy<Value = BlockHeader> {
    let content = prop_oneof![Just(Content::Raw), Just(Content::Partial)];
    let sections = btree_set(any::<u32>(), 1..5)
        .prop_flat_map(|upstream| (vec(0..9u32, upstream.len()), Just(upstream)));
    let ranges = vec(range(), 0..4);
    let record_size = (1..6u32).prop_map(|words| words * 8);
    (notice(), content, sections, ranges, record_size, any::<u32>()).prop_map(
        |(notice, content, (record_counts, upstream), ranges, record_size, checksum)| {
            let record_count: u32 = record_counts.iter().sum();
            BlockHeader {
                notice: BlockNotice { upstream: partitions(upstream), ..notice },
                content,
                record_counts,
                ranges: ranges.into(),
                record_size,
                body_len: if record_count == 0 { 0 } else { record_count * record_size + 8 },
                checksum,
            }
        },
    )
}

/// A notice whose upstream partitions are still to be filled in.
fn notice() -> impl Strategy<Value = BlockNotice> {
    let numbers = any::<(u64, u32, u16, u64)>();
    (numbers, incarnation(), core(), batch(), btree_set(any::<u32>(), 1..5)).prop_map(
        |((epoch, attempt, edge, watermark), incarnation, sender, batch, downstream)| BlockNotice {
            epoch: Epoch(epoch),
            incarnation,
            attempt: Attempt(attempt),
            sender,
            batch,
            edge: EdgeId(edge),
            upstream: Arc::default(),
            downstream: partitions(downstream),
            watermark: Watermark(watermark),
        },
    )
}

fn partitions(numbers: impl IntoIterator<Item = u32>) -> Arc<[PartitionId]> {
    numbers.into_iter().map(PartitionId).collect()
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(u32, u16)>()
        .prop_map(|(ip, port)| SocketAddrV4::new(Ipv4Addr::from_bits(ip), port).into());
    let v6 = any::<(u128, u16, u32, u32)>().prop_map(|(ip, port, flow, scope)| {
        SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, flow, scope).into()
    });
    prop_oneof![v4, v6]
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

fn core() -> impl Strategy<Value = CoreId> {
    // Few workers, so that cores repeat within a placement.
    (0..3u32, any::<bool>())
        .prop_map(|(worker, second)| CoreId { worker: WorkerId(worker), core: second.into() })
}

fn worker() -> impl Strategy<Value = WorkerId> {
    any::<u32>().prop_map(WorkerId)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

fn batch() -> impl Strategy<Value = BatchId> {
    any::<u64>().prop_map(BatchId)
}

fn stage() -> impl Strategy<Value = StageId> {
    any::<u16>().prop_map(StageId)
}
