//! Strategies for everything that schedulers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::history::History;
use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::message::{
    Combined, Content, Coverage, Decision, Errand, GroupStatistics, Holding, Move, Order, Purpose,
    Recover, Report, Restore, Rollback, ScheduleGroup, SourceRange, Standing, TakenRange,
};
use drizzle_scheduler::placement::Placement;
use drizzle_scheduler::{
    BatchId, CoreId, CutId, Epoch, GroupId, Incarnation, Instant, Life, OrderNumber, PartitionId,
    Sequence, StageId, Term, Watermark, WorkerId,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(super) fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        4 => (number(), decision())
            .prop_map(|(number, decision)| Order::Decision { number, decision }),
        1 => (batch(), stage()).prop_map(|(batch, stage)| Order::Release { batch, stage }),
        1 => batch().prop_map(|through| Order::Recorded { through }),
        2 => history().prop_map(|history| Order::Welcome(Arc::new(history))),
        1 => cut().prop_map(|cut| Order::TakeOver { cut }),
        1 => life().prop_map(|life| Order::Leave { life }),
        1 => vec(errand(), 0..4).prop_map(|errands| Order::Speculate(errands.into())),
    ]
}

pub(super) fn decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        vec((life(), any::<u16>()), 0..4).prop_map(|members| Decision::Admit(members.into())),
        group().prop_map(|group| Decision::ScheduleGroup(Arc::new(group))),
        (cut(), batch()).prop_map(|(cut, proposed)| Decision::CutGroup { cut, proposed }),
        (cut(), batch()).prop_map(|(cut, last_batch)| Decision::CommitCut { cut, last_batch }),
        vec(life(), 0..4).prop_map(|lives| Decision::Fence(lives.into())),
        recover().prop_map(|recover| Decision::Recover(Arc::new(recover))),
        batch().prop_map(|batch| Decision::Checkpoint { batch }),
        batch().prop_map(|batch| Decision::AbandonCheckpoint { batch }),
        manifest().prop_map(|manifest| Decision::Durable(Arc::new(manifest))),
        vec(planned_move(), 0..4).prop_map(|moves| Decision::Prepare(moves.into())),
        Just(Decision::AbandonMoves),
    ]
}

pub(super) fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        (group_id(), epoch(), batch(), statistics()).prop_map(
            |(group, epoch, last_batch, statistics)| Report::GroupDone {
                group,
                epoch,
                last_batch,
                statistics
            }
        ),
        (batch(), stage()).prop_map(|(batch, stage)| Report::StageDone { batch, stage }),
        vec(taken(), 0..6).prop_map(Report::Ranges),
        (group_id(), batch()).prop_map(|(group, expected)| Report::Refused { group, expected }),
        (cut(), batch()).prop_map(|(cut, last_batch)| Report::Promise { cut, last_batch }),
        (number(), standing()).prop_map(|(number, standing)| Report::Fenced { number, standing }),
        holding().prop_map(|holding| Report::Holding(Box::new(holding))),
        (batch(), vec(snapshot(), 0..4))
            .prop_map(|(batch, snapshots)| Report::Snapshots { batch, snapshots }),
        batch().prop_map(|batch| Report::NoSnapshot { batch }),
        Just(Report::HighMark),
        number().prop_map(|number| Report::Prepared { number }),
        vec(batch(), 0..5).prop_map(|completed| Report::Progress { completed }),
    ]
}

pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        Just(Record::Opened),
        vec((life(), any::<u16>()), 0..4).prop_map(Record::Members),
        vec(life(), 0..4).prop_map(Record::Fenced),
        batch().prop_map(Record::End),
        vec(taken(), 0..6).prop_map(Record::Ranges),
        manifest().prop_map(|manifest| Record::Manifest(Arc::new(manifest))),
    ]
}

pub(super) fn entry() -> impl Strategy<Value = JournalEntry> {
    (any::<(u64, u64)>(), record()).prop_map(|((sequence, term), record)| JournalEntry {
        sequence: Sequence(sequence),
        term: Term(term),
        record,
    })
}

