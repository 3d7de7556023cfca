//! The runtime of Drizzle and its dataflow API.
#![deny(unsafe_code)]

pub mod clock;
pub mod connectors;
pub mod core;
pub mod dataflow;
pub mod formats;
pub mod host;
pub mod io;
pub mod mailbox;
pub mod node;
pub mod storage;
pub mod transport;
pub mod wire;

pub use drizzle_scheduler as scheduler;
pub use drizzle_shuffle as shuffle;
