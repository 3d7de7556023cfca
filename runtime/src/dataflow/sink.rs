//! The contract of sinks: each gets `(batch, partition, records)`.
//!
//! A partition may start again from a checkpoint, on another core, and then its sink gets the batches after
//! that checkpoint once more. The same batch may then hold other records, if nobody who was left knew
//! which input the lost worker had taken for it. A sink keeps to one of three contracts:
//!
//! * **Transactional.** Records are *staged* by [`write`](SinkWriter::write), go into the snapshot by
//!   [`freeze`](SinkWriter::freeze), and become visible by [`durable`](SinkWriter::durable), in one step, under a name
//!   that says which batches they are of. Whoever starts the partition again is handed what the checkpoint
//!   holds by [`thaw`](SinkWriter::thaw) and makes it visible, for the owner before may have died first: the
//!   same name holds the same records.
//! * **Upsert.** Records are written at once, each with its key and its batch; the store keeps the last of a
//!   key. Whoever starts a partition announces it ([`SinkWriter::begin`]) with an epoch, larger
//!   than those of all owners before: from then on the store refuses what these write for later
//!   batches.
//! * **Append with batch id.** What cannot be taken back is written by [`recorded`](SinkWriter::recorded), when the input of its
//!   batch is fixed for ever, with the number of the batch, so that a reader drops repetitions.

use drizzle_scheduler::{BatchId, Epoch, Incarnation, Instant, PartitionId};

use crate::connectors::ConnectorError;
use crate::dataflow::{Piece, Row, StateError};

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

/// A partition starts with the batch after `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beginning {
    /// The version of the placements. None of its owners before has begun with a larger one.
    pub epoch: Epoch,
    /// The last batch of which what was written counts, whoever wrote it.
    pub after: BatchId,
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

    /// The partition starts here: what others, or this one, have written for later batches is void.
    fn begin(&mut self, _beginning: Beginning) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Appends what is staged of the batches after `since` to a snapshot, all of it where there is none.
    fn freeze(&mut self, _since: Option<BatchId>, _out: &mut Vec<u8>) {}

    /// Takes what another had staged when it froze, at the end of the piece's batch. What is of a
    /// checkpoint is to be made visible now, as its owner before would have; what moved here with the
    /// partition is staged here from now on.
    fn thaw(&mut self, piece: &Piece<'_>) -> Result<(), StateError> {
        match piece.bytes.is_empty() {
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
