//! Data connections to other worker processes. Each peer worker's connection belongs to one core;
//! the other cores reach it through that core's mailbox.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::vec;

use drizzle_scheduler::message::Content;
use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{BatchId, EdgeId, Incarnation, Life, PartitionId, StageId, WorkerId};
use drizzle_shuffle::{
    ArrivingBlock, Block, BlockHeader, BlockStore, BodyCheck, Bundle, BundleHeader,
};

use crate::dataflow::Job;
use crate::io::{Io, Outcome, Token};
use crate::transport::{Cargo, Closed, Connection, Loan, Parcel, Rendezvous, Sharing, StateParcel};
use crate::wire::{
    DataHead, FrameKind, MAX_RANGES, MappedPlace, StatePart, decode_data, encode_data,
    encode_mapped,
};

#[cfg(test)]
mod tests;

/// Bundles whose bodies come to at least so much are read by a peer on this host where they are.
/// Smaller ones should cost more to be told of than to be sent. The border is an estimate: it was not
/// measured.
const SHARE_FROM: usize = 8 * 1024;

/// A connection to a peer worker, as it is handed to the core that will own it.
#[derive(Debug)]
pub struct LinkPlan {
    /// The peer.
    pub worker: WorkerId,
    /// Its life: blocks of another one are refused.
    pub incarnation: Incarnation,
    /// The connection, greeted on both sides.
    pub stream: TcpStream,
    /// How memory is shared with a peer on this host; `None` if bodies of blocks are sent.
    pub meeting: Option<Meeting>,
}

/// How two processes of a host come to share memory.
#[derive(Debug)]
pub enum Meeting {
    /// The peer may come.
    Expected(Rendezvous),
    /// This one has come to the peer, and says so first.
    Met(OwnedFd),
}

/// The connections that one core owns.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<WorkerId, Link>,
    /// How many were made: it tells the operations of one from those of another to the same worker.
    made: u64,
    /// What lives are to get that are members and not connected yet.
    waiting: BTreeMap<Life, Vec<Cargo>>,
}

#[derive(Debug)]
struct Link {
    worker: WorkerId,
    incarnation: Incarnation,
    /// A state of which not all parts have come.
    state: Option<ArrivingState>,
    connection: Connection,
    /// Whether the driver of IO has been told to hold it.
    held: bool,
    /// Blocks whose bodies are arriving.
    bundle: Option<ArrivingBundle>,
    memory: Memory,
    /// Where the peer may come, to share memory.
    rendezvous: Option<Rendezvous>,
    /// Set once it has come.
    sharing: Option<Sharing>,
}

/// Whether there is memory for what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Enough,
    /// There was none for a block: nothing more is received until there is.
    Awaited,
}

/// The blocks of one frame that are still to be taken in.
#[derive(Debug)]
struct ArrivingBundle {
    /// In this order come their bodies.
    headers: vec::IntoIter<(u16, BlockHeader)>,
    bodies: Bodies,
    /// The one whose body is arriving.
    block: Option<(u16, ArrivingBlock)>,
}

/// A state of a partition that is arriving in parts.
#[derive(Debug)]
struct ArrivingState {
    about: (StageId, PartitionId, BatchId, Option<BatchId>, u64),
    bytes: Vec<u8>,
}

/// Bytes of a state that travel in one frame.
const STATE_PART_BYTES: usize = 1 << 20;
/// The largest state of a partition that is taken in.
const MAX_STATE_BYTES: u64 = 4 << 30;

/// Where the bodies of a bundle are.
#[derive(Debug)]
enum Bodies {
    /// They follow the head.
    Behind,
    /// In segments of the peer: places for those of the blocks that have not been copied.
    Mapped(vec::IntoIter<MappedPlace>),
}

/// Something that arrived for a core of this worker.
#[derive(Debug)]
pub struct Arrival {
    /// Number of the core.
    pub to_core: u16,
    /// What it is.
    pub parcel: Parcel,
}

