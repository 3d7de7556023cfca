//! How workers connect to each other: the one with the higher number calls, and greets by name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::{Incarnation, WorkerId};

use crate::core::LinkPlan;
use crate::io::{Completion, Io, Op, Outcome, Token};
use crate::node::NodeError;
use crate::transport::{Closed, Connection};
use crate::wire::{DataHead, Peer, decode_data, encode_data};

/// How long a peer may take to answer a call.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long callers are waited for before the driver's messages are looked at again.
const A_MOMENT: Duration = Duration::from_millis(2);
/// Token of the accept.
const ACCEPT: Token = 1 << 40;
/// Callers that have not greeted yet.
const MAX_STRANGERS: usize = 4096;

/// Binds a listener, and says what to do if that fails.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; choose another port or stop what listens there",
            _ => "",
        };
        NodeError::Setup(format!("cannot listen on {address}: {error}{advice}"))
    })
}

/// Refuses an address that others can reach, unless told otherwise.
pub(crate) fn check_exposure(ip: IpAddr, exposure: Exposure) -> Result<(), NodeError> {
    if ip.is_loopback() || exposure == Exposure::Insecure {
        return Ok(());
    }
    Err(NodeError::Setup(format!(
        "{ip} is not a loopback address, and nodes do not authenticate each other yet: \
         use 127.0.0.1, or add --insecure on a network where you trust every host"
    )))
}

/// Whether nodes may be reached from other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// On this host only.
    Loopback,
    /// From anywhere, without authentication.
    Insecure,
}

/// Connections to peers while they are being made.
pub(super) struct Greetings {
    own: WorkerId,
    listener: Arc<TcpListener>,
    /// Of their own, and short-lived: the connections go on to the cores, which have theirs.
    io: Box<dyn Io>,
    accepting: bool,
    /// Peers that are still to call, and their lives.
    expected: BTreeMap<WorkerId, Incarnation>,
    strangers: BTreeMap<u64, Connection>,
    next_stranger: u64,
    links: Vec<LinkPlan>,
}

impl Greetings {
    /// Calls the peers with lower numbers, and expects the others to call.
    pub(super) fn begin(
        own: &Peer,
        peers: &[Peer],
        listener: Arc<TcpListener>,
        io: Box<dyn Io>,
    ) -> Result<Greetings, NodeError> {
        let mut links = Vec::new();
        let mut expected = BTreeMap::new();
        for peer in peers {
            if peer.worker < own.worker {
                links.push(call(own, peer)?);
            } else if peer.worker > own.worker {
                expected.insert(peer.worker, peer.incarnation);
            }
        }
        Ok(Greetings {
            own: own.worker,
            listener,
            io,
            accepting: false,
            expected,
            strangers: BTreeMap::new(),
            next_stranger: 1,
            links,
        })
    }

    /// Waits a moment for callers; all connections, once every peer has called.
    pub(super) fn step(&mut self) -> Option<Vec<LinkPlan>> {
        if !self.accepting && !self.expected.is_empty() && self.strangers.len() < MAX_STRANGERS {
            self.accepting = true;
            self.io.submit(ACCEPT, Op::Accept { listener: self.listener.clone() });
        }
        for connection in self.strangers.values_mut() {
            connection.drive(&mut *self.io);
        }
        let mut completions = Vec::new();
        self.io.poll(&mut completions);
        if completions.is_empty() && !self.expected.is_empty() {
            self.io.park(Some(A_MOMENT));
        }
        for Completion { token, outcome } in completions {
            self.completed(token, outcome);
        }
        if !self.expected.is_empty() {
            return None;
        }
        self.io.close(&mut Vec::new());
        Some(std::mem::take(&mut self.links))
    }

    /// Takes an outcome. A stranger that says something wrong is hung up on.
    fn completed(&mut self, token: Token, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(Ok((stream, _))) => {
                self.accepting = false;
                if let Ok(connection) = Connection::new(stream, self.next_stranger) {
                    self.strangers.insert(self.next_stranger, connection);
                    self.next_stranger += 1;
                }
            }
            Outcome::Accepted(Err(_)) => self.accepting = false,
            outcome => self.heard(Connection::number_of(token), outcome),
        }
    }

    fn heard(&mut self, number: u64, outcome: Outcome) {
        let Some(mut connection) = self.strangers.remove(&number) else { return };
        if connection.completed(outcome).is_err() {
            return;
        }
        match greeting(&mut connection) {
            Ok(Some((worker, incarnation, to))) => {
                let known = to == self.own && self.expected.get(&worker) == Some(&incarnation);
                if let Some(stream) = connection.into_stream().filter(|_| known) {
                    self.expected.remove(&worker);
                    self.links.push(LinkPlan { worker, incarnation, stream });
                }
            }
            Ok(None) => {
                self.strangers.insert(number, connection);
            }
            Err(_) => {}
        }
    }

    /// Who has not called, for messages that people read.
    pub(super) fn missing(&self) -> Vec<WorkerId> {
        self.expected.keys().copied().collect()
    }
}

fn call(own: &Peer, peer: &Peer) -> Result<LinkPlan, NodeError> {
    let cannot = |error: std::io::Error| {
        NodeError::Job(format!("cannot reach {} at {}: {error}", peer.worker, peer.address))
    };
    let stream = TcpStream::connect_timeout(&peer.address, CONNECT_LIMIT).map_err(cannot)?;
    let hello =
        DataHead::Hello { worker: own.worker, incarnation: own.incarnation, to: peer.worker };
    let mut bytes = Vec::new();
    encode_data(&hello, 0, &mut bytes);
    std::io::Write::write_all(&mut &stream, &bytes).map_err(cannot)?;
    Ok(LinkPlan { worker: peer.worker, incarnation: peer.incarnation, stream })
}

fn greeting(
    connection: &mut Connection,
) -> Result<Option<(WorkerId, Incarnation, WorkerId)>, Closed> {
    let Some(frame) = connection.next_frame()? else { return Ok(None) };
    match decode_data(frame.head, frame.body.len())? {
        DataHead::Hello { worker, incarnation, to } => Ok(Some((worker, incarnation, to))),
        DataHead::Blocks { .. } | DataHead::Completed { .. } | DataHead::Ranges { .. } => {
            Err(Closed::Protocol("it did not greet first".to_owned()))
        }
    }
}
