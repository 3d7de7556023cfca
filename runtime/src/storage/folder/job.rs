//! Whose folder it is: a file that names the job and the fingerprint of its plan, written once.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `DzJb` |
//! | 4..6 | version | [`VERSION`] |
//! | 6..14 | fingerprint | that of the plan |
//! | 14.. | name | its length, four bytes, and the text |
//! | the last 4 | checksum | CRC-32C of everything before it |

use std::fs;
use std::io::ErrorKind;

use super::super::StorageError;
use super::shelf::{Linked, Shelf, cannot};
use crate::wire::DecodeError;
use crate::wire::codec::{MAX_TEXT, Reader, Writer};

const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"DzJb";
/// The name of the file.
const NAME: &str = "job";
const CHECKSUM_LEN: usize = 4;

/// A job as its folder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) fingerprint: u64,
    pub(super) name: String,
}

impl Job {
    /// Makes the folder this job's, unless it is another's.
    pub(super) fn claim(&self, shelf: &Shelf) -> Result<(), StorageError> {
        let owner = match Job::find(shelf)? {
            Some(owner) => owner,
            None => match shelf.create(NAME, &[&self.encode()])? {
                Linked::Created => return Ok(()),
                // Somebody was faster.
                Linked::Taken => Job::find(shelf)?.unwrap_or_else(|| self.clone()),
            },
        };
        if owner == *self {
            return Ok(());
        }
        let path = shelf.path().display();
        Err(StorageError(format!("{path} belongs to the job {owner}, and this is the job {self}")))
    }

    /// The job that a folder belongs to, if that is said.
    pub(super) fn find(shelf: &Shelf) -> Result<Option<Job>, StorageError> {
        let path = shelf.path_of(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot("read", &path, &error)),
        };
        Job::decode(&bytes).map(Some).map_err(|reason| {
            let path = path.display();
            StorageError(format!("{path}, which names the job, is damaged: {reason}"))
        })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.fingerprint);
        writer.text(&self.name);
    }

    /// The job that [`Job::write`] wrote.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Job, DecodeError> {
        let fingerprint = reader.u64("a fingerprint")?;
        Ok(Job { fingerprint, name: reader.text("a job's name", MAX_TEXT)? })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut writer = Writer::new(&mut out);
        writer.u16(VERSION);
        self.write(&mut writer);
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Job, String> {
        let mut reader = checked(bytes, MAGIC, VERSION)?;
        let job = Job::read(&mut reader).map_err(|error| error.to_string())?;
        reader.end("the file that names the job").map_err(|error| error.to_string())?;
        Ok(job)
    }
}

/// What lies between magic and version and the checksum of a file, if all three are right.
pub(super) fn checked(bytes: &[u8], magic: [u8; 4], version: u16) -> Result<Reader<'_>, String> {
    let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else {
        return Err(format!("it has {} bytes only", bytes.len()));
    };
    let what = "what a file begins with";
    let mut reader = Reader::new(content);
    if reader.take(what, magic.len()).map_err(|error| error.to_string())? != magic {
        return Err("it is another file".to_owned());
    }
    // Another version may have another checksum, so that its number is all that can be said of it.
    let found = reader.u16(what).map_err(|error| error.to_string())?;
    if found != version {
        return Err(format!("it is of version {found}, this binary reads {version}"));
    }
    let (expected, found) = (crc32c::crc32c(content), u32::from_le_bytes(*checksum));
    if expected != found {
        return Err(format!("its checksum is {found:#010x}, its bytes have {expected:#010x}"));
    }
    Ok(reader)
}

impl std::fmt::Display for Job {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} with the plan {:016x}", self.name, self.fingerprint)
    }
}
