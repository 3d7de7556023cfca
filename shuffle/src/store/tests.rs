//! Tests of the store of segments.

use super::*;
use crate::segment::SegmentSlice;

fn store(segment_bytes: usize, max_bytes: usize) -> BlockStore {
    BlockStore::new(StoreOptions { segment_bytes, max_bytes })
}

/// Takes bytes in as a body that came from elsewhere.
fn copy_in(store: &mut BlockStore, bytes: &[u8]) -> Result<SegmentSlice, StoreFull> {
    let mut landing = store.land(bytes.len())?;
    assert_eq!(landing.fill(bytes), bytes.len());
    Ok(landing.finish())
}

#[test]
fn a_segment_is_recycled_when_nobody_holds_it() {
    let mut store = store(4096, 8192);
    let mut first = store.segment_for(10).unwrap();
    first.extend(b"x");
    let slice = first.publish();
    drop(first);
    let second = store.segment_for(10).unwrap();
    assert_eq!((store.mapped_bytes(), store.retained_bytes()), (8192, 8192));
    let full = store.segment_for(10).unwrap_err();
    assert_eq!((full.requested_bytes, full.mapped_bytes, full.max_bytes), (4096, 8192, 8192));
    assert_eq!(full.to_string(), "block store is full: 4096 bytes wanted, 8192 of 8192 mapped");
    drop(slice);
    assert_eq!(store.retained_bytes(), 4096);
    let third = store.segment_for(4096).unwrap();
    drop((second, third));
    assert_eq!((store.mapped_bytes(), store.retained_bytes()), (8192, 0));
}

#[test]
fn a_large_block_gets_a_large_segment_within_the_limit() {
    let mut store = store(4096, 16 * 4096);
    let small = store.segment_for(1).unwrap();
    drop(small);
    let large = store.segment_for(5 * 4096).unwrap();
    assert_eq!(store.mapped_bytes(), 9 * 4096, "5 pages are rounded to 8");
    assert!(store.segment_for(16 * 4096).is_err());
    drop(large);
    // Both free segments make way for one that is as large as all memory.
    let huge = store.segment_for(16 * 4096).unwrap();
    assert!(huge.has_room(16 * 4096));
    assert_eq!(store.mapped_bytes(), 16 * 4096);
    drop(huge);
    assert!(store.segment_for(16 * 4096 + 1).is_err());
    assert!(store.segment_for(usize::MAX).is_err());
}

#[test]
fn the_smallest_free_segment_is_taken_first() {
    let mut store = store(4096, 64 * 4096);
    let (large, small) = (store.segment_for(8192).unwrap(), store.segment_for(1).unwrap());
    drop((large, small));
    let writer = store.segment_for(1).unwrap();
    assert!(!writer.has_room(4097));
}

#[test]
fn bodies_from_elsewhere_share_a_segment() {
    let mut store = store(4096, 8192);
    let slices: Vec<_> = (0..4).map(|byte| copy_in(&mut store, &[byte; 1000]).unwrap()).collect();
    assert_eq!(store.mapped_bytes(), 4096);
    for (byte, slice) in (0..4).zip(&slices) {
        assert_eq!(slice.bytes(), [byte; 1000]);
    }
    assert!(copy_in(&mut store, &[0; 4000]).is_ok());
    assert!(copy_in(&mut store, &[0; 4000]).is_ok(), "the slice before was dropped at once");
    drop(slices);
    assert!(copy_in(&mut store, &[0; 8192]).is_ok());
    assert_eq!(store.mapped_bytes(), 8192);
}
