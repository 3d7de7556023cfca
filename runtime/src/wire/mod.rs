//! What nodes say to each other, and how it is written down.
//!
//! * [`message`]: the messages as types.
//! * [`frame`]: what every message travels in: lengths, version, checksum.
//! * [`control`] and [`data`]: the messages as bytes, written and read by hand. The head of a frame
//!   holds the message; only data frames have a body, the bytes of blocks.
//! * `orders` and `reports`: what schedulers say; and what that is made of: `groups`, `ranges`,
//!   `checkpoints`, `recovery`, `history` and `ids`.
//! * [`journal`]: the entries of the driver's journal, which go to storage and not to a node.
//! * [`codec`]: numbers, texts and lists as bytes.
//!
//! All numbers are little-endian. Nothing that arrives is trusted: every length has a limit, and
//! what does not fit is a typed error, with which the connection is closed. There is one version of
//! the protocol, [`frame::WIRE_VERSION`]: it rises with every change, and nodes of different
//! versions do not talk to each other, since every node runs the same binary.

mod checkpoints;
pub mod codec;
pub mod control;
pub mod data;
pub mod frame;
mod groups;
mod history;
mod ids;
pub mod journal;
pub mod message;
mod orders;
mod ranges;
mod recovery;
mod reports;
#[cfg(test)]
mod tests;

pub(crate) use checkpoints::{
    SNAPSHOT_LEN, read_manifest, read_snapshot, write_manifest, write_snapshot,
};
pub use codec::DecodeError;
pub use control::{decode_to_driver, decode_to_worker, encode_to_driver, encode_to_worker};
pub use data::{decode_data, encode_bundle, encode_data, encode_mapped};
pub use frame::{Frame, FrameDecoder, FrameError, FrameHead, FrameKind};
pub use journal::{EntryError, decode_entry, encode_entry};
pub use message::{
    CoreCosts, DataHead, FinalReport, MappedPlace, MemoryPeaks, Peer, Regained, Request, Returning,
    StatePart, TaskPanic, TimeByKind, ToDriver, ToWorker, WorkerStatus,
};
pub use ranges::MAX_RANGES;
