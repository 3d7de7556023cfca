//! Tests of the encoding of block headers.

use proptest::prelude::*;

use super::*;

fn partitions(numbers: impl IntoIterator<Item = u32>) -> Arc<[PartitionId]> {
    numbers.into_iter().map(PartitionId).collect()
}

fn example() -> BlockHeader {
    BlockHeader {
        notice: BlockNotice {
            epoch: Epoch(2),
            incarnation: Incarnation(0x0102_0304_0506_0708),
            attempt: Attempt(1),
            sender: CoreId { worker: WorkerId(7), core: 3 },
            batch: BatchId(1000),
            edge: EdgeId(4),
            content: Content::Partial,
            upstream: partitions([0, 1, 2, 9]),
            downstream: partitions([300]),
            watermark: Watermark::END,
        },
        record_counts: [1, 0, 200, 0].into(),
        ranges: [SourceRange { stage: StageId(1), partition: PartitionId(2), from: 3, to: 4 }]
            .into(),
        record_size: 24,
        body_len: 201 * 24 + 8,
        checksum: 0xa1b2_c3d4,
    }
}

/// Three blocks, of which the second is empty.
fn bundle() -> BundleHeader {
    let block = |downstream: &[u32], counts: [u32; 4], checksum| {
        let mut header = example();
        header.notice.downstream = partitions(downstream.iter().copied());
        header.record_counts = counts.into();
        header.body_len = body_len(header.record_count(), 24).unwrap() as u32;
        BlockHeader { checksum, ..header }
    };
    BundleHeader::new(vec![
        (0, block(&[0, 3], [1, 0, 0, 0], 5)),
        (1, block(&[1], [0; 4], 0)),
        (200, block(&[2], [0, 0, 0, 2], 6)),
    ])
}

fn bundle_bytes(header: &BundleHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}

/// As the only one of its bundle.
fn encoded(header: &BlockHeader) -> Vec<u8> {
    bundle_bytes(&BundleHeader::new(vec![(5, header.clone())]))
}

fn decoded(bytes: &[u8]) -> Result<(BlockHeader, usize), HeaderError> {
    let (header, len) = BundleHeader::decode(bytes)?;
    let [(5, block)] = header.blocks() else { panic!("{header:?} is not of one block") };
    Ok((block.clone(), len))
}

/// Puts the right checksum behind a header that was changed on purpose.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM_BYTES;
    let checksum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_header_has_these_bytes() {
    let bytes = encoded(&example());
    #[rustfmt::skip]
    let expected = [
        b'D', b'z', b'B', b'k', 2, 0, 2, 0, 0x20, 0x11, 8, 0, 122, 0, 0, 0,
        2, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1,
        0xe8, 3, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
        1, 0, 0, 0, 7, 0, 0, 0, 3, 0, 4, 0,
        24, 0, 0, 0, 1, 0, 0, 0, /* upstream */ 2, 0, 3, 1, 9, 1, 0,
        /* ranges */ 1, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
        /* core and downstream */ 5, 1, 0xac, 2, 1, 0, /* bits */ 1, /* counts */ 1, 0, 0xc8, 1, 0,
        /* body */ 0xe0, 0x12, 0, 0, 0xd4, 0xc3, 0xb2, 0xa1,
    ];
    let (content, checksum) = bytes.split_at(bytes.len() - 4);
    assert_eq!(content, expected);
    assert_eq!(checksum, crc32c::crc32c(&expected).to_le_bytes());
    assert_eq!(decoded(&bytes), Ok((example(), bytes.len())));
    assert_eq!(encoded_len(&bytes[..HEADER_PREFIX_BYTES]), Ok(bytes.len()));
}

#[test]
fn placements_take_a_run_each() {
    for (list, len) in [
        (partitions(0..512), 5),
        (partitions((3..512).step_by(8)), 4),
        (partitions([5]), 4),
        (partitions([0, 5]), 4),
        (partitions([0, 5, 6, 7, u32::MAX]), 14),
        (partitions([u32::MAX - 1, u32::MAX]), 8),
    ] {
        let mut bytes = Vec::new();
        encode_partitions(&list, &mut bytes);
        assert_eq!(bytes.len(), len, "{list:?}");
        assert_eq!(decode_partitions(&mut Reader::new(&bytes)), Ok(list));
    }
}

