//! The environment: a cluster in one thread. One driver, workers and cores; a network that keeps
//! the order of each link and of nothing else; time that passes when the dice say so.
//!
//! Data is symbolic: a record is its source partition and offset, a block a list of records. The
//! middle stage keeps every third record until the flush, as windows do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::audit::Audit;
use super::core;
use crate::driver::{Driver, DriverAction, DriverEvent, DriverOptions};
use crate::ids::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, Instant, PartitionId, StageId, Term,
    Watermark, WorkerId,
};
use crate::local::{
    LocalAction, LocalEvent, LocalOptions, LocalScheduler, Offer, Prescheduling, Run,
};
use crate::message::{BlockNotice, Order, Purpose, SourceRange, TakenRange, WorkerMessage};
use crate::placement::Placement;
use crate::plan::{Pattern, Plan};
use crate::worker::{Worker, WorkerAction, WorkerEvent};

/// Everything that a run depends on.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) plan: Arc<Plan>,
    pub(super) workers: u32,
    pub(super) cores: u16,
    pub(super) group_size: u64,
    pub(super) ahead: u64,
    pub(super) prescheduling: Prescheduling,
    /// How many records each source partition has.
    pub(super) lengths: Vec<u64>,
    /// The step at which the user stops the job.
    pub(super) stop_at: Option<u64>,
}

/// Source partition and offset.
pub(super) type Record = (PartitionId, u64);

/// A block: what it says of itself, and its records with the partitions that they are for.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) notice: BlockNotice,
    records: Vec<(PartitionId, Record)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Driver,
    Worker(WorkerId),
    Core(CoreId),
}

/// A message on its way: an event of the node that it goes to.
enum Mail {
    ToDriver(WorkerMessage),
    ToWorker(WorkerId, WorkerEvent),
    Order(CoreId, Order),
    Completed(CoreId, CoreId, BatchId),
    Block(CoreId, Block),
}

struct Core {
    scheduler: LocalScheduler,
    inputs: BTreeMap<(BatchId, StageId), Vec<Block>>,
    /// How far each source partition has been read.
    offsets: BTreeMap<PartitionId, u64>,
    /// What the stages keep until the flush.
    kept: BTreeMap<(StageId, PartitionId), Vec<Record>>,
}

/// The cluster; [`Cluster::run`] brings it to its end.
pub(super) struct Cluster {
    scenario: Scenario,
    dice: Dice,
    now: Instant,
    driver: Driver,
    workers: BTreeMap<WorkerId, Worker>,
    cores: BTreeMap<CoreId, Core>,
    links: BTreeMap<(Node, Node), VecDeque<Mail>>,
    audit: Audit,
}

const INTERVAL_NS: u64 = 10;
/// Ten times what the longest job needs.
const MAX_STEPS: u64 = 100_000;

