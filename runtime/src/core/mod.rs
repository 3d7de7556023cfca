//! The core loop: one pinned thread's work as a plain `step`. It turns mail and completions into
//! events, lets the local scheduler decide, performs what it decided, and runs one ready task to
//! completion. It decides nothing itself.

mod boundary;
mod clock;
mod dispatch;
mod ending;
pub mod exchange;
mod inputs;
mod keeping;
mod laps;
mod links;
mod memory;
mod recovering;
mod spill;
mod states;
mod status;
mod task_clock;
mod tasks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};
use drizzle_scheduler::local::{
    CoreReport, LocalAction, LocalEvent, LocalOptions, LocalScheduler, Offer, Run,
};
use drizzle_scheduler::message::{Decision, GroupStatistics, Order, TakenRange};
use drizzle_scheduler::{CoreId, Epoch, Incarnation, Instant, Life, WorkerId};
use drizzle_shuffle::{Block, Readers};

use crate::clock::monotonic_now;
use crate::dataflow::Job;
use crate::dataflow::stage::{Stage, StageContext};
use crate::host::{CoreLoop, Meter, Progress, Usage};
use crate::io::{Completion, Inbox, Io, Waker};
use crate::storage::Desk;
use crate::transport::{CoreMail, MeshPlace, Parcel};
use crate::wire::{CoreCosts, Regained, TaskPanic};

pub use boundary::abort_on_panic_outside_tasks;
pub use clock::{ClockOffset, CoreClock};
use dispatch::Outgoing;
use ending::Ending;
use inputs::Inputs;
use keeping::Keeping;
use laps::{Doing, Laps};
use links::{Arrival, Links};
pub use links::{LinkPlan, Meeting};
use memory::Memory;
pub use memory::MemoryOptions;
use recovering::Recovering;
pub(crate) use spill::TIMES_MEMORY as RETAINED_TIMES_MEMORY;
pub use status::{CoreStatus, Paused, Running};
use task_clock::TaskClock;

/// What a core is told by its worker's control loop.
#[derive(Debug)]
pub enum CoreCommand {
    /// An order of the driver.
    Order(Order),
    /// A peer is connected now.
    Link(Box<LinkPlan>),
    /// Say what the oldest unfinished task waits for.
    Explain,
    /// Complete what was written, report and end.
    Finish,
    /// End.
    Abort,
}

/// What a core tells its worker's control loop.
#[derive(Debug)]
pub enum CoreOutput {
    /// A report of its scheduler.
    Report(CoreReport),
    /// Answer to `Explain`.
    Waiting(String),
    /// Something that a person should know, in one line.
    Notice(String),
    /// A peer's data connection is gone.
    PeerLost {
        /// The peer.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How that was noticed.
        reason: String,
    },
    /// How far it is with lost partitions that it was given.
    Regained {
        /// By which recovery.
        epoch: Epoch,
        /// What is there again.
        what: Regained,
    },
    /// The job cannot go on.
    Failed {
        /// One sentence.
        reason: String,
    },
    /// A task panicked, and the core does nothing more.
    Panicked(TaskPanic),
    /// Answer to `Finish`.
    Finished {
        /// What its operators counted, by name.
        counters: BTreeMap<String, u64>,
        /// What the thread has used since the job began, as far as nobody else told it.
        usage: Usage,
        /// CPU time of task bodies, about, in nanoseconds.
        task_cpu_ns: u64,
        /// What it took beside that, but for sleep and results.
        costs: CoreCosts,
    },
}

/// The way from the cores to their control loop.
#[derive(Clone, Debug)]
pub struct ControlOutbox {
    /// The queue; the number says which core speaks.
    pub queue: Sender<(u16, CoreOutput)>,
    /// Wakes the control loop.
    pub waker: Waker,
}

/// How a core treats memory and credit.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// For the local scheduler.
    pub local: LocalOptions,
    /// What it may take of its worker's memory.
    pub memory: MemoryOptions,
}

