//! The headers of blocks and how they are written down: together, for all blocks that one core sends
//! the cores of one worker for one batch and edge. What they share stands there once.
//!
//! All integers are little-endian; `v` is a varint (LEB128, shortest form); there is one encoding
//! for each bundle, and anything else is refused.
//!
//! ```text
//!  0 magic "DzBk"     4 version u16       6 content u8     7 zero u8
//!  8 archive format u32                  12 length of the header u32
//! 16 epoch u64       24 incarnation u64  32 batch u64     40 watermark u64
//! 48 attempt u32     52 worker u32       56 core u16      58 edge u16
//! 60 record size u32 64 number of blocks u32
//! 68 upstream partitions: v runs, each v first, v count, v stride
//!    ranges: v count, each stage u16, partition u32, from u64, to u64
//!    each block, by ascending core: v core, downstream partitions as runs
//!    one bit for each block, lowest first: whether it has records; zeros to the end of the byte
//!    each block with records: v records of each upstream partition, body length u32,
//!        checksum of the body u32
//!    checksum of everything before it u32
//! ```
//!
//! Runs are taken greedily: as many partitions as have one stride. Contiguous and round-robin
//! placements are one run each.

use std::sync::Arc;

use drizzle_scheduler::ids::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, PartitionId, StageId, Watermark, WorkerId,
};
use drizzle_scheduler::message::{BlockNotice, Content, SourceRange};
use thiserror::Error;

use self::bytes::{Reader, put_varint};
use crate::archive::body_len;
use crate::record::{ARCHIVE_FORMAT, MAX_RECORD_BYTES};

mod bytes;

/// Version of the header's encoding and of the body's form.
pub const BLOCK_VERSION: u16 = 2;
/// Most upstream partitions of one block, and most downstream ones of a bundle.
pub const MAX_PARTITIONS: usize = 1 << 16;
/// Most blocks in one bundle: one for each core of a worker.
pub const MAX_BLOCKS: usize = 1 << 16;
/// Most source ranges in one header.
pub const MAX_RANGES: usize = 1 << 16;
/// Longest body: offsets inside an archive have 32 bits and a sign.
pub const MAX_BODY_BYTES: u32 = 1 << 30;
/// Longest header: more than the limits above come to.
pub const MAX_HEADER_BYTES: usize = 4 << 20;
/// Bytes from which the length of a header can be told.
pub const HEADER_PREFIX_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"DzBk";
const FIXED_BYTES: usize = 68;
const CHECKSUM_BYTES: usize = 4;

/// What a block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// What the scheduler wants to know.
    pub notice: BlockNotice,
    /// For each of `notice.upstream`, how many of the records are its own. Records lie in this
    /// order. A block that was combined across upstream partitions has all under the first.
    pub record_counts: Arc<[u32]>,
    /// Source ranges that the content depends on and that the driver may not know yet.
    pub ranges: Arc<[SourceRange]>,
    /// Bytes of one archived record.
    pub record_size: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// crc32c of the body. 0 in a block that this process wrote: see `Block::checksum`.
    pub checksum: u32,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// There are fewer bytes than the header has. Not wrong if more may come.
    #[error("a header of at least {needed} bytes is cut off")]
    Truncated {
        /// How many bytes it has at least.
        needed: usize,
    },
    /// Not a header at all.
    #[error("these bytes do not start a block")]
    Magic,
    /// Written by another release.
    #[error("block version {0}, and this is {BLOCK_VERSION}")]
    Version(u16),
    /// Written by a build with another archive format.
    #[error("archive format {0:#010x}, and this is {ARCHIVE_FORMAT:#010x}")]
    Format(u32),
    /// Damaged on its way.
    #[error("the header's checksum does not fit")]
    Checksum,
    /// A number beyond its limit.
    #[error("{field} is {value}, and the limit is {limit}")]
    Limit {
        /// Which number.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        limit: u64,
    },
    /// A number that contradicts another one, or an encoding that nobody writes.
    #[error("{0} makes no sense")]
    Malformed(&'static str),
}

