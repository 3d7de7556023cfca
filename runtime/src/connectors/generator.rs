//! Generated lines at a given rate, each a function of its number, so that any range can be read
//! again and nothing is kept.
//!
//! Event i belongs to partition i mod P and is scheduled at i / rate on the generator's clock, which
//! starts with the job. Its event time is that scheduled time, so a system that falls behind shows
//! it as latency instead of hiding it. Offsets count the events of a partition.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::plan::Pacing;
use drizzle_scheduler::{Instant, PartitionId, Watermark};

use super::{ConnectorError, Fingerprint, LineReader, Lines};
use crate::dataflow::{Choice, Limit, Reread};
use crate::formats::Chunk;

/// About how many bytes of lines are made at a time: they stay in the processor's first cache.
const CHUNK_BYTES: usize = 16 << 10;

/// Events per second of event time where the rate is what the machine can do.
const NOMINAL_RATE: NonZeroU64 = NonZeroU64::new(10_000_000).expect("10 million is not 0");

/// How fast events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// So many a second, over all partitions, and none before its time.
    PerSecond(NonZeroU64),
    /// As many as are taken.
    Max,
}

/// When each event is scheduled, and which partition it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    rate: Rate,
    partitions: NonZeroU32,
    duration_ns: u64,
    base_ms: u64,
    /// How many events there are in all; as good as endless where the rate is not given.
    total: u64,
}

impl Schedule {
    /// Events at `rate` for `duration_ns` nanoseconds, the first of them at event time `base_ms`.
    pub fn new(
        rate: Rate,
        partitions: NonZeroU32,
        duration_ns: u64,
        base_ms: u64,
    ) -> Result<Schedule, ConnectorError> {
        let endless = u64::MAX / 1000;
        let mut schedule = Schedule { rate, partitions, duration_ns, base_ms, total: endless };
        if let Rate::PerSecond(_) = rate {
            schedule.total = schedule.due_before(duration_ns);
        }
        let last_ms = (schedule.total / schedule.per_second()).checked_mul(1000);
        let last_ms = last_ms.and_then(|ms| ms.checked_add(1000)?.checked_add(base_ms));
        if schedule.total > endless || last_ms.is_none() {
            let text = "so many events for so long are more than can be numbered";
            return Err(ConnectorError::Other(text.to_owned()));
        }
        Ok(schedule)
    }

    /// Event time of the generator's start.
    pub fn base_ms(&self) -> u64 {
        self.base_ms
    }

    /// How many events there will be; `None` where the machine decides.
    pub fn total(&self) -> Option<u64> {
        matches!(self.rate, Rate::PerSecond(_)).then_some(self.total)
    }

    /// When event `index` is scheduled, as event time.
    #[inline]
    pub fn event_time(&self, index: u64) -> u64 {
        self.base_ms + index * 1000 / self.per_second()
    }

    /// Events per second of event time.
    #[inline]
    fn per_second(&self) -> NonZeroU64 {
        match self.rate {
            Rate::PerSecond(rate) => rate,
            Rate::Max => NOMINAL_RATE,
        }
    }

    /// How many events are scheduled before `elapsed_ns` on the generator's clock.
    fn due_before(&self, elapsed_ns: u64) -> u64 {
        let rate = u128::from(self.per_second().get());
        let due = (u128::from(elapsed_ns) * rate).div_ceil(1_000_000_000);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// The number of an event, among all partitions.
    #[inline]
    fn index(&self, partition: PartitionId, offset: u64) -> u64 {
        offset * u64::from(self.partitions.get()) + u64::from(partition.0)
    }

    /// How many of the first `events` belong to `partition`.
    fn share(&self, partition: PartitionId, events: u64) -> u64 {
        events.saturating_sub(u64::from(partition.0)).div_ceil(self.partitions.get().into())
    }

    /// Takes what is due, and asserts that nothing else was.
    fn choose_due(&self, partition: PartitionId, take: Range<u64>, elapsed_ns: u64) -> Choice {
        let due = self.share(partition, self.due_before(elapsed_ns).min(self.total));
        // A cut that lies before an earlier one takes nothing back.
        let to = due.min(take.end).max(take.start);
        let asserted = if to < due {
            self.event_time(self.index(partition, to))
        } else {
            self.base_ms.saturating_add(elapsed_ns / 1_000_000)
        };
        let all = to == self.share(partition, self.total);
        Choice {
            to,
            // Not with the last event: the last window lasts until the duration is over.
            ended: all && elapsed_ns >= self.duration_ns,
            asserted: Some(Watermark(asserted)),
        }
    }

    /// Takes as much as is allowed until the time is over.
    fn choose_any(&self, partition: PartitionId, take: Range<u64>, elapsed_ns: u64) -> Choice {
        let ended = elapsed_ns >= self.duration_ns;
        let last = self.share(partition, self.total);
        let to = if ended { take.start } else { take.end.min(last).max(take.start) };
        let next = self.event_time(self.index(partition, to.min(last)));
        Choice { to, ended: ended || to == last, asserted: Some(Watermark(next)) }
    }
}

/// What generated events look like.
pub trait EventText: Send + Sync + 'static {
    /// What one reader keeps between two lines, for speed only.
    type Scratch: Default + Send + 'static;