/// What edges there are, and what they carry.
pub trait Edges {
    /// The plan that they belong to.
    fn plan(&self) -> &Plan;
    /// How the body of a block that came from another process is checked; `None` if there is no such
    /// edge.
    fn check_of(&self, edge: EdgeId, content: Content) -> Option<BodyCheck>;
}

impl Edges for Job {
    fn plan(&self) -> &Plan {
        Job::plan(self)
    }

    fn check_of(&self, edge: EdgeId, content: Content) -> Option<BodyCheck> {
        Job::check_of(self, edge, content)
    }
}

/// What taking in a block needs.
pub struct Intake<'a> {
    /// What may come.
    pub edges: &'a dyn Edges,
    /// Where bodies are copied to.
    pub store: &'a mut BlockStore,
    /// How many cores this worker has.
    pub cores: u16,
}

impl Links {
    /// Takes the connections over.
    pub fn new(plans: Vec<LinkPlan>) -> std::io::Result<Links> {
        let mut links = Links::default();
        plans.into_iter().try_for_each(|plan| links.add(plan))?;
        Ok(links)
    }

    /// Takes one more over. A connection to an earlier life of the peer is closed.
    pub fn add(&mut self, plan: LinkPlan) -> std::io::Result<()> {
        let life = Life { worker: plan.worker, incarnation: plan.incarnation };
        self.made += 1;
        let number = (self.made << 32) | u64::from(life.worker.0);
        if let Some(before) = self.links.insert(life.worker, Link::new(plan, number)?) {
            before.connection.hang_up();
        }
        let waiting = self.waiting.remove(&life).unwrap_or_default();
        waiting.iter().for_each(|cargo| self.send(life.worker, cargo));
        Ok(())
    }

    /// Closes the connection to a life that is over.
    pub fn close(&mut self, worker: WorkerId, incarnation: Incarnation) {
        self.waiting.remove(&Life { worker, incarnation });
        if let Some(link) = self.links.remove(&worker) {
            match link.incarnation == incarnation {
                true => link.connection.hang_up(),
                // It is that of a later life.
                false => drop(self.links.insert(worker, link)),
            }
        }
    }

    /// Queues something for a life that is a member, also if it is not connected yet: then it waits for that, or
    /// until the life is over.
    pub fn send_to(&mut self, life: Life, cargo: &Cargo) {
        match self.links.get(&life.worker).map(|link| link.incarnation) {
            Some(connected) if connected == life.incarnation => self.send(life.worker, cargo),
            // Another life of it has come: the one that is meant is over, as will be heard soon.
            Some(connected) if connected > life.incarnation => {}
            Some(_) | None => self.waiting.entry(life).or_default().push(cargo.clone()),
        }
    }

    /// Queues something for a peer.
    pub fn send(&mut self, to: WorkerId, cargo: &Cargo) {
        let Some(link) = self.links.get_mut(&to) else { return };
        match *cargo {
            Cargo::Blocks(ref bundle) => link.send_bundle(bundle),
            Cargo::Completed { from, to_core, batch } => link.connection.send(|out| {
                encode_data(&DataHead::Completed { from, to_core, batch }, 0, out);
            }),
            Cargo::Ranges { to_core, ref ranges } => link.connection.send(|out| {
                for part in ranges.chunks(MAX_RANGES) {
                    encode_data(&DataHead::Ranges { to_core, ranges: part.to_vec() }, 0, out);
                }
            }),
            Cargo::State { to_core, ref state } => link.send_state(to_core, state),
        }
    }

    /// Takes the outcome of an operation, and what has arrived with it.
    pub fn completed(
        &mut self,
        token: Token,
        outcome: Outcome,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), (Life, Closed)> {
        let number = Connection::number_of(token);
        let worker = WorkerId(number as u32);
        let link = self.links.get_mut(&worker);
        // It may belong to a connection that was given up.
        let Some(link) = link.filter(|link| link.connection.number() == number) else {
            return Ok(());
        };
        let result = link.connection.completed(outcome);
        let result = result.and_then(|()| link.take_in(intake, arrivals));
        result.map_err(|closed| self.lose(worker, closed))
    }

