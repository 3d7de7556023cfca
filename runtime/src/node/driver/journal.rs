//! The driver's journal: opened before anything else, and kept by a thread that may wait for a disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use drizzle_scheduler::driver::{DriverEvent, Durability};
use drizzle_scheduler::journal::{AppendFailure, JournalEntry, JournalState};
use drizzle_scheduler::plan::Plan;
use drizzle_scheduler::{Incarnation, Life, Sequence, Term};

use super::{DriverConfig, DriverNode, Phase};
use crate::clock::monotonic_now;
use crate::dataflow::Job;
use crate::io::Waker;
use crate::node::savepoint::begin_from;
use crate::node::{JobDurability, NodeError};
use crate::storage::{AppendError, Desk, Folder, JournalRead, Operator, Storage, StorageError};

/// A checkpoint that takes so many times as long as there is between two is abandoned,
const ABANDON_FACTOR: u64 = 10;
/// but not before so long.
const ABANDON_NS: u64 = 10_000_000_000;
/// Answers that wait: the driver asks for one thing at a time.
const ANSWERS: usize = 64;
/// Of every worker's lives the driver of a term begins the first `1 << 32`, in its own numbers.
const LIVES_OF_A_TERM: u32 = 32;

/// What a driver begins with.
pub(super) struct Opening {
    /// Its life.
    pub(super) term: Term,
    /// What outlives a process.
    pub(super) durability: Durability,
    /// The first life that it gives a worker.
    pub(super) next_incarnation: Incarnation,
    /// Workers that an earlier driver had, and that may come back.
    pub(super) expected: Vec<Life>,
    /// Whether there was an earlier driver.
    pub(super) is_resumed: bool,
    /// What a person should know, a line each.
    pub(super) notices: Vec<String>,
    /// Where there is a journal: who keeps it.
    pub(super) keeper: Option<Keeper>,
}

impl Opening {
    /// Opens the job's folder, if it has one.
    pub(super) fn new(
        config: &DriverConfig,
        plan: &Plan,
        waker: Waker,
    ) -> Result<Opening, NodeError> {
        match &config.durability {
            JobDurability::None => Ok(Opening {
                term: Term(1),
                durability: Durability::None,
                next_incarnation: Incarnation(1),
                expected: Vec::new(),
                is_resumed: false,
                notices: Vec::new(),
                keeper: None,
            }),
            JobDurability::Folder { path, checkpoint_interval } => {
                open_folder(path, plan, *checkpoint_interval, config, waker)
            }
        }
    }
}

/// Whether a driver may begin: its folder is this job's, and holds an earlier run only where one is to go
/// on. To be asked before outputs of an earlier run are removed.
pub fn check_folder(config: &DriverConfig, job: &Job) -> Result<(), NodeError> {
    match &config.durability {
        JobDurability::None => Ok(()),
        JobDurability::Folder { path, .. } => {
            read_folder(path, job.plan(), config.resume).map(|_| ())
        }
    }
}

/// Opens a folder, which becomes this job's, and reads its journal.
fn read_folder(
    path: &Path,
    plan: &Plan,
    resume: bool,
) -> Result<(Arc<Folder>, JournalRead), NodeError> {
    let wrong = |error: StorageError| NodeError::Setup(error.to_string());
    plan.validate_durable().map_err(|error| {
        NodeError::Setup(format!("this job cannot be kept in a folder: {error}"))
    })?;
    let folder = Arc::new(Folder::open(path).map_err(wrong)?);
    folder.claim(plan.fingerprint, &plan.name).map_err(wrong)?;
    let mut read = folder.read_journal().map_err(wrong)?;
    let (is_new, shown) = (read.state.next == JournalState::EMPTY.next, path.display());
    match (is_new, resume) {
        (true, false) | (false, true) => {}
        (true, true) => {
            let line = format!("{shown} holds no earlier run of this job: it begins anew");
            read.notices.push(line);
        }
        (false, false) => {
            return Err(NodeError::Setup(format!(
                "{shown} holds an earlier run of this job: add --resume to go on with it, \
                 or choose another folder"
            )));
        }
    }
    Ok((folder, read))
}

fn open_folder(
    path: &Path,
    plan: &Plan,
    checkpoint_interval: Duration,
    config: &DriverConfig,
    waker: Waker,
) -> Result<Opening, NodeError> {
    let (folder, read) = read_folder(path, plan, config.resume)?;
    let JournalRead { mut state, mut notices } = read;
    let mut is_new = state.next == JournalState::EMPTY.next;
    if let (true, Some(savepoint)) = (is_new, &config.savepoint) {
        let wrong = |error: StorageError| NodeError::Setup(error.to_string());
        let batch = begin_from(savepoint, &*folder, plan).map_err(wrong)?;
        notices.push(format!("it goes on after {batch} of the savepoint {}", savepoint.display()));
        state = folder.read_journal().map_err(wrong)?.state;
        is_new = false;
    }
    let term = Term(state.term.0 + 1);
    let desk = Desk::open(folder, "journal");
    let desk = desk.map_err(NodeError::io("cannot start the thread that keeps the journal"))?;
    let checkpoint_every_ns = checkpoint_interval.as_nanos() as u64;
    let abandon_after_ns = checkpoint_every_ns.saturating_mul(ABANDON_FACTOR).max(ABANDON_NS);
    Ok(Opening {
        term,
        durability: Durability::Journal { checkpoint_every_ns, abandon_after_ns },
        next_incarnation: first_life(term, &state),
        expected: who_may_come_back(&state),
        is_resumed: !is_new,
        notices,
        keeper: Some(Keeper::new(desk, waker)),
    })
}