impl BlockHeader {
    /// How many records the block has.
    pub fn record_count(&self) -> u64 {
        self.record_counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// Whether both say the same but for whom they are, and how much they hold.
    pub(crate) fn shares_with(&self, other: &BlockHeader) -> bool {
        let downstream = self.notice.downstream.clone();
        let notice = BlockNotice { downstream, ..other.notice.clone() };
        self.notice == notice
            && self.ranges == other.ranges
            && self.record_size == other.record_size
    }
}

/// The headers of a bundle: blocks of one batch, edge and sending core for cores of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleHeader {
    /// At least one; by ascending core, and sharing what blocks of a bundle share.
    blocks: Vec<(u16, BlockHeader)>,
}

impl BundleHeader {
    /// The header of these blocks, each with the number of the core that it is for.
    ///
    /// # Panics
    /// If there is none, if cores are not ascending, or if the blocks are not of one bundle.
    pub fn new(blocks: Vec<(u16, BlockHeader)>) -> BundleHeader {
        let (_, first) = blocks.first().expect("a bundle has a block");
        assert!(blocks.is_sorted_by(|(a, _), (b, _)| a < b), "cores of a bundle are ascending");
        assert!(blocks.iter().all(|(_, header)| header.shares_with(first)), "not of one bundle");
        BundleHeader { blocks }
    }

    /// The blocks, each with the number of the core that it is for.
    pub fn blocks(&self) -> &[(u16, BlockHeader)] {
        &self.blocks
    }

    /// The same, to be taken apart.
    pub fn into_blocks(self) -> Vec<(u16, BlockHeader)> {
        self.blocks
    }

    /// Bytes of all bodies together.
    pub fn body_len(&self) -> u64 {
        self.blocks.iter().map(|(_, header)| u64::from(header.body_len)).sum()
    }

    /// Appends the header to `out`.
    ///
    /// # Panics
    /// If partitions are not ascending or a limit is exceeded: nobody builds such a header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let blocks = self.blocks.iter();
        encode_bundle(blocks.map(|(core, header)| (*core, header, header.checksum)), out);
    }

    /// Reads a header from the start of `bytes`, and says how many bytes it has. Never panics, and
    /// never allocates more than the limits allow.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<(BundleHeader, usize), HeaderError> {
        let header_len = encoded_len(bytes)?;
        let truncated = HeaderError::Truncated { needed: header_len };
        let whole = bytes.get(..header_len).ok_or(truncated)?;
        let (content, checksum) = whole.split_at(header_len - CHECKSUM_BYTES);
        if crc32c::crc32c(content).to_le_bytes() != checksum {
            return Err(HeaderError::Checksum);
        }
        let mut reader = Reader::new(content);
        let header = decode_content(&mut reader)?;
        match reader.is_empty() {
            true => Ok((header, header_len)),
            false => Err(HeaderError::Malformed("header length")),
        }
    }
}

/// Appends the header of blocks, each with its core and the checksum of its body.
pub(crate) fn encode_bundle<'a>(
    blocks: impl ExactSizeIterator<Item = (u16, &'a BlockHeader, u32)> + Clone,
    out: &mut Vec<u8>,
) {
    let count = blocks.len();
    let (_, first, _) = blocks.clone().next().expect("a bundle has a block");
    assert!(count <= MAX_BLOCKS, "too many blocks for a bundle");
    assert!(first.ranges.len() <= MAX_RANGES, "too many source ranges for a block");
    let start = out.len();
    encode_fixed(first, count as u32, out);
    encode_partitions(&first.notice.upstream, out);
    encode_ranges(&first.ranges, out);
    let mut bits = vec![0u8; count.div_ceil(8)];
    for (index, (core, header, _)) in blocks.clone().enumerate() {
        put_varint(out, u32::from(core));
        encode_partitions(&header.notice.downstream, out);
        bits[index / 8] |= u8::from(header.body_len > 0) << (index % 8);
    }
    out.extend_from_slice(&bits);
    for (_, header, checksum) in blocks.filter(|(_, header, _)| header.body_len > 0) {
        assert_eq!(header.notice.upstream.len(), header.record_counts.len(), "one count for each");
        header.record_counts.iter().for_each(|&count| put_varint(out, count));
        out.extend_from_slice(&header.body_len.to_le_bytes());
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    let header_len = out.len() - start + CHECKSUM_BYTES;
    assert!(header_len <= MAX_HEADER_BYTES, "a header is longer than its limits allow");
    out[start + 12..start + 16].copy_from_slice(&(header_len as u32).to_le_bytes());
    let header_checksum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&header_checksum.to_le_bytes());
}

