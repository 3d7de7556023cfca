//! A sink that writes one line for each record, into part files for each partition.
//!
//! By itself it writes at once, and what was written is not taken back when a worker is lost: lines of batches
//! that then run again are there once more, in a part of their own.
//! [`JsonLinesSink::transactional`] makes it stage its lines, by the contract of
//! [`SinkWriter`]: they are seen once a checkpoint covers them, in one file for each checkpoint and partition.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use drizzle_scheduler::{BatchId, Instant, PartitionId};

use super::part_files::{Output, PartFile};
use super::{ConnectorError, Fingerprint};
use crate::dataflow::{Origin, Piece, Row, Sink, SinkContext, SinkWriter, StateError};

/// Writes each record as the line that `encode` makes of it.
pub struct JsonLinesSink<R, F> {
    output: Output,
    encode: F,
    visibility: Visibility,
    record: PhantomData<fn() -> R>,
}

/// When lines are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visibility {
    AtOnce,
    /// When a checkpoint is durable that covers them.
    WhenDurable,
}

impl<R, F> JsonLinesSink<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    /// A sink that appends to `output`; `encode` appends a record's text, without a newline.
    pub fn new(output: Output, encode: F) -> JsonLinesSink<R, F> {
        JsonLinesSink { output, encode, visibility: Visibility::AtOnce, record: PhantomData }
    }

    /// The same for a job with checkpoints: each line is seen exactly once, whatever is lost.
    pub fn transactional(self) -> JsonLinesSink<R, F> {
        JsonLinesSink { visibility: Visibility::WhenDurable, ..self }
    }
}

impl<R, F: Clone> Clone for JsonLinesSink<R, F> {
    fn clone(&self) -> JsonLinesSink<R, F> {
        JsonLinesSink {
            output: self.output.clone(),
            encode: self.encode.clone(),
            visibility: self.visibility,
            record: PhantomData,
        }
    }
}

impl<R, F> Sink<R> for JsonLinesSink<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    type Writer = JsonLinesWriter<F>;

    fn fingerprint(&self) -> u64 {
        let path = self.output.path().as_os_str().as_encoded_bytes();
        Fingerprint::new("json lines sink").bytes(path).finish()
    }

    fn open(&self, context: &SinkContext) -> Result<JsonLinesWriter<F>, ConnectorError> {
        let partition = context.partition;
        let way = match self.visibility {
            Visibility::AtOnce => Way::Part(self.output.create_part(partition)?),
            Visibility::WhenDurable => Way::Stage(Staged {
                output: self.output.clone(),
                partition,
                lines: BTreeMap::new(),
            }),
        };
        Ok(JsonLinesWriter { way, encode: self.encode.clone() })
    }
}

/// One partition of the sink.
pub struct JsonLinesWriter<F> {
    way: Way,
    encode: F,
}

enum Way {
    Part(PartFile),
    Stage(Staged),
}

/// Lines that are not seen yet.
struct Staged {
    output: Output,
    partition: PartitionId,
    /// By the batch that wrote them.
    lines: BTreeMap<BatchId, Vec<u8>>,
}

impl Staged {
    /// Shows what was staged up to a checkpoint. The same checkpoint always makes the same file.
    fn show(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        let later = self.lines.split_off(&through.next());
        let due = std::mem::replace(&mut self.lines, later);
        let lines = due.into_values().collect::<Vec<_>>().concat();
        self.output.show_part(self.partition, through.0, &lines)
    }
}

impl<R, F> SinkWriter<R> for JsonLinesWriter<F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>) + Send + 'static,
{
    fn write(
        &mut self,
        batch: BatchId,
        _: Instant,
        record: &R::Of<'_>,
    ) -> Result<(), ConnectorError> {
        match &mut self.way {
            Way::Part(part) => part.append(|buffer| (self.encode)(record, buffer)),
            Way::Stage(staged) => {
                let lines = staged.lines.entry(batch).or_default();
                (self.encode)(record, lines);
                lines.push(b'\n');
                Ok(())
            }
        }
    }

    /// Results are to be seen when their batch is complete, so nothing is held back beyond it.
    fn end_batch(&mut self, _: BatchId) -> Result<(), ConnectorError> {
        match &mut self.way {
            Way::Part(part) => part.flush(),
            Way::Stage(_) => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        match &mut self.way {
            Way::Part(part) => part.flush(),
            // A job with checkpoints ends with one.
            Way::Stage(_) => Ok(()),
        }
    }

    fn freeze(&mut self, since: Option<BatchId>, out: &mut Vec<u8>) {
        let Way::Stage(staged) = &self.way else { return };
        let first = since.map_or(BatchId(0), BatchId::next);
        staged.lines.range(first..).for_each(|(_, lines)| out.extend_from_slice(lines));
    }

    fn thaw(&mut self, piece: &Piece<'_>) -> Result<(), StateError> {
        if piece.bytes.is_empty() {
            return Ok(());
        }
        let Way::Stage(staged) = &mut self.way else {
            return Err(StateError::Content("a sink that stages nothing finds something staged"));
        };
        match piece.origin {
            Origin::Checkpoint => {
                staged.output.show_part(staged.partition, piece.batch.0, piece.bytes)?;
            }
            Origin::Move => {
                staged.lines.entry(piece.batch).or_default().extend_from_slice(piece.bytes);
            }
        }
        Ok(())
    }

    fn durable(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        match &mut self.way {
            Way::Part(_) => Ok(()),
            Way::Stage(staged) => staged.show(through),
        }
    }
}
