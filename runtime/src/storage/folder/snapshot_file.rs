//! What a core has frozen of its partitions at one batch, as a file.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `DzSn` |
//! | 4..6 | version | [`VERSION`] |
//! | 6..10 | count | how many pieces there are |
//! | .. | for each piece | its snapshot: stage (2), partition (4), batch (8), whether it holds changes (1) and since which batch (8, only then), incarnation (8); its length (8); its CRC-32C (4) |
//! | 4 bytes | checksum | CRC-32C of everything before it |
//! | the rest | pieces | one after the other, to the end of the file |
//!
//! All numbers are little-endian. These bytes outlive the program that wrote them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use drizzle_scheduler::checkpoint::Snapshot;

use crate::wire::codec::{Reader, Writer};
use crate::wire::{DecodeError, SNAPSHOT_LEN, read_snapshot, write_snapshot};

/// The version of these bytes.
pub(super) const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"DzSn";
/// The most pieces of a file: those of one core at one batch.
const MAX_PIECES: usize = 1 << 19;
const FIXED_LEN: usize = MAGIC.len() + size_of::<u16>() + size_of::<u32>();
const CHECKSUM_LEN: usize = 4;
/// The least bytes of a piece in the table, and the most.
const ROW_LEN: usize = SNAPSHOT_LEN + 8 + 4;
const LONGEST_ROW_LEN: usize = ROW_LEN + 8;

/// Where a piece lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) snapshot: Snapshot,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksum: u32,
}

/// Everything that stands before the pieces.
///
/// # Panics
///
/// If there are more pieces than a reader accepts.
pub(super) fn encode_table(pieces: &[&(Snapshot, Vec<u8>)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let mut writer = Writer::new(&mut out);
    writer.u16(VERSION);
    writer.list(pieces, MAX_PIECES, |writer, (snapshot, bytes)| {
        write_snapshot(writer, snapshot);
        writer.u64(bytes.len() as u64);
        writer.u32(crc32c::crc32c(bytes));
    });
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Reads the table of a file, whose length must be what the table says. The inner error says what is
/// wrong with the file.
pub(super) fn read_table(file: &File) -> io::Result<Result<Vec<Piece>, String>> {
    let length = file.metadata()?.len();
    if length < FIXED_LEN as u64 {
        return Ok(Err(format!("it has {length} bytes only")));
    }
    let mut fixed = [0; FIXED_LEN];
    file.read_exact_at(&mut fixed, 0)?;
    let [m0, m1, m2, m3, v0, v1, count @ ..] = fixed;
    if [m0, m1, m2, m3] != MAGIC {
        return Ok(Err("it is not a file of snapshots".to_owned()));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Ok(Err(format!("it is of version {version}, this binary reads {VERSION}")));
    }
    let count = u32::from_le_bytes(count) as usize;
    if count > MAX_PIECES {
        return Ok(Err(format!("it claims to hold {count} snapshots")));
    }
    // Rows differ in length: these bytes are at least those of the table.
    let most = count * LONGEST_ROW_LEN + FIXED_LEN + CHECKSUM_LEN;
    let mut bytes = vec![0; most.min(usize::try_from(length).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(decode_table(&bytes, length))
}

/// `bytes` are those of the table, and maybe some after it; `length` is that of the file.
fn decode_table(bytes: &[u8], length: u64) -> Result<Vec<Piece>, String> {
    let mut reader = Reader::new(bytes);
    let (mut pieces, table_length) =
        read_rows(&mut reader, bytes.len()).map_err(|e| e.to_string())?;
    let (table, rest) = bytes.split_at(table_length);
    let Some(found) = rest.first_chunk::<CHECKSUM_LEN>() else {
        return Err("it ends within its table".to_owned());
    };
    let (expected, found) = (crc32c::crc32c(table), u32::from_le_bytes(*found));
    if expected != found {
        return Err(format!(
            "its table has checksum {found:#010x}, its bytes have {expected:#010x}"
        ));
    }
    let mut offset = (table_length + CHECKSUM_LEN) as u64;
    for piece in &mut pieces {
        piece.offset = offset;
        offset = offset.checked_add(piece.length).ok_or("its pieces are too long")?;
    }
    if offset != length {
        return Err(format!("it has {length} bytes, but should have {offset}"));
    }
    Ok(pieces)
}

/// The rows of a table, without offsets, and how many bytes the table has up to its checksum.
fn read_rows(reader: &mut Reader<'_>, length: usize) -> Result<(Vec<Piece>, usize), DecodeError> {
    let what = "a table of snapshots";
    reader.take(what, MAGIC.len() + size_of::<u16>())?;
    let pieces = reader.list(what, MAX_PIECES, ROW_LEN, |reader| {
        let snapshot = read_snapshot(reader)?;
        let length = reader.u64("the length of a snapshot")?;
        let checksum = reader.u32("the checksum of a snapshot")?;
        Ok(Piece { snapshot, offset: 0, length, checksum })
    })?;
    Ok((pieces, length - reader.rest().len()))
}
