//! The end of a core whose job ends well: what its stages wrote is made complete, and it reports.

use std::collections::BTreeMap;

use super::{Core, CoreOutput, Phase, boundary};
use crate::wire::CoreCosts;

impl Core {
    pub(super) fn finish(&mut self) {
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
        let costs = CoreCosts {
            time: self.laps.total(),
            calls: self.io.calls(),
            memory: self.memory.peaks(),
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
            boundary::run(|| stage.close())
                .map_err(|reason| format!("stage {name:?} failed at the end: {reason}"))?;
        }
        Ok(())
    }
}
