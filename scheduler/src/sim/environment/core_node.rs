//! A core: its scheduler, the blocks and states that it holds, and what the scheduler has it do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::blocks::Block;
use super::network::{Body, Frame};
use super::run::Running;
use super::storage::{Request, Why};
use super::{Event, Simulation, name};
use crate::checkpoint::Snapshot;
use crate::ids::{BatchId, CoreId, Instant, Life, PartitionId, StageId, WorkerId};
use crate::local::{BlockName, LocalAction, LocalEvent, LocalScheduler, Offer};
use crate::message::{BlockNotice, Order, TakenRange};
use crate::plan::StageKind;
use crate::sim::data::{PartitionState, Piece};
use crate::sim::generator::Telling;
use crate::sim::trace::Kind;

/// A partition of a stage.
pub(super) type Place = (StageId, PartitionId);

/// What a core is told by its own process.
#[derive(Debug)]
pub(super) enum CoreMail {
    Order(Order),
    Frame {
        from: Life,
        sender: CoreId,
        frame: Box<Frame>,
    },
    /// The pieces of a partition, from storage.
    Loaded {
        place: Place,
        batch: BatchId,
        pieces: Vec<Piece>,
        why: Why,
    },
    /// A state that needs nothing from storage.
    Ready {
        place: Place,
        serial: u64,
    },
    Preloaded {
        place: Place,
    },
    Written {
        snapshot: Snapshot,
        fails: bool,
    },
    Reconnected(WorkerId),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) scheduler: LocalScheduler,
    /// By the reader's batch and stage.
    pub(super) inputs: BTreeMap<(BatchId, StageId), Vec<Block>>,
    pub(super) states: BTreeMap<Place, PartitionState>,
    /// States that were shipped here, until a task needs them.
    arrived: BTreeMap<Place, PartitionState>,
    /// States of partitions that moved away.
    pub(super) copies: BTreeMap<Place, PartitionState>,
    /// After which batch each partition was last shipped.
    pub(super) shipped: BTreeMap<Place, BatchId>,
    preloaded: BTreeMap<Place, PartitionState>,
    /// Restores in the making, and how often the state of a partition was dropped or replaced.
    pub(super) loading: BTreeMap<Place, (u64, BatchId)>,
    pub(super) serials: BTreeMap<Place, u64>,
    pub(super) retained: BTreeMap<BlockName, Block>,
    pub(super) running: Option<Running>,
    pub(super) runs: u64,
    /// The last batch that sinks which cannot take anything back may write.
    pub(super) recorded: BatchId,
    mailbox: VecDeque<CoreMail>,
    wakes_at: Option<u64>,
}

impl Core {
    pub(super) fn new(scheduler: LocalScheduler) -> Core {
        Core {
            scheduler,
            inputs: BTreeMap::new(),
            states: BTreeMap::new(),
            arrived: BTreeMap::new(),
            copies: BTreeMap::new(),
            shipped: BTreeMap::new(),
            preloaded: BTreeMap::new(),
            loading: BTreeMap::new(),
            serials: BTreeMap::new(),
            retained: BTreeMap::new(),
            running: None,
            runs: 0,
            recorded: BatchId(0),
            mailbox: VecDeque::new(),
            wakes_at: None,
        }
    }

    pub(super) fn serial(&self, place: Place) -> u64 {
        self.serials.get(&place).copied().unwrap_or_default()
    }

    /// Whatever is under way for this partition does not count any more.
    pub(super) fn replace(&mut self, place: Place) -> u64 {
        self.states.remove(&place);
        self.arrived.remove(&place);
        self.loading.remove(&place);
        let serial = self.serials.entry(place).or_default();
        *serial += 1;
        *serial
    }

    /// The state of a partition after `batch`, also if it was shipped and nobody asked for it yet.
    pub(super) fn state_after(
        &mut self,
        kind: StageKind,
        place: Place,
        batch: BatchId,
    ) -> Option<&mut PartitionState> {
        if kind == StageKind::Stateless {
            return Some(self.states.entry(place).or_default());
        }
        let is_here = self.states.get(&place).is_some_and(|state| state.batch == batch);
        if !is_here {
            let arrived = self.arrived.get(&place).is_some_and(|state| state.batch == batch);
            let state = match self.arrived.remove(&place).filter(|_| arrived) {
                Some(state) => state,
                None if batch == BatchId(0) => PartitionState::default(),
                None => return None,
            };
            self.states.insert(place, state);
        }
        self.states.get_mut(&place)
    }

