//! A seed becomes a scenario: a job, a cluster, and what goes wrong when.

use std::sync::Arc;

use super::coverage::{Fault, Phase};
use super::dice::Dice;
use crate::balance::{Speculation, StragglerOptions};
use crate::driver::{Adaptation, Balance, Durability, GroupSize};
use crate::ids::StageId;
use crate::plan::{Edge, Pacing, Pattern, Plan, Prescheduling, Stage, StageKind};
use crate::tuner::TunerOptions;

/// Simulated time is counted in steps so small that delays can be told apart; so long is one for the
/// state machines.
pub(super) const STEP_NS: u64 = 10_000;
/// From the start of one batch to that of the next, in steps; so are all times of the simulator.
pub(super) const INTERVAL: u64 = 1_000;
/// A worker that is silent for so long is given up by the detector.
pub(super) const SILENCE: u64 = 6 * INTERVAL;
/// A driver gives up a worker that does not answer for so long.
pub(super) const ANSWER: u64 = 12 * INTERVAL;
/// Where simulated time begins: clocks may be off by less than that.
pub(super) const ZERO: u64 = 1_000 * INTERVAL;

/// What a sink promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contract {
    /// Writes at once; a later attempt replaces an earlier one.
    Upsert,
    /// Stages its output with the snapshot; it is visible with the manifest.
    Transactional,
    /// Writes when the ranges are recorded, and takes nothing back.
    Append,
}

/// When a fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// So long after the beginning.
    At(u64),
    /// So long after the protocol enters a phase for the n-th time.
    In { phase: Phase, nth: u64, delay: u64 },
}

/// A fault to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) trigger: Trigger,
    pub(super) fault: Fault,
    /// How long it lasts, where it lasts.
    pub(super) length: u64,
}

/// What a core may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) high_mark_bytes: u64,
    pub(super) limit_bytes: u64,
}

/// Everything that a run depends on, beside the dice.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) plan: Arc<Plan>,
    /// Cores of each worker that is there from the beginning.
    pub(super) cores: Vec<u16>,
    pub(super) prescheduling: Prescheduling,
    pub(super) group_size: GroupSize,
    pub(super) groups_in_flight: usize,
    pub(super) ahead: u64,
    pub(super) durability: Durability,
    pub(super) balance: Balance,
    pub(super) adaptation: Adaptation,
    pub(super) memory: Memory,
    pub(super) contract: Contract,
    /// Records of each source partition, in the order of the plan.
    pub(super) lengths: Vec<u64>,
    /// Records that arrive in one interval.
    pub(super) rate: u64,
    /// Source runs tell which ranges they have chosen before they end.
    pub(super) tells_early: Telling,
    /// For how long taken ranges may wait to be reported together.
    pub(super) report_after: u64,
    pub(super) stop_after: Option<u64>,
    pub(super) faults: Vec<Planned>,
    /// When all faults end.
    pub(super) heal_after: u64,
}

/// When a source run tells its ranges, and whether a core takes events during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    AtItsEnd,
    AtOnce,
}

impl Scenario {
    pub(super) fn new(seed: u64) -> Scenario {
        let dice = &mut Dice::new(seed);
        let has_journal = !dice.chance(6);
        let is_funnel = seed % 12 == 7 && has_journal;
        let plan = if is_funnel { funnel(dice) } else { plan(dice, has_journal) };
        let workers = dice.pick(&[1, 2, 2, 3, 3, 3, 4, 4, 5]);
        let workers = if is_funnel { workers.max(3) } else { workers };
        let cores = (0..workers).map(|_| dice.pick(&[1, 1, 1, 2, 2, 3])).collect();
        let rate = dice.between(1, 4);
        let batches = dice.between(15, 45);
        let is_endless = dice.chance(15);
        let count = plan.source_partitions().count();
        let lengths = (0..count).map(|_| match is_endless {
            true => 1 << 30,
            false => dice.between(0, rate * batches),
        });
        let lengths = lengths.collect();
        let stops = is_endless || dice.chance(15);
        let stop_after = stops.then(|| dice.between(5, 50) * INTERVAL);
        let contract = if has_journal {
            dice.pick(&[Contract::Upsert, Contract::Transactional, Contract::Append])
        } else {
            Contract::Upsert
        };
        let mut faults = if has_journal { faults(dice, workers) } else { Vec::new() };
        if is_funnel {
            let trigger = Trigger::At(dice.between(4, 30) * INTERVAL);
            let length = dice.between(1, 10) * INTERVAL;
            faults.push(Planned { trigger, fault: Fault::AllButOne, length });
        }
        let ahead = dice.between(1, 12);
        Scenario {
            seed,
            plan: Arc::new(plan),
            cores,
            prescheduling: if dice.chance(85) { Prescheduling::On } else { Prescheduling::Off },
            group_size: group_size(dice),
            groups_in_flight: dice.pick(&[1, 2, 2, 2, 3]),
            ahead,
            durability: durability(dice, has_journal),
            balance: if dice.chance(40) { balance(seed) } else { Balance::Off },
            adaptation: if dice.chance(40) { Adaptation::On } else { Adaptation::Off },
            memory: memory(dice),
            contract,
            lengths,
            rate,
            tells_early: if dice.chance(40) { Telling::AtOnce } else { Telling::AtItsEnd },
            report_after: dice.pick(&[1, 2, 4, 6]) * INTERVAL,
            stop_after,
            faults,
            heal_after: dice.between(60, 100) * INTERVAL,
        }
    }

