//! Output as part files, one for each partition, which may be merged into one file at the end.

pub(super) mod merging;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drizzle_scheduler::PartitionId;

use super::ConnectorError;
use merging::{Merge, Note};

/// How much a part file holds back before it writes.
const BUFFER_BYTES: usize = 64 << 10;

/// Where a job's lines go: into one file if the path ends with `.jsonl`, else into a folder of
/// part files, one for each partition.
///
/// One process prepares it, before any part is created; anyone creates parts; one process that sees
/// them all merges it after they are closed.
///
/// A part belongs to whoever created it and is never written by anyone else. After a loss a partition has
/// several of them, and lines that were read or written again are in more than one: none is lost, and
/// each is there at least once. The last line of a writer that was killed may have been cut off; it too is
/// in a later part. (All of this is about processes. A host that loses power may take lines along.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    /// Where part files are: beside the one file, or the path itself.
    parts: PathBuf,
}

impl Output {
    /// The output at `path`. Touches nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Output {
        let path = path.into();
        let is_one_file =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b".jsonl"));
        let parts = if is_one_file { with_suffix(&path, ".parts") } else { path.clone() };
        Output { path, parts }
    }

    /// The path that it was made with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether preparing or writing this output would overwrite `other`: ask before a job starts
    /// whose input lies there.
    pub fn would_overwrite(&self, other: &Path) -> bool {
        let (Ok(other), Ok(parts)) = (fs::canonicalize(other), resolve(&self.parts)) else {
            return false;
        };
        let is_part = other.parent() == Some(&parts)
            && other.file_name().is_some_and(|name| part_number(name).is_some());
        is_part || resolve(&self.path).is_ok_and(|path| path == other)
    }

    /// Creates the folder of the parts and removes what an earlier run left.
    pub fn prepare(&self) -> Result<(), ConnectorError> {
        fs::create_dir_all(&self.parts).map_err(error("create folder", &self.parts))?;
        for Part { path, .. } in self.find_parts()? {
            fs::remove_file(&path).map_err(error("remove", &path))?;
        }
        if self.is_one_file() {
            remove_if_there(&self.merging())?;
            remove_if_there(&self.note())?;
            remove_if_there(&self.path)?;
        }
        Ok(())
    }

    /// Creates a part of `partition`, empty, under the first number that no part of it has: those of
    /// other lives, and of cores that read what a lost one had taken, stay as they are.
    pub fn create_part(&self, partition: PartitionId) -> Result<PartFile, ConnectorError> {
        fs::create_dir_all(&self.parts).map_err(error("create folder", &self.parts))?;
        // What was merged was removed, and its numbers are taken.
        let mut number = Note::read(self)?.next(partition);
        loop {
            let path = self.part(partition, number);
            match File::create_new(&path) {
                Ok(file) => return Ok(PartFile { path, file, buffer: Vec::new() }),
                Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(failed) => return Err(error("create", &path)(failed)),
            }
        }
    }

    /// Shows lines of `partition` as a part of their own, with that number: all of them at once, and not
    /// once more if the part is there. Nothing is made of no lines.
    pub fn show_part(
        &self,
        partition: PartitionId,
        number: u64,
        lines: &[u8],
    ) -> Result<(), ConnectorError> {
        let path = self.part(partition, number);
        if lines.is_empty() || path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.parts).map_err(error("create folder", &self.parts))?;
        // Two owners of a partition may do this at the same time, with the same lines.
        let name = format!(".part-{:05}-{number:020}-{}.tmp", partition.0, std::process::id());
        let staged = self.parts.join(name);
        let mut file = File::create(&staged).map_err(error("create", &staged))?;
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        written.map_err(error("write", &staged))?;
        fs::rename(&staged, &path).map_err(error("show", &path))
    }

    /// Makes one file of the parts, in the order of partitions, and removes them. Does nothing
    /// where part files are what was asked for. If it is cut short, whoever does it again completes it; if
    /// a job goes on after its end, what has been merged is not merged again: a note that stays
    /// beside the file, in the folder of the parts, sees to both.
    pub fn merge(&self) -> Result<(), ConnectorError> {
        let mut merge = Merge::new(self);
        while self.is_one_file() && merge.step()? {}
        Ok(())
    }

    /// Removes that note, and the folder if nothing else is in it: nobody goes on with this job.
    pub fn forget_merge(&self) -> Result<(), ConnectorError> {
        if !self.is_one_file() {
            return Ok(());
        }
        remove_if_there(&self.note())?;
        match fs::remove_dir(&self.parts).map_err(|error| (error.kind(), error)) {
            // Somebody else keeps files there: they are not ours to remove.
            Ok(()) | Err((io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound, _)) => Ok(()),
            Err((_, failed)) => Err(error("remove folder", &self.parts)(failed)),
        }
    }

    fn is_one_file(&self) -> bool {
        self.parts != self.path
    }

    fn part(&self, partition: PartitionId, number: u64) -> PathBuf {
        self.parts.join(match number {
            0 => format!("part-{:05}.jsonl", partition.0),
            _ => format!("part-{:05}-{number:020}.jsonl", partition.0),
        })
    }

    /// What has been merged.
    fn note(&self) -> PathBuf {
        self.parts.join("merged.json")
    }

    /// What is being merged; a rename within one file system makes it the whole.
    fn merging(&self) -> PathBuf {
        self.parts.join("merging.tmp")
    }

    /// All part files that are there, in the order of partitions.
    fn find_parts(&self) -> Result<Vec<Part>, ConnectorError> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.parts).map_err(error("list", &self.parts))? {
            let entry = entry.map_err(error("list", &self.parts))?;
            if let Some((partition, number)) = part_number(&entry.file_name()) {
                parts.push(Part { partition, number, path: entry.path() });
            }
        }
        parts.sort_unstable();
        Ok(parts)
    }
}

/// A part that is there. In their order they make the one file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    partition: u32,
    /// Which of its parts.
    number: u64,
    path: PathBuf,
}

/// One part, as the owner of its partition writes it.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl PartFile {
    /// Appends what `write` puts into the buffer, and a newline.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), ConnectorError> {
        write(&mut self.buffer);
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Hands everything appended to the system.
    pub fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer).map_err(error("write", &self.path))?;
        self.buffer.clear();
        Ok(())
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConnectorError {
    let path = path.to_path_buf();
    move |source| ConnectorError::File { action, path, source }
}

fn remove_if_there(path: &Path) -> Result<(), ConnectorError> {
    match fs::remove_file(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(error("replace", path)),
    }
}

/// The partition of a part file of that name, and which of its parts it is.
fn part_number(name: &std::ffi::OsStr) -> Option<(u32, u64)> {
    let name = name.to_str()?.strip_prefix("part-")?.strip_suffix(".jsonl")?;
    let (partition, number) = name.split_once('-').unwrap_or((name, "0"));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let both = is_number(partition) && is_number(number);
    both.then(|| Some((partition.parse().ok()?, number.parse().ok()?)))?
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.file_name().expect("the caller saw a file name"));
    name.push(suffix);
    path.with_file_name(name)
}

/// An absolute path without links, also for something that is not there yet in a folder that is.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if path.exists() {
        return fs::canonicalize(path);
    }
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(folder), Some(name)) => Ok(fs::canonicalize(folder)?.join(name)),
        (_, _) => Ok(absolute),
    }
}
