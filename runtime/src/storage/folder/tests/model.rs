//! A folder beside a plain list of entries: whatever was deleted, a reader finds what the list says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot};
use drizzle_scheduler::journal::{JournalEntry, JournalState, Record};
use drizzle_scheduler::{BatchId, Sequence};
use proptest::prelude::*;

use super::{Home, core, entry, life, manifest, members, piece, ranges, snapshot};
use crate::storage::Storage;
use crate::storage::folder::Folder;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Members(u32),
    Fenced(u32),
    Ranges(u64),
    /// Snapshots of so many partitions, whether the first is a change, and whether a manifest follows.
    Checkpoint {
        partitions: u32,
        is_change: bool,
        is_durable: bool,
    },
    End,
    /// The driver is lost, and another one comes.
    Restart,
    /// The same entry again.
    Repeat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0_u32..5).prop_map(Step::Members),
        1 => (0_u32..5).prop_map(Step::Fenced),
        4 => (1_u64..4).prop_map(Step::Ranges),
        4 => (1_u32..4, any::<bool>(), prop::bool::weighted(0.8)).prop_map(
            |(partitions, is_change, is_durable)| {
                Step::Checkpoint { partitions, is_change, is_durable }
            }
        ),
        1 => Just(Step::End),
        1 => Just(Step::Restart),
        1 => Just(Step::Repeat),
    ]
}

/// A driver and its journal as the simulator keeps one.
struct Model {
    folder: Folder,
    term: u64,
    batch: u64,
    journal: Vec<JournalEntry>,
    written: BTreeSet<Snapshot>,
}

impl Model {
    fn append(&mut self, record: Record) {
        let entry = entry(self.journal.len() as u64 + 1, self.term, record);
        self.append_entry(entry);
    }

    fn append_entry(&mut self, entry: JournalEntry) {
        self.folder.append(&entry).unwrap();
        self.journal.push(entry);
    }

    fn manifests(&self) -> Vec<Arc<Manifest>> {
        let mut manifests: Vec<_> = self
            .journal
            .iter()
            .rev()
            .filter_map(|entry| {
                if let Record::Manifest(manifest) = &entry.record {
                    Some(manifest.clone())
                } else {
                    None
                }
            })
            .take(2)
            .collect();
        manifests.reverse();
        manifests
    }

    /// As `scheduler/src/sim/environment/storage.rs` says it.
    fn state(&self) -> JournalState {
        let next = Sequence(self.journal.len() as u64 + 1);
        let mut state = JournalState { next, ..JournalState::EMPTY };
        state.manifests = self.manifests();
        let kept_after = state.manifests.first().map(|manifest| manifest.batch);
        for entry in &self.journal {
            state.term = state.term.max(entry.term);
            match &entry.record {
                Record::Opened | Record::Manifest(_) => {}
                Record::Members(members) => state.members.extend(members),
                Record::Fenced(lives) => state.fenced.extend(lives),
                Record::End(batch) => state.end = Some(*batch),
                Record::Ranges(ranges) => state.ranges.extend(
                    ranges.iter().filter(|taken| kept_after.is_none_or(|kept| taken.batch > kept)),
                ),
            }
        }
        state
    }

    fn checkpoint(&mut self, partitions: u32, is_change: bool, is_durable: bool) {
        let chain: Vec<Snapshot> = self.manifests().last().map_or(Vec::new(), |newest| {
            newest
                .snapshots_of(drizzle_scheduler::StageId(1), drizzle_scheduler::PartitionId(0))
                .copied()
                .collect()
        });
        let since = chain.last().filter(|_| is_change).map(|last| last.batch.0);
        self.append(ranges([self.batch + 1]));
        self.batch += 1;
        let mut listed = if since.is_some() { chain } else { Vec::new() };
        for partition in 0..partitions {
            let since = since.filter(|_| partition == 0);
            let snapshot = snapshot(partition, self.batch, since);
            self.folder.write_snapshots(core(partition as u16), &[piece(snapshot)]).unwrap();
            self.written.insert(snapshot);
            listed.push(snapshot);
        }
        if is_durable {
            let sequence = self.journal.len() as u64 + 1;
            self.append_entry(manifest(sequence, self.term, self.batch, &listed));
        }
    }

    fn take(&mut self, step: &Step, home: &Home) {
        match step {
            Step::Members(worker) => self.append(members(&[*worker])),
            Step::Fenced(worker) => self.append(Record::Fenced(vec![life(*worker, 7)])),
            Step::Ranges(count) => {
                self.append(ranges(self.batch + 1..=self.batch + count));
                self.batch += count;
            }
            Step::Checkpoint { partitions, is_change, is_durable } => {
                self.checkpoint(*partitions, *is_change, *is_durable);
            }
            Step::End => self.append(Record::End(BatchId(self.batch))),
            Step::Restart => {
                self.folder = home.open();
                self.term = self.folder.take_term().unwrap().0;
                assert_eq!(self.folder.read_journal().unwrap().state, self.state());
                self.append(Record::Opened);
            }
            Step::Repeat => self.folder.append(self.journal.last().unwrap()).unwrap(),
        }
    }

    /// Snapshots that two manifests list are there, and those that were deleted are not.
    fn check_snapshots(&self, home: &Home) {
        let manifests = self.manifests();
        let newest = manifests.last().map_or(BatchId(0), |manifest| manifest.batch);
        let listed: BTreeMap<Snapshot, ()> =
            manifests.iter().flat_map(|m| &m.snapshots).map(|s| (*s, ())).collect();
        let folder = home.open();
        for snapshot in &self.written {
            let is_kept = listed.contains_key(snapshot) || snapshot.batch > newest;
            let loaded = folder.load(&[*snapshot]);
            assert_eq!(loaded.is_ok(), is_kept, "{snapshot:?}: {loaded:?}");
            if let Ok(loaded) = loaded {
                assert_eq!(loaded, [piece(*snapshot).1]);
            }
        }
    }
}

fn compare(steps: &[Step]) {
    let home = Home::new("model");
    let folder = home.open();
    let (journal, written) = (Vec::new(), BTreeSet::new());
    let mut model = Model { folder, term: 1, batch: 0, journal, written };
    model.append(Record::Opened);
    model.append(members(&[9]));
    for step in steps {
        model.take(step, &home);
    }
    let read = home.open().read_journal().unwrap();
    assert_eq!(read.state, model.state());
    assert_eq!(read.notices, Vec::<String>::new());
    model.check_snapshots(&home);
    let manifests = model.manifests();
    let [older, _] = &manifests[..] else { return };
    // What is obsolete is gone: nothing is left that grows with time but lives.
    for name in fs::read_dir(home.path("journal")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        let (sequence, kind) = name.split_once('.').unwrap();
        if kind.starts_with("manifest") || kind.starts_with("ranges") {
            let is_before = sequence.parse::<u64>().unwrap() < older.sequence.0;
            let batch: u64 = kind.split_once('-').unwrap().1.parse().unwrap();
            assert!(!is_before || batch > older.batch.0, "{name} is obsolete");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_finds_what_a_plain_list_holds(steps in prop::collection::vec(step(), 0..40)) {
        compare(&steps);
    }
}
