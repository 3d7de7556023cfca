//! Lines of a file that is mapped into memory, read-only.
//!
//! This is an island of unsafe code. Its invariants:
//!
//! 1. A file is mapped read-only and shared, over the length that it had when it was opened, and
//!    only if it is a regular file. The map is never written to.
//! 2. No byte of the map is touched before `fstat` has said, for the batch at hand, that the file
//!    is still at least that long. A process that truncates it between that check and the end of
//!    the batch makes the kernel end us with SIGBUS: the window is one batch, and inputs must not be
//!    truncated while they are read.
//! 3. A process that writes into the file meanwhile can change bytes under a `&[u8]`. Nothing here
//!    relies on bytes being the same when looked at twice: every offset found is used with checked
//!    slicing, and a `str` made of them lives no longer than the handling of its line and a few that
//!    are scanned with it. Inputs must not be rewritten while they are read; appending is harmless.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drizzle_scheduler::PartitionId;
use drizzle_scheduler::plan::Pacing;
use memmap2::{Advice, Mmap};

use super::lines::whole_lines;
use super::{ConnectorError, Fingerprint, LineReader, Lines};
use crate::dataflow::{Choice, Limit, Reread};
use crate::formats::Chunk;

/// How many bytes of a file make a source partition: part of the meaning of lateness, so fixed.
const PARTITION_BYTES: NonZeroU64 = NonZeroU64::new(64 << 20).expect("64 MiB is not 0");

/// A file of lines. Partition k owns the lines that start in bytes `[k * size, (k + 1) * size)`.
///
/// A newline ends a line, the last line may do without, and an empty file has no line. Offsets are
/// byte offsets.
#[derive(Clone, Debug)]
pub struct MappedFile {
    file: Arc<Mapped>,
    partition_bytes: NonZeroU64,
}

impl MappedFile {
    /// Maps the regular file at `path`, one source partition for each 64 MiB.
    pub fn open(path: impl Into<PathBuf>) -> Result<MappedFile, ConnectorError> {
        MappedFile::open_partitioned(path, PARTITION_BYTES)
    }

    /// The same with partitions of another size.
    pub fn open_partitioned(
        path: impl Into<PathBuf>,
        partition_bytes: NonZeroU64,
    ) -> Result<MappedFile, ConnectorError> {
        let file = Mapped::open(path.into())?;
        if u32::try_from(file.length.div_ceil(partition_bytes.get())).is_err() {
            return Err(ConnectorError::Other(format!(
                "{} has too many partitions of {partition_bytes} bytes",
                file.path.display()
            )));
        }
        Ok(MappedFile { file: Arc::new(file), partition_bytes })
    }

    /// How long the file was when it was opened.
    pub fn length(&self) -> u64 {
        self.file.length
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Lines for MappedFile {
    type Reader = MappedFileReader;

    fn partition_count(&self) -> u32 {
        self.length().div_ceil(self.partition_bytes.get()).max(1) as u32
    }

    fn pacing(&self) -> Pacing {
        Pacing::Unpaced
    }

    fn reread(&self) -> Reread {
        Reread::WhereTheFileIs
    }

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("mapped file")
            .number(self.length())
            .number(self.partition_bytes.get())
            .finish()
    }

    fn open(&self) -> Result<MappedFileReader, ConnectorError> {
        let ends = vec![None; self.partition_count() as usize];
        Ok(MappedFileReader { lines: self.clone(), ends, broken: None })
    }
}

/// A mapped file as one core reads it.
#[derive(Debug)]
pub struct MappedFileReader {
    lines: MappedFile,
    /// Where partitions end, once known: a long line is not to be searched again for each batch.
    ends: Vec<Option<u64>>,
    /// What `choose` met and could not say; the read that follows says it.
    broken: Option<ConnectorError>,
}

impl LineReader for MappedFileReader {
    fn first_offset(&self, partition: PartitionId) -> u64 {
        match self.lines.file.bytes() {
            Ok(bytes) => line_start(bytes, self.boundary(partition)),
            // The first choice will meet the same, and has a way to say so.
            Err(_) => self.boundary(partition),
        }
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        let file = Arc::clone(&self.lines.file);
        let bytes = match file.bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.broken = Some(error);
                return Choice { to: from + 1, ended: false, asserted: None };
            }
        };
        let next = self.boundary(partition.next());
        let end = *self.ends[partition.index()].get_or_insert_with(|| line_start(bytes, next));
        assert!(from <= end, "offset {from} lies beyond the end {end} of {partition}");
        let to = from + whole_lines(&bytes[from as usize..end as usize], limit.bytes) as u64;
        Choice { to, ended: to == end, asserted: None }
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
        let bytes = self.lines.file.bytes()?;
        let length = (range.end - range.start) as usize;
        each(Chunk::start_of(&bytes[range.start as usize..], length));
        Ok(())
    }
}

impl MappedFileReader {
    /// Where the range of `partition` begins, lines or not.
    fn boundary(&self, partition: PartitionId) -> u64 {
        let boundary = u64::from(partition.0).saturating_mul(self.lines.partition_bytes.get());
        boundary.min(self.lines.length())
    }
}

/// The start of the first line at or after `offset`; the end if there is none.
fn line_start(bytes: &[u8], offset: u64) -> u64 {
    if offset == 0 {
        return 0;
    }
    let before = offset as usize - 1;
    match memchr::memchr(b'\n', &bytes[before..]) {
        Some(newline) => (before + newline + 1) as u64,
        None => bytes.len() as u64,
    }
}

/// A file and its bytes.
#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    file: File,
    length: u64,
    map: Mmap,
}

impl Mapped {
    fn open(path: PathBuf) -> Result<Mapped, ConnectorError> {
        let failed = |action| {
            let path = path.clone();
            move |source| ConnectorError::File { action, path, source }
        };
        // Before opening it: a FIFO without a writer would make us wait for ever.
        let about = fs::metadata(&path).map_err(failed("open"))?;
        refuse_unless_regular(&about).map_err(failed("read"))?;
        let file = File::open(&path).map_err(failed("open"))?;
        let about = file.metadata().map_err(failed("read"))?;
        refuse_unless_regular(&about).map_err(failed("read"))?;
        let length = about.len();
        // SAFETY: the file is regular and the map read-only (1); what others may do to the file
        // meanwhile, and what that can break, is (2) and (3).
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        // It may have changed since its length was asked for; from here on the map is the length.
        let length = length.min(map.len() as u64);
        // Only a hint to read ahead, so what becomes of it does not matter.
        drop(map.advise(Advice::Sequential));
        Ok(Mapped { path, file, length, map })
    }

    /// The bytes, if the file is still as long as they are (2). To be asked for by each batch anew.
    fn bytes(&self) -> Result<&[u8], ConnectorError> {
        let about = self.file.metadata().map_err(|source| ConnectorError::File {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        if about.len() < self.length {
            return Err(ConnectorError::Truncated {
                path: self.path.clone(),
                was: self.length,
                is: about.len(),
            });
        }
        Ok(&self.map[..self.length as usize])
    }
}

fn refuse_unless_regular(about: &fs::Metadata) -> io::Result<()> {
    if about.is_file() {
        return Ok(());
    }
    let what = if about.is_dir() { "a folder" } else { "a pipe, socket or device" };
    Err(io::Error::other(format!("it is {what}, and only regular files can be mapped")))
}
