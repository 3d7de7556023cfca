//! Identities as bytes, and the small values that many messages are made of.

use drizzle_scheduler::message::Content;
use drizzle_scheduler::{
    BatchId, CoreId, CutId, Epoch, GroupId, Incarnation, Life, OrderNumber, PartitionId, StageId,
    Term, Watermark, WorkerId,
};

use super::codec::{DecodeError, Reader, Writer};

/// The most workers of a job.
pub(super) const MAX_WORKERS: usize = 1 << 14;
/// The most cores of a job: an index into the table of a placement has 16 bits.
pub(super) const MAX_CORES: usize = 1 << 16;
/// The most edges of a plan.
pub(super) const MAX_EDGES: usize = 1 << 16;
/// The most partitions, snapshots, moves and the like in one list: about what fits a frame.
pub(super) const MAX_LISTED: usize = 1 << 19;

/// Bytes of a core, a life, and a partition with its stage.
pub(super) const CORE_LEN: usize = 4 + 2;
pub(super) const LIFE_LEN: usize = 4 + 8;
pub(super) const PARTITION_LEN: usize = 2 + 4;
/// Bytes of a batch's number, and of what an edge holds.
pub(super) const BATCH_LEN: usize = 8;
pub(super) const CONTENT_LEN: usize = 1;

// Tags of `Content`.
const RAW: u8 = 1;
const PARTIAL: u8 = 2;

/// A core's worker and number.
pub(super) fn write_core(writer: &mut Writer<'_>, core: CoreId) {
    writer.u32(core.worker.0);
    writer.u16(core.core);
}

/// The core that [`write_core`] wrote.
pub(super) fn read_core(reader: &mut Reader<'_>) -> Result<CoreId, DecodeError> {
    let worker = WorkerId(reader.u32("the worker of a core")?);
    Ok(CoreId { worker, core: reader.u16("a core's number")? })
}

/// A worker and which of its lives.
pub(super) fn write_life(writer: &mut Writer<'_>, life: &Life) {
    let Life { worker, incarnation } = life;
    writer.u32(worker.0);
    writer.u64(incarnation.0);
}

/// The life that [`write_life`] wrote.
pub(super) fn read_life(reader: &mut Reader<'_>) -> Result<Life, DecodeError> {
    let worker = WorkerId(reader.u32("a worker's number")?);
    Ok(Life { worker, incarnation: Incarnation(reader.u64("an incarnation")?) })
}

/// A cut's term and number.
pub(super) fn write_cut(writer: &mut Writer<'_>, cut: &CutId) {
    let CutId { term, number } = cut;
    writer.u64(term.0);
    writer.u64(number.0);
}

/// The cut that [`write_cut`] wrote.
pub(super) fn read_cut(reader: &mut Reader<'_>) -> Result<CutId, DecodeError> {
    let term = Term(reader.u64("the term of a cut")?);
    Ok(CutId { term, number: read_number(reader)? })
}

/// A partition's stage and number.
pub(super) fn write_partition(writer: &mut Writer<'_>, stage: StageId, partition: PartitionId) {
    writer.u16(stage.0);
    writer.u32(partition.0);
}

/// The partition that [`write_partition`] wrote.
pub(super) fn read_partition(
    reader: &mut Reader<'_>,
) -> Result<(StageId, PartitionId), DecodeError> {
    let stage = read_stage(reader)?;
    Ok((stage, PartitionId(reader.u32("a partition's number")?)))
}

/// What an edge holds.
pub(super) fn write_content(writer: &mut Writer<'_>, content: &Content) {
    writer.u8(match content {
        Content::Raw => RAW,
        Content::Partial => PARTIAL,
    });
}

/// The content that [`write_content`] wrote.
pub(super) fn read_content(reader: &mut Reader<'_>) -> Result<Content, DecodeError> {
    let what = "the content of an edge";
    match reader.u8(what)? {
        RAW => Ok(Content::Raw),
        PARTIAL => Ok(Content::Partial),
        found => Err(DecodeError::UnknownTag { what, found }),
    }
}

pub(super) fn read_batch(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<BatchId, DecodeError> {
    reader.u64(what).map(BatchId)
}

pub(super) fn read_stage(reader: &mut Reader<'_>) -> Result<StageId, DecodeError> {
    reader.u16("a stage's number").map(StageId)
}

pub(super) fn read_group_id(reader: &mut Reader<'_>) -> Result<GroupId, DecodeError> {
    reader.u64("a group's number").map(GroupId)
}

pub(super) fn read_number(reader: &mut Reader<'_>) -> Result<OrderNumber, DecodeError> {
    reader.u64("the number of a decision").map(OrderNumber)
}

pub(super) fn read_epoch(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<Epoch, DecodeError> {
    reader.u64(what).map(Epoch)
}

pub(super) fn read_watermark(reader: &mut Reader<'_>) -> Result<Watermark, DecodeError> {
    reader.u64("a watermark").map(Watermark)
}

/// That each key is greater than the one before it; `number` is what the error says of a key.
pub(super) fn check_ascending<K: Ord>(
    what: &'static str,
    keys: impl Iterator<Item = K>,
    number: impl Fn(&K) -> u64,
) -> Result<(), DecodeError> {
    let mut before: Option<K> = None;
    for key in keys {
        if before.is_some_and(|before| before >= key) {
            let expected = "greater than the one before it";
            return Err(DecodeError::Impossible { what, expected, found: number(&key) });
        }
        before = Some(key);
    }
    Ok(())
}