    /// One line about the job and the cluster.
    pub(super) fn describe(&self) -> String {
        let stages = self.plan.stages.iter().map(|stage| {
            let kind = match stage.kind {
                StageKind::Source(Pacing::Clock) => "source",
                StageKind::Source(Pacing::Unpaced) => "unpaced source",
                StageKind::Stateful => "stateful",
                StageKind::Stateless => "stateless",
            };
            format!("{kind} x{}", stage.partition_count)
        });
        let stages: Vec<String> = stages.collect();
        let edges = self.plan.edges.iter().map(|edge| {
            let back = if edge.batch_delta == 1 { " (feedback)" } else { "" };
            format!("{}->{} {:?}{back}", edge.from.0, edge.to.0, edge.pattern)
        });
        let edges: Vec<String> = edges.collect();
        format!(
            "seed {}: {} | {} | cores of the workers {:?}, groups {:?} x{}, ahead {}, \
             pre-scheduling {:?}, {:?}, {:?}, balance {:?}, rate {}, stop {:?}, faults {:?}",
            self.seed,
            stages.join(", "),
            edges.join(", "),
            self.cores,
            self.group_size,
            self.groups_in_flight,
            self.ahead,
            self.prescheduling,
            self.durability,
            self.contract,
            self.balance,
            self.rate,
            self.stop_after.map(|after| after / INTERVAL),
            self.faults.iter().map(|planned| planned.fault).collect::<Vec<_>>(),
        )
    }
}

fn group_size(dice: &mut Dice) -> GroupSize {
    if dice.chance(80) {
        return GroupSize::Fixed(dice.pick(&[1, 2, 3, 4, 5, 6, 8, 10, 20]));
    }
    GroupSize::Tuned(TunerOptions { maximum: 20, ..TunerOptions::paper() })
}

/// By the seed alone, so that kept seeds go on to mean what they did.
fn balance(seed: u64) -> Balance {
    let pick = |shift: u32, choices: [u64; 4]| choices[(seed >> shift & 3) as usize];
    Balance::On(StragglerOptions {
        period_ns: pick(0, [0, 0, 1, 4]) * INTERVAL * STEP_NS,
        periods: pick(2, [1, 2, 3, 3]) as u32,
        busy_permille: pick(4, [0, 0, 100, 600]) as u32,
        rest_periods: pick(6, [0, 0, 2, 20]),
        speculation: Speculation::On,
    })
}

fn durability(dice: &mut Dice, has_journal: bool) -> Durability {
    if !has_journal {
        return Durability::None;
    }
    Durability::Journal {
        checkpoint_every_ns: dice.between(3, 15) * INTERVAL * STEP_NS,
        // Ranges are part of a checkpoint, and may be reported that late.
        abandon_after_ns: dice.between(12, 24) * INTERVAL * STEP_NS,
    }
}

fn memory(dice: &mut Dice) -> Memory {
    let high_mark_bytes = dice.between(500, 20_000);
    Memory { high_mark_bytes, limit_bytes: high_mark_bytes * 2 }
}

fn plan(dice: &mut Dice, has_journal: bool) -> Plan {
    let stage_count = dice.pick(if has_journal { &[2, 2, 3, 3, 3, 4] } else { &[1, 1, 2, 3, 4] });
    let sources = if stage_count >= 3 && dice.chance(20) { 2 } else { 1 };
    let mut stages: Vec<Stage> = Vec::new();
    let mut edges: Vec<Edge> = Vec::new();
    for index in 0..stage_count {
        let is_source = index < sources;
        let (pattern, count) = match stages.last() {
            Some(last) if !is_source && sources == 1 || index > sources => {
                shuffle(dice, last.partition_count)
            }
            Some(_) | None => (Pattern::AllToAll, dice.between(1, 5) as u32),
        };
        let kind = match is_source {
            true if dice.chance(70) => StageKind::Source(Pacing::Clock),
            true => StageKind::Source(Pacing::Unpaced),
            false if dice.chance(65) => StageKind::Stateful,
            false => StageKind::Stateless,
        };
        stages.push(Stage { name: format!("stage-{index}"), kind, partition_count: count });
        let from = if index == sources { 0..index } else { index.max(1) - 1..index };
        let from = from.filter(|_| !is_source);
        let edge = |from: usize| Edge {
            from: StageId(from as u16),
            to: StageId(index as u16),
            pattern,
            batch_delta: 0,
        };
        edges.extend(from.map(edge));
    }
    if stage_count > sources && dice.chance(30) {
        edges.push(feedback(dice, &stages, sources));
    }
    Plan { name: "simulated".to_owned(), stages, edges, fingerprint: 0 }
}

