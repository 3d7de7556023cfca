//! Streams that a ring holds: their places in its table of files, and what has arrived ahead of the
//! operations that ask for it. No system call is made here; [`super::uring`] does what is decided.
//!
//! A stream that carries little is received from by one standing operation, which takes a provided
//! buffer for whatever comes: it costs no submission and no system call per message. What came is
//! copied to who asks for it, so this is for messages and not for bulk. A stream that brings more at
//! once than a few buffers is *busy*: the standing operation is taken back, and bytes are received
//! straight to where they are wanted, until one such receive brings little. Memory that was lent as the
//! place where a body will stay is never copied to while it can be received to.
//!
//! The buffers belong to all streams of a ring. When they are used up the kernel ends the standing
//! operations that wanted one, and those streams receive once per operation, to memory that whoever
//! asks brings along. So a stream that nobody asks about cannot starve the others, and
//! what it does not take waits at its sender, as ever.
//!
//! A process that is killed leaves its ring to the kernel, which takes it apart in the background and only
//! then closes what is in the table: peers saw such a stream end after 27 to 48 ms (Linux 6.18, 15
//! kills), one with a receive under way that named its descriptor after 5 to 33 ms, and one that no ring knew
//! after 0.3 ms. So what must tell of a death at once, the connection between worker and driver, is held
//! by no ring.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};

use super::buffers::{Piece, ProvidedBuffers};
use super::flight::{Event, Own};
use super::{Completion, MESSAGE, Op, Outcome, Token};

/// So many bytes at once make a stream busy.
const MUCH: usize = 16 << 10;
/// So few make it calm again.
const LITTLE: usize = MESSAGE;

/// The streams, by their places.
pub(super) struct HeldStreams {
    streams: Vec<Option<Held>>,
    vacant: Vec<usize>,
    /// Places by descriptor.
    places: Vec<Option<usize>>,
    /// Receives that wait for bytes to arrive.
    waiting: usize,
    /// Whether receives may be standing.
    ahead: Ahead,
}

/// Whether the ring has buffers for what arrives unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Possible,
    Refused,
}

struct Held {
    stream: Weak<TcpStream>,
    descriptor: usize,
    file: File,
    receiving: Receiving,
    pace: Pace,
    arrived: VecDeque<Piece>,
    /// How the last standing receive ended, if that is to be told after what arrived.
    end: Option<End>,
    waiting: Option<(Token, Op)>,
}

/// A stream's place in the ring's table of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    /// On its way into the table.
    Installing,
    Installed,
    /// The ring could not take it: it goes by its descriptor.
    Refused,
    /// On its way out.
    Leaving,
}

/// What receives from it at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Nothing,
    Standing {
        flight: usize,
    },
    /// The standing receive has been taken back and has not ended.
    Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Calm,
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer sends no more, which is the answer from now on.
    Closed,
    Failed(i32),
}

/// What is to be done for a stream.
pub(super) enum Step {
    /// Nothing before the next completion.
    Rest,
    /// A receive that waited has come to its end.
    Done(Completion),
    /// The standing receive is to be started.
    Stand,
    /// The standing receive, this flight, is to be taken back.
    Stop(usize),
    /// The operation is to be started as it is.
    Once(Token, Op),
    /// Nobody has the stream any more: its place is to be cleared.
    Leave,
}

impl HeldStreams {
    /// Room for so many streams.
    pub(super) fn new(places: usize, ahead: Ahead) -> Self {
        HeldStreams {
            streams: (0..places).map(|_| None).collect(),
            vacant: (0..places).rev().collect(),
            places: Vec::new(),
            waiting: 0,
            ahead,
        }
    }

    /// Takes a stream, if there is a place: where it is to be installed.
    pub(super) fn take(&mut self, stream: &Arc<TcpStream>) -> Option<usize> {
        if self.place_of(stream).is_some() {
            return None;
        }
        let place = self.vacant.pop()?;
        let descriptor = descriptor(stream);
        self.streams[place] = Some(Held {
            stream: Arc::downgrade(stream),
            descriptor,
            file: File::Installing,
            receiving: Receiving::Nothing,
            pace: Pace::Calm,
            arrived: VecDeque::new(),
            end: None,
            waiting: None,
        });
        if self.places.len() <= descriptor {
            self.places.resize(descriptor + 1, None);
        }
        self.places[descriptor] = Some(place);
        Some(place)
    }

    /// The place of a stream that is held.
    pub(super) fn place_of(&self, stream: &Arc<TcpStream>) -> Option<usize> {
        let place = (*self.places.get(descriptor(stream))?)?;
        let held = self.streams[place].as_ref()?;
        std::ptr::eq(held.stream.as_ptr(), Arc::as_ptr(stream)).then_some(place)
    }

