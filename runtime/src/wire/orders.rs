//! The driver's orders and decisions as bytes.

use std::sync::Arc;

use drizzle_scheduler::Term;
use drizzle_scheduler::message::{Decision, DriverMessage, Order};

use super::checkpoints::{read_manifest, write_manifest};
use super::codec::{DecodeError, Reader, Writer};
use super::groups::{read_group, write_group};
use super::history::{read_history, read_members, write_history, write_members};
use super::ids::{
    LIFE_LEN, MAX_WORKERS, read_batch, read_cut, read_life, read_number, read_stage, write_cut,
    write_life,
};
use super::recovery::{
    read_errands, read_moves, read_recover, write_errands, write_moves, write_recover,
};

// Tags of `Order`.
const DECISION: u8 = 1;
const RELEASE: u8 = 2;
const RECORDED: u8 = 3;
const WELCOME: u8 = 4;
const TAKE_OVER: u8 = 5;
const LEAVE: u8 = 6;
const SPECULATE: u8 = 7;

// Tags of `Decision`.
const ADMIT: u8 = 1;
const SCHEDULE_GROUP: u8 = 2;
const CUT_GROUP: u8 = 3;
const COMMIT_CUT: u8 = 4;
const FENCE: u8 = 5;
const RECOVER: u8 = 6;
const CHECKPOINT: u8 = 7;
const ABANDON_CHECKPOINT: u8 = 8;
const DURABLE: u8 = 9;
const PREPARE: u8 = 10;
const ABANDON_MOVES: u8 = 11;

pub(super) fn write_driver_message(writer: &mut Writer<'_>, message: &DriverMessage) {
    let DriverMessage { term, order } = message;
    writer.u64(term.0);
    match order {
        Order::Decision { number, decision } => {
            writer.u8(DECISION);
            writer.u64(number.0);
            write_decision(writer, decision);
        }
        Order::Release { batch, stage } => {
            writer.u8(RELEASE);
            writer.u64(batch.0);
            writer.u16(stage.0);
        }
        Order::Recorded { through } => {
            writer.u8(RECORDED);
            writer.u64(through.0);
        }
        Order::Welcome(history) => {
            writer.u8(WELCOME);
            write_history(writer, history);
        }
        Order::TakeOver { cut } => {
            writer.u8(TAKE_OVER);
            write_cut(writer, cut);
        }
        Order::Leave { life } => {
            writer.u8(LEAVE);
            write_life(writer, life);
        }
        Order::Speculate(errands) => {
            writer.u8(SPECULATE);
            write_errands(writer, errands);
        }
    }
}

pub(super) fn read_driver_message(reader: &mut Reader<'_>) -> Result<DriverMessage, DecodeError> {
    let term = Term(reader.u64("a term")?);
    let what = "the tag of an order";
    let order = match reader.u8(what)? {
        DECISION => {
            Order::Decision { number: read_number(reader)?, decision: read_decision(reader)? }
        }
        RELEASE => Order::Release {
            batch: read_batch(reader, "the batch of a release")?,
            stage: read_stage(reader)?,
        },
        RECORDED => Order::Recorded { through: read_batch(reader, "the last recorded batch")? },
        WELCOME => Order::Welcome(Arc::new(read_history(reader)?)),
        TAKE_OVER => Order::TakeOver { cut: read_cut(reader)? },
        LEAVE => Order::Leave { life: read_life(reader)? },
        SPECULATE => Order::Speculate(read_errands(reader)?),
        found => return Err(DecodeError::UnknownTag { what, found }),
    };
    Ok(DriverMessage { term, order })
}

pub(super) fn write_decision(writer: &mut Writer<'_>, decision: &Decision) {
    match decision {
        Decision::Admit(members) => {
            writer.u8(ADMIT);
            write_members(writer, members);
        }
        Decision::ScheduleGroup(group) => {
            writer.u8(SCHEDULE_GROUP);
            write_group(writer, group);
        }
        Decision::CutGroup { cut, proposed } => {
            writer.u8(CUT_GROUP);
            write_cut(writer, cut);
            writer.u64(proposed.0);
        }
        Decision::CommitCut { cut, last_batch } => {
            writer.u8(COMMIT_CUT);
            write_cut(writer, cut);
            writer.u64(last_batch.0);
        }
        Decision::Fence(lives) => {
            writer.u8(FENCE);
            writer.list(lives, MAX_WORKERS, write_life);
        }
        Decision::Recover(recover) => {
            writer.u8(RECOVER);
            write_recover(writer, recover);
        }
        Decision::Checkpoint { batch } => {
            writer.u8(CHECKPOINT);
            writer.u64(batch.0);
        }
        Decision::AbandonCheckpoint { batch } => {
            writer.u8(ABANDON_CHECKPOINT);
            writer.u64(batch.0);
        }
        Decision::Durable(manifest) => {
            writer.u8(DURABLE);
            write_manifest(writer, manifest);
        }
        Decision::Prepare(moves) => {
            writer.u8(PREPARE);
            write_moves(writer, moves);
        }
        Decision::AbandonMoves => writer.u8(ABANDON_MOVES),
    }
}

pub(super) fn read_decision(reader: &mut Reader<'_>) -> Result<Decision, DecodeError> {
    let what = "the tag of a decision";
    Ok(match reader.u8(what)? {
        ADMIT => Decision::Admit(read_members(reader)?),
        SCHEDULE_GROUP => Decision::ScheduleGroup(Arc::new(read_group(reader)?)),
        CUT_GROUP => Decision::CutGroup {
            cut: read_cut(reader)?,
            proposed: read_batch(reader, "a proposed batch")?,
        },
        COMMIT_CUT => Decision::CommitCut {
            cut: read_cut(reader)?,
            last_batch: read_batch(reader, "the batch of a cut")?,
        },
        FENCE => {
            Decision::Fence(reader.list("a list of lives", MAX_WORKERS, LIFE_LEN, read_life)?)
        }
        RECOVER => Decision::Recover(Arc::new(read_recover(reader)?)),
        CHECKPOINT => Decision::Checkpoint { batch: read_batch(reader, CHECKPOINT_BATCH)? },
        ABANDON_CHECKPOINT => {
            Decision::AbandonCheckpoint { batch: read_batch(reader, CHECKPOINT_BATCH)? }
        }
        DURABLE => Decision::Durable(Arc::new(read_manifest(reader)?)),
        PREPARE => Decision::Prepare(read_moves(reader)?),
        ABANDON_MOVES => Decision::AbandonMoves,
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

const CHECKPOINT_BATCH: &str = "the batch of a checkpoint";
