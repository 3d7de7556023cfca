//! Tests of blocks.

use drizzle_scheduler::ids::{
    Attempt, BatchId, CoreId, EdgeId, Epoch, Incarnation, Watermark, WorkerId,
};
use drizzle_scheduler::message::Content;
use proptest::prelude::*;

use super::bundle::Bundle;
use super::header::{BundleHeader, HeaderError};
use super::writer::{BlockParts, BlockWriter};
use super::*;
use crate::archive::checker;
use crate::record::{PartialEntry, RawEntry};
use crate::store::StoreOptions;

type Entry = RawEntry<u64, u32>;

fn store(pages: usize) -> BlockStore {
    BlockStore::new(StoreOptions { segment_bytes: 4096, max_bytes: pages * 4096 })
}

fn parts(batch: u64, upstream_count: u32) -> BlockParts {
    let notice = BlockNotice {
        epoch: Epoch(1),
        incarnation: Incarnation(1),
        attempt: Attempt(0),
        sender: CoreId { worker: WorkerId(0), core: 0 },
        batch: BatchId(batch),
        edge: EdgeId(0),
        content: Content::Raw,
        upstream: (0..upstream_count).map(PartitionId).collect(),
        downstream: [PartitionId(0)].into(),
        watermark: Watermark(0),
    };
    BlockParts { notice, ranges: Arc::default() }
}

fn entry(n: u64) -> Entry {
    RawEntry { key: n, window_start: n * 10, value: n as u32 }
}

/// A block with `counts[i]` entries of the i-th upstream partition, numbered through.
fn block(store: &mut BlockStore, writer: &mut BlockWriter<Entry>, counts: &[u32]) -> Block {
    let mut number = 0;
    for (index, &count) in counts.iter().enumerate() {
        writer.begin_section(index);
        for _ in 0..count {
            writer.append(store, &entry(number)).unwrap();
            number += 1;
        }
    }
    writer.finish(parts(1, counts.len() as u32))
}

fn entries(block: &Block) -> Vec<Entry> {
    block.records::<Entry>().iter().map(Entry::unarchive).collect()
}

fn numbered(count: u64) -> Vec<Entry> {
    (0..count).map(entry).collect()
}

#[test]
fn a_block_holds_the_records_of_each_upstream_partition_in_order() {
    let block = block(&mut store(1), &mut BlockWriter::new(), &[2, 0, 3]);
    assert_eq!(entries(&block), numbered(5));
    assert_eq!(*block.header().record_counts, [2, 0, 3]);
    assert_eq!([block.section(0), block.section(1), block.section(2)], [0..2, 2..2, 2..5]);
    let sections: Vec<_> = block.sections().collect();
    assert_eq!(
        sections,
        [0..2, 2..2, 2..5]
            .into_iter()
            .enumerate()
            .map(|(p, range)| (PartitionId(p as u32), range))
            .collect::<Vec<_>>()
    );
    assert_eq!(block.header().body_len as usize, block.body().len());
    assert_eq!(block.header().record_size, 24);
}

#[test]
fn sections_may_be_left_out() {
    let (mut store, mut writer) = (store(1), BlockWriter::new());
    writer.begin_section(1);
    writer.append(&mut store, &entry(0)).unwrap();
    writer.begin_section(3);
    writer.append(&mut store, &entry(1)).unwrap();
    assert_eq!(writer.record_count(), 2);
    let block = writer.finish(parts(1, 6));
    assert_eq!(*block.header().record_counts, [0, 1, 0, 1, 0, 0]);
}

#[test]
fn an_empty_block_needs_no_memory() {
    let mut store = store(1);
    let mut writer = BlockWriter::new();
    let first = block(&mut store, &mut writer, &[0, 0]);
    assert!(first.is_empty() && first.body().is_empty() && first.records::<Entry>().is_empty());
    assert_eq!(store.mapped_bytes(), 0);
    let full = block(&mut store, &mut writer, &[1]);
    let second = block(&mut store, &mut writer, &[0]);
    assert!(second.is_empty());
    drop((full, writer));
    assert_eq!(store.retained_bytes(), 0, "an empty block retains nothing");
}

#[test]
fn blocks_of_many_batches_share_segments_that_are_recycled() {
    let mut store = store(2);
    let mut writer = BlockWriter::new();
    for _ in 0..1000 {
        let block = block(&mut store, &mut writer, &[10, 10]);
        assert_eq!(entries(&block), numbered(20));
    }
    assert!(store.mapped_bytes() <= 2 * 4096);
}

#[test]
fn an_open_block_moves_to_ever_larger_segments() {
    let mut store = store(1000);
    let mut writer = BlockWriter::new();
    let before = block(&mut store, &mut writer, &[7]);
    let large = block(&mut store, &mut writer, &[10_000, 5000]);
    assert_eq!(entries(&large), numbered(15_000));
    assert_eq!(entries(&before), numbered(7));
}