    fn keep(&mut self, block: Block, reader: BatchId, stage: StageId) {
        self.inputs.entry((reader, stage)).or_default().push(block);
    }
}

impl Simulation {
    /// The core, if that life of its worker is the present one.
    pub(super) fn core(&mut self, life: Life, core: u16) -> Option<&mut Core> {
        let process = self.processes.get_mut(&life.worker)?;
        (process.life == life && process.is_alive()).then(|| &mut process.cores[usize::from(core)])
    }

    /// Mail waits while a task runs, unless the core looks at it between two chunks of the task.
    pub(super) fn core_gets(&mut self, life: Life, core: u16, mail: CoreMail) {
        let waits = self.scenario.tells_early == Telling::AtItsEnd;
        let Some(it) = self.core(life, core) else { return };
        if it.running.is_some() && waits {
            it.mailbox.push_back(mail);
            return;
        }
        self.core_takes(life, core, mail);
        self.pump(life, core);
    }

    pub(super) fn core_wakes(&mut self, life: Life, core: u16, at: u64) {
        let Some(it) = self.core(life, core).filter(|it| it.wakes_at == Some(at)) else { return };
        it.wakes_at = None;
        self.pump(life, core);
    }

    /// Takes what waits, lets time pass for the scheduler, and runs what is ready.
    pub(super) fn pump(&mut self, life: Life, core: u16) {
        loop {
            let Some(it) = self.core(life, core) else { return };
            if it.running.is_some() {
                return;
            }
            let Some(mail) = it.mailbox.pop_front() else { break };
            self.core_takes(life, core, mail);
        }
        let now = self.clock(life);
        let Some(it) = self.core(life, core) else { return };
        if it.scheduler.deadline().is_some_and(|deadline| deadline <= now) {
            self.tell_core(life, core, LocalEvent::Tick);
        }
        let Some(it) = self.core(life, core) else { return };
        if let Some(run) = it.scheduler.next(now) {
            self.run_begins(life, core, run);
            return;
        }
        let Some(deadline) = it.scheduler.deadline().filter(|deadline| deadline.0 < u64::MAX)
        else {
            return;
        };
        let at = self.processes[&life.worker].when(deadline).max(self.now + 1);
        let Some(it) = self.core(life, core) else { return };
        if it.wakes_at.is_none_or(|wakes| at < wakes) {
            it.wakes_at = Some(at);
            self.push(at, Event::CoreWake { life, core, at });
        }
    }

    pub(super) fn clock(&self, life: Life) -> Instant {
        self.processes[&life.worker].clock(self.now)
    }

    fn core_takes(&mut self, life: Life, core: u16, mail: CoreMail) {
        match mail {
            CoreMail::Order(order) => self.tell_core(life, core, LocalEvent::Order(order)),
            CoreMail::Frame { from, sender, frame } => {
                self.frame_arrives((life, core), from, sender, *frame);
            }
            CoreMail::Loaded { place, batch, pieces, why: Why::Preload } => {
                let state = match pieces.is_empty() {
                    true => Ok(PartitionState::default()),
                    false => PartitionState::thaw(&pieces),
                };
                let who = format!("{} loading ahead {place:?} of {batch}", name(life));
                let Some(state) = self.auditor.check(state, &who) else { return };
                let Some(it) = self.core(life, core) else { return };
                it.preloaded.insert(place, state);
                let (stage, partition) = place;
                self.tell_core(life, core, LocalEvent::Preloaded { stage, partition });
            }
            CoreMail::Loaded { place, batch, pieces, why: Why::Restore { serial } } => {
                let Some(it) = self.core(life, core) else { return };
                if it.loading.get(&place) == Some(&(serial, batch)) {
                    self.restore_from((life, core), place, batch, &pieces);
                }
            }
            CoreMail::Ready { place, serial } => {
                let Some(it) = self.core(life, core) else { return };
                if it.loading.get(&place).is_some_and(|loading| loading.0 == serial) {
                    self.restored((life, core), place);
                }
            }
            CoreMail::Preloaded { place: (stage, partition) } => {
                self.tell_core(life, core, LocalEvent::Preloaded { stage, partition });
            }
            CoreMail::Written { snapshot, fails } => {
                let Snapshot { stage, partition, batch, since, .. } = snapshot;
                let event = match fails {
                    true => LocalEvent::SnapshotFailed { stage, partition, batch },
                    false => LocalEvent::SnapshotDurable { stage, partition, batch, since },
                };
                self.tell_core(life, core, event);
            }
            CoreMail::Reconnected(worker) => {
                self.tell_core(life, core, LocalEvent::Reconnected { worker });
            }
        }
    }