#[test]
fn lists_that_the_encoder_would_not_write_are_refused() {
    let refused = |numbers: &[u32]| {
        let mut bytes = Vec::new();
        numbers.iter().for_each(|&number| put_varint(&mut bytes, number));
        decode_partitions(&mut Reader::new(&bytes)).unwrap_err()
    };
    let run = HeaderError::Malformed("partition run");
    assert_eq!(refused(&[0]), HeaderError::Malformed("empty partition list"));
    assert_eq!(refused(&[1, 0, 0, 0]), run);
    assert_eq!(refused(&[1, 0, 1, 1]), run);
    assert_eq!(refused(&[1, 0, 2, 0]), run);
    assert_eq!(refused(&[2, 0, 1, 0, 1, 1, 0]), run, "two singles are one run");
    assert_eq!(refused(&[2, 0, 2, 1, 2, 1, 0]), run, "the first run goes on");
    assert_eq!(refused(&[2, 5, 2, 1, 6, 1, 0]), run, "not ascending");
    assert_eq!(refused(&[1, u32::MAX, 2, 1]), run, "beyond the last partition");
    assert_eq!(refused(&[1, 1, u32::MAX, u32::MAX]), run);
    let field = "partitions";
    let limit = MAX_PARTITIONS as u64;
    let value = limit + 1;
    assert_eq!(refused(&[1, 0, value as u32, 1]), HeaderError::Limit { field, value, limit });
}

