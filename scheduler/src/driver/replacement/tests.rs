//! Tests of who takes what was lost.

use super::*;
use crate::checkpoint::SourcePosition;
use crate::ids::{Incarnation, Life, OrderNumber, Watermark, WorkerId};
use crate::message::{Decision, ScheduleGroup, SourceRange, TakenRange};
use crate::plan::{Pacing, StageKind};
use crate::tests::{chain, core};

/// Two source partitions, three with state, two without; on three workers with one core each:
/// partition p is on worker p.
fn plan() -> Arc<Plan> {
    chain(&[
        (StageKind::Source(Pacing::Clock), 2),
        (StageKind::Stateful, 3),
        (StageKind::Stateless, 2),
    ])
}

struct Cluster {
    plan: Arc<Plan>,
    history: History,
    lineage: Lineage,
    coverage: Vec<Coverage>,
}

impl Cluster {
    /// Twenty batches are scheduled, and sources have taken ten offsets in each of the first five.
    fn new() -> Cluster {
        let plan = plan();
        let cores = [core(0, 0), core(1, 0), core(2, 0)];
        let placement = Placement::spread(&plan, &cores, Epoch(1), BatchId(1));
        let lineage = Lineage::new(&plan);
        let (history, coverage) = (History::default(), Vec::new());
        let mut cluster = Cluster { plan, history, lineage, coverage };
        let lives = (0..3).map(|worker| (life(worker), 1)).collect();
        cluster.decide(&Decision::Admit(lives));
        cluster.schedule(1, 20, Some(placement));
        for batch in 1..=5 {
            cluster.take(0, batch);
            cluster.take(1, batch);
        }
        cluster.covers(0, 1, u64::MAX);
        cluster.covers(1, 1, u64::MAX);
        cluster
    }

    fn decide(&mut self, decision: &Decision) {
        self.history.apply(self.history.applied.next(), decision);
    }

    fn schedule(&mut self, first: u64, batch_count: u64, placement: Option<Placement>) {
        let group = ScheduleGroup {
            group: self.history.last_group.next(),
            epoch: self.history.epoch,
            predecessor: self.history.last_batch,
            first_batch: BatchId(first),
            batch_count,
            start: crate::Instant(0),
            interval_ns: 1,
            origin: crate::Instant(0),
            purpose: crate::message::Purpose::Process,
            contents: [].into(),
            placement: placement.map(Arc::new),
        };
        self.decide(&Decision::ScheduleGroup(Arc::new(group)));
    }

    /// Ten offsets in a batch, and a watermark that is the offset after them.
    fn take(&mut self, partition: u32, batch: u64) {
        let (stage, partition) = (StageId(0), PartitionId(partition));
        let (from, to) = (10 * (batch - 1), 10 * batch);
        let range = SourceRange { stage, partition, from, to };
        let (batch, watermark) = (BatchId(batch), Watermark(to));
        let taken = TakenRange { batch, range, ended: false, watermark };
        self.lineage.learn(&taken).expect("it follows");
    }

    fn covers(&mut self, partition: u32, first: u64, last: u64) {
        self.coverage.push(Coverage {
            stage: StageId(0),
            partition: PartitionId(partition),
            first: BatchId(first),
            last: BatchId(last),
        });
    }

    /// Batches after `at` of a partition are another worker's.
    fn moves(&mut self, stage: u16, partition: u32, from: u32, to: u32, at: u64) {
        let (stage, partition) = (StageId(stage), PartitionId(partition));
        let moved = Move { stage, partition, from: core(from, 0), to: core(to, 0) };
        self.decide(&Decision::Prepare([moved].into()));
        let cut = crate::CutId { term: crate::Term(1), number: OrderNumber(0) };
        self.decide(&Decision::CommitCut { cut, last_batch: BatchId(at) });
        let current = self.history.placement(BatchId(at)).expect("it is placed").clone();
        let epoch = self.history.epoch.next();
        let placement = crate::balance::apply(&current, &[moved], epoch, BatchId(at + 1));
        self.schedule(at + 1, 20 - at, Some(placement));
    }

    fn lose(&mut self, workers: &[u32]) {
        self.decide(&Decision::Fence(workers.iter().map(|&worker| life(worker)).collect()));
    }

