//! Blocks that a process of this host reads from where they lie: the books of both sides.
//!
//! Segments are sealed memory files. Their descriptors go over a Unix socket, each before the first
//! frame that names its segment, so that it is there when the frame is. The reader maps a segment once,
//! copies what it is told of, and says how many bodies it has copied in all; the writer keeps every
//! block until then. The socket is found by a name in the greeting; it counts only between processes
//! of one user, because others can see such names too.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use drizzle_shuffle::{ArrivingBlock, Block, Bundle, PeerSegment, SegmentLife, SharedFile};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::transport::Closed;
use crate::wire::MappedPlace;

/// The most segments of one peer that are mapped at a time.
const MAX_SEGMENTS: usize = 4096;
/// Strangers that may be in the way of a peer at its rendezvous.
const MAX_STRANGERS: usize = 64;

/// The name of a rendezvous, which nobody can guess.
pub type RendezvousName = [u8; 16];

/// A socket at which a peer is expected, in its own network namespace.
#[derive(Debug)]
pub struct Rendezvous {
    listener: OwnedFd,
    name: RendezvousName,
}

impl Rendezvous {
    /// Waits under a new name.
    pub fn new() -> io::Result<Rendezvous> {
        let mut name = RendezvousName::default();
        getrandom(&mut name[..], GetRandomFlags::empty())?;
        let listener = socket()?;
        rustix::net::bind(&listener, &address(name)?)?;
        rustix::net::listen(&listener, MAX_STRANGERS as i32)?;
        Ok(Rendezvous { listener, name })
    }

    /// The name under which the peer finds it.
    pub fn name(&self) -> RendezvousName {
        self.name
    }

    /// The connection of a peer that has come already.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        for _ in 0..MAX_STRANGERS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let peer = rustix::net::accept_with(&self.listener, flags)?;
            if is_own(&peer) {
                return Ok(peer);
            }
        }
        Err(io::Error::other("only processes of other users have come"))
    }
}

