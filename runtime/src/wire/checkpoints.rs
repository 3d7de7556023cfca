//! Manifests and what they list as bytes.

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::{Incarnation, Sequence, Term};

use super::codec::{DecodeError, Reader, Writer};
use super::ids::{
    MAX_LISTED, PARTITION_LEN, read_batch, read_number, read_partition, read_watermark,
    write_partition,
};

/// The least bytes of a snapshot, and those of a source's position.
pub(crate) const SNAPSHOT_LEN: usize = PARTITION_LEN + 8 + 1 + 8;
const POSITION_LEN: usize = PARTITION_LEN + 8 + 8 + 8 + 1;

/// All of a manifest.
pub(crate) fn write_manifest(writer: &mut Writer<'_>, manifest: &Manifest) {
    let Manifest { sequence, term, batch, number, snapshots, positions } = manifest;
    let numbers = [sequence.0, term.0, batch.0, number.0];
    numbers.into_iter().for_each(|number| writer.u64(number));
    write_snapshots(writer, snapshots);
    writer.list(positions, MAX_LISTED, write_position);
}

/// The manifest that [`write_manifest`] wrote.
pub(crate) fn read_manifest(reader: &mut Reader<'_>) -> Result<Manifest, DecodeError> {
    Ok(Manifest {
        sequence: Sequence(reader.u64("a manifest's place in the journal")?),
        term: Term(reader.u64("a manifest's term")?),
        batch: read_batch(reader, "a manifest's batch")?,
        number: read_number(reader)?,
        snapshots: read_snapshots(reader)?,
        positions: reader.list("a list of positions", MAX_LISTED, POSITION_LEN, read_position)?,
    })
}

pub(super) fn write_snapshots(writer: &mut Writer<'_>, snapshots: &[Snapshot]) {
    writer.list(snapshots, MAX_LISTED, write_snapshot);
}

pub(super) fn read_snapshots(reader: &mut Reader<'_>) -> Result<Vec<Snapshot>, DecodeError> {
    reader.list("a list of snapshots", MAX_LISTED, SNAPSHOT_LEN, read_snapshot)
}

/// All fields of a snapshot, which are its name in storage.
pub(crate) fn write_snapshot(writer: &mut Writer<'_>, snapshot: &Snapshot) {
    let Snapshot { stage, partition, batch, since, incarnation } = snapshot;
    write_partition(writer, *stage, *partition);
    writer.u64(batch.0);
    writer.option(*since, |writer, since| writer.u64(since.0));
    writer.u64(incarnation.0);
}

/// The snapshot that [`write_snapshot`] wrote.
pub(crate) fn read_snapshot(reader: &mut Reader<'_>) -> Result<Snapshot, DecodeError> {
    let (stage, partition) = read_partition(reader)?;
    let batch = read_batch(reader, "a snapshot's batch")?;
    let since = reader.option("whether a snapshot holds changes", |reader| {
        read_batch(reader, "the batch before a snapshot's changes")
    })?;
    let incarnation = Incarnation(reader.u64("an incarnation")?);
    Ok(Snapshot { stage, partition, batch, since, incarnation })
}

fn write_position(writer: &mut Writer<'_>, position: &SourcePosition) {
    let SourcePosition { stage, partition, after, offset, watermark, ended } = position;
    write_partition(writer, *stage, *partition);
    writer.u64(after.0);
    writer.u64(*offset);
    writer.u64(watermark.0);
    writer.flag(*ended);
}

fn read_position(reader: &mut Reader<'_>) -> Result<SourcePosition, DecodeError> {
    let (stage, partition) = read_partition(reader)?;
    Ok(SourcePosition {
        stage,
        partition,
        after: read_batch(reader, "the batch of a source's position")?,
        offset: reader.u64("a source's offset")?,
        watermark: read_watermark(reader)?,
        ended: reader.flag("whether a source has ended")?,
    })
}
