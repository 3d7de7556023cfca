//! The terminal of a last stage: hands each partition's records to its own sink writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::TakenRange;
use drizzle_scheduler::{BatchId, Incarnation, PartitionId, Watermark};

use crate::connectors::ConnectorError;
use crate::dataflow::sink::{Beginning, SinkContext};
use crate::dataflow::stage::{OpenTerminal, Output, StageContext, TaskError, Terminal};
use crate::dataflow::state::{Extent, Keeps, Slot, StateError};
use crate::dataflow::{Piece, Row, Sink, SinkWriter, Stamp};

/// A sink and the name of its operator.
#[derive(Clone, Debug)]
pub struct SinkTerminal<S> {
    pub(super) sink: S,
    pub(super) name: Arc<str>,
}

impl<R: Row, S: Sink<R>> OpenTerminal<R> for SinkTerminal<S> {
    type Running = RunningSink<R, S>;

    fn open(&self, context: &StageContext) -> Result<Self::Running, ConnectorError> {
        Ok(RunningSink {
            sink: self.sink.clone(),
            name: self.name.clone(),
            incarnation: context.incarnation,
            writers: BTreeMap::new(),
            aside: BTreeMap::new(),
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
    incarnation: Incarnation,
    writers: BTreeMap<PartitionId, S::Writer>,
    /// Writers of partitions that no task works on.
    aside: BTreeMap<(PartitionId, Slot), S::Writer>,
    batch: BatchId,
    current: PartitionId,
    written: u64,
    failure: Option<ConnectorError>,
}

impl<R: Row, S: Sink<R>> RunningSink<R, S> {
    fn writer(&mut self, partition: PartitionId) -> Result<&mut S::Writer, ConnectorError> {
        if !self.writers.contains_key(&partition) {
            let incarnation = self.incarnation;
            let writer = self.sink.open(&SinkContext { partition, incarnation })?;
            self.writers.insert(partition, writer);
        }
        Ok(self.writers.get_mut(&partition).expect("it was just added"))
    }

    fn take(&mut self, partition: PartitionId, slot: Slot) -> Option<S::Writer> {
        match slot {
            Slot::Live => self.writers.remove(&partition),
            Slot::Copy | Slot::Ahead => self.aside.remove(&(partition, slot)),
        }
    }

    fn put(&mut self, partition: PartitionId, slot: Slot, writer: S::Writer) {
        match slot {
            Slot::Live => self.writers.insert(partition, writer),
            Slot::Copy | Slot::Ahead => self.aside.insert((partition, slot), writer),
        };
    }
}

impl<R: Row, S: Sink<R>> Keeps for RunningSink<R, S> {
    fn freeze(&mut self, partition: PartitionId, slot: Slot, extent: Extent, out: &mut Vec<u8>) {
        let since = match extent {
            Extent::Whole => None,
            Extent::Since(since) => Some(since),
        };
        let writer = match slot {
            Slot::Live => self.writers.get_mut(&partition),
            Slot::Copy | Slot::Ahead => self.aside.get_mut(&(partition, slot)),
        };
        if let Some(writer) = writer {
            writer.freeze(since, out);
        }
    }

    fn thaw(
        &mut self,
        partition: PartitionId,
        slot: Slot,
        piece: &Piece<'_>,
        _from: usize,
    ) -> Result<Option<usize>, StateError> {
        // What is loaded ahead of a move is of a checkpoint whose owner is there to make it visible.
        if slot == Slot::Live {
            self.writer(partition)?.thaw(piece)?;
        }
        Ok(None)
    }

    fn clear(&mut self, partition: PartitionId, slot: Slot) {
        self.take(partition, slot);
    }

    fn shift(&mut self, partition: PartitionId, from: Slot, to: Slot) {
        self.take(partition, to);
        if let Some(writer) = self.take(partition, from) {
            self.put(partition, to, writer);
        }
    }
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
        self.writer(partition)?;
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

    fn begin_at(
        &mut self,
        partition: PartitionId,
        beginning: Beginning,
    ) -> Result<(), ConnectorError> {
        self.writer(partition)?.begin(beginning)
    }

    fn durable(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        self.writers.values_mut().try_for_each(|writer| writer.durable(through))
    }

    fn recorded(&mut self, through: BatchId) -> Result<(), ConnectorError> {
        self.writers.values_mut().try_for_each(|writer| writer.recorded(through))
    }
}
