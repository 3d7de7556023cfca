//! Retained blocks in a file, where memory for blocks is short. What would free them is a checkpoint, which
//! takes its time, and until then sources would have to wait.
//!
//! The oldest blocks go first. The storage thread writes them, into a file without a name, which is gone
//! with its process: another life retains other blocks. They are read back only when somebody is lost and
//! they are needed once more, and what comes back is compared with its checksum: a block that is damaged ends
//! the job with a sentence, and `--resume` starts from the last checkpoint, which needs none of them.
//!
//! What was read back lies in memory of its own. Blocks for others are read back one after the other, as the
//! ones before leave; those for this core at once, because their tasks count on them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use drizzle_scheduler::CoreId;
use drizzle_scheduler::local::BlockName;
use drizzle_scheduler::message::BlockNotice;
use drizzle_shuffle::{Block, BlockHeader, BlockStore, BodyCheck, ReceiveError, StoreOptions};

use super::Core;
use super::keeping::{Answer, Keeping};
use crate::storage::{Storage, StorageError};

#[cfg(test)]
mod tests;

/// So many times the memory for blocks is retained in all before sources pause for good.
pub const TIMES_MEMORY: u64 = 16;
/// So many bytes, about, are written at a time.
const AT_ONCE: u64 = 4 << 20;
/// What is read back lies in segments of this size.
const SEGMENT_BYTES: usize = 256 << 10;

/// A block that this core wrote, and may be asked for once more.
#[derive(Debug)]
pub(super) enum Retained {
    /// In memory.
    Here(Block),
    /// In the file.
    Spilled(Spilled),
}

/// A block in the file.
#[derive(Clone, Debug)]
pub(super) struct Spilled {
    /// With the checksum of its body.
    header: BlockHeader,
    offset: u64,
}

impl Spilled {
    fn bytes(&self) -> u64 {
        u64::from(self.header.body_len)
    }
}

/// The file, as its core sees it.
#[derive(Debug)]
pub(super) struct Spill {
    file: Option<Arc<File>>,
    /// Where the next block goes.
    end: u64,
    /// Bytes of the blocks in it that are still retained.
    needed: u64,
    /// The most that this ever was.
    peak: u64,
    /// How long the file may be.
    limit: u64,
    pen: Pen,
    /// For what is read back.
    memory: BlockStore,
    /// Memory that blocks for others may take at a time when they are read back.
    for_others: usize,
}

/// Whether blocks may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pen {
    Idle,
    /// Some are being written.
    Busy,
    /// It went wrong, and is tried again after the next checkpoint.
    Broken,
}

/// Why a block did not come back.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadBackError {
    #[error("cannot be read back: {0}")]
    Read(#[from] std::io::Error),
    #[error("has been damaged: {0}")]
    Damaged(#[from] ReceiveError),
}

impl Spill {
    /// For a core with so much memory for the blocks that it writes.
    pub(super) fn new(memory_bytes: usize) -> Spill {
        let limit = memory_bytes as u64 * TIMES_MEMORY;
        Spill {
            file: None,
            end: 0,
            needed: 0,
            peak: 0,
            limit,
            pen: Pen::Idle,
            memory: read_back_memory(limit),
            for_others: memory_bytes / 2,
        }
    }

    /// The most bytes of blocks that were ever in the file.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak
    }

    /// Whether another block for somebody else may be read back now.
    fn has_room_for_others(&self) -> bool {
        self.memory.retained_bytes() < self.for_others
    }

    fn read(&mut self, spilled: &Spilled, check: BodyCheck) -> Result<Block, ReadBackError> {
        let file = self.file.as_ref().expect("what was spilled is in the file");
        let mut body = vec![0; spilled.header.body_len as usize];
        file.read_exact_at(&mut body, spilled.offset)?;
        let block = self.memory.receive(&spilled.header, &body)?;
        Ok(block.validate(check)?)
    }

    /// A block is not retained any more.
    pub(super) fn forget(&mut self, spilled: &Spilled) {
        self.needed -= spilled.bytes();
    }

    /// A checkpoint has freed what it could.
    pub(super) fn tidy(&mut self) {
        if self.pen == Pen::Broken {
            self.pen = Pen::Idle;
        }
        if self.needed == 0 && self.pen == Pen::Idle {
            self.end = 0;
        }
        if self.memory.mapped_bytes() > 0 && self.memory.retained_bytes() == 0 {
            self.memory = read_back_memory(self.limit);
        }
    }
}

fn read_back_memory(limit: u64) -> BlockStore {
    let max_bytes = usize::try_from(2 * limit).unwrap_or(usize::MAX).max(2 * SEGMENT_BYTES);
    BlockStore::new(StoreOptions { segment_bytes: SEGMENT_BYTES, max_bytes })
}

/// Writes blocks into the file, which is created where there is none yet.
fn write(
    storage: &dyn Storage,
    file: Option<Arc<File>>,
    blocks: &[(BlockName, Block, u64)],
) -> Result<Arc<File>, StorageError> {
    let file = match file {
        Some(file) => file,
        None => Arc::new(storage.scratch()?),
    };
    for (_, block, offset) in blocks {
        file.write_all_at(block.body(), *offset)
            .map_err(|error| StorageError(format!("cannot write blocks to a file: {error}")))?;
    }
    Ok(file)
}

