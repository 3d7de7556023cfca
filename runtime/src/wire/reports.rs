//! The workers' reports as bytes.

use drizzle_scheduler::message::{
    Combined, Decision, GroupStatistics, Holding, Report, WorkerMessage,
};
use drizzle_scheduler::{Incarnation, OrderNumber, WorkerId};

use super::checkpoints::{read_snapshots, write_snapshots};
use super::codec::{DecodeError, Reader, Writer};
use super::history::{read_history, write_history};
use super::ids::{
    BATCH_LEN, MAX_CORES, MAX_EDGES, read_batch, read_cut, read_epoch, read_group_id, read_number,
    read_stage, write_cut,
};
use super::orders::{read_decision, write_decision};
use super::ranges::{MAX_RANGES, read_ranges, read_standing, write_ranges, write_standing};

/// The most decisions that a worker keeps for others.
const MAX_RECENT: usize = 1 << 10;

// Tags of `Report`.
const GROUP_DONE: u8 = 1;
const STAGE_DONE: u8 = 2;
const RANGES: u8 = 3;
const REFUSED: u8 = 4;
const PROMISE: u8 = 5;
const FENCED: u8 = 6;
const HOLDING: u8 = 7;
const SNAPSHOTS: u8 = 8;
const NO_SNAPSHOT: u8 = 9;
const HIGH_MARK: u8 = 10;
const PREPARED: u8 = 11;
const PROGRESS: u8 = 12;

/// Bytes of a core's time and of what a combiner did; the least bytes of a numbered decision.
const TIME_LEN: usize = 8;
const COMBINED_LEN: usize = 8 + 8;
const DECISION_LEN: usize = 8 + 1;

pub(super) fn write_worker_message(writer: &mut Writer<'_>, message: &WorkerMessage) {
    let WorkerMessage { worker, incarnation, report } = message;
    writer.u32(worker.0);
    writer.u64(incarnation.0);
    write_report(writer, report);
}

pub(super) fn read_worker_message(reader: &mut Reader<'_>) -> Result<WorkerMessage, DecodeError> {
    let worker = WorkerId(reader.u32("a worker's number")?);
    let incarnation = Incarnation(reader.u64("an incarnation")?);
    Ok(WorkerMessage { worker, incarnation, report: read_report(reader)? })
}

fn write_report(writer: &mut Writer<'_>, report: &Report) {
    match report {
        Report::GroupDone { group, epoch, last_batch, statistics } => {
            writer.u8(GROUP_DONE);
            [group.0, epoch.0, last_batch.0].into_iter().for_each(|number| writer.u64(number));
            write_statistics(writer, statistics);
        }
        Report::StageDone { batch, stage } => {
            writer.u8(STAGE_DONE);
            writer.u64(batch.0);
            writer.u16(stage.0);
        }
        Report::Ranges(ranges) => {
            writer.u8(RANGES);
            write_ranges(writer, ranges, MAX_RANGES);
        }
        Report::Refused { group, expected } => {
            writer.u8(REFUSED);
            writer.u64(group.0);
            writer.u64(expected.0);
        }
        Report::Promise { cut, last_batch } => {
            writer.u8(PROMISE);
            write_cut(writer, cut);
            writer.u64(last_batch.0);
        }
        Report::Fenced { number, standing } => {
            writer.u8(FENCED);
            writer.u64(number.0);
            write_standing(writer, standing);
        }
        Report::Holding(holding) => {
            writer.u8(HOLDING);
            write_holding(writer, holding);
        }
        Report::Snapshots { batch, snapshots } => {
            writer.u8(SNAPSHOTS);
            writer.u64(batch.0);
            write_snapshots(writer, snapshots);
        }
        Report::NoSnapshot { batch } => {
            writer.u8(NO_SNAPSHOT);
            writer.u64(batch.0);
        }
        Report::HighMark => writer.u8(HIGH_MARK),
        Report::Prepared { number } => {
            writer.u8(PREPARED);
            writer.u64(number.0);
        }
        Report::Progress { completed } => {
            writer.u8(PROGRESS);
            writer.list(completed, MAX_CORES, |writer, batch| writer.u64(batch.0));
        }
    }
}

