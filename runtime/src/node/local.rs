//! A local cluster: the driver in the calling thread, workers as threads of this process or as
//! light workers or processes of this host. The same nodes, the same messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;

use crate::dataflow::Job;
use crate::node::connect::listen;
use crate::node::driver::{Children, Doors, DriverConfig, DriverNode, Observer, StartWorker};
use crate::node::light::{self, LightThreads};
use crate::node::member::WorkerLink;
use crate::node::worker::{Ground, Peers, WorkerConfig, WorkerLoop, WorkerNode, open_control_io};
use crate::node::{JobReport, NodeError, StopFlag};
use crate::transport::{Endpoint, LocalLink, Mesh};

/// What a local cluster is made of.
pub struct ClusterConfig {
    /// The driver's side.
    pub driver: DriverConfig,
    /// Every worker's side.
    pub worker: WorkerConfig,
    /// What its workers are.
    pub workers: LocalWorkers,
}

/// What the workers of a local cluster are.
pub enum LocalWorkers {
    /// Threads of this process: a control thread for each, and one for each of its cores.
    Threads,
    /// Light workers: whole workers, but several of them share a thread of this process.
    Light(LightThreads),
    /// Processes, each started by this command, given the driver's address.
    Processes(Box<dyn Fn(SocketAddr) -> Command>),
}

/// Runs a job on a cluster of its own.
pub fn run_local(
    config: &ClusterConfig,
    job: &Job,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<JobReport, NodeError> {
    match &config.workers {
        LocalWorkers::Threads => run_threads(config, job, observer, stop),
        LocalWorkers::Light(threads) => light::run(config, threads, job, observer, stop),
        LocalWorkers::Processes(command) => {
            let listener = listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
            let address = listener.local_addr().map_err(NodeError::io("no local address"))?;
            let start: StartWorker<'_> = Box::new(move || command(address));
            let children = Children::started(start, config.driver.workers);
            let children = children.map_err(NodeError::io("cannot start a worker process"))?;
            let doors = Doors::Listener(listener, children);
            let io = open_control_io()?;
            DriverNode::new(&config.driver, job, io, doors, observer, stop)?.run()
        }
    }
}

fn run_threads(
    config: &ClusterConfig,
    job: &Job,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<JobReport, NodeError> {
    let io = open_control_io()?;
    let workers = config.driver.workers;
    let mesh = Arc::new(Mesh::new(workers as usize * usize::from(config.worker.cores)));
    let mut links = Vec::new();
    let mut threads = Vec::new();
    for number in 0..workers {
        let (link, thread) = start_thread(number, &config.worker, mesh.clone(), io.waker())?;
        links.push(link);
        threads.push(thread);
    }
    let doors = Doors::Threads(links);
    let node = DriverNode::new(&config.driver, job, io, doors, observer, stop);
    let result = node.and_then(DriverNode::run);
    for thread in threads {
        // What a worker has to say about a failure, the driver has said.
        let _ = thread.join();
    }
    result
}

type WorkerThread = thread::JoinHandle<Result<(), NodeError>>;

fn start_thread(
    number: u32,
    config: &WorkerConfig,
    mesh: Arc<Mesh>,
    driver: crate::io::Waker,
) -> Result<(WorkerLink, WorkerThread), NodeError> {
    let (give, take) = bounded(1);
    let config = config.clone();
    let body = move || {
        let io = match open_control_io() {
            Ok(io) => io,
            Err(error) => {
                let _ = give.send(Err(error));
                return Ok(());
            }
        };
        let (own, drivers) = LocalLink::pair(io.waker(), driver);
        let _ = give.send(Ok(Endpoint::Local(drivers)));
        let local_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let link = Endpoint::Local(own);
        let peers = Peers::Threads(mesh);
        let node = WorkerNode::new(&config, link, io, peers, local_ip, Ground::OwnThreads);
        WorkerLoop::new(node).run()
    };
    let name = format!("worker-{number}");
    let thread = thread::Builder::new().name(name).spawn(body);
    let thread = thread.map_err(NodeError::io("cannot start a worker's thread"))?;
    let link = take.recv().map_err(|_| NodeError::Setup("a worker did not start".to_owned()))??;
    Ok((link, thread))
}