/// Everything that a core is built from, on its own thread.
pub struct CoreParts {
    /// Which core it is.
    pub core: CoreId,
    /// The life of its worker.
    pub incarnation: Incarnation,
    /// How many cores the worker has.
    pub cores: u16,
    /// The job.
    pub job: Arc<Job>,
    /// Its driver of IO.
    pub io: Box<dyn Io>,
    /// What its thread uses.
    pub meter: Meter,
    /// Its mailboxes.
    pub place: MeshPlace,
    /// Connections that it owns.
    pub links: Vec<LinkPlan>,
    /// From the control loop.
    pub commands: Inbox<CoreCommand>,
    /// To the control loop.
    pub control: ControlOutbox,
    /// What the control loop sees of it.
    pub status: CoreStatus,
    /// The driver's time.
    pub clock: CoreClock,
    /// Memory and credit.
    pub options: CoreOptions,
    /// Who reads the blocks that it writes.
    pub readers: Readers,
    /// Where snapshots are written, if anything outlives the process.
    pub storage: Option<Desk>,
}

/// One core at work.
pub struct Core {
    core: CoreId,
    cores: u16,
    job: Arc<Job>,
    scheduler: LocalScheduler,
    /// By number; those that this core never ran are never opened.
    stages: Vec<Option<Box<dyn Stage>>>,
    /// What each stage keeps between batches.
    state_bytes: Vec<usize>,
    context: StageContext,
    memory: Memory,
    inputs: Inputs,
    io: Box<dyn Io>,
    meter: Meter,
    task_clock: TaskClock,
    links: Links,
    inboxes: Vec<Inbox<CoreMail>>,
    outboxes: BTreeMap<CoreId, Outgoing>,
    /// Whether some mailbox had no room.
    mail_waits: bool,
    commands: Inbox<CoreCommand>,
    control: ControlOutbox,
    /// What the control loop's queue had no room for.
    unsent: VecDeque<CoreOutput>,
    status: CoreStatus,
    clock: CoreClock,
    origin: Instant,
    /// Tasks that could run if there were memory for what they write, the oldest batch first.
    postponed: VecDeque<Run>,
    laps: Laps,
    /// The last step found nothing.
    was_idle: bool,
    phase: Phase,
    ending: Ending,
    /// What is kept for others and for later, where something outlives the process.
    keeping: Option<Keeping>,
    /// Lost partitions that it was given.
    recovering: Option<Recovering>,
    // Scratch, kept for its capacity.
    actions: Vec<LocalAction>,
    completions: Vec<Completion>,
    outgoing: Vec<(CoreId, Block)>,
    ranges: Vec<TakenRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// A task failed here; only `Abort` and `Finish` matter now.
    Failed,
    Done,
}

impl Core {
    /// Builds the core, on its own thread.
    pub fn new(parts: CoreParts) -> std::io::Result<Core> {
        let plan = parts.job.plan().clone();
        let stage_count = plan.stages.len();
        let combiner_bytes = parts.options.memory.combiner_bytes;
        let retention = parts.options.local.retention;
        let written_bytes = parts.options.memory.written.max_bytes;
        let memory = Memory::new(&plan, parts.options.memory, parts.readers, retention);
        let waker = parts.io.waker();
        let keeping = parts.storage.map(|desk| Keeping::new(desk, waker, written_bytes));
        let outboxes = parts.place.outboxes.into_iter();
        let outboxes = outboxes.map(|(core, outbox)| (core, Outgoing::new(outbox))).collect();
        Ok(Core {
            core: parts.core,
            cores: parts.cores,
            scheduler: LocalScheduler::new(plan.clone(), parts.core, parts.options.local),
            stages: (0..stage_count).map(|_| None).collect(),
            state_bytes: vec![0; stage_count],
            context: StageContext {
                plan,
                stage: drizzle_scheduler::StageId(0),
                core: parts.core,
                incarnation: parts.incarnation,
                combiner_bytes,
                retention,
            },
            memory,
            inputs: Inputs::default(),
            links: Links::new(parts.links)?,
            job: parts.job,
            io: parts.io,
            meter: parts.meter,
            task_clock: TaskClock::default(),
            inboxes: parts.place.inboxes,
            outboxes,
            mail_waits: false,
            commands: parts.commands,
            control: parts.control,
            unsent: VecDeque::new(),
            status: parts.status,
            clock: parts.clock,
            origin: Instant(0),
            postponed: VecDeque::new(),
            laps: Laps::new(),
            was_idle: false,
            phase: Phase::Running,
            ending: Ending::Unasked,
            keeping,
            recovering: None,
            actions: Vec::new(),
            completions: Vec::new(),
            outgoing: Vec::new(),
            ranges: Vec::new(),
        })
    }

