//! The contract of sinks: each gets `(batch, partition, records)`.

use drizzle_scheduler::{BatchId, Instant, PartitionId};

use crate::connectors::ConnectorError;
use crate::dataflow::Row;

/// An output that several cores write, each its own partitions.
pub trait Sink<R: Row>: Clone + Send + Sync + 'static {
    /// One partition's way to write it.
    type Writer: SinkWriter<R>;

    /// Hash over what must be equal on every node.
    fn fingerprint(&self) -> u64;
    /// Opens it for one partition, on the core that runs that partition.
    fn open(&self, partition: PartitionId) -> Result<Self::Writer, ConnectorError>;
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
}