fn read_report(reader: &mut Reader<'_>) -> Result<Report, DecodeError> {
    let what = "the tag of a report";
    Ok(match reader.u8(what)? {
        GROUP_DONE => Report::GroupDone {
            group: read_group_id(reader)?,
            epoch: read_epoch(reader, "the epoch of a report")?,
            last_batch: read_batch(reader, "a group's last batch")?,
            statistics: read_statistics(reader)?,
        },
        STAGE_DONE => Report::StageDone {
            batch: read_batch(reader, "the batch of a stage")?,
            stage: read_stage(reader)?,
        },
        RANGES => Report::Ranges(read_ranges(reader, MAX_RANGES)?),
        REFUSED => Report::Refused {
            group: read_group_id(reader)?,
            expected: read_batch(reader, "an expected predecessor")?,
        },
        PROMISE => Report::Promise {
            cut: read_cut(reader)?,
            last_batch: read_batch(reader, "a promised batch")?,
        },
        FENCED => Report::Fenced { number: read_number(reader)?, standing: read_standing(reader)? },
        HOLDING => Report::Holding(Box::new(read_holding(reader)?)),
        SNAPSHOTS => Report::Snapshots {
            batch: read_batch(reader, CHECKPOINT_BATCH)?,
            snapshots: read_snapshots(reader)?,
        },
        NO_SNAPSHOT => Report::NoSnapshot { batch: read_batch(reader, CHECKPOINT_BATCH)? },
        HIGH_MARK => Report::HighMark,
        PREPARED => Report::Prepared { number: read_number(reader)? },
        PROGRESS => {
            let read = |reader: &mut Reader<'_>| read_batch(reader, "a completed batch");
            let what = "a list of completed batches";
            Report::Progress { completed: reader.list(what, MAX_CORES, BATCH_LEN, read)? }
        }
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

const CHECKPOINT_BATCH: &str = "the batch of a checkpoint";

fn write_holding(writer: &mut Writer<'_>, holding: &Holding) {
    let Holding { promise, history, recent, standing } = holding;
    writer.u64(promise.0);
    write_history(writer, history);
    writer.list(recent, MAX_RECENT, |writer, (number, decision)| {
        writer.u64(number.0);
        write_decision(writer, decision);
    });
    write_standing(writer, standing);
}

fn read_holding(reader: &mut Reader<'_>) -> Result<Holding, DecodeError> {
    Ok(Holding {
        promise: read_batch(reader, "a promised batch")?,
        history: read_history(reader)?,
        recent: reader.list("a list of decisions", MAX_RECENT, DECISION_LEN, read_numbered)?,
        standing: read_standing(reader)?,
    })
}

fn read_numbered(reader: &mut Reader<'_>) -> Result<(OrderNumber, Decision), DecodeError> {
    Ok((read_number(reader)?, read_decision(reader)?))
}

fn write_statistics(writer: &mut Writer<'_>, statistics: &GroupStatistics) {
    let GroupStatistics {
        tasks,
        run_ns,
        schedule_ns,
        overtaken,
        worst_delay_ns,
        run_ns_by_core,
        combined,
    } = statistics;
    let numbers = [tasks, run_ns, schedule_ns, overtaken, worst_delay_ns];
    numbers.into_iter().for_each(|number| writer.u64(*number));
    writer.list(run_ns_by_core, MAX_CORES, |writer, run_ns| writer.u64(*run_ns));
    writer.list(combined, MAX_EDGES, |writer, Combined { records_in, records_out }| {
        writer.u64(*records_in);
        writer.u64(*records_out);
    });
}

fn read_statistics(reader: &mut Reader<'_>) -> Result<GroupStatistics, DecodeError> {
    Ok(GroupStatistics {
        tasks: reader.u64("the number of tasks")?,
        run_ns: reader.u64("the time of tasks")?,
        schedule_ns: reader.u64("the time of scheduling")?,
        overtaken: reader.u64("the number of overtaken batches")?,
        worst_delay_ns: reader.u64("the worst delay")?,
        run_ns_by_core: reader.list("a list of times", MAX_CORES, TIME_LEN, |reader| {
            reader.u64("the time of a core's tasks")
        })?,
        combined: reader.list("a list of combiners", MAX_EDGES, COMBINED_LEN, read_combined)?,
    })
}

fn read_combined(reader: &mut Reader<'_>) -> Result<Combined, DecodeError> {
    Ok(Combined {
        records_in: reader.u64("the records before a combiner")?,
        records_out: reader.u64("the records after a combiner")?,
    })
}
