//! A worker at work: messages between driver and cores, results on their way to the driver, and
//! the watch over cores that stand still.

use std::collections::BTreeMap;

use drizzle_scheduler::bugs::Bugs;
use drizzle_scheduler::local::Retention;
use drizzle_scheduler::worker::{Worker, WorkerAction, WorkerEvent};
use drizzle_scheduler::{BatchId, Life, WorkerId};

use super::crew::Crew;
use super::{Ground, Identity, Stage, Step, WorkerNode, ended_by};
use crate::clock::{monotonic_now, thread_cpu_ns};
use crate::core::{CoreCommand, CoreOutput};
use crate::host::Usage;
use crate::node::results::WaitingRows;
use crate::node::{HEARTBEAT_NS, NodeError, SILENCE_NS, STALL_NS, Size};
use crate::wire::{CoreCosts, FinalReport, ToDriver, ToWorker, WorkerStatus};

/// A worker whose cores run.
pub(super) struct Running {
    worker: WorkerId,
    scheduler: Worker,
    pub(super) crew: Crew,
    rows: WaitingRows,
    finish: Finish,
    watch: StallWatch,
    actions: Vec<WorkerAction>,
    /// CPU time that the thread had used when the job began.
    cpu_before_ns: u64,
}

/// Whether the job is being completed.
enum Finish {
    No,
    /// Cores complete what they wrote; so many have not reported.
    Collecting {
        cores_left: usize,
        report: Box<FinalReport>,
    },
    /// Everything is reported.
    Done,
}

/// Whether this life of the worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Over,
}

/// Since when no batch has completed.
struct StallWatch {
    completed: BatchId,
    since_ns: u64,
    asked_ns: u64,
    answer: Option<String>,
}

impl WorkerNode {
    /// Goes on with the job.
    pub(super) fn work(&mut self, mut running: Box<Running>) -> Result<(Stage, Step), NodeError> {
        match running.step(self) {
            Ok(Step::Over) => {
                running.crew.join();
                self.end_tie();
                self.next_heartbeat_ns = u64::MAX;
                let limit_ns = monotonic_now() + SILENCE_NS;
                Ok((Stage::Lingering { limit_ns }, Step::Again))
            }
            Ok(Step::Left) => {
                running.end()?;
                self.io.close(&mut self.completions);
                Ok((Stage::Over, Step::Left))
            }
            Ok(step @ (Step::Again | Step::Until(_))) => Ok((Stage::Running(running), step)),
            Err(error) => {
                running.crew.abandon();
                Err(error)
            }
        }
    }
}

impl Running {
    pub(super) fn new(
        identity: &Identity,
        cores: u16,
        crew: Crew,
        rows: WaitingRows,
        retention: Retention,
    ) -> Running {
        let Identity { term, worker, incarnation } = *identity;
        let bugs = Bugs::NONE;
        Running {
            worker,
            scheduler: Worker::new(worker, incarnation, cores, term, retention, bugs),
            crew,
            rows,
            finish: Finish::No,
            watch: StallWatch {
                completed: BatchId(0),
                since_ns: monotonic_now(),
                asked_ns: 0,
                answer: None,
            },
            actions: Vec::new(),
            cpu_before_ns: thread_cpu_ns(),
        }
    }

    /// Passes on what has come; over when everything is reported.
    pub(super) fn step(&mut self, node: &mut WorkerNode) -> Result<Step, NodeError> {
        if self.take_outputs(node)? == Fate::Over {
            return Ok(Step::Left);
        }
        self.send_rows(node)?;
        if matches!(self.finish, Finish::Done) {
            return Ok(Step::Over);
        }
        let status = self.status()?;
        node.heartbeat(status)?;
        node.pump_io()?;
        while let Some(message) = node.take_message() {
            self.hear(node, message)?;
            // One after the other: the end of the job may come right behind the manifest by which sinks show
            // their last results.
            if self.perform(node)? == Fate::Over {
                return Ok(Step::Left);
            }
        }
        self.meet_peers(node)?;
        if !self.crew.outputs.is_empty() {
            return Ok(Step::Again);
        }
        Ok(match (self.rows.is_empty() || !node.has_driver(), node.link.is_congested()) {
            (true, _) => Step::Until(u64::MAX),
            // A thread that takes from a channel wakes nobody.
            (false, true) => Step::Until(monotonic_now() + 1_000_000),
            (false, false) => Step::Again,
        })
    }

    fn hear(&mut self, node: &mut WorkerNode, message: ToWorker) -> Result<(), NodeError> {
        match message {
            ToWorker::Peers { peers, .. } if node.is_durable => {
                node.introduce(&peers);
                Ok(())
            }
            ToWorker::Back { term } if node.is_durable => {
                node.driver_is_back(term);
                Ok(())
            }
            ToWorker::Order(order) => {
                self.scheduler.handle(WorkerEvent::Driver(order), &mut self.actions);
                Ok(())
            }
            ToWorker::Finish => {
                let cores_left = self.crew.commands.len();
                self.finish = Finish::Collecting { cores_left, report: Box::default() };
                self.crew.tell_all(|| CoreCommand::Finish)
            }
            other => Err(ended_by(other)),
        }
    }

