//! What the driver node looks at from time to time: wishes to stop, silent workers, ended processes,
//! batches that do not complete, and the progress that people see.

use drizzle_scheduler::driver::DriverEvent;
use drizzle_scheduler::{BatchId, Instant};

use super::children::ending;
use super::observer::ProgressReport;
use super::{DriverNode, Phase};
use crate::clock::monotonic_now;
use crate::node::member::{Member, Stage};
use crate::node::{
    GREETING_NS, HEARTBEAT_NS, JOINING_NS, NodeError, SILENCE_NS, STALL_NS, WORKER_SILENCE_NS,
};
use crate::wire::WorkerStatus;

/// So many workers are quoted when nothing moves.
const MAX_SAID: usize = 3;
/// One that was given up, and told so, may keep its connection for so long.
const PARTING_NS: u64 = 5_000_000_000;

/// What is looked at from time to time.
pub(super) struct Watch {
    pub(super) next_ns: u64,
    last_looked_ns: u64,
    next_progress_ns: u64,
    completed: u64,
    since_ns: u64,
    /// When the journal had this driver's first entry; 0 before.
    pub(super) opened_ns: u64,
}

impl Watch {
    pub(super) fn new(now_ns: u64) -> Watch {
        Watch {
            next_ns: now_ns,
            last_looked_ns: now_ns,
            next_progress_ns: now_ns + 2_000_000_000,
            completed: 0,
            since_ns: now_ns,
            opened_ns: 0,
        }
    }
}