/// No life has had that number, whichever driver began it.
fn first_life(term: Term, state: &JournalState) -> Incarnation {
    let last = state.members.iter().map(|(life, _)| life.incarnation.0).max();
    Incarnation((term.0 << LIVES_OF_A_TERM).max(last.unwrap_or(0)) + 1)
}

fn who_may_come_back(state: &JournalState) -> Vec<Life> {
    let lives = state.members.iter().map(|&(life, _)| life);
    lives.filter(|life| !state.fenced.contains(life)).collect()
}

/// What has become of a request.
enum Answer {
    Read(Result<JournalRead, StorageError>),
    Appended(Sequence),
    Refused(Sequence, AppendError),
    /// A savepoint that somebody asked for, by the number of their connection.
    Saved(u64, Result<String, String>),
}

/// Has the journal read and written elsewhere.
pub(super) struct Keeper {
    desk: Desk,
    give: Sender<Answer>,
    answers: Receiver<Answer>,
    waker: Waker,
    /// The last entry could not be written, which has been said.
    is_failing: bool,
    /// Whether this driver has its first entry.
    has_opened: bool,
    /// The driver that has taken over, if it is known.
    successor: Option<Term>,
}

impl Keeper {
    fn new(desk: Desk, waker: Waker) -> Keeper {
        let (give, answers) = bounded(ANSWERS);
        let (is_failing, has_opened, successor) = (false, false, None);
        Keeper { desk, give, answers, waker, is_failing, has_opened, successor }
    }

    /// Has something done on the thread that may wait; `sequence` is refused if it cannot be asked for.
    fn ask(
        &self,
        sequence: Sequence,
        errand: impl FnOnce(&dyn Storage) -> Answer + Send + 'static,
    ) {
        let (give, waker) = (self.give.clone(), self.waker.clone());
        let asked = self.desk.ask(move |storage| {
            // A driver that has ended wants no answer.
            let _ = give.send(errand(storage));
            waker.wake();
        });
        if let Err(closed) = asked {
            let refused = StorageError(closed.to_string());
            let _ = self.give.try_send(Answer::Refused(sequence, refused.into()));
            self.waker.wake();
        }
    }

    pub(super) fn read(&self) {
        self.ask(Sequence(0), |storage| Answer::Read(storage.read_journal()));
    }

    pub(super) fn append(&self, entry: JournalEntry) {
        let sequence = entry.sequence;
        self.ask(sequence, move |storage| match storage.append(&entry) {
            Ok(()) => Answer::Appended(sequence),
            Err(error) => Answer::Refused(sequence, error),
        });
    }

    /// Makes a savepoint, for whoever asked by that connection.
    pub(super) fn save(&self, number: u64, to: PathBuf, operators: Vec<Operator>) {
        self.ask(Sequence(0), move |storage| {
            let shown = to.display().to_string();
            let saved = storage.save(&to, &operators).map_err(|error| error.to_string());
            Answer::Saved(number, saved.map(|batch| format!("{shown} holds {batch}")))
        });
    }

    /// One sentence about the driver that has taken over.
    pub(super) fn farewell(&self) -> String {
        let of_term = self.successor.map_or_else(String::new, |term| format!(" (of {term})"));
        format!("another driver{of_term} has taken over this job: this one ends")
    }
}

impl DriverNode<'_> {
    /// Tells the state machine what has become of the journal.
    pub(super) fn take_answers(&mut self) -> Result<(), NodeError> {
        loop {
            let Some(keeper) = &mut self.keeper else { return Ok(()) };
            let Ok(answer) = keeper.answers.try_recv() else { return Ok(()) };
            match answer {
                // What there is to say of it was said when it was opened.
                Answer::Read(Ok(JournalRead { state, notices: _ })) => {
                    if state.term >= self.term {
                        // Another one has begun between our first look and now.
                        keeper.successor = Some(state.term);
                        self.phase = Phase::Deposed;
                        return Ok(());
                    }
                    self.tell(DriverEvent::Journal(state));
                }
                Answer::Read(Err(error)) => return Err(NodeError::Job(error.to_string())),
                Answer::Appended(sequence) => {
                    keeper.is_failing = false;
                    if !std::mem::replace(&mut keeper.has_opened, true) {
                        self.watch.opened_ns = monotonic_now();
                    }
                    self.tell(DriverEvent::Appended { sequence });
                }
                Answer::Refused(sequence, error) => self.refused(sequence, &error),
                Answer::Saved(number, answer) => self.answer(number, answer),
            }
        }
    }

    fn refused(&mut self, sequence: Sequence, error: &AppendError) {
        let Some(keeper) = &mut self.keeper else { return };
        let failure = match error {
            AppendError::Deposed(term) => {
                keeper.successor = *term;
                AppendFailure::Deposed
            }
            AppendError::Unavailable(_) => {
                if !std::mem::replace(&mut keeper.is_failing, true) {
                    let line = format!("the journal cannot be written: {error}; trying again");
                    self.observer.notice(&line);
                }
                AppendFailure::Unavailable
            }
        };
        self.tell(DriverEvent::AppendFailed { sequence, failure });
    }
}
