//! The ways out of a core: by pointer to itself, by mailbox to a core of its process, over a connection
//! to any other.

use std::collections::VecDeque;

use drizzle_scheduler::{CoreId, Life, WorkerId};
use drizzle_shuffle::{Block, Bundle};

use super::laps::Doing;
use super::{Core, owner_of};
use crate::io::Outbox;
use crate::transport::{Cargo, CoreMail, Parcel};

impl Core {
    /// Brings a parcel on its way to a core: by pointer, mailbox or connection.
    pub(super) fn hand_over(&mut self, to: CoreId, parcel: Parcel) {
        if to == self.core {
            self.deliver(parcel, Doing::Send);
        } else if let Some(outgoing) = self.outboxes.get_mut(&to) {
            outgoing.send(CoreMail::Deliver(parcel));
            self.mail_waits |= outgoing.waits();
        } else {
            let cargo = match parcel {
                Parcel::Block(block) => Cargo::Blocks(Bundle::new(to.core, block)),
                Parcel::Completed { from, batch } => {
                    Cargo::Completed { from, to_core: to.core, batch }
                }
                Parcel::Ranges { ranges, .. } => Cargo::Ranges { to_core: to.core, ranges },
                Parcel::State(state) => Cargo::State { to_core: to.core, state },
            };
            self.ship(to.worker, cargo);
        }
    }

    /// Hands over what a task has written; blocks for one worker travel together.
    pub(super) fn hand_over_blocks(&mut self, blocks: &mut Vec<(CoreId, Block)>) {
        let mut bundle: Option<(WorkerId, Bundle)> = None;
        for (to, block) in blocks.drain(..) {
            if to == self.core || self.outboxes.contains_key(&to) {
                self.hand_over(to, Parcel::Block(block));
                continue;
            }
            let rest = match &mut bundle {
                Some((worker, bundle)) if *worker == to.worker => bundle.add(to.core, block).err(),
                Some(_) | None => Some(block),
            };
            let full =
                rest.and_then(|block| bundle.replace((to.worker, Bundle::new(to.core, block))));
            full.into_iter().for_each(|(worker, bundle)| self.ship(worker, Cargo::Blocks(bundle)));
        }
        bundle.into_iter().for_each(|(worker, bundle)| self.ship(worker, Cargo::Blocks(bundle)));
    }

    /// Sends another worker something, by way of the core that has the connection.
    fn ship(&mut self, to: WorkerId, cargo: Cargo) {
        let owner = CoreId { worker: self.core.worker, core: owner_of(to, self.cores) };
        if owner == self.core {
            self.laps.lap(Doing::Send);
            return self.post(to, &cargo);
        }
        if let Some(outgoing) = self.outboxes.get_mut(&owner) {
            outgoing.send(CoreMail::Relay { to, cargo });
            self.mail_waits |= outgoing.waits();
        }
    }

    /// Makes a frame of something for a worker whose connection is here.
    pub(super) fn post(&mut self, to: WorkerId, cargo: &Cargo) {
        // Who is no member is over, or will be before it gets anything.
        if let Some(&(incarnation, _)) = self.scheduler.history().members.get(&to) {
            self.links.send_to(Life { worker: to, incarnation }, cargo);
        }
        self.laps.lap(Doing::Serialise);
    }
}

/// A mailbox to another core, and what it had no room for.
pub(super) struct Outgoing {
    outbox: Outbox<CoreMail>,
    waiting: VecDeque<CoreMail>,
}

impl Outgoing {
    pub(super) fn new(outbox: Outbox<CoreMail>) -> Outgoing {
        Outgoing { outbox, waiting: VecDeque::new() }
    }

    fn send(&mut self, mail: CoreMail) {
        self.waiting.push_back(mail);
        self.flush();
    }

    /// Whether something had no room.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn flush(&mut self) {
        while let Some(mail) = self.waiting.pop_front() {
            if let Err(full) = self.outbox.try_send(mail) {
                self.waiting.push_front(full.0);
                return;
            }
        }
    }
}
