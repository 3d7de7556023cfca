//! The scheduler's orders and reports as bytes, and placements among them.
//!
//! A `ScheduleGroup` takes the same bytes whatever its number of batches. A placement is the table
//! of its cores, each once, and for each partition an index into that table.

use std::sync::Arc;

use drizzle_scheduler::message::{
    DriverMessage, GroupStatistics, Order, Purpose, Report, ScheduleGroup, SourceRange, TakenRange,
    WorkerMessage,
};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{
    BatchId, CoreId, Epoch, GroupId, Incarnation, Instant, PartitionId, StageId, Term, WorkerId,
};

use super::codec::{DecodeError, Reader, Writer};

/// The most ranges in one frame.
pub(super) const MAX_RANGES: usize = 1 << 15;
/// The most cores that a placement uses: an index has 16 bits.
const MAX_CORES: usize = 1 << 16;
/// The most stages of a placement.
const MAX_STAGES: usize = 1 << 16;
/// The most partitions of a stage.
const MAX_PARTITIONS: usize = 1 << 19;

// Tags of `Order`.
const SCHEDULE_GROUP: u8 = 1;
const RELEASE: u8 = 2;
const CUT_GROUP: u8 = 3;
const COMMIT_CUT: u8 = 4;

// Tags of `Purpose`.
const PROCESS: u8 = 1;
const FLUSH: u8 = 2;

// Tags of `Report`.
const GROUP_DONE: u8 = 1;
const STAGE_DONE: u8 = 2;
const RANGES: u8 = 3;
const REFUSED: u8 = 4;
const PROMISE: u8 = 5;

/// Bytes of a core, a range and an index; the least bytes of a stage.
const CORE_LEN: usize = 4 + 2;
const RANGE_LEN: usize = 8 + 2 + 4 + 8 + 8 + 1;
const INDEX_LEN: usize = 2;
const STAGE_LEN: usize = 4;

pub(super) fn write_driver_message(writer: &mut Writer<'_>, message: &DriverMessage) {
    let DriverMessage { term, order } = message;
    writer.u64(term.0);
    match order {
        Order::ScheduleGroup(group) => {
            writer.u8(SCHEDULE_GROUP);
            write_group(writer, group);
        }
        Order::Release { batch, stage } => {
            writer.u8(RELEASE);
            writer.u64(batch.0);
            writer.u16(stage.0);
        }
        Order::CutGroup { proposed } => {
            writer.u8(CUT_GROUP);
            writer.u64(proposed.0);
        }
        Order::CommitCut { last_batch } => {
            writer.u8(COMMIT_CUT);
            writer.u64(last_batch.0);
        }
    }
}

pub(super) fn read_driver_message(reader: &mut Reader<'_>) -> Result<DriverMessage, DecodeError> {
    let term = Term(reader.u64("a term")?);
    let what = "the tag of an order";
    let order = match reader.u8(what)? {
        SCHEDULE_GROUP => Order::ScheduleGroup(Arc::new(read_group(reader)?)),
        RELEASE => Order::Release {
            batch: read_batch(reader, "the batch of a release")?,
            stage: read_stage(reader)?,
        },
        CUT_GROUP => Order::CutGroup { proposed: read_batch(reader, "a proposed batch")? },
        COMMIT_CUT => Order::CommitCut { last_batch: read_batch(reader, "the batch of a cut")? },
        found => return Err(DecodeError::UnknownTag { what, found }),
    };
    Ok(DriverMessage { term, order })
}

fn write_group(writer: &mut Writer<'_>, schedule: &ScheduleGroup) {
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
    writer.flag(placement.is_some());
    if let Some(placement) = placement {
        write_placement(writer, placement);
    }
}

