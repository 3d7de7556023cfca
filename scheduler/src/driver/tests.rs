//! Tests of the driver: scripts of events, and the actions that follow from them.
//!
//! A script has one event a line. Its words are those of [`event`]; `as 9` at the end says that the
//! sender claims to be in its ninth life (everybody is in the first), `at 50` moves the time on.
//! Intervals have 10 ns, the lead is 15 ns, so a job that starts at 0 has its origin at 20.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;
use crate::bugs::{Bug, Bugs};
use crate::checkpoint::Snapshot;
use crate::ids::{
    CutId, Epoch, GroupId, Incarnation, PartitionId, Sequence, StageId, Term, Watermark,
};
use crate::journal::{AppendFailure, JournalEntry, JournalState, Record};
use crate::message::{Coverage, GroupStatistics, Holding, Restore, SourceRange, Standing};
use crate::plan::{Pacing, Prescheduling, StageKind};
use crate::tests::chain;

mod durable;
mod scaling;
mod takeover;
mod volatile;

fn options(workers: u32, group_size: u64) -> DriverOptions {
    DriverOptions {
        term: Term(1),
        workers,
        group_size: GroupSize::Fixed(group_size),
        groups_in_flight: 2,
        interval_ns: 10,
        lead_ns: 15,
        rebase_after_ns: 1000,
        prescheduling: Prescheduling::On,
        durability: Durability::None,
        answer_timeout_ns: 400,
        ahead: 2,
        balance: Balance::Off,
        adaptation: Adaptation::Off,
        bugs: Bugs::NONE,
    }
}

/// With a journal: checkpoints every 5000 ns that are given up after 2000.
fn durable(workers: u32, group_size: u64) -> DriverOptions {
    let durability = Durability::Journal { checkpoint_every_ns: 5000, abandon_after_ns: 2000 };
    DriverOptions { durability, ..options(workers, group_size) }
}

/// Two source partitions, then two partitions of a stage with state.
fn two_stages() -> Arc<Plan> {
    chain(&[(StageKind::Source(Pacing::Clock), 2), (StageKind::Stateful, 2)])
}

fn check(options: DriverOptions, script: &str, expected: &Expect) {
    expected.assert_eq(&play(&mut Driver::new(two_stages(), options), script));
}

fn play(driver: &mut Driver, script: &str) -> String {
    let (mut now, mut log, mut actions) = (driver.now, String::new(), Vec::new());
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(log, "{line}").expect("a string takes everything");
        match line.strip_prefix("at ") {
            Some(time) => now = Instant(time.parse().expect("a time")),
            None if line == "all is written" => {
                while let Some(sequence) = driver.journal.under_way() {
                    driver.handle(now, DriverEvent::Appended { sequence }, &mut actions);
                }
            }
            None => driver.handle(now, event(line, driver), &mut actions),
        }
        for line in printed_all(&actions) {
            writeln!(log, "    {line}").expect("a string takes everything");
        }
        actions.clear();
    }
    log
}

/// Plays the events of a log, and checks that the same follows from them.
fn replay(driver: &mut Driver, log: &str) {
    let events: Vec<&str> = log.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(play(driver, &events.join("\n")), log);
}

