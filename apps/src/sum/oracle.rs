//! The same sums by plain loops over the numbers, in which nothing of the engine takes part.

use super::flags::Stages;
use super::numbers::{Numbers, number};
use super::tally::{Summed, Tally};

/// What the results must be if partition p was taken up to offset `taken[p]`. `keys` are those of
/// the reducers, which there are in two stages only.
pub fn expected(numbers: &Numbers, stages: Stages, keys: &[u32], taken: &[u64]) -> Tally {
    let mut tally = Tally::default();
    let last = taken.iter().copied().max().unwrap_or(0);
    let mut totals = vec![0_u64; keys.len()];
    for offset in 0..last {
        totals.fill(0);
        let tasks = (0..).zip(taken).filter(|&(_, &to)| offset < to);
        for (task, _) in tasks {
            match stages {
                Stages::One => {
                    let all = (0..numbers.count).map(|place| number(task, offset, place));
                    let sum = all.fold(0, u64::wrapping_add);
                    tally.add(&Summed { key: task.into(), offset, sum });
                }
                Stages::Two => {
                    let mut part = 0;
                    for place in 0..numbers.count {
                        totals[part] = totals[part].wrapping_add(number(task, offset, place));
                        part = if part + 1 == keys.len() { 0 } else { part + 1 };
                    }
                }
            }
        }
        match stages {
            Stages::One => {}
            Stages::Two => {
                for (&key, &sum) in keys.iter().zip(&totals) {
                    tally.add(&Summed { key: key.into(), offset, sum });
                }
            }
        }
    }
    tally
}
