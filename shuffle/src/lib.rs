//! Blocks: what one batch says to one downstream core, in memory that is written once and read in
//! place.
//!
//! This crate knows bytes and nothing else: no network, no thread, no timer. It writes records into
//! mapped [`segment`]s as rkyv archives, so that a reader in this process or in another one uses
//! them where they lie, and it chooses the partition of a key.
//!
//! * [`record`]: which types may travel, and the two that windows use.
//! * [`partition`]: the fixed, versioned hash of a key.
//! * [`segment`] and [`store`]: the memory and its owner.
//! * [`block`]: header, body, writer, bundles, and the way in for bytes from another process.
//! * [`combiner`]: partial aggregation in front of a shuffle.
//!
//! `unsafe` is allowed in two modules, `segment` and `archive`, each of which numbers its invariants.

#![deny(unsafe_code)]

mod archive;
pub mod block;
pub mod combiner;
pub mod partition;
pub mod record;
pub mod segment;
pub mod store;

pub use archive::{BodyCheck, BodyError, append_record, checker, read_record, record_size};
pub use block::bundle::Bundle;
pub use block::header::{
    BLOCK_VERSION, BlockHeader, BundleHeader, HeaderError, MAX_BLOCKS, MAX_BODY_BYTES,
};
pub use block::writer::{BlockParts, BlockWriter};
pub use block::{ArrivingBlock, Block, BlockWatch, ReceiveError, UncheckedBlock};
pub use combiner::{Combiner, CombinerFull, CombinerOptions};
pub use partition::{PARTITION_HASH_VERSION, PartitionKey, partition_of};
pub use record::{PartialEntry, RawEntry, Record};
pub use segment::Landing;
pub use segment::shared::{PeerSegment, PeerSegmentError, Place, SegmentLife, SharedFile};
pub use store::{BlockStore, Readers, StoreFull, StoreOptions};
