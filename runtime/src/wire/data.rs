//! What workers send each other as bytes. A head is its tag, one byte, and its fields; the headers
//! of blocks are in an encoding of their own (`shuffle/src/block/header.rs`), and their bodies follow
//! the head.

use drizzle_scheduler::{BatchId, Incarnation, WorkerId};
use drizzle_shuffle::{Bundle, BundleHeader};

use super::codec::{DecodeError, Reader};
use super::frame::{FrameKind, append_frame};
use super::ids::{read_core, write_core};
use super::message::DataHead;
use super::ranges::{MAX_RANGES, read_ranges, write_ranges};

// Tags of `DataHead`: 128 to 191.
const HELLO: u8 = 128;
const BLOCKS: u8 = 129;
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
        DataHead::Blocks { header } => {
            writer.u8(BLOCKS);
            header.encode(writer.raw());
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

/// Appends the frame of a bundle, but for its bodies: the same as [`encode_data`] of its header with
/// the checksums, without a copy of the headers.
///
/// # Panics
///
/// If a limit of the frame is exceeded.
pub fn encode_bundle(bundle: &Bundle, out: &mut Vec<u8>) {
    append_frame(FrameKind::Data, bundle.body_len(), out, |writer| {
        writer.u8(BLOCKS);
        bundle.encode_header(writer.raw());
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
        DataHead::Blocks { header } => header.body_len() as usize,
        DataHead::Hello { .. } | DataHead::Completed { .. } | DataHead::Ranges { .. } => 0,
    }
}

fn read_head(reader: &mut Reader<'_>) -> Result<DataHead, DecodeError> {
    let what = "the tag of a data frame";
    Ok(match reader.u8(what)? {
        HELLO => DataHead::Hello {
            worker: WorkerId(reader.u32("a worker's number")?),
            incarnation: Incarnation(reader.u64("an incarnation")?),
            to: WorkerId(reader.u32("the number of the worker that is meant")?),
        },
        BLOCKS => {
            let (header, length) = BundleHeader::decode(reader.rest())?;
            reader.take("the header of blocks", length)?;
            DataHead::Blocks { header }
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