    fn read_commands(&mut self) -> bool {
        let mut any = false;
        while let Some(command) = self.commands.try_recv() {
            any = true;
            match command {
                CoreCommand::Order(order) => self.order(order),
                CoreCommand::Link(plan) => self.link(*plan),
                CoreCommand::Explain => self.explain(),
                CoreCommand::Finish => self.ending = Ending::Wanted,
                CoreCommand::Abort => self.phase = Phase::Done,
            }
        }
        any
    }

    fn order(&mut self, order: Order) {
        if let Order::Decision { decision: Decision::ScheduleGroup(group), .. } = &order {
            self.origin = group.origin;
            self.meter.begin();
        }
        if let Order::Decision { decision: Decision::Fence(lives), .. } = &order {
            self.close_fenced(lives);
        }
        let now = self.clock.at(self.laps.lap(Doing::Receive));
        if let Order::Decision { decision: Decision::Recover(recover), .. } = &order {
            self.begin_recovering(recover, now);
        }
        self.scheduler.handle(now, LocalEvent::Order(order), &mut self.actions);
        self.laps.lap(Doing::Schedule);
        self.perform();
    }

    /// Takes a connection over, in place of that to an earlier life.
    fn link(&mut self, plan: LinkPlan) {
        let life = Life { worker: plan.worker, incarnation: plan.incarnation };
        self.memory.add_peer(plan.worker);
        if let Err(error) = self.links.add(plan) {
            self.peer_lost(life, &format!("its connection cannot be used: {error}"));
        }
    }

    fn read_mail(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.inboxes.len() {
            while let Some(mail) = self.inboxes[index].try_recv() {
                any = true;
                match mail {
                    CoreMail::Deliver(parcel) => self.deliver(parcel, Doing::Receive),
                    CoreMail::Relay { to, cargo } => self.post(to, &cargo),
                }
            }
        }
        any
    }

    /// Takes in what is for this core, after `before`.
    fn deliver(&mut self, parcel: Parcel, before: Doing) {
        let now_ns = self.laps.lap(before);
        match parcel {
            Parcel::Block(block) => {
                if self.scheduler.offer(block.notice()) == Offer::Keep {
                    self.inputs.add(&self.context.plan, block);
                }
            }
            Parcel::Ranges { from, ranges } => self.learn(now_ns, from, &ranges),
            Parcel::State(state) => {
                if let Err(reason) = self.state_arrives(now_ns, &state) {
                    self.fail(reason);
                }
            }
            Parcel::Completed { from, batch } => {
                let now = self.clock.at(now_ns);
                self.memory.completed(from, batch);
                let event = LocalEvent::PeerCompleted { core: from, batch };
                self.scheduler.handle(now, event, &mut self.actions);
            }
        }
        self.laps.lap(Doing::Schedule);
        self.perform();
    }

