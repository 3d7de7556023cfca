//! How workers join: greeted, given a number and the job's flags, compared by their plan, and
//! introduced to each other.

use std::collections::{BTreeMap, BTreeSet};

use drizzle_scheduler::WorkerId;

use super::{DriverNode, Phase, TERM, flush};
use crate::node::NodeError;
use crate::node::member::{Joining, Member};
use crate::wire::ToWorker;

impl DriverNode<'_> {
    pub(super) fn welcome(&mut self, number: u64) -> Result<(), NodeError> {
        let taken: BTreeSet<WorkerId> = self
            .members
            .values()
            .filter(|member| member.stage != Joining::Connected)
            .map(|member| member.worker)
            .collect();
        let free = (0..self.config.workers).map(WorkerId).find(|worker| !taken.contains(worker));
        let Some(worker) = free else {
            let workers = self.config.workers;
            let reason = format!(
                "the job has all its {workers} workers; start the driver with a larger --workers"
            );
            self.send(number, ToWorker::Refused { reason: reason.clone() })?;
            return self.turn_away(number, &format!("one more worker came: {reason}"));
        };
        let incarnation = self.next_incarnation;
        self.next_incarnation = incarnation.next();
        let member = self.members.get_mut(&number).expect("it is there");
        member.stage = Joining::Welcomed;
        member.worker = worker;
        member.incarnation = incarnation;
        let arguments = self.config.arguments.clone();
        self.send(number, ToWorker::Welcome { term: TERM, worker, incarnation, arguments })
    }

    pub(super) fn joined(&mut self, number: u64, fingerprint: u64) -> Result<(), NodeError> {
        let member = self.members.get_mut(&number).expect("it is there");
        let expected = self.job.plan().fingerprint;
        if fingerprint != expected {
            let reason = format!(
                "{} built another plan ({fingerprint:016x}) than the driver ({expected:016x}): \
                 run the same binary on every node, with the same input and table files",
                member.name()
            );
            self.send(number, ToWorker::Refused { reason: reason.clone() })?;
            return self.turn_away(number, &reason);
        }
        member.stage = Joining::Joined;
        let joined = self.members.values().filter(|member| member.stage == Joining::Joined);
        if joined.count() == self.config.workers as usize {
            self.introduce_peers()?;
        }
        Ok(())
    }

    /// Tells every worker who the others are.
    pub(super) fn introduce_peers(&mut self) -> Result<(), NodeError> {
        let joined = || self.members.values().filter(|member| member.stage == Joining::Joined);
        let mut peers: Vec<_> = joined().filter_map(Member::as_peer).collect();
        peers.sort_unstable_by_key(|peer| peer.worker);
        let mut cores_by_host = BTreeMap::new();
        for peer in &peers {
            *cores_by_host.entry(peer.address.ip()).or_insert(0) += u32::from(peer.cores);
        }
        self.report.workers = peers.len() as u32;
        self.report.cores = peers.iter().map(|peer| u32::from(peer.cores)).sum();
        self.report.runtimes = joined().map(|member| member.runtime.clone()).collect();
        self.report.all_on_this_host = joined().all(Member::is_here);
        self.phase = Phase::Running;
        for number in self.joined_numbers() {
            let address = self.members[&number].address.expect("it has joined");
            let cores_on_host = cores_by_host[&address.ip()];
            self.send(number, ToWorker::Peers { cores_on_host, peers: peers.clone() })?;
        }
        Ok(())
    }

    pub(super) fn joined_numbers(&self) -> Vec<u64> {
        let joined = self.members.iter();
        let joined = joined.filter(|(_, m)| matches!(m.stage, Joining::Joined | Joining::Ready));
        joined.map(|(&number, _)| number).collect()
    }

    /// Forgets a connection that is not needed, in one line.
    pub(super) fn turn_away(&mut self, number: u64, line: &str) -> Result<(), NodeError> {
        let Some(mut member) = self.members.remove(&number) else { return Ok(()) };
        flush(&mut *self.io, number, &mut member, &mut self.deferred);
        let somebody_may_come = self.children.is_empty() && self.listener.is_some();
        match (&self.phase, member.stage) {
            (_, Joining::Connected) => {}
            (Phase::Gathering, _) if somebody_may_come => {}
            (Phase::Gathering, _) => return Err(NodeError::Setup(line.to_owned())),
            // It has tasks, and nobody can take them over yet.
            _ => return Err(NodeError::Job(line.to_owned())),
        }
        self.observer.notice(line);
        Ok(())
    }
}
