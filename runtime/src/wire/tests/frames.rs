//! The decoder of frames: however bytes arrive, the same frames come out.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{FrameDecoder, FrameError, FrameKind, Kept, Message, drained, frames_of, samples};
use crate::wire::frame::{HEADER_LEN, MAX_BODY, append_frame};

/// A data frame with these bytes; the head is nothing that `decode_data` would take.
fn data_frame(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_frame(FrameKind::Data, body.len(), &mut bytes, |writer| {
        writer.raw().extend_from_slice(head);
    });
    bytes.extend_from_slice(body);
    bytes
}

/// Receives as the kernel would: at most `piece` bytes, and no more than there is room for.
fn receive<'a>(decoder: &mut FrameDecoder, bytes: &'a [u8], piece: usize) -> &'a [u8] {
    let mut buffer = decoder.lend();
    let room = buffer.capacity() - buffer.len();
    assert!(room > 0, "there is always room to receive");
    let (piece, rest) = bytes.split_at(piece.min(room).min(bytes.len()));
    buffer.extend_from_slice(piece);
    decoder.give_back(buffer);
    rest
}

/// Takes the frames out at every so many pieces, and at the end.
fn in_pieces(
    bytes: &[u8],
    pieces: &[usize],
    lent: bool,
    turn: usize,
) -> (Vec<Kept>, Result<(), FrameError>) {
    let (mut decoder, mut frames) = (FrameDecoder::new(), Vec::new());
    let mut rest = bytes;
    for (number, &piece) in pieces.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        rest = if lent {
            receive(&mut decoder, rest, piece)
        } else {
            let (piece, rest) = rest.split_at(piece.min(rest.len()));
            decoder.push(piece);
            rest
        };
        let is_turn = number % turn == 0 || rest.is_empty();
        if is_turn && let Err(error) = drained(&mut decoder, &mut frames) {
            return (frames, Err(error));
        }
    }
    (frames, Ok(()))
}

proptest! {
    #[test]
    fn messages_come_out_as_they_were_sent_whatever_the_pieces(
        messages in vec(samples::message(), 1..8),
        pieces in vec(1..300usize, 1..20),
        lent in any::<bool>(),
        turn in 1..5usize,
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(Message::frame).collect();
        let (frames, result) = in_pieces(&bytes, &pieces, lent, turn);
        prop_assert_eq!(result, Ok(()));
        let decoded = frames.iter().map(|Kept { kind, head, body }| {
            Message::decoded(super::Frame { kind: *kind, head, body })
        });
        prop_assert_eq!(decoded.collect::<Result<Vec<_>, _>>(), Ok(messages));
    }

    #[test]
    fn an_error_is_the_same_whatever_the_pieces(
        messages in vec(samples::message(), 1..4),
        at in any::<prop::sample::Index>(),
        change in 1..=255u8,
        pieces in vec(1..100usize, 1..20),
        lent in any::<bool>(),
        turn in 1..5usize,
    ) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(Message::frame).collect();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert_eq!(in_pieces(&bytes, &pieces, lent, turn), frames_of(&bytes));
    }

    #[test]
    fn large_bodies_come_out_whole(
        lengths in vec(0..400_000usize, 1..6),
        piece in 1_000..200_000usize,
        lent in any::<bool>(),
        turn in 1..5usize,
    ) {
        let sent: Vec<Kept> = lengths.iter().enumerate().map(|(number, &length)| {
            let body = (0..length).map(|at| (at * 31 + number) as u8).collect();
            Kept { kind: FrameKind::Data, head: vec![number as u8; number], body }
        }).collect();
        let bytes: Vec<u8> =
            sent.iter().flat_map(|frame| data_frame(&frame.head, &frame.body)).collect();
        prop_assert_eq!(in_pieces(&bytes, &[piece], lent, turn), (sent, Ok(())));
    }

    #[test]
    fn bodies_come_out_in_pieces_or_go_past_the_decoder(
        lengths in vec(0..5000usize, 1..6),
        pieces in vec((1..3000usize, any::<bool>()), 1..20),
    ) {
        let body = |number: usize| (0..lengths[number]).map(move |at| (at * 31 + number) as u8);
        let frames = 0..lengths.len();
        let bytes: Vec<u8> = frames
            .flat_map(|number| data_frame(&[number as u8], &body(number).collect::<Vec<_>>()))
            .collect();
        let (mut decoder, mut rest, mut missing) = (FrameDecoder::new(), &bytes[..], 0);
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        for &(piece, past) in pieces.iter().cycle() {
            if let Some(last) = bodies.last_mut() && missing > 0 {
                let taken = decoder.take_body(piece);
                missing -= taken.len();
                last.extend(taken);
            }
            if missing == 0 && let Some(head) = decoder.next_head().unwrap() {
                prop_assert_eq!(head.head, [bodies.len() as u8]);
                missing = head.body_len;
                bodies.push(Vec::new());
                continue;
            }
            if rest.is_empty() && missing == 0 {
                break;
            }
            let came = decoder.take_body(usize::MAX).to_vec();
            missing -= came.len();
            bodies.last_mut().into_iter().for_each(|last| last.extend(&came));
            let count = if past { piece.min(missing) } else { 0 };
            let (direct, behind) = rest.split_at(count);
            if count > 0 {
                decoder.body_came_elsewhere(count);
            }
            missing -= count;
            bodies.last_mut().into_iter().for_each(|last| last.extend(direct));
            let (next, behind) = behind.split_at(piece.min(behind.len()));
            decoder.push(next);
            rest = behind;
        }
        let sent: Vec<Vec<u8>> = (0..lengths.len()).map(|number| body(number).collect()).collect();
        prop_assert_eq!(bodies, sent);
        prop_assert_eq!(decoder.end(), Ok(()));
    }
}

