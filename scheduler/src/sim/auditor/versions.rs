//! Which ranges the sources took, in which version: a range that only dead processes knew may be taken
//! anew, and nothing that lives may depend on the old one.

use std::collections::BTreeMap;

use crate::ids::{BatchId, Watermark};
use crate::message::TakenRange;
use crate::sim::data::Basis;

/// One range in one version: what was taken before it is part of it.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    source: usize,
    pub(crate) taken: TakenRange,
    parent: u32,
}

/// All versions, and those that the journal has made the only ones.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    /// Number 0 stands for "nothing".
    all: Vec<Version>,
    by_parent: BTreeMap<(usize, u32, u64, Watermark), u32>,
    by_batch: BTreeMap<(usize, BatchId), Vec<u32>>,
    /// By source, the version of batch 1, 2, ...
    recorded: Vec<Vec<u32>>,
}

impl Versions {
    pub(crate) fn new(sources: usize) -> Versions {
        Versions {
            all: Vec::new(),
            by_parent: BTreeMap::new(),
            by_batch: BTreeMap::new(),
            recorded: vec![Vec::new(); sources],
        }
    }

    fn get(&self, version: u32) -> &Version {
        &self.all[version as usize - 1]
    }

    fn batch(&self, version: u32) -> BatchId {
        if version == 0 { BatchId(0) } else { self.get(version).taken.batch }
    }

    /// A source task has taken a range after `parent`.
    pub(crate) fn take(
        &mut self,
        source: usize,
        parent: u32,
        taken: TakenRange,
    ) -> Result<u32, String> {
        let before = if parent == 0 { 0 } else { self.get(parent).taken.range.to };
        let follows = self.batch(parent).next() == taken.batch && taken.range.from == before;
        if !follows {
            return Err(format!("{taken:?} was taken after {} to {before}", self.batch(parent)));
        }
        let all = &mut self.all;
        let by_batch = &mut self.by_batch;
        let key = (source, parent, taken.range.to, taken.watermark);
        let version = self.by_parent.entry(key).or_insert_with(|| {
            all.push(Version { source, taken, parent });
            by_batch.entry((source, taken.batch)).or_default().push(all.len() as u32);
            all.len() as u32
        });
        Ok(*version)
    }

    /// The version of a range that was taken before: the recorded one if there is one.
    pub(crate) fn find(&self, source: usize, taken: &TakenRange) -> Option<u32> {
        let of_batch = self.by_batch.get(&(source, taken.batch))?.iter().rev().copied();
        let mut equal = of_batch.filter(|&version| self.get(version).taken == *taken);
        let newest = equal.clone().next();
        equal.find(|&version| self.agrees(version)).or(newest)
    }

    /// The version that ends a batch at an offset.
    pub(crate) fn at(&self, source: usize, batch: BatchId, offset: u64) -> Option<u32> {
        let of_batch = self.by_batch.get(&(source, batch))?.iter().rev().copied();
        let mut equal = of_batch.filter(|&version| self.get(version).taken.range.to == offset);
        let newest = equal.clone().next();
        equal.find(|&version| self.agrees(version)).or(newest)
    }

    /// The journal holds this range now.
    pub(crate) fn record(&mut self, source: usize, taken: &TakenRange) -> Result<(), String> {
        let recorded = &self.recorded[source];
        let through = recorded.len() as u64;
        if taken.batch.0 <= through {
            let known = self.get(recorded[taken.batch.0 as usize - 1]).taken;
            let is_equal = known == *taken;
            return if is_equal {
                Ok(())
            } else {
                Err(format!("recorded {known:?}, then {taken:?}"))
            };
        }
        let parent = recorded.last().copied().unwrap_or_default();
        let key = (source, parent, taken.range.to, taken.watermark);
        let version = self.by_parent.get(&key).copied();
        match version.filter(|&version| self.get(version).taken == *taken) {
            Some(version) => self.recorded[source].push(version),
            None => return Err(format!("{taken:?} was recorded, but nobody took it after that")),
        }
        Ok(())
    }

    /// The last batch whose ranges are all recorded.
    pub(crate) fn recorded_through(&self) -> BatchId {
        BatchId(self.recorded.iter().map(|versions| versions.len() as u64).min().unwrap_or(0))
    }

    /// The recorded ranges of one source, batch by batch.
    pub(crate) fn recorded(&self, source: usize) -> impl Iterator<Item = &TakenRange> {
        self.recorded[source].iter().map(|&version| &self.get(version).taken)
    }

    /// Whether a version is or may become the recorded one.
    pub(crate) fn agrees(&self, mut version: u32) -> bool {
        if version == 0 {
            return true;
        }
        let recorded = &self.recorded[self.get(version).source];
        while self.batch(version).0 > recorded.len() as u64 {
            version = self.get(version).parent;
            if version == 0 {
                return true;
            }
        }
        recorded[self.batch(version).0 as usize - 1] == version
    }

    /// The first version of a basis that something else was recorded for.
    pub(crate) fn orphan<'a>(&'a self, basis: &Basis) -> Option<&'a Version> {
        let mut versions = basis.iter().copied();
        versions.find(|&version| !self.agrees(version)).map(|version| self.get(version))
    }

    /// Adds what something else depends on; an error if the two contradict each other.
    pub(crate) fn join(&self, basis: &mut Basis, other: &Basis) -> Result<(), String> {
        if basis.is_empty() {
            basis.clone_from(other);
            return Ok(());
        }
        for (mine, &theirs) in basis.iter_mut().zip(other) {
            let (newer, older) = if self.batch(*mine) >= self.batch(theirs) {
                (*mine, theirs)
            } else {
                (theirs, *mine)
            };
            let mut elder = newer;
            while self.batch(elder) > self.batch(older) {
                elder = self.get(elder).parent;
            }
            if elder != older {
                let (one, two) = (&self.get(newer).taken, &self.get(older).taken);
                return Err(format!("one input depends on {one:?}, another on {two:?}"));
            }
            *mine = newer;
        }
        Ok(())
    }
}
