//! What nobody should send: an error each time, and never a panic.

use crate::wire::message::{DataHead, MappedPlace};
use drizzle_shuffle::{BundleHeader, Place};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Message, frames_of, samples};
use crate::wire::codec::Writer;
use crate::wire::frame::{
    FrameDecoder, FrameError, HEADER_LEN, MAX_BODY, MAX_HEAD, WIRE_VERSION, append_frame,
};
use crate::wire::{DecodeError, Frame, FrameKind, decode_data, decode_to_driver, decode_to_worker};

/// Whatever these bytes are, reading them as any family ends well. How many families took them?
fn families(head: &[u8]) -> usize {
    let taken = [
        decode_to_driver(head).is_ok(),
        decode_to_worker(head).is_ok(),
        decode_data(head, 0).is_ok(),
    ];
    taken.into_iter().filter(|&taken| taken).count()
}

fn head_of(message: &Message) -> Vec<u8> {
    message.encoded()[HEADER_LEN..].to_vec()
}

fn decode(message: &Message, head: &[u8]) -> Result<Message, DecodeError> {
    let kind = match message {
        Message::ToDriver(_) => FrameKind::ToDriver,
        Message::ToWorker(_) => FrameKind::ToWorker,
        Message::Data(_) => FrameKind::Data,
    };
    let body = vec![0; message.body_len()];
    Message::decoded(Frame { kind, head, body: &body })
}

