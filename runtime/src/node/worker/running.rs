//! A worker at work: messages between driver and cores, results on their way to the driver, and
//! the watch over cores that stand still.

use std::collections::BTreeMap;

use drizzle_scheduler::bugs::Bugs;
use drizzle_scheduler::local::Retention;
use drizzle_scheduler::worker::{Worker, WorkerAction, WorkerEvent};
use drizzle_scheduler::{BatchId, WorkerId};

use super::crew::Crew;
use super::{Identity, WorkerNode, ended_by};
use crate::clock::{monotonic_now, thread_cpu_ns};
use crate::core::{CoreCommand, CoreOutput};
use crate::node::results::WaitingRows;
use crate::node::{HEARTBEAT_NS, NodeError, STALL_NS, Size};
use crate::wire::{FinalReport, MemoryPeaks, ToDriver, ToWorker, WorkerStatus};

/// A worker whose cores run.
pub(super) struct Running<'a> {
    node: WorkerNode<'a>,
    crew: Crew,
    rows: WaitingRows,
    finish: Finish,
    /// CPU time that the thread had used when the job began.
    cpu_before_ns: u64,
}

/// Whether the job is being completed.
enum Finish {
    No,
    /// Cores complete what they wrote; so many have not reported.
    Collecting {
        cores_left: usize,
        report: FinalReport,
    },
    /// Everything is reported.
    Done,
}

/// Since when no batch has completed.
struct StallWatch {
    completed: BatchId,
    since_ns: u64,
    asked_ns: u64,
    answer: Option<String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(node: WorkerNode<'a>, crew: Crew, rows: WaitingRows) -> Running<'a> {
        let cpu_before_ns = thread_cpu_ns();
        Running { node, crew, rows, finish: Finish::No, cpu_before_ns }
    }

    pub(super) fn run(mut self, identity: &Identity) -> Result<(), NodeError> {
        let (worker, incarnation) = (identity.worker, identity.incarnation);
        let cores = self.node.config.cores;
        let (term, retention) = (identity.term, Retention::WhenFolded);
        let mut scheduler = Worker::new(worker, incarnation, cores, term, retention, Bugs::NONE);
        let mut watch = StallWatch {
            completed: BatchId(0),
            since_ns: monotonic_now(),
            asked_ns: 0,
            answer: None,
        };
        let result = self.work(worker, &mut scheduler, &mut watch);
        let Running { mut node, crew, rows, .. } = self;
        drop(rows);
        match &result {
            Ok(()) => crew.join(),
            Err(error) => {
                node.tell_failure(error);
                crew.abandon();
            }
        }
        node.io.close(&mut node.completions);
        result
    }

    fn work(
        &mut self,
        worker: WorkerId,
        scheduler: &mut Worker,
        watch: &mut StallWatch,
    ) -> Result<(), NodeError> {
        let mut actions = Vec::new();
        loop {
            self.take_outputs(scheduler, watch, &mut actions)?;
            self.send_rows()?;
            if matches!(self.finish, Finish::Done) {
                self.node.linger();
                return Ok(());
            }
            let status = self.status(worker, watch)?;
            self.node.heartbeat(status)?;
            self.node.pump_io()?;
            while let Some(message) = self.node.take_message() {
                self.hear(message, scheduler, &mut actions)?;
            }
            self.perform(&mut actions)?;
            if !self.crew.outputs.is_empty() {
                continue;
            }
            match (self.rows.is_empty(), self.node.link.is_congested()) {
                (true, _) => self.node.park(u64::MAX),
                // A thread that takes from a channel wakes nobody.
                (false, true) => self.node.park(monotonic_now() + 1_000_000),
                (false, false) => {}
            }
        }
    }

    fn hear(
        &mut self,
        message: ToWorker,
        scheduler: &mut Worker,
        actions: &mut Vec<WorkerAction>,
    ) -> Result<(), NodeError> {
        match message {
            ToWorker::Order(order) => {
                scheduler.handle(WorkerEvent::Driver(order), actions);
                Ok(())
            }
            ToWorker::Finish => {
                let cores_left = self.crew.commands.len();
                self.finish = Finish::Collecting { cores_left, report: FinalReport::default() };
                self.crew.tell_all(|| CoreCommand::Finish)
            }
            other => Err(ended_by(other)),
        }
    }

    fn perform(&mut self, actions: &mut Vec<WorkerAction>) -> Result<(), NodeError> {
        for action in actions.drain(..) {
            match action {
                WorkerAction::ToCores(order) => {
                    self.crew.tell_all(|| CoreCommand::Order(order.clone()))?;
                }
                WorkerAction::ToDriver(message) => self.node.send(ToDriver::Report(message))?,
                WorkerAction::Leave => {
                    let peer = &self.node.peer;
                    let reason = format!("the driver at {peer} gave this worker up; it ends here");
                    return Err(NodeError::Job(reason));
                }
            }
        }
        Ok(())
    }

    fn take_outputs(
        &mut self,
        scheduler: &mut Worker,
        watch: &mut StallWatch,
        actions: &mut Vec<WorkerAction>,
    ) -> Result<(), NodeError> {
        while let Ok((core, output)) = self.crew.outputs.try_recv() {
            match output {
                CoreOutput::Report(report) => {
                    // Results leave before the report that says their batches are done.
                    self.send_rows()?;
                    scheduler.handle(WorkerEvent::Core { core, report }, actions);
                    self.perform(actions)?;
                }
                CoreOutput::Waiting(text) => watch.answer = Some(text),
                CoreOutput::PeerLost { worker, reason } => {
                    self.node.send(ToDriver::PeerLost { worker, reason })?;
                }
                CoreOutput::Failed { reason } => self.node.send(ToDriver::Failed { reason })?,
                CoreOutput::Finished { counters, cpu_ns, memory } => {
                    self.core_finished(counters, cpu_ns, &memory)?;
                }
            }
        }
        Ok(())
    }

    fn core_finished(
        &mut self,
        counters: BTreeMap<String, u64>,
        cpu_ns: u64,
        memory: &MemoryPeaks,
    ) -> Result<(), NodeError> {
        self.send_rows()?;
        let Finish::Collecting { cores_left, report } = &mut self.finish else { return Ok(()) };
        report.cores_cpu_ns += cpu_ns;
        report.memory.add(memory);
        for (name, count) in counters {
            match report.counters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += count,
                None => report.counters.push((name, count)),
            }
        }
        *cores_left -= 1;
        if *cores_left > 0 {
            return Ok(());
        }
        report.control_cpu_ns = thread_cpu_ns() - self.cpu_before_ns;
        report.memory.results_bytes = self.rows.peak_bytes() as u64;
        let report = std::mem::take(report);
        self.finish = Finish::Done;
        self.node.send(ToDriver::Finished(report))
    }

