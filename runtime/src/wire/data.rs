//! What workers send each other as bytes. A head is its tag, one byte, and its fields; the headers
//! of blocks are in an encoding of their own (`shuffle/src/block/header.rs`), and their bodies follow
//! the head.

use drizzle_scheduler::{BatchId, Incarnation, PartitionId, StageId, WorkerId};
use drizzle_shuffle::{Bundle, BundleHeader, MAX_BLOCKS, Place};

use super::codec::{DecodeError, Reader, Writer};
use super::frame::{FrameKind, append_frame};
use super::ids::{read_core, write_core};
use super::message::{DataHead, MappedPlace, StatePart};
use super::ranges::{MAX_RANGES, read_ranges, write_ranges};

// Tags of `DataHead`: 128 to 191.
const HELLO: u8 = 128;
const BLOCKS: u8 = 129;
const COMPLETED: u8 = 130;
const RANGES: u8 = 131;
const MET: u8 = 132;
const MAPPED: u8 = 133;
const RELEASED: u8 = 134;
const RETIRED: u8 = 135;
const STATE: u8 = 136;

/// The most bytes of a state in one frame.
const MAX_STATE_PART: usize = 4 << 20;

/// Bytes of a place.
const PLACE_LEN: usize = 4 + 4 + 8;
/// What an offset in a segment is a multiple of.
const PLACE_ALIGN: u32 = 16;