fn encode_fixed(header: &BlockHeader, block_count: u32, out: &mut Vec<u8>) {
    let notice = &header.notice;
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&BLOCK_VERSION.to_le_bytes());
    out.extend_from_slice(&[content_code(notice.content), 0]);
    out.extend_from_slice(&ARCHIVE_FORMAT.to_le_bytes());
    // The length is known at the end.
    out.extend_from_slice(&[0; 4]);
    let words = [notice.epoch.0, notice.incarnation.0, notice.batch.0, notice.watermark.0];
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&notice.attempt.0.to_le_bytes());
    out.extend_from_slice(&notice.sender.worker.0.to_le_bytes());
    out.extend_from_slice(&notice.sender.core.to_le_bytes());
    out.extend_from_slice(&notice.edge.0.to_le_bytes());
    for number in [header.record_size, block_count] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn encode_ranges(ranges: &[SourceRange], out: &mut Vec<u8>) {
    put_varint(out, ranges.len() as u32);
    for range in ranges {
        out.extend_from_slice(&range.stage.0.to_le_bytes());
        out.extend_from_slice(&range.partition.0.to_le_bytes());
        out.extend_from_slice(&range.from.to_le_bytes());
        out.extend_from_slice(&range.to.to_le_bytes());
    }
}

/// The length of the header that starts with `bytes`, from its first [`HEADER_PREFIX_BYTES`].
///
/// # Errors
/// See [`HeaderError`].
pub fn encoded_len(bytes: &[u8]) -> Result<usize, HeaderError> {
    let truncated = HeaderError::Truncated { needed: HEADER_PREFIX_BYTES };
    let prefix = bytes.first_chunk::<HEADER_PREFIX_BYTES>().ok_or(truncated)?;
    let mut reader = Reader::new(prefix);
    if reader.array()? != MAGIC {
        return Err(HeaderError::Magic);
    }
    match reader.u16()? {
        BLOCK_VERSION => {}
        version => return Err(HeaderError::Version(version)),
    }
    let _content = reader.u16()?;
    match reader.u32()? {
        ARCHIVE_FORMAT => {}
        format => return Err(HeaderError::Format(format)),
    }
    let header_len = limited("header length", u64::from(reader.u32()?), MAX_HEADER_BYTES)?;
    match header_len >= FIXED_BYTES + CHECKSUM_BYTES {
        true => Ok(header_len),
        false => Err(HeaderError::Malformed("header length")),
    }
}

fn decode_content(reader: &mut Reader<'_>) -> Result<BundleHeader, HeaderError> {
    let (shared, block_count) = decode_shared(reader)?;
    let mut blocks: Vec<(u16, BlockHeader)> = Vec::new();
    let mut downstream_count = 0;
    for _ in 0..block_count {
        let core = reader.varint()?;
        let core = u16::try_from(core).map_err(|_| HeaderError::Malformed("core"))?;
        if blocks.last().is_some_and(|(last, _)| *last >= core) {
            return Err(HeaderError::Malformed("order of cores"));
        }
        let downstream = decode_partitions(reader)?;
        // Each is on one core, so all together are no more than there may be.
        downstream_count += downstream.len();
        limited("downstream partitions", downstream_count as u64, MAX_PARTITIONS)?;
        let notice = BlockNotice { downstream, ..shared.notice.clone() };
        blocks.push((core, BlockHeader { notice, ..shared.clone() }));
    }
    let bits = decode_bits(reader, block_count)?;
    let filled = blocks.iter_mut().enumerate();
    let filled = filled.filter(|(index, _)| bits[index / 8] & (1 << (index % 8)) != 0);
    for (_, (_, header)) in filled {
        header.record_counts = decode_counts(reader, header.notice.upstream.len())?;
        [header.body_len, header.checksum] = [reader.u32()?, reader.u32()?];
        check_lengths(header)?;
    }
    Ok(BundleHeader { blocks })
}

