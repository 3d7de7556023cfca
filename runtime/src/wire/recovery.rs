//! What changes owners, as bytes: recoveries, errands and planned moves.

use std::sync::Arc;

use drizzle_scheduler::message::{Errand, Move, Recover, Restore, Rollback};

use super::checkpoints::{read_manifest, write_manifest};
use super::codec::{DecodeError, Reader, Writer};
use super::groups::{read_placements, write_placements};
use super::ids::{
    CORE_LEN, MAX_LISTED, PARTITION_LEN, read_batch, read_core, read_epoch, read_partition,
    read_watermark, write_core, write_partition,
};
use super::ranges::{RANGE_LEN, read_range, write_range};

// Tags of `Restore`.
const MANIFEST: u8 = 1;
const COPY: u8 = 2;
const POSITION: u8 = 3;

/// The least bytes of a rollback, and those of an errand and a move.
const ROLLBACK_LEN: usize = PARTITION_LEN + 8 + CORE_LEN + 1;
const ERRAND_LEN: usize = CORE_LEN + RANGE_LEN + 8;
pub(super) const MOVE_LEN: usize = PARTITION_LEN + CORE_LEN + CORE_LEN;

pub(super) fn write_recover(writer: &mut Writer<'_>, recover: &Recover) {
    let Recover { epoch, manifest, placements, moved, errands, replay_through, released_through } =
        recover;
    writer.u64(epoch.0);
    writer.option(manifest.as_deref(), write_manifest);
    write_placements(writer, placements);
    writer.list(moved, MAX_LISTED, write_rollback);
    write_errands(writer, errands);
    writer.u64(replay_through.0);
    writer.u64(released_through.0);
}

pub(super) fn read_recover(reader: &mut Reader<'_>) -> Result<Recover, DecodeError> {
    Ok(Recover {
        epoch: read_epoch(reader, "the epoch of a recovery")?,
        manifest: reader.option("whether a manifest follows", read_manifest)?.map(Arc::new),
        placements: read_placements(reader)?,
        moved: reader.list("a list of lost partitions", MAX_LISTED, ROLLBACK_LEN, read_rollback)?,
        errands: read_errands(reader)?,
        replay_through: read_batch(reader, "the last batch to replay")?,
        released_through: read_batch(reader, "the last batch released")?,
    })
}

fn write_rollback(writer: &mut Writer<'_>, rollback: &Rollback) {
    let Rollback { stage, partition, after, to, from } = rollback;
    write_partition(writer, *stage, *partition);
    writer.u64(after.0);
    write_core(writer, *to);
    match from {
        Restore::Manifest => writer.u8(MANIFEST),
        Restore::Copy => writer.u8(COPY),
        Restore::Position { offset, watermark, ended } => {
            writer.u8(POSITION);
            writer.u64(*offset);
            writer.u64(watermark.0);
            writer.flag(*ended);
        }
    }
}

fn read_rollback(reader: &mut Reader<'_>) -> Result<Rollback, DecodeError> {
    let (stage, partition) = read_partition(reader)?;
    Ok(Rollback {
        stage,
        partition,
        after: read_batch(reader, "the batch that a partition is restored after")?,
        to: read_core(reader)?,
        from: read_restore(reader)?,
    })
}

fn read_restore(reader: &mut Reader<'_>) -> Result<Restore, DecodeError> {
    let what = "what a partition is restored from";
    Ok(match reader.u8(what)? {
        MANIFEST => Restore::Manifest,
        COPY => Restore::Copy,
        POSITION => Restore::Position {
            offset: reader.u64("a source's offset")?,
            watermark: read_watermark(reader)?,
            ended: reader.flag("whether a source has ended")?,
        },
        found => return Err(DecodeError::UnknownTag { what, found }),
    })
}

pub(super) fn write_errands(writer: &mut Writer<'_>, errands: &[Errand]) {
    writer.list(errands, MAX_LISTED, |writer, Errand { core, taken, floor }| {
        write_core(writer, *core);
        write_range(writer, taken);
        writer.u64(floor.0);
    });
}

pub(super) fn read_errands<C: FromIterator<Errand>>(
    reader: &mut Reader<'_>,
) -> Result<C, DecodeError> {
    reader.list("a list of errands", MAX_LISTED, ERRAND_LEN, |reader| {
        let (core, taken) = (read_core(reader)?, read_range(reader)?);
        Ok(Errand { core, taken, floor: read_watermark(reader)? })
    })
}

pub(super) fn write_move(writer: &mut Writer<'_>, planned: &Move) {
    let Move { stage, partition, from, to } = planned;
    write_partition(writer, *stage, *partition);
    write_core(writer, *from);
    write_core(writer, *to);
}

pub(super) fn read_move(reader: &mut Reader<'_>) -> Result<Move, DecodeError> {
    let (stage, partition) = read_partition(reader)?;
    Ok(Move { stage, partition, from: read_core(reader)?, to: read_core(reader)? })
}

pub(super) fn write_moves(writer: &mut Writer<'_>, moves: &[Move]) {
    writer.list(moves, MAX_LISTED, write_move);
}

pub(super) fn read_moves<C: FromIterator<Move>>(reader: &mut Reader<'_>) -> Result<C, DecodeError> {
    reader.list("a list of moves", MAX_LISTED, MOVE_LEN, read_move)
}
