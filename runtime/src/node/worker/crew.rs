//! The cores of a worker: how they are started, and what the control loop sees of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use drizzle_scheduler::{BatchId, CoreId, Incarnation, WorkerId};
use drizzle_shuffle::Readers;

use super::{Ground, Identity, Peers, WorkerNode};
use crate::clock::monotonic_now;
use crate::core::{
    ControlOutbox, Core, CoreClock, CoreCommand, CoreOptions, CoreOutput, CoreParts, CoreStatus,
    LinkPlan, owner_of,
};
use crate::dataflow::Job;
use crate::host::{self, CoreHandle, CoreLoop, CpuShare, Meter, Neighbours};
use crate::io::{self, Chosen, Io, IoKind, Outbox, Tenant, Waker, inbox};
use crate::node::memory::WorkerShares;
use crate::node::{JobSetup, NodeError, STALL_NS, Size};
use crate::storage::Desk;
use crate::transport::{Mesh, MeshPlace, permit_descriptors};
use crate::wire::{Peer, TimeByKind};

/// The cores of a worker, as its control loop sees them.
pub(super) struct Crew {
    handles: Vec<CoreHandle>,
    pub(super) commands: Vec<Outbox<CoreCommand>>,
    statuses: Vec<CoreStatus>,
    pub(super) outputs: Receiver<(u16, CoreOutput)>,
}

/// A core that starts on a thread of its own: how it says how to wake it, and where it is told how it
/// is commanded.
type Starting = (Receiver<Result<Waker, String>>, Sender<io::Inbox<CoreCommand>>);

/// Commands that wait for a core. The driver keeps two groups in flight, so few ever do.
const COMMAND_CAPACITY: usize = 4096;
/// Outputs of all cores that wait for the control loop.
const OUTPUT_CAPACITY: usize = 4096;

/// How long cores may take to end: a task may take long.
const END_NS: u64 = 10_000_000_000;

fn behind() -> NodeError {
    NodeError::Job("a core has not read its commands for too long".to_owned())
}

/// What is around the cores of a worker.
pub(super) struct Surroundings<'a> {
    /// Data threads of all workers on this host.
    pub(super) cores_on_host: u32,
    /// All workers, this one among them.
    pub(super) peers: &'a [Peer],
    /// Connections to those in other processes.
    pub(super) links: Vec<LinkPlan>,
    /// What each core may take of the worker's memory.
    pub(super) shares: WorkerShares,
}

impl Crew {
    pub(super) fn start(
        node: &WorkerNode,
        identity: &Identity,
        setup: JobSetup,
        chosen: &Chosen,
        around: Surroundings<'_>,
    ) -> Result<Crew, NodeError> {
        let Surroundings { cores_on_host, peers, links, shares } = around;
        let cores = node.config.cores;
        let mesh = match &node.peers {
            Peers::Threads(mesh) => mesh.clone(),
            Peers::Processes => Arc::new(Mesh::new(usize::from(cores))),
        };
        let (queue, outputs) = bounded(OUTPUT_CAPACITY);
        let control = ControlOutbox { queue, waker: node.io.waker() };
        let readers = readers_of(node, &links)?;
        let mut links_of: BTreeMap<u16, Vec<LinkPlan>> = BTreeMap::new();
        for link in links {
            links_of.entry(owner_of(link.worker, cores)).or_default().push(link);
        }
        let before = peers.iter().filter(|peer| peer.worker < identity.worker);
        let before: usize = before.map(|peer| usize::from(peer.cores)).sum();
        let (job, options) = (Arc::new(setup.job), setup.options);
        let (commands, statuses) = (Vec::new(), Vec::new());
        let mut crew = Crew { handles: Vec::new(), commands, statuses, outputs };
        let mut starting = Vec::new();
        for number in 0..cores {
            let status = CoreStatus::default();
            let links = links_of.remove(&number).unwrap_or_default();
            let seed = CoreSeed {
                core: CoreId { worker: identity.worker, core: number },
                incarnation: identity.incarnation,
                cores,
                job: job.clone(),
                options: options.core_options(
                    shares.of_core(links.iter().map(|link| link.worker), options.batch_bytes),
                ),
                io: chosen.io,
                mesh: mesh.clone(),
                links,
                control: control.clone(),
                status: status.clone(),
                clock: CoreClock::new(node.offset.clone()),
                readers,
                storage: node.storage.clone(),
            };
            crew.statuses.push(status);
            if let Ground::Shared(neighbours, meter) = &node.ground {
                crew.commands.push(seed.grow_beside(neighbours, meter));
                continue;
            }
            let core_options = host::CoreOptions {
                name: format!("core-{}-{number}", identity.worker.0),
                cpu: node.config.cpus.of_core(before + usize::from(number)),
                polling: options.polling,
                share: CpuShare::of(cores_on_host as usize, node.config.cpus.count()),
            };
            let (tell, waker) = bounded(1);
            let (give, commands) = bounded(1);
            let build = move |meter| seed.grow(meter, &tell, &commands);
            let handle = host::run_core(chosen.host, core_options, build)
                .map_err(NodeError::io("cannot start a core"))?;
            crew.handles.push(handle);
            starting.push((waker, give));
        }
        crew.command(starting)?;
        Ok(crew)
    }

