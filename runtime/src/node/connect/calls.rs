//! Calls to peers. A call may wait for another host, so each has a thread of its own for as long as
//! it takes; the control loop does not wait.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use drizzle_scheduler::{Life, WorkerId};

use super::shared;
use crate::clock::monotonic_now;
use crate::core::{LinkPlan, Meeting};
use crate::io::Waker;
use crate::transport::{Rendezvous, is_within_host};
use crate::wire::{DataHead, Peer, encode_data};

/// How long a peer may take to answer a call.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Calls at the same time.
const MAX_UNDER_WAY: usize = 8;
/// From one call to the next.
const PAUSE_NS: u64 = 100_000_000;
/// A peer that could not be reached for so long is reported.
const REPORT_AFTER_NS: u64 = 1_000_000_000;

/// See the module's text.
pub(super) struct Calls {
    own: Life,
    waker: Waker,
    calls: BTreeMap<WorkerId, Call>,
    under_way: usize,
    give: Sender<Answer>,
    answers: Receiver<Answer>,
    failures: Vec<(Life, String)>,
}

/// A peer that is to be reached.
struct Call {
    peer: Peer,
    since_ns: u64,
    step: Step,
    is_reported: bool,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is to be made then.
    Due(u64),
    UnderWay,
}

/// What came of a call.
struct Answer {
    life: Life,
    result: Result<LinkPlan, String>,
    notices: Vec<String>,
}

impl Calls {
    pub(super) fn new(own: Life, waker: Waker) -> Calls {
        let (give, answers) = bounded(MAX_UNDER_WAY);
        let (calls, failures) = (BTreeMap::new(), Vec::new());
        Calls { own, waker, calls, under_way: 0, give, answers, failures }
    }

    /// Goes on until the peer is reached.
    pub(super) fn call(&mut self, peer: &Peer) {
        let now_ns = monotonic_now();
        let step = Step::Due(now_ns);
        let new = || Call { peer: peer.clone(), since_ns: now_ns, step, is_reported: false };
        self.calls.entry(peer.worker).or_insert_with(new);
    }

    /// Goes on with those only.
    pub(super) fn keep(&mut self, mut is_wanted: impl FnMut(Life) -> bool) {
        self.calls.retain(|_, call| is_wanted(call.peer.life()));
    }

    /// Takes answers and makes the calls that are due; connections that were made.
    pub(super) fn step(&mut self, now_ns: u64, notices: &mut Vec<String>) -> Vec<LinkPlan> {
        let mut links = Vec::new();
        while let Ok(Answer { life, result, notices: said }) = self.answers.try_recv() {
            self.under_way -= 1;
            let Some(call) = self.calls.get_mut(&life.worker) else { continue };
            if call.peer.life() != life {
                continue;
            }
            match result {
                Ok(link) => {
                    notices.extend(said);
                    self.calls.remove(&life.worker);
                    links.push(link);
                }
                Err(reason) => {
                    call.step = Step::Due(now_ns + PAUSE_NS);
                    let is_late = now_ns.saturating_sub(call.since_ns) >= REPORT_AFTER_NS;
                    if is_late && !std::mem::replace(&mut call.is_reported, true) {
                        self.failures.push((life, reason));
                    }
                }
            }
        }
        for call in self.calls.values_mut() {
            if self.under_way < MAX_UNDER_WAY
                && matches!(call.step, Step::Due(due_ns) if due_ns <= now_ns)
            {
                call.step = Step::UnderWay;
                self.under_way += 1;
                begin(self.own, call.peer.clone(), &self.give, &self.waker);
            }
        }
        links
    }

    /// When the next call is due. One that waits for others begins when they answer.
    pub(super) fn due_ns(&self) -> Option<u64> {
        if self.under_way >= MAX_UNDER_WAY {
            return None;
        }
        let due = self.calls.values().filter_map(|call| match call.step {
            Step::Due(due_ns) => Some(due_ns),
            Step::UnderWay => None,
        });
        due.min()
    }

    pub(super) fn take_failures(&mut self) -> Vec<(Life, String)> {
        std::mem::take(&mut self.failures)
    }
}

/// Calls on a thread of its own.
fn begin(own: Life, peer: Peer, give: &Sender<Answer>, waker: &Waker) {
    let answer = {
        let (give, waker, life) = (give.clone(), waker.clone(), peer.life());
        move |result: Result<LinkPlan, String>, notices: Vec<String>| {
            // A worker that has ended wants no answer.
            let _ = give.try_send(Answer { life, result, notices });
            waker.wake();
        }
    };
    let life = peer.life();
    let call = move || {
        let mut notices = Vec::new();
        let result = call(own, &peer, &mut notices);
        answer(result, notices);
    };
    let thread = std::thread::Builder::new().name("call".to_owned()).spawn(call);
    if let Err(error) = thread {
        let result = Err(format!("cannot start a thread: {error}"));
        let _ = give.try_send(Answer { life, result, notices: Vec::new() });
        waker.wake();
    }
}

fn call(own: Life, peer: &Peer, notices: &mut Vec<String>) -> Result<LinkPlan, String> {
    let cannot = |error: std::io::Error| {
        format!("cannot reach {} at {}: {error}", peer.worker, peer.address)
    };
    let stream = TcpStream::connect_timeout(&peer.address, CONNECT_LIMIT).map_err(cannot)?;
    let rendezvous = is_within_host(&stream).then(|| Rendezvous::new().map(Meeting::Expected));
    let meeting = shared(peer.worker, rendezvous, notices);
    let rendezvous = match &meeting {
        Some(Meeting::Expected(rendezvous)) => Some(rendezvous.name()),
        Some(Meeting::Met(_)) | None => None,
    };
    let (Life { worker, incarnation }, to) = (own, peer.worker);
    let hello = DataHead::Hello { worker, incarnation, to, rendezvous };
    let mut bytes = Vec::new();
    encode_data(&hello, 0, &mut bytes);
    std::io::Write::write_all(&mut &stream, &bytes).map_err(cannot)?;
    Ok(LinkPlan { worker: peer.worker, incarnation: peer.incarnation, stream, meeting })
}
