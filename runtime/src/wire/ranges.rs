//! Ranges of sources as bytes: what was taken, and who covers it.

use drizzle_scheduler::message::{Coverage, SourceRange, Standing, TakenRange};

use super::codec::{DecodeError, Reader, Writer};
use super::ids::{
    MAX_LISTED, PARTITION_LEN, read_batch, read_partition, read_watermark, write_partition,
};

/// The most ranges in one report, and in one frame between workers.
pub const MAX_RANGES: usize = 1 << 14;

/// Bytes of a range.
pub(super) const RANGE_LEN: usize = 8 + PARTITION_LEN + 8 + 8 + 1 + 8;
/// Bytes of what covers a partition.
const COVERAGE_LEN: usize = PARTITION_LEN + 8 + 8;

/// At most `limit` ranges.
pub(super) fn write_ranges(writer: &mut Writer<'_>, ranges: &[TakenRange], limit: usize) {
    writer.list(ranges, limit, write_range);
}

/// The ranges that [`write_ranges`] wrote with this limit.
pub(super) fn read_ranges(
    reader: &mut Reader<'_>,
    limit: usize,
) -> Result<Vec<TakenRange>, DecodeError> {
    reader.list("a list of ranges", limit, RANGE_LEN, read_range)
}

pub(super) fn write_range(writer: &mut Writer<'_>, taken: &TakenRange) {
    let TakenRange { batch, range, ended, watermark } = taken;
    let SourceRange { stage, partition, from, to } = range;
    writer.u64(batch.0);
    write_partition(writer, *stage, *partition);
    writer.u64(*from);
    writer.u64(*to);
    writer.flag(*ended);
    writer.u64(watermark.0);
}

pub(super) fn read_range(reader: &mut Reader<'_>) -> Result<TakenRange, DecodeError> {
    let batch = read_batch(reader, "the batch of a range")?;
    let (stage, partition) = read_partition(reader)?;
    let from = reader.u64("a range's first offset")?;
    let what = "a range's end";
    let to = reader.u64(what)?;
    if to < from {
        let expected = "no less than its first offset";
        return Err(DecodeError::Impossible { what, expected, found: to });
    }
    let ended = reader.flag("whether a source has ended")?;
    let watermark = read_watermark(reader)?;
    let range = SourceRange { stage, partition, from, to };
    Ok(TakenRange { batch, range, ended, watermark })
}

pub(super) fn write_standing(writer: &mut Writer<'_>, standing: &Standing) {
    let Standing { ranges, coverage } = standing;
    write_ranges(writer, ranges, MAX_LISTED);
    writer.list(coverage, MAX_LISTED, write_coverage);
}

pub(super) fn read_standing(reader: &mut Reader<'_>) -> Result<Standing, DecodeError> {
    let ranges = read_ranges(reader, MAX_LISTED)?;
    let what = "a list of covered partitions";
    let coverage = reader.list(what, MAX_LISTED, COVERAGE_LEN, read_coverage)?;
    Ok(Standing { ranges, coverage })
}

fn write_coverage(writer: &mut Writer<'_>, coverage: &Coverage) {
    let Coverage { stage, partition, first, last } = coverage;
    write_partition(writer, *stage, *partition);
    writer.u64(first.0);
    writer.u64(last.0);
}

fn read_coverage(reader: &mut Reader<'_>) -> Result<Coverage, DecodeError> {
    let (stage, partition) = read_partition(reader)?;
    let first = read_batch(reader, "the first batch covered")?;
    Ok(Coverage { stage, partition, first, last: read_batch(reader, "the last batch covered")? })
}
