//! What one core has of one partition: a thread that waits for the sender, and the lines that have come.
//!
//! The thread stops reading when [`ENOUGH`] bytes wait for the core, and so, by TCP, does the sender. It looks
//! up every [`TICK`], to acknowledge or to end, so nobody has to wake it from a read.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::SenderError;
use super::call::{Broken, Call};
use super::protocol::Answer;
use crate::clock::monotonic_now;
use crate::connectors::lines::whole_lines;

/// So many bytes may wait for the core, and one message more.
const ENOUGH: usize = 4 << 20;
/// Messages that come after each other are joined up to so many bytes.
const JOINED: usize = 256 << 10;
/// How long the thread waits where nobody will wake it.
const TICK: Duration = Duration::from_millis(50);
/// A sender that cannot be reached is tried again so soon, then less and less often,
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// for so long.
const PATIENCE_S: u64 = 60;
/// A connection that lives so long, or brings something, was none in vain.
const HEALTHY_NS: u64 = 1_000_000_000;
/// How long the last acknowledgement may take, when the job ends.
const FAREWELL_NS: u64 = 2_000_000_000;

/// Lines of a partition that lie together.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    bytes: Arc<Vec<u8>>,
    from: usize,
    to: usize,
}

impl Piece {
    fn new(bytes: Vec<u8>) -> Piece {
        let to = bytes.len();
        Piece { bytes: Arc::new(bytes), from: 0, to }
    }

    /// What lies there from its first byte on, which may be more than the piece.
    pub(super) fn memory(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    pub(super) fn len(&self) -> usize {
        self.to - self.from
    }

    /// Takes whole lines off its beginning, about `limit` bytes.
    fn split(&mut self, limit: u64) -> Piece {
        let length = whole_lines(&self.bytes[self.from..self.to], limit);
        let first = Piece { to: self.from + length, ..self.clone() };
        self.from = first.to;
        first
    }
}

/// What a core takes of a feed.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) pieces: Vec<Piece>,
    pub(super) length: u64,
    /// Nothing comes after it.
    pub(super) ended: bool,
}

/// See the module's text. Its thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Feed {
    shared: Arc<Shared>,
    /// Where the next line begins that the core takes; nothing if it only acknowledges.
    next: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    bytes: usize,
    ended: bool,
    failed: Option<SenderError>,
    notice: Option<String>,
    /// What is to be acknowledged.
    durable: Option<u64>,
    wish: Wish,
    /// The thread has ended.
    is_over: bool,
}

