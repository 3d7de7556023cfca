//! Tests of segments.

use super::*;

fn segment() -> Arc<Segment> {
    Arc::new(Segment::map(4096).unwrap())
}

#[test]
fn published_bytes_stay_while_the_writer_goes_on() {
    let mut writer = SegmentWriter::claim(&mut segment()).unwrap();
    writer.extend(b"first");
    let first = writer.publish();
    writer.extend(b"second");
    let second = writer.publish();
    assert_eq!(first.bytes(), b"first");
    assert_eq!(second.bytes(), b"second");
    assert!((second.bytes().as_ptr() as usize).is_multiple_of(SEGMENT_ALIGN));
}

#[test]
fn a_segment_has_one_writer_and_is_claimed_again_after_its_last_reader() {
    let mut segment = segment();
    let mut writer = SegmentWriter::claim(&mut segment).unwrap();
    assert!(SegmentWriter::claim(&mut segment).is_none(), "a writer holds it");
    writer.extend(b"x");
    let slice = writer.publish();
    drop(writer);
    assert!(SegmentWriter::claim(&mut segment).is_none(), "a reader holds it");
    let read =
        std::thread::scope(|scope| scope.spawn(move || slice.bytes().to_vec()).join().unwrap());
    assert_eq!(read, b"x");
    assert!(SegmentWriter::claim(&mut segment).is_some());
}

#[test]
fn a_slice_keeps_the_mapping_alive() {
    let mut writer = SegmentWriter::claim(&mut segment()).unwrap();
    writer.extend(b"alive");
    let slice = writer.publish();
    drop(writer);
    assert_eq!(slice.bytes(), b"alive");
}

#[test]
fn a_full_segment_has_no_spot() {
    let mut writer = SegmentWriter::claim(&mut segment()).unwrap();
    writer.extend(&[1; 4090]);
    assert!(writer.spot(7, 0).is_none());
    assert!(writer.spot(6, 1).is_none());
    assert!(writer.spot(6, 0).is_some());
    let slice = writer.publish();
    assert_eq!(slice.bytes().len(), 4090);
    assert!(!writer.has_room(1) && writer.has_room(0));
    assert!(writer.publish().bytes().is_empty());
}

#[test]
fn open_bytes_move_and_are_forgotten() {
    let mut from = SegmentWriter::claim(&mut segment()).unwrap();
    let mut to = SegmentWriter::claim(&mut segment()).unwrap();
    from.extend(b"kept");
    let kept = from.publish();
    from.extend(b"moved");
    from.move_open_to(&mut to);
    assert_eq!((from.open_len(), to.open_len()), (0, 5));
    from.extend(b"later");
    from.discard();
    from.extend(b"last");
    assert_eq!(to.publish().bytes(), b"moved");
    assert_eq!(from.publish().bytes(), b"last");
    assert_eq!(kept.bytes(), b"kept");
}