fn event(line: &str, driver: &Driver) -> DriverEvent {
    let (line, incarnation) = line.split_once(" as ").unwrap_or((line, "1"));
    let incarnation = Incarnation(incarnation.parse().expect("a number"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    let worker = || WorkerId(number(1) as u32);
    let said =
        |report| DriverEvent::Message(WorkerMessage { worker: worker(), incarnation, report });
    match words[0] {
        "start" => DriverEvent::Start,
        "empty" => DriverEvent::Journal(JournalState::EMPTY),
        "written" => DriverEvent::Appended { sequence: Sequence(number(1)) },
        "unwritten" => {
            let failure = match words[2] {
                "deposed" => AppendFailure::Deposed,
                _ => AppendFailure::Unavailable,
            };
            DriverEvent::AppendFailed { sequence: Sequence(number(1)), failure }
        }
        "ready" => DriverEvent::WorkerReady { worker: worker(), incarnation, cores: 1 },
        "lost" => {
            DriverEvent::WorkerLost { worker: worker(), incarnation, reason: words[2..].join(" ") }
        }
        "drain" => DriverEvent::Drain { worker: worker() },
        "stop" => DriverEvent::Stop,
        "tick" => DriverEvent::Tick,
        _ => said(report(&words, driver)),
    }
}

/// What a worker says; the second word is the worker.
fn report(words: &[&str], driver: &Driver) -> Report {
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    match words[0] {
        // Group; the epoch is the newest if none is named.
        "done" => Report::GroupDone {
            group: GroupId(number(2)),
            epoch: words.get(3).map_or(driver.history.epoch, |_| Epoch(number(3))),
            last_batch: BatchId(0),
            statistics: GroupStatistics { tasks: 4, ..GroupStatistics::default() },
        },
        // Group, and for how long the tasks of the worker's core ran.
        "ran" => Report::GroupDone {
            group: GroupId(number(2)),
            epoch: driver.history.epoch,
            last_batch: BatchId(0),
            statistics: GroupStatistics {
                run_ns_by_core: vec![number(3)],
                ..GroupStatistics::default()
            },
        },
        "stage-done" => {
            Report::StageDone { batch: BatchId(number(2)), stage: StageId(number(3) as u16) }
        }
        "promise" => Report::Promise {
            cut: driver.cut.as_ref().map_or(NO_CUT, Cut::id),
            last_batch: BatchId(number(2)),
        },
        "refused" => Report::Refused { group: GroupId(number(2)), expected: BatchId(number(3)) },
        // Batch, partition, from, to; "end" where the source has nothing after it.
        "took" => Report::Ranges(vec![taken(words)]),
        // Decision; then coverage as partition, first, last; 0 as last: it goes on.
        "fenced" => Report::Fenced {
            number: OrderNumber(number(2)),
            standing: Standing { ranges: Vec::new(), coverage: coverage(&words[3..]) },
        },
        // Batch, partition, and the batch since which it holds the changes; none: all.
        "snapshot" => Report::Snapshots {
            batch: BatchId(number(2)),
            snapshots: vec![Snapshot {
                stage: StageId(1),
                partition: PartitionId(number(3) as u32),
                batch: BatchId(number(2)),
                since: words.get(4).map(|_| BatchId(number(4))),
                incarnation: Incarnation(1),
            }],
        },
        "no-snapshot" => Report::NoSnapshot { batch: BatchId(number(2)) },
        "high-mark" => Report::HighMark,
        "prepared" => Report::Prepared { number: OrderNumber(number(2)) },
        word => panic!("no event is called {word:?}"),
    }
}

const NO_CUT: CutId = CutId { term: Term(0), number: OrderNumber(0) };

fn taken(words: &[&str]) -> TakenRange {
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    let partition = PartitionId(number(3) as u32);
    let range = SourceRange { stage: StageId(0), partition, from: number(4), to: number(5) };
    let ended = words.get(6) == Some(&"end");
    let watermark = Watermark(number(5));
    TakenRange { batch: BatchId(number(2)), range, ended, watermark }
}

fn coverage(words: &[&str]) -> Vec<Coverage> {
    let number = |word: &str| word.parse::<u64>().expect("a number");
    let coverage = |words: &[&str]| Coverage {
        stage: StageId(0),
        partition: PartitionId(number(words[0]) as u32),
        first: BatchId(number(words[1])),
        last: BatchId(if words[2] == "0" { u64::MAX } else { number(words[2]) }),
    };
    words.chunks(3).map(coverage).collect()
}

/// One line for each action; the same order to several workers is one line.
fn printed_all(actions: &[DriverAction]) -> Vec<String> {
    let mut lines: Vec<(Vec<WorkerId>, String)> = Vec::new();
    for action in actions {
        match action {
            DriverAction::Send { to, message } => {
                let order = printed_order(&message.order);
                match lines.last_mut().filter(|(workers, _)| !workers.is_empty()) {
                    Some((workers, known)) if *known == order => workers.push(*to),
                    Some(_) | None => lines.push((vec![*to], order)),
                }
            }
            other => lines.push((Vec::new(), printed(other))),
        }
    }
    let line = |(workers, line): (Vec<WorkerId>, String)| match workers.as_slice() {
        [] => line,
        workers => {
            let workers: Vec<String> = workers.iter().map(|w| w.0.to_string()).collect();
            format!("{} <- {line}", workers.join(" "))
        }
    };
    lines.into_iter().map(line).collect()
}

fn printed(action: &DriverAction) -> String {
    match action {
        DriverAction::Send { .. } => unreachable!("printed with those like it"),
        DriverAction::ReadJournal => "read the journal".to_owned(),
        DriverAction::Append(entry) => printed_entry(entry),
        DriverAction::GroupDone { group, last_batch, statistics } => {
            format!("{group} is done up to {last_batch}, {} tasks", statistics.tasks)
        }
        DriverAction::Moved { moves, cause } => format!("{} moves for {cause:?}", moves.len()),
        DriverAction::Drained { worker } => format!("{worker} is drained"),
        DriverAction::Finished { last_batch } => format!("finished after {last_batch}"),
        DriverAction::Deposed => "deposed".to_owned(),
        DriverAction::Failed { reason } => format!("failed: {reason}"),
    }
}

fn printed_entry(entry: &JournalEntry) -> String {
    let record = match &entry.record {
        Record::Opened => format!("opened in {}", entry.term),
        Record::Members(members) => {
            let members: Vec<String> = members.iter().map(|(life, _)| life.to_string()).collect();
            format!("members {}", members.join(", "))
        }
        Record::Fenced(lives) => {
            let lives: Vec<String> = lives.iter().map(Life::to_string).collect();
            format!("end of {}", lives.join(", "))
        }
        Record::End(last_batch) => format!("the end after {last_batch}"),
        Record::Ranges(ranges) => {
            let range = |taken: &TakenRange| {
                let range = &taken.range;
                format!("{}/{} [{}, {})", range.partition.0, taken.batch.0, range.from, range.to)
            };
            format!("ranges {}", ranges.iter().map(range).collect::<Vec<_>>().join(", "))
        }
        Record::Manifest(manifest) => {
            let snapshots = manifest
                .snapshots
                .iter()
                .map(|snapshot| format!("{}@{}", snapshot.partition.0, snapshot.batch.0));
            let snapshots = snapshots.collect::<Vec<_>>().join(" ");
            format!("manifest of {} with {snapshots}", manifest.batch)
        }
    };
    format!("{}: {record}", entry.sequence)
}

fn printed_order(order: &Order) -> String {
    match order {
        Order::Decision { number, decision } => {
            format!("{}: {}", number.0, printed_decision(decision))
        }
        Order::Release { batch, stage } => format!("release {batch} {stage}"),
        Order::Recorded { through } => format!("recorded through {through}"),
        Order::Welcome(history) => format!("welcome after {}", history.applied),
        Order::TakeOver { cut } => format!("take over in {}", cut.term),
        Order::Leave { life } => format!("leave, {life}"),
        Order::Speculate(errands) => format!("{} errands", errands.len()),
    }
}

fn printed_decision(decision: &Decision) -> String {
    match decision {
        Decision::Admit(members) => {
            let members: Vec<String> = members.iter().map(|(life, _)| life.to_string()).collect();
            format!("admit {}", members.join(", "))
        }
        Decision::ScheduleGroup(group) => {
            let (first, last) = (group.first_batch.0, group.last_batch().0);
            let placed = match &group.placement {
                Some(placement) => format!(", placed in {}", placement.epoch),
                None => String::new(),
            };
            format!(
                "{}: {:?} {first}..={last} after {}, start {}{placed}",
                group.group, group.purpose, group.predecessor.0, group.start.0
            )
        }
        Decision::CutGroup { proposed, .. } => format!("cut? not before {proposed}"),
        Decision::CommitCut { last_batch, .. } => format!("cut! after {last_batch}"),
        Decision::Fence(lives) => {
            let lives: Vec<String> = lives.iter().map(Life::to_string).collect();
            format!("fence {}", lives.join(", "))
        }
        Decision::Recover(recover) => printed_recover(recover),
        Decision::Checkpoint { batch } => format!("checkpoint of {batch}"),
        Decision::AbandonCheckpoint { batch } => format!("no checkpoint of {batch}"),
        Decision::Durable(manifest) => format!("durable up to {}", manifest.batch),
        Decision::Prepare(moves) => {
            let moves: Vec<String> = moves
                .iter()
                .map(|m| format!("{}/{} {} -> {}", m.stage.0, m.partition.0, m.from, m.to))
                .collect();
            format!("prepare {}", moves.join(", "))
        }
        Decision::AbandonMoves => "no moves".to_owned(),
    }
}

fn printed_recover(recover: &crate::message::Recover) -> String {
    let moved = recover.moved.iter().map(|rollback| {
        let from = match rollback.from {
            Restore::Manifest => "manifest".to_owned(),
            Restore::Copy => "copy".to_owned(),
            Restore::Position { offset, .. } => format!("offset {offset}"),
        };
        let (stage, partition) = (rollback.stage.0, rollback.partition.0);
        format!("{stage}/{partition} to {} after {} by {from}", rollback.to, rollback.after.0)
    });
    let errands = recover.errands.iter().map(|errand| {
        let range = &errand.taken.range;
        format!("{} reads {}/{}", errand.core, range.partition.0, errand.taken.batch.0)
    });
    let parts: Vec<String> = moved.chain(errands).collect();
    format!("recover in {}: {}", recover.epoch, parts.join(", "))
}