    fn recover(&self) -> Recover {
        let cores: Vec<CoreId> = self.history.members.keys().map(|w| core(w.0, 0)).collect();
        recover(&Scene {
            plan: &self.plan,
            history: &self.history,
            lineage: &self.lineage,
            coverage: &self.coverage,
            cores: &cores,
            epoch: self.history.epoch.next(),
            ran_through: BatchId(0),
        })
    }
}

fn life(worker: u32) -> Life {
    Life { worker: WorkerId(worker), incarnation: Incarnation(1) }
}

fn rollback(stage: u16, partition: u32, after: u64, to: u32, from: Restore) -> Rollback {
    let (stage, partition, after) = (StageId(stage), PartitionId(partition), BatchId(after));
    Rollback { stage, partition, after, to: core(to, 0), from }
}

fn position(offset: u64) -> Restore {
    Restore::Position { offset, watermark: Watermark(offset), ended: false }
}

/// The batches that errands read of a partition, with the worker that does.
fn errands(recover: &Recover, partition: u32) -> Vec<(u64, u32)> {
    let of_partition = |errand: &&Errand| errand.taken.range.partition == PartitionId(partition);
    let errands = recover.errands.iter().filter(of_partition);
    errands.map(|errand| (errand.taken.batch.0, errand.core.worker.0)).collect()
}

fn owners(recover: &Recover, stage: u16) -> Vec<Vec<u32>> {
    let of_version = |version: &Arc<Placement>| {
        version.cores_by_stage[usize::from(stage)].iter().map(|core| core.worker.0).collect()
    };
    recover.placements.iter().map(of_version).collect()
}

#[test]
fn lost_partitions_are_spread_over_all_survivors_and_sources_go_on_behind_their_last_range() {
    let mut cluster = Cluster::new();
    cluster.lose(&[1]);
    cluster.coverage.retain(|coverage| coverage.partition != PartitionId(1));
    let recover = cluster.recover();
    assert_eq!(
        recover.moved,
        [
            rollback(0, 1, 5, 2, position(50)),
            rollback(1, 1, 0, 2, Restore::Manifest),
            rollback(2, 1, 0, 2, Restore::Manifest),
        ]
    );
    assert_eq!(errands(&recover, 0), []);
    assert_eq!(errands(&recover, 1), [(1, 0), (2, 2), (3, 0), (4, 2), (5, 0)]);
    assert_eq!(recover.errands[2].floor, Watermark(20));
    assert_eq!(recover.epoch, Epoch(2));
    assert_eq!(recover.replay_through, BatchId(20));
}

#[test]
fn what_survivors_hold_is_not_read_again() {
    let mut cluster = Cluster::new();
    cluster.lose(&[1]);
    cluster.coverage.retain(|coverage| coverage.partition != PartitionId(1));
    cluster.covers(1, 2, 3);
    assert_eq!(errands(&cluster.recover(), 1), [(1, 0), (4, 2), (5, 0)]);
}

