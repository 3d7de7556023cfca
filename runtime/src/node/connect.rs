//! How workers connect to each other: the one that is younger calls, and greets by name. Whoever has
//! joined may call at any time, so a worker listens for as long as it lives.

mod calls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use drizzle_scheduler::{Incarnation, Life, WorkerId};

use crate::clock::monotonic_now;
use crate::core::{LinkPlan, Meeting};
use crate::io::{Completion, Io, Op, Outcome, Token, Waker};
use crate::node::NodeError;
use crate::transport::{Closed, Connection, RendezvousName, meet};
use crate::wire::{DataHead, Peer, decode_data};

use calls::Calls;

/// How soon a stranger is listened to again: it greets at once, or never.
const A_MOMENT_NS: u64 = 2_000_000;
/// Token of the accept.
const ACCEPT: Token = 1 << 40;
/// Callers that have not greeted yet.
const MAX_STRANGERS: usize = 4096;
/// Callers that the driver has not named yet.
const MAX_EARLY: usize = 256;
/// How long a caller may take to greet, and the driver to name one that has.
const PATIENCE_NS: u64 = 5_000_000_000;

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

/// Connections to peers while they are being made; made, they go on to the cores.
pub(super) struct Greetings {
    own: Life,
    listener: Arc<TcpListener>,
    accepting: bool,
    /// The others, as the driver named them last.
    peers: BTreeMap<WorkerId, Peer>,
    /// Those of them that are connected.
    linked: BTreeMap<WorkerId, Incarnation>,
    calls: Calls,
    strangers: Strangers,
    /// Callers that the driver has not named yet, and when they greeted.
    early: BTreeMap<Life, (LinkPlan, u64)>,
    links: Vec<LinkPlan>,
    /// What a person should know, a line each.
    notices: Vec<String>,
}

/// Callers that have not greeted. They are heard on a driver of IO of their own, which is given up with
/// the last of them: the loop that has the connections afterwards has its own.
#[derive(Default)]
struct Strangers {
    io: Option<Box<dyn Io>>,
    connections: BTreeMap<u64, (Connection, u64)>,
    next: u64,
}

