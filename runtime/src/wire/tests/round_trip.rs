//! What is written is read back.

use std::sync::Arc;

use drizzle_scheduler::message::{
    BlockNotice, Content, Decision, DriverMessage, Order, Purpose, Report, ScheduleGroup,
    SourceRange, TakenRange, WorkerMessage,
};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, GroupId, Incarnation, Instant, OrderNumber,
    PartitionId, StageId, Term, Watermark, WorkerId,
};
use drizzle_shuffle::{
    BlockHeader, BlockParts, BlockStore, BlockWriter, Bundle, BundleHeader, RawEntry, StoreOptions,
};
use proptest::prelude::*;

use super::{Kept, Message, frames_of, samples};
use crate::wire::codec::MAX_TEXT;
use crate::wire::frame::HEADER_LEN;
use crate::wire::message::{DataHead, ToDriver, ToWorker};
use crate::wire::{FrameKind, decode_to_driver, encode_bundle, encode_to_driver};

fn check(message: &Message) {
    let bytes = message.frame();
    let (frames, result) = frames_of(&bytes);
    assert_eq!(result, Ok(()));
    let [Kept { kind, head, body }] = &frames[..] else {
        panic!("{} frames instead of one", frames.len());
    };
    let frame = crate::wire::Frame { kind: *kind, head, body };
    assert_eq!(Message::decoded(frame).as_ref(), Ok(message));
    assert_eq!(HEADER_LEN + head.len() + body.len(), bytes.len());
}

proptest! {
    #[test]
    fn a_message_to_the_driver_is_read_as_it_was_written(message in samples::to_driver()) {
        check(&Message::ToDriver(message));
    }

    #[test]
    fn a_message_to_a_worker_is_read_as_it_was_written(message in samples::to_worker()) {
        check(&Message::ToWorker(message));
    }

    #[test]
    fn the_head_of_a_data_frame_is_read_as_it_was_written(head in samples::data_head()) {
        check(&Message::Data(head));
    }
}

fn schedule(batch_count: u64, placement: Option<Placement>) -> Message {
    let group = ScheduleGroup {
        group: GroupId(1),
        epoch: Epoch(1),
        predecessor: BatchId(0),
        first_batch: BatchId(1),
        batch_count,
        start: Instant(0),
        interval_ns: 1_000_000,
        origin: Instant(0),
        purpose: Purpose::Process,
        contents: Arc::default(),
        placement: placement.map(Arc::new),
    };
    let decision = Decision::ScheduleGroup(Arc::new(group));
    let order = Order::Decision { number: OrderNumber(1), decision };
    Message::ToWorker(ToWorker::Order(DriverMessage { term: Term(1), order }))
}

#[test]
fn a_group_takes_the_same_bytes_whatever_its_size() {
    let lengths = [1, 10, 100, 1_000_000].map(|count| schedule(count, None).frame().len());
    assert_eq!(lengths, [lengths[0]; 4]);
}

#[test]
fn a_placement_takes_two_bytes_for_a_partition() {
    let cores = |partitions: u32| {
        (0..partitions).map(|p| CoreId { worker: WorkerId(p % 128), core: 0 }).collect()
    };
    let bytes = |partitions: u32| {
        let cores_by_stage = vec![cores(partitions)];
        let placement = Placement { epoch: Epoch(1), from_batch: BatchId(1), cores_by_stage };
        let message = schedule(1, Some(placement));
        check(&message);
        message.frame().len()
    };
    assert_eq!(bytes(512) - bytes(256), 2 * 256);
    assert_eq!(bytes(128) - bytes(64), 64 * (2 + 6));
}

#[test]
fn a_text_that_is_too_long_is_cut_between_two_characters() {
    let reason = "\u{e4}".repeat(MAX_TEXT) + "b";
    let message = ToDriver::Failed { reason: format!("a{reason}") };
    let (frames, result) = frames_of(&Message::ToDriver(message).frame());
    assert_eq!(result, Ok(()));
    let Ok(ToDriver::Failed { reason: cut }) = decode_to_driver(&frames[0].head) else {
        panic!("another message came out");
    };
    assert_eq!(cut, format!("a{}", "\u{e4}".repeat(MAX_TEXT / 2 - 1)));
}

#[test]
fn ranges_beyond_one_frame_go_into_several() {
    let taken = |batch| TakenRange {
        batch: BatchId(batch),
        range: SourceRange { stage: StageId(0), partition: PartitionId(0), from: 0, to: batch },
        ended: false,
        watermark: Watermark(0),
    };
    let ranges: Vec<TakenRange> = (0..70_000).map(taken).collect();
    let report = Report::Ranges(ranges.clone());
    let message = WorkerMessage { worker: WorkerId(1), incarnation: Incarnation(2), report };
    let mut bytes = Vec::new();
    encode_to_driver(&ToDriver::Report(message), &mut bytes);
    let (frames, result) = frames_of(&bytes);
    assert_eq!((frames.len(), result), (5, Ok(())));
    let mut read = Vec::new();
    for frame in frames {
        match decode_to_driver(&frame.head) {
            Ok(ToDriver::Report(WorkerMessage {
                worker: WorkerId(1),
                incarnation: Incarnation(2),
                report: Report::Ranges(part),
            })) => read.extend(part),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, ranges);
}

#[test]
fn a_bundle_is_written_as_its_header_with_the_checksums() {
    let mut store = BlockStore::new(StoreOptions { segment_bytes: 4096, max_bytes: 4 * 4096 });
    let mut writer = BlockWriter::new();
    writer.begin_section(0);
    for key in 0..9u64 {
        let entry = RawEntry { key, window_start: 10, value: 1u32 };
        writer.append(&mut store, &entry).expect("the store has room");
    }
    let notice = BlockNotice {
        epoch: Epoch(1),
        incarnation: Incarnation(2),
        attempt: Attempt(0),
        sender: CoreId { worker: WorkerId(3), core: 4 },
        batch: BatchId(5),
        edge: EdgeId(6),
        content: Content::Raw,
        upstream: [PartitionId(7)].into(),
        downstream: [PartitionId(8)].into(),
        watermark: Watermark(9),
    };
    let block = writer.finish(BlockParts { notice, ranges: Arc::default() });
    let mut bytes = Vec::new();
    encode_bundle(&Bundle::new(12, block.clone()), &mut bytes);
    let header = BlockHeader { checksum: block.checksum(), ..block.header().clone() };
    let bundle = BundleHeader::new(vec![(12, header.clone())]);
    let message = Message::Data(DataHead::Blocks { header: bundle });
    assert_eq!(bytes, message.encoded());

    bytes.extend_from_slice(block.body());
    let (frames, result) = frames_of(&bytes);
    assert_eq!((frames.len(), result), (1, Ok(())));
    assert_eq!((frames[0].kind, &frames[0].body[..]), (FrameKind::Data, block.body()));
    assert!(store.receive(&header, &frames[0].body).is_ok());
}
