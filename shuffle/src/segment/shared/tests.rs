//! Tests of segments that other processes may read.

use std::os::fd::OwnedFd;

use super::super::{Segment, SegmentSlice, SegmentWriter};
use super::*;

fn published(segment: &mut Arc<Segment>, bytes: &[u8]) -> SegmentSlice {
    let mut writer = SegmentWriter::claim(segment).unwrap();
    writer.extend(&[9; 40]);
    writer.publish();
    writer.extend(bytes);
    writer.publish()
}

fn reader(slice: &SegmentSlice) -> (PeerSegment, Place) {
    let (file, place) = slice.shared().unwrap();
    let descriptor = file.descriptor().try_clone_to_owned().unwrap();
    (PeerSegment::map(descriptor).unwrap(), place)
}

fn landing(len: usize) -> Landing {
    let mut segment = Arc::new(Segment::map(4096).unwrap());
    SegmentWriter::claim(&mut segment).unwrap().land(len)
}

#[test]
fn a_reader_copies_what_was_published_in_pieces() {
    let mut segment = Arc::new(Segment::share(8192).unwrap());
    assert_eq!((segment.capacity(), segment.mapped_bytes()), (8192 - 64, 8192));
    let bytes: Vec<u8> = (0..100).collect();
    let slice = published(&mut segment, &bytes);
    let (peer, place) = reader(&slice);
    assert_eq!(place, Place { offset: 64 + 48, generation: 1 });
    let mut copy = landing(100);
    while copy.missing() > 0 {
        peer.copy_to(place, 100, &mut copy, 30).unwrap();
    }
    assert_eq!(copy.finish().bytes(), bytes);
}

#[test]
fn a_reader_that_comes_too_late_notices() {
    let mut segment = Arc::new(Segment::share(4096).unwrap());
    let slice = published(&mut segment, &[1; 50]);
    let (peer, place) = reader(&slice);
    drop(slice);
    published(&mut segment, &[2; 50]);
    let late = peer.copy_to(place, 50, &mut landing(50), 50).unwrap_err();
    assert!(matches!(late, PeerSegmentError::Generation { expected: 1, actual: 2 }), "{late}");
}

#[test]
fn a_place_outside_of_the_segment_is_refused() {
    let mut segment = Arc::new(Segment::share(4096).unwrap());
    let (peer, place) = reader(&published(&mut segment, &[1; 50]));
    for (offset, len) in [(0, 50), (48, 50), (4096, 1), (4047, 50), (u32::MAX, 50), (64, 4033)] {
        let outside = Place { offset, ..place };
        let refused = peer.copy_to(outside, len, &mut landing(len), len).unwrap_err();
        assert!(matches!(refused, PeerSegmentError::Outside { .. }), "{refused}");
    }
}

#[test]
fn only_sealed_memory_files_are_mapped() {
    let refused = |descriptor: OwnedFd| PeerSegment::map(descriptor).unwrap_err();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(matches!(refused(file.into()), PeerSegmentError::NotSealed));
    let open = |bytes: u64, seals| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("test", flags).unwrap());
        file.set_len(bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    };
    assert!(matches!(refused(open(4096, SealFlags::GROW)), PeerSegmentError::NotSealed));
    assert!(matches!(refused(open(64, SealFlags::SHRINK)), PeerSegmentError::Length(64)));
    assert!(matches!(refused(open(1 << 40, SealFlags::SHRINK)), PeerSegmentError::Length(_)));
    assert!(PeerSegment::map(open(4096, SealFlags::SHRINK)).is_ok());
}

#[test]
fn a_reader_cannot_write_and_nobody_can_shrink() {
    let mut segment = Arc::new(Segment::share(4096).unwrap());
    let slice = published(&mut segment, &[1; 50]);
    let file = File::from(slice.shared().unwrap().0.descriptor().try_clone_to_owned().unwrap());
    assert!(MmapOptions::new().map_raw(&file).is_err());
    assert!(file.set_len(0).is_err() && file.set_len(8192).is_err());
    assert!(std::io::Write::write(&mut &file, &[1]).is_err());
}

#[test]
fn the_life_of_a_segment_ends_with_it() {
    let segment = Arc::new(Segment::share(4096).unwrap());
    let other = Arc::new(Segment::share(4096).unwrap());
    let life = |segment: &Arc<Segment>| segment.shared.as_ref().unwrap().file.life();
    assert_ne!(life(&segment).id(), life(&other).id());
    assert_eq!(life(&segment).id(), life(&segment).id());
    let held = life(&segment);
    assert!(!held.is_over());
    drop(segment);
    assert!(held.is_over());
}