    fn frame_arrives(
        &mut self,
        (life, core): (Life, u16),
        from: Life,
        sender: CoreId,
        frame: Frame,
    ) {
        if !frame.ranges.is_empty() {
            self.tell_core(life, core, LocalEvent::Learned { from, ranges: &frame.ranges });
        }
        match frame.body {
            Body::Block(block) => self.offer(life, core, block),
            Body::Completed(batch) => {
                self.trace.note(self.now, Kind::Local, [life.incarnation.0, batch.0, 21], || {
                    format!("{}.{core} hears that {sender} is done through {batch}", name(life))
                });
                self.tell_core(life, core, LocalEvent::PeerCompleted { core: sender, batch });
            }
            Body::State { stage, partition, piece } => {
                self.phases.shipped(stage, partition);
                let batch = piece.batch;
                let kind = self.job.plan.stage(stage).kind;
                let place = (stage, partition);
                self.trace.note(self.now, Kind::Local, [life.incarnation.0, batch.0, 20], || {
                    format!("{}.{core} {stage} {partition} after {batch} arrives", name(life))
                });
                let Some(it) = self.core(life, core) else { return };
                let base = match piece.since() {
                    None => Some(PartitionState::default()),
                    Some(since) => {
                        let base = it.preloaded.get(&place).filter(|base| base.batch == since);
                        base.cloned()
                    }
                };
                let is_wanted = it.scheduler.accepts_state(from, stage, partition, batch);
                if let Some(base) = base.filter(|_| is_wanted) {
                    let state = base.with(&piece);
                    if kind == StageKind::Stateless {
                        let mine = it.states.entry(place).or_default();
                        mine.staged.extend(state.staged);
                        mine.feedback.extend(state.feedback);
                    } else {
                        it.arrived.insert(place, state);
                    }
                }
                let since = piece.since();
                let event = LocalEvent::StateArrived { from, stage, partition, batch, since };
                self.tell_core(life, core, event);
            }
        }
    }

    /// A block is here; the scheduler says whether somebody needs it.
    pub(super) fn offer(&mut self, life: Life, core: u16, block: Block) {
        let edge = self.job.plan.edge(block.notice.edge);
        let (reader, stage) = (BatchId(block.notice.batch.0 + edge.batch_delta), edge.to);
        let Some(it) = self.core(life, core) else { return };
        let offer = it.scheduler.offer(&block.notice);
        let notice = block.notice.clone();
        if offer == Offer::Keep {
            it.keep(block, reader, stage);
        }
        let numbers = [life.incarnation.0, notice.batch.0, u64::from(offer == Offer::Keep)];
        self.trace.note(self.now, Kind::Block, numbers, || {
            let verb = if offer == Offer::Keep { "keep" } else { "drop" };
            format!("{}.{core} {verb} {}", name(life), show(&notice))
        });
    }

    pub(super) fn tell_core(&mut self, life: Life, core: u16, event: LocalEvent<'_>) {
        let now = self.clock(life);
        let Some(it) = self.core(life, core) else { return };
        let mut actions = Vec::new();
        it.scheduler.handle(now, event, &mut actions);
        for action in actions {
            self.perform(life, core, action);
        }
    }

