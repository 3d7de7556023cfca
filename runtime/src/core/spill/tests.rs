//! Blocks of a real job in a file, good and damaged.

use std::sync::Arc;

use super::*;
use crate::dataflow::Combine;
use crate::dataflow::tests::harness::{Bench, Items, Sum, item, options, windowed};

/// Blocks that a source task wrote, and how those of their edge are checked.
fn blocks() -> (Vec<(BlockName, Block, u64)>, BodyCheck) {
    let items = Items::new(&[(0..100).map(|key| item(key, 1, 1)).collect()]);
    let (mut bench, _rows): (Bench, _) = windowed(items, Sum, options(3, Combine::Never));
    bench.batch();
    let mut end = 0;
    let mut blocks = Vec::new();
    for (_, block) in &bench.blocks {
        let offset = end;
        end += block.body().len() as u64;
        blocks.push((BlockName::of(block.notice()), block.clone(), offset));
    }
    assert!(end > 1000, "there is something to be spilled");
    let notice = blocks[0].1.notice();
    let check = bench.job.check_of(notice.edge, notice.content).expect("the job has that edge");
    (blocks, check)
}

/// A file with these blocks, as if a core had had them written.
fn spill(blocks: &[(BlockName, Block, u64)]) -> (Spill, Vec<Spilled>) {
    let file = tempfile();
    for (_, block, offset) in blocks {
        file.write_all_at(block.body(), *offset).unwrap();
    }
    let mut spill = Spill::new(1 << 20);
    spill.file = Some(Arc::new(file));
    let spilled = blocks.iter().map(|(_, block, offset)| Spilled {
        header: BlockHeader { checksum: block.checksum(), ..block.header().clone() },
        offset: *offset,
    });
    (spill, spilled.collect())
}

fn tempfile() -> File {
    let name = format!("drizzle-spill-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(&path).unwrap();
    file.unwrap()
}

#[test]
fn what_comes_back_is_what_was_spilled() {
    let (blocks, check) = blocks();
    let (mut spill, spilled) = spill(&blocks);
    for ((_, block, _), spilled) in blocks.iter().zip(&spilled) {
        let back = spill.read(spilled, check).unwrap();
        assert_eq!((back.body(), back.notice()), (block.body(), block.notice()));
        assert_eq!(back.record_count(), block.record_count());
    }
}

#[test]
fn every_byte_that_is_flipped_is_noticed() {
    let (blocks, check) = blocks();
    let (mut spill, spilled) = spill(&blocks);
    let file = spill.file.clone().unwrap();
    for ((_, block, offset), spilled) in blocks.iter().zip(&spilled) {
        for (index, &byte) in block.body().iter().enumerate() {
            let at = offset + index as u64;
            file.write_all_at(&[byte ^ 0x20], at).unwrap();
            let refused = spill.read(spilled, check).unwrap_err();
            assert!(matches!(refused, ReadBackError::Damaged(_)), "{refused}");
            file.write_all_at(&[byte], at).unwrap();
        }
        spill.read(spilled, check).unwrap();
    }
}

#[test]
fn every_length_that_is_too_short_is_noticed() {
    let (blocks, check) = blocks();
    let (mut spill, spilled) = spill(&blocks);
    let file = spill.file.clone().unwrap();
    let (last, (_, block, offset)) = (spilled.last().unwrap(), blocks.last().unwrap());
    for len in (0..block.body().len() as u64).rev() {
        file.set_len(offset + len).unwrap();
        let refused = spill.read(last, check).unwrap_err();
        assert!(matches!(refused, ReadBackError::Read(_)), "{refused}");
    }
}
