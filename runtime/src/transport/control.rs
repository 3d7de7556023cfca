//! The control link between a driver and a worker: framed TCP between processes, bounded channels
//! between threads of one. Both carry the same messages.

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::io::{Io, Outcome, Waker};
use crate::transport::{Closed, Connection};
use crate::wire::{
    DecodeError, FrameKind, ToDriver, ToWorker, decode_to_driver, decode_to_worker,
    encode_to_driver, encode_to_worker,
};

/// Messages that a channel holds before its sender waits.
const CHANNEL_CAPACITY: usize = 4096;

/// With more messages than this in a channel, what can wait should.
const MANY_WAITING: usize = 8;

/// A message that one side of a control link sends.
pub trait ControlMessage: Sized {
    /// The kind of its frames.
    const KIND: FrameKind;
    /// Appends it as a frame.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads it from the head of a frame.
    fn decode(head: &[u8]) -> Result<Self, DecodeError>;
}

impl ControlMessage for ToDriver {
    const KIND: FrameKind = FrameKind::ToDriver;
    fn encode(&self, out: &mut Vec<u8>) {
        encode_to_driver(self, out);
    }
    fn decode(head: &[u8]) -> Result<Self, DecodeError> {
        decode_to_driver(head)
    }
}

impl ControlMessage for ToWorker {
    const KIND: FrameKind = FrameKind::ToWorker;
    fn encode(&self, out: &mut Vec<u8>) {
        encode_to_worker(self, out);
    }
    fn decode(head: &[u8]) -> Result<Self, DecodeError> {
        decode_to_worker(head)
    }
}

/// One side of a control link, which sends `O` and receives `I`.
#[derive(Debug)]
pub enum Endpoint<O, I> {
    /// To another process.
    Stream(Connection),
    /// To another thread.
    Local(LocalLink<O, I>),
}

/// One side of a control link within a process.
#[derive(Debug)]
pub struct LocalLink<O, I> {
    outgoing: Sender<O>,
    incoming: Receiver<I>,
    /// Wakes the other side.
    waker: Waker,
}

impl<O, I> LocalLink<O, I> {
    /// Both sides of a link, given how to wake each: `(of the first, of the second)`.
    pub fn pair(first: Waker, second: Waker) -> (LocalLink<O, I>, LocalLink<I, O>) {
        let (to_second, from_first) = bounded(CHANNEL_CAPACITY);
        let (to_first, from_second) = bounded(CHANNEL_CAPACITY);
        (
            LocalLink { outgoing: to_second, incoming: from_second, waker: second },
            LocalLink { outgoing: to_first, incoming: from_first, waker: first },
        )
    }
}

impl<O: ControlMessage, I: ControlMessage> Endpoint<O, I> {
    /// Sends a message.
    pub fn send(&mut self, message: O) -> Result<(), Closed> {
        match self {
            Endpoint::Stream(connection) => {
                connection.send(|out| message.encode(out));
                Ok(())
            }
            Endpoint::Local(link) => {
                let result = match link.outgoing.try_send(message) {
                    Ok(()) => Ok(()),
                    // Credit between cores keeps both directions from filling at once.
                    Err(TrySendError::Full(message)) => {
                        link.waker.wake();
                        link.outgoing.send(message).map_err(|_| Closed::ByPeer)
                    }
                    Err(TrySendError::Disconnected(_)) => Err(Closed::ByPeer),
                };
                link.waker.wake();
                result
            }
        }
    }

    /// Sends a message that the other side need not hear of before it looks by itself, as it does
    /// several times a second: a thread of this process is not woken for it. Where there is no room, it is
    /// left out: another one follows.
    pub fn send_quietly(&mut self, message: O) -> Result<(), Closed> {
        match self {
            Endpoint::Stream(_) => self.send(message),
            Endpoint::Local(link) => match link.outgoing.try_send(message) {
                Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
                Err(TrySendError::Disconnected(_)) => Err(Closed::ByPeer),
            },
        }
    }

    /// Appends what has arrived.
    pub fn receive(&mut self, messages: &mut Vec<I>) -> Result<(), Closed> {
        match self {
            Endpoint::Stream(connection) => {
                while let Some(frame) = connection.next_frame()? {
                    if frame.kind != I::KIND {
                        return Err(Closed::Protocol(format!("a frame {} came", frame.kind)));
                    }
                    messages.push(I::decode(frame.head)?);
                }
                Ok(())
            }
            Endpoint::Local(link) => loop {
                match link.incoming.try_recv() {
                    Ok(message) => messages.push(message),
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => return Err(Closed::ByPeer),
                }
            },
        }
    }

    /// Takes the outcome of an operation on its connection.
    pub fn completed(&mut self, outcome: Outcome) -> Result<(), Closed> {
        match self {
            Endpoint::Stream(connection) => connection.completed(outcome),
            Endpoint::Local(_) => unreachable!("a channel has no operations"),
        }
    }

    /// Starts what can be started.
    pub fn drive(&mut self, io: &mut dyn Io) {
        if let Endpoint::Stream(connection) = self {
            connection.drive(io);
        }
    }

    /// Ends the connection, as far as it is one: a channel ends with its endpoint.
    pub fn hang_up(&self) {
        match self {
            Endpoint::Stream(connection) => connection.hang_up(),
            Endpoint::Local(_) => {}
        }
    }

    /// Whether so much waits to be sent that what can wait should.
    pub fn is_congested(&self) -> bool {
        match self {
            Endpoint::Stream(connection) => connection.is_congested(),
            Endpoint::Local(link) => link.outgoing.len() > MANY_WAITING,
        }
    }

    /// Whether everything sent is on its way.
    pub fn is_flushed(&self) -> bool {
        match self {
            Endpoint::Stream(connection) => connection.is_flushed(),
            Endpoint::Local(_) => true,
        }
    }

    /// The other side, for messages that people read.
    pub fn peer(&self) -> String {
        match self {
            Endpoint::Stream(connection) => connection.peer().to_owned(),
            Endpoint::Local(_) => "a thread of this process".to_owned(),
        }
    }
}
