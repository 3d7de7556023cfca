//! Tests of reading archives in place and refusing bad ones.

use std::sync::Arc;

use rkyv::Serialize;
use rkyv::rancor::Failure;

use super::*;
use crate::record::RawEntry;
use crate::segment::Segment;

fn writer<R: Record>() -> ArchiveWriter<R> {
    let mut segment = Arc::new(Segment::map(4096).unwrap());
    ArchiveWriter::new(SegmentWriter::claim(&mut segment).unwrap())
}

fn slice(bytes: &[u8]) -> Option<SegmentSlice> {
    let mut segment = Arc::new(Segment::map(4096).unwrap());
    let mut writer = SegmentWriter::claim(&mut segment).unwrap();
    writer.extend(bytes);
    Some(writer.publish())
}

fn archive<R: Record>(records: &[R]) -> Vec<u8> {
    let mut writer = writer::<R>();
    assert!(records.iter().all(|record| writer.push(record)));
    writer.close().bytes().to_vec()
}

#[test]
fn a_body_has_these_bytes() {
    assert_eq!(
        archive(&[0x0102_0304u32, 5]),
        [
            4, 3, 2, 1, 5, 0, 0, 0, /* offset -8 */ 0xf8, 0xff, 0xff, 0xff,
            /* length */ 2, 0, 0, 0
        ]
    );
    assert_eq!(
        archive(&[*b"abc"]),
        [b'a', b'b', b'c', 0, /* offset -4 */ 0xfc, 0xff, 0xff, 0xff, 1, 0, 0, 0]
    );
    assert!(archive::<u64>(&[]).is_empty());
}

#[test]
fn any_reader_of_rkyv_can_read_a_body() {
    let records: Vec<_> = (0..9u8)
        .map(|n| RawEntry { key: n, window_start: u64::from(n), value: (n, 1i32) })
        .collect();
    let mut writer = writer();
    assert!(records.iter().all(|record| writer.push(record)));
    let body = writer.close();
    type Archived = ArchivedVec<rkyv::Archived<RawEntry<u8, (u8, i32)>>>;
    let archived = rkyv::access::<Archived, Failure>(body.bytes()).unwrap();
    let read: Vec<RawEntry<u8, (u8, i32)>> = archived.iter().map(RawEntry::unarchive).collect();
    assert_eq!(read, records);
    let in_place = body.records::<RawEntry<u8, (u8, i32)>>().iter().map(RawEntry::unarchive);
    assert_eq!(in_place.collect::<Vec<_>>(), records);
}

#[test]
fn bytes_between_fields_are_zero_whatever_was_there_before() {
    let mut segment = Arc::new(Segment::map(4096).unwrap());
    let mut dirty = SegmentWriter::claim(&mut segment).unwrap();
    dirty.extend(&[0xff; 4096]);
    drop(dirty);
    let mut writer = ArchiveWriter::new(SegmentWriter::claim(&mut segment).unwrap());
    assert!(writer.push(&RawEntry { key: 1u8, window_start: 2, value: 3u8 }));
    let mut expected = [0; 24];
    (expected[0], expected[8], expected[16]) = (1, 2, 3);
    assert_eq!(writer.close().bytes()[..24], expected);
}

#[test]
fn a_checked_body_can_be_read_and_a_wrong_one_is_refused() {
    let body = archive(&[1u64, 2, 3]);
    let check = checker::<u64>();
    let checked = check.apply(slice(&body), 8, 3).unwrap();
    assert_eq!(checked.records::<u64>().iter().map(u64::unarchive).collect::<Vec<_>>(), [1, 2, 3]);

    let refused = |bytes: &[u8], size, count| check.apply(slice(bytes), size, count).unwrap_err();
    assert_eq!(refused(&body, 4, 6), BodyError::RecordSize { expected: 8, actual: 4 });
    assert_eq!(refused(&body, 8, 2), BodyError::Length { expected: 24, actual: 32 });
    assert!(matches!(refused(&body, 8, usize::MAX), BodyError::Length { .. }));
    for index in 24..32 {
        let mut bent = body.clone();
        bent[index] ^= 4;
        assert_eq!(refused(&bent, 8, 3), BodyError::Root, "byte {index}");
    }
}

#[test]
fn values_that_a_type_does_not_have_are_refused() {
    let mut body = archive(&[true, false, true]);
    body[1] = 2;
    let refused = checker::<bool>().apply(slice(&body), 1, 3).unwrap_err();
    assert_eq!(refused, BodyError::Record { index: 1 });
    assert_eq!(refused.to_string(), "record 1 holds a value that its type does not have");
}

#[test]
#[should_panic(expected = "which is not what it holds")]
fn a_body_is_not_read_as_another_type_of_the_same_size() {
    let mut writer = writer::<u64>();
    assert!(writer.push(&1));
    writer.close().records::<i64>();
}

/// A type whose author forgot to write anything in `resolve`, which is safe code.
#[derive(Clone, Copy)]
struct Forgetful;

#[derive(rkyv::Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(transparent)]
struct NotZero(rkyv::Archived<std::num::NonZeroU32>);

impl Archive for Forgetful {
    type Archived = NotZero;
    type Resolver = ();
    fn resolve(&self, (): (), _out: Place<Self::Archived>) {}
}

impl Serialize<Plain> for Forgetful {
    fn serialize(&self, _: &mut Plain) -> Result<(), Failure> {
        Ok(())
    }
}

impl rkyv::Deserialize<Forgetful, Plain> for NotZero {
    fn deserialize(&self, _: &mut Plain) -> Result<Forgetful, Failure> {
        Ok(Forgetful)
    }
}

#[test]
#[should_panic(expected = "not valid")]
fn a_record_that_resolves_to_nothing_valid_is_not_published() {
    writer::<Forgetful>().push(&Forgetful);
}