    /// The same, if operations may name it.
    pub(super) fn file_of(&self, stream: &Arc<TcpStream>) -> Option<usize> {
        let is_installed = |&place: &usize| self.held(place).file == File::Installed;
        self.place_of(stream).filter(is_installed)
    }

    /// Places whose streams nobody has any more, which may need a [`step`](Self::step).
    pub(super) fn abandoned(&self) -> impl Iterator<Item = usize> {
        let is_abandoned = |held: &Held| held.stream.strong_count() == 0;
        let streams = self.streams.iter().enumerate();
        streams.filter(move |(_, held)| held.as_ref().is_some_and(is_abandoned)).map(|(at, _)| at)
    }

    /// Receives that wait for bytes to arrive.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A receive of the stream at `place`.
    pub(super) fn ask(&mut self, place: usize, token: Token, op: Op) {
        let held = self.held_mut(place);
        assert!(held.waiting.is_none(), "one receive a stream");
        held.waiting = Some((token, op));
        self.waiting += 1;
    }

    /// Takes note of what a completion tells; which stream may now have something to do. What is done
    /// is appended.
    pub(super) fn note(
        &mut self,
        event: Event,
        result: i32,
        completions: &mut Vec<Completion>,
    ) -> Option<usize> {
        match event {
            Event::CutShort | Event::Over(Own::Cancel { .. }) => None,
            Event::Completed(completion, brought) => {
                completions.push(completion);
                let (place, count) = brought?;
                if count < LITTLE {
                    self.held_mut(place).pace = Pace::Calm;
                }
                Some(place)
            }
            Event::Stands { place } => Some(place),
            Event::Over(Own::Stand { place }) => {
                self.ended(place, result);
                Some(place)
            }
            Event::Over(Own::Install { place, .. }) => {
                let file = if result == 1 { File::Installed } else { File::Refused };
                self.held_mut(place).file = file;
                Some(place)
            }
            Event::Over(Own::Leave { place }) => {
                self.left(place);
                None
            }
        }
    }

    /// The place has been cleared.
    fn left(&mut self, place: usize) {
        let held = self.streams[place].take().expect("only taken places are cleared");
        assert!(held.waiting.is_none() && held.arrived.is_empty(), "it has come to its end");
        if self.places[held.descriptor] == Some(place) {
            self.places[held.descriptor] = None;
        }
        self.vacant.push(place);
    }

    pub(super) fn stands(&mut self, place: usize, flight: usize) {
        let held = self.held_mut(place);
        assert!(held.receiving == Receiving::Nothing, "one receive a stream");
        held.receiving = Receiving::Standing { flight };
    }

    pub(super) fn stops(&mut self, place: usize) {
        self.held_mut(place).receiving = Receiving::Stopping;
    }

    /// The standing receive has brought something.
    pub(super) fn arrived(&mut self, place: usize, piece: Piece) {
        self.held_mut(place).arrived.push_back(piece);
    }

    /// The standing receive has come to its end.
    fn ended(&mut self, place: usize, result: i32) {
        let held = self.held_mut(place);
        held.receiving = Receiving::Nothing;
        match -result {
            0 => held.end = Some(End::Closed),
            // It ended with a piece, because the completion queue was full.
            code if code < 0 => {}
            libc::ECANCELED => {}
            // Other streams have all buffers: it need not ask for them again before it is calm.
            libc::ENOBUFS => held.pace = Pace::Busy,
            code => held.end = Some(End::Failed(code)),
        }
    }

    /// What to do for a stream now.
    pub(super) fn step(&mut self, place: usize, buffers: Option<&mut ProvidedBuffers>) -> Step {
        let Some(held) = &mut self.streams[place] else { return Step::Rest };
        let Some((token, op)) = held.waiting.take() else { return held.idle(buffers) };
        let outcome = match held.end {
            _ if !held.arrived.is_empty() => {
                held.serve(op, buffers.expect("what arrived lies in them"))
            }
            Some(End::Failed(code)) => {
                held.end = None;
                op.failed(io::Error::from_raw_os_error(code))
            }
            Some(End::Closed) => at_the_end(op),
            None => return self.receive(place, token, op),
        };
        self.waiting -= 1;
        Step::Done(Completion { token, outcome })
    }