    fn poll_io(&mut self) -> bool {
        let mut arrivals = Vec::new();
        // What was queued leaves with this poll, not after the next task.
        self.drive_links(&mut arrivals);
        self.io.poll(&mut self.completions);
        let any = !self.completions.is_empty() || !arrivals.is_empty();
        let mut completions = std::mem::take(&mut self.completions);
        for Completion { token, outcome } in completions.drain(..) {
            let (job, store, cores) = (&*self.job, &mut self.memory.received, self.cores);
            let mut intake = links::Intake { edges: job, store, cores };
            if let Err((life, closed)) =
                self.links.completed(token, outcome, &mut intake, &mut arrivals)
            {
                self.peer_lost(life, &closed.to_string());
            }
        }
        self.completions = completions;
        if any || !arrivals.is_empty() {
            self.laps.lap(Doing::Receive);
        }
        for Arrival { to_core, parcel } in arrivals {
            let to = CoreId { worker: self.core.worker, core: to_core };
            self.hand_over(to, parcel);
        }
        any
    }

    fn drive_links(&mut self, arrivals: &mut Vec<Arrival>) {
        let (job, store, cores) = (&*self.job, &mut self.memory.received, self.cores);
        let mut intake = links::Intake { edges: job, store, cores };
        if let Err((life, closed)) = self.links.drive(&mut *self.io, &mut intake, arrivals) {
            self.peer_lost(life, &closed.to_string());
        }
    }

    fn peer_lost(&mut self, life: Life, reason: &str) {
        let (Life { worker, incarnation }, reason) = (life, reason.to_owned());
        self.tell_control(CoreOutput::PeerLost { worker, incarnation, reason });
    }

    /// Runs one ready task, if there is one.
    fn run_one(&mut self) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        let began = monotonic_now();
        let now = self.clock.at(began);
        let Some(run) = self.next_run(now) else {
            self.tick(now);
            return false;
        };
        self.laps.lap_at(began, Doing::Poll);
        let started = self.laps.lap(Doing::Schedule);
        let result = self.execute(&run, started);
        let ended = self.laps.lap(Doing::Run);
        if let Err(failure) = result {
            self.task_failed(&run, failure);
            return true;
        }
        let ranges = std::mem::take(&mut self.ranges);
        let run_ns = ended - started;
        self.took(&run, run_ns);
        // Nobody asks what was published where nothing is kept for others.
        let published = self.retain_outgoing();
        let event = LocalEvent::RunDone {
            run: &run,
            ranges: &ranges,
            published: &published,
            combined: &[],
            run_ns,
        };
        self.scheduler.handle(self.clock.at(ended), event, &mut self.actions);
        self.give_back(published);
        self.ranges = ranges;
        self.ranges.clear();
        self.laps.lap(Doing::Schedule);
        self.perform();
        let mut outgoing = std::mem::take(&mut self.outgoing);
        self.relay_ranges(outgoing.iter().map(|&(to, _)| to));
        self.hand_over_blocks(&mut outgoing);
        self.outgoing = outgoing;
        self.laps.lap(Doing::Send);
        true
    }

    fn tick(&mut self, now: Instant) {
        if self.scheduler.deadline().is_some_and(|deadline| deadline <= now) {
            self.scheduler.handle(now, LocalEvent::Tick, &mut self.actions);
            self.perform();
        }
    }

    /// Performs what the scheduler decided.
    fn perform(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                LocalAction::Report(report) => self.report(report),
                LocalAction::Advertise { to, completed } => {
                    let parcel = Parcel::Completed { from: self.core, batch: completed };
                    to.iter().for_each(|&to| self.hand_over(to, parcel.clone()));
                }
                LocalAction::Release { completed } => {
                    self.inputs.release(completed);
                    self.status.set_completed(completed);
                }
                LocalAction::Resend { .. }
                | LocalAction::Reuse { .. }
                | LocalAction::Forget { .. }
                | LocalAction::Restore { .. }
                | LocalAction::DropPartition { .. }
                | LocalAction::Snapshot { .. }
                | LocalAction::Preload { .. }
                | LocalAction::Ship { .. }
                | LocalAction::DropCopy { .. }
                | LocalAction::DropEarly { .. }
                | LocalAction::Recorded { .. } => {
                    // After a panic a state may hold half a task: nobody is to have it.
                    if self.phase != Phase::Failed
                        && let Err(reason) = self.perform_kept(action)
                    {
                        self.fail(reason);
                    }
                }
            }
        }
        if self.actions.is_empty() {
            self.actions = actions;
        }
        self.write_frozen();
    }

    fn report(&mut self, mut report: CoreReport) {
        if let CoreReport::GroupDone { statistics, .. } = &mut report {
            let schedule_ns = self.laps.take_schedule_ns();
            statistics.merge(&GroupStatistics { schedule_ns, ..GroupStatistics::default() });
        }
        self.tell_control(CoreOutput::Report(report));
    }

    fn explain(&mut self) {
        if let Some(waiting) = self.scheduler.waiting() {
            let name = &self.context.plan.stage(waiting.stage).name;
            let text = format!(
                "{}, stage {name:?}, {} on {} waits for {}",
                waiting.batch, waiting.partition, self.core, waiting.reason
            );
            self.tell_control(CoreOutput::Waiting(text));
        }
    }

    fn fail(&mut self, reason: String) {
        self.phase = Phase::Failed;
        self.tell_control(CoreOutput::Failed { reason });
    }

    fn warn(&mut self, line: String) {
        self.tell_control(CoreOutput::Notice(line));
    }

    fn tell_control(&mut self, output: CoreOutput) {
        self.unsent.push_back(output);
        self.flush_control();
    }

    fn flush_control(&mut self) {
        let mut any = false;
        while let Some(output) = self.unsent.pop_front() {
            match self.control.queue.try_send((self.core.core, output)) {
                Ok(()) => any = true,
                Err(TrySendError::Full((_, output))) => {
                    self.unsent.push_front(output);
                    break;
                }
                // The control loop is gone: so is the job.
                Err(TrySendError::Disconnected(_)) => self.phase = Phase::Done,
            }
        }
        if any {
            self.control.waker.wake();
        }
    }

    /// Sends what had no room before; whether something still has none.
    fn flush(&mut self) -> bool {
        if self.mail_waits {
            self.outboxes.values_mut().for_each(Outgoing::flush);
            self.mail_waits = self.outboxes.values().any(|outgoing| outgoing.waits());
        }
        self.flush_control();
        let runs_wait = !self.postponed.is_empty();
        self.mail_waits || runs_wait || !self.unsent.is_empty() || self.links.is_stalled()
    }
}

