//! Groups and placements as bytes.
//!
//! A `ScheduleGroup` takes the same bytes whatever its number of batches. A placement is the table
//! of its cores, each once, and for each partition an index into that table.

use std::sync::Arc;

use drizzle_scheduler::message::{Purpose, ScheduleGroup};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{BatchId, CoreId, Instant};

use super::codec::{DecodeError, Reader, Writer};
use super::ids::{
    CONTENT_LEN, CORE_LEN, MAX_CORES, MAX_EDGES, MAX_LISTED, check_ascending, read_batch,
    read_content, read_core, read_epoch, read_group_id, write_content, write_core,
};

/// The most stages of a placement.
const MAX_STAGES: usize = 1 << 16;
/// The most placements that are valid at the same time.
const MAX_PLACEMENTS: usize = 1 << 12;

// Tags of `Purpose`.
const PROCESS: u8 = 1;
const FLUSH: u8 = 2;

/// Bytes of an index; the least bytes of a stage, a placement and a group.
const INDEX_LEN: usize = 2;
const STAGE_LEN: usize = 4;
const PLACEMENT_LEN: usize = 8 + 8 + 4 + 4;
pub(super) const GROUP_LEN: usize = 8 * 8 + 1 + 4 + 1;

pub(super) fn write_group(writer: &mut Writer<'_>, schedule: &ScheduleGroup) {
    let ScheduleGroup {
        group,
        epoch,
        predecessor,
        first_batch,
        batch_count,
        start,
        interval_ns,
        origin,
        purpose,
        contents,
        placement,
    } = schedule;
    let numbers = [group.0, epoch.0, predecessor.0, first_batch.0, *batch_count];
    numbers.into_iter().for_each(|number| writer.u64(number));
    let times = [start.0, *interval_ns, origin.0];
    times.into_iter().for_each(|time| writer.u64(time));
    writer.u8(match purpose {
        Purpose::Process => PROCESS,
        Purpose::Flush => FLUSH,
    });
    writer.list(contents, MAX_EDGES, write_content);
    writer.option(placement.as_deref(), write_placement);
}

pub(super) fn read_group(reader: &mut Reader<'_>) -> Result<ScheduleGroup, DecodeError> {
    let group = read_group_id(reader)?;
    let epoch = read_epoch(reader, "a group's epoch")?;
    let predecessor = read_batch(reader, "a group's predecessor")?;
    let first_batch = read_batch(reader, "a group's first batch")?;
    let batch_count = read_batch_count(reader, first_batch)?;
    Ok(ScheduleGroup {
        group,
        epoch,
        predecessor,
        first_batch,
        batch_count,
        start: Instant(reader.u64("a group's start")?),
        interval_ns: reader.u64("a group's interval")?,
        origin: Instant(reader.u64("a job's zero")?),
        purpose: read_purpose(reader)?,
        contents: reader.list("a list of contents", MAX_EDGES, CONTENT_LEN, read_content)?,
        placement: reader.option("whether a placement follows", read_placement)?.map(Arc::new),
    })
}

/// At least one, and the number after the group's last batch exists.
fn read_batch_count(reader: &mut Reader<'_>, first: BatchId) -> Result<u64, DecodeError> {
    let what = "a group's number of batches";
    let found = reader.u64(what)?;
    if found == 0 {
        return Err(DecodeError::Impossible { what, expected: "at least 1", found });
    }
    if first.0.checked_add(found).is_none() {
        let expected = "few enough to number the batches";
        return Err(DecodeError::Impossible { what, expected, found });
    }
    Ok(found)
}

fn read_purpose(reader: &mut Reader<'_>) -> Result<Purpose, DecodeError> {
    let what = "a group's purpose";
    match reader.u8(what)? {
        PROCESS => Ok(Purpose::Process),
        FLUSH => Ok(Purpose::Flush),
        found => Err(DecodeError::UnknownTag { what, found }),
    }
}

/// Placements, oldest first.
pub(super) fn write_placements(writer: &mut Writer<'_>, placements: &[Arc<Placement>]) {
    writer.list(placements, MAX_PLACEMENTS, |writer, placement| write_placement(writer, placement));
}

/// The placements that [`write_placements`] wrote. Each starts with a later batch than its elders.
pub(super) fn read_placements(reader: &mut Reader<'_>) -> Result<Vec<Arc<Placement>>, DecodeError> {
    let what = "a list of placements";
    let placements: Vec<Arc<Placement>> =
        reader.list(what, MAX_PLACEMENTS, PLACEMENT_LEN, |reader| {
            read_placement(reader).map(Arc::new)
        })?;
    let starts = placements.iter().map(|placement| placement.from_batch);
    check_ascending("a placement's first batch", starts, |batch| batch.0)?;
    Ok(placements)
}

fn write_placement(writer: &mut Writer<'_>, placement: &Placement) {
    let Placement { epoch, from_batch, cores_by_stage } = placement;
    let mut cores: Vec<CoreId> = cores_by_stage.iter().flatten().copied().collect();
    cores.sort_unstable();
    cores.dedup();
    writer.u64(epoch.0);
    writer.u64(from_batch.0);
    writer.list(&cores, MAX_CORES, |writer, &core| write_core(writer, core));
    writer.list(cores_by_stage, MAX_STAGES, |writer, partitions| {
        writer.list(partitions, MAX_LISTED, |writer, core| {
            let index = cores.binary_search(core).expect("the table holds every core");
            writer.u16(u16::try_from(index).expect("the table's length was checked"));
        });
    });
}

fn read_placement(reader: &mut Reader<'_>) -> Result<Placement, DecodeError> {
    let epoch = read_epoch(reader, "a placement's epoch")?;
    let from_batch = read_batch(reader, "a placement's first batch")?;
    let cores: Vec<CoreId> = reader.list("a table of cores", MAX_CORES, CORE_LEN, read_core)?;
    let cores_by_stage = reader.list("a list of stages", MAX_STAGES, STAGE_LEN, |reader| {
        reader.list("a list of partitions", MAX_LISTED, INDEX_LEN, |reader| {
            read_core_index(reader, &cores)
        })
    })?;
    Ok(Placement { epoch, from_batch, cores_by_stage })
}

fn read_core_index(reader: &mut Reader<'_>, cores: &[CoreId]) -> Result<CoreId, DecodeError> {
    let what = "a partition's core";
    let index = reader.u16(what)?;
    let core = cores.get(usize::from(index)).copied();
    let expected = "an index into the table of cores";
    core.ok_or(DecodeError::Impossible { what, expected, found: index.into() })
}
