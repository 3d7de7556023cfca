//! The auditor: it sees everything that happens and knows what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cluster::{Block, Record, Scenario};
use crate::driver::DriverAction;
use crate::ids::{BatchId, CoreId, GroupId, Instant, PartitionId, StageId, Task, WorkerId};
use crate::lineage::Lineage;
use crate::local::{Prescheduling, Run};
use crate::message::{Order, Purpose, ScheduleGroup, TakenRange};
use crate::plan::{Edge, Pacing, Plan, StageKind};

/// What was seen of a job.
#[derive(Debug)]
pub(super) struct Audit {
    scenario: Scenario,
    groups: BTreeMap<GroupId, Arc<ScheduleGroup>>,
    /// Who was sent which group.
    sent: BTreeSet<(GroupId, WorkerId)>,
    started: BTreeSet<Task>,
    done: BTreeSet<Task>,
    /// How far each source partition was read.
    taken: Vec<u64>,
    /// What reached the last stage.
    arrived: BTreeSet<Record>,
    tasks_reported: u64,
    /// All runs, in the order in which they started.
    pub(super) runs: Vec<(CoreId, Run)>,
    /// The last batch with input, once the driver says so.
    pub(super) finished_after: Option<BatchId>,
}

impl Audit {
    pub(super) fn new(scenario: &Scenario) -> Audit {
        Audit {
            scenario: scenario.clone(),
            groups: BTreeMap::new(),
            sent: BTreeSet::new(),
            started: BTreeSet::new(),
            done: BTreeSet::new(),
            taken: vec![0; scenario.lengths.len()],
            arrived: BTreeSet::new(),
            tasks_reported: 0,
            runs: Vec::new(),
            finished_after: None,
        }
    }

    pub(super) fn driver_did(&mut self, action: &DriverAction) {
        match action {
            DriverAction::Send { to, message } => {
                if let Order::ScheduleGroup(group) = &message.order {
                    assert!(self.sent.insert((group.group, *to)), "{} was sent twice", group.group);
                    self.groups.insert(group.group, group.clone());
                }
            }
            DriverAction::GroupDone { statistics, .. } => self.tasks_reported += statistics.tasks,
            DriverAction::Finished { last_batch } => self.finished_after = Some(*last_batch),
            DriverAction::Failed { reason } => panic!("the job failed: {reason}"),
        }
    }

    /// A task starts once, after what it depends on, as a task of the newest group of its number.
    pub(super) fn run_starts(&mut self, core: CoreId, run: &Run, inputs: &[Block], now: Instant) {
        let plan = self.scenario.plan.clone();
        let mut groups = self.groups.values().rev();
        let group =
            groups.find(|group| (group.first_batch..=group.last_batch()).contains(&run.batch));
        let group = group.expect("what runs was scheduled");
        assert_eq!(run.purpose, group.purpose, "{run:?}");
        let kind = plan.stage(run.stage).kind;
        if kind == StageKind::Source(Pacing::Clock) {
            assert!(group.start_of(run.batch) <= now && run.cut <= now, "{run:?} before its time");
        }
        for &partition in run.partitions.iter() {
            let task = Task { batch: run.batch, stage: run.stage, partition };
            assert!(self.started.insert(task), "{task} started twice");
            let before = Task { batch: BatchId(run.batch.0 - 1), ..task };
            let in_order = before.batch == BatchId(0) || self.done.contains(&before);
            assert!(in_order || !kind.follows_its_predecessor(), "{task} overtook {before}");
            for (_, edge) in plan.edges_into(run.stage) {
                self.check_inputs(edge, task, inputs);
            }
        }
        self.runs.push((core, run.clone()));
    }

    fn check_inputs(&self, edge: &Edge, task: Task, inputs: &[Block]) {
        for upstream in partitions(&self.scenario.plan, edge.from) {
            let done = self.done.contains(&Task { stage: edge.from, partition: upstream, ..task });
            let covers = |covered: &[PartitionId], partition| covered.contains(&partition);
            let arrived = inputs.iter().any(|Block { notice, .. }| {
                covers(&notice.upstream, upstream) && covers(&notice.downstream, task.partition)
            });
            let connected = Plan::connects(edge, upstream, task.partition);
            assert!(!connected || (done && arrived), "{task} did not wait for {upstream}");
            // The driver releases a stage when every task before it is done, connected or not.
            assert!(done || self.scenario.prescheduling == Prescheduling::On, "{task}: no release");
        }
    }

    /// A source stays within its credit of a core downstream.
    pub(super) fn check_credit(&self, run: &Run, completed: BatchId) {
        let is_source = run.stage == StageId(0);
        let limit = completed.0 + self.scenario.ahead;
        assert!(!is_source || run.batch.0 <= limit, "{run:?} is far ahead of {completed}");
    }

    pub(super) fn run_ends(
        &mut self,
        run: &Run,
        records: &[(PartitionId, Record)],
        ranges: &[TakenRange],
    ) {
        let (batch, stage) = (run.batch, run.stage);
        self.done.extend(run.partitions.iter().map(|&partition| Task { batch, stage, partition }));
        for TakenRange { range, .. } in ranges {
            self.taken[range.partition.index()] = range.to;
        }
        if stage.index() + 1 == self.scenario.plan.stages.len() {
            for &(_, record) in records {
                assert!(self.arrived.insert(record), "{record:?} arrived twice");
            }
        }
    }

    /// Every record that was taken arrived, every task ran, and the driver knows it.
    pub(super) fn check_end(&self, last_batch: BatchId, lineage: &Lineage) {
        let taken = self.taken.iter().zip(0..);
        let records =
            taken.flat_map(|(&to, p)| (0..to).map(move |offset| (PartitionId(p), offset)));
        assert!(records.eq(self.arrived.iter().copied()), "records are lost");
        if self.scenario.stop_at.is_none() {
            assert_eq!(self.taken, self.scenario.lengths, "a source was not read to its end");
        }
        let known = lineage.partitions().map(|(_, _, progress)| (progress.batch, progress.to));
        let flush = last_batch.next();
        assert!(
            known.eq(self.taken.iter().map(|&to| (flush, to))),
            "the driver's lineage is wrong"
        );

        let plan = &self.scenario.plan;
        let tasks = plan.stage_ids().flat_map(|stage| {
            let of_batch =
                move |batch| move |partition| Task { batch: BatchId(batch), stage, partition };
            (1..=flush.0).flat_map(move |batch| partitions(plan, stage).map(of_batch(batch)))
        });
        assert_eq!(self.done, tasks.collect(), "tasks are missing, or ran beyond the cut");
        assert_eq!(self.tasks_reported, self.done.len() as u64);
        assert_eq!(self.sent.len(), self.groups.len() * self.scenario.workers as usize);
        let flushes = self.groups.values().filter(|group| group.purpose == Purpose::Flush);
        assert_eq!(flushes.count(), 1);
    }
}

fn partitions(plan: &Plan, stage: StageId) -> impl Iterator<Item = PartitionId> + use<> {
    (0..plan.stage(stage).partition_count).map(PartitionId)
}
