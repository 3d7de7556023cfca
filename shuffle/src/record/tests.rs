//! Tests of which types may travel.

use super::*;
use crate::archive::record_size;

fn assert_record<R: Record>() {}

/// Generic code needs no bound but `Record` on the parts.
fn window_edge_size<K: Record, V: Record>() -> usize {
    assert_record::<PartialEntry<K, V>>();
    record_size::<RawEntry<K, V>>()
}

#[test]
fn entries_of_records_are_records() {
    assert_eq!(window_edge_size::<u64, u64>(), 24);
    assert_eq!(window_edge_size::<u64, ()>(), 16);
    assert_eq!(window_edge_size::<[u8; 16], (u32, u32)>(), 32);
    assert_eq!(window_edge_size::<u8, u8>(), 24);
}

#[test]
fn a_record_comes_back_from_its_archive() {
    let entry = RawEntry { key: (7u32, -3i64), window_start: 1000, value: [1u8, 2, 3] };
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&entry).unwrap();
    let archived = rkyv::access::<rkyv::Archived<RawEntry<(u32, i64), [u8; 3]>>, Failure>(&bytes);
    assert_eq!(RawEntry::unarchive(archived.unwrap()), entry);
}
