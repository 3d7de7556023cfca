//! Entries of the driver's journal as bytes, for storage.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `DzJe` |
//! | 4..6 | version | [`JOURNAL_VERSION`] |
//! | 6..14 | sequence | the entry's place |
//! | 14..22 | term | the driver that wrote it |
//! | 22.. | record | its tag, one byte, and its fields |
//! | the last 4 | checksum | CRC-32C of everything before it |

use std::sync::Arc;

use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::{BatchId, Sequence, Term};
use thiserror::Error;

use super::checkpoints::{read_manifest, write_manifest};
use super::codec::{DecodeError, Reader, Writer};
use super::history::{read_members, write_members};
use super::ids::{LIFE_LEN, MAX_LISTED, MAX_WORKERS, read_life, write_life};
use super::ranges::{read_ranges, write_ranges};

/// The version of these bytes. They outlive the program that wrote them, unlike frames.
pub const JOURNAL_VERSION: u16 = 1;
/// What an entry begins with.
pub const MAGIC: [u8; 4] = *b"DzJe";

const CHECKSUM_LEN: usize = 4;

// Tags of `Record`.
const OPENED: u8 = 1;
const MEMBERS: u8 = 2;
const RANGES: u8 = 3;
const MANIFEST: u8 = 4;
const FENCED: u8 = 5;
const END: u8 = 6;

/// Why bytes are not an entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Something else.
    #[error("not an entry of a journal: it begins with \"{}\"", .found.escape_ascii())]
    Magic {
        /// What it begins with.
        found: [u8; 4],
    },
    /// Written by another version of the program.
    #[error("an entry of version {found}, this binary reads {JOURNAL_VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// Damaged, or not written to its end.
    #[error("an entry with checksum {found:#010x}, its bytes have {expected:#010x}")]
    Checksum {
        /// That of the bytes.
        expected: u32,
        /// The one at the end of the entry.
        found: u32,
    },
    /// What it says makes no sense.
    #[error(transparent)]
    Content(#[from] DecodeError),
}

/// Appends an entry.
///
/// # Panics
///
/// If a list is longer than a reader accepts.
pub fn encode_entry(entry: &JournalEntry, out: &mut Vec<u8>) {
    let JournalEntry { sequence, term, record } = entry;
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    let mut writer = Writer::new(out);
    writer.u16(JOURNAL_VERSION);
    writer.u64(sequence.0);
    writer.u64(term.0);
    match record {
        Record::Opened => writer.u8(OPENED),
        Record::Members(members) => {
            writer.u8(MEMBERS);
            write_members(&mut writer, members);
        }
        Record::Fenced(lives) => {
            writer.u8(FENCED);
            writer.list(lives, MAX_WORKERS, write_life);
        }
        Record::End(last_batch) => {
            writer.u8(END);
            writer.u64(last_batch.0);
        }
        Record::Ranges(ranges) => {
            writer.u8(RANGES);
            write_ranges(&mut writer, ranges, MAX_LISTED);
        }
        Record::Manifest(manifest) => {
            writer.u8(MANIFEST);
            write_manifest(&mut writer, manifest);
        }
    }
    let checksum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// Reads an entry, which is all of `bytes`.
pub fn decode_entry(bytes: &[u8]) -> Result<JournalEntry, EntryError> {
    let what = "an entry of the journal";
    let mut reader = Reader::new(bytes);
    let magic = reader.take(what, MAGIC.len())?;
    if magic != MAGIC {
        let found = magic.try_into().expect("so many bytes were taken");
        return Err(EntryError::Magic { found });
    }
    match reader.u16(what)? {
        JOURNAL_VERSION => {}
        found => return Err(EntryError::Version { found }),
    }
    let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else {
        let (needed, found) = (CHECKSUM_LEN, bytes.len());
        return Err(DecodeError::Truncated { what, needed, found }.into());
    };
    let (expected, found) = (crc32c::crc32c(content), u32::from_le_bytes(*checksum));
    if found != expected {
        return Err(EntryError::Checksum { expected, found });
    }
    let mut reader = Reader::new(content);
    reader.take(what, MAGIC.len() + size_of_val(&JOURNAL_VERSION))?;
    let sequence = Sequence(reader.u64("an entry's place")?);
    let term = Term(reader.u64("an entry's term")?);
    let record = read_record(&mut reader)?;
    reader.end(what)?;
    Ok(JournalEntry { sequence, term, record })
}

fn read_record(reader: &mut Reader<'_>) -> Result<Record, DecodeError> {
    let what = "the tag of a record";
    Ok(match reader.u8(what)? {
        OPENED => Record::Opened,
        MEMBERS => Record::Members(read_members(reader)?),
        FENCED => {
            Record::Fenced(reader.list("a list of lives", MAX_WORKERS, LIFE_LEN, read_life)?)
        }
        END => Record::End(BatchId(reader.u64(what)?)),
        RANGES => Record::Ranges(read_ranges(reader, MAX_LISTED)?),
        MANIFEST => Record::Manifest(Arc::new(read_manifest(reader)?)),
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}
