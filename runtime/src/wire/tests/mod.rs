//! Tests of the wire format.

mod frames;
mod golden;
mod golden_scheduling;
mod hostile;
mod journal;
mod round_trip;
mod samples;
mod scheduling;
mod variants;

use super::message::{DataHead, ToDriver, ToWorker};
use super::{
    DecodeError, Frame, FrameDecoder, FrameError, FrameKind, decode_data, decode_to_driver,
    decode_to_worker, encode_data, encode_to_driver, encode_to_worker,
};

/// Any message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    ToDriver(ToDriver),
    ToWorker(ToWorker),
    Data(DataHead),
}

impl Message {
    fn body_len(&self) -> usize {
        match self {
            Message::Data(DataHead::Blocks { header }) => header.body_len() as usize,
            Message::Data(_) | Message::ToDriver(_) | Message::ToWorker(_) => 0,
        }
    }

    /// The frame without its body.
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Message::ToDriver(message) => encode_to_driver(message, &mut out),
            Message::ToWorker(message) => encode_to_worker(message, &mut out),
            Message::Data(head) => encode_data(head, self.body_len(), &mut out),
        }
        out
    }

    /// The whole frame.
    fn frame(&self) -> Vec<u8> {
        let mut bytes = self.encoded();
        bytes.extend((0..self.body_len()).map(|at| at as u8));
        bytes
    }

    fn decoded(frame: Frame<'_>) -> Result<Message, DecodeError> {
        Ok(match frame.kind {
            FrameKind::ToDriver => Message::ToDriver(decode_to_driver(frame.head)?),
            FrameKind::ToWorker => Message::ToWorker(decode_to_worker(frame.head)?),
            FrameKind::Data => Message::Data(decode_data(frame.head, frame.body.len())?),
        })
    }
}

/// A frame that has left the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    kind: FrameKind,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Kept {
    fn new(frame: Frame<'_>) -> Kept {
        Kept { kind: frame.kind, head: frame.head.to_vec(), body: frame.body.to_vec() }
    }
}

/// All frames that the decoder has by now, and its error if it has one.
fn drained(decoder: &mut FrameDecoder, frames: &mut Vec<Kept>) -> Result<(), FrameError> {
    while let Some(frame) = decoder.next_frame()? {
        frames.push(Kept::new(frame));
    }
    Ok(())
}

/// What a fresh decoder makes of bytes that arrive at once.
fn frames_of(bytes: &[u8]) -> (Vec<Kept>, Result<(), FrameError>) {
    let (mut decoder, mut frames) = (FrameDecoder::new(), Vec::new());
    decoder.push(bytes);
    let result = drained(&mut decoder, &mut frames);
    (frames, result)
}