/// Appends a frame but for its body, of which `body_len` bytes are to follow.
///
/// # Panics
///
/// If `body_len` is not what the head says, or if a limit of the frame is exceeded.
pub fn encode_data(head: &DataHead, body_len: usize, out: &mut Vec<u8>) {
    let expected = body_len_of(head);
    assert_eq!(body_len, expected, "the body is not as long as its head says");
    append_frame(FrameKind::Data, body_len, out, |writer| match head {
        DataHead::Hello { worker, incarnation, to, rendezvous } => {
            writer.u8(HELLO);
            writer.u32(worker.0);
            writer.u64(incarnation.0);
            writer.u32(to.0);
            writer.option(*rendezvous, |writer, name| writer.raw().extend_from_slice(&name));
        }
        DataHead::Met => writer.u8(MET),
        DataHead::Mapped { header, places } => {
            write_mapped(writer, places, |out| header.encode(out));
        }
        DataHead::Released { copied } => {
            writer.u8(RELEASED);
            writer.u64(*copied);
        }
        DataHead::Retired { segment } => {
            writer.u8(RETIRED);
            writer.u32(*segment);
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
        DataHead::State { to_core, part } => {
            writer.u8(STATE);
            writer.u16(*to_core);
            write_state_part(writer, part);
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

/// Appends the frame of a bundle whose bodies lie at these places: the same as [`encode_data`] of its
/// header with the checksums, without a copy of the headers.
///
/// # Panics
///
/// If a limit of the frame is exceeded.
pub fn encode_mapped(bundle: &Bundle, places: &[MappedPlace], out: &mut Vec<u8>) {
    append_frame(FrameKind::Data, 0, out, |writer| {
        write_mapped(writer, places, |out| bundle.encode_header(out));
    });
}

fn write_mapped(
    writer: &mut Writer<'_>,
    places: &[MappedPlace],
    header: impl FnOnce(&mut Vec<u8>),
) {
    writer.u8(MAPPED);
    header(writer.raw());
    writer.list(places, MAX_BLOCKS, |writer, mapped| {
        let MappedPlace { segment, place: Place { offset, generation } } = *mapped;
        writer.u32(segment);
        writer.u32(offset);
        writer.u64(generation);
    });
}

/// The places of all blocks that have records.
fn read_places(
    reader: &mut Reader<'_>,
    header: &BundleHeader,
) -> Result<Vec<MappedPlace>, DecodeError> {
    let what = "the places of bodies";
    let places: Vec<MappedPlace> = reader.list(what, MAX_BLOCKS, PLACE_LEN, |reader| {
        let segment = reader.u32("a segment's number")?;
        let what = "an offset in a segment";
        let offset = reader.u32(what)?;
        if !offset.is_multiple_of(PLACE_ALIGN) {
            let (expected, found) = ("a multiple of 16", offset.into());
            return Err(DecodeError::Impossible { what, expected, found });
        }
        let generation = reader.u64("a segment's generation")?;
        Ok(MappedPlace { segment, place: Place { offset, generation } })
    })?;
    let blocks = header.blocks().iter().filter(|(_, header)| header.body_len > 0).count();
    if places.len() != blocks {
        let (what, expected) = ("the number of places", "the number of blocks with records");
        return Err(DecodeError::Impossible { what, expected, found: places.len() as u64 });
    }
    Ok(places)
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
        DataHead::Hello { .. }
        | DataHead::Met
        | DataHead::Mapped { .. }
        | DataHead::Released { .. }
        | DataHead::Retired { .. }
        | DataHead::Completed { .. }
        | DataHead::State { .. }
        | DataHead::Ranges { .. } => 0,
    }
}

fn read_head(reader: &mut Reader<'_>) -> Result<DataHead, DecodeError> {
    let what = "the tag of a data frame";
    Ok(match reader.u8(what)? {
        HELLO => DataHead::Hello {
            worker: WorkerId(reader.u32("a worker's number")?),
            incarnation: Incarnation(reader.u64("an incarnation")?),
            to: WorkerId(reader.u32("the number of the worker that is meant")?),
            rendezvous: reader.option("whether there is a rendezvous", read_name)?,
        },
        BLOCKS => {
            let (header, length) = BundleHeader::decode(reader.rest())?;
            reader.take("the header of blocks", length)?;
            DataHead::Blocks { header }
        }
        MET => DataHead::Met,
        MAPPED => {
            let (header, length) = BundleHeader::decode(reader.rest())?;
            reader.take("the header of blocks", length)?;
            let places = read_places(reader, &header)?;
            DataHead::Mapped { header, places }
        }
        RELEASED => DataHead::Released { copied: reader.u64("a number of copied bodies")? },
        RETIRED => DataHead::Retired { segment: reader.u32("a segment's number")? },
        COMPLETED => DataHead::Completed {
            from: read_core(reader)?,
            to_core: reader.u16("the core that is to be told")?,
            batch: BatchId(reader.u64("a completed batch")?),
        },
        RANGES => DataHead::Ranges {
            to_core: reader.u16("the core that is to know of ranges")?,
            ranges: read_ranges(reader, MAX_RANGES)?,
        },
        STATE => DataHead::State {
            to_core: reader.u16("the core that a state is for")?,
            part: read_state_part(reader)?,
        },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

fn write_state_part(writer: &mut Writer<'_>, part: &StatePart) {
    let StatePart { stage, partition, batch, since, total, offset, bytes } = part;
    writer.u16(stage.0);
    writer.u32(partition.0);
    writer.u64(batch.0);
    writer.option(*since, |writer, since| writer.u64(since.0));
    writer.u64(*total);
    writer.u64(*offset);
    writer.bytes(bytes, MAX_STATE_PART);
}

fn read_state_part(reader: &mut Reader<'_>) -> Result<StatePart, DecodeError> {
    let what = "what a state is of";
    Ok(StatePart {
        stage: StageId(reader.u16(what)?),
        partition: PartitionId(reader.u32(what)?),
        batch: BatchId(reader.u64(what)?),
        since: reader.option(what, |reader| Ok(BatchId(reader.u64(what)?)))?,
        total: reader.u64("the length of a state")?,
        offset: reader.u64("the offset of a part of a state")?,
        bytes: reader.bytes("a part of a state", MAX_STATE_PART)?.to_vec(),
    })
}

fn read_name(reader: &mut Reader<'_>) -> Result<[u8; 16], DecodeError> {
    let what = "the name of a rendezvous";
    let bytes = reader.take(what, 16)?;
    Ok(bytes.try_into().expect("so many were taken"))
}