impl Greetings {
    /// Of a worker that listens there and knows nobody yet; `waker` is that of its control loop.
    pub(super) fn new(own: Life, listener: Arc<TcpListener>, waker: Waker) -> Greetings {
        Greetings {
            own,
            listener,
            accepting: false,
            peers: BTreeMap::new(),
            linked: BTreeMap::new(),
            calls: Calls::new(own, waker),
            strangers: Strangers::default(),
            early: BTreeMap::new(),
            links: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Takes in who is there. The older ones are called; the others will call.
    pub(super) fn introduce(&mut self, peers: &[Peer]) {
        let others = peers.iter().filter(|peer| peer.worker != self.own.worker);
        self.peers = others.map(|peer| (peer.worker, peer.clone())).collect();
        let peers = &self.peers;
        let is_named = |worker: &WorkerId, incarnation: Incarnation| {
            peers.get(worker).is_some_and(|peer| peer.incarnation == incarnation)
        };
        // A new driver names them one by one, as they come back to it: their connections last.
        let is_over = |worker: &WorkerId, incarnation: Incarnation| {
            peers.get(worker).is_some_and(|peer| peer.incarnation > incarnation)
        };
        self.linked.retain(|worker, incarnation| !is_over(worker, *incarnation));
        self.calls.keep(|life| is_named(&life.worker, life.incarnation));
        for peer in self.peers.values() {
            if peer.incarnation < self.own.incarnation && !self.linked.contains_key(&peer.worker) {
                self.calls.call(peer);
            }
        }
        for (life, (link, since_ns)) in std::mem::take(&mut self.early) {
            self.take_in(life, link, since_ns);
        }
    }

    /// Moves what can be moved without waiting. `io` is that of the control loop.
    pub(super) fn step(&mut self, io: &mut dyn Io) {
        if !self.accepting && self.strangers.connections.len() < MAX_STRANGERS {
            self.accepting = true;
            io.submit(ACCEPT, Op::Accept { listener: self.listener.clone() });
        }
        let now_ns = monotonic_now();
        self.hear_strangers(now_ns);
        self.early.retain(|_, (_, since_ns)| now_ns.saturating_sub(*since_ns) < PATIENCE_NS);
        for link in self.calls.step(now_ns, &mut self.notices) {
            if self.linked.insert(link.worker, link.incarnation) != Some(link.incarnation) {
                self.links.push(link);
            }
        }
    }

    /// When to step again although nothing comes.
    pub(super) fn wake_at_ns(&self) -> u64 {
        let strangers = !self.strangers.connections.is_empty();
        let strangers = strangers.then(|| monotonic_now() + A_MOMENT_NS);
        let early = self.early.values().map(|(_, since_ns)| since_ns + PATIENCE_NS).min();
        let next = [strangers, early, self.calls.due_ns()].into_iter().flatten().min();
        next.unwrap_or(u64::MAX)
    }

    /// Takes the outcome of an accept.
    pub(super) fn accepted(
        &mut self,
        accepted: std::io::Result<(std::net::TcpStream, SocketAddr)>,
    ) {
        self.accepting = false;
        let Ok((stream, _)) = accepted else { return };
        let strangers = &mut self.strangers;
        if strangers.io.is_none() {
            strangers.io = crate::node::worker::open_control_io().ok();
        }
        strangers.next += 1;
        if let Ok(connection) = Connection::new(stream, strangers.next) {
            strangers.connections.insert(strangers.next, (connection, monotonic_now()));
        }
    }

    fn hear_strangers(&mut self, now_ns: u64) {
        let Some(io) = &mut self.strangers.io else { return };
        let mut completions = Vec::new();
        for (connection, _) in self.strangers.connections.values_mut() {
            connection.drive(&mut **io);
        }
        io.poll(&mut completions);
        for Completion { token, outcome } in completions {
            self.heard(Connection::number_of(token), outcome);
        }
        self.strangers.connections.retain(|_, (connection, since_ns)| {
            let may_stay = now_ns.saturating_sub(*since_ns) < PATIENCE_NS;
            if !may_stay {
                connection.hang_up();
            }
            may_stay
        });
        if self.strangers.connections.is_empty()
            && let Some(mut io) = self.strangers.io.take()
        {
            io.close(&mut Vec::new());
        }
    }

    /// A stranger has said something. One that says something wrong is hung up on.
    fn heard(&mut self, number: u64, outcome: Outcome) {
        let Some((mut connection, since_ns)) = self.strangers.connections.remove(&number) else {
            return;
        };
        if connection.completed(outcome).is_err() {
            return;
        }
        match greeting(&mut connection) {
            Ok(Some(Greeting { life, to, rendezvous })) => {
                let Some(stream) = connection.into_stream().filter(|_| to == self.own.worker)
                else {
                    return;
                };
                let met = rendezvous.map(|name| meet(name).map(Meeting::Met));
                let meeting = shared(life.worker, met, &mut self.notices);
                let Life { worker, incarnation } = life;
                let link = LinkPlan { worker, incarnation, stream, meeting };
                self.take_in(life, link, monotonic_now());
            }
            Ok(None) => {
                self.strangers.connections.insert(number, (connection, since_ns));
            }
            Err(_) => {}
        }
    }

    /// A caller is one of those that the driver named, may still be, or is over: then it is hung up on.
    fn take_in(&mut self, life: Life, link: LinkPlan, since_ns: u64) {
        let Life { worker, incarnation } = life;
        let named = self.peers.get(&worker).map(|peer| peer.incarnation);
        if named == Some(incarnation) {
            if self.linked.insert(worker, incarnation) != Some(incarnation) {
                self.links.push(link);
            }
        } else if named.is_none_or(|named| named < incarnation) && self.early.len() < MAX_EARLY {
            self.early.insert(life, (link, since_ns));
        }
    }

    /// Connections that have been made.
    pub(super) fn take_links(&mut self) -> Vec<LinkPlan> {
        std::mem::take(&mut self.links)
    }

    /// Peers that could not be called for too long, and why; each is said once.
    pub(super) fn take_failures(&mut self) -> Vec<(Life, String)> {
        self.calls.take_failures()
    }

    /// What a person should know, a line each.
    pub(super) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Who is there and not connected.
    pub(super) fn missing(&self) -> Vec<Life> {
        let peers = self.peers.values().map(Peer::life);
        peers.filter(|life| !self.linked.contains_key(&life.worker)).collect()
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

/// What a caller says first.
struct Greeting {
    life: Life,
    to: WorkerId,
    rendezvous: Option<RendezvousName>,
}

fn greeting(connection: &mut Connection) -> Result<Option<Greeting>, Closed> {
    let Some(frame) = connection.next_frame()? else { return Ok(None) };
    match decode_data(frame.head, frame.body.len())? {
        DataHead::Hello { worker, incarnation, to, rendezvous } => {
            Ok(Some(Greeting { life: Life { worker, incarnation }, to, rendezvous }))
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

#[cfg(test)]
mod tests;
