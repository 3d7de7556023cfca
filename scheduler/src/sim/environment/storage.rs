//! Storage: the driver's journal, and snapshots. It may be slow, and it may fail, also in the nasty
//! way: the entry is there and nobody was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core_node::CoreMail;
use super::{Event, Simulation, name};
use crate::checkpoint::{Manifest, Snapshot};
use crate::driver::DriverEvent;
use crate::ids::{Life, Sequence};
use crate::journal::{AppendFailure, JournalEntry, JournalState, Record};
use crate::sim::data::Piece;
use crate::sim::generator::{Contract, INTERVAL};
use crate::sim::trace::Kind;

/// What somebody wants.
#[derive(Debug)]
pub(super) enum Request {
    ReadJournal {
        driver: usize,
    },
    Append {
        driver: usize,
        entry: JournalEntry,
    },
    Write {
        life: Life,
        core: u16,
        snapshot: Snapshot,
        piece: Piece,
    },
    /// The pieces of a manifest for one partition; the core is told by that mail.
    Load {
        life: Life,
        core: u16,
        manifest: Arc<Manifest>,
        place: super::core_node::Place,
        why: Why,
    },
}

/// What a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Restore { serial: u64 },
    Preload,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Storage {
    journal: Vec<JournalEntry>,
    snapshots: BTreeMap<Snapshot, Piece>,
    slow_until: u64,
    fails_until: u64,
}

impl Storage {
    pub(super) fn slow(&mut self, until: u64) {
        self.slow_until = self.slow_until.max(until);
    }
    pub(super) fn fail(&mut self, until: u64) {
        self.fails_until = self.fails_until.max(until);
    }
    pub(super) fn heal(&mut self) {
        (self.slow_until, self.fails_until) = (0, 0);
    }

    fn newest_manifests(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.journal.iter().rev().filter_map(|entry| match &entry.record {
            Record::Manifest(manifest) => Some(manifest),
            Record::Opened
            | Record::Members(_)
            | Record::Fenced(_)
            | Record::Ranges(_)
            | Record::End(_) => None,
        })
    }

    /// What a driver reads: nothing that may have been deleted.
    fn state(&self) -> JournalState {
        let mut state =
            JournalState { next: Sequence(self.journal.len() as u64 + 1), ..JournalState::EMPTY };
        let mut manifests: Vec<_> = self.newest_manifests().take(2).cloned().collect();
        manifests.reverse();
        let kept_after = manifests.first().map(|manifest| manifest.batch);
        for entry in &self.journal {
            state.term = state.term.max(entry.term);
            match &entry.record {
                Record::Opened | Record::Manifest(_) => {}
                Record::Members(members) => state.members.extend(members),
                Record::Fenced(lives) => state.fenced.extend(lives),
                Record::End(last_batch) => state.end = Some(*last_batch),
                Record::Ranges(ranges) => {
                    let is_kept = |batch| kept_after.is_none_or(|kept_after| batch > kept_after);
                    state.ranges.extend(ranges.iter().filter(|taken| is_kept(taken.batch)));
                }
            }
        }
        state.manifests = manifests;
        state
    }

    /// The pieces that a manifest lists for one partition.
    fn pieces(&self, manifest: &Manifest, place: super::core_node::Place) -> Option<Vec<Piece>> {
        let snapshots = manifest.snapshots_of(place.0, place.1);
        snapshots.map(|snapshot| self.snapshots.get(snapshot).cloned()).collect()
    }

    /// Deletes the snapshots that no manifest needs which somebody may still start from.
    fn delete_old(&mut self) {
        let manifests: Vec<_> = self.newest_manifests().take(2).cloned().collect();
        let Some(newest) = manifests.first().map(|manifest| manifest.batch) else { return };
        self.snapshots.retain(|snapshot, _| {
            let mut lists = manifests.iter().map(|manifest| &manifest.snapshots);
            snapshot.batch > newest || lists.any(|list| list.contains(snapshot))
        });
    }
}

impl Simulation {
    /// Sends a request; it is done when it arrives.
    pub(super) fn ask_storage(&mut self, request: Request) {
        let delay = self.dice.between(50, 600);
        let is_slow = self.now < self.storage.slow_until;
        let delay = if is_slow { delay * 12 } else { delay };
        self.push(self.now + delay, Event::Storage(Box::new(request)));
    }