impl Cluster {
    pub(super) fn new(scenario: &Scenario) -> Cluster {
        let local = LocalOptions {
            ahead: scenario.ahead,
            prescheduling: scenario.prescheduling,
            report_ranges_after_ns: 3 * INTERVAL_NS,
        };
        let options = DriverOptions {
            term: Term(1),
            workers: scenario.workers,
            group_size: scenario.group_size,
            groups_in_flight: 2,
            interval_ns: INTERVAL_NS,
            lead_ns: INTERVAL_NS,
            rebase_after_ns: 20 * INTERVAL_NS,
            prescheduling: scenario.prescheduling,
        };
        let worker = |id| Worker::new(WorkerId(id), Incarnation(1), scenario.cores, Term(1));
        let numbers = 0..scenario.workers;
        let ids = numbers.clone().flat_map(|id| (0..scenario.cores).map(move |c| core(id, c)));
        let core = |id| Core {
            scheduler: LocalScheduler::new(scenario.plan.clone(), id, local.clone()),
            inputs: BTreeMap::new(),
            offsets: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        Cluster {
            dice: Dice(scenario.seed),
            now: Instant(0),
            driver: Driver::new(scenario.plan.clone(), options),
            workers: numbers.map(|id| (WorkerId(id), worker(id))).collect(),
            cores: ids.map(|id| (id, core(id))).collect(),
            links: BTreeMap::new(),
            audit: Audit::new(scenario),
            scenario: scenario.clone(),
        }
    }

    /// Runs the job to its end and returns what was seen of it.
    pub(super) fn run(mut self) -> Audit {
        for worker in (0..self.scenario.workers).map(WorkerId) {
            let (incarnation, cores) = (Incarnation(1), self.scenario.cores);
            self.tell_driver(DriverEvent::WorkerReady { worker, incarnation, cores });
        }
        for step in 0..MAX_STEPS {
            if self.scenario.stop_at == Some(step) {
                self.tell_driver(DriverEvent::Stop);
            }
            if let Some(last_batch) = self.audit.finished_after {
                self.audit.check_end(last_batch, self.driver.lineage());
                return self.audit;
            }
            self.step();
        }
        let waiting = self.cores.values().filter_map(|core| core.scheduler.waiting());
        panic!("the job does not end: {:#?}", waiting.collect::<Vec<_>>());
    }

    /// Delivers a message, lets a core run a task, or lets time pass.
    fn step(&mut self) {
        self.links.retain(|_, mail| !mail.is_empty());
        let cores = self.cores.len();
        let pick = self.dice.below((self.links.len() + cores + 1) as u64) as usize;
        if pick == 0 {
            self.now = self.now.after(self.dice.below(2 * INTERVAL_NS));
        } else if pick <= cores {
            let id = *self.cores.keys().nth(pick - 1).expect("so many cores");
            self.run_one(id);
        } else {
            let link = self.links.values_mut().nth(pick - 1 - cores).expect("so many links");
            let mail = link.pop_front().expect("the link is not empty");
            self.deliver(mail);
        }
    }

    fn send(&mut self, from: Node, to: Node, mail: Mail) {
        self.links.entry((from, to)).or_default().push_back(mail);
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::ToDriver(message) => self.tell_driver(DriverEvent::Message(message)),
            Mail::ToWorker(id, event) => self.tell_worker(id, event),
            Mail::Order(id, order) => self.tell_core(id, LocalEvent::Order(order)),
            Mail::Completed(id, core, batch) => {
                self.tell_core(id, LocalEvent::PeerCompleted { core, batch });
            }
            Mail::Block(id, block) => {
                let stage = self.scenario.plan.edge(block.notice.edge).to;
                let core = self.core(id);
                assert_eq!(core.scheduler.offer(&block.notice), Offer::Keep, "{block:?}");
                core.inputs.entry((block.notice.batch, stage)).or_default().push(block);
            }
        }
    }

    fn core(&mut self, id: CoreId) -> &mut Core {
        self.cores.get_mut(&id).expect("a core of this cluster")
    }

    fn tell_driver(&mut self, event: DriverEvent) {
        let mut actions = Vec::new();
        self.driver.handle(self.now, event, &mut actions);
        for action in actions {
            self.audit.driver_did(&action);
            if let DriverAction::Send { to, message } = action {
                let mail = Mail::ToWorker(to, WorkerEvent::Driver(message));
                self.send(Node::Driver, Node::Worker(to), mail);
            }
        }
    }

    fn tell_worker(&mut self, id: WorkerId, event: WorkerEvent) {
        let mut actions = Vec::new();
        self.workers.get_mut(&id).expect("a known worker").handle(event, &mut actions);
        for action in actions {
            match action {
                WorkerAction::ToDriver(message) => {
                    self.send(Node::Worker(id), Node::Driver, Mail::ToDriver(message));
                }
                WorkerAction::ToCores(order) => {
                    for core in (0..self.scenario.cores).map(|number| core(id.0, number)) {
                        let mail = Mail::Order(core, order.clone());
                        self.send(Node::Worker(id), Node::Core(core), mail);
                    }
                }
            }
        }
    }

    fn tell_core(&mut self, id: CoreId, event: LocalEvent<'_>) {
        let mut actions = Vec::new();
        let now = self.now;
        self.core(id).scheduler.handle(now, event, &mut actions);
        for action in actions {
            match action {
                LocalAction::Report(report) => {
                    let event = WorkerEvent::Core { core: id.core, report };
                    let mail = Mail::ToWorker(id.worker, event);
                    self.send(Node::Core(id), Node::Worker(id.worker), mail);
                }
                LocalAction::Advertise { to, completed } => {
                    for &to in to.iter() {
                        let mail = Mail::Completed(to, id, completed);
                        self.send(Node::Core(id), Node::Core(to), mail);
                    }
                }
                LocalAction::Release { completed } => {
                    self.core(id).inputs.retain(|&(batch, _), _| batch > completed);
                }
            }
        }
    }