#[test]
fn a_full_store_leaves_the_block_open() {
    let mut store = store(2);
    let mut writer = BlockWriter::new();
    let held = block(&mut store, &mut BlockWriter::new(), &[1]);
    writer.begin_section(0);
    let fitting = (0..).take_while(|&n| writer.append(&mut store, &entry(n)).is_ok()).count();
    assert_eq!(fitting, (4096 - 11) / 24);
    assert_eq!(writer.open_bytes(), fitting * 24);
    assert!(writer.append(&mut store, &entry(0)).is_err());
    drop(held);
    assert!(writer.append(&mut store, &entry(fitting as u64)).is_err(), "8 KiB are still too many");
    let block = writer.finish(parts(1, 1));
    assert_eq!(entries(&block), numbered(fitting as u64));
}

#[test]
fn a_discarded_block_leaves_nothing_behind() {
    let (mut store, mut writer) = (store(1), BlockWriter::new());
    writer.begin_section(0);
    writer.append(&mut store, &entry(99)).unwrap();
    writer.discard();
    assert_eq!(entries(&block(&mut store, &mut writer, &[3])), numbered(3));
}

#[test]
#[should_panic(expected = "sections are written in order")]
fn sections_are_not_revisited() {
    let mut writer = BlockWriter::<u64>::new();
    writer.begin_section(1);
    writer.begin_section(1);
}

#[test]
#[should_panic(expected = "before the first section")]
fn records_belong_to_a_section() {
    let mut writer = BlockWriter::new();
    writer.append(&mut store(1), &1u64).unwrap();
    writer.finish(parts(1, 1));
}

#[test]
fn a_block_goes_to_another_thread_and_back() {
    let mut store = store(2);
    let block = block(&mut store, &mut BlockWriter::new(), &[4]);
    let clone = block.clone();
    let read = std::thread::scope(|scope| scope.spawn(move || entries(&clone)).join().unwrap());
    assert_eq!(read, numbered(4));
    assert_eq!(store.retained_bytes(), 4096);
    drop(block);
    assert_eq!(store.retained_bytes(), 0);
}

/// What another process gets.
fn wire(block: &Block) -> (Vec<u8>, Vec<u8>) {
    let mut header = Vec::new();
    Bundle::new(3, block.clone()).encode_header(&mut header);
    (header, block.body().to_vec())
}

fn arrive(
    store: &mut BlockStore,
    header: &[u8],
    body: &[u8],
) -> Result<UncheckedBlock, ReceiveError> {
    let (header, _) = BundleHeader::decode(header).unwrap();
    let [(3, header)] = header.blocks() else { panic!("{header:?} is not of one block") };
    store.receive(header, body)
}

#[test]
fn a_block_arrives_in_another_store() {
    let mut sender = store(2);
    let mut receiver = store(1);
    for counts in [&[2, 0, 3][..], &[0], &[1]] {
        let sent = block(&mut sender, &mut BlockWriter::new(), counts);
        let (header, body) = wire(&sent);
        let unchecked = arrive(&mut receiver, &header, &body).unwrap();
        assert_eq!(unchecked.header().notice, *sent.notice());
        let received = unchecked.validate(checker::<Entry>()).unwrap();
        assert_eq!(entries(&received), entries(&sent));
        assert_eq!(received.checksum(), sent.checksum());
        assert_eq!(received.header().checksum, sent.checksum());
        assert_eq!(wire(&received), (header, body));
    }
}

#[test]
fn a_body_that_is_not_what_was_sent_is_refused() {
    let (mut sender, mut receiver) = (store(2), store(1));
    let (header, body) = wire(&block(&mut sender, &mut BlockWriter::new(), &[2]));
    let short = arrive(&mut receiver, &header, &body[1..]).unwrap_err();
    assert_eq!(short, ReceiveError::Length { expected: 56, actual: 55 });
    let mut bent = body.clone();
    bent[10] ^= 1;
    let bent = arrive(&mut receiver, &header, &bent).unwrap_err();
    assert!(matches!(bent, ReceiveError::Checksum { .. }));
    let other = arrive(&mut receiver, &header, &body).unwrap().validate(checker::<u64>());
    assert_eq!(
        other.unwrap_err(),
        ReceiveError::Body(BodyError::RecordSize { expected: 8, actual: 24 })
    );
    // The same size, but not the same type: the edge decides, and reading checks it.
    let partial = arrive(&mut receiver, &header, &body).unwrap();
    let partial = partial.validate(checker::<PartialEntry<u64, u64>>()).unwrap();
    assert_eq!(partial.records::<PartialEntry<u64, u64>>().len(), 2);
}