impl DriverNode<'_> {
    /// Everything that depends on time and on nobody's message.
    pub(super) fn look_around(&mut self) -> Result<(), NodeError> {
        let now_ns = monotonic_now();
        if self.driver.deadline().is_some_and(|deadline| deadline.0 <= now_ns) {
            self.tell(DriverEvent::Tick);
        }
        self.judge(now_ns)?;
        if now_ns < self.watch.next_ns {
            return Ok(());
        }
        self.watch.next_ns = now_ns + HEARTBEAT_NS / 2;
        let was_away = now_ns - self.watch.last_looked_ns > self.silence_ns() / 4;
        self.watch.last_looked_ns = now_ns;
        if self.stop.is_set() && !self.report.stopped {
            self.stop_asked();
        }
        self.check_silence(now_ns, was_away)?;
        self.check_expected(now_ns)?;
        self.check_gathered(now_ns);
        self.check_children(now_ns)?;
        self.check_stall(now_ns);
        self.check_pauses();
        if now_ns >= self.watch.next_progress_ns {
            self.show_progress(now_ns);
        }
        Ok(())
    }

    /// When to look again, whatever comes.
    pub(super) fn look_at_ns(&self) -> u64 {
        let deadline_ns = self.driver.deadline().map_or(u64::MAX, |deadline| deadline.0);
        let judge_ns = self.complaints.due_ns().unwrap_or(u64::MAX);
        self.watch.next_ns.min(deadline_ns).min(judge_ns)
    }

    fn stop_asked(&mut self) {
        self.report.stopped = true;
        match self.phase {
            Phase::Gathering if self.keeper.is_some() => {
                self.phase = Phase::Failed("it was stopped before it began".to_owned());
            }
            Phase::Gathering
            | Phase::Running
            | Phase::Finishing
            | Phase::Failed(_)
            | Phase::Deposed
            | Phase::Done => self.tell(DriverEvent::Stop),
        }
    }

    /// A worker at work that says nothing for so long is lost.
    fn silence_ns(&self) -> u64 {
        if self.can_recover() { WORKER_SILENCE_NS } else { SILENCE_NS }
    }

    fn check_silence(&mut self, now_ns: u64, was_away: bool) -> Result<(), NodeError> {
        if was_away {
            self.members.values_mut().for_each(|member| member.last_heard_ns = now_ns);
        }
        let silence_ns = self.silence_ns();
        let silent = self.members.iter().filter_map(|(&number, member)| {
            let patience_ns = patience_with(member, silence_ns);
            let is_silent = now_ns.saturating_sub(member.last_heard_ns) > patience_ns;
            is_silent.then_some((number, patience_ns))
        });
        let silent: Vec<(u64, u64)> = silent.collect();
        silent.into_iter().try_for_each(|(number, for_ns)| {
            let seconds = for_ns as f64 / 1e9;
            self.part_with(number, &format!("it has been silent for {seconds} s"))
        })
    }

    fn check_children(&mut self, now_ns: u64) -> Result<(), NodeError> {
        let is_running = match self.phase {
            Phase::Gathering => false,
            Phase::Running if self.can_recover() => true,
            // From now on their connections tell.
            Phase::Running | Phase::Finishing | Phase::Failed(_) | Phase::Deposed | Phase::Done => {
                return Ok(());
            }
        };
        while let Some((process, status)) = self.children.reap() {
            if !is_running {
                return Err(NodeError::Setup(format!(
                    "worker process {process} ended before the job began: {status}"
                )));
            }
            if !status.success() {
                let line = ending(self.worker_of_process(process), process, status);
                self.observer.notice(&line);
            }
        }
        if is_running && let Some(line) = self.children.heal(now_ns) {
            self.observer.notice(&line);
        }
        Ok(())
    }

    /// One line if no batch has completed for too long although the start of the next has come.
    fn check_stall(&mut self, now_ns: u64) {
        let completed = self.completed();
        let open = self.driver.oldest_open_batch().filter(|_| self.phase == Phase::Running);
        if completed != self.watch.completed || open.is_none() {
            self.watch.completed = completed;
            self.watch.since_ns = now_ns;
        }
        let Some((first, start)) = open else { return };
        let behind = completed.saturating_sub(first.0.saturating_sub(1));
        let interval_ns = self.config.interval.as_nanos() as u64;
        // Only live sources wait for it.
        let start = match self.is_live() {
            true => start.after(behind.saturating_mul(interval_ns)),
            false => Instant(0),
        };
        if now_ns.saturating_sub(self.watch.since_ns.max(start.0)) > STALL_NS {
            self.watch.since_ns = now_ns;
            let line = format!("no batch has completed for 2 s: {}", self.what_waits(completed));
            self.observer.notice(&line);
        }
    }

    /// One line for each worker whose sources begin to take nothing for want of memory.
    fn check_pauses(&mut self) {
        for member in self.members.values_mut() {
            let was_said =
                std::mem::replace(&mut member.pause_said, member.status.paused.is_some());
            if let Some(paused) = &member.status.paused
                && !was_said
            {
                self.observer.notice(&format!("sources are paused: {paused}"));
            }
        }
    }

    /// What the workers that are furthest behind say about it.
    fn what_waits(&self, completed: u64) -> String {
        let behind = self.at_work().filter(|member| member.status.completed == completed);
        let said: Vec<String> = behind
            .take(MAX_SAID)
            .map(|member| {
                let WorkerStatus { stalled, paused, .. } = &member.status;
                let said = [stalled, paused].into_iter().flatten();
                match said.cloned().collect::<Vec<String>>().join(", and ") {
                    said if said.is_empty() => format!("{} has not said why", member.name()),
                    said => said,
                }
            })
            .collect();
        said.join("; ")
    }

    /// The last batch that all workers have finished. One that joined late has not finished any yet.
    pub(super) fn completed(&self) -> u64 {
        let may_be_new = self.can_recover();
        let completed = self.at_work().map(|member| member.status.completed);
        completed.filter(|&batch| batch > 0 || !may_be_new).min().unwrap_or(0)
    }

    /// The workers that have tasks: a stranger that has not said who it is holds nothing up.
    fn at_work(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.stage == Stage::Ready)
    }

    pub(super) fn show_progress(&mut self, now_ns: u64) {
        self.watch.next_progress_ns = now_ns + 1_000_000_000;
        if self.phase == Phase::Gathering {
            let joined = self.introduced_numbers().len();
            let (workers, listener) = (self.config.workers, self.listener.as_ref());
            let address = listener.and_then(|listener| listener.local_addr().ok());
            let address = address.map_or_else(String::new, |address| format!(" on {address}"));
            let line = format!("waiting{address} for {workers} workers, {joined} are here");
            self.observer.notice(&line);
            self.watch.next_progress_ns = now_ns + 5_000_000_000;
            return;
        }
        let completed = self.completed();
        let origin_ns = self.driver.origin().0; // 0 until the job has begun.
        self.observer.progress(&ProgressReport {
            elapsed_ns: if origin_ns == 0 { 0 } else { now_ns.saturating_sub(origin_ns) },
            completed: BatchId(completed),
            records: self.members.values().map(|member| member.status.records).sum(),
        });
    }
}

/// How long a connection may say nothing: a worker that joins builds the job in one go, table and all.
fn patience_with(member: &Member, silence_ns: u64) -> u64 {
    match member.stage {
        Stage::Connected => GREETING_NS,
        // It is us for whom it waits.
        Stage::Finished => u64::MAX,
        Stage::Waiting | Stage::Welcomed | Stage::Joined => JOINING_NS,
        Stage::Ready | Stage::Finishing => silence_ns,
        Stage::Lost => PARTING_NS,
    }
}