    /// About how long a line is, in bytes.
    fn mean_bytes(&self) -> u64;
    /// Hash over everything that lines depend on beside their number and time.
    fn fingerprint(&self) -> u64;
    /// Appends the line of event `index`, without a newline.
    fn write(&self, index: u64, event_time: u64, scratch: &mut Self::Scratch, lines: &mut Vec<u8>);
}

/// What a source of generated events says beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asserts {
    /// That nothing earlier will come.
    Watermarks,
    Nothing,
}

/// Generated events as a source of lines.
#[derive(Debug)]
pub struct Generated<E> {
    shared: Arc<Shared<E>>,
    asserts: Asserts,
}

#[derive(Debug)]
struct Shared<E> {
    schedule: Schedule,
    events: E,
}

impl<E> Clone for Generated<E> {
    fn clone(&self) -> Self {
        Generated { shared: self.shared.clone(), asserts: self.asserts }
    }
}

impl<E: EventText> Generated<E> {
    /// Events as `events` writes them, when `schedule` says.
    pub fn new(schedule: Schedule, events: E) -> Generated<E> {
        Generated { shared: Arc::new(Shared { schedule, events }), asserts: Asserts::Watermarks }
    }

    /// The same events from a source that does not know when all before a time are there: its watermarks
    /// follow from the events, which closes a window a batch later.
    pub fn deriving_watermarks(self) -> Generated<E> {
        Generated { asserts: Asserts::Nothing, ..self }
    }

    /// When they come.
    pub fn schedule(&self) -> &Schedule {
        &self.shared.schedule
    }

    /// What they look like.
    pub fn events(&self) -> &E {
        &self.shared.events
    }
}

impl<E: EventText> Lines for Generated<E> {
    type Reader = GeneratedReader<E>;

    fn partition_count(&self) -> u32 {
        self.shared.schedule.partitions.get()
    }

    fn pacing(&self) -> Pacing {
        match self.shared.schedule.rate {
            Rate::PerSecond(_) => Pacing::Clock,
            Rate::Max => Pacing::Unpaced,
        }
    }

    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        let Schedule { rate, partitions, duration_ns, base_ms, .. } = self.shared.schedule;
        let rate = match rate {
            Rate::PerSecond(rate) => rate.get(),
            Rate::Max => 0,
        };
        Fingerprint::new("generated")
            .number(partitions.get().into())
            .number(rate)
            .number(duration_ns)
            .number(base_ms)
            .number(self.shared.events.fingerprint())
            .number(u64::from(self.asserts == Asserts::Watermarks))
            .finish()
    }

    fn open(&self) -> Result<GeneratedReader<E>, ConnectorError> {
        let (shared, scratch) = (self.shared.clone(), E::Scratch::default());
        let asserts = self.asserts;
        Ok(GeneratedReader { shared, asserts, start: None, scratch, lines: Vec::new() })
    }
}

/// Generated events as one core reads them.
#[derive(Debug)]
pub struct GeneratedReader<E: EventText> {
    shared: Arc<Shared<E>>,
    asserts: Asserts,
    /// Zero of the generator's clock. Until it is told, no event is due.
    start: Option<Instant>,
    scratch: E::Scratch,
    /// Lines that are about to be read.
    lines: Vec<u8>,
}

impl<E: EventText> LineReader for GeneratedReader<E> {
    /// The first one counts: event times are never scheduled anew.
    fn start(&mut self, start: Instant) {
        self.start.get_or_insert(start);
    }

    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        let Some(start) = self.start else {
            return Choice { to: from, ended: false, asserted: None };
        };
        let Shared { schedule, events } = &*self.shared;
        let elapsed_ns = limit.cut.since(start);
        let most = from.saturating_add((limit.bytes / events.mean_bytes().max(1)).max(1));
        let choice = match schedule.rate {
            Rate::PerSecond(_) => schedule.choose_due(partition, from..most, elapsed_ns),
            Rate::Max => schedule.choose_any(partition, from..most, elapsed_ns),
        };
        match self.asserts {
            Asserts::Watermarks => choice,
            Asserts::Nothing => Choice { asserted: None, ..choice },
        }
    }

    fn read_chunks<F: FnMut(Chunk<'_>)>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        mut each: F,
    ) -> Result<(), ConnectorError> {
        let Shared { schedule, events } = &*self.shared;
        let lines = &mut self.lines;
        lines.clear();
        for offset in range {
            let index = schedule.index(partition, offset);
            events.write(index, schedule.event_time(index), &mut self.scratch, lines);
            lines.push(b'\n');
            if lines.len() >= CHUNK_BYTES {
                hand_out(lines, &mut each);
            }
        }
        hand_out(lines, &mut each);
        Ok(())
    }
}

/// Hands out the lines that were made, with room to read ahead, and forgets them.
fn hand_out(lines: &mut Vec<u8>, each: &mut impl FnMut(Chunk<'_>)) {
    let length = lines.len();
    if length > 0 {
        lines.resize(length + Chunk::READ_AHEAD, 0);
        each(Chunk::start_of(lines, length));
        lines.clear();
    }
}