    fn send_rows(&mut self) -> Result<(), NodeError> {
        // A driver that is slow to read makes the sinks keep their rows.
        while !self.node.link.is_congested()
            && let Some(rows) = self.rows.take()
        {
            self.node.send(ToDriver::Results { rows })?;
        }
        Ok(())
    }

    /// What the next heartbeat says, and questions to the cores if nothing moves.
    fn status(
        &mut self,
        worker: WorkerId,
        watch: &mut StallWatch,
    ) -> Result<WorkerStatus, NodeError> {
        let now = monotonic_now();
        let completed = self.crew.completed();
        if completed != watch.completed {
            *watch = StallWatch { completed, since_ns: now, asked_ns: 0, answer: None };
        }
        let stalled = now - watch.since_ns > STALL_NS / 2;
        // Asked anew before each heartbeat: what a task waits for may change.
        if stalled && now - watch.asked_ns > HEARTBEAT_NS {
            watch.asked_ns = now;
            self.crew.tell_all(|| CoreCommand::Explain)?;
        }
        let stuck = self.crew.stuck(worker, now).filter(|_| stalled);
        let stuck = stuck.map(|text| match self.rows.blocked_by() {
            Some(bytes) => format!("{text}, {} of results wait for the driver", Size(bytes)),
            None => text,
        });
        Ok(WorkerStatus {
            completed: completed.0,
            records: self.crew.records(),
            stalled: stuck.or_else(|| watch.answer.clone()),
            paused: self.crew.paused(worker, now),
        })
    }
}
