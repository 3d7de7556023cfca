//! Mailboxes between all cores of a process, one for each ordered pair, so that each has a single
//! producer and a single consumer.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use drizzle_scheduler::message::TakenRange;
use drizzle_scheduler::{BatchId, CoreId, Life, PartitionId, StageId, WorkerId};
use drizzle_shuffle::{Block, Bundle};

use crate::io::{Inbox, Outbox, Waker, inbox};

/// What cores of a process have for each other.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// A block, handed over by pointer.
    Block(Block),
    /// Credit: a core has finished all batches up to this one.
    Completed {
        /// The core that has.
        from: CoreId,
        /// The batch.
        batch: BatchId,
    },
    /// Ranges that the blocks behind it depend on, and that may not be recorded yet.
    Ranges {
        /// Who says so.
        from: Life,
        /// The ranges.
        ranges: Arc<[TakenRange]>,
    },
    /// The state of a partition that moves.
    State(Arc<StateParcel>),
}

/// The state of a partition that moves to another core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateParcel {
    /// Its owner before.
    pub from: Life,
    /// The stage.
    pub stage: StageId,
    /// The partition.
    pub partition: PartitionId,
    /// The last batch that it includes.
    pub batch: BatchId,
    /// It is what changed after this batch; everything where there is none.
    pub since: Option<BatchId>,
    /// Its bytes, as the stage has frozen them.
    pub piece: Arc<[u8]>,
}

/// What lies in a mailbox.
#[derive(Debug)]
pub enum CoreMail {
    /// For the core that the mailbox belongs to.
    Deliver(Parcel),
    /// For another worker, whose connection the mailbox's owner has.
    Relay {
        /// The worker that it is for.
        to: WorkerId,
        /// What it is.
        cargo: Cargo,
    },
}

/// What a core has for the cores of another worker.
#[derive(Clone, Debug)]
pub enum Cargo {
    /// All blocks of a batch and edge, which travel together.
    Blocks(Bundle),
    /// Credit: a core has finished all batches up to this one.
    Completed {
        /// The core that has.
        from: CoreId,
        /// Number of the core that is told.
        to_core: u16,
        /// The batch.
        batch: BatchId,
    },
    /// Ranges that the blocks behind it depend on.
    Ranges {
        /// Number of the core that is told.
        to_core: u16,
        /// The ranges.
        ranges: Arc<[TakenRange]>,
    },
    /// The state of a partition that moves.
    State {
        /// Number of its new core.
        to_core: u16,
        /// The state.
        state: Arc<StateParcel>,
    },
}

/// Messages that all mailboxes of a core hold together. One that is full makes its sender queue, and
/// credit bounds that queue.
const MAILS_PER_CORE: usize = 4096;
/// How long the cores of a process may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The place where the cores of a process meet while they start.
#[derive(Debug)]
pub struct Mesh {
    expected: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wakers: BTreeMap<CoreId, Waker>,
    places: BTreeMap<CoreId, MeshPlace>,
    ready: bool,
}

/// A core's ends of its mailboxes.
#[derive(Debug, Default)]
pub struct MeshPlace {
    /// To every other core of the process.
    pub outboxes: BTreeMap<CoreId, Outbox<CoreMail>>,
    /// From every other core of the process.
    pub inboxes: Vec<Inbox<CoreMail>>,
}

/// Another core of the process did not start.
#[derive(Debug, thiserror::Error)]
#[error("only {present} of {expected} cores of this process have started")]
pub struct MeshError {
    present: usize,
    expected: usize,
}

impl Mesh {
    /// A mesh of so many cores.
    pub fn new(expected: usize) -> Mesh {
        Mesh { expected, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Brings a core in, and waits for the others.
    pub fn join(&self, core: CoreId, waker: Waker) -> Result<MeshPlace, MeshError> {
        self.enter(core, waker);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, START_LIMIT, |state| !state.ready);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (present, expected) = (state.wakers.len(), self.expected);
        state.places.remove(&core).ok_or(MeshError { present, expected })
    }

    /// Brings a core in. All are woken when the last one is there.
    pub fn enter(&self, core: CoreId, waker: Waker) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wakers.insert(core, waker);
        if state.wakers.len() == self.expected {
            connect_all(&mut state);
            self.changed.notify_all();
            state.wakers.values().for_each(Waker::wake);
        }
    }

    /// The place of a core that is in, once all are.
    pub fn place(&self, core: CoreId) -> Option<MeshPlace> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.places.remove(&core)
    }
}

fn connect_all(state: &mut State) {
    let cores: Vec<CoreId> = state.wakers.keys().copied().collect();
    let capacity = (MAILS_PER_CORE / cores.len()).clamp(32, 1024);
    for &from in &cores {
        for &to in cores.iter().filter(|&&to| to != from) {
            let (outbox, inbox) = inbox(capacity, state.wakers[&to].clone());
            state.places.entry(from).or_default().outboxes.insert(to, outbox);
            state.places.entry(to).or_default().inboxes.push(inbox);
        }
        state.places.entry(from).or_default();
    }
    state.ready = true;
}
