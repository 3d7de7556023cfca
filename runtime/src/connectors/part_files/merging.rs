//! Makes one file of parts, in steps of which each leaves everything where the next attempt finds it: whoever
//! is killed over it is followed by somebody who begins at the first.
//!
//! A *note* among the parts says what the one file holds: how many bytes, and of which partition all parts
//! up to which number. Parts that it covers are removed. All others are written behind those bytes, to a file
//! of another name, which takes the place of the one file; then a new note takes the place of the old one.
//! Between these two the one file is longer than the note says, and the parts that it has grown by
//! are still there, so that doing it again gives the same.
//!
//! The note stays: a job that goes on after its end shows its last parts once more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use drizzle_scheduler::PartitionId;
use serde::{Deserialize, Serialize};

use super::{BUFFER_BYTES, Output, Part, error};
use crate::connectors::ConnectorError;

/// A merge on its way.
pub(in crate::connectors) struct Merge<'a> {
    output: &'a Output,
    next: Step,
}

/// What is done next.
enum Step {
    /// Look what there is.
    Look,
    /// Remove the last of these parts, which the one file holds.
    Remove(Vec<Part>),
    /// Write what the one file is to hold, these parts among it.
    Write(Note, Vec<Part>),
    /// Let it take the place of the one file.
    Show(Note),
    /// Say what that holds now.
    Note(Note),
    /// All is done.
    End,
}

impl Merge<'_> {
    pub(in crate::connectors) fn new(output: &Output) -> Merge<'_> {
        Merge { output, next: Step::Look }
    }

    /// Does the next step; whether one is left.
    pub(in crate::connectors) fn step(&mut self) -> Result<bool, ConnectorError> {
        self.next = match std::mem::replace(&mut self.next, Step::End) {
            Step::Look => self.look()?,
            Step::Remove(parts) => remove_one(parts)?,
            Step::Write(note, parts) => self.write(note, &parts)?,
            Step::Show(note) => self.show(note)?,
            Step::Note(note) => self.note(&note)?,
            Step::End => Step::End,
        };
        Ok(!matches!(self.next, Step::End))
    }

    fn look(&self) -> Result<Step, ConnectorError> {
        let note = Note::read(self.output)?;
        let parts = match self.output.parts.exists() {
            true => self.output.find_parts()?,
            false => Vec::new(),
        };
        let (covered, others): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| note.covers(part));
        Ok(match (covered.is_empty(), others.is_empty()) {
            (false, _) => Step::Remove(covered),
            (true, true) if self.output.path.exists() => Step::End,
            (true, _) => Step::Write(note, others),
        })
    }

    fn write(&self, mut note: Note, parts: &[Part]) -> Result<Step, ConnectorError> {
        let Output { path, parts: folder } = self.output;
        fs::create_dir_all(folder).map_err(error("create folder", folder))?;
        let merging = self.output.merging();
        let mut whole = File::create(&merging).map_err(error("create", &merging))?;
        copy_first(path, note.bytes, &mut whole)?;
        for part in parts {
            copy_lines(&part.path, &mut whole)?;
            let through = note.through.entry(part.partition).or_default();
            *through = part.number.max(*through);
        }
        let len = whole.sync_data().and_then(|()| whole.metadata());
        note.bytes = len.map_err(error("write", &merging))?.len();
        Ok(Step::Show(note))
    }

    fn show(&self, note: Note) -> Result<Step, ConnectorError> {
        let Output { path, .. } = self.output;
        fs::rename(self.output.merging(), path).map_err(error("write", path))?;
        Ok(Step::Note(note))
    }

    fn note(&self, note: &Note) -> Result<Step, ConnectorError> {
        let path = self.output.note();
        let bytes = serde_json::to_vec(note).map_err(io::Error::from);
        let draft = self.output.merging();
        let write = |bytes: Vec<u8>| {
            let mut file = File::create(&draft)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&draft, &path)
        };
        bytes.and_then(write).map_err(error("write", &path))?;
        Ok(Step::Look)
    }
}

/// What the one file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// From its beginning on.
    bytes: u64,
    /// Of each partition, all parts up to this number.
    through: BTreeMap<u32, u64>,
}

impl Note {
    /// The note of an output, which says nothing if there is none.
    pub(super) fn read(output: &Output) -> Result<Note, ConnectorError> {
        let path = output.note();
        match fs::read(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Note::default()),
            read => read
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
                .map_err(error("read", &path)),
        }
    }

    /// The first number that a part of `partition` may have now.
    pub(super) fn next(&self, partition: PartitionId) -> u64 {
        self.through.get(&partition.0).map_or(0, |through| through + 1)
    }

    fn covers(&self, part: &Part) -> bool {
        part.number < self.next(PartitionId(part.partition))
    }
}

fn remove_one(mut parts: Vec<Part>) -> Result<Step, ConnectorError> {
    let Some(Part { path, .. }) = parts.pop() else { return Ok(Step::Look) };
    fs::remove_file(&path).map_err(error("remove", &path))?;
    Ok(Step::Remove(parts))
}

/// Copies the first so many bytes of the one file.
fn copy_first(path: &Path, bytes: u64, whole: &mut File) -> Result<(), ConnectorError> {
    if bytes == 0 {
        return Ok(());
    }
    let file = File::open(path).map_err(error("open", path))?;
    let copied = io::copy(&mut file.take(bytes), whole).map_err(error("copy", path))?;
    match copied == bytes {
        true => Ok(()),
        false => Err(ConnectorError::Other(format!(
            "{} holds {copied} bytes of the {bytes} that were merged into it: it was changed since",
            path.display()
        ))),
    }
}

/// Copies the lines of a part. What is behind the last newline its writer did not live to complete.
fn copy_lines(part: &PathBuf, whole: &mut File) -> Result<(), ConnectorError> {
    let file = File::open(part).map_err(error("open", part))?;
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, whole);
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(error("read", part))?;
        if line.last() != Some(&b'\n') {
            return writer.flush().map_err(error("copy", part));
        }
        writer.write_all(&line).map_err(error("copy", part))?;
    }
}
