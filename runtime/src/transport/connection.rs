//! One framed TCP connection, on whatever driver of IO its owner has.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use drizzle_shuffle::{ArrivingBlock, Block, Bundle, Landing};

use crate::io::{Body, Io, MAX_BODIES, Op, Outcome, Token};
use crate::wire::{DecodeError, Frame, FrameDecoder, FrameError, FrameHead, encode_bundle};

/// Messages are joined to one send up to this size.
const JOIN_BELOW: usize = 32 * 1024;

/// Bodies of a bundle that come to less than this are copied behind their head, which should cost less
/// than a send of their own. The border is an estimate: it was not measured.
const COPY_BELOW: usize = 16 * 1024;

/// Of a body, so many missing bytes are received to where they will stay. Fewer come with whatever is
/// behind them and are copied. The border is an estimate: it was not measured.
const LAND_FROM: usize = 16 * 1024;

/// With more sends than this waiting, a connection is congested.
const MANY_WAITING: usize = 64;
/// And with more bytes than this, without those of blocks.
const MUCH_WAITING: usize = 1 << 20;

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The other side closed it.
    #[error("its connection was closed")]
    ByPeer,
    /// The system reported an error.
    #[error("its connection broke: {0}")]
    Broken(#[from] io::Error),
    /// What came is no frame of ours.
    #[error("it sent a bad frame: {0}")]
    BadFrame(#[from] FrameError),
    /// What came is a frame with a message that makes no sense.
    #[error("it sent a bad message: {0}")]
    BadMessage(#[from] DecodeError),
    /// It said something that it may not say now.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
}

/// A connection. It owns two tokens of its driver: `2 * number` for receiving, the next for sending.
#[derive(Debug)]
pub struct Connection {
    stream: Arc<TcpStream>,
    /// The address of the other side, while it could still be asked for.
    peer: Box<str>,
    /// Both ends have one address: they are on one host.
    within_host: bool,
    number: u64,
    decoder: FrameDecoder,
    receiving: bool,
    /// Where the next bytes go, if past the decoder.
    landing: Option<Landing>,
    outgoing: VecDeque<Outgoing>,
    sending: bool,
    /// The buffer of the last send, to be used again.
    spare: Vec<u8>,
    /// A send failed. The receiving side tells the owner, after what the peer said last.
    send_failed: Option<io::Error>,
}

#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    bodies: Vec<Block>,
}

/// Whether both ends of a stream have one address: they are on one host.
pub fn is_within_host(stream: &TcpStream) -> bool {
    let ip = |address: io::Result<SocketAddr>| address.ok().map(|address| address.ip());
    let (here, there) = (ip(stream.local_addr()), ip(stream.peer_addr()));
    here.is_some() && here == there
}

/// A block as the driver of IO sees it: bytes, sent from the segment that they lie in.
struct BlockBody(Block);

impl AsRef<[u8]> for BlockBody {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

impl Connection {
    /// Takes a connected stream over; `number` is unique among the connections of one driver.
    pub fn new(stream: TcpStream, number: u64) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection {
            within_host: is_within_host(&stream),
            peer: stream
                .peer_addr()
                .map_or_else(|_| "unknown".into(), |peer| peer.to_string().into()),
            stream: Arc::new(stream),
            number,
            decoder: FrameDecoder::new(),
            receiving: false,
            landing: None,
            outgoing: VecDeque::new(),
            sending: false,
            spare: Vec::new(),
            send_failed: None,
        })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of the connection that an operation belongs to.
    pub fn number_of(token: Token) -> u64 {
        token / 2
    }

    /// Queues bytes that `encode` appends: one or more whole frames.
    pub fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.send_failed.is_some() {
            return;
        }
        match self.outgoing.back_mut() {
            Some(last) if last.bodies.is_empty() && last.head.len() < JOIN_BELOW => {
                encode(&mut last.head);
            }
            Some(_) | None => {
                let mut head = std::mem::take(&mut self.spare);
                head.clear();
                encode(&mut head);
                self.outgoing.push_back(Outgoing { head, bodies: Vec::new() });
            }
        }
    }

    /// Queues the blocks of a bundle, as one frame.
    pub fn send_bundle(&mut self, bundle: &Bundle) {
        let blocks = || {
            let blocks = bundle.blocks().iter().map(|(_, block)| block);
            blocks.filter(|block| !block.is_empty())
        };
        if bundle.body_len() < COPY_BELOW {
            return self.send(|out| {
                encode_bundle(bundle, out);
                blocks().for_each(|block| out.extend_from_slice(block.body()));
            });
        }
        self.send(|out| encode_bundle(bundle, out));
        let mut bodies = blocks().cloned();
        let Some(mut last) = self.outgoing.back_mut() else { return };
        loop {
            last.bodies.extend(bodies.by_ref().take(MAX_BODIES));
            let Some(next) = bodies.next() else { return };
            self.outgoing.push_back(Outgoing { head: Vec::new(), bodies: vec![next] });
            last = self.outgoing.back_mut().expect("it was pushed just now");
        }
    }

    /// Has the driver hold the stream, which is to be driven by no other from now on. Whoever then
    /// drops the connection has to [hang up](Self::hang_up) first.
    pub fn hold(&self, io: &mut dyn Io) {
        io.hold(&self.stream);
    }

    /// Ends the connection for both sides, whoever else keeps its socket open. What was handed to the
    /// kernel still arrives.
    pub fn hang_up(&self) {
        // It fails where there is nothing left to end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Starts what can be started: one send and one receive at a time.
    pub fn drive(&mut self, io: &mut dyn Io) {
        if !self.sending
            && let Some(Outgoing { head, bodies }) = self.outgoing.pop_front()
        {
            let body = |block| Arc::new(BlockBody(block)) as Body;
            let bodies = bodies.into_iter().map(body).collect();
            let stream = self.stream.clone();
            io.submit(self.number * 2 + 1, Op::Send { stream, head, bodies });
            self.sending = true;
        }
        if !self.receiving {
            let stream = self.stream.clone();
            let op = match self.landing.take() {
                Some(landing) => Op::Land { stream, landing },
                None => {
                    let limit = self.decoder.room();
                    Op::Recv { stream, buffer: self.decoder.lend(), limit }
                }
            };
            io.submit(self.number * 2, op);
            self.receiving = true;
        }
    }

    /// Starts sends only: for an owner that cannot take more for now.
    pub fn drive_sends(&mut self, io: &mut dyn Io) {
        let receiving = std::mem::replace(&mut self.receiving, true);
        self.drive(io);
        self.receiving = receiving;
    }

    /// Takes the outcome of an operation that carried one of its tokens.
    pub fn completed(&mut self, outcome: Outcome) -> Result<(), Closed> {
        match outcome {
            Outcome::Received { buffer, result } => {
                self.decoder.give_back(buffer);
                self.received(result)
            }
            Outcome::Landed { landing, result } => {
                self.landing = Some(landing);
                if let Ok(count) = result {
                    self.decoder.body_came_elsewhere(count);
                }
                self.received(result)
            }
            Outcome::Sent { head, result } => {
                self.sending = false;
                self.spare = head;
                if let Err(error) = result {
                    self.send_failed = Some(error);
                    self.outgoing.clear();
                }
                Ok(())
            }
            Outcome::Accepted(_) => unreachable!("a connection accepts nothing"),
        }
    }

    fn received(&mut self, result: io::Result<usize>) -> Result<(), Closed> {
        self.receiving = false;
        match result {
            Ok(0) => {
                self.decoder.end()?;
                Err(Closed::ByPeer)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.send_failed.take().unwrap_or(error).into()),
        }
    }

    /// The head of the next frame. None while a receive is under way. What body it has is to be taken
    /// with [`take_body`](Self::take_body), or is lost with the connection.
    pub fn next_head(&mut self) -> Result<Option<FrameHead<'_>>, Closed> {
        if self.receiving {
            return Ok(None);
        }
        Ok(self.decoder.next_head()?)
    }

    /// Brings a block what has arrived of its body, and sees to it that what has not will come; whether
    /// all is there.
    pub fn take_body(&mut self, block: &mut ArrivingBlock) -> bool {
        if self.receiving {
            return false;
        }
        if let Some(landing) = self.landing.take() {
            block.give_back(landing);
        }
        block.fill(self.decoder.take_body(block.missing()));
        if block.missing() >= LAND_FROM {
            self.landing = Some(block.lend());
            return false;
        }
        block.missing() == 0
    }

    /// The next frame that has arrived whole. None while a receive is under way.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Closed> {
        if self.receiving {
            return Ok(None);
        }
        Ok(self.decoder.next_frame()?)
    }

    /// How many sends wait for the one that is under way.
    pub fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether so much waits to be sent that what can wait should.
    pub fn is_congested(&self) -> bool {
        let bytes = self.outgoing.iter().map(|outgoing| outgoing.head.len()).sum::<usize>();
        self.outgoing.len() > MANY_WAITING || bytes > MUCH_WAITING
    }

    /// Whether a send could be started.
    pub fn has_queued(&self) -> bool {
        !self.sending && !self.outgoing.is_empty()
    }

    /// Whether everything queued has been handed to the kernel.
    pub fn is_flushed(&self) -> bool {
        !self.sending && self.outgoing.is_empty()
    }

    /// The address of the other side, for messages that people read.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether the other side is a process of this host.
    pub fn is_within_host(&self) -> bool {
        self.within_host
    }

    /// The stream alone, if no operation is under way on it.
    pub fn into_stream(self) -> Option<TcpStream> {
        Arc::try_unwrap(self.stream).ok()
    }
}