    /// Gives cores on threads of their own the ends by which they are commanded.
    fn command(&mut self, starting: Vec<Starting>) -> Result<(), NodeError> {
        for (waker, give) in starting {
            let gone = |_| NodeError::Job("a core did not start".to_owned());
            let waker = waker.recv().map_err(gone)?.map_err(NodeError::Setup)?;
            let (outbox, commands) = inbox(COMMAND_CAPACITY, waker);
            give.send(commands).map_err(|_| NodeError::Job("a core did not start".to_owned()))?;
            self.commands.push(outbox);
        }
        Ok(())
    }

    pub(super) fn tell_all(&mut self, command: impl Fn() -> CoreCommand) -> Result<(), NodeError> {
        for outbox in &mut self.commands {
            outbox.try_send(command()).map_err(|_| behind())?;
        }
        Ok(())
    }

    /// Hands a connection to the core that owns it.
    pub(super) fn link(&mut self, link: LinkPlan) -> Result<(), NodeError> {
        let owner = owner_of(link.worker, self.commands.len() as u16);
        let command = CoreCommand::Link(Box::new(link));
        let told = self.commands[usize::from(owner)].try_send(command);
        told.map_err(|_| behind())
    }

    /// Ends every core, and waits for it.
    pub(super) fn end(mut self) -> Result<(), NodeError> {
        let limit = monotonic_now() + END_NS;
        let mut pause = super::open_control_io()?;
        let mut told = 0;
        while told < self.commands.len() || self.handles.iter().any(|core| !core.is_finished()) {
            // What they still say, nobody wants; they wait for room.
            while self.outputs.try_recv().is_ok() {}
            while told < self.commands.len()
                && self.commands[told].try_send(CoreCommand::Abort).is_ok()
            {
                told += 1;
            }
            if monotonic_now() > limit {
                return Err(NodeError::Job("a core has not ended for too long".to_owned()));
            }
            pause.park(Some(Duration::from_millis(1)));
        }
        self.join();
        Ok(())
    }

    /// Tells every core to end, as far as its mailbox has room, and does not wait: one may be in a
    /// task that never ends.
    pub(super) fn abandon(mut self) {
        for outbox in &mut self.commands {
            // A core that cannot be told sees that nobody reads its outputs any more.
            let _ = outbox.try_send(CoreCommand::Abort);
        }
    }

    pub(super) fn completed(&self) -> BatchId {
        self.statuses.iter().map(CoreStatus::completed).min().unwrap_or_default()
    }

    pub(super) fn records(&self) -> u64 {
        self.statuses.iter().map(CoreStatus::records).sum()
    }