#[test]
fn a_full_store_is_no_fault_of_the_sender() {
    let (mut sender, mut receiver) = (store(3), store(1));
    let sent = block(&mut sender, &mut BlockWriter::new(), &[100]);
    let (header, body) = wire(&sent);
    let first = arrive(&mut receiver, &header, &body).unwrap();
    let full = arrive(&mut receiver, &header, &body).unwrap_err();
    assert!(matches!(full, ReceiveError::Full(_)));
    drop(first);
    assert!(arrive(&mut receiver, &header, &body).is_ok());
}

#[test]
fn damage_on_the_way_never_becomes_a_block() {
    let (mut sender, mut receiver) = (store(2), store(1));
    let (header, body) = wire(&block(&mut sender, &mut BlockWriter::new(), &[3, 1]));
    for index in 0..header.len() {
        let mut bent = header.clone();
        bent[index] ^= 0x10;
        assert_ne!(BundleHeader::decode(&bent).err(), None::<HeaderError>);
    }
    for index in 0..body.len() {
        let mut bent = body.clone();
        bent[index] ^= 0x10;
        assert!(arrive(&mut receiver, &header, &bent).is_err());
    }
}

#[test]
fn a_body_arrives_in_pieces_wherever_they_come_from() {
    let (mut sender, mut receiver) = (store(2), store(1));
    let sent = block(&mut sender, &mut BlockWriter::new(), &[9]);
    let header = BlockHeader { checksum: sent.checksum(), ..sent.header().clone() };
    let mut arriving = receiver.expect(&header).unwrap();
    let (first, rest) = sent.body().split_at(5);
    assert_eq!((arriving.fill(first), arriving.missing()), (5, rest.len()));
    let mut lent = arriving.lend();
    assert_eq!(lent.fill(&rest[..10]), 10);
    arriving.give_back(lent);
    let too_many = [&rest[10..], &[1, 2, 3]].concat();
    assert_eq!(arriving.fill(&too_many), rest.len() - 10);
    let block = arriving.finish().unwrap().validate(checker::<Entry>()).unwrap();
    assert_eq!(entries(&block), entries(&sent));
}

#[test]
fn a_body_given_up_half_way_gives_its_memory_back() {
    let (mut sender, mut receiver) = (store(2), store(1));
    let sent = block(&mut sender, &mut BlockWriter::new(), &[100]);
    for _ in 0..10 {
        let mut arriving = receiver.expect(sent.header()).unwrap();
        arriving.fill(&sent.body()[..100]);
        assert!(receiver.expect(sent.header()).is_err());
    }
}

#[test]
fn a_bundle_takes_only_blocks_that_belong_together() {
    let (mut store, mut writer) = (store(4), BlockWriter::new());
    let mut bundle = Bundle::new(2, block(&mut store, &mut writer, &[1, 0]));
    let empty = block(&mut store, &mut writer, &[0, 0]);
    assert!(bundle.add(2, empty.clone()).is_err(), "one block for each core");
    assert!(bundle.add(5, empty.clone()).is_ok());
    assert!(bundle.add(4, empty).is_err(), "ascending");
    writer.begin_section(0);
    assert!(bundle.add(6, writer.finish(parts(2, 2))).is_err(), "another batch");
    assert!(bundle.add(6, block(&mut store, &mut writer, &[1])).is_err(), "other partitions");
    assert_eq!(bundle.body_len(), 24 + 8);
    let mut bytes = Vec::new();
    bundle.encode_header(&mut bytes);
    let (header, len) = BundleHeader::decode(&bytes).unwrap();
    assert_eq!((len, header.body_len()), (bytes.len(), 32));
    let cores: Vec<_> =
        header.blocks().iter().map(|(core, block)| (*core, block.body_len)).collect();
    assert_eq!(cores, [(2, 32), (5, 0)]);
}

proptest! {
    /// Any sizes, any order of release: each block keeps its records, and the limit holds.
    #[test]
    fn blocks_keep_their_records_until_released(
        steps in prop::collection::vec((0u32..400, any::<prop::sample::Index>(), 0u8..3), 1..60),
    ) {
        let mut store = store(24);
        let mut writer = BlockWriter::<Entry>::new();
        let mut held: Vec<(Block, u64)> = Vec::new();
        for (count, at, release) in steps {
            writer.begin_section(0);
            let written = (0..count).all(|n| writer.append(&mut store, &entry(n.into())).is_ok());
            match written {
                true => held.push((writer.finish(parts(1, 1)), count.into())),
                false => writer.discard(),
            }
            if release > 0 && !held.is_empty() {
                held.swap_remove(at.index(held.len()));
            }
            prop_assert!(store.mapped_bytes() <= 24 * 4096);
            for (block, count) in &held {
                prop_assert_eq!(entries(block), numbered(*count));
            }
        }
        drop((held, writer));
        prop_assert_eq!(store.retained_bytes(), 0);
    }
}