proptest! {
    #[test]
    fn random_bytes_are_no_frame(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(frames_of(&bytes).0, vec![]);
    }

    #[test]
    fn random_heads_do_no_harm(tag in any::<u8>(), bytes in vec(any::<u8>(), 0..200)) {
        let mut head = vec![tag];
        head.extend(bytes);
        prop_assert!(families(&head) <= 1);
    }

    #[test]
    fn heads_with_random_small_numbers_do_no_harm(
        tag in prop_oneof![1..13u8, 64..73u8, 128..136u8],
        bytes in vec(prop_oneof![3 => Just(0u8), 2 => 0..5u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut head = vec![tag];
        head.extend(bytes);
        prop_assert!(families(&head) <= 1);
    }

    #[test]
    fn orders_of_random_small_numbers_do_no_harm(
        tags in (0..9u8, 0..13u8),
        bytes in vec(prop_oneof![3 => Just(0u8), 2 => 0..5u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut head = vec![67];
        let mut writer = Writer::new(&mut head);
        writer.u64(1);
        writer.u8(tags.0);
        if tags.0 == 1 {
            writer.u64(1);
            writer.u8(tags.1);
        }
        head.extend(bytes);
        prop_assert!(families(&head) <= 1);
    }

    #[test]
    fn reports_of_random_small_numbers_do_no_harm(
        tag in 0..14u8,
        bytes in vec(prop_oneof![3 => Just(0u8), 2 => 0..5u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut head = vec![5];
        let mut writer = Writer::new(&mut head);
        writer.u32(1);
        writer.u64(1);
        writer.u8(tag);
        head.extend(bytes);
        prop_assert!(families(&head) <= 1);
    }

    /// Wherever a count may be: one that is too large is refused, and nothing is allocated for it.
    #[test]
    fn a_large_number_anywhere_does_no_harm(
        message in samples::message(),
        at in any::<Index>(),
        number in prop_oneof![Just(u32::MAX), Just(1 << 20), Just(1 << 19), Just(1 << 12)],
    ) {
        let mut head = head_of(&message);
        prop_assume!(head.len() > 4);
        let at = at.index(head.len() - 4);
        head[at..at + 4].copy_from_slice(&number.to_le_bytes());
        if head != head_of(&message) {
            prop_assert_ne!(decode(&message, &head).ok(), Some(message));
        }
    }

    #[test]
    fn a_head_of_one_family_is_none_of_another(message in samples::message()) {
        prop_assert!(families(&head_of(&message)) <= 1);
    }

    #[test]
    fn a_head_cut_off_anywhere_is_refused(message in samples::message(), at in any::<Index>()) {
        let head = head_of(&message);
        let cut = &head[..at.index(head.len())];
        prop_assert!(decode(&message, cut).is_err());
    }

    #[test]
    fn bytes_after_a_message_are_refused(
        message in samples::message(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let mut head = head_of(&message);
        head.extend(&more);
        let trailing = match decode(&message, &head) {
            Err(DecodeError::Trailing { found, .. }) => Some(found),
            Ok(_) | Err(_) => None,
        };
        prop_assert_eq!(trailing, Some(more.len()));
    }

    /// Where no checksum helps: a changed head is another message or an error, and no panic.
    #[test]
    fn a_changed_head_never_gives_the_same_message(
        message in samples::message(),
        at in any::<Index>(),
        change in 1..=255u8,
    ) {
        let mut head = head_of(&message);
        let at = at.index(head.len());
        head[at] ^= change;
        prop_assert_ne!(decode(&message, &head).ok(), Some(message));
    }

    #[test]
    fn a_flipped_byte_before_the_body_is_never_accepted(
        message in samples::message(),
        at in any::<Index>(),
        change in 1..=255u8,
    ) {
        let covered = message.encoded().len();
        let mut bytes = message.frame();
        bytes[at.index(covered)] ^= change;
        // A length that grew leaves the frame incomplete; nothing comes out either way.
        prop_assert_eq!(frames_of(&bytes).0, vec![]);
        // What follows cannot make it good.
        bytes.extend(message.frame().repeat(3));
        prop_assert_eq!(frames_of(&bytes).0, vec![]);
    }

    #[test]
    fn a_frame_cut_off_anywhere_gives_nothing(message in samples::message(), at in any::<Index>()) {
        let bytes = message.frame();
        let cut = at.index(bytes.len());
        let mut decoder = FrameDecoder::new();
        decoder.push(&bytes[..cut]);
        prop_assert_eq!(decoder.next_frame(), Ok(None));
        let end = if cut == 0 { Ok(()) } else { Err(FrameError::Unfinished { received: cut }) };
        prop_assert_eq!(decoder.end(), end);
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    let message = Message::ToDriver(crate::wire::ToDriver::Hello { cores: 8, process: 4711 });
    let frame = message.frame();
    for bit in 0..frame.len() * 8 {
        let mut bytes = frame.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(frames_of(&bytes).0, [], "bit {bit}");
    }
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_before_anything_is_allocated() {
    let mut head = vec![64u8];
    let mut writer = Writer::new(&mut head);
    writer.u64(1);
    writer.u32(1);
    writer.u64(1);
    writer.u32(60_000);
    let expected =
        DecodeError::Truncated { what: "a list of arguments", needed: 240_000, found: 0 };
    assert_eq!(decode_to_worker(&head), Err(expected));

    head.truncate(21);
    head.extend(u32::MAX.to_le_bytes());
    let found = u32::MAX as usize;
    let expected = DecodeError::TooLong { what: "a list of arguments", found, limit: 65_536 };
    assert_eq!(decode_to_worker(&head), Err(expected));
}

/// The head of a `ScheduleGroup` of these batches, without a placement.
fn group_head(first_batch: u64, batch_count: u64) -> Vec<u8> {
    let mut head = vec![67u8];
    let mut writer = Writer::new(&mut head);
    writer.u64(1);
    writer.u8(1);
    writer.u64(1);
    writer.u8(2);
    let numbers = [1, 1, 0, first_batch, batch_count, 0, 1, 0];
    numbers.into_iter().for_each(|number| writer.u64(number));
    writer.u8(1);
    writer.u32(0);
    writer.u8(0);
    head
}

#[test]
fn groups_that_nobody_can_calculate_with_are_refused() {
    let what = "a group's number of batches";
    let none = DecodeError::Impossible { what, expected: "at least 1", found: 0 };
    assert_eq!(decode_to_worker(&group_head(1, 0)), Err(none));
    let expected = "few enough to number the batches";
    let many = DecodeError::Impossible { what, expected, found: u64::MAX };
    assert_eq!(decode_to_worker(&group_head(1, u64::MAX)), Err(many));
    assert!(decode_to_worker(&group_head(1, u64::MAX - 1)).is_ok());
}

#[test]
fn a_core_outside_of_the_table_is_refused() {
    let mut head = group_head(1, 1);
    head.pop();
    let mut writer = Writer::new(&mut head);
    writer.u8(1);
    writer.u64(1);
    writer.u64(1);
    writer.u32(0);
    writer.u32(1);
    writer.u32(1);
    writer.u16(0);
    let (what, expected) = ("a partition's core", "an index into the table of cores");
    let refused = DecodeError::Impossible { what, expected, found: 0 };
    assert_eq!(decode_to_worker(&head), Err(refused));
}

#[test]
fn a_range_that_ends_before_it_starts_is_refused() {
    let mut head = vec![5u8];
    let mut writer = Writer::new(&mut head);
    writer.u32(1);
    writer.u64(1);
    writer.u8(3);
    writer.u32(1);
    writer.u64(1);
    writer.u16(0);
    writer.u32(0);
    writer.u64(8);
    writer.u64(7);
    writer.flag(false);
    writer.u64(0);
    let (what, expected) = ("a range's end", "no less than its first offset");
    let refused = DecodeError::Impossible { what, expected, found: 7 };
    assert_eq!(decode_to_driver(&head), Err(refused));
}

/// A welcome whose history begins with what `write` writes.
fn welcome(write: impl FnOnce(&mut Writer<'_>)) -> DecodeError {
    let mut head = vec![67u8];
    let mut writer = Writer::new(&mut head);
    writer.u64(1);
    writer.u8(4);
    writer.u64(1);
    writer.u64(1);
    write(&mut writer);
    decode_to_worker(&head).expect_err("its history is wrong or ends early")
}

/// So many empty lists.
fn empty(writer: &mut Writer<'_>, lists: usize) {
    (0..lists).for_each(|_| writer.u32(0));
}

#[test]
fn lists_of_a_history_without_order_are_refused() {
    let expected = "greater than the one before it";
    let members = |writer: &mut Writer<'_>| {
        writer.u32(2);
        for worker in [7, 7] {
            writer.u32(worker);
            writer.u64(1);
            writer.u16(1);
        }
    };
    let what = "a member's number";
    assert_eq!(welcome(members), DecodeError::Impossible { what, expected, found: 7 });

    let fenced = |writer: &mut Writer<'_>| {
        empty(writer, 1);
        writer.u32(2);
        for incarnation in [9, 8] {
            writer.u32(1);
            writer.u64(incarnation);
        }
    };
    let what = "a fenced life";
    assert_eq!(welcome(fenced), DecodeError::Impossible { what, expected, found: 8 });

    let fallen = |writer: &mut Writer<'_>| {
        empty(writer, 2);
        [2, 5, 4].into_iter().for_each(|number| writer.u32(number));
    };
    let what = "a fallen worker's number";
    assert_eq!(welcome(fallen), DecodeError::Impossible { what, expected, found: 4 });

    let placements = |writer: &mut Writer<'_>| {
        empty(writer, 3);
        writer.u32(2);
        for from_batch in [6, 6] {
            writer.u64(1);
            writer.u64(from_batch);
            empty(writer, 2);
        }
    };
    let what = "a placement's first batch";
    assert_eq!(welcome(placements), DecodeError::Impossible { what, expected, found: 6 });
}

#[test]
fn a_group_that_ends_with_a_batch_of_another_is_refused() {
    let ends_with = |last: u64| {
        welcome(|writer| {
            empty(writer, 4);
            writer.u32(1);
            let group = [1, 1, 3, 4, 2, 0, 1, 0];
            group.into_iter().for_each(|number| writer.u64(number));
            writer.u8(1);
            writer.u32(0);
            writer.u8(0);
            writer.u64(last);
        })
    };
    let (what, expected) = ("the last batch of a group that is not void", "a batch of the group");
    for found in [0, 3, 6, u64::MAX] {
        assert_eq!(ends_with(found), DecodeError::Impossible { what, expected, found });
    }
    for last in [4, 5] {
        assert!(matches!(ends_with(last), DecodeError::Truncated { .. }), "{last} is its own");
    }
}

#[test]
fn lists_of_reports_that_the_bytes_cannot_hold_are_refused() {
    let report = |tag: u8, count: u32| {
        let mut head = vec![5u8];
        let mut writer = Writer::new(&mut head);
        writer.u32(1);
        writer.u64(1);
        writer.u8(tag);
        writer.u32(count);
        decode_to_driver(&head)
    };
    let what = "a list of ranges";
    let long = DecodeError::TooLong { what, found: 1 << 15, limit: 1 << 14 };
    assert_eq!(report(3, 1 << 15), Err(long));
    let what = "a list of completed batches";
    let long = DecodeError::TooLong { what, found: 1 << 17, limit: 1 << 16 };
    assert_eq!(report(12, 1 << 17), Err(long));
    let short = DecodeError::Truncated { what, needed: 8 << 16, found: 0 };
    assert_eq!(report(12, 1 << 16), Err(short));
    let (what, found) = ("the tag of a report", 13);
    assert_eq!(report(13, 0), Err(DecodeError::UnknownTag { what, found }));
}

#[test]
fn a_body_that_the_head_does_not_announce_is_refused() {
    let head = [128, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    assert!(decode_data(&head, 0).is_ok());
    let what = "this head of a data frame";
    assert_eq!(decode_data(&head, 1), Err(DecodeError::Body { what, expected: 0, found: 1 }));
}

#[test]
fn texts_that_are_not_text_are_refused() {
    let refused = DecodeError::NotText { what: "a reason", valid: 1 };
    assert_eq!(decode_to_driver(&[9, 3, 0, 0, 0, b'a', 0xff, b'b']), Err(refused));
}

/// A frame whose header says something else than it should.
fn patched(kind: FrameKind, at: usize, bytes: &[u8]) -> FrameError {
    let mut frame = Vec::new();
    append_frame(kind, 0, &mut frame, |writer| writer.u8(4));
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frames_of(&frame).1.expect_err("the header is wrong")
}

#[test]
fn a_bad_header_is_refused_with_a_sentence() {
    let long = |limit: usize| (limit as u32 + 1).to_le_bytes();
    let cases = [
        (
            patched(FrameKind::ToDriver, 0, b"GET "),
            "peer does not speak Drizzle's protocol: its frame begins with \"GET \"",
        ),
        (
            patched(FrameKind::ToDriver, 4, &[2, 0]),
            "peer speaks wire version 2, this binary speaks 9: run the same binary on every node",
        ),
        (patched(FrameKind::ToDriver, 6, &[9, 0]), "peer sent a frame of the unknown kind 9"),
        (
            patched(FrameKind::ToDriver, 8, &long(MAX_HEAD)),
            "peer sent a frame with a head of 67108865 bytes, at most 67108864 are allowed",
        ),
        (
            patched(FrameKind::Data, 12, &long(MAX_BODY)),
            "peer sent a frame of data with a body of 1073741825 bytes, at most 1073741824 are allowed",
        ),
        (
            patched(FrameKind::ToWorker, 12, &[1]),
            "peer sent a frame to a worker with a body of 1 bytes, at most 0 are allowed",
        ),
        (
            patched(FrameKind::ToDriver, 20, &[1]),
            "peer sent a frame with 0x00000001 where version 9 has 0",
        ),
    ];
    for (error, sentence) in cases {
        assert_eq!(error.to_string(), sentence);
    }
    let damaged = patched(FrameKind::ToDriver, 24, &[5]);
    assert!(matches!(damaged, FrameError::Checksum { .. }), "{damaged}");
}

#[test]
fn the_first_bytes_are_enough_to_refuse_a_stranger() {
    let mut decoder = FrameDecoder::new();
    decoder.push(b"SSH-");
    assert_eq!(decoder.next_frame(), Err(FrameError::Magic { found: *b"SSH-" }));
    let mut decoder = FrameDecoder::new();
    decoder.push(b"DRZL\x99\x00");
    assert_eq!(decoder.next_frame(), Err(FrameError::Version { peer: 0x99, own: WIRE_VERSION }));
}

#[test]
fn places_that_are_not_those_of_the_blocks_are_refused() {
    let place = |offset| MappedPlace { segment: 1, place: Place { offset, generation: 2 } };
    let mut runner = TestRunner::deterministic();
    let mut headers = std::iter::repeat_with(|| {
        samples::bundle_header().new_tree(&mut runner).expect("nothing is filtered").current()
    });
    let one_filled = |header: &BundleHeader| {
        header.blocks().iter().filter(|(_, header)| header.body_len > 0).count() == 1
    };
    let header = headers.find(one_filled).expect("there are such");
    let head = |places: Vec<MappedPlace>| {
        head_of(&Message::Data(DataHead::Mapped { header: header.clone(), places }))
    };
    assert!(decode_data(&head(vec![place(64)]), 0).is_ok());
    for (places, what) in [
        (vec![], "the number of places"),
        (vec![place(64), place(128)], "the number of places"),
        (vec![place(65)], "an offset in a segment"),
    ] {
        let refused = decode_data(&head(places), 0).unwrap_err();
        assert!(
            matches!(refused, DecodeError::Impossible { what: found, .. } if found == what),
            "{refused}"
        );
    }
}