    /// The task that has been running longest, if any has for too long.
    pub(super) fn stuck(&self, worker: WorkerId, now_ns: u64) -> Option<String> {
        let running = self.statuses.iter().enumerate();
        let running = running.filter_map(|(core, status)| Some((core, status.running()?)));
        let (core, running) = running.min_by_key(|(_, running)| running.since_ns)?;
        let for_ns = now_ns.saturating_sub(running.since_ns);
        (for_ns > STALL_NS / 2).then(|| {
            let seconds = for_ns as f64 / 1e9;
            let (batch, stage) = (running.batch, running.stage);
            format!("{worker} core {core} has been running {batch} {stage} for {seconds:.1} s")
        })
    }

    /// The core whose sources take nothing for want of memory for the longest time, if any has for too
    /// long.
    pub(super) fn paused(&self, worker: WorkerId, now_ns: u64) -> Option<String> {
        let paused = self.statuses.iter().enumerate();
        let paused = paused.filter_map(|(core, status)| Some((core, status.paused()?)));
        let (core, paused) = paused.min_by_key(|(_, paused)| paused.since_ns)?;
        let for_ns = now_ns.saturating_sub(paused.since_ns);
        (for_ns > STALL_NS).then(|| {
            let (seconds, held) = (for_ns as f64 / 1e9, Size(paused.held_bytes));
            format!(
                "{worker} core {core} has taken no input for {seconds:.1} s, because blocks that \
                 nobody has folded yet hold {held} of its memory"
            )
        })
    }

    /// Tells sleeping from looking in vain, which a core cannot.
    pub(super) fn add_sleep(&self, core: u16, time: &mut TimeByKind) {
        // The sleep of a thread that many workers share is nobody's.
        let Some(handle) = self.handles.get(usize::from(core)) else { return };
        let slept_ns = handle.statistics().parked_ns;
        time.wait_ns = slept_ns.min(time.idle_poll_ns);
        time.idle_poll_ns -= time.wait_ns;
    }

    pub(super) fn join(self) {
        for handle in self.handles {
            // A panic outside a task ends the process in the binary; in tests it shows here.
            handle.join().expect("a core ends without a panic");
        }
    }
}

/// Who reads the blocks of a worker with these connections. Where others may join, they may be
/// processes of this host.
fn readers_of(node: &WorkerNode, links: &[LinkPlan]) -> Result<Readers, NodeError> {
    let may_others_join = match node.peers {
        Peers::Threads(_) => false,
        Peers::Processes => node.is_durable,
    };
    if !may_others_join && links.iter().all(|link| link.meeting.is_none()) {
        return Ok(Readers::Threads);
    }
    permit_descriptors().map_err(NodeError::io("cannot have more descriptors"))?;
    Ok(Readers::Processes)
}

/// What a core is grown from, carried to its thread.
struct CoreSeed {
    core: CoreId,
    incarnation: Incarnation,
    cores: u16,
    job: Arc<Job>,
    options: CoreOptions,
    io: IoKind,
    mesh: Arc<Mesh>,
    links: Vec<LinkPlan>,
    control: ControlOutbox,
    status: CoreStatus,
    clock: CoreClock,
    readers: Readers,
    storage: Option<Desk>,
}

impl CoreSeed {
    /// Builds the core; what fails is told the control loop, and a core that does nothing results.
    fn grow(
        self,
        meter: Meter,
        tell: &crossbeam_channel::Sender<Result<Waker, String>>,
        commands: &Receiver<io::Inbox<CoreCommand>>,
    ) -> Box<dyn CoreLoop> {
        let (control, number) = (self.control.clone(), self.core.core);
        match self.try_grow(meter, tell, commands) {
            Ok(core) => Box::new(core),
            Err(reason) => {
                // Either somebody still waits for the waker, or the control loop runs already.
                let _ = tell.try_send(Err(reason.clone()));
                let _ = control.queue.try_send((number, CoreOutput::Failed { reason }));
                control.waker.wake();
                host::nothing_to_run()
            }
        }
    }