#[test]
fn a_partition_whose_new_owner_is_lost_goes_back_to_the_old_one_and_its_copy() {
    let mut cluster = Cluster::new();
    cluster.moves(1, 0, 0, 2, 7);
    cluster.lose(&[2]);
    let recover = cluster.recover();
    assert!(recover.moved.contains(&rollback(1, 0, 7, 0, Restore::Copy)));
    assert_eq!(owners(&recover, 1).iter().map(|owners| owners[0]).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_partition_whose_old_owner_is_lost_is_restored_where_it_is() {
    let mut cluster = Cluster::new();
    cluster.moves(1, 0, 0, 2, 7);
    cluster.lose(&[0]);
    let recover = cluster.recover();
    assert!(recover.moved.contains(&rollback(1, 0, 0, 2, Restore::Manifest)));
    assert_eq!(owners(&recover, 1).iter().map(|owners| owners[0]).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn a_partition_of_which_both_owners_are_lost_goes_to_a_third() {
    let mut cluster = Cluster::new();
    cluster.moves(1, 0, 0, 2, 7);
    cluster.lose(&[0, 2]);
    let recover = cluster.recover();
    assert!(recover.moved.contains(&rollback(1, 0, 0, 1, Restore::Manifest)));
}

#[test]
fn a_source_that_moved_goes_back_while_its_new_owner_has_taken_nothing() {
    let mut cluster = Cluster::new();
    cluster.moves(0, 0, 0, 2, 7);
    cluster.lose(&[2]);
    let recover = cluster.recover();
    assert!(recover.moved.contains(&rollback(0, 0, 7, 0, Restore::Copy)));
    assert_eq!(errands(&recover, 0), []);
}

#[test]
fn what_the_lost_new_owner_of_a_source_took_is_read_again_and_not_taken_anew() {
    let mut cluster = Cluster::new();
    cluster.moves(0, 0, 0, 2, 3);
    cluster.lose(&[2]);
    cluster.coverage.retain(|coverage| coverage.partition != PartitionId(0));
    cluster.covers(0, 1, 3);
    let recover = cluster.recover();
    assert!(recover.moved.contains(&rollback(0, 0, 5, 0, position(50))));
    assert_eq!(errands(&recover, 0).iter().map(|errand| errand.0).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_source_that_lives_is_never_reset() {
    for (covered, is_reset) in [(true, false), (false, true)] {
        let mut cluster = Cluster::new();
        cluster.moves(0, 0, 0, 2, 3);
        cluster.lose(&[0]);
        cluster.coverage.retain(|coverage| coverage.partition != PartitionId(0));
        if covered {
            cluster.covers(0, 4, u64::MAX);
        }
        let recover = cluster.recover();
        let moved = recover.moved.contains(&rollback(0, 0, 5, 2, position(50)));
        assert_eq!(moved, is_reset);
        let read_again = if covered { vec![1, 2, 3] } else { vec![1, 2, 3, 4, 5] };
        let errands: Vec<u64> = errands(&recover, 0).iter().map(|errand| errand.0).collect();
        assert_eq!(errands, read_again);
    }
}

#[test]
fn a_source_whose_state_is_under_way_between_two_survivors_is_left_alone() {
    let mut cluster = Cluster::new();
    cluster.moves(0, 0, 0, 2, 7);
    cluster.lose(&[1]);
    cluster.coverage = Vec::new();
    cluster.covers(0, 1, 7);
    let recover = cluster.recover();
    assert!(recover.moved.iter().all(|r| (r.stage, r.partition) != (StageId(0), PartitionId(0))));
}

#[test]
fn a_new_life_of_a_lost_worker_has_nothing_of_what_the_placement_says() {
    let mut cluster = Cluster::new();
    cluster.lose(&[1]);
    let again = Life { worker: WorkerId(1), incarnation: Incarnation(2) };
    cluster.decide(&Decision::Admit([(again, 1)].into()));
    let moved = cluster.recover().moved;
    assert!(moved.contains(&rollback(1, 1, 0, 1, Restore::Manifest)));
    let recover = cluster.recover();
    cluster.decide(&Decision::Recover(Arc::new(recover)));
    assert_eq!(cluster.recover().moved, [], "and then it has");
}

#[test]
fn what_a_manifest_covers_is_neither_read_nor_placed_again() {
    let mut cluster = Cluster::new();
    cluster.moves(1, 0, 0, 2, 3);
    let position = |partition| SourcePosition {
        stage: StageId(0),
        partition: PartitionId(partition),
        after: BatchId(4),
        offset: 40,
        watermark: Watermark(40),
        ended: false,
    };
    let manifest = Arc::new(crate::checkpoint::Manifest {
        sequence: crate::Sequence(1),
        term: crate::Term(1),
        batch: BatchId(4),
        number: cluster.history.applied,
        snapshots: Vec::new(),
        positions: vec![position(0), position(1)],
    });
    cluster.decide(&Decision::Durable(manifest.clone()));
    cluster.lose(&[1]);
    cluster.coverage.clear();
    let recover = cluster.recover();
    assert_eq!(recover.placements.len(), 1);
    assert_eq!(errands(&recover, 1).iter().map(|errand| errand.0).collect::<Vec<_>>(), [5]);
    assert!(recover.moved.contains(&rollback(1, 1, 4, 0, Restore::Manifest)));
    assert_eq!(recover.manifest, Some(manifest));
}
