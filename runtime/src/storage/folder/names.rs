//! The names of entries. Each entry has two: its place, which only one file can have, and a label that
//! says of what kind it is, so that an entry whose bytes are damaged is still known for what it was.

use drizzle_scheduler::journal::Record;
use drizzle_scheduler::{BatchId, Sequence, Term};

/// Digits of a number in a name: all numbers have as many, so that names sort as numbers do.
const DIGITS: usize = 20;

/// What a label says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Opened,
    Members,
    Fenced,
    End,
    /// Ranges of batches up to this one.
    Ranges(BatchId),
    /// The manifest of that batch.
    Manifest(BatchId),
}

impl Kind {
    pub(super) fn of(record: &Record) -> Kind {
        match record {
            Record::Opened => Kind::Opened,
            Record::Members(_) => Kind::Members,
            Record::Fenced(_) => Kind::Fenced,
            Record::End(_) => Kind::End,
            Record::Ranges(ranges) => {
                Kind::Ranges(ranges.iter().map(|taken| taken.batch).max().unwrap_or_default())
            }
            Record::Manifest(manifest) => Kind::Manifest(manifest.batch),
        }
    }

    /// For a sentence.
    pub(super) fn describe(self) -> String {
        match self {
            Kind::Opened => "says that a driver began".to_owned(),
            Kind::Members => "says who are workers".to_owned(),
            Kind::Fenced => "says which workers are lost".to_owned(),
            Kind::End => "says where the input ends".to_owned(),
            Kind::Ranges(batch) => format!("holds ranges of batches up to {}", batch.0),
            Kind::Manifest(batch) => format!("holds the checkpoint of {batch}"),
        }
    }
}

pub(super) fn place_name(sequence: Sequence) -> String {
    format!("{:020}.entry", sequence.0)
}

pub(super) fn label_name(sequence: Sequence, kind: Kind) -> String {
    let label = match kind {
        Kind::Opened => "opened".to_owned(),
        Kind::Members => "members".to_owned(),
        Kind::Fenced => "fenced".to_owned(),
        Kind::End => "end".to_owned(),
        Kind::Ranges(batch) => format!("ranges-{:020}", batch.0),
        Kind::Manifest(batch) => format!("manifest-{:020}", batch.0),
    };
    format!("{:020}.{label}", sequence.0)
}

pub(super) fn read_place(name: &str) -> Option<Sequence> {
    let (sequence, rest) = name.split_once('.')?;
    (rest == "entry").then_some(())?;
    number(sequence).map(Sequence)
}

pub(super) fn read_label(name: &str) -> Option<(Sequence, Kind)> {
    let (sequence, label) = name.split_once('.')?;
    let kind = match label.split_once('-') {
        None => match label {
            "opened" => Kind::Opened,
            "members" => Kind::Members,
            "fenced" => Kind::Fenced,
            "end" => Kind::End,
            _ => return None,
        },
        Some(("ranges", batch)) => Kind::Ranges(BatchId(number(batch)?)),
        Some(("manifest", batch)) => Kind::Manifest(BatchId(number(batch)?)),
        Some(_) => return None,
    };
    Some((Sequence(number(sequence)?), kind))
}

pub(super) fn term_name(term: Term) -> String {
    format!("{:020}", term.0)
}

pub(super) fn read_term(name: &str) -> Option<Term> {
    number(name).map(Term)
}

/// A number of exactly as many digits as we write.
pub(super) fn number(digits: &str) -> Option<u64> {
    let is_ours = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_ours.then(|| digits.parse().ok()).flatten()
}
