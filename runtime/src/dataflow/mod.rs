//! The dataflow API: how a job is written.
//!
//! ```
//! # use drizzle::dataflow::*;
//! # use std::time::Duration;
//! # fn build<S: Source<Record = Owned<(u32, u64)>>, K: Sink<Owned<WindowResult<u32, u64>>>>(
//! #     source: S, sink: K, options: DataflowOptions) -> Result<Job, JobError> {
//! let flow = Dataflow::new("clicks", options);
//! flow.source("events", source)
//!     .filter("positive", |event| event.1 > 0)
//!     .key_by(|event| event.0)
//!     .window(Tumbling::of(Duration::from_secs(1)))
//!     .count("counts")
//!     .sink("results", sink);
//! let job = flow.build()?;
//! # Ok(job) }
//! ```

mod aggregate;
mod job;
mod row;
mod shuffle_terminal;
mod sink;
mod sink_terminal;
mod source;
mod source_head;
pub(crate) mod stage;
pub(crate) mod state;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod transform;
mod window;
mod window_head;
mod window_state;

pub use aggregate::{Aggregate, Combining, Count};
pub use job::{Combine, Dataflow, DataflowOptions, Job, JobError};
pub use row::{Owned, Row, Stamp};
pub use sink::{Beginning, Sink, SinkContext, SinkWriter};
pub use source::{Choice, EventTimes, InputCounters, Limit, Reread, Source, SourceReader};
pub use source_head::SourceHead;
pub use stage::{Head, TaskError};
pub use state::{Origin, Piece, StateError};
pub use stream::{KeyedStream, Stream, WindowedStream};
pub use transform::{Filter, FilterMap, Identity, Lookup, LookupJoin, Map, Transform};
pub use window::{Tumbling, WindowResult};
pub use window_head::WindowHead;
