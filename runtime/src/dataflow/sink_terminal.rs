//! The terminal of a last stage: hands each partition's records to its own sink writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::TakenRange;
use drizzle_scheduler::{BatchId, PartitionId, Watermark};

use crate::connectors::ConnectorError;
use crate::dataflow::stage::{OpenTerminal, Output, StageContext, TaskError, Terminal};
use crate::dataflow::{Row, Sink, SinkWriter, Stamp};

/// A sink and the name of its operator.
#[derive(Clone, Debug)]
pub struct SinkTerminal<S> {
    pub(super) sink: S,
    pub(super) name: Arc<str>,
}

impl<R: Row, S: Sink<R>> OpenTerminal<R> for SinkTerminal<S> {
    type Running = RunningSink<R, S>;

    fn open(&self, _context: &StageContext) -> Result<Self::Running, ConnectorError> {
        Ok(RunningSink {
            sink: self.sink.clone(),
            name: self.name.clone(),
            writers: BTreeMap::new(),
            batch: BatchId(0),
            current: PartitionId(0),
            written: 0,
            failure: None,
        })
    }
}

/// A sink at work on one core.
pub struct RunningSink<R: Row, S: Sink<R>> {
    sink: S,
    name: Arc<str>,
    writers: BTreeMap<PartitionId, S::Writer>,
    batch: BatchId,
    current: PartitionId,
    written: u64,
    failure: Option<ConnectorError>,
}

impl<R: Row, S: Sink<R>> Terminal<R> for RunningSink<R, S> {
    fn begin(&mut self, run: &Run, _output: &mut Output<'_>) -> Result<(), TaskError> {
        self.batch = run.batch;
        Ok(())
    }

    fn partition(
        &mut self,
        _index: usize,
        partition: PartitionId,
        _output: &mut Output<'_>,
    ) -> Result<(), TaskError> {
        self.current = partition;
        if !self.writers.contains_key(&partition) {
            self.writers.insert(partition, self.sink.open(partition)?);
        }
        Ok(())
    }

    fn push(&mut self, record: &R::Of<'_>, _stamp: &Stamp, output: &mut Output<'_>) {
        if self.failure.is_some() {
            return;
        }
        let writer = self.writers.get_mut(&self.current).expect("its partition was announced");
        match writer.write(self.batch, output.clock.now(), record) {
            Ok(()) => self.written += 1,
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn finish(
        &mut self,
        run: &Run,
        _watermark: Watermark,
        _ranges: &[TakenRange],
        _output: &mut Output<'_>,
    ) -> Result<(), TaskError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure.into());
        }
        for partition in run.partitions.iter() {
            if let Some(writer) = self.writers.get_mut(partition) {
                writer.end_batch(run.batch)?;
            }
        }
        Ok(())
    }

    fn counters(&self, report: &mut dyn FnMut(&str, &str, u64)) {
        report(&self.name, "written", self.written);
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.writers.values_mut().try_for_each(SinkWriter::close)
    }
}