#[test]
fn varints_have_one_form() {
    let read = |bytes: &[u8]| Reader::new(bytes).varint();
    assert_eq!(read(&[0]), Ok(0));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
    for bytes in [&[0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x1f], &[0xff; 6], &[0x80], &[]] {
        assert!(read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn another_release_is_told_apart_from_damage() {
    let mut version = encoded(&example());
    version[4] = 1;
    assert_eq!(BundleHeader::decode(&version), Err(HeaderError::Version(1)));
    let mut format = encoded(&example());
    format[8] = 0x10;
    assert_eq!(BundleHeader::decode(&format), Err(HeaderError::Format(0x0008_1110)));
    let mut magic = encoded(&example());
    magic[0] = b'x';
    assert_eq!(BundleHeader::decode(&magic), Err(HeaderError::Magic));
    let mut damaged = encoded(&example());
    damaged[40] ^= 1;
    assert_eq!(BundleHeader::decode(&damaged), Err(HeaderError::Checksum));
}

#[test]
fn contradictions_under_a_right_checksum_are_refused() {
    let refused = |index: usize, value: u8| {
        let mut bytes = encoded(&example());
        bytes[index] = value;
        BundleHeader::decode(&sealed(bytes)).unwrap_err()
    };
    assert_eq!(refused(6, 3), HeaderError::Malformed("content"));
    assert_eq!(refused(7, 1), HeaderError::Malformed("byte 7"));
    assert_eq!(refused(60, 25), HeaderError::Malformed("body length"));
    assert_eq!(refused(60, 0), HeaderError::Malformed("an empty record or bundle"));
    assert_eq!(refused(64, 0), HeaderError::Malformed("an empty record or bundle"));
    assert_eq!(refused(110, 0), HeaderError::Malformed("body length"));
    assert!(matches!(refused(63, 1), HeaderError::Limit { field: "record size", .. }));
    assert!(matches!(refused(67, 0xff), HeaderError::Limit { field: "number of blocks", .. }));
    assert!(matches!(refused(113, 0xff), HeaderError::Limit { field: "body length", .. }));
    assert_eq!(refused(82, 9), HeaderError::Malformed("source range"));
    assert_eq!(refused(104, 3), HeaderError::Malformed("bits behind the last block"));
    assert_eq!(refused(104, 0), HeaderError::Malformed("header length"));
    assert!(matches!(refused(15, 0xff), HeaderError::Limit { field: "header length", .. }));
}

#[test]
fn blocks_of_a_bundle_say_once_what_they_share_and_empty_ones_take_a_bit() {
    let bytes = bundle_bytes(&bundle());
    #[rustfmt::skip]
    let blocks = [
        /* cores and downstream */ 0, 1, 0, 2, 3, 1, 1, 1, 1, 0, 0xc8, 1, 1, 2, 1, 0, /* bits */ 5,
        1, 0, 0, 0, 32, 0, 0, 0, 5, 0, 0, 0, /* third */ 0, 0, 0, 2, 56, 0, 0, 0, 6, 0, 0, 0,
    ];
    let shared = encoded(&example()).len() - 4 - 20;
    assert_eq!(bytes[shared..bytes.len() - 4], blocks);
    assert_eq!(BundleHeader::decode(&bytes), Ok((bundle(), bytes.len())));
}

#[test]
fn bundles_that_the_encoder_would_not_write_are_refused() {
    let start = bundle_bytes(&bundle()).len() - 4 - 41;
    let refused = |index: usize, value: u8| {
        let mut bytes = bundle_bytes(&bundle());
        bytes[start + index] = value;
        BundleHeader::decode(&sealed(bytes)).unwrap_err()
    };
    assert_eq!(refused(5, 0), HeaderError::Malformed("order of cores"));
    assert_eq!(refused(11, 0), HeaderError::Malformed("varint"));
    assert_eq!(refused(16, 0x0d), HeaderError::Malformed("bits behind the last block"));
    assert_eq!(refused(17, 0), HeaderError::Malformed("body length"), "no records after all");
}

#[test]
fn few_bytes_do_not_become_many_partitions() {
    let mut header = bundle();
    let all = partitions(0..40_000);
    header.blocks.iter_mut().for_each(|(_, block)| block.notice.downstream = all.clone());
    let (field, limit) = ("downstream partitions", MAX_PARTITIONS as u64);
    let refused = HeaderError::Limit { field, value: 80_000, limit };
    assert_eq!(BundleHeader::decode(&bundle_bytes(&header)), Err(refused));
}

#[test]
fn empty_blocks_share_their_zeros() {
    let empty = BlockHeader { record_counts: [0; 4].into(), body_len: 0, checksum: 0, ..example() };
    let header = BundleHeader::new((0..9).map(|core| (core, empty.clone())).collect());
    let (decoded, _) = BundleHeader::decode(&bundle_bytes(&header)).unwrap();
    assert_eq!(decoded, header);
    let [(_, first), .., (_, last)] = decoded.blocks() else { panic!("there are nine") };
    assert!(Arc::ptr_eq(&first.record_counts, &last.record_counts));
}

#[test]
#[should_panic(expected = "ascending")]
fn partitions_out_of_order_are_our_bug() {
    encode_partitions(&partitions([0, 1, 1]), &mut Vec::new());
}

fn any_partitions() -> impl Strategy<Value = Arc<[PartitionId]>> {
    let scattered = prop::collection::btree_set(0u32..2000, 1..60).prop_map(partitions);
    let far = prop::collection::btree_set(any::<u32>(), 1..5).prop_map(partitions);
    let strided = (any::<u32>(), 1u32..100, 1u32..300)
        .prop_map(|(first, stride, count)| {
            (0..count).map_while(move |n| first.checked_add(n * stride))
        })
        .prop_map(partitions);
    prop_oneof![scattered, far, strided]
}

prop_compose! {
    fn any_notice()(
        upstream in any_partitions(), downstream in any_partitions(),
        content in prop_oneof![Just(Content::Raw), Just(Content::Partial)],
        words in any::<[u64; 4]>(), numbers in any::<[u32; 2]>(), shorts in any::<[u16; 2]>(),
    ) -> BlockNotice {
        BlockNotice {
            epoch: Epoch(words[0]), incarnation: Incarnation(words[1]), attempt: Attempt(numbers[0]),
            sender: CoreId { worker: WorkerId(numbers[1]), core: shorts[0] },
            batch: BatchId(words[2]), edge: EdgeId(shorts[1]), content, upstream, downstream,
            watermark: Watermark(words[3]),
        }
    }
}

prop_compose! {
    fn any_header()(notice in any_notice())(
        record_counts in prop::collection::vec(0u32..1000, notice.upstream.len()),
        notice in Just(notice),
        ranges in prop::collection::vec((any::<u16>(), any::<u32>(), any::<u64>(), any::<u64>()), 0..5),
        record_size in 1u32..100,
        checksum in any::<u32>(),
    ) -> BlockHeader {
        let ranges = ranges.into_iter().map(|(stage, partition, a, b)| SourceRange {
            stage: StageId(stage), partition: PartitionId(partition), from: a.min(b), to: a.max(b),
        }).collect();
        let count = record_counts.iter().map(|&count| u64::from(count)).sum();
        let body_len = body_len(count, u64::from(record_size)).unwrap() as u32;
        let checksum = if body_len == 0 { 0 } else { checksum };
        let record_counts = record_counts.into();
        BlockHeader { notice, record_counts, ranges, record_size, body_len, checksum }
    }
}

prop_compose! {
    fn any_bundle()(header in any_header())(
        cores in prop::collection::btree_map(any::<u16>(), (any_partitions(), any::<bool>()), 1..20),
        header in Just(header),
    ) -> BundleHeader {
        let blocks = cores.into_iter().map(|(core, (downstream, is_empty))| {
            let notice = BlockNotice { downstream, ..header.notice.clone() };
            let header = BlockHeader { notice, ..header.clone() };
            let record_counts = header.record_counts.iter().map(|_| 0).collect();
            (core, match is_empty {
                true => BlockHeader { record_counts, body_len: 0, checksum: 0, ..header },
                false => header,
            })
        });
        BundleHeader::new(blocks.collect())
    }
}

proptest! {
    #[test]
    fn a_header_comes_back_from_its_bytes(header in any_bundle(), behind: Vec<u8>) {
        let mut bytes = bundle_bytes(&header);
        let len = bytes.len();
        bytes.extend(behind);
        prop_assert_eq!(BundleHeader::decode(&bytes), Ok((header, len)));
    }

    #[test]
    fn a_cut_header_is_truncated(header in any_bundle(), cut: prop::sample::Index) {
        let bytes = bundle_bytes(&header);
        let len = cut.index(bytes.len());
        let needed = if len < HEADER_PREFIX_BYTES { HEADER_PREFIX_BYTES } else { bytes.len() };
        prop_assert_eq!(BundleHeader::decode(&bytes[..len]), Err(HeaderError::Truncated { needed }));
    }

    #[test]
    fn a_flipped_bit_is_noticed(header in any_bundle(), at: prop::sample::Index, bit in 0u32..8) {
        let mut bytes = bundle_bytes(&header);
        let index = at.index(bytes.len());
        bytes[index] ^= 1u8 << bit;
        prop_assert!(BundleHeader::decode(&bytes).is_err());
    }

    /// What passes in spite of a wrong byte under a right checksum is a header of its own, with
    /// exactly this encoding.
    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        header in any_bundle(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bundle_bytes(&header);
        let len = bytes.len();
        for (at, value) in changes {
            // Mostly behind the fixed part, where the structure is.
            let index = at.index(len - CHECKSUM_BYTES);
            bytes[index.max(16)] = value;
        }
        let bytes = sealed(bytes);
        if let Ok((decoded, decoded_len)) = BundleHeader::decode(&bytes) {
            prop_assert_eq!(bundle_bytes(&decoded), &bytes[..decoded_len]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = BundleHeader::decode(&content);
        let mut bytes = encoded(&example())[..FIXED_BYTES].to_vec();
        bytes.extend(content);
        bytes.extend([0; CHECKSUM_BYTES]);
        let len = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        let _ = BundleHeader::decode(&sealed(bytes));
    }
}
