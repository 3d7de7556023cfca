//! Connectors: where records come from and where results go.

mod fingerprint;
mod generator;
mod growing_file;
mod json_lines_sink;
mod lines;
mod mapped_file;
mod part_files;
mod replay;
mod tcp_lines;
#[cfg(test)]
mod tests;
mod upsert_log;

use std::path::PathBuf;

pub use fingerprint::Fingerprint;
pub use generator::{EventText, Generated, GeneratedReader, Rate, Schedule};
pub use growing_file::{GrowingFile, GrowingFileReader};
pub use json_lines_sink::{JsonLinesSink, JsonLinesWriter};
pub use lines::{JsonLines, JsonLinesReader, LineReader, Lines};
pub use mapped_file::{MappedFile, MappedFileReader};
pub use part_files::{Output, PartFile};
pub use replay::{Replay, ReplayedRecords, TimedRecord};
pub use tcp_lines::{
    LineServer, SenderError, ServerOptions, ServerStatus, TcpLines, TcpLinesReader,
};
pub use upsert_log::{UpsertLog, UpsertSink, UpsertWriter, Upserted};

/// What can go wrong between a job and the outside world.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An input changed under the job.
    #[error("{} was {was} bytes long when the job opened it and is {is} now: inputs must not be truncated while they are read", path.display())]
    Truncated {
        /// The input.
        path: PathBuf,
        /// Length at open.
        was: u64,
        /// Length now.
        is: u64,
    },
    /// A sender of lines does not do what the job needs.
    #[error("the sender at {address} {source}")]
    Sender {
        /// Where it is called.
        address: String,
        /// What is wrong.
        source: SenderError,
    },
    /// Something else, in one sentence.
    #[error("{0}")]
    Other(String),
}
