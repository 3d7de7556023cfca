//! Lines of a file that grows while it is read, as logs do.
//!
//! It has one partition, because nobody knows how long it will be, and no end: a job that reads it
//! runs until it is stopped. A line counts once its newline is there. Offsets are byte offsets, so what was
//! read can be read again on every host that has the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use drizzle_scheduler::PartitionId;
use drizzle_scheduler::plan::Pacing;

use super::lines::whole_lines;
use super::{ConnectorError, Fingerprint, LineReader, Lines};
use crate::dataflow::{Choice, Limit, Reread};
use crate::formats::Chunk;

/// The longest line that is taken for one.
const MAX_LINE: usize = 64 << 20;
/// What is read of the file at least, if there is so much.
const LEAST_READ: usize = 64 << 10;

/// A file that others append to.
#[derive(Clone, Debug)]
pub struct GrowingFile {
    path: PathBuf,
}

impl GrowingFile {
    /// The file at `path`, which must be there.
    pub fn open(path: impl Into<PathBuf>) -> Result<GrowingFile, ConnectorError> {
        let path = path.into();
        File::open(&path).map_err(error("open", &path))?;
        Ok(GrowingFile { path })
    }
}

impl Lines for GrowingFile {
    type Reader = GrowingFileReader;

    fn partition_count(&self) -> u32 {
        1
    }

    fn pacing(&self) -> Pacing {
        Pacing::Clock
    }

    fn reread(&self) -> Reread {
        Reread::WhereTheFileIs
    }

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("growing file").bytes(self.path.as_os_str().as_encoded_bytes()).finish()
    }

    fn open(&self) -> Result<GrowingFileReader, ConnectorError> {
        let file = File::open(&self.path).map_err(error("open", &self.path))?;
        let path = self.path.clone();
        Ok(GrowingFileReader { path, file, buffer: Vec::new(), start: 0, broken: None })
    }
}

/// A growing file as one core reads it.
#[derive(Debug)]
pub struct GrowingFileReader {
    path: PathBuf,
    file: File,
    /// Bytes of the file from `start` on.
    buffer: Vec<u8>,
    start: u64,
    /// What `choose` met and could not say; the read that follows says it.
    broken: Option<ConnectorError>,
}

impl GrowingFileReader {
    /// How far whole lines go from `from` on, within about `limit` bytes.
    fn find_lines(&mut self, from: u64, limit: u64) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        if length < from {
            return Err(io::Error::other(format!(
                "it was {from} bytes long and is {length} now: it must only grow"
            )));
        }
        let there = usize::try_from(length - from).unwrap_or(usize::MAX);
        let mut wanted = usize::try_from(limit).unwrap_or(usize::MAX).max(LEAST_READ);
        loop {
            self.fill(from, there.min(wanted))?;
            let last = memchr::memrchr(b'\n', &self.buffer);
            if let Some(newline) = last {
                return Ok(from + whole_lines(&self.buffer[..=newline], limit) as u64);
            }
            if self.buffer.len() == there {
                return Ok(from);
            }
            if wanted >= MAX_LINE {
                return Err(io::Error::other(format!(
                    "the line at byte {from} is longer than {MAX_LINE} bytes"
                )));
            }
            wanted *= 4;
        }
    }

    /// Reads `length` bytes at `from` into the buffer.
    fn fill(&mut self, from: u64, length: usize) -> io::Result<()> {
        self.buffer.resize(length, 0);
        self.start = from;
        self.file.read_exact_at(&mut self.buffer, from)
    }
}

impl LineReader for GrowingFileReader {
    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    fn choose(&mut self, _: PartitionId, from: u64, limit: &Limit) -> Choice {
        let to = match self.find_lines(from, limit.bytes) {
            Ok(to) => to,
            Err(source) => {
                self.broken = Some(error("read", &self.path)(source));
                from + 1
            }
        };
        Choice { to, ended: false, asserted: None }
    }

    fn read_chunks<F: FnMut(Chunk<'_>)>(
        &mut self,
        _: PartitionId,
        range: Range<u64>,
        mut each: F,
    ) -> Result<(), ConnectorError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let length = (range.end - range.start) as usize;
        let is_here =
            self.start <= range.start && range.end <= self.start + self.buffer.len() as u64;
        if !is_here {
            self.fill(range.start, length).map_err(error("read", &self.path))?;
        }
        let from = (range.start - self.start) as usize;
        each(Chunk::start_of(&self.buffer[from..], length));
        Ok(())
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConnectorError {
    let path = path.to_path_buf();
    move |source| ConnectorError::File { action, path, source }
}