/// How soon a core looks again when it waits for somebody who will not wake it.
const LOOK_AGAIN_NS: u64 = 100_000;

impl CoreLoop for Core {
    fn step(&mut self) -> Progress {
        if self.was_idle {
            self.laps.lap(Doing::Idle);
        }
        let mut busy = self.read_commands();
        busy |= self.read_mail();
        busy |= self.poll_io();
        busy |= self.read_storage();
        self.finish_if_wanted();
        busy |= self.run_one();
        self.note_recovering();
        // What a step queues last would otherwise wait for somebody to wake the core.
        busy |= self.links.has_queued();
        let waiting = self.flush();
        if self.phase == Phase::Done && self.unsent.is_empty() {
            self.io.close(&mut self.completions);
            return Progress::Done;
        }
        self.was_idle = !busy;
        if busy {
            self.laps.lap(Doing::Poll);
            return Progress::Busy;
        }
        let deadline = self.scheduler.deadline().filter(|_| self.phase == Phase::Running);
        let deadline = deadline.map(|deadline| self.clock.local(deadline));
        let look_again = waiting.then(|| monotonic_now() + LOOK_AGAIN_NS);
        Progress::Idle { wake_at: deadline.into_iter().chain(look_again).min() }
    }

    fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }
}

/// The core of a worker with `cores` cores that owns the connection to `peer`.
pub fn owner_of(peer: WorkerId, cores: u16) -> u16 {
    (peer.0 % u32::from(cores)) as u16
}
