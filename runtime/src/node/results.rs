//! Results that the driver collects: a sink whose rows travel to the driver instead of to a file.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use drizzle_scheduler::{BatchId, Instant};

use crate::connectors::{ConnectorError, Fingerprint};
use crate::dataflow::{Row, Sink, SinkContext, SinkWriter};
use crate::io::Waker;

/// Bytes that may wait where nobody has said how many.
const DEFAULT_LIMIT: usize = 16 << 20;

/// The way from sinks to the driver, by way of the worker's control loop. Where more waits than may,
/// sinks wait, and with them their cores: the control loop never waits for a core.
#[derive(Clone)]
pub struct Outlet {
    shared: Arc<Shared>,
    waker: Waker,
}

/// The other end of an outlet.
pub(crate) struct WaitingRows {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// There is room again, or nobody takes anything any more.
    changed: Condvar,
}

struct Queue {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    peak_bytes: usize,
    max_bytes: usize,
    /// Sinks that wait for room.
    blocked: usize,
    at_limit: AtLimit,
    is_closed: bool,
}

/// What a sink does that finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtLimit {
    /// Waits, and with it its core.
    Wait,
    /// Fails: who would make room shares its thread.
    Fail,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// A piece always fits an empty queue.
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= self.max_bytes
    }
}

impl Outlet {
    /// An outlet and its other end; `waker` is that of the loop that reads it.
    pub(crate) fn new(waker: Waker) -> (Outlet, WaitingRows) {
        let queue = Queue {
            pieces: VecDeque::new(),
            bytes: 0,
            peak_bytes: 0,
            max_bytes: DEFAULT_LIMIT,
            blocked: 0,
            at_limit: AtLimit::Wait,
            is_closed: false,
        };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        (Outlet { shared: shared.clone(), waker }, WaitingRows { shared })
    }

    /// An outlet that leads nowhere: for a node that builds the job only to know its plan.
    pub fn nowhere() -> Outlet {
        Outlet::new(Waker::detached()).0
    }

    /// Hands rows over, and waits while too much waits already.
    fn send(&self, rows: Vec<u8>) -> Result<(), ConnectorError> {
        let mut queue = self.shared.lock();
        while !queue.is_closed && !queue.has_room(rows.len()) {
            if queue.at_limit == AtLimit::Fail {
                return Err(too_fast());
            }
            queue.blocked += 1;
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.blocked -= 1;
        }
        if queue.is_closed {
            return Err(gone());
        }
        queue.bytes += rows.len();
        queue.peak_bytes = queue.peak_bytes.max(queue.bytes);
        queue.pieces.push_back(rows);
        drop(queue);
        self.waker.wake();
        Ok(())
    }
}

impl WaitingRows {
    /// From now on so many bytes may wait.
    pub(crate) fn limit(&self, max_bytes: usize) {
        self.shared.lock().max_bytes = max_bytes;
        self.shared.changed.notify_all();
    }

    /// From now on a sink that finds no room fails: it runs on the thread that would make some.
    pub(crate) fn never_wait(&self) {
        self.shared.lock().at_limit = AtLimit::Fail;
    }

    /// Takes rows, several pieces in one while they are short.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let mut queue = self.shared.lock();
        let mut rows = queue.pieces.pop_front()?;
        while let Some(next) = queue.pieces.front()
            && rows.len() + next.len() <= PIECE_BYTES
        {
            rows.extend_from_slice(next);
            queue.pieces.pop_front();
        }
        queue.bytes -= rows.len();
        if queue.blocked > 0 {
            self.shared.changed.notify_all();
        }
        Some(rows)
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.lock().pieces.is_empty()
    }

    /// If sinks wait for room: how many bytes wait to leave.
    pub(crate) fn blocked_by(&self) -> Option<usize> {
        let queue = self.shared.lock();
        (queue.blocked > 0).then_some(queue.bytes)
    }

    /// The most bytes that ever waited.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.shared.lock().peak_bytes
    }
}

impl Drop for WaitingRows {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
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

    fn open(&self, _: &SinkContext) -> Result<CollectWriter<F>, ConnectorError> {
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

/// A piece is sent before it outgrows a frame, which has room for four.
const PIECE_BYTES: usize = 256 * 1024;
/// Rows are shorter.
const MAX_ROW_BYTES: usize = 64 * 1024;

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
        match self.rows.len() > PIECE_BYTES - MAX_ROW_BYTES {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn end_batch(&mut self, _batch: BatchId) -> Result<(), ConnectorError> {
        self.send()
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.send()
    }
}

impl<F> CollectWriter<F> {
    fn send(&mut self) -> Result<(), ConnectorError> {
        match self.rows.is_empty() {
            true => Ok(()),
            false => self.outlet.send(std::mem::take(&mut self.rows)),
        }
    }
}

fn too_fast() -> ConnectorError {
    let text = "results come faster than the driver takes them, and a light worker cannot wait: \
                give workers threads of their own";
    ConnectorError::Other(text.to_owned())
}

fn gone() -> ConnectorError {
    ConnectorError::Other("the control loop that takes results to the driver is gone".to_owned())
}

#[cfg(test)]
mod tests;
