//! CPU time of task bodies. Asking for it costs a system call, so it is asked for around some runs
//! only and the others are taken to be like them; the monotonic clock would count as a task's
//! what others did while its thread had to wait for the processor.

use crate::clock::thread_cpu_ns;

/// Of so many runs one is measured. A prime, so that it is not always one of the same stage.
const ONE_OF: u64 = 13;

/// CPU time of the task bodies of one core.
#[derive(Debug, Default)]
pub(super) struct TaskClock {
    runs: u64,
    measured_ns: u64,
}

impl TaskClock {
    /// A run begins; if it is to be measured, the time by the thread's CPU clock.
    pub(super) fn begin(&mut self) -> Option<u64> {
        self.runs += 1;
        (self.runs % ONE_OF == ONE_OF / 2).then(thread_cpu_ns)
    }

    /// It has ended.
    pub(super) fn end(&mut self, began: Option<u64>) {
        if let Some(began) = began {
            self.measured_ns += thread_cpu_ns() - began;
        }
    }

    /// About how much all runs have taken, in nanoseconds.
    pub(super) fn total_ns(&self) -> u64 {
        let measured = (self.runs + ONE_OF - ONE_OF / 2) / ONE_OF;
        match measured {
            0 => 0,
            _ => {
                (u128::from(self.measured_ns) * u128::from(self.runs) / u128::from(measured)) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskClock;

    #[test]
    fn one_run_of_some_stands_for_all() {
        let mut clock = TaskClock::default();
        let mut measured = 0;
        for run in 1..=1000 {
            if clock.begin().is_some() {
                measured += 1;
            }
            clock.measured_ns = measured * 10;
            let expected = if measured == 0 { 0 } else { run * 10 };
            assert_eq!(clock.total_ns(), expected, "after {run} runs");
        }
    }
}
