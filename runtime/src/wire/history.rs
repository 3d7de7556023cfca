//! The history of a job as bytes: what a worker that joins is told, and a new driver asks for.

use std::sync::Arc;

use drizzle_scheduler::history::History;
use drizzle_scheduler::message::{Move, ScheduleGroup};
use drizzle_scheduler::{BatchId, Life, WorkerId};

use super::checkpoints::{read_manifest, write_manifest};
use super::codec::{DecodeError, Reader, Writer};
use super::groups::{GROUP_LEN, read_group, read_placements, write_group, write_placements};
use super::ids::{
    LIFE_LEN, MAX_LISTED, MAX_WORKERS, check_ascending, read_batch, read_epoch, read_group_id,
    read_life, read_number, write_life,
};
use super::recovery::{MOVE_LEN, read_move, read_moves, write_move, write_moves};

/// The most lives that were fenced.
const MAX_FENCED: usize = 1 << 16;
/// The most groups with batches that no manifest covers.
const MAX_GROUPS: usize = 1 << 16;
/// Bytes of a worker's number, and of a member.
const WORKER_LEN: usize = 4;
const MEMBER_LEN: usize = LIFE_LEN + 2;

pub(super) fn write_history(writer: &mut Writer<'_>, history: &History) {
    let History {
        applied,
        epoch,
        members,
        fenced,
        fallen,
        placements,
        groups,
        last_group,
        last_batch,
        manifest,
        checkpoint,
        prepared,
        moves,
    } = history;
    writer.u64(applied.0);
    writer.u64(epoch.0);
    let members = members.iter().map(|(&worker, &(incarnation, cores))| {
        let life = Life { worker, incarnation };
        (life, cores)
    });
    write_members(writer, &members.collect::<Vec<_>>());
    let fenced: Vec<Life> = fenced.iter().copied().collect();
    writer.list(&fenced, MAX_FENCED, write_life);
    let fallen: Vec<WorkerId> = fallen.iter().copied().collect();
    writer.list(&fallen, MAX_WORKERS, |writer, worker| writer.u32(worker.0));
    let placements: Vec<_> = placements.versions().cloned().collect();
    write_placements(writer, &placements);
    writer.list(groups, MAX_GROUPS, |writer, (group, last)| {
        write_group(writer, group);
        writer.u64(last.0);
    });
    writer.u64(last_group.0);
    writer.u64(last_batch.0);
    writer.option(manifest.as_deref(), write_manifest);
    writer.option(*checkpoint, |writer, batch| writer.u64(batch.0));
    write_moves(writer, prepared);
    writer.list(moves, MAX_LISTED, |writer, (moved, at)| {
        write_move(writer, moved);
        writer.u64(at.0);
    });
}

pub(super) fn read_history(reader: &mut Reader<'_>) -> Result<History, DecodeError> {
    let applied = read_number(reader)?;
    let epoch = read_epoch(reader, "the newest epoch")?;
    let members: Vec<(Life, u16)> = read_members(reader)?;
    let workers = members.iter().map(|(life, _)| life.worker);
    check_ascending("a member's number", workers, |worker| worker.0.into())?;
    let members = members.iter().map(|(life, cores)| (life.worker, (life.incarnation, *cores)));
    let members = members.collect();
    let fenced: Vec<Life> =
        reader.list("a list of fenced lives", MAX_FENCED, LIFE_LEN, read_life)?;
    check_ascending("a fenced life", fenced.iter(), |life| life.incarnation.0)?;
    let fallen: Vec<WorkerId> =
        reader.list("a list of fallen workers", MAX_WORKERS, WORKER_LEN, |reader| {
            reader.u32("a fallen worker's number").map(WorkerId)
        })?;
    check_ascending("a fallen worker's number", fallen.iter(), |worker| worker.0.into())?;
    Ok(History {
        applied,
        epoch,
        members,
        fenced: fenced.into_iter().collect(),
        fallen: fallen.into_iter().collect(),
        placements: read_placements(reader)?.into_iter().collect(),
        groups: reader.list("a list of groups", MAX_GROUPS, GROUP_LEN + 8, read_known_group)?,
        last_group: read_group_id(reader)?,
        last_batch: read_batch(reader, "the last batch scheduled")?,
        manifest: reader.option("whether a manifest follows", read_manifest)?.map(Arc::new),
        checkpoint: reader.option("whether a checkpoint is in the making", |reader| {
            read_batch(reader, "the batch of a checkpoint")
        })?,
        prepared: read_moves(reader)?,
        moves: reader.list("a list of moves", MAX_LISTED, MOVE_LEN + 8, read_made_move)?,
    })
}

/// A group and the last of its batches that is not void, which is one of its own.
fn read_known_group(reader: &mut Reader<'_>) -> Result<(Arc<ScheduleGroup>, BatchId), DecodeError> {
    let group = read_group(reader)?;
    let what = "the last batch of a group that is not void";
    let last = read_batch(reader, what)?;
    if last < group.first_batch || last > group.last_batch() {
        let expected = "a batch of the group";
        return Err(DecodeError::Impossible { what, expected, found: last.0 });
    }
    Ok((Arc::new(group), last))
}

fn read_made_move(reader: &mut Reader<'_>) -> Result<(Move, BatchId), DecodeError> {
    Ok((read_move(reader)?, read_batch(reader, "the batch after which a partition moved")?))
}

/// Lives that may run tasks, and the number of their cores.
pub(super) fn write_members(writer: &mut Writer<'_>, members: &[(Life, u16)]) {
    writer.list(members, MAX_WORKERS, |writer, (life, cores)| {
        write_life(writer, life);
        writer.u16(*cores);
    });
}

/// The members that [`write_members`] wrote.
pub(super) fn read_members<C: FromIterator<(Life, u16)>>(
    reader: &mut Reader<'_>,
) -> Result<C, DecodeError> {
    reader.list("a list of members", MAX_WORKERS, MEMBER_LEN, |reader| {
        Ok((read_life(reader)?, reader.u16("the number of a member's cores")?))
    })
}
