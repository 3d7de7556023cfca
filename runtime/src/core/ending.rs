//! The end of a core whose job ends well: what its stages wrote is made complete, and it reports.

use std::collections::BTreeMap;

use super::{Core, CoreOutput, Phase, boundary};
use crate::wire::{CoreCosts, MemoryPeaks};

/// Whether the control loop has asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Unasked,
    Wanted,
}

impl Core {
    /// Ends where that is wanted, once every state that was asked for is there: a partition that was
    /// restored may have staged what its owner before did not live to show.
    pub(super) fn finish_if_wanted(&mut self) {
        let is_loading = self.keeping.as_ref().is_some_and(|keeping| !keeping.loading.is_empty());
        if self.ending == Ending::Wanted && !is_loading {
            self.ending = Ending::Unasked;
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Err(reason) = self.close() {
            self.fail(reason);
            return;
        }
        let mut counters = BTreeMap::new();
        for stage in self.stages.iter().flatten() {
            stage.counters(&mut |operator, what, count| {
                *counters.entry(format!("{operator}.{what}")).or_default() += count;
            });
        }
        let spilled_bytes = self.keeping.as_ref().map_or(0, |keeping| keeping.spill.peak_bytes());
        let costs = CoreCosts {
            time: self.laps.total(),
            calls: self.io.calls(),
            memory: MemoryPeaks { spilled_bytes, ..self.memory.peaks() },
        };
        let (usage, task_cpu_ns) = (self.meter.take(), self.task_clock.total_ns());
        self.tell_control(CoreOutput::Finished { counters, usage, task_cpu_ns, costs });
        self.phase = Phase::Done;
    }

    /// Makes what the stages wrote complete.
    fn close(&mut self) -> Result<(), String> {
        let stages = self.context.plan.stages.iter().zip(&mut self.stages);
        for (described, stage) in stages {
            let Some(stage) = stage else { continue };
            let name = &described.name;
            boundary::run(|| stage.close()).map_err(|failure| {
                format!("stage {name:?} failed at the end: {}", String::from(failure))
            })?;
        }
        Ok(())
    }
}
