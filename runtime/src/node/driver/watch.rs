//! What the driver node looks at from time to time: wishes to stop, silent workers, ended processes,
//! batches that do not complete, and the progress that people see.

use std::process::Child;

use drizzle_scheduler::driver::DriverEvent;
use drizzle_scheduler::{BatchId, Instant};

use super::{DriverNode, Phase, ProgressReport};
use crate::clock::monotonic_now;
use crate::node::member::{Joining, Member};
use crate::node::{GREETING_NS, HEARTBEAT_NS, JOINING_NS, NodeError, SILENCE_NS, STALL_NS};
use crate::wire::WorkerStatus;

/// So many workers are quoted when nothing moves.
const MAX_SAID: usize = 3;

impl DriverNode<'_> {
    /// Everything that depends on time and on nobody's message.
    pub(super) fn look_around(&mut self) -> Result<(), NodeError> {
        let now_ns = monotonic_now();
        if self.driver.deadline().is_some_and(|deadline| deadline.0 <= now_ns) {
            self.tell(DriverEvent::Tick);
        }
        if now_ns < self.watch.next_ns {
            return Ok(());
        }
        self.watch.next_ns = now_ns + HEARTBEAT_NS / 2;
        let was_away = now_ns - self.watch.last_looked_ns > SILENCE_NS / 4;
        self.watch.last_looked_ns = now_ns;
        if self.stop.is_set() && !self.report.stopped {
            self.report.stopped = true;
            self.tell(DriverEvent::Stop);
        }
        self.check_silence(now_ns, was_away)?;
        self.check_children()?;
        self.check_stall(now_ns);
        self.check_pauses();
        if now_ns >= self.watch.next_progress_ns {
            self.show_progress(now_ns);
        }
        Ok(())
    }

    fn check_silence(&mut self, now_ns: u64, was_away: bool) -> Result<(), NodeError> {
        for member in self.members.values_mut() {
            if was_away {
                member.last_heard_ns = now_ns;
            }
        }
        let silent = self.members.iter().find(|(_, member)| {
            !self.finals.contains_key(&member.worker)
                && now_ns.saturating_sub(member.last_heard_ns) > patience_with(member)
        });
        let silent = silent.map(|(&number, member)| (number, patience_with(member)));
        match silent {
            Some((number, for_ns)) => {
                let seconds = for_ns as f64 / 1e9;
                self.closed(number, &format!("it has been silent for {seconds} s"))
            }
            None => Ok(()),
        }
    }

    fn check_children(&mut self) -> Result<(), NodeError> {
        if self.phase != Phase::Gathering {
            return Ok(()); // From now on their connections tell.
        }
        for child in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let process = child.id();
                let reason =
                    format!("worker process {process} ended before the job began: {status}");
                return Err(NodeError::Setup(reason));
            }
        }
        Ok(())
    }

    /// One line if no batch has completed for too long although the start of the next has come.
    fn check_stall(&mut self, now_ns: u64) {
        let completed = self.at_work().map(|member| member.status.completed).min();
        let completed = completed.unwrap_or(0);
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

    /// The workers that have tasks: a stranger that has not said who it is holds nothing up.
    fn at_work(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.stage == Joining::Ready)
    }

    pub(super) fn show_progress(&mut self, now_ns: u64) {
        self.watch.next_progress_ns = now_ns + 1_000_000_000;
        if self.phase == Phase::Gathering {
            let joined = self.joined_numbers().len();
            let (workers, listener) = (self.config.workers, self.listener.as_ref());
            let address = listener.and_then(|listener| listener.local_addr().ok());
            let address = address.map_or_else(String::new, |address| format!(" on {address}"));
            let line = format!("waiting{address} for {workers} workers, {joined} are here");
            self.observer.notice(&line);
            self.watch.next_progress_ns = now_ns + 5_000_000_000;
            return;
        }
        let completed = self.at_work().map(|member| member.status.completed).min();
        let origin_ns = self.driver.origin().0; // 0 until the job has begun.
        self.observer.progress(&ProgressReport {
            elapsed_ns: if origin_ns == 0 { 0 } else { now_ns.saturating_sub(origin_ns) },
            completed: BatchId(completed.unwrap_or(0)),
            records: self.members.values().map(|member| member.status.records).sum(),
        });
    }
}

/// How long a connection may say nothing: a worker that joins builds the job in one go, table and all.
fn patience_with(member: &Member) -> u64 {
    match member.stage {
        Joining::Connected => GREETING_NS,
        Joining::Welcomed | Joining::Joined => JOINING_NS,
        Joining::Ready => SILENCE_NS,
    }
}

/// Waits for the processes that this one started, and ends those that do not end by themselves.
pub(super) fn end_children(children: &mut [Child], patience_ns: u64) {
    let limit = monotonic_now() + patience_ns;
    for child in children {
        while matches!(child.try_wait(), Ok(None)) {
            if monotonic_now() > limit {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            pause();
        }
    }
}

/// A few milliseconds in which another process may do something.
fn pause() {
    if let Ok(mut io) = crate::node::worker::open_control_io() {
        io.park(Some(std::time::Duration::from_millis(5)));
    }
}
