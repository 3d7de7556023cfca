//! Running a task: whether there is memory for it, what it has at hand, and what it leaves.

use drizzle_scheduler::local::Run;
use drizzle_scheduler::message::Purpose;
use drizzle_scheduler::{Instant, StageId};

use super::boundary::{self, Failure};
use super::{Core, CoreOutput, Phase, Running, inputs};
use crate::connectors::ConnectorError;
use crate::dataflow::stage::{Intake, IntakeState, Output, Stage, StageContext};
use crate::node::Size;
use crate::wire::TaskPanic;

impl Core {
    /// What to run now: what has waited for memory and need not any more, or what is ready.
    pub(super) fn next_run(&mut self, now: Instant) -> Option<Run> {
        if let Some(oldest) = self.postponed.front()
            && !self.memory.must_wait(oldest)
        {
            return self.postponed.pop_front();
        }
        while let Some(run) = self.scheduler.next(now) {
            if !self.memory.must_wait(&run) {
                return Some(run);
            }
            let place = self.postponed.partition_point(|other| other.batch <= run.batch);
            self.postponed.insert(place, run);
        }
        None
    }

    pub(super) fn execute(&mut self, run: &Run, began: u64) -> Result<(), Failure> {
        let plan = self.context.plan.clone();
        boundary::run(|| self.open(run.stage))?;
        let placement = self.scheduler.placements().at(run.batch);
        let placement = placement.expect("a batch that runs is placed").clone();
        let is_source = plan.is_source(run.stage);
        let (intake, batch_bytes) = match is_source {
            true => self.intake(run, began),
            false => (IntakeState::Paused, 0),
        };
        let stage = self.stages[run.stage.index()].as_mut().expect("it was opened");
        let inputs = self.inputs.of(run.batch, run.stage);
        let folded = inputs::choose(&plan, &self.scheduler, run, inputs);
        let folded = folded.as_deref();
        let ranges = std::mem::take(&mut self.ranges);
        let origin = self.origin;
        let notices = Vec::new();
        let mut intake = Intake { origin, inputs, folded, ranges, intake, batch_bytes, notices };
        let mut output = Output {
            clock: &self.clock,
            placement: &placement,
            epoch: self.scheduler.epoch(),
            store: &mut self.memory.written,
            outgoing: &mut self.outgoing,
        };
        self.status.begin_run(Running { batch: run.batch, stage: run.stage, since_ns: began });
        let measured = self.task_clock.begin();
        let result = boundary::run(|| stage.run(run, &mut intake, &mut output));
        self.task_clock.end(measured);
        self.status.end_run();
        self.ranges = intake.ranges;
        intake.notices.into_iter().for_each(|line| self.warn(line));
        let records = self.stages.iter().flatten().map(|stage| stage.records()).sum();
        self.status.set_records(records);
        result.and_then(|()| self.account(run).map_err(Failure::Failed))
    }

    /// A source task has taken input: how much the next one takes, and whether there is memory for it.
    pub(super) fn took(&mut self, run: &Run, run_ns: u64) {
        if self.context.plan.is_source(run.stage) {
            self.memory.source_ran(run_ns);
            self.spill_if_short();
        }
    }

    /// Nothing more is run here. What follows from a panic the driver decides; anything else ends the job.
    pub(super) fn task_failed(&mut self, run: &Run, failure: Failure) {
        let &Run { stage, batch, .. } = run;
        match failure {
            Failure::Panicked(cause) => {
                self.phase = Phase::Failed;
                let epoch = self.scheduler.epoch();
                let panic = TaskPanic { stage, batch, epoch, cause };
                self.tell_control(CoreOutput::Panicked(panic));
            }
            Failure::Failed(reason) => {
                let name = &self.context.plan.stage(stage).name;
                self.fail(format!("stage {name:?} failed in {batch}: {reason}"));
            }
        }
    }

    /// Whether source tasks may take input, and how much.
    fn intake(&self, run: &Run, now_ns: u64) -> (IntakeState, u64) {
        let (state, batch_bytes) = self.memory.intake();
        match state {
            IntakeState::Paused if run.purpose == Purpose::Process => {
                self.status.pause(now_ns, self.memory.held_bytes());
            }
            IntakeState::Paused | IntakeState::Open => self.status.resume(),
        }
        (state, batch_bytes)
    }

    /// What a run has left in memory, and whether there is room for that.
    fn account(&mut self, run: &Run) -> Result<(), String> {
        if self.context.plan.is_source(run.stage) {
            self.memory.source_wrote(&self.outgoing);
        }
        let wrote = self.memory.wrote(self.core.worker, run, &self.outgoing);
        wrote.map_err(|error| error.to_string())?;
        let kept = self.stage_of(run).state_bytes();
        self.state_bytes[run.stage.index()] = kept;
        if !self.memory.is_state_too_large(self.state_bytes.iter().sum()) {
            return Ok(());
        }
        let (kept, limit) = (Size(kept), Size(self.memory.options().state_bytes));
        Err(format!(
            "its open windows take {kept} on this core, where all keyed state may take {limit}: \
             give the worker more memory or the job shorter windows or fewer keys"
        ))
    }

    fn stage_of(&mut self, run: &Run) -> &mut dyn Stage {
        let stage = self.stages[run.stage.index()].as_mut();
        &mut **stage.expect("it was opened before it ran")
    }

    pub(super) fn open(&mut self, stage: StageId) -> Result<(), ConnectorError> {
        let place = &mut self.stages[stage.index()];
        if place.is_none() {
            let context = StageContext { stage, ..self.context.clone() };
            *place = Some(self.job.open_stage(&context)?);
        }
        Ok(())
    }
}