    /// Gives a connection up, so that the peer sees it.
    fn lose(&mut self, worker: WorkerId, closed: Closed) -> (Life, Closed) {
        let lost = self.links.remove(&worker).expect("what was driven is there");
        lost.connection.hang_up();
        (lost.life(), closed)
    }

    /// Starts what can be started, and tries again to take in what there was no memory for.
    pub fn drive(
        &mut self,
        io: &mut dyn Io,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), (Life, Closed)> {
        let result = self.links.iter_mut().try_for_each(|(&worker, link)| {
            link.drive(io, intake, arrivals).map_err(|closed| (worker, closed))
        });
        result.map_err(|(worker, closed)| self.lose(worker, closed))
    }

    /// How many sends to a peer wait for the one that is under way.
    pub fn waiting(&self, worker: WorkerId) -> usize {
        self.links.get(&worker).map_or(0, |link| link.connection.waiting())
    }

    /// Whether memory is shared with a peer.
    pub fn is_sharing(&self, worker: WorkerId) -> bool {
        self.links.get(&worker).is_some_and(|link| link.sharing.is_some())
    }

    /// Whether something was queued since the links were driven, so that they should be again.
    pub fn has_queued(&self) -> bool {
        self.links.values().any(|link| link.connection.has_queued())
    }

    /// Whether a block waits for memory, so that the core must look again without being woken.
    pub fn is_stalled(&self) -> bool {
        self.links.values().any(|link| link.memory == Memory::Awaited)
    }
}

impl Link {
    fn new(plan: LinkPlan, number: u64) -> std::io::Result<Link> {
        let LinkPlan { worker, incarnation, stream, meeting } = plan;
        let mut connection = Connection::new(stream, number)?;
        let (rendezvous, sharing) = match meeting {
            None => (None, None),
            Some(Meeting::Expected(rendezvous)) => (Some(rendezvous), None),
            Some(Meeting::Met(socket)) => {
                connection.send(|out| encode_data(&DataHead::Met, 0, out));
                (None, Some(Sharing::new(socket)))
            }
        };
        let (bundle, memory) = (None, Memory::Enough);
        let (state, held) = (None, false);
        Ok(Link {
            worker,
            incarnation,
            state,
            connection,
            held,
            bundle,
            memory,
            rendezvous,
            sharing,
        })
    }

    /// Blocks that the peer has not copied yet.
    #[cfg(test)]
    fn lent(&self) -> usize {
        self.sharing.as_ref().map_or(0, Sharing::lent_blocks)
    }

    fn life(&self) -> Life {
        Life { worker: self.worker, incarnation: self.incarnation }
    }

    /// Sends a state, in parts that fit a frame.
    fn send_state(&mut self, to_core: u16, state: &StateParcel) {
        let StateParcel { stage, partition, batch, since, ref piece, .. } = *state;
        let total = piece.len() as u64;
        let mut offset = 0;
        loop {
            let end = piece.len().min(offset + STATE_PART_BYTES);
            let bytes = piece[offset..end].to_vec();
            let part =
                StatePart { stage, partition, batch, since, total, offset: offset as u64, bytes };
            let head = DataHead::State { to_core, part };
            self.connection.send(|out| encode_data(&head, 0, out));
            offset = end;
            if offset == piece.len() {
                return;
            }
        }
    }