/// All goes through one partition and from there to many: some workers hear of ranges only at second
/// hand.
fn funnel(dice: &mut Dice) -> Plan {
    let wide = dice.between(2, 3) as u32;
    let counts = [wide, 1, dice.between(3, 5) as u32];
    let kinds = [
        StageKind::Source(if dice.chance(70) { Pacing::Clock } else { Pacing::Unpaced }),
        if dice.chance(50) { StageKind::Stateful } else { StageKind::Stateless },
        StageKind::Stateful,
    ];
    let stage = |(index, (&partition_count, &kind))| Stage {
        name: format!("stage-{index}"),
        kind,
        partition_count,
    };
    let edge =
        |to: u16, pattern| Edge { from: StageId(to - 1), to: StageId(to), pattern, batch_delta: 0 };
    Plan {
        name: "funnel".to_owned(),
        stages: counts.iter().zip(&kinds).enumerate().map(stage).collect(),
        edges: vec![edge(1, Pattern::Tree { fan_in: wide }), edge(2, Pattern::AllToAll)],
        fingerprint: 0,
    }
}

/// How a stage reads from one with `count` partitions, and how many it has itself.
fn shuffle(dice: &mut Dice, count: u32) -> (Pattern, u32) {
    match dice.below(10) {
        0..=1 => (Pattern::Forward, count),
        2..=3 => {
            let fan_in = dice.between(2, 3) as u32;
            (Pattern::Tree { fan_in }, count.div_ceil(fan_in))
        }
        4.. => (Pattern::AllToAll, dice.between(1, 5) as u32),
    }
}

fn feedback(dice: &mut Dice, stages: &[Stage], sources: usize) -> Edge {
    let from = dice.between(sources as u64, stages.len() as u64 - 1) as usize;
    let to = dice.between(sources as u64, from as u64) as usize;
    let fits = stages[from].partition_count == stages[to].partition_count;
    let pattern = if fits && dice.chance(50) { Pattern::Forward } else { Pattern::AllToAll };
    Edge { from: StageId(from as u16), to: StageId(to as u16), pattern, batch_delta: 1 }
}

fn faults(dice: &mut Dice, workers: usize) -> Vec<Planned> {
    let mut faults = Vec::new();
    for _ in 0..dice.pick(&[0, 1, 1, 1, 2, 2, 3, 4]) {
        // Some find more than others.
        let mut fault = match dice.chance(15) {
            true => dice.pick(&[Fault::TwoWorkers, Fault::AllButOne, Fault::DriverPause]),
            false => dice.pick(&Fault::ALL),
        };
        if fault == Fault::Drain && workers == 1 {
            fault = Fault::Join;
        }
        let length = dice.between(1, 25) * INTERVAL;
        if dice.chance(30) {
            let trigger = Trigger::At(dice.between(0, 40 * INTERVAL));
            faults.push(Planned { trigger, fault, length });
            continue;
        }
        let phase = dice.pick(&Phase::ALL);
        let delay = if dice.chance(50) { 0 } else { dice.below(INTERVAL) };
        let cause = cause(dice, phase, workers);
        let comes_once = cause.is_some() || phase == Phase::Flushing;
        let nth = if comes_once { 1 } else { dice.pick(&[1, 1, 2, 3]) };
        faults.push(Planned { trigger: Trigger::In { phase, nth, delay }, fault, length });
        faults.extend(cause.map(|fault| {
            let trigger = Trigger::At(dice.between(0, 30 * INTERVAL));
            Planned { trigger, fault, length: dice.between(1, 25) * INTERVAL }
        }));
    }
    faults
}

/// What brings a phase about that does not come by itself.
fn cause(dice: &mut Dice, phase: Phase, workers: usize) -> Option<Fault> {
    match phase {
        Phase::InGroup | Phase::Collecting | Phase::WritingManifest | Phase::Flushing => None,
        Phase::PromiseOpen
        | Phase::CommittedNotScheduled
        | Phase::PreparingMoves
        | Phase::Shipping => {
            Some(if workers > 1 && dice.chance(50) { Fault::Drain } else { Fault::Join })
        }
        Phase::Fencing | Phase::Recovering => Some(dice.pick(&[
            Fault::WorkerCrash,
            Fault::WorkerRestart,
            Fault::PauseAndWake,
            Fault::WrongSuspicion,
        ])),
        Phase::Takeover => Some(dice.pick(&[Fault::DriverCrash, Fault::DriverPause])),
    }
}
