//! What is outside of the job: the store that its output goes to, which keeps its contract and sees
//! that the job keeps its own.

use std::collections::BTreeMap;

use crate::ids::{Attempt, BatchId, Epoch, PartitionId};
use crate::sim::data::{Basis, Output, Record};

/// What a partition wrote in a batch.
#[derive(Clone, Debug)]
struct Entry {
    records: Vec<Record>,
    basis: Basis,
    /// Who wrote it: older epochs, and older attempts of the same, are refused.
    token: (Epoch, Attempt),
}

/// The store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sink {
    entries: BTreeMap<(BatchId, PartitionId), Entry>,
}

/// What the store did with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Taken,
    Refused,
    /// It is there already, word for word.
    Known,
}

impl Sink {
    /// A write that a later one may replace.
    pub(crate) fn upsert(
        &mut self,
        place: (BatchId, PartitionId),
        token: (Epoch, Attempt),
        output: &Output,
    ) -> Result<Written, String> {
        let entry = Entry { records: sorted(output), basis: output.basis.clone(), token };
        let Some(known) = self.entries.get(&place) else {
            self.entries.insert(place, entry);
            return Ok(Written::Taken);
        };
        if known.basis == entry.basis && known.records != entry.records {
            return Err(differ(place));
        }
        if known.token > token {
            return Ok(Written::Refused);
        }
        let is_known = known.basis == entry.basis;
        self.entries.insert(place, entry);
        Ok(if is_known { Written::Known } else { Written::Taken })
    }

    /// A write that stays: a second one must be equal.
    pub(crate) fn commit(
        &mut self,
        place: (BatchId, PartitionId),
        output: &Output,
    ) -> Result<Written, String> {
        let records = sorted(output);
        match self.entries.get(&place) {
            Some(known) if known.records == records => Ok(Written::Known),
            Some(_) => Err(differ(place)),
            None => {
                let token = (Epoch(0), Attempt(0));
                self.entries.insert(place, Entry { records, basis: output.basis.clone(), token });
                Ok(Written::Taken)
            }
        }
    }

    /// Of a store that later writes replace: what a newer attempt has written elsewhere counts no
    /// more, nor what lies beyond the end of the sources, which nobody can take back.
    pub(crate) fn settle_upserts(&mut self, is_beyond: impl Fn(Record) -> bool) {
        let mut newest: BTreeMap<Record, (Epoch, Attempt)> = BTreeMap::new();
        for entry in self.entries.values() {
            for record in &entry.records {
                let token = newest.entry(record.origin()).or_insert(entry.token);
                *token = entry.token.max(*token);
            }
        }
        for entry in self.entries.values_mut() {
            let token = entry.token;
            entry.records.retain(|record| newest[&record.origin()] == token && !is_beyond(*record));
        }
    }

    /// What is there of one partition and batch, sorted.
    pub(crate) fn read(&self, place: (BatchId, PartitionId)) -> &[Record] {
        self.entries.get(&place).map_or(&[], |entry| &entry.records)
    }

    /// Every record, with where it is.
    pub(crate) fn all(&self) -> impl Iterator<Item = (BatchId, PartitionId, Record)> + '_ {
        self.entries.iter().flat_map(|(&(batch, partition), entry)| {
            entry.records.iter().map(move |&record| (batch, partition, record))
        })
    }
}

fn sorted(output: &Output) -> Vec<Record> {
    let mut records = output.records.clone();
    records.sort_unstable();
    records
}

fn differ((batch, partition): (BatchId, PartitionId)) -> String {
    format!("the sink was written twice for {batch} {partition}, and differently")
}

impl Written {
    /// For the trace.
    pub(crate) fn number(self) -> u64 {
        match self {
            Written::Taken => 0,
            Written::Refused => 1,
            Written::Known => 2,
        }
    }
}