    fn run_one(&mut self, id: CoreId) {
        let now = self.now;
        if self.core(id).scheduler.deadline().is_some_and(|deadline| deadline <= now) {
            self.tell_core(id, LocalEvent::Tick);
        }
        let core = self.cores.get_mut(&id).expect("a core of this cluster");
        let Some(run) = core.scheduler.next(now) else { return };
        let placement = core.scheduler.placements().at(run.batch).expect("it is placed").clone();
        let inputs = core.inputs.get(&(run.batch, run.stage)).map_or(&[][..], Vec::as_slice);
        self.audit.run_starts(id, &run, inputs, now);
        for to in self.cores.keys().filter(|&&core| placement.runs_downstream(core)) {
            self.audit.check_credit(&run, self.cores[to].scheduler.completed());
        }
        let core = self.cores.get_mut(&id).expect("a core of this cluster");
        let (records, ranges) = core.execute(&run, &self.scenario, &mut self.dice);
        self.audit.run_ends(&run, &records, &ranges);
        self.tell_core(id, LocalEvent::RunDone { run: &run, ranges: &ranges, run_ns: 1 });
        let plan = self.scenario.plan.clone();
        for (edge, _) in plan.edges_out_of(run.stage) {
            for (to, block) in blocks_for(&plan, edge, &placement, id, &run, &records) {
                self.send(Node::Core(id), Node::Core(to), Mail::Block(to, block));
            }
        }
    }
}

impl Placement {
    fn runs_downstream(&self, core: CoreId) -> bool {
        self.cores_by_stage[1..].iter().any(|cores| cores.contains(&core))
    }
}

impl Core {
    /// The records that come out of a run, with the partition that let them out.
    fn execute(
        &mut self,
        run: &Run,
        scenario: &Scenario,
        dice: &mut Dice,
    ) -> (Vec<(PartitionId, Record)>, Vec<TakenRange>) {
        let (mut records, mut ranges) = (Vec::new(), Vec::new());
        let flushes = run.purpose == Purpose::Flush;
        let is_middle = run.stage.index() > 0 && run.stage.index() + 1 < scenario.plan.stages.len();
        for &partition in run.partitions.iter() {
            if run.stage == StageId(0) {
                let length = scenario.lengths[partition.index()];
                let offset = self.offsets.entry(partition).or_default();
                let limit = if flushes { 0 } else { dice.below(4) };
                let (from, to) = (*offset, length.min(*offset + limit));
                *offset = to;
                let range = SourceRange { stage: run.stage, partition, from, to };
                ranges.push(TakenRange { batch: run.batch, range, ended: to == length });
                records.extend((from..to).map(|offset| (partition, (partition, offset))));
            }
            let blocks = self.inputs.get(&(run.batch, run.stage)).into_iter().flatten();
            let arrived = blocks.flat_map(|block| block.records.iter().copied());
            let mine = arrived.filter(|&(target, _)| target == partition);
            let kept = self.kept.entry((run.stage, partition)).or_default();
            if flushes {
                records.extend(kept.drain(..).map(|record| (partition, record)));
            }
            for (_, record) in mine {
                match is_middle && !flushes && record.1 % 3 == 0 {
                    true => kept.push(record),
                    false => records.push((partition, record)),
                }
            }
        }
        (records, ranges)
    }
}

/// One block for each core downstream, whether there is a record for it or not.
fn blocks_for(
    plan: &Plan,
    edge_id: EdgeId,
    placement: &Placement,
    sender: CoreId,
    run: &Run,
    records: &[(PartitionId, Record)],
) -> Vec<(CoreId, Block)> {
    let edge = plan.edge(edge_id);
    let count = u64::from(plan.stage(edge.to).partition_count);
    let target = |&(partition, record): &(PartitionId, Record)| match edge.pattern {
        Pattern::AllToAll => PartitionId(((u64::from(record.0.0) * 7 + record.1) % count) as u32),
        Pattern::Forward => partition,
    };
    let block_for = |to: CoreId| {
        let mut downstream = placement.partitions_on(edge.to, to);
        downstream.retain(|&p| run.partitions.iter().any(|&up| Plan::connects(edge, up, p)));
        let mine = records.iter().filter(|record| downstream.contains(&target(record)));
        let records = mine.map(|record| (target(record), record.1)).collect();
        let notice = BlockNotice {
            epoch: Epoch(1),
            incarnation: Incarnation(1),
            attempt: Attempt(0),
            sender,
            batch: run.batch,
            edge: edge_id,
            upstream: run.partitions.clone(),
            downstream: downstream.into(),
            watermark: Watermark::NONE,
        };
        (to, Block { notice, records })
    };
    let blocks = placement.cores_of(edge.to).into_iter().map(block_for);
    blocks.filter(|(_, block)| !block.notice.downstream.is_empty()).collect()
}

/// SplitMix64: the only randomness, and all of it is the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