/// The header of an empty block for nobody, and how many blocks there are.
fn decode_shared(reader: &mut Reader<'_>) -> Result<(BlockHeader, usize), HeaderError> {
    // Magic and version were read by `encoded_len`.
    let [_, _, _, _, _, _, content, zero] = reader.array()?;
    let content = content_of(content)?;
    if zero != 0 {
        return Err(HeaderError::Malformed("byte 7"));
    }
    // So were archive format and length.
    let _ = (reader.u32()?, reader.u32()?);
    let epoch = Epoch(reader.u64()?);
    let incarnation = Incarnation(reader.u64()?);
    let batch = BatchId(reader.u64()?);
    let watermark = Watermark(reader.u64()?);
    let attempt = Attempt(reader.u32()?);
    let worker = WorkerId(reader.u32()?);
    let sender = CoreId { worker, core: reader.u16()? };
    let edge = EdgeId(reader.u16()?);
    let [record_size, block_count] = [reader.u32()?, reader.u32()?];
    limited("record size", u64::from(record_size), MAX_RECORD_BYTES)?;
    let block_count = limited("number of blocks", u64::from(block_count), MAX_BLOCKS)?;
    if record_size == 0 || block_count == 0 {
        return Err(HeaderError::Malformed("an empty record or bundle"));
    }
    let upstream = decode_partitions(reader)?;
    let ranges = decode_ranges(reader)?;
    // All empty blocks share these zeros: a few bytes must not become many.
    let record_counts = upstream.iter().map(|_| 0).collect();
    let notice = BlockNotice {
        epoch,
        incarnation,
        attempt,
        sender,
        batch,
        edge,
        content,
        upstream,
        downstream: Arc::default(),
        watermark,
    };
    let header =
        BlockHeader { notice, record_counts, ranges, record_size, body_len: 0, checksum: 0 };
    Ok((header, block_count))
}