/// Goes where a peer waits.
pub fn meet(name: RendezvousName) -> io::Result<OwnedFd> {
    let peer = socket()?;
    rustix::net::connect(&peer, &address(name)?)?;
    match is_own(&peer) {
        true => Ok(peer),
        false => Err(io::Error::other("the peer runs as another user")),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(socket)
}

fn address(name: RendezvousName) -> io::Result<SocketAddrUnix> {
    let name = format!("drizzle-{:032x}", u128::from_be_bytes(name));
    Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

fn is_own(peer: &OwnedFd) -> bool {
    socket_peercred(peer).is_ok_and(|credentials| credentials.uid == rustix::process::getuid())
}

/// What is shared with one peer, in both directions.
#[derive(Debug)]
pub struct Sharing {
    socket: OwnedFd,
    lent: Lent,
    borrowed: Borrowed,
}

/// Blocks that the peer copies.
#[derive(Debug, Default)]
struct Lent {
    /// Segments that it knows, by the id of their lives, with their numbers.
    segments: BTreeMap<usize, (SegmentLife, u32)>,
    next_segment: u32,
    /// Blocks that it has not copied yet, in the order of their frames.
    blocks: VecDeque<Block>,
    /// How many it has.
    copied: u64,
}

impl Lent {
    /// Segments that the peer knows and that are no more; it is to be told once.
    fn take_retired(&mut self) -> Vec<u32> {
        let over = self.segments.extract_if(.., |_, (life, _)| life.is_over());
        over.map(|(_, (_, number))| number).collect()
    }
}

/// What the peer is told of a bundle that it copies.
#[derive(Debug)]
pub struct Loan {
    /// First, which segments are no more.
    pub retired: Vec<u32>,
    /// Where the body is, of each block that has records.
    pub places: Vec<MappedPlace>,
}

/// Segments of the peer.
#[derive(Debug, Default)]
struct Borrowed {
    segments: BTreeMap<u32, PeerSegment>,
    /// How many bodies were copied.
    copied: u64,
    /// How many of them the peer has been told of.
    told: u64,
}

impl Sharing {
    /// Shares with the peer at the other end of a socket.
    pub fn new(socket: OwnedFd) -> Sharing {
        Sharing { socket, lent: Lent::default(), borrowed: Borrowed::default() }
    }

    /// Keeps the blocks of a bundle for the peer, and says where it finds their bodies. `None` if they
    /// have to be sent: not all are in memory that it may read, or the system will not pass on more
    /// descriptors now.
    pub fn lend(&mut self, bundle: &Bundle) -> Option<Loan> {
        let known = self.lent.next_segment;
        let blocks = || {
            let blocks = bundle.blocks().iter().map(|(_, block)| block);
            blocks.filter(|block| !block.is_empty())
        };
        let place = |block: &Block| {
            let (file, place) = block.shared()?;
            let segment = self.announce(file)?;
            Some(MappedPlace { segment, place })
        };
        let places = blocks().map(place).collect::<Option<Vec<_>>>()?;
        self.lent.blocks.extend(blocks().cloned());
        // Where a segment is new, others may have made room for it.
        let retired =
            if self.lent.next_segment > known { self.lent.take_retired() } else { Vec::new() };
        Some(Loan { retired, places })
    }

    /// The number of a segment, which the peer has been told of.
    fn announce(&mut self, file: &SharedFile) -> Option<u32> {
        let (lent, life) = (&mut self.lent, file.life());
        if let Some((_, number)) = lent.segments.get(&life.id()) {
            return Some(*number);
        }
        if lent.segments.len() >= MAX_SEGMENTS {
            return None;
        }
        let number = lent.next_segment;
        pass(&self.socket, number, file).ok()?;
        lent.next_segment += 1;
        lent.segments.insert(life.id(), (life, number));
        Some(number)
    }

    /// The peer has copied so many bodies in all.
    pub fn released(&mut self, copied: u64) -> Result<(), Closed> {
        let lent = &mut self.lent;
        let count = copied.checked_sub(lent.copied).and_then(|count| usize::try_from(count).ok());
        match count {
            Some(count) if count <= lent.blocks.len() => {
                lent.blocks.drain(..count);
                lent.copied = copied;
                Ok(())
            }
            Some(_) | None => {
                Err(Closed::Protocol("it released blocks that it never had".to_owned()))
            }
        }
    }

    /// Copies a body of the peer's to its place in our own memory.
    pub fn copy(&mut self, from: MappedPlace, block: &mut ArrivingBlock) -> Result<(), Closed> {
        let segments = &mut self.borrowed.segments;
        while !segments.contains_key(&from.segment) {
            let (number, descriptor) = take(&self.socket).map_err(|error| {
                let text = format!("it named a segment that it did not share: {error}");
                Closed::Protocol(text)
            })?;
            let wrong = |error| Closed::Protocol(format!("{error}"));
            let segment = PeerSegment::map(descriptor).map_err(wrong)?;
            if segments.len() >= MAX_SEGMENTS || segments.insert(number, segment).is_some() {
                return Err(Closed::Protocol("it shared a segment twice, or too many".to_owned()));
            }
        }
        let copied = block.copy_from(&segments[&from.segment], from.place);
        self.borrowed.copied += 1;
        copied.map_err(|error| Closed::Protocol(error.to_string()))
    }

    /// The peer has given a segment up.
    pub fn forget(&mut self, segment: u32) -> Result<(), Closed> {
        let known = self.borrowed.segments.remove(&segment).is_some();
        let unknown = || Closed::Protocol("it gave up a segment that it never shared".to_owned());
        known.then_some(()).ok_or_else(unknown)
    }

    /// How many bodies were copied in all, if the peer has not been told: now it is.
    pub fn to_tell(&mut self) -> Option<u64> {
        let Borrowed { copied, told, .. } = &mut self.borrowed;
        (std::mem::replace(told, *copied) < *copied).then_some(*copied)
    }

    /// Blocks that the peer has not copied yet.
    pub fn lent_blocks(&self) -> usize {
        self.lent.blocks.len()
    }
}

/// Lets this process have as many descriptors as it may: one for each segment that others read, and
/// one for each of a peer's while it is being mapped.
pub fn permit_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Passes a segment's descriptor on, with its number.
fn pass(socket: &OwnedFd, number: u32, file: &SharedFile) -> rustix::io::Result<()> {
    let descriptors = [file.descriptor()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "there is space for one"
    );
    let number = number.to_le_bytes();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let pieces = [IoSlice::new(&number)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &pieces, &mut ancillary, flags))?;
    Ok(())
}

/// Takes the next descriptor that has come.
fn take(socket: &OwnedFd) -> rustix::io::Result<(u32, OwnedFd)> {
    let mut number = [0; 4];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut pieces = [IoSliceMut::new(&mut number)];
    let message = rustix::net::recvmsg(socket.as_fd(), &mut pieces, &mut ancillary, flags)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match descriptor {
        Some(descriptor) if message.bytes == number.len() => {
            Ok((u32::from_le_bytes(number), descriptor))
        }
        Some(_) | None => Err(Errno::BADMSG),
    }
}
