//! Entries of the journal: golden bytes, what is written is read back, and damage is noticed.

use std::sync::Arc;

use drizzle_scheduler::checkpoint::{Manifest, Snapshot, SourcePosition};
use drizzle_scheduler::journal::{JournalEntry, Record};
use drizzle_scheduler::message::{SourceRange, TakenRange};
use drizzle_scheduler::{
    BatchId, Incarnation, Life, OrderNumber, PartitionId, Sequence, StageId, Term, Watermark,
    WorkerId,
};
use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::golden::words;
use super::scheduling;
use super::variants::{Variants, assert_all};
use crate::wire::codec::Writer;
use crate::wire::journal::JOURNAL_VERSION;
use crate::wire::{DecodeError, EntryError, decode_entry, encode_entry};

const CHECKSUM_LEN: usize = 4;

fn encoded(entry: &JournalEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_entry(entry, &mut bytes);
    bytes
}

/// Bytes whose last four are made to be the checksum of the others.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM_LEN;
    let checksum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A record of each kind.
fn records() -> Vec<Record> {
    let (stage, partition) = (StageId(1), PartitionId(2));
    let range = SourceRange { stage, partition, from: 3, to: 4 };
    let (batch, ended, watermark) = (BatchId(5), true, Watermark(6));
    let life = Life { worker: WorkerId(7), incarnation: Incarnation(8) };
    let snapshot = Snapshot { stage, partition, batch, since: None, incarnation: life.incarnation };
    let after = batch;
    let position = SourcePosition { stage, partition, after, offset: 4, watermark, ended };
    let manifest = Manifest {
        sequence: Sequence(9),
        term: Term(10),
        batch,
        number: OrderNumber(11),
        snapshots: vec![snapshot, Snapshot { since: Some(BatchId(12)), ..snapshot }],
        positions: vec![position],
    };
    vec![
        Record::Opened,
        Record::Members(vec![(life, 13)]),
        Record::Fenced(vec![life]),
        Record::End(batch),
        Record::Ranges(vec![TakenRange { batch, range, ended, watermark }]),
        Record::Manifest(Arc::new(manifest)),
    ]
}

#[test]
fn entries_of_the_journal_have_these_bytes() {
    assert_all(records());
    let mut text = String::new();
    for record in records() {
        text += &format!("{}\n", record.variant());
        let entry = JournalEntry { sequence: Sequence(9), term: Term(10), record };
        text += &words(&encoded(&entry));
    }
    expect![[r#"
        Opened
        447a4a65 01000900 00000000 00000a00 00000000 0000015e d2f59b
        Members
        447a4a65 01000900 00000000 00000a00 00000000 00000201 00000007 00000008
        00000000 0000000d 00f6a61d fa
        Fenced
        447a4a65 01000900 00000000 00000a00 00000000 00000501 00000007 00000008
        00000000 0000007d 475201
        End
        447a4a65 01000900 00000000 00000a00 00000000 00000605 00000000 00000017
        0e20e9
        Ranges
        447a4a65 01000900 00000000 00000a00 00000000 00000301 00000005 00000000
        00000001 00020000 00030000 00000000 00040000 00000000 00010600 00000000
        00001717 b41b
        Manifest
        447a4a65 01000900 00000000 00000a00 00000000 00000409 00000000 0000000a
        00000000 00000005 00000000 0000000b 00000000 00000002 00000001 00020000
        00050000 00000000 00000800 00000000 00000100 02000000 05000000 00000000
        010c0000 00000000 00080000 00000000 00010000 00010002 00000005 00000000
        00000004 00000000 00000006 00000000 00000001 d05531d7
    "#]]
    .assert_eq(&text);
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(entry in scheduling::entry()) {
        prop_assert_eq!(decode_entry(&encoded(&entry)), Ok(entry));
    }

    #[test]
    fn an_entry_cut_off_anywhere_is_refused(entry in scheduling::entry(), at in any::<Index>()) {
        let bytes = encoded(&entry);
        prop_assert!(decode_entry(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_changed_byte_of_an_entry_is_noticed(
        entry in scheduling::entry(),
        at in any::<Index>(),
        change in 1..=255u8,
    ) {
        let mut bytes = encoded(&entry);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(decode_entry(&bytes).is_err());
    }

    #[test]
    fn bytes_after_an_entry_are_refused(entry in scheduling::entry(), more in vec(any::<u8>(), 4..9)) {
        let mut bytes = encoded(&entry);
        let end = bytes.len() - CHECKSUM_LEN;
        bytes.splice(end..end, more);
        prop_assert!(decode_entry(&sealed(bytes)).is_err());
    }

    /// Where no checksum helps: another entry or an error, and no panic.
    #[test]
    fn an_entry_changed_on_purpose_is_another_or_none(
        entry in scheduling::entry(),
        at in any::<Index>(),
        change in 1..=255u8,
    ) {
        let mut bytes = encoded(&entry);
        let at = at.index(bytes.len() - CHECKSUM_LEN);
        bytes[at] ^= change;
        prop_assert_ne!(decode_entry(&sealed(bytes)).ok(), Some(entry));
    }

    #[test]
    fn random_bytes_are_no_entry(tag in 0..6u8, bytes in vec(0..5u8, 0..100)) {
        prop_assert!(decode_entry(&bytes).is_err());
        let mut entry = b"DzJe".to_vec();
        entry.extend(JOURNAL_VERSION.to_le_bytes());
        entry.extend([0; 16]);
        entry.push(tag);
        entry.extend(bytes);
        entry.extend([0; CHECKSUM_LEN]);
        // Whatever it is, reading it ends well.
        let _ = decode_entry(&sealed(entry));
    }
}

#[test]
fn what_is_no_entry_is_refused_with_a_sentence() {
    let entry = JournalEntry { sequence: Sequence(1), term: Term(1), record: Record::Opened };
    let bytes = encoded(&entry);
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        decode_entry(&bytes).expect_err("it is patched").to_string()
    };
    assert_eq!(patched(0, b"DRZL"), "not an entry of a journal: it begins with \"DRZL\"");
    assert_eq!(patched(4, &[9, 0]), "an entry of version 9, this binary reads 1");
    assert!(patched(6, &[9]).starts_with("an entry with checksum 0x"), "{}", patched(6, &[9]));
    let unfinished = decode_entry(&bytes[..7]).expect_err("it is cut off");
    assert!(matches!(unfinished, EntryError::Checksum { .. }), "{unfinished}");
    let unfinished = decode_entry(&bytes[..5]).expect_err("it is cut off");
    assert!(matches!(unfinished, EntryError::Content(_)), "{unfinished}");
}

#[test]
fn counts_that_an_entry_cannot_hold_are_refused_before_anything_is_allocated() {
    let head = |tag: u8, count: u32| {
        let mut bytes = b"DzJe".to_vec();
        let mut writer = Writer::new(&mut bytes);
        writer.u16(JOURNAL_VERSION);
        writer.u64(1);
        writer.u64(1);
        writer.u8(tag);
        writer.u32(count);
        bytes.extend([0; CHECKSUM_LEN]);
        decode_entry(&sealed(bytes))
    };
    let what = "a list of members";
    let long = DecodeError::TooLong { what, found: 1 << 20, limit: 1 << 14 };
    assert_eq!(head(2, 1 << 20), Err(long.into()));
    let what = "a list of ranges";
    let short = DecodeError::Truncated { what, needed: 39 << 19, found: 0 };
    assert_eq!(head(3, 1 << 19), Err(short.into()));
}
