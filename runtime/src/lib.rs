//! The runtime of Drizzle and its dataflow API.
#![deny(unsafe_code)]

pub mod connectors;
pub mod dataflow;

pub use drizzle_scheduler as scheduler;
pub use drizzle_shuffle as shuffle;