    pub(super) fn storage_takes(&mut self, request: Request) {
        let fails = self.now < self.storage.fails_until;
        match request {
            Request::ReadJournal { driver } if fails => {
                let again = Event::Storage(Box::new(Request::ReadJournal { driver }));
                self.push(self.now + INTERVAL, again);
            }
            Request::ReadJournal { driver } => {
                let state = self.storage.state();
                let event = DriverEvent::Journal(state);
                self.push(self.now + 20, Event::Driver { driver, event });
            }
            Request::Append { driver, entry } => self.append(driver, entry, fails),
            Request::Write { life, core, snapshot, piece } => {
                self.write(life, core, snapshot, piece, fails);
            }
            Request::Load { life, core, manifest, place, why } if fails => {
                let again = Request::Load { life, core, manifest, place, why };
                self.push(self.now + INTERVAL, Event::Storage(Box::new(again)));
            }
            Request::Load { life, core, manifest, place, why } => {
                let Some(pieces) = self.storage.pieces(&manifest, place) else {
                    let what = format!("{place:?} of {} is not there any more", manifest.batch);
                    // A dead process may have asked for it long ago.
                    let asks = self.processes.get(&life.worker);
                    if asks.is_some_and(|process| process.life == life && process.is_alive()) {
                        self.auditor.fail(format!("{}: {what}", name(life)));
                    }
                    return;
                };
                let mail = Box::new(CoreMail::Loaded { place, batch: manifest.batch, pieces, why });
                self.push(self.now, Event::Core { life, core, mail });
            }
        }
    }

    fn append(&mut self, driver: usize, entry: JournalEntry, fails: bool) {
        let sequence = entry.sequence;
        let place = sequence.0 as usize - 1;
        // Half of the failures are lies.
        let is_applied = !fails || self.dice.chance(50);
        let mut failure = fails.then_some(AppendFailure::Unavailable);
        if is_applied {
            match self.storage.journal.get(place) {
                Some(other) if *other == entry => {}
                Some(_) if fails => {}
                Some(_) => failure = Some(AppendFailure::Deposed),
                None => self.create(entry),
            }
        }
        self.trace.note(
            self.now,
            Kind::Disk,
            [sequence.0, u64::from(failure.is_some()), 0],
            || format!("disk e{} of D{}: {failure:?}", sequence.0, driver + 1),
        );
        let event = match failure {
            None => DriverEvent::Appended { sequence },
            Some(failure) => DriverEvent::AppendFailed { sequence, failure },
        };
        let at = self.now + self.dice.between(10, 100);
        self.push(at, Event::Driver { driver, event });
    }

    fn create(&mut self, entry: JournalEntry) {
        if entry.sequence.0 as usize != self.storage.journal.len() + 1 {
            self.auditor.fail(format!("{} would leave a gap in the journal", entry.sequence));
            return;
        }
        self.auditor.journaled(&entry);
        self.trace.note(self.now, Kind::Disk, [entry.sequence.0, 9, entry.term.0], || {
            format!("disk e{} is {:?}", entry.sequence.0, entry.record)
        });
        if let Record::Manifest(manifest) = &entry.record {
            self.check_manifest(manifest);
        }
        self.storage.journal.push(entry);
        self.storage.delete_old();
    }

    /// A manifest lists snapshots that are there, of every partition that needs one.
    fn check_manifest(&mut self, manifest: &Manifest) {
        let missing = manifest.snapshots.iter().find(|s| !self.storage.snapshots.contains_key(s));
        if let Some(missing) = missing {
            self.auditor.fail(format!("the manifest lists {missing:?}, which is not durable"));
        }
        for stage in self.job.plan.stage_ids().filter(|&stage| self.job.plan.needs_snapshot(stage))
        {
            for partition in self.job.partitions(stage) {
                let last = manifest.snapshots_of(stage, partition).last();
                if last.is_none_or(|last| last.batch != manifest.batch) {
                    let batch = manifest.batch;
                    let what = format!("the manifest of {batch} lacks {stage} {partition}");
                    self.auditor.fail(what);
                }
            }
        }
    }

    fn write(&mut self, life: Life, core: u16, snapshot: Snapshot, piece: Piece, fails: bool) {
        self.trace.note(self.now, Kind::Disk, [life.incarnation.0, snapshot.batch.0, 2], || {
            format!("disk {snapshot:?} {}", if fails { "fails" } else { "is durable" })
        });
        if !fails {
            self.storage.snapshots.insert(snapshot, piece);
        }
        let mail = Box::new(CoreMail::Written { snapshot, fails });
        self.push(self.now + 10, Event::Core { life, core, mail });
    }

    /// At the end everything that the last manifest lists is made visible, as the next start would.
    pub(super) fn settle_sinks(&mut self) {
        if self.auditor.contract() == Contract::Upsert {
            return;
        }
        let Some(newest) = self.storage.newest_manifests().next().cloned() else { return };
        for snapshot in &newest.snapshots {
            if self.job.is_sink(snapshot.stage) {
                let staged = self.storage.snapshots[snapshot].staged.clone();
                for (batch, output) in staged {
                    self.auditor.commits(batch, snapshot.partition, &output);
                }
            }
        }
    }
}