    /// What to do for a receive for which nothing has arrived.
    fn receive(&mut self, place: usize, token: Token, op: Op) -> Step {
        let ahead = self.ahead;
        let held = self.held_mut(place);
        let refused = ahead == Ahead::Refused || held.file == File::Refused;
        let direct = held.goes_past(&op) || refused;
        let (step, kept) = match (held.receiving, direct) {
            (Receiving::Standing { flight }, true) => (Step::Stop(flight), Some(op)),
            (Receiving::Standing { .. } | Receiving::Stopping, _) => (Step::Rest, Some(op)),
            (Receiving::Nothing, _) if held.file == File::Installing => (Step::Rest, Some(op)),
            (Receiving::Nothing, true) => (Step::Once(token, op), None),
            (Receiving::Nothing, false) => (Step::Stand, Some(op)),
        };
        match kept {
            Some(op) => held.waiting = Some((token, op)),
            None => self.waiting -= 1,
        }
        step
    }

    /// The receives that wait, and what arrived is given back: the driver closes.
    pub(super) fn close(&mut self, mut buffers: Option<&mut ProvidedBuffers>) -> Vec<(Token, Op)> {
        let mut waiting = Vec::new();
        self.waiting = 0;
        for held in self.streams.iter_mut().flatten() {
            waiting.extend(held.waiting.take());
            for piece in held.arrived.drain(..) {
                buffers.as_mut().expect("what arrived lies in them").give_back(piece);
            }
        }
        waiting
    }

    fn held(&self, place: usize) -> &Held {
        self.streams[place].as_ref().expect("only taken places are asked for")
    }

    fn held_mut(&mut self, place: usize) -> &mut Held {
        self.streams[place].as_mut().expect("only taken places are asked for")
    }
}

impl Held {
    /// Whether an operation wants its bytes where it says, and not by way of buffers.
    fn goes_past(&mut self, op: &Op) -> bool {
        match op {
            Op::Land { .. } => {
                self.pace = Pace::Busy;
                true
            }
            // Who asks for little while there may be more has a place for what follows.
            Op::Recv { .. } => self.pace == Pace::Busy || !op.takes_anything(),
            Op::Accept { .. } | Op::Send { .. } => unreachable!("{op:?} receives nothing"),
        }
    }

    /// What to do for a stream that nobody asks about.
    fn idle(&mut self, mut buffers: Option<&mut ProvidedBuffers>) -> Step {
        if self.stream.strong_count() > 0 || matches!(self.file, File::Installing | File::Leaving) {
            return Step::Rest;
        }
        for piece in self.arrived.drain(..) {
            buffers.as_mut().expect("what arrived lies in them").give_back(piece);
        }
        match self.receiving {
            Receiving::Standing { flight } => Step::Stop(flight),
            Receiving::Stopping => Step::Rest,
            Receiving::Nothing => {
                self.file = File::Leaving;
                Step::Leave
            }
        }
    }

    /// Hands over what has arrived, as much as is asked for.
    fn serve(&mut self, op: Op, buffers: &mut ProvidedBuffers) -> Outcome {
        match op {
            Op::Recv { mut buffer, limit, .. } => {
                let room = limit.min(buffer.capacity() - buffer.len());
                let count = self.pour(room, buffers, |bytes| buffer.extend_from_slice(bytes));
                if count >= MUCH {
                    self.pace = Pace::Busy;
                }
                Outcome::Received { buffer, result: Ok(count) }
            }
            Op::Land { mut landing, .. } => {
                self.pace = Pace::Busy;
                let room = landing.missing();
                let count = self.pour(room, buffers, |bytes| {
                    let filled = landing.fill(bytes);
                    assert!(filled == bytes.len(), "no more than is missing");
                });
                Outcome::Landed { landing, result: Ok(count) }
            }
            Op::Accept { .. } | Op::Send { .. } => unreachable!("{op:?} receives nothing"),
        }
    }

    /// Takes at most so many bytes of what has arrived.
    fn pour(
        &mut self,
        room: usize,
        buffers: &mut ProvidedBuffers,
        mut take: impl FnMut(&[u8]),
    ) -> usize {
        let mut left = room;
        while left > 0
            && let Some(piece) = self.arrived.front_mut()
        {
            let count = left.min(piece.len());
            take(&buffers.bytes(piece)[..count]);
            piece.skip(count);
            left -= count;
            if piece.len() == 0 {
                let piece = self.arrived.pop_front().expect("it was there just now");
                buffers.give_back(piece);
            }
        }
        room - left
    }
}

/// How a receive ends on a stream whose peer sends no more.
fn at_the_end(op: Op) -> Outcome {
    match op {
        Op::Recv { buffer, .. } => Outcome::Received { buffer, result: Ok(0) },
        Op::Land { landing, .. } => Outcome::Landed { landing, result: Ok(0) },
        Op::Accept { .. } | Op::Send { .. } => unreachable!("{op:?} receives nothing"),
    }
}

fn descriptor(stream: &Arc<TcpStream>) -> usize {
    usize::try_from(stream.as_raw_fd()).expect("an open descriptor is not negative")
}
