//! A worker process: it joins a driver and works for it. Where the job outlives a worker, one that was
//! given up joins again, in a new life.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::tie::{ATTEMPT_LIMIT, ATTEMPT_NS};
use super::{Ground, Peers, Step, WorkerConfig, WorkerLoop, WorkerNode, open_control_io};
use crate::clock::monotonic_now;
use crate::node::NodeError;
use crate::node::connect::check_exposure;
use crate::transport::{Connection, Endpoint};

/// How long the first driver may take to answer a call.
const FIRST_LIMIT: Duration = Duration::from_secs(5);

/// Joins the driver at `address` and works for it until the job is over.
pub fn run_worker(address: SocketAddr, config: &WorkerConfig) -> Result<(), NodeError> {
    check_exposure(address.ip(), config.exposure)?;
    let mut stream = TcpStream::connect_timeout(&address, FIRST_LIMIT).map_err(|error| {
        NodeError::Setup(format!(
            "cannot reach a driver at {address}: {error}; start one with: ysb driver --listen {address}"
        ))
    })?;
    // Since when it has not been at work, after it once was.
    let mut idle_since_ns = None;
    loop {
        let mut life = begin(address, stream, config)?;
        life.node.is_durable = idle_since_ns.is_some();
        match life.run_life()? {
            Step::Left => {}
            Step::Over | Step::Again | Step::Until(_) => return Ok(()),
        }
        let now_ns = monotonic_now();
        let since_ns = idle_since_ns.filter(|_| !life.was_at_work).unwrap_or(now_ns);
        idle_since_ns = Some(since_ns);
        stream = find(address, since_ns + config.patience.as_nanos() as u64)?;
    }
}

/// A new life on a connection that has just been made.
fn begin(
    address: SocketAddr,
    stream: TcpStream,
    config: &WorkerConfig,
) -> Result<WorkerLoop, NodeError> {
    let local = stream.local_addr().map_err(NodeError::io("cannot ask for the local address"))?;
    let connection = Connection::new(stream, 0).map_err(NodeError::io("cannot use the socket"))?;
    let io = open_control_io()?;
    let link = Endpoint::Stream(connection);
    let mut node =
        WorkerNode::new(config, link, io, Peers::Processes, local.ip(), Ground::OwnThreads);
    node.address = Some(address);
    Ok(WorkerLoop::new(node))
}

/// Looks for a driver until then.
fn find(address: SocketAddr, limit_ns: u64) -> Result<TcpStream, NodeError> {
    let mut pause = open_control_io()?;
    loop {
        // The one that gave this worker up should have noticed that it is gone.
        pause.park(Some(Duration::from_nanos(ATTEMPT_NS)));
        match TcpStream::connect_timeout(&address, ATTEMPT_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) if monotonic_now() > limit_ns => {
                return Err(NodeError::Job(format!(
                    "the driver at {address} is lost: {error}; the job ends here"
                )));
            }
            Err(_) => {}
        }
    }
}
