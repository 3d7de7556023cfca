//! What somebody who operates the cluster asks for: how it is, more workers or fewer.

use drizzle_scheduler::WorkerId;
use drizzle_scheduler::driver::DriverEvent;
use serde_json::{Value, json};

use super::{DriverNode, Phase};
use crate::node::NodeError;
use crate::node::member::{Member, Stage};
use crate::node::savepoint::operators_of;
use crate::wire::{Request, ToWorker};

/// What a request comes to: an answer, or why it cannot be.
pub(super) type Answer = Result<String, String>;

impl DriverNode<'_> {
    /// Answers a request, and is done with who asked.
    pub(super) fn asked(&mut self, number: u64, request: Request) -> Result<(), NodeError> {
        let answer = match request {
            Request::Status => Ok(self.status().to_string()),
            Request::Scale { workers } => self.scale(workers),
            Request::Drain { worker } => self.drain(worker),
            Request::Savepoint { to } => match &self.keeper {
                Some(keeper) => {
                    // It is answered when it is there.
                    keeper.save(number, to.into(), operators_of(self.job.plan()));
                    return Ok(());
                }
                None => Err("a job without --data has no checkpoints to save".to_owned()),
            },
        };
        self.answer(number, answer);
        Ok(())
    }

    /// Answers who asked, and is done with them.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        let message = match answer {
            Ok(text) => ToWorker::Answer { text },
            Err(reason) => ToWorker::Refused { reason },
        };
        self.send(number, message);
        if let Some(member) = self.members.get_mut(&number) {
            // It hangs up when it has read the answer, or is hung up on.
            member.stage = Stage::Lost;
        }
    }

    /// How the job and its workers are.
    fn status(&self) -> Value {
        let history = self.driver.history();
        let mut members: Vec<&Member> =
            self.members.values().filter(|member| member.holds_number()).collect();
        members.sort_unstable_by_key(|member| member.life());
        let members: Vec<Value> = members.into_iter().map(|member| self.describe(member)).collect();
        json!({
            "job": self.job.plan().name,
            "term": self.term.0,
            "state": match self.phase {
                Phase::Gathering => "waiting for workers",
                Phase::Running => "running",
                Phase::Finishing | Phase::Done => "finishing",
                Phase::Failed(_) => "failed",
                Phase::Deposed => "deposed",
            },
            "workers_wanted": self.wanted,
            "group_size": self.config.group_size,
            "batch_scheduled": history.last_batch.0,
            "batch_completed": self.completed(),
            "batch_durable": self.keeper.as_ref().map(|_| history.durable().0),
            "epoch": history.epoch.0,
            "lost_workers": self.report.lost_workers,
            "recoveries": self.report.recoveries,
            "moved_partitions": self.report.moved_partitions,
            "relieved_partitions": self.report.relieved_partitions,
            "checkpoints": self.report.checkpoints,
            "members": members,
        })
    }

    fn describe(&self, member: &Member) -> Value {
        let state = match member.stage {
            Stage::Connected | Stage::Waiting | Stage::Welcomed | Stage::Joined => "joining",
            Stage::Ready if self.draining.contains(&member.worker) => "draining",
            Stage::Ready => "ready",
            Stage::Finishing | Stage::Finished => "finishing",
            Stage::Lost => "lost",
        };
        json!({
            "worker": member.worker.0,
            "incarnation": member.incarnation.0,
            "state": state,
            "cores": member.cores,
            "process": member.process,
            "address": member.link.peer(),
            "batch_completed": member.status.completed,
            "records": member.status.records,
        })
    }

    /// Workers that stay, the highest number last.
    fn staying(&self) -> Vec<WorkerId> {
        let here = self.members.values().filter(|member| match member.stage {
            Stage::Welcomed | Stage::Joined | Stage::Ready => true,
            Stage::Connected
            | Stage::Waiting
            | Stage::Finishing
            | Stage::Finished
            | Stage::Lost => false,
        });
        let mut staying: Vec<WorkerId> = here.map(|member| member.worker).collect();
        staying.retain(|worker| !self.draining.contains(worker));
        staying.sort_unstable();
        staying
    }

    fn check_changeable(&self) -> Result<(), String> {
        if !self.can_recover() {
            return Err("a job without --data, or on threads, keeps its workers".to_owned());
        }
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Gathering => Err("the job has not begun yet".to_owned()),
            Phase::Finishing | Phase::Failed(_) | Phase::Deposed | Phase::Done => {
                Err("the job is over".to_owned())
            }
        }
    }

    fn scale(&mut self, workers: u32) -> Answer {
        self.check_changeable()?;
        if workers == 0 {
            return Err("a job needs at least one worker".to_owned());
        }
        let staying = self.staying();
        let (now, wanted) = (staying.len(), workers as usize);
        self.wanted = workers;
        if self.children.can_start() {
            self.children
                .want(wanted)
                .map_err(|error| format!("cannot start a worker process: {error}"))?;
        }
        if wanted > now {
            let more = wanted - now;
            return Ok(match self.children.can_start() {
                true => format!("{more} more workers are being started"),
                false => format!("{more} more are needed; start each with: {}", self.command()),
            });
        }
        let leaving = &staying[wanted..];
        for &worker in leaving {
            self.begin_drain(worker);
        }
        let leaving: Vec<String> = leaving.iter().map(ToString::to_string).collect();
        Ok(match leaving.is_empty() {
            true => format!("there are {now} workers already"),
            false => format!("{} will leave when others have their partitions", leaving.join(", ")),
        })
    }

    fn drain(&mut self, worker: WorkerId) -> Answer {
        self.check_changeable()?;
        let staying = self.staying();
        if !staying.contains(&worker) {
            return Err(format!("there is no {worker}, or it is leaving already"));
        }
        if staying.len() == 1 {
            return Err(format!("{worker} is the only worker left"));
        }
        if self.children.can_start() {
            let wanted = self.children.wanted().saturating_sub(1);
            self.children.want(wanted).map_err(|error| error.to_string())?;
        }
        self.wanted = staying.len() as u32 - 1;
        self.begin_drain(worker);
        Ok(format!("{worker} will leave when others have its partitions"))
    }

    fn begin_drain(&mut self, worker: WorkerId) {
        self.draining.insert(worker);
        self.tell(DriverEvent::Drain { worker });
    }

    /// How somebody else starts a worker.
    fn command(&self) -> String {
        let program = std::env::current_exe();
        let program = program.map_or_else(|_| "drizzle".into(), |path| path.display().to_string());
        let app = self.config.arguments.first().map_or("", String::as_str);
        let address = self.listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let address = address.map_or_else(String::new, |address| address.to_string());
        format!("{program} {app} worker --driver {address}")
    }
}