impl Keeping {
    /// Has the oldest blocks that are in memory written.
    fn spill(&mut self) {
        let Spill { end, limit, pen, .. } = &self.spill;
        if *pen != Pen::Idle || end + AT_ONCE > *limit {
            return;
        }
        let (mut end, most) = (*end, end + AT_ONCE);
        let mut blocks = Vec::new();
        for (name, retained) in &self.retained {
            if end >= most {
                break;
            }
            if let Retained::Here(block) = retained
                && !block.body().is_empty()
            {
                blocks.push((*name, block.clone(), end));
                end += block.body().len() as u64;
            }
        }
        if blocks.is_empty() {
            return;
        }
        let (give, waker, file) =
            (self.answers.0.clone(), self.waker.clone(), self.spill.file.clone());
        let asked = self.storage.ask(move |storage| {
            let file = write(storage, file, &blocks);
            let spilled = |(name, block, offset): (BlockName, Block, u64)| {
                let header = BlockHeader { checksum: block.checksum(), ..block.header().clone() };
                (name, Spilled { header, offset })
            };
            // The blocks are let go of here, so that their memory is free when the core hears of it.
            let blocks = blocks.into_iter().map(spilled).collect();
            let _ = give.send(Answer::Spilled { blocks, file });
            waker.wake();
        });
        // Where the desk is full it is tried again with the next batch.
        if asked.is_ok() {
            self.spill.end = end;
            self.spill.pen = Pen::Busy;
        }
    }

    /// Takes note of blocks that are in the file now.
    fn take_spilled(&mut self, blocks: Vec<(BlockName, Spilled)>, file: Arc<File>) {
        self.spill.file = Some(file);
        self.spill.pen = Pen::Idle;
        for (name, spilled) in blocks {
            // A checkpoint may have freed it meanwhile.
            if let Some(retained) = self.retained.get_mut(&name) {
                self.spill.needed += spilled.bytes();
                *retained = Retained::Spilled(spilled);
            }
        }
        self.spill.peak = self.spill.peak.max(self.spill.needed);
    }
}

impl Core {
    /// Spills blocks where sources would soon have to pause, which they do at a half.
    pub(super) fn spill_if_short(&mut self) {
        if let Some(keeping) = &mut self.keeping
            && self.memory.is_short()
        {
            keeping.spill();
        }
    }

    /// Blocks were written, or not.
    pub(super) fn spilled(
        &mut self,
        blocks: Vec<(BlockName, Spilled)>,
        file: Result<Arc<File>, StorageError>,
    ) {
        match file {
            Ok(file) => {
                if self.kept().spill.file.is_none() {
                    let line = "memory for blocks is short: the oldest are written to a file, until a \
                                checkpoint covers them";
                    self.warn(line.to_owned());
                }
                self.kept().take_spilled(blocks, file);
            }
            Err(error) => {
                self.kept().spill.pen = Pen::Broken;
                self.warn(format!("{error}: sources wait for the next checkpoint instead"));
            }
        }
    }

    /// Sends a retained block once more; one that was spilled when there is room for it.
    pub(super) fn resend(
        &mut self,
        name: BlockName,
        to: CoreId,
        notice: BlockNotice,
    ) -> Result<(), String> {
        let keeping = self.kept();
        let is_here = matches!(keeping.retained.get(&name), Some(Retained::Here(_)));
        if !is_here && !keeping.spill.has_room_for_others() {
            keeping.resending.push_back((name, to, notice));
            return Ok(());
        }
        let block = self.retained(&name)?.renamed(notice);
        self.relay_ranges([to].into_iter());
        self.send_block(to, block);
        Ok(())
    }

    /// Goes on with blocks that had no room; whether there was one.
    pub(super) fn resend_some(&mut self) -> Result<bool, String> {
        let Some(keeping) = &mut self.keeping else { return Ok(false) };
        if !keeping.spill.has_room_for_others() {
            return Ok(false);
        }
        let Some((name, to, notice)) = keeping.resending.pop_front() else { return Ok(false) };
        // What a checkpoint covers meanwhile nobody needs any more.
        if keeping.retained.contains_key(&name) {
            self.resend(name, to, notice)?;
        }
        Ok(true)
    }

    /// A retained block, wherever it is.
    pub(super) fn retained(&mut self, name: &BlockName) -> Result<Block, String> {
        let job = self.job.clone();
        let keeping = self.kept();
        let retained = keeping.retained.get(name);
        match retained.expect("the scheduler knows which blocks are retained") {
            Retained::Here(block) => Ok(block.clone()),
            Retained::Spilled(spilled) => {
                let content = spilled.header.notice.content;
                let check = job.check_of(name.edge, content).expect("this core wrote it");
                let block = keeping.spill.read(spilled, check);
                block.map_err(|error| {
                    format!(
                        "a block of {} that was written to a file for lack of memory {error}: \
                         start the driver once more with --resume",
                        name.batch
                    )
                })
            }
        }
    }
}
