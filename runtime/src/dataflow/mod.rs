//! The dataflow API: how a job is written.

mod row;
mod sink;
mod source;

pub use row::{Owned, Row, Stamp};
pub use sink::{Sink, SinkWriter};
pub use source::{Choice, InputCounters, Limit, Source, SourceReader};
