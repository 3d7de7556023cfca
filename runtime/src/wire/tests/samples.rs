//! Strategies for every message that nodes may send.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use drizzle_scheduler::message::{BlockNotice, DriverMessage, WorkerMessage};
use drizzle_scheduler::{
    Attempt, BatchId, EdgeId, Epoch, Life, PartitionId, StageId, Term, Watermark,
};
use drizzle_shuffle::{BlockHeader, BundleHeader, Place};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::Message;
use super::scheduling::{batch, content, core, incarnation, order, range, report, taken, worker};
use crate::io::SystemCalls;
use crate::wire::message::{
    CoreCosts, DataHead, FinalReport, MappedPlace, MemoryPeaks, Peer, Regained, Request, Returning,
    StatePart, TaskPanic, TimeByKind, ToDriver, ToWorker, WorkerStatus,
};

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
        (worker(), incarnation(), text()).prop_map(|(worker, incarnation, reason)| {
            ToDriver::PeerLost { worker, incarnation, reason }
        }),
        (any::<u16>(), any::<u64>(), prop_oneof![Just(Regained::State), Just(Regained::Time)])
            .prop_map(|(core, epoch, what)| {
                let epoch = Epoch(epoch);
                ToDriver::Regained { core, epoch, what }
            }),
        text().prop_map(|line| ToDriver::Notice { line }),
        text().prop_map(|reason| ToDriver::Failed { reason }),
        (any::<(u16, u64, u64)>(), text()).prop_map(|((stage, batch, epoch), cause)| {
            let (stage, batch, epoch) = (StageId(stage), BatchId(batch), Epoch(epoch));
            ToDriver::Panicked(TaskPanic { stage, batch, epoch, cause })
        }),
        final_report().prop_map(|report| ToDriver::Finished(Box::new(report))),
        returning(),
        request().prop_map(ToDriver::Ask),
    ]
}

fn returning() -> impl Strategy<Value = ToDriver> {
    let numbers = any::<(u16, u32, u64, u64)>();
    (worker(), incarnation(), numbers, address(), text()).prop_map(
        |(worker, incarnation, numbers, data_address, runtime)| {
            let (cores, process, fingerprint, term) = numbers;
            let (life, term) = (Life { worker, incarnation }, Term(term));
            ToDriver::Return(Returning {
                life,
                cores,
                process,
                fingerprint,
                data_address,
                runtime,
                term,
            })
        },
    )
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Status),
        any::<u32>().prop_map(|workers| Request::Scale { workers }),
        worker().prop_map(|worker| Request::Drain { worker }),
        "[a-z/]{0,20}".prop_map(|to| Request::Savepoint { to }),
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
        Just(ToWorker::Wait),
        Just(ToWorker::Finish),
        text().prop_map(|reason| ToWorker::Abort { reason }),
        any::<u64>().prop_map(|term| ToWorker::Back { term: Term(term) }),
        text().prop_map(|text| ToWorker::Answer { text }),
    ]
}

pub(super) fn data_head() -> impl Strategy<Value = DataHead> {
    prop_oneof![
        (worker(), incarnation(), worker(), option::of(any::<[u8; 16]>())).prop_map(
            |(worker, incarnation, to, rendezvous)| DataHead::Hello {
                worker,
                incarnation,
                to,
                rendezvous
            }
        ),
        Just(DataHead::Met),
        (bundle_header(), vec(mapped_place(), 5)).prop_map(|(header, mut places)| {
            let blocks = header.blocks().iter();
            places.truncate(blocks.filter(|(_, header)| header.body_len > 0).count());
            DataHead::Mapped { header, places }
        }),
        any::<u64>().prop_map(|copied| DataHead::Released { copied }),
        any::<u32>().prop_map(|segment| DataHead::Retired { segment }),
        bundle_header().prop_map(|header| DataHead::Blocks { header }),
        (core(), any::<u16>(), batch()).prop_map(|(from, to_core, batch)| DataHead::Completed {
            from,
            to_core,
            batch
        }),
        (any::<u16>(), vec(taken(), 0..6))
            .prop_map(|(to_core, ranges)| DataHead::Ranges { to_core, ranges }),
        (any::<u16>(), state_part()).prop_map(|(to_core, part)| DataHead::State { to_core, part }),
    ]
}