fn read_group(reader: &mut Reader<'_>) -> Result<ScheduleGroup, DecodeError> {
    let group = read_group_id(reader)?;
    let epoch = Epoch(reader.u64("a group's epoch")?);
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
        placement: match reader.flag("whether a placement follows")? {
            true => Some(Arc::new(read_placement(reader)?)),
            false => None,
        },
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

fn write_placement(writer: &mut Writer<'_>, placement: &Placement) {
    let Placement { epoch, from_batch, cores_by_stage } = placement;
    let mut cores: Vec<CoreId> = cores_by_stage.iter().flatten().copied().collect();
    cores.sort_unstable();
    cores.dedup();
    writer.u64(epoch.0);
    writer.u64(from_batch.0);
    writer.count(cores.len(), MAX_CORES);
    for &core in &cores {
        write_core(writer, core);
    }
    writer.count(cores_by_stage.len(), MAX_STAGES);
    for partitions in cores_by_stage {
        writer.count(partitions.len(), MAX_PARTITIONS);
        for core in partitions {
            let index = cores.binary_search(core).expect("the table holds every core");
            writer.u16(u16::try_from(index).expect("the table's length was checked"));
        }
    }
}

fn read_placement(reader: &mut Reader<'_>) -> Result<Placement, DecodeError> {
    let epoch = Epoch(reader.u64("a placement's epoch")?);
    let from_batch = read_batch(reader, "a placement's first batch")?;
    let core_count = reader.count("a table of cores", MAX_CORES, CORE_LEN)?;
    let cores = (0..core_count).map(|_| read_core(reader)).collect::<Result<Vec<_>, _>>()?;
    let stage_count = reader.count("a list of stages", MAX_STAGES, STAGE_LEN)?;
    let cores_by_stage =
        (0..stage_count).map(|_| read_partitions(reader, &cores)).collect::<Result<_, _>>()?;
    Ok(Placement { epoch, from_batch, cores_by_stage })
}

fn read_partitions(reader: &mut Reader<'_>, cores: &[CoreId]) -> Result<Vec<CoreId>, DecodeError> {
    let count = reader.count("a list of partitions", MAX_PARTITIONS, INDEX_LEN)?;
    (0..count).map(|_| read_core_index(reader, cores)).collect()
}

fn read_core_index(reader: &mut Reader<'_>, cores: &[CoreId]) -> Result<CoreId, DecodeError> {
    let what = "a partition's core";
    let index = reader.u16(what)?;
    let core = cores.get(usize::from(index)).copied();
    let expected = "an index into the table of cores";
    core.ok_or(DecodeError::Impossible { what, expected, found: index.into() })
}

pub(super) fn write_worker_message(writer: &mut Writer<'_>, message: &WorkerMessage) {
    let WorkerMessage { worker, incarnation, report } = message;
    writer.u32(worker.0);
    writer.u64(incarnation.0);
    match report {
        Report::GroupDone { group, last_batch, statistics } => {
            writer.u8(GROUP_DONE);
            writer.u64(group.0);
            writer.u64(last_batch.0);
            write_statistics(writer, statistics);
        }
        Report::StageDone { batch, stage } => {
            writer.u8(STAGE_DONE);
            writer.u64(batch.0);
            writer.u16(stage.0);
        }
        Report::Ranges(ranges) => {
            writer.u8(RANGES);
            writer.count(ranges.len(), MAX_RANGES);
            for range in ranges {
                write_range(writer, range);
            }
        }
        Report::Refused { group, expected } => {
            writer.u8(REFUSED);
            writer.u64(group.0);
            writer.u64(expected.0);
        }
        Report::Promise { last_batch } => {
            writer.u8(PROMISE);
            writer.u64(last_batch.0);
        }
    }
}

pub(super) fn read_worker_message(reader: &mut Reader<'_>) -> Result<WorkerMessage, DecodeError> {
    let worker = WorkerId(reader.u32("a worker's number")?);
    let incarnation = Incarnation(reader.u64("an incarnation")?);
    let what = "the tag of a report";
    let report = match reader.u8(what)? {
        GROUP_DONE => Report::GroupDone {
            group: read_group_id(reader)?,
            last_batch: read_batch(reader, "a group's last batch")?,
            statistics: read_statistics(reader)?,
        },
        STAGE_DONE => Report::StageDone {
            batch: read_batch(reader, "the batch of a stage")?,
            stage: read_stage(reader)?,
        },
        RANGES => Report::Ranges(read_ranges(reader)?),
        REFUSED => Report::Refused {
            group: read_group_id(reader)?,
            expected: read_batch(reader, "an expected predecessor")?,
        },
        PROMISE => Report::Promise { last_batch: read_batch(reader, "a promised batch")? },
        found => return Err(DecodeError::UnknownTag { what, found }),
    };
    Ok(WorkerMessage { worker, incarnation, report })
}

fn write_statistics(writer: &mut Writer<'_>, statistics: &GroupStatistics) {
    let GroupStatistics { tasks, run_ns, schedule_ns, overtaken, worst_delay_ns } = statistics;
    let numbers = [tasks, run_ns, schedule_ns, overtaken, worst_delay_ns];
    numbers.into_iter().for_each(|number| writer.u64(*number));
}

fn read_statistics(reader: &mut Reader<'_>) -> Result<GroupStatistics, DecodeError> {
    Ok(GroupStatistics {
        tasks: reader.u64("the number of tasks")?,
        run_ns: reader.u64("the time of tasks")?,
        schedule_ns: reader.u64("the time of scheduling")?,
        overtaken: reader.u64("the number of overtaken batches")?,
        worst_delay_ns: reader.u64("the worst delay")?,
    })
}

fn write_range(writer: &mut Writer<'_>, taken: &TakenRange) {
    let TakenRange { batch, range: SourceRange { stage, partition, from, to }, ended } = taken;
    writer.u64(batch.0);
    writer.u16(stage.0);
    writer.u32(partition.0);
    writer.u64(*from);
    writer.u64(*to);
    writer.flag(*ended);
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<TakenRange>, DecodeError> {
    let count = reader.count("a list of ranges", MAX_RANGES, RANGE_LEN)?;
    (0..count).map(|_| read_range(reader)).collect()
}

fn read_range(reader: &mut Reader<'_>) -> Result<TakenRange, DecodeError> {
    let batch = read_batch(reader, "the batch of a range")?;
    let stage = read_stage(reader)?;
    let partition = PartitionId(reader.u32("a partition's number")?);
    let from = reader.u64("a range's first offset")?;
    let what = "a range's end";
    let to = reader.u64(what)?;
    if to < from {
        let expected = "no less than its first offset";
        return Err(DecodeError::Impossible { what, expected, found: to });
    }
    let ended = reader.flag("whether a source has ended")?;
    Ok(TakenRange { batch, range: SourceRange { stage, partition, from, to }, ended })
}

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

fn read_batch(reader: &mut Reader<'_>, what: &'static str) -> Result<BatchId, DecodeError> {
    reader.u64(what).map(BatchId)
}

fn read_stage(reader: &mut Reader<'_>) -> Result<StageId, DecodeError> {
    reader.u16("a stage's number").map(StageId)
}

fn read_group_id(reader: &mut Reader<'_>) -> Result<GroupId, DecodeError> {
    reader.u64("a group's number").map(GroupId)
}
