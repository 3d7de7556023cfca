//! Results that the driver collects: a sink whose rows travel to the driver instead of to a file.

use std::marker::PhantomData;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use drizzle_scheduler::{BatchId, Instant, PartitionId};

use crate::connectors::{ConnectorError, Fingerprint};
use crate::dataflow::{Row, Sink, SinkWriter};
use crate::io::Waker;

/// Pieces that wait for the control loop; beyond that, sinks keep what they have and try again.
const CAPACITY: usize = 1024;

/// The way from sinks to the driver, by way of the worker's control loop.
#[derive(Clone, Debug)]
pub struct Outlet {
    queue: Sender<Vec<u8>>,
    waker: Waker,
}

impl Outlet {
    /// An outlet and its other end; `waker` is that of the loop that reads it.
    pub fn new(waker: Waker) -> (Outlet, Receiver<Vec<u8>>) {
        let (queue, other_end) = bounded(CAPACITY);
        (Outlet { queue, waker }, other_end)
    }

    /// An outlet that leads nowhere: for a node that builds the job only to know its plan.
    pub fn nowhere() -> Outlet {
        Outlet::new(Waker::detached()).0
    }
}

/// A sink whose rows the driver's observer gets, in the job's own encoding.
pub struct Collect<R, F> {
    outlet: Outlet,
    encode: F,
    row: PhantomData<fn() -> R>,
}

impl<R, F: Clone> Clone for Collect<R, F> {
    fn clone(&self) -> Self {
        Collect { outlet: self.outlet.clone(), encode: self.encode.clone(), row: PhantomData }
    }
}

impl<R, F> Collect<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, Instant, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    /// `encode` appends a row; it is told when the row was handed to the sink, in the driver's time.
    pub fn new(outlet: &Outlet, encode: F) -> Collect<R, F> {
        Collect { outlet: outlet.clone(), encode, row: PhantomData }
    }
}

impl<R, F> Sink<R> for Collect<R, F>
where
    R: Row,
    F: Fn(&R::Of<'_>, Instant, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    type Writer = CollectWriter<F>;

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("collect").finish()
    }

    fn open(&self, _partition: PartitionId) -> Result<CollectWriter<F>, ConnectorError> {
        let (outlet, encode) = (self.outlet.clone(), self.encode.clone());
        Ok(CollectWriter { outlet, encode, rows: Vec::new() })
    }
}

/// One partition's rows that have not left yet.
pub struct CollectWriter<F> {
    outlet: Outlet,
    encode: F,
    rows: Vec<u8>,
}

/// A piece is sent before it outgrows a frame. No row is longer.
const PIECE_BYTES: usize = 256 * 1024;

impl<R, F> SinkWriter<R> for CollectWriter<F>
where
    R: Row,
    F: Fn(&R::Of<'_>, Instant, &mut Vec<u8>) + Send + 'static,
{
    fn write(
        &mut self,
        _batch: BatchId,
        now: Instant,
        record: &R::Of<'_>,
    ) -> Result<(), ConnectorError> {
        (self.encode)(record, now, &mut self.rows);
        match self.rows.len() > PIECE_BYTES {
            true => self.send_waiting(),
            false => Ok(()),
        }
    }

    fn end_batch(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        match self.outlet.queue.try_send(std::mem::take(&mut self.rows)) {
            Ok(()) => {
                self.outlet.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(rows)) => {
                self.rows = rows;
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(gone()),
        }
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.send_waiting()
    }
}

impl<F> CollectWriter<F> {
    /// Sends what is there and waits for room: the control loop never waits for a core.
    fn send_waiting(&mut self) -> Result<(), ConnectorError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.outlet.waker.wake();
        self.outlet.queue.send(rows).map_err(|_| gone())?;
        self.outlet.waker.wake();
        Ok(())
    }
}

fn gone() -> ConnectorError {
    ConnectorError::Other("the control loop that takes results to the driver is gone".to_owned())
}
