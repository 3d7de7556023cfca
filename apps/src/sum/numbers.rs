//! The input: numbers that are a function of the batch, the task and their place, summed by the
//! source itself. There is nothing to read, so that a task costs its additions and no more.

use std::ops::Range;

use drizzle::connectors::{ConnectorError, Fingerprint};
use drizzle::dataflow::{
    Choice, EventTimes, InputCounters, Limit, Owned, Reread, Source, SourceReader, Stamp,
};
use drizzle::scheduler::plan::Pacing;
use drizzle::scheduler::{PartitionId, Watermark};

/// What the tasks of a job sum. Each of them takes one offset of its partition in each batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Tasks of a batch: partitions of the source.
    pub tasks: u32,
    /// Offsets of each partition: so many batches take something.
    pub batches: u64,
    /// Numbers of a task and batch.
    pub count: u64,
    /// Into how many sums a task divides them, by their place; at most [`MAX_PARTS`].
    pub parts: u32,
    /// Whether batches wait for their start time.
    pub pacing: Pacing,
}

/// The most sums of a task.
pub const MAX_PARTS: u32 = 64;

/// Some of the numbers of one task and batch, summed (modulo 2^64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialSum {
    /// The task.
    pub task: u32,
    /// The offset that it took.
    pub offset: u64,
    /// Which of its sums.
    pub part: u32,
    /// The sum.
    pub sum: u64,
}

/// Odd, and about 2^64 divided by the golden ratio: its multiples are spread evenly.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where the numbers of a task and offset begin.
fn seed(task: u32, offset: u64) -> u64 {
    let word = (offset ^ (u64::from(task) << 40)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ (word >> 29)
}

/// Number `place` of a task and offset. Its high half is mixed into the low one, so that no formula
/// gives the sum of many and all of them must be added.
pub fn number(task: u32, offset: u64, place: u64) -> u64 {
    scramble(seed(task, offset).wrapping_add(place.wrapping_mul(STEP)))
}

fn scramble(word: u64) -> u64 {
    word ^ (word >> 32)
}

/// Lanes that are added side by side.
const LANES: u64 = 16;

/// Sums of `count` numbers, the place modulo the number of sums saying into which each goes.
fn add_up(task: u32, offset: u64, count: u64, sums: &mut [u64]) {
    let parts = sums.len() as u64;
    sums.fill(0);
    let mut word = seed(task, offset);
    let mut place = 0;
    if LANES.is_multiple_of(parts) {
        let mut lanes = [0_u64; LANES as usize];
        while place + LANES <= count {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                let word = word.wrapping_add((lane as u64).wrapping_mul(STEP));
                *sum = sum.wrapping_add(scramble(word));
            }
            word = word.wrapping_add(LANES.wrapping_mul(STEP));
            place += LANES;
        }
        for (lane, sum) in lanes.iter().enumerate() {
            let part = &mut sums[lane % parts as usize];
            *part = part.wrapping_add(*sum);
        }
    }
    while place < count {
        let part = &mut sums[(place % parts) as usize];
        *part = part.wrapping_add(scramble(word));
        word = word.wrapping_add(STEP);
        place += 1;
    }
}

impl Source for Numbers {
    type Record = Owned<PartialSum>;
    type Reader = NumbersReader;

    fn partition_count(&self) -> u32 {
        self.tasks
    }

    fn pacing(&self) -> Pacing {
        self.pacing
    }

    fn reread(&self) -> Reread {
        Reread::Anywhere
    }

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("numbers")
            .number(self.batches)
            .number(self.count)
            .number(self.parts.into())
            .finish()
    }

    fn out_of_orderness_ms(&self) -> u64 {
        0
    }

    fn open(&self) -> Result<NumbersReader, ConnectorError> {
        let parts = self.parts.clamp(1, MAX_PARTS) as usize;
        Ok(NumbersReader { numbers: *self, sums: vec![0; parts] })
    }
}

/// The numbers as one core reads them.
#[derive(Debug)]
pub struct NumbersReader {
    numbers: Numbers,
    sums: Vec<u64>,
}

impl SourceReader for NumbersReader {
    type Record = Owned<PartialSum>;

    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    /// One offset a batch, whatever the time: the batch is what is measured.
    fn choose(&mut self, _: PartitionId, from: u64, _: &Limit) -> Choice {
        let to = (from + 1).min(self.numbers.batches);
        let ended = to == self.numbers.batches;
        Choice { to, ended, asserted: Some(Watermark(to)) }
    }

    fn read<F>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        times: &mut EventTimes,
        counters: &mut InputCounters,
        mut emit: F,
    ) -> Result<(), ConnectorError>
    where
        F: FnMut(&PartialSum, &Stamp),
    {
        let task = partition.0;
        for offset in range {
            counters.lines += 1;
            counters.ok += 1;
            add_up(task, offset, self.numbers.count, &mut self.sums);
            for (part, &sum) in (0..).zip(&self.sums) {
                emit(&PartialSum { task, offset, part, sum }, &times.stamp(offset));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{add_up, number};

    #[test]
    fn a_task_adds_what_a_plain_loop_adds() {
        for (count, parts) in
            [(0, 1), (1, 1), (15, 1), (10_000, 1), (10_000, 16), (100, 7), (99, 8)]
        {
            let mut sums = vec![7; parts];
            add_up(3, 11, count, &mut sums);
            let mut plain = vec![0_u64; parts];
            for place in 0..count {
                let sum = &mut plain[place as usize % parts];
                *sum = sum.wrapping_add(number(3, 11, place));
            }
            assert_eq!(sums, plain, "{count} numbers in {parts} sums");
        }
    }

    #[test]
    fn numbers_differ_by_task_offset_and_place() {
        let mut numbers: Vec<u64> = Vec::new();
        for task in 0..20 {
            for offset in 0..20 {
                numbers.extend((0..20).map(|place| number(task, offset, place)));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 8000);
    }
}
