//! How workers connect to each other: the one with the higher number calls, and greets by name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::{Incarnation, WorkerId};

use crate::core::{LinkPlan, Meeting};
use crate::io::{Completion, Io, Op, Outcome, Token};
use crate::node::NodeError;
use crate::transport::{Closed, Connection, Rendezvous, RendezvousName, is_within_host, meet};
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
    /// What a person should know, a line each.
    notices: Vec<String>,
}

impl Greetings {
    /// Calls the peers with lower numbers, and expects the others to call.
    pub(super) fn begin(
        own: &Peer,
        peers: &[Peer],
        listener: Arc<TcpListener>,
        io: Box<dyn Io>,
    ) -> Result<Greetings, NodeError> {
        let (mut links, mut notices) = (Vec::new(), Vec::new());
        let mut expected = BTreeMap::new();
        for peer in peers {
            if peer.worker < own.worker {
                links.push(call(own, peer, &mut notices)?);
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
            notices,
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
            Ok(Some(Greeting { worker, incarnation, to, rendezvous })) => {
                let known = to == self.own && self.expected.get(&worker) == Some(&incarnation);
                if let Some(stream) = connection.into_stream().filter(|_| known) {
                    self.expected.remove(&worker);
                    let met = rendezvous.map(|name| meet(name).map(Meeting::Met));
                    let meeting = shared(worker, met, &mut self.notices);
                    self.links.push(LinkPlan { worker, incarnation, stream, meeting });
                }
            }
            Ok(None) => {
                self.strangers.insert(number, connection);
            }
            Err(_) => {}
        }
    }

    /// What a person should know, a line each.
    pub(super) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Who has not called, for messages that people read.
    pub(super) fn missing(&self) -> Vec<WorkerId> {
        self.expected.keys().copied().collect()
    }
}

/// How memory is shared with a worker of this host, or a line that says why it is not.
fn shared(
    worker: WorkerId,
    meeting: Option<std::io::Result<Meeting>>,
    notices: &mut Vec<String>,
) -> Option<Meeting> {
    let because = |error| {
        format!("blocks for {worker} on this host go by TCP, not by shared memory: {error}")
    };
    meeting?.map_err(|error| notices.push(because(error))).ok()
}

fn call(own: &Peer, peer: &Peer, notices: &mut Vec<String>) -> Result<LinkPlan, NodeError> {
    let cannot = |error: std::io::Error| {
        NodeError::Job(format!("cannot reach {} at {}: {error}", peer.worker, peer.address))
    };
    let stream = TcpStream::connect_timeout(&peer.address, CONNECT_LIMIT).map_err(cannot)?;
    let rendezvous = is_within_host(&stream).then(|| Rendezvous::new().map(Meeting::Expected));
    let meeting = shared(peer.worker, rendezvous, notices);
    let rendezvous = match &meeting {
        Some(Meeting::Expected(rendezvous)) => Some(rendezvous.name()),
        Some(Meeting::Met(_)) | None => None,
    };
    let (worker, incarnation, to) = (own.worker, own.incarnation, peer.worker);
    let hello = DataHead::Hello { worker, incarnation, to, rendezvous };
    let mut bytes = Vec::new();
    encode_data(&hello, 0, &mut bytes);
    std::io::Write::write_all(&mut &stream, &bytes).map_err(cannot)?;
    Ok(LinkPlan { worker: peer.worker, incarnation: peer.incarnation, stream, meeting })
}

/// What a caller says first.
struct Greeting {
    worker: WorkerId,
    incarnation: Incarnation,
    to: WorkerId,
    rendezvous: Option<RendezvousName>,
}

fn greeting(connection: &mut Connection) -> Result<Option<Greeting>, Closed> {
    let Some(frame) = connection.next_frame()? else { return Ok(None) };
    match decode_data(frame.head, frame.body.len())? {
        DataHead::Hello { worker, incarnation, to, rendezvous } => {
            Ok(Some(Greeting { worker, incarnation, to, rendezvous }))
        }
        DataHead::Met
        | DataHead::Blocks { .. }
        | DataHead::Mapped { .. }
        | DataHead::Released { .. }
        | DataHead::Retired { .. }
        | DataHead::Completed { .. }
        | DataHead::State { .. }
        | DataHead::Ranges { .. } => Err(Closed::Protocol("it did not greet first".to_owned())),
    }
}
