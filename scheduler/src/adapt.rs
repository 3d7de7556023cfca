//! What blocks hold in the next group: raw records, or partial aggregates.
//!
//! Combining before the shuffle pays where many records share a key and costs where they do not,
//! and which of the two holds changes with the input. The statistics of each group choose for the
//! next (paper, section 3.5, "optimisations across batches"; it names no rule, so this one is
//! ours). The choice travels with the group, and replays use what was chosen.
//!
//! Whether combining pays is only known where it runs: an edge with raw records is probed now and
//! then with one group of partial aggregates. To return takes more than to stay, so that an edge at
//! the boundary does not change with every probe.

use std::sync::Arc;

use crate::message::{Combined, Content};

/// From one probe of an edge with raw records to the next, in groups.
const PROBE_EVERY: u32 = 16;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    edges: Vec<Choice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Combining pays, or nothing is known yet.
    Partial,
    /// Combining did not pay, so many groups ago.
    Raw { groups: u32 },
}

impl Adapter {
    /// For a plan with so many edges. All of them combine until they are seen to gain nothing.
    pub fn new(edges: usize) -> Adapter {
        Adapter { edges: vec![Choice::Partial; edges] }
    }

    /// Takes the statistics of a group that is done, by edge; once per group. An edge with no
    /// records did not combine in it.
    pub fn observe(&mut self, combined: &[Combined]) {
        let nothing = Combined::default();
        let combined = combined.iter().chain(std::iter::repeat(&nothing));
        for (choice, combined) in self.edges.iter_mut().zip(combined) {
            *choice = choice.after(combined);
        }
    }

    /// What blocks hold in the next group, by edge.
    pub fn contents(&self) -> Arc<[Content]> {
        self.edges.iter().map(|choice| choice.content()).collect()
    }
}

impl Choice {
    fn after(self, combined: &Combined) -> Choice {
        match self {
            Choice::Partial if combined.records_in == 0 || saves(combined, 10) => Choice::Partial,
            Choice::Partial => Choice::Raw { groups: 0 },
            // The answer to a probe comes some groups later; whenever it does, it counts.
            Choice::Raw { .. } if combined.records_in > 0 && saves(combined, 15) => Choice::Partial,
            Choice::Raw { groups } if groups == PROBE_EVERY => Choice::Raw { groups: 1 },
            Choice::Raw { groups } => Choice::Raw { groups: groups + 1 },
        }
    }

    fn content(self) -> Content {
        match self {
            Choice::Partial => Content::Partial,
            Choice::Raw { groups } if groups == PROBE_EVERY => Content::Partial,
            Choice::Raw { .. } => Content::Raw,
        }
    }
}

/// Whether combining left out at least so many of a hundred records.
fn saves(combined: &Combined, percent: u128) -> bool {
    let (records_in, records_out) = (combined.records_in, combined.records_out);
    u128::from(records_out) * 100 <= u128::from(records_in) * (100 - percent)
}

#[cfg(test)]
mod tests;