    fn perform(&mut self, life: Life, core: u16, action: LocalAction) {
        let at = (life, core);
        self.note_action(at, &action);
        match action {
            LocalAction::Report(report) => self.report(life, core, report),
            LocalAction::Advertise { to, completed } => {
                let sender = CoreId { worker: life.worker, core };
                for &to in to.iter() {
                    let ranges: Arc<[TakenRange]> = Arc::new([]);
                    let frame = Frame { ranges, body: Body::Completed(completed) };
                    self.send_frame(life, sender, to, frame);
                }
            }
            LocalAction::Release { completed } => {
                let Some(it) = self.core(life, core) else { return };
                it.inputs.retain(|&(batch, _), _| batch > completed);
            }
            LocalAction::Resend { block, to, notice } => self.resend(at, block, to, notice),
            LocalAction::Reuse { block, notice } => {
                let edge = self.job.plan.edge(notice.edge);
                let (reader, stage) = (BatchId(notice.batch.0 + edge.batch_delta), edge.to);
                if let Some(block) = self.retained(at, block, notice) {
                    let Some(it) = self.core(life, core) else { return };
                    it.keep(block, reader, stage);
                }
            }
            LocalAction::Forget { through } => self.forget(at, through),
            LocalAction::Restore { stage, partition, after, from } => {
                self.restore(at, (stage, partition), after, from);
            }
            LocalAction::DropPartition { stage, partition } => {
                let Some(it) = self.core(life, core) else { return };
                it.replace((stage, partition));
            }
            LocalAction::Snapshot { stage, partition, batch, chain } => {
                self.snapshot(at, (stage, partition), batch, &chain);
            }
            LocalAction::Preload { stage, partition, manifest } => {
                let place = (stage, partition);
                match manifest {
                    Some(manifest) => {
                        let why = Why::Preload;
                        self.ask_storage(Request::Load { life, core, manifest, place, why });
                    }
                    None => {
                        let Some(it) = self.core(life, core) else { return };
                        it.preloaded.insert(place, PartitionState::default());
                        let mail = Box::new(CoreMail::Preloaded { place });
                        self.push(self.now + 1, Event::Core { life, core, mail });
                    }
                }
            }
            LocalAction::Ship { stage, partition, batch, to, since } => {
                self.ship(at, (stage, partition), batch, to, since);
            }
            LocalAction::DropCopy { stage, partition } => {
                let Some(it) = self.core(life, core) else { return };
                it.copies.remove(&(stage, partition));
            }
            LocalAction::DropEarly { life: gone, after } => {
                let Some(it) = self.core(life, core) else { return };
                for ((batch, _), blocks) in &mut it.inputs {
                    blocks.retain(|block| *batch <= after || block.notice.life() != gone);
                }
            }
            LocalAction::Recorded { through } => self.write_recorded(at, through),
        }
    }

    fn note_action(&mut self, (life, core): (Life, u16), action: &LocalAction) {
        let number = match action {
            LocalAction::Report(_) | LocalAction::Advertise { .. } => return,
            LocalAction::Release { .. } => 12,
            LocalAction::Resend { .. } => 1,
            LocalAction::Reuse { .. } => 2,
            LocalAction::Forget { .. } => 3,
            LocalAction::Restore { .. } => 4,
            LocalAction::DropPartition { .. } => 5,
            LocalAction::Snapshot { .. } => 6,
            LocalAction::Preload { .. } => 7,
            LocalAction::Ship { .. } => 8,
            LocalAction::DropCopy { .. } => 9,
            LocalAction::DropEarly { .. } => 10,
            LocalAction::Recorded { .. } => 11,
        };
        let who = life.incarnation.0 << 8 | u64::from(core);
        self.trace.note(self.now, Kind::Local, [who, number, 0], || match action {
            LocalAction::Resend { to, notice, .. } => {
                format!("{}.{core} sends again to {to}: {}", name(life), show(notice))
            }
            LocalAction::Reuse { notice, .. } => {
                format!("{}.{core} has itself: {}", name(life), show(notice))
            }
            LocalAction::Preload { stage, partition, .. } => {
                format!("{}.{core} loads ahead {stage} {partition}", name(life))
            }
            other => format!("{}.{core} {other:?}", name(life)),
        });
    }

    fn retained(
        &mut self,
        (life, core): (Life, u16),
        block: BlockName,
        notice: BlockNotice,
    ) -> Option<Block> {
        let it = self.core(life, core)?;
        let Some(kept) = it.retained.get(&block) else {
            self.auditor.fail(format!("{}.{core} has not kept {block:?}", name(life)));
            return None;
        };
        Some(Block { notice, load: kept.load.clone() })
    }

    fn resend(
        &mut self,
        (life, core): (Life, u16),
        block: BlockName,
        to: CoreId,
        notice: BlockNotice,
    ) {
        let Some(block) = self.retained((life, core), block, notice) else { return };
        let sender = CoreId { worker: life.worker, core };
        if to == sender {
            self.offer(life, core, block);
            return;
        }
        let Some(it) = self.core(life, core) else { return };
        let ranges = it.scheduler.ranges_to_relay().into();
        self.send_frame(life, sender, to, Frame { ranges, body: Body::Block(block) });
    }
}

/// A notice, short enough for a line.
pub(super) fn show(notice: &BlockNotice) -> String {
    let list = |partitions: &[PartitionId]| {
        partitions.iter().map(|p| p.0.to_string()).collect::<Vec<_>>().join(",")
    };
    format!(
        "b{} e{} up {} down {} a{} from {}.{} {}",
        notice.batch.0,
        notice.edge.0,
        list(&notice.upstream),
        list(&notice.downstream),
        notice.attempt.0,
        name(notice.life()),
        notice.sender.core,
        notice.epoch,
    )
}