    /// Takes a part of a state; the whole, with the last one.
    fn take_state(&mut self, part: StatePart) -> Result<Option<StateParcel>, Closed> {
        let wrong = || Closed::Protocol("the parts of a state do not fit each other".to_owned());
        let StatePart { stage, partition, batch, since, total, offset, bytes } = part;
        let about = (stage, partition, batch, since, total);
        let mut arriving = match self.state.take() {
            None if offset == 0 && total <= MAX_STATE_BYTES => {
                ArrivingState { about, bytes: Vec::with_capacity(total as usize) }
            }
            Some(arriving) if arriving.about == about => arriving,
            Some(_) | None => return Err(wrong()),
        };
        let has = arriving.bytes.len() as u64;
        if offset != has || has + bytes.len() as u64 > total {
            return Err(wrong());
        }
        arriving.bytes.extend_from_slice(&bytes);
        if (arriving.bytes.len() as u64) < total {
            if bytes.is_empty() {
                return Err(wrong());
            }
            self.state = Some(arriving);
            return Ok(None);
        }
        let (from, piece) = (self.life(), arriving.bytes.into());
        Ok(Some(StateParcel { from, stage, partition, batch, since, piece }))
    }

    /// Sends blocks: their bodies too, unless the peer can read them where they are.
    fn send_bundle(&mut self, bundle: &Bundle) {
        let sharing = self.sharing.as_mut().filter(|_| bundle.body_len() >= SHARE_FROM);
        let Some(Loan { retired, places }) = sharing.and_then(|sharing| sharing.lend(bundle))
        else {
            return self.connection.send_bundle(bundle);
        };
        self.connection.send(|out| {
            let retired = retired.into_iter().map(|segment| DataHead::Retired { segment });
            retired.for_each(|head| encode_data(&head, 0, out));
            encode_mapped(bundle, &places, out);
        });
    }

    fn drive(
        &mut self,
        io: &mut dyn Io,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        if !self.held {
            self.held = true;
            self.connection.hold(io);
        }
        if self.memory == Memory::Awaited {
            self.take_in(intake, arrivals)?;
        }
        if let Some(copied) = self.sharing.as_mut().and_then(Sharing::to_tell) {
            self.connection.send(|out| encode_data(&DataHead::Released { copied }, 0, out));
        }
        match self.memory {
            Memory::Awaited => self.connection.drive_sends(io),
            Memory::Enough => self.connection.drive(io),
        }
        Ok(())
    }

    /// Takes in what has arrived, as far as there is memory for it.
    fn take_in(
        &mut self,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        loop {
            if let Some(bundle) = &mut self.bundle {
                let sharing = self.sharing.as_mut();
                match bundle.take_in(&mut self.connection, sharing, intake, arrivals)? {
                    TakenIn::All => self.bundle = None,
                    TakenIn::NotYet(memory) => {
                        self.memory = memory;
                        return Ok(());
                    }
                }
            }
            let Some(frame) = self.connection.next_head()? else {
                self.memory = Memory::Enough;
                return Ok(());
            };
            if frame.kind != FrameKind::Data {
                return Err(Closed::Protocol(format!("a frame {} came", frame.kind)));
            }
            let head = decode_data(frame.head, frame.body_len)?;
            self.take_head(head, intake, arrivals)?;
        }
    }

    fn take_head(
        &mut self,
        head: DataHead,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Closed> {
        let unshared = || Closed::Protocol("it speaks of memory that is not shared".to_owned());
        match head {
            DataHead::Hello { .. } => {
                return Err(Closed::Protocol("a second greeting came".to_owned()));
            }
            DataHead::Completed { from, to_core, batch } => {
                let parcel = Parcel::Completed { from, batch };
                arrivals.push(Arrival { to_core, parcel });
            }
            DataHead::Ranges { to_core, ranges } => {
                let parcel = Parcel::Ranges { from: self.life(), ranges: ranges.into() };
                arrivals.push(Arrival { to_core, parcel });
            }
            DataHead::State { to_core, part } => {
                if let Some(state) = self.take_state(part)? {
                    arrivals.push(Arrival { to_core, parcel: Parcel::State(Arc::new(state)) });
                }
            }
            DataHead::Blocks { header } => {
                let incarnation = self.incarnation;
                let bundle = ArrivingBundle::new(header, Bodies::Behind, incarnation, intake)?;
                self.bundle = Some(bundle);
            }
            DataHead::Mapped { header, places } => {
                let bodies = Bodies::Mapped(places.into_iter());
                let bundle = ArrivingBundle::new(header, bodies, self.incarnation, intake)?;
                self.sharing.as_ref().ok_or_else(unshared)?;
                self.bundle = Some(bundle);
            }
            DataHead::Met => {
                let socket = self.rendezvous.take().ok_or_else(unshared)?.accept()?;
                self.sharing = Some(Sharing::new(socket));
            }
            DataHead::Released { copied } => {
                self.sharing.as_mut().ok_or_else(unshared)?.released(copied)?;
            }
            DataHead::Retired { segment } => {
                self.sharing.as_mut().ok_or_else(unshared)?.forget(segment)?;
            }
        }
        Ok(())
    }
}

/// How far the blocks of a frame were taken in.
enum TakenIn {
    All,
    /// The rest has not come, or has no memory.
    NotYet(Memory),
}

impl ArrivingBundle {
    fn new(
        header: BundleHeader,
        bodies: Bodies,
        incarnation: Incarnation,
        intake: &Intake<'_>,
    ) -> Result<ArrivingBundle, Closed> {
        for (to_core, header) in header.blocks() {
            check_header(intake, incarnation, *to_core, header)?;
        }
        Ok(ArrivingBundle { headers: header.into_blocks().into_iter(), bodies, block: None })
    }

