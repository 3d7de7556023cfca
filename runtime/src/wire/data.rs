//! What workers send each other as bytes. A head is its tag, one byte, and its fields; the header
//! of a block is in its own encoding (`shuffle/src/block/header.rs`), and its body follows the head.

use drizzle_scheduler::{BatchId, Incarnation, WorkerId};
use drizzle_shuffle::{Block, BlockHeader};

use super::codec::{DecodeError, Reader, Writer};
use super::frame::{FrameKind, append_frame};
use super::ids::{read_core, write_core};
use super::message::DataHead;
use super::ranges::{MAX_RANGES, read_ranges, write_ranges};

// Tags of `DataHead`: 128 to 191.
const HELLO: u8 = 128;
const BLOCK: u8 = 129;
const COMPLETED: u8 = 130;
const RANGES: u8 = 131;

/// Appends a frame but for its body, of which `body_len` bytes are to follow.
///
/// # Panics
///
/// If `body_len` is not what the head says, or if a limit of the frame is exceeded.
pub fn encode_data(head: &DataHead, body_len: usize, out: &mut Vec<u8>) {
    let expected = body_len_of(head);
    assert_eq!(body_len, expected, "the body is not as long as its head says");
    append_frame(FrameKind::Data, body_len, out, |writer| match head {
        DataHead::Hello { worker, incarnation, to } => {
            writer.u8(HELLO);
            writer.u32(worker.0);
            writer.u64(incarnation.0);
            writer.u32(to.0);
        }
        DataHead::Block { to_core, header } => {
            write_block(writer, *to_core, |out| header.encode(out));
        }
        DataHead::Completed { from, to_core, batch } => {
            writer.u8(COMPLETED);
            write_core(writer, *from);
            writer.u16(*to_core);
            writer.u64(batch.0);
        }
        DataHead::Ranges { to_core, ranges } => {
            writer.u8(RANGES);
            writer.u16(*to_core);
            write_ranges(writer, ranges, MAX_RANGES);
        }
    });
}

/// Appends the frame of a block for one core, but for its body: the same as [`encode_data`] of its
/// header with its checksum, without a copy of the header.
///
/// # Panics
///
/// If a limit of the frame is exceeded.
pub fn encode_block(to_core: u16, block: &Block, out: &mut Vec<u8>) {
    append_frame(FrameKind::Data, block.body().len(), out, |writer| {
        write_block(writer, to_core, |out| block.encode_header(out));
    });
}

/// Reads the head of a data frame, whose body has `body_len` bytes.
pub fn decode_data(head: &[u8], body_len: usize) -> Result<DataHead, DecodeError> {
    let mut reader = Reader::new(head);
    let head = read_head(&mut reader)?;
    reader.end("the head of a data frame")?;
    let expected = body_len_of(&head);
    if body_len != expected {
        let what = "this head of a data frame";
        return Err(DecodeError::Body { what, expected, found: body_len });
    }
    Ok(head)
}

fn body_len_of(head: &DataHead) -> usize {
    match head {
        DataHead::Block { header, .. } => header.body_len as usize,
        DataHead::Hello { .. } | DataHead::Completed { .. } | DataHead::Ranges { .. } => 0,
    }
}

fn write_block(writer: &mut Writer<'_>, to_core: u16, header: impl FnOnce(&mut Vec<u8>)) {
    writer.u8(BLOCK);
    writer.u16(to_core);
    header(writer.raw());
}

fn read_head(reader: &mut Reader<'_>) -> Result<DataHead, DecodeError> {
    let what = "the tag of a data frame";
    Ok(match reader.u8(what)? {
        HELLO => DataHead::Hello {
            worker: WorkerId(reader.u32("a worker's number")?),
            incarnation: Incarnation(reader.u64("an incarnation")?),
            to: WorkerId(reader.u32("the number of the worker that is meant")?),
        },
        BLOCK => {
            let to_core = reader.u16("the core that a block is for")?;
            let (header, length) = BlockHeader::decode(reader.rest())?;
            reader.take("the header of a block", length)?;
            DataHead::Block { to_core, header }
        }
        COMPLETED => DataHead::Completed {
            from: read_core(reader)?,
            to_core: reader.u16("the core that is to be told")?,
            batch: BatchId(reader.u64("a completed batch")?),
        },
        RANGES => DataHead::Ranges {
            to_core: reader.u16("the core that is to know of ranges")?,
            ranges: read_ranges(reader, MAX_RANGES)?,
        },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}