    fn try_grow(
        self,
        meter: Meter,
        tell: &crossbeam_channel::Sender<Result<Waker, String>>,
        commands: &Receiver<io::Inbox<CoreCommand>>,
    ) -> Result<Core, String> {
        let io =
            io::open(self.io).map_err(|error| format!("cannot set up {}: {error}", self.io))?;
        let waker = io.waker();
        let _ = tell.send(Ok(waker.clone()));
        let commands = commands.recv().map_err(|_| "the worker ended".to_owned())?;
        let place = self.mesh.join(self.core, waker).map_err(|error| error.to_string())?;
        self.plant(io, meter, place, commands)
    }

    fn plant(
        self,
        io: Box<dyn Io>,
        meter: Meter,
        place: MeshPlace,
        commands: io::Inbox<CoreCommand>,
    ) -> Result<Core, String> {
        let core = Core::new(CoreParts {
            core: self.core,
            incarnation: self.incarnation,
            cores: self.cores,
            job: self.job,
            io,
            meter,
            place,
            links: self.links,
            commands,
            control: self.control,
            status: self.status,
            clock: self.clock,
            options: self.options,
            readers: self.readers,
            storage: self.storage,
        });
        core.map_err(|error| format!("cannot use a connection: {error}"))
    }

    /// Builds the core as one of the loops of the calling thread, as soon as all cores of the process
    /// are there; the way to command it.
    fn grow_beside(self, neighbours: &Neighbours, meter: &Meter) -> Outbox<CoreCommand> {
        let mut outbox = None;
        neighbours.add(|tenant| {
            let (give, commands) = inbox(COMMAND_CAPACITY, tenant.waker());
            outbox = Some(give);
            self.mesh.enter(self.core, tenant.waker());
            let meter = meter.clone();
            let waiting = WaitingCore { seed: self, tenant, meter, commands };
            Box::new(LightCore::Waiting(Some(Box::new(waiting))))
        });
        outbox.expect("a loop is built when it is added")
    }
}

/// The core of a light worker, which waits for those of the others without holding up its thread.
enum LightCore {
    /// Not all cores of the process are there.
    Waiting(Option<Box<WaitingCore>>),
    /// It is at work.
    Working(Box<Core>),
}

struct WaitingCore {
    seed: CoreSeed,
    tenant: Tenant,
    meter: Meter,
    commands: io::Inbox<CoreCommand>,
}

impl CoreLoop for LightCore {
    fn step(&mut self) -> host::Progress {
        let waiting = match self {
            LightCore::Working(core) => return core.step(),
            LightCore::Waiting(waiting) => waiting,
        };
        let Some(mut core) = waiting.take() else { return host::Progress::Done };
        let Some(place) = core.seed.mesh.place(core.seed.core) else {
            // There is no order before all workers are ready, so this can only be the end.
            if core.commands.try_recv().is_some() {
                return host::Progress::Done;
            }
            *waiting = Some(core);
            return host::Progress::Idle { wake_at: None };
        };
        let WaitingCore { seed, tenant, meter, commands } = *core;
        let (control, number) = (seed.control.clone(), seed.core.core);
        match seed.plant(Box::new(tenant), meter, place, commands) {
            Ok(core) => {
                *self = LightCore::Working(Box::new(core));
                host::Progress::Busy
            }
            Err(reason) => {
                let _ = control.queue.try_send((number, CoreOutput::Failed { reason }));
                control.waker.wake();
                host::Progress::Done
            }
        }
    }

    fn io(&mut self) -> &mut dyn Io {
        match self {
            LightCore::Working(core) => core.io(),
            LightCore::Waiting(Some(core)) => &mut core.tenant,
            LightCore::Waiting(None) => unreachable!("a loop that is done is dropped"),
        }
    }
}