    fn take_in(
        &mut self,
        connection: &mut Connection,
        mut sharing: Option<&mut Sharing>,
        intake: &mut Intake<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<TakenIn, Closed> {
        loop {
            if self.block.is_none() {
                let Some((to_core, header)) = self.headers.as_slice().first() else {
                    return Ok(TakenIn::All);
                };
                let Ok(mut block) = intake.store.expect(header) else {
                    return Ok(TakenIn::NotYet(Memory::Awaited));
                };
                if let (Bodies::Mapped(places), Some(sharing)) = (&mut self.bodies, &mut sharing)
                    && block.missing() > 0
                {
                    let place = places.next().expect("there is a place for each body");
                    sharing.copy(place, &mut block)?;
                }
                self.block = Some((*to_core, block));
                self.headers.next();
            }
            let whole = self.block.take_if(|(_, block)| connection.take_body(block));
            let Some((to_core, block)) = whole else {
                return Ok(TakenIn::NotYet(Memory::Enough));
            };
            let parcel = Parcel::Block(checked(block, intake)?);
            arrivals.push(Arrival { to_core, parcel });
        }
    }
}

/// The block, if it is what was sent and holds what its edge carries.
fn checked(block: ArrivingBlock, intake: &Intake<'_>) -> Result<Block, Closed> {
    let notice = &block.header().notice;
    let unknown = || Closed::Protocol("a block came on an edge that the plan does not have".into());
    let check = intake.edges.check_of(notice.edge, notice.content).ok_or_else(unknown)?;
    let block = block.finish().and_then(|unchecked| unchecked.validate(check));
    block.map_err(|error| Closed::Protocol(error.to_string()))
}

/// What a header says must fit the plan before anything is decided by it.
fn check_header(
    intake: &Intake<'_>,
    incarnation: Incarnation,
    to_core: u16,
    header: &BlockHeader,
) -> Result<(), Closed> {
    let notice = &header.notice;
    let plan: &Plan = intake.edges.plan();
    let wrong = |what: &str| Err(Closed::Protocol(format!("a block came {what}")));
    if notice.incarnation != incarnation {
        return wrong("from another life of that worker");
    }
    if to_core >= intake.cores || notice.batch == BatchId(0) {
        return wrong("for a core or batch that does not exist");
    }
    let Some(edge) = plan.edges.get(notice.edge.index()) else {
        return wrong("on an edge that the plan does not have");
    };
    let beyond = |partitions: &[PartitionId], count: u32| {
        partitions.iter().any(|partition| partition.0 >= count)
    };
    if beyond(&notice.upstream, plan.stage(edge.from).partition_count)
        || beyond(&notice.downstream, plan.stage(edge.to).partition_count)
    {
        return wrong("for partitions that its edge does not have");
    }
    Ok(())
}
