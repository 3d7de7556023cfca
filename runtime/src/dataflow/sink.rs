//! The contract of sinks: each gets `(batch, partition, records)`.
//!
//! A partition may start again from a checkpoint, on another core, and then its sink gets the batches after
//! that checkpoint once more. The same batch may then hold other records, if nobody who was left knew
//! which input the lost worker had taken for it. A sink keeps to one of three contracts:
//!
//! * **Transactional.** Records are *staged* by [`write`](SinkWriter::write), go into the snapshot by
//!   [`freeze`](SinkWriter::freeze), and become visible by [`durable`](SinkWriter::durable), in one step, under a name
//!   that says which batches they are of. Whoever takes the partition over is handed what was staged by
//!   [`thaw`](SinkWriter::thaw) and makes it visible, for the owner before may have died first: the same
//!   name holds the same records.
//! * **Upsert.** Records are written at once, each with its key, its batch and the writer's life
//!   ([`SinkContext::incarnation`]); the store keeps the last of a key, and refuses writers that were lost. Whoever
//!   restarts a partition announces it ([`SinkWriter::begin_after`]).
//! * **Append with batch id.** What cannot be taken back is written by [`recorded`](SinkWriter::recorded), when the input of its
//!   batch is fixed for ever, with the number of the batch, so that a reader drops repetitions.

use drizzle_scheduler::{BatchId, Incarnation, Instant, PartitionId};

use crate::connectors::ConnectorError;
use crate::dataflow::{Row, StateError};

/// An output that several cores write, each its own partitions.
pub trait Sink<R: Row>: Clone + Send + Sync + 'static {
    /// One partition's way to write it.
    type Writer: SinkWriter<R>;

    /// Hash over what must be equal on every node.
    fn fingerprint(&self) -> u64;
    /// Opens it for one partition, on the core that runs that partition.
    fn open(&self, context: &SinkContext) -> Result<Self::Writer, ConnectorError>;
}

/// What a sink is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkContext {
    /// The partition.
    pub partition: PartitionId,
    /// The life of the worker that will write it. A later owner of the partition has a larger one, unless it
    /// is the same that has rolled it back.
    pub incarnation: Incarnation,
}

/// A sink as one partition writes it.
pub trait SinkWriter<R: Row>: Send + 'static {
    /// Takes one record of `batch`, handed over at `now` in the driver's time.
    fn write(
        &mut self,
        batch: BatchId,
        now: Instant,
        record: &R::Of<'_>,
    ) -> Result<(), ConnectorError>;

    /// `batch` is complete for this partition.
    fn end_batch(&mut self, batch: BatchId) -> Result<(), ConnectorError>;

    /// The job ends well: makes everything written complete.
    fn close(&mut self) -> Result<(), ConnectorError>;

    /// The partition starts here with the batch after `batch`: what others, or this one, have written
    /// for later ones is void.
    fn begin_after(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Appends what is staged of the batches after `since` to a snapshot, all of it where there is none.
    fn freeze(&mut self, _since: Option<BatchId>, _out: &mut Vec<u8>) {}

    /// Takes what another had staged when it froze, at the end of `batch`. Called before
    /// [`durable`](Self::durable) says of any of it that it may be seen.
    fn thaw(&mut self, _batch: BatchId, staged: &[u8]) -> Result<(), StateError> {
        match staged.is_empty() {
            true => Ok(()),
            false => Err(StateError::Content("a sink that stages nothing finds something staged")),
        }
    }

    /// A checkpoint of `through` is durable.
    fn durable(&mut self, _through: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// The input of all batches up to `through` is fixed for ever.
    fn recorded(&mut self, _through: BatchId) -> Result<(), ConnectorError> {
        Ok(())
    }
}
