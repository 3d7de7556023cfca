//! Light workers: whole workers (a number, a life, a `Worker`, a local scheduler, mailboxes, a link to the
//! driver that sends each its own messages), of which many share a thread. Their control loops and
//! their cores are stepped in turn, on one driver of IO for each thread ([`SharedLoop`]).
//!
//! So a few processors run a cluster of any number of workers as far as scheduling goes, which is
//! what there is to measure; in real use a worker has processors of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::dataflow::Job;
use crate::host::{
    self, CoreHandle, CoreLoop, CoreOptions, CpuShare, HostKind, Meter, Neighbours, Polling,
    Progress, SharedLoop,
};
use crate::io::{self, Io, IoKind, Waker};
use crate::node::driver::{Doors, DriverNode, Observer};
use crate::node::local::ClusterConfig;
use crate::node::member::WorkerLink;
use crate::node::worker::{
    Ground, Peers, Step, WorkerConfig, WorkerLoop, WorkerNode, open_control_io,
};
use crate::node::{JobReport, NodeError, StopFlag};
use crate::transport::{Endpoint, LocalLink, Mesh};

/// The threads that light workers share.
#[derive(Clone, Debug)]
pub struct LightThreads {
    /// How many; no more than workers are started.
    pub threads: u16,
    /// What runs them.
    pub host: HostKind,
    /// What they wait on.
    pub io: IoKind,
    /// How they wait.
    pub polling: Polling,
}

/// Runs a job on light workers.
pub(super) fn run(
    config: &ClusterConfig,
    light: &LightThreads,
    job: &Job,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<JobReport, NodeError> {
    let io = open_control_io()?;
    let workers = config.driver.workers;
    let threads = u32::from(light.threads).clamp(1, workers.max(1));
    let mesh = Arc::new(Mesh::new(workers as usize * usize::from(config.worker.cores)));
    let mut links = Vec::new();
    let mut handles = Vec::new();
    for thread in 0..threads {
        let share = (workers - thread).div_ceil(threads);
        let seed = ThreadSeed {
            workers: share,
            config: config.worker.clone(),
            mesh: mesh.clone(),
            driver: io.waker(),
            io: light.io,
        };
        let (of_thread, handle) = start(seed, thread, light, &config.worker)?;
        links.extend(of_thread);
        handles.push(handle);
    }
    let doors = Doors::Threads(links);
    let node = DriverNode::new(&config.driver, job, io, doors, observer, stop);
    let result = node.and_then(DriverNode::run);
    for handle in handles {
        // A panic outside a task ends the process in the binary; in tests it shows here.
        handle.join().expect("light workers end without a panic");
    }
    result
}

/// Starts a thread, and waits for the links of the driver to its workers.
fn start(
    seed: ThreadSeed,
    number: u32,
    light: &LightThreads,
    config: &WorkerConfig,
) -> Result<(Vec<WorkerLink>, CoreHandle), NodeError> {
    let (give, take) = bounded(1);
    let options = CoreOptions {
        name: format!("light-{number}"),
        cpu: config.cpus.of_core(number as usize),
        polling: light.polling,
        share: CpuShare::of(usize::from(light.threads), config.cpus.count()),
    };
    let handle = host::run_core(light.host, options, move |meter| seed.grow(&meter, &give))
        .map_err(NodeError::io("cannot start a thread for light workers"))?;
    let links = receive(&take)?;
    Ok((links, handle))
}

type Links = Result<Vec<WorkerLink>, NodeError>;

fn receive(take: &Receiver<Links>) -> Links {
    take.recv().map_err(|_| NodeError::Setup("light workers did not start".to_owned()))?
}

/// What a thread of light workers is grown from.
struct ThreadSeed {
    workers: u32,
    config: WorkerConfig,
    mesh: Arc<Mesh>,
    driver: Waker,
    io: IoKind,
}

impl ThreadSeed {
    /// Builds the thread's workers and hands over the driver's ends of their links.
    fn grow(self, meter: &Meter, give: &Sender<Links>) -> Box<dyn CoreLoop> {
        let io = match io::open(self.io) {
            Ok(io) => io,
            Err(error) => {
                let what = format!("cannot set up {}", self.io);
                let _ = give.send(Err(NodeError::io(&what)(error)));
                return host::nothing_to_run();
            }
        };
        let loops_of_each = 1 + usize::from(self.config.cores);
        let shared = SharedLoop::new(io, self.workers as usize * loops_of_each);
        let neighbours = shared.neighbours();
        let links = (0..self.workers).map(|_| self.settle(&neighbours, meter)).collect();
        let _ = give.send(Ok(links));
        Box::new(shared)
    }

    /// Adds one worker to the thread.
    fn settle(&self, neighbours: &Neighbours, meter: &Meter) -> WorkerLink {
        let mut link = None;
        neighbours.add(|tenant| {
            let (own, drivers) = LocalLink::pair(tenant.waker(), self.driver.clone());
            link = Some(Endpoint::Local(drivers));
            let node = WorkerNode::new(
                &self.config,
                Endpoint::Local(own),
                Box::new(tenant),
                Peers::Threads(self.mesh.clone()),
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                Ground::Shared(neighbours.clone(), meter.clone()),
            );
            Box::new(LightWorker(WorkerLoop::new(node)))
        });
        link.expect("a loop is built when it is added")
    }
}

/// The control loop of a light worker.
struct LightWorker(WorkerLoop);

impl CoreLoop for LightWorker {
    fn step(&mut self) -> Progress {
        match self.0.step() {
            Ok(Step::Again) => Progress::Busy,
            Ok(Step::Until(until_ns)) => Progress::Idle { wake_at: Some(until_ns) },
            // What a worker has to say about a failure, the driver has said.
            Ok(Step::Over | Step::Left) | Err(_) => Progress::Done,
        }
    }

    fn io(&mut self) -> &mut dyn Io {
        self.0.io()
    }
}