fn decode_bits(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u8>, HeaderError> {
    let bits: Vec<u8> = (0..count.div_ceil(8))
        .map(|_| reader.array().map(|[byte]| byte))
        .collect::<Result<_, _>>()?;
    let rest = bits.last().map_or(0, |&last| u32::from(last) >> ((count - 1) % 8 + 1));
    if rest == 0 { Ok(bits) } else { Err(HeaderError::Malformed("bits behind the last block")) }
}

fn check_lengths(header: &BlockHeader) -> Result<(), HeaderError> {
    let body = header.body_len;
    limited("body length", u64::from(body), MAX_BODY_BYTES as usize)?;
    let expected = body_len(header.record_count(), u64::from(header.record_size));
    match body > 0 && expected == Some(body.into()) {
        true => Ok(()),
        false => Err(HeaderError::Malformed("body length")),
    }
}

fn content_code(content: Content) -> u8 {
    match content {
        Content::Raw => 1,
        Content::Partial => 2,
    }
}

fn content_of(code: u8) -> Result<Content, HeaderError> {
    match code {
        1 => Ok(Content::Raw),
        2 => Ok(Content::Partial),
        _ => Err(HeaderError::Malformed("content")),
    }
}

fn limited(field: &'static str, value: u64, limit: usize) -> Result<usize, HeaderError> {
    let limit = limit as u64;
    if value > limit { Err(HeaderError::Limit { field, value, limit }) } else { Ok(value as usize) }
}

/// `count` partitions from `first` on, `stride` apart; a run of one has stride 0.
#[derive(Clone, Copy)]
struct Run {
    first: u32,
    count: u32,
    stride: u32,
}

impl Run {
    fn last(self) -> u64 {
        u64::from(self.first) + u64::from(self.count - 1) * u64::from(self.stride)
    }
}

/// The longest run that `partitions` start with.
fn first_run(partitions: &[PartitionId]) -> Option<Run> {
    let (&first, rest) = partitions.split_first()?;
    let Some(&second) = rest.first() else {
        return Some(Run { first: first.0, count: 1, stride: 0 });
    };
    assert!(first < second, "partitions of a block are ascending");
    let stride = second.0 - first.0;
    let steps = partitions.windows(2);
    let count =
        1 + steps.take_while(|pair| pair[1].0.checked_sub(pair[0].0) == Some(stride)).count();
    assert!(partitions.get(count).is_none_or(|next| partitions[count - 1] < *next), "ascending");
    Some(Run { first: first.0, count: count as u32, stride })
}

fn encode_partitions(partitions: &[PartitionId], out: &mut Vec<u8>) {
    assert!(!partitions.is_empty(), "a block covers at least one partition on each side");
    assert!(partitions.len() <= MAX_PARTITIONS, "a block covers a limited number of partitions");
    let runs = || {
        let mut rest = partitions;
        std::iter::from_fn(move || {
            let run = first_run(rest)?;
            rest = &rest[run.count as usize..];
            Some(run)
        })
    };
    put_varint(out, runs().count() as u32);
    for run in runs() {
        put_varint(out, run.first);
        put_varint(out, run.count);
        put_varint(out, run.stride);
    }
}

fn decode_partitions(reader: &mut Reader<'_>) -> Result<Arc<[PartitionId]>, HeaderError> {
    let run_count = limited("partition runs", reader.varint()?.into(), MAX_PARTITIONS)?;
    let mut partitions = Vec::new();
    let mut previous: Option<Run> = None;
    for _ in 0..run_count {
        let run =
            Run { first: reader.varint()?, count: reader.varint()?, stride: reader.varint()? };
        check_run(previous, run)?;
        let total = partitions.len() as u64 + u64::from(run.count);
        limited("partitions", total, MAX_PARTITIONS)?;
        partitions.extend((0..run.count).map(|step| PartitionId(run.first + step * run.stride)));
        previous = Some(run);
    }
    match partitions.is_empty() {
        true => Err(HeaderError::Malformed("empty partition list")),
        false => Ok(partitions.into()),
    }
}

/// Whether the greedy encoder could have written `run` after `previous`.
fn check_run(previous: Option<Run>, run: Run) -> Result<(), HeaderError> {
    let shape = match run.count {
        0 => false,
        1 => run.stride == 0,
        _ => run.stride > 0,
    };
    let order = !shape || previous.is_none_or(|previous| follows(previous, run));
    match shape && order && run.last() <= u64::from(u32::MAX) {
        true => Ok(()),
        false => Err(HeaderError::Malformed("partition run")),
    }
}

/// Greedy: only the last run is single, and no run could have been longer.
fn follows(previous: Run, run: Run) -> bool {
    let (last, first) = (previous.last(), u64::from(run.first));
    previous.count > 1 && last < first && last + u64::from(previous.stride) != first
}

fn decode_counts(reader: &mut Reader<'_>, count: usize) -> Result<Arc<[u32]>, HeaderError> {
    (0..count).map(|_| reader.varint()).collect()
}

fn decode_ranges(reader: &mut Reader<'_>) -> Result<Arc<[SourceRange]>, HeaderError> {
    let count = limited("ranges", reader.varint()?.into(), MAX_RANGES)?;
    (0..count).map(|_| decode_range(reader)).collect()
}

fn decode_range(reader: &mut Reader<'_>) -> Result<SourceRange, HeaderError> {
    let stage = StageId(reader.u16()?);
    let partition = PartitionId(reader.u32()?);
    let (from, to) = (reader.u64()?, reader.u64()?);
    match from <= to {
        true => Ok(SourceRange { stage, partition, from, to }),
        false => Err(HeaderError::Malformed("source range")),
    }
}

#[cfg(test)]
mod tests;