    /// Hands connections that have been made to the cores that own them.
    fn meet_peers(&mut self, node: &mut WorkerNode) -> Result<(), NodeError> {
        let Some(greetings) = &mut node.greetings else { return Ok(()) };
        let (links, failures) = (greetings.take_links(), greetings.take_failures());
        greetings.take_notices().iter().for_each(|line| (node.config.notice)(line));
        links.into_iter().try_for_each(|link| self.crew.link(link))?;
        failures.into_iter().try_for_each(|(life, reason)| node.say_peer_lost(life, reason))
    }

    fn perform(&mut self, node: &mut WorkerNode) -> Result<Fate, NodeError> {
        for action in self.actions.drain(..) {
            match action {
                WorkerAction::ToCores(order) => {
                    self.crew.tell_all(|| CoreCommand::Order(order.clone()))?;
                }
                // It is for the driver that the schedulers follow; a later one asks for what matters.
                WorkerAction::ToDriver(message) if self.scheduler.term() == node.term => {
                    node.send(ToDriver::Report(message))?;
                }
                WorkerAction::ToDriver(_) => {}
                WorkerAction::Leave if node.is_durable && node.address.is_some() => {
                    let line = format!(
                        "{}: the driver at {} gave this worker up; it joins again",
                        self.worker, node.peer
                    );
                    (node.config.notice)(&line);
                    return Ok(Fate::Over);
                }
                WorkerAction::Leave => {
                    let peer = &node.peer;
                    let reason = format!("the driver at {peer} gave this worker up; it ends here");
                    return Err(NodeError::Job(reason));
                }
            }
        }
        Ok(Fate::GoesOn)
    }

    fn take_outputs(&mut self, node: &mut WorkerNode) -> Result<Fate, NodeError> {
        while let Ok((core, output)) = self.crew.outputs.try_recv() {
            match output {
                CoreOutput::Report(report) => {
                    // Results leave before the report that says their batches are done.
                    self.send_rows(node)?;
                    let event = WorkerEvent::Core { core, report };
                    self.scheduler.handle(event, &mut self.actions);
                    if self.perform(node)? == Fate::Over {
                        return Ok(Fate::Over);
                    }
                }
                CoreOutput::Waiting(text) => self.watch.answer = Some(text),
                CoreOutput::Notice(line) => {
                    (node.config.notice)(&line);
                    node.say_in_any_case(ToDriver::Notice { line })?;
                }
                CoreOutput::PeerLost { worker, incarnation, reason } => {
                    node.say_peer_lost(Life { worker, incarnation }, reason)?;
                }
                CoreOutput::Regained { epoch, what } => {
                    node.say_in_any_case(ToDriver::Regained { core, epoch, what })?;
                }
                CoreOutput::Failed { reason } => {
                    node.say_in_any_case(ToDriver::Failed { reason })?;
                }
                // The driver gives this life up, or the job.
                CoreOutput::Panicked(panic) => node.say_in_any_case(ToDriver::Panicked(panic))?,
                CoreOutput::Finished { counters, usage, task_cpu_ns, mut costs } => {
                    self.crew.add_sleep(core, &mut costs.time);
                    self.core_finished(node, counters, (usage, task_cpu_ns), &costs)?;
                }
            }
        }
        Ok(Fate::GoesOn)
    }

    /// Ends this life: nobody waits for its results any more.
    pub(super) fn end(self) -> Result<(), NodeError> {
        drop(self.rows);
        self.crew.end()
    }

    fn core_finished(
        &mut self,
        node: &mut WorkerNode,
        counters: BTreeMap<String, u64>,
        (usage, task_cpu_ns): (Usage, u64),
        costs: &CoreCosts,
    ) -> Result<(), NodeError> {
        self.send_rows(node)?;
        let Finish::Collecting { cores_left, report } = &mut self.finish else { return Ok(()) };
        report.cores_cpu_ns += usage.cpu_ns;
        report.idle_poll_ns += usage.idle_poll_ns;
        report.task_cpu_ns += task_cpu_ns;
        report.costs.add(costs);
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
        report.control_cpu_ns = match &node.ground {
            Ground::OwnThreads => thread_cpu_ns() - self.cpu_before_ns,
            // What its cores have not told yet.
            Ground::Shared(_, meter) => meter.take().cpu_ns,
        };
        report.costs.memory.results_bytes = self.rows.peak_bytes() as u64;
        report.control_calls = node.io.calls();
        let report = std::mem::take(&mut **report);
        self.finish = Finish::Done;
        node.send(ToDriver::Finished(Box::new(report)))
    }

    fn send_rows(&self, node: &mut WorkerNode) -> Result<(), NodeError> {
        // A driver that is slow to read makes the sinks keep their rows.
        while node.has_driver()
            && !node.link.is_congested()
            && let Some(rows) = self.rows.take()
        {
            node.send(ToDriver::Results { rows })?;
        }
        Ok(())
    }

    /// What the next heartbeat says, and questions to the cores if nothing moves.
    fn status(&mut self) -> Result<WorkerStatus, NodeError> {
        let (now, watch) = (monotonic_now(), &mut self.watch);
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
        let stuck = self.crew.stuck(self.worker, now).filter(|_| stalled);
        let stuck = stuck.map(|text| match self.rows.blocked_by() {
            Some(bytes) => format!("{text}, {} of results wait for the driver", Size(bytes)),
            None => text,
        });
        Ok(WorkerStatus {
            completed: completed.0,
            records: self.crew.records(),
            stalled: stuck.or_else(|| watch.answer.clone()),
            paused: self.crew.paused(self.worker, now),
        })
    }
}
