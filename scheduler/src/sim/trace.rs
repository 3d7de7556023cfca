//! One line for each transition, and a running hash over all of them: two runs of a seed must have the
//! same. The lines are kept only where somebody wants to read them; the hash does not need them.

use super::dice::mix;

/// How to read the lines.
pub const LEGEND: &str = "\
each line: simulated time, who, what happened
  t12.345   12.345 batch intervals since the simulation began
  D1        the driver of term 1 (D2 is the next one; an old one may wake again)
  w2/i5     the process of worker 2, in its life (incarnation) 5; w2/i5.0 is its core 0
  =>        an order of the driver; every numbered decision goes to all workers, #7 is its number
  <=        a report of a worker
  run, end  tasks begin and end: batch b, stage s, partitions p, attempt a
  keep, drop  a block arrives; wanted, or a repetition (b batch, e edge, up upstream, down downstream)
  !!        a fault is injected; -- it is over
  disk      journal and snapshots; journal entries are e1, e2, ...
  sink      what leaves the job
";

/// What happened, for the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Order = 1,
    Report,
    Local,
    Start,
    End,
    Block,
    Fault,
    Disk,
    Sink,
    Network,
    Process,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    interval_ns: u64,
    zero: u64,
}

/// Whether lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Only their hash.
    Hashed,
    /// All of them.
    Kept,
}

impl Trace {
    pub(crate) fn new(lines: Lines, zero: u64, interval_ns: u64) -> Trace {
        let lines = match lines {
            Lines::Hashed => None,
            Lines::Kept => Some(Vec::new()),
        };
        Trace { hash: 0xCBF2_9CE4_8422_2325, lines, interval_ns, zero }
    }

    /// A transition at `now`: some numbers that tell it from others, and how a person reads it.
    pub(crate) fn note(
        &mut self,
        now: u64,
        kind: Kind,
        numbers: [u64; 3],
        text: impl FnOnce() -> String,
    ) {
        for word in [now, kind as u64].into_iter().chain(numbers) {
            self.hash = (self.hash ^ mix(word)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        if let Some(lines) = &mut self.lines {
            let since = now.saturating_sub(self.zero);
            let (whole, rest) = (since / self.interval_ns, since % self.interval_ns);
            let thousandths = rest * 1000 / self.interval_ns;
            lines.push(format!("t{whole}.{thousandths:03} {}", text()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
