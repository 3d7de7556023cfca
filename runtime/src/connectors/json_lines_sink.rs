//! A sink that writes one line for each record, into one part file for each partition.

use std::marker::PhantomData;

use drizzle_scheduler::{BatchId, Instant};

use super::part_files::{Output, PartFile};
use super::{ConnectorError, Fingerprint};
use crate::dataflow::{Row, Sink, SinkContext, SinkWriter};

/// Writes each record as the line that `encode` makes of it.
pub struct JsonLinesSink<R, F> {
    output: Output,
    encode: F,
    record: PhantomData<fn() -> R>,
}

impl<R, F> JsonLinesSink<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    /// A sink that appends to `output`; `encode` appends a record's text, without a newline.
    pub fn new(output: Output, encode: F) -> JsonLinesSink<R, F> {
        JsonLinesSink { output, encode, record: PhantomData }
    }
}

impl<R, F: Clone> Clone for JsonLinesSink<R, F> {
    fn clone(&self) -> JsonLinesSink<R, F> {
        JsonLinesSink {
            output: self.output.clone(),
            encode: self.encode.clone(),
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
        let part = self.output.create_part(context.partition)?;
        Ok(JsonLinesWriter { part, encode: self.encode.clone() })
    }
}

/// One partition of the sink.
pub struct JsonLinesWriter<F> {
    part: PartFile,
    encode: F,
}

impl<R, F> SinkWriter<R> for JsonLinesWriter<F>
where
    R: Row,
    F: Fn(&R::Of<'_>, &mut Vec<u8>) + Send + 'static,
{
    fn write(&mut self, _: BatchId, _: Instant, record: &R::Of<'_>) -> Result<(), ConnectorError> {
        self.part.append(|buffer| (self.encode)(record, buffer))
    }

    /// Results are to be seen when their batch is complete, so nothing is held back beyond it.
    fn end_batch(&mut self, _: BatchId) -> Result<(), ConnectorError> {
        self.part.flush()
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.part.flush()
    }
}