fn history() -> impl Strategy<Value = History> {
    let members = btree_map(worker(), (incarnation(), any::<u16>()), 0..4);
    let fenced = btree_set(life(), 0..4);
    let fallen = btree_set(worker(), 0..4);
    let who = (members, fenced, fallen);
    let groups = vec(group_with_last(), 0..3);
    let what = (placements(), groups, group_id(), batch());
    let prepared = vec(planned_move(), 0..3);
    let moves = vec((planned_move(), batch()), 0..3);
    let changes = (option::of(manifest()), option::of(batch()), prepared, moves);
    (number(), epoch(), who, what, changes).prop_map(|(applied, epoch, who, what, changes)| {
        let (members, fenced, fallen): (BTreeMap<_, _>, BTreeSet<_>, BTreeSet<_>) = who;
        let (placements, groups, last_group, last_batch) = what;
        let (manifest, checkpoint, prepared, moves) = changes;
        History {
            applied,
            epoch,
            members,
            fenced,
            fallen,
            placements: placements.into_iter().collect(),
            groups,
            last_group,
            last_batch,
            manifest: manifest.map(Arc::new),
            checkpoint,
            prepared,
            moves,
        }
    })
}

fn group_with_last() -> impl Strategy<Value = (Arc<ScheduleGroup>, BatchId)> {
    group().prop_flat_map(|group| {
        let last = group.first_batch.0..=group.last_batch().0;
        (Just(Arc::new(group)), last.prop_map(BatchId))
    })
}

fn group() -> impl Strategy<Value = ScheduleGroup> {
    let ids = any::<(u64, u64, u64)>();
    let batches = (0..u64::MAX).prop_flat_map(|first| (Just(first), 1..=u64::MAX - first));
    let times = any::<(u64, u64, u64)>();
    let contents = vec(content(), 0..4);
    (ids, batches, times, purpose(), contents, option::of(placement())).prop_map(
        |(
            ids,
            (first, batch_count),
            (start, interval_ns, origin),
            purpose,
            contents,
            placement,
        )| {
            let (group, epoch, predecessor) = ids;
            ScheduleGroup {
                group: GroupId(group),
                epoch: Epoch(epoch),
                predecessor: BatchId(predecessor),
                first_batch: BatchId(first),
                batch_count,
                start: Instant(start),
                interval_ns,
                origin: Instant(origin),
                purpose,
                contents: contents.into(),
                placement: placement.map(Arc::new),
            }
        },
    )
}

/// Oldest first.
fn placements() -> impl Strategy<Value = Vec<Arc<Placement>>> {
    vec(placement(), 0..3).prop_map(|mut placements| {
        placements.sort_by_key(|placement| placement.from_batch);
        placements.dedup_by_key(|placement| placement.from_batch);
        placements.into_iter().map(Arc::new).collect()
    })
}

fn placement() -> impl Strategy<Value = Placement> {
    (epoch(), batch(), vec(vec(core(), 0..6), 0..4)).prop_map(
        |(epoch, from_batch, cores_by_stage)| Placement { epoch, from_batch, cores_by_stage },
    )
}

fn recover() -> impl Strategy<Value = Recover> {
    let lists = (placements(), vec(rollback(), 0..4), vec(errand(), 0..4));
    (epoch(), option::of(manifest()), lists, batch(), batch()).prop_map(
        |(epoch, manifest, (placements, moved, errands), replay_through, released_through)| {
            let manifest = manifest.map(Arc::new);
            Recover {
                epoch,
                manifest,
                placements,
                moved,
                errands,
                replay_through,
                released_through,
            }
        },
    )
}

fn rollback() -> impl Strategy<Value = Rollback> {
    (partition(), batch(), core(), restore()).prop_map(|((stage, partition), after, to, from)| {
        Rollback { stage, partition, after, to, from }
    })
}

pub(super) fn restore() -> impl Strategy<Value = Restore> {
    prop_oneof![
        Just(Restore::Manifest),
        Just(Restore::Copy),
        (any::<u64>(), watermark(), any::<bool>()).prop_map(|(offset, watermark, ended)| {
            Restore::Position { offset, watermark, ended }
        }),
    ]
}

fn errand() -> impl Strategy<Value = Errand> {
    (core(), taken(), watermark()).prop_map(|(core, taken, floor)| Errand { core, taken, floor })
}