/// What a core wants of the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    GoOn,
    /// End once everything is acknowledged, but not after that time.
    Finish(u64),
    Stop,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has ended the process, or a test.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Feed {
    /// Starts the thread, which reads from `from` on, or only acknowledges.
    pub(super) fn start(
        address: Arc<str>,
        from: Option<u64>,
        durable: Option<u64>,
    ) -> std::io::Result<Feed> {
        let shared = Arc::new(Shared::default());
        shared.lock().durable = durable;
        let caller = Caller {
            shared: shared.clone(),
            address,
            next: from,
            told: None,
            ended: false,
            attempts: None,
        };
        thread::Builder::new().name("lines".to_owned()).spawn(move || caller.run())?;
        Ok(Feed { shared, next: from })
    }

    /// Where the next line begins that it gives out; nothing if it only acknowledges.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Takes whole lines that are there, about `limit` bytes and at least one.
    pub(super) fn take(&mut self, limit: u64) -> Result<Taken, SenderError> {
        let mut state = self.shared.lock();
        let was_full = state.bytes >= ENOUGH;
        let mut taken = Taken::default();
        while taken.length < limit
            && let Some(first) = state.pieces.front_mut()
        {
            let left = limit - taken.length;
            if !taken.pieces.is_empty() && first.len() as u64 > left {
                break;
            }
            let piece = first.split(left);
            if first.len() == 0 {
                state.pieces.pop_front();
            }
            state.bytes -= piece.len();
            taken.length += piece.len() as u64;
            taken.pieces.push(piece);
        }
        if taken.pieces.is_empty()
            && let Some(error) = state.failed.take()
        {
            return Err(error);
        }
        taken.ended = state.ended && state.pieces.is_empty();
        let is_full = state.bytes >= ENOUGH;
        drop(state);
        if was_full && !is_full {
            self.shared.changed.notify_all();
        }
        self.next = self.next.map(|next| next + taken.length);
        Ok(taken)
    }

    /// Has the sender told that it may forget what is before `offset`.
    pub(super) fn acknowledge(&self, offset: u64) {
        let mut state = self.shared.lock();
        state.durable = state.durable.max(Some(offset));
    }

    /// What was acknowledged, told or not.
    pub(super) fn durable(&self) -> Option<u64> {
        self.shared.lock().durable
    }

    pub(super) fn notice(&self) -> Option<String> {
        self.shared.lock().notice.take()
    }

    /// Asks the thread to end once everything is acknowledged.
    pub(super) fn finish(&self) {
        self.shared.lock().wish = Wish::Finish(monotonic_now() + FAREWELL_NS);
        self.shared.changed.notify_all();
    }

    /// Waits until it has ended, which it was asked to.
    pub(super) fn join(self) {
        let mut state = self.shared.lock();
        while !state.is_over {
            state = self.shared.wait(state, TICK);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.lock().wish = Wish::Stop;
        self.shared.changed.notify_all();
    }
}

/// The thread's side.
struct Caller {
    shared: Arc<Shared>,
    address: Arc<str>,
    /// The offset of what comes next; nothing if only acknowledgements are to be sent.
    next: Option<u64>,
    /// What the sender was told last, in this connection.
    told: Option<u64>,
    ended: bool,
    /// Attempts in vain, since the last one that was not.
    attempts: Option<Attempts>,
}

impl Caller {
    fn run(mut self) {
        loop {
            match self.converse() {
                Ok(()) => break,
                Err(Broken::Connection(reason)) => {
                    if !self.pause(&reason) {
                        break;
                    }
                }
                Err(Broken::Sender(error)) => {
                    self.fail(error);
                    break;
                }
            }
        }
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }

    /// One connection, from its beginning to its end.
    fn converse(&mut self) -> Result<(), Broken> {
        let mut call = Call::open(&self.address)?;
        self.told = None;
        self.tell(&mut call)?;
        if let Some(next) = self.next.filter(|_| !self.ended) {
            call.ask(next)?;
        }
        let mut news = Vec::new();
        let began_ns = monotonic_now();
        loop {
            let (wish, is_full) = self.look_up();
            self.tell(&mut call)?;
            match wish {
                // The sender has nothing to do any more, and may go.
                Wish::GoOn if self.ended && self.told == self.next => {
                    return call.hang_up(monotonic_now() + FAREWELL_NS);
                }
                Wish::GoOn => {}
                Wish::Finish(deadline_ns) => return call.hang_up(deadline_ns),
                Wish::Stop => return Ok(()),
            }
            if !is_full {
                call.listen(&mut news)?;
                if !news.is_empty() || monotonic_now() - began_ns > HEALTHY_NS {
                    self.is_well();
                }
                self.hand_over(&mut news);
            }
        }
    }

    /// Tells the sender what it may forget, if there is news.
    fn tell(&mut self, call: &mut Call) -> Result<(), Broken> {
        let durable = self.shared.lock().durable;
        if durable > self.told
            && let Some(offset) = durable
        {
            call.acknowledge(offset)?;
            self.told = durable;
        }
        Ok(())
    }

    /// What the core wants, and whether there is no room; waits a little for room.
    fn look_up(&self) -> (Wish, bool) {
        let mut state = self.shared.lock();
        if state.bytes >= ENOUGH && state.wish == Wish::GoOn {
            state = self.shared.wait(state, TICK);
        }
        (state.wish, state.bytes >= ENOUGH)
    }

    fn hand_over(&mut self, news: &mut Vec<Answer>) {
        if news.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for answer in news.drain(..) {
            match answer {
                Answer::Lines(lines) => {
                    self.next = self.next.map(|next| next + lines.len() as u64);
                    state.add(lines);
                }
                Answer::End(_) => {
                    state.ended = true;
                    self.ended = true;
                }
                Answer::Gone(_) => unreachable!("a call breaks with it"),
            }
        }
    }

    /// This connection is of use.
    fn is_well(&mut self) {
        if self.attempts.take().is_some() && self.next.is_some() {
            let line = format!("the sender at {} is there", self.address);
            self.shared.lock().notice = Some(line);
        }
    }

    /// Waits before the next attempt; whether there is to be one.
    fn pause(&mut self, reason: &str) -> bool {
        let is_first = self.attempts.is_none();
        let Some(pause) = self.attempts.get_or_insert_with(Attempts::begin).next_pause() else {
            let (seconds, reason) = (PATIENCE_S, reason.to_owned());
            self.fail(SenderError::Unreachable { seconds, reason });
            return false;
        };
        // A sender that has nothing to send any more may well be gone.
        let is_needed = self.next.is_some() && !self.ended;
        let mut state = self.shared.lock();
        if is_first && is_needed {
            let address = &self.address;
            state.notice = Some(format!(
                "no connection to the sender at {address} ({reason}): it is tried for {PATIENCE_S} s"
            ));
        }
        if state.wish == Wish::GoOn {
            state = self.shared.wait(state, pause);
        }
        match state.wish {
            Wish::GoOn => true,
            Wish::Finish(deadline_ns) => {
                drop(self.shared.wait(state, FIRST_PAUSE));
                monotonic_now() < deadline_ns
            }
            Wish::Stop => false,
        }
    }

    fn fail(&self, error: SenderError) {
        self.shared.lock().failed = Some(error);
    }
}

impl State {
    fn add(&mut self, lines: Vec<u8>) {
        self.bytes += lines.len();
        if let Some(last) = self.pieces.back_mut()
            && last.len() + lines.len() <= JOINED
            && let Some(bytes) = Arc::get_mut(&mut last.bytes)
        {
            bytes.extend_from_slice(&lines);
            last.to = bytes.len();
            return;
        }
        self.pieces.push_back(Piece::new(lines));
    }
}

/// A sender that is called in vain.
struct Attempts {
    since_ns: u64,
    pause: Duration,
}

impl Attempts {
    fn begin() -> Attempts {
        Attempts { since_ns: monotonic_now(), pause: FIRST_PAUSE }
    }

    /// How long to wait before it is called again; nothing if that was often enough.
    fn next_pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        (monotonic_now() - self.since_ns < PATIENCE_S * 1_000_000_000).then_some(pause)
    }
}