fn state_part() -> impl Strategy<Value = StatePart> {
    let place = (any::<u16>().prop_map(StageId), any::<u32>().prop_map(PartitionId));
    let batches = (batch(), proptest::option::of(batch()));
    (place, batches, any::<(u64, u64)>(), vec(any::<u8>(), 0..40)).prop_map(
        |((stage, partition), (batch, since), (total, offset), bytes)| StatePart {
            stage,
            partition,
            batch,
            since,
            total,
            offset,
            bytes,
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

fn status() -> impl Strategy<Value = WorkerStatus> {
    (any::<u64>(), any::<u64>(), option::of(text()), option::of(text())).prop_map(
        |(completed, records, stalled, paused)| WorkerStatus {
            completed,
            records,
            stalled,
            paused,
        },
    )
}

fn final_report() -> impl Strategy<Value = FinalReport> {
    let numbers = (any::<[u64; 4]>(), any::<[u64; 8]>(), any::<[u64; 8]>(), any::<[u64; 8]>());
    (vec((text(), any::<u64>()), 0..5), any::<[u64; 4]>(), numbers).prop_map(
        |(counters, cpu, (memory, time, calls, control))| {
            let [control_cpu_ns, cores_cpu_ns, task_cpu_ns, idle_poll_ns] = cpu;
            let [blocks_bytes, state_bytes, results_bytes, spilled_bytes] = memory;
            let memory = MemoryPeaks { blocks_bytes, state_bytes, results_bytes, spilled_bytes };
            let time = TimeByKind::from_times(time);
            let calls = SystemCalls::from_counts(calls);
            let costs = CoreCosts { time, calls, memory };
            let control_calls = SystemCalls::from_counts(control);
            FinalReport {
                counters,
                control_cpu_ns,
                cores_cpu_ns,
                task_cpu_ns,
                idle_poll_ns,
                costs,
                control_calls,
            }
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    (worker(), incarnation(), any::<u16>(), address()).prop_map(
        |(worker, incarnation, cores, address)| Peer { worker, incarnation, cores, address },
    )
}

fn block_header() -> impl Strategy<Value = BlockHeader> {
    let sections = btree_set(any::<u32>(), 1..5)
        .prop_flat_map(|upstream| (vec(0..9u32, upstream.len()), Just(upstream)));
    let ranges = vec(range(), 0..4);
    let record_size = (1..6u32).prop_map(|words| words * 8);
    (notice(), sections, ranges, record_size, any::<u32>()).prop_map(
        |(notice, (record_counts, upstream), ranges, record_size, checksum)| {
            let record_count: u32 = record_counts.iter().sum();
            BlockHeader {
                notice: BlockNotice { upstream: partitions(upstream), ..notice },
                record_counts: record_counts.into(),
                ranges: ranges.into(),
                record_size,
                body_len: if record_count == 0 { 0 } else { record_count * record_size + 8 },
                checksum: if record_count == 0 { 0 } else { checksum },
            }
        },
    )
}

fn mapped_place() -> impl Strategy<Value = MappedPlace> {
    any::<(u32, u32, u64)>().prop_map(|(segment, offset, generation)| MappedPlace {
        segment,
        place: Place { offset: offset / 16 * 16, generation },
    })
}

/// Blocks for up to five cores, some of them empty.
pub(super) fn bundle_header() -> impl Strategy<Value = BundleHeader> {
    let cores = btree_map(any::<u16>(), (btree_set(any::<u32>(), 1..4), any::<bool>()), 1..5);
    (block_header(), cores).prop_map(|(header, cores)| {
        let blocks = cores.into_iter().map(|(core, (downstream, is_empty))| {
            let notice =
                BlockNotice { downstream: partitions(downstream), ..header.notice.clone() };
            let header = BlockHeader { notice, ..header.clone() };
            let record_counts = header.record_counts.iter().map(|_| 0).collect();
            let empty = BlockHeader { record_counts, body_len: 0, checksum: 0, ..header.clone() };
            (core, if is_empty { empty } else { header })
        });
        BundleHeader::new(blocks.collect())
    })
}

/// A notice whose upstream partitions are still to be filled in.
fn notice() -> impl Strategy<Value = BlockNotice> {
    let numbers = any::<(u64, u32, u16, u64)>();
    let downstream = btree_set(any::<u32>(), 1..5);
    (numbers, incarnation(), core(), batch(), content(), downstream).prop_map(
        |(numbers, incarnation, sender, batch, content, downstream)| {
            let (epoch, attempt, edge, watermark) = numbers;
            BlockNotice {
                epoch: Epoch(epoch),
                incarnation,
                attempt: Attempt(attempt),
                sender,
                batch,
                edge: EdgeId(edge),
                content,
                upstream: Arc::default(),
                downstream: partitions(downstream),
                watermark: Watermark(watermark),
            }
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