fn planned_move() -> impl Strategy<Value = Move> {
    (partition(), core(), core()).prop_map(|((stage, partition), from, to)| Move {
        stage,
        partition,
        from,
        to,
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let snapshots = vec(snapshot(), 0..4);
    (any::<(u64, u64)>(), batch(), number(), snapshots, vec(position(), 0..4)).prop_map(
        |((sequence, term), batch, number, snapshots, positions)| Manifest {
            sequence: Sequence(sequence),
            term: Term(term),
            batch,
            number,
            snapshots,
            positions,
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    (partition(), batch(), option::of(batch()), incarnation()).prop_map(
        |((stage, partition), batch, since, incarnation)| Snapshot {
            stage,
            partition,
            batch,
            since,
            incarnation,
        },
    )
}

fn position() -> impl Strategy<Value = SourcePosition> {
    (partition(), batch(), any::<u64>(), watermark(), any::<bool>()).prop_map(
        |((stage, partition), after, offset, watermark, ended)| SourcePosition {
            stage,
            partition,
            after,
            offset,
            watermark,
            ended,
        },
    )
}

fn holding() -> impl Strategy<Value = Holding> {
    (batch(), history(), vec((number(), decision()), 0..4), standing()).prop_map(
        |(promise, history, recent, standing)| Holding { promise, history, recent, standing },
    )
}

fn standing() -> impl Strategy<Value = Standing> {
    (vec(taken(), 0..4), vec(coverage(), 0..4))
        .prop_map(|(ranges, coverage)| Standing { ranges, coverage })
}

fn coverage() -> impl Strategy<Value = Coverage> {
    (partition(), batch(), batch()).prop_map(|((stage, partition), first, last)| Coverage {
        stage,
        partition,
        first,
        last,
    })
}

fn statistics() -> impl Strategy<Value = GroupStatistics> {
    let combined = any::<(u64, u64)>()
        .prop_map(|(records_in, records_out)| Combined { records_in, records_out });
    (any::<[u64; 5]>(), vec(any::<u64>(), 0..4), vec(combined, 0..4)).prop_map(
        |(numbers, run_ns_by_core, combined)| {
            let [tasks, run_ns, schedule_ns, overtaken, worst_delay_ns] = numbers;
            GroupStatistics {
                tasks,
                run_ns,
                schedule_ns,
                overtaken,
                worst_delay_ns,
                run_ns_by_core,
                combined,
            }
        },
    )
}

pub(super) fn taken() -> impl Strategy<Value = TakenRange> {
    (batch(), range(), any::<bool>(), watermark())
        .prop_map(|(batch, range, ended, watermark)| TakenRange { batch, range, ended, watermark })
}

pub(super) fn range() -> impl Strategy<Value = SourceRange> {
    let offsets = any::<u64>().prop_flat_map(|from| (Just(from), from..=u64::MAX));
    (partition(), offsets).prop_map(|((stage, partition), (from, to))| SourceRange {
        stage,
        partition,
        from,
        to,
    })
}

pub(super) fn content() -> impl Strategy<Value = Content> {
    prop_oneof![Just(Content::Raw), Just(Content::Partial)]
}

pub(super) fn purpose() -> impl Strategy<Value = Purpose> {
    prop_oneof![Just(Purpose::Process), Just(Purpose::Flush)]
}

pub(super) fn core() -> impl Strategy<Value = CoreId> {
    // Few workers, so that cores repeat within a placement.
    (0..3u32, any::<bool>())
        .prop_map(|(worker, second)| CoreId { worker: WorkerId(worker), core: second.into() })
}

pub(super) fn worker() -> impl Strategy<Value = WorkerId> {
    any::<u32>().prop_map(WorkerId)
}

pub(super) fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

fn life() -> impl Strategy<Value = Life> {
    (worker(), incarnation()).prop_map(|(worker, incarnation)| Life { worker, incarnation })
}

fn cut() -> impl Strategy<Value = CutId> {
    (any::<u64>(), number()).prop_map(|(term, number)| CutId { term: Term(term), number })
}

fn partition() -> impl Strategy<Value = (StageId, PartitionId)> {
    (stage(), any::<u32>().prop_map(PartitionId))
}

pub(super) fn batch() -> impl Strategy<Value = BatchId> {
    any::<u64>().prop_map(BatchId)
}

fn stage() -> impl Strategy<Value = StageId> {
    any::<u16>().prop_map(StageId)
}

fn group_id() -> impl Strategy<Value = GroupId> {
    any::<u64>().prop_map(GroupId)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn number() -> impl Strategy<Value = OrderNumber> {
    any::<u64>().prop_map(OrderNumber)
}

fn watermark() -> impl Strategy<Value = Watermark> {
    any::<u64>().prop_map(Watermark)
}
