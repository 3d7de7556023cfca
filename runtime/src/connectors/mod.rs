//! Connectors: where records come from and where results go.

use std::path::PathBuf;

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
    /// Something else, in one sentence.
    #[error("{0}")]
    Other(String),
}
