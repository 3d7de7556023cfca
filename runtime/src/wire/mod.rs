//! What nodes say to each other, and how it is written down.
//!
//! * [`message`]: the messages as types.
//! * [`frame`]: what every message travels in: lengths, version, checksum.
//! * [`control`] and [`data`]: the messages as bytes, written and read by hand. The head of a frame
//!   holds the message; only data frames have a body, the bytes of a block.
//! * [`codec`]: numbers, texts and lists as bytes.
//!
//! All numbers are little-endian. Nothing that arrives is trusted: every length has a limit, and
//! what does not fit is a typed error, with which the connection is closed. There is one version of
//! the protocol, [`frame::WIRE_VERSION`]: it rises with every change, and nodes of different
//! versions do not talk to each other, since every node runs the same binary.

pub mod codec;
pub mod control;
pub mod data;
pub mod frame;
pub mod message;
mod schedule;
#[cfg(test)]
mod tests;

pub use codec::DecodeError;
pub use control::{decode_to_driver, decode_to_worker, encode_to_driver, encode_to_worker};
pub use data::{decode_data, encode_block, encode_data};
pub use frame::{Frame, FrameDecoder, FrameError, FrameKind};
pub use message::{DataHead, FinalReport, Peer, ToDriver, ToWorker, WorkerStatus};
