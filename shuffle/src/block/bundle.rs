//! What one core sends another worker at a time: its blocks of one batch and edge for all cores there.

use crate::block::Block;
use crate::block::header::{MAX_BODY_BYTES, encode_bundle};

/// Blocks of one batch, edge and sending core for cores of one worker, at most one for each core.
/// Cloning shares them.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// At least one, by ascending core.
    blocks: Vec<(u16, Block)>,
    body_len: usize,
}

impl Bundle {
    /// One block, for the core with this number.
    pub fn new(core: u16, block: Block) -> Bundle {
        let body_len = block.body().len();
        Bundle { blocks: vec![(core, block)], body_len }
    }

    /// Adds a block, or gives it back if it belongs to another bundle: it is of another batch, edge
    /// or kind, its core does not follow the last one, or all bodies together would be too long.
    pub fn add(&mut self, core: u16, block: Block) -> Result<(), Block> {
        let (last, other) = self.blocks.last().expect("a bundle has a block");
        let body_len = self.body_len + block.body().len();
        let fits = *last < core && body_len <= MAX_BODY_BYTES as usize;
        if !fits || !block.header().shares_with(other.header()) {
            return Err(block);
        }
        self.body_len = body_len;
        self.blocks.push((core, block));
        Ok(())
    }

    /// The blocks, each with the number of the core that it is for.
    pub fn blocks(&self) -> &[(u16, Block)] {
        &self.blocks
    }

    /// Bytes of all bodies together.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// Appends the header as it goes to another process, with the checksums.
    pub fn encode_header(&self, out: &mut Vec<u8>) {
        let blocks = self.blocks.iter();
        encode_bundle(blocks.map(|(core, block)| (*core, block.header(), block.checksum())), out);
    }
}