#[test]
fn pieces_of_every_size_give_the_same_frames() {
    let bytes = [data_frame(b"first", b""), data_frame(b"", b"second"), data_frame(b"3", b"third")];
    let bytes = bytes.concat();
    let whole = frames_of(&bytes);
    assert_eq!(whole.0.len(), 3);
    for piece in 1..=bytes.len() {
        assert_eq!(in_pieces(&bytes, &[piece], false, 1), whole, "pushed by {piece}");
        assert_eq!(in_pieces(&bytes, &[piece], true, 1), whole, "received by {piece}");
    }
}

#[test]
fn frames_before_a_bad_one_are_good_and_nothing_comes_after() {
    let mut bytes = data_frame(b"good", b"body");
    bytes.extend_from_slice(&[0; HEADER_LEN]);
    let mut decoder = FrameDecoder::new();
    decoder.push(&bytes);
    assert!(matches!(decoder.next_frame(), Ok(Some(frame)) if frame.head == b"good"));
    let error = FrameError::Magic { found: [0; 4] };
    assert_eq!(decoder.next_frame(), Err(error));
    decoder.push(&data_frame(b"good", b"body"));
    assert_eq!(decoder.next_frame(), Err(error));
    let mut buffer = decoder.lend();
    buffer.extend_from_slice(&data_frame(b"good", b"body"));
    decoder.give_back(buffer);
    assert_eq!(decoder.next_frame(), Err(error));
    assert_eq!(decoder.end(), Err(error));
}

#[test]
fn a_header_that_announces_much_takes_no_memory() {
    let mut bytes = Vec::new();
    append_frame(FrameKind::Data, MAX_BODY, &mut bytes, |writer| writer.u8(0));
    let mut decoder = FrameDecoder::new();
    decoder.push(&bytes);
    assert_eq!(decoder.next_frame(), Ok(None));
    let buffer = decoder.lend();
    assert!(buffer.capacity() <= 256 << 10, "{} bytes", buffer.capacity());
}

#[test]
fn memory_stays_within_a_small_multiple_of_what_has_arrived() {
    let frame = data_frame(b"", &vec![7; 16 << 20]);
    let mut decoder = FrameDecoder::new();
    let mut rest = &frame[..];
    while !rest.is_empty() {
        rest = receive(&mut decoder, rest, 100_000);
        let arrived = frame.len() - rest.len();
        assert!(decoder.next_frame().is_ok_and(|frame| frame.is_some() == rest.is_empty()));
        let buffer = decoder.lend();
        assert!(buffer.capacity() <= 3 * arrived + (256 << 10), "{arrived}: {}", buffer.capacity());
        decoder.give_back(buffer);
    }
    let kept = decoder.lend().capacity();
    assert!(kept <= 4 << 20, "the memory of a large frame is given back, not kept: {kept}");
}

#[test]
fn frames_that_nobody_takes_out_are_kept() {
    let stream = data_frame(b"head", &[1; 1000]).repeat(2000);
    let mut decoder = FrameDecoder::new();
    decoder.push(&stream[..100]);
    assert_eq!(decoder.next_frame(), Ok(None));
    let (mut rest, mut capacities) = (&stream[100..], vec![]);
    while !rest.is_empty() {
        rest = receive(&mut decoder, rest, 3000);
        let buffer = decoder.lend();
        capacities.push(buffer.capacity());
        decoder.give_back(buffer);
    }
    let mut frames = Vec::new();
    assert_eq!((drained(&mut decoder, &mut frames), frames.len()), (Ok(()), 2000));
    capacities.dedup();
    assert!(capacities.len() < 10, "the buffer grows by a factor: {capacities:?}");
}

/// Bytes may move when the buffer grows or when more were consumed than move; so in all, the moves
/// of any stream are at most a small multiple of its length. Seen from outside: where frames lie.
#[test]
fn frames_of_one_size_are_received_in_place() {
    let frame = data_frame(b"head", &vec![1; 300_000]);
    let stream = frame.repeat(20);
    let (mut decoder, mut rest, mut places) = (FrameDecoder::new(), &stream[..], Vec::new());
    while !rest.is_empty() {
        rest = receive(&mut decoder, rest, usize::MAX);
        while let Ok(Some(frame)) = decoder.next_frame() {
            places.push(frame.head.as_ptr());
        }
    }
    assert_eq!(places.len(), 20);
    places.dedup();
    assert!(places.len() <= 2, "each frame starts where the one before it did: {places:?}");
}
