//! What a stage keeps of a partition from batch to batch, as bytes: snapshots, and states that move.
//!
//! A *piece* holds what changed after a batch, or everything. A state is put together from pieces, the
//! whole one first. Pieces come from storage or from another process, which have checked their
//! checksums; what they say is checked here.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0 | version | [`PIECE_VERSION`] |
//! | 1..9 | length of the head's part | |
//! | 9.. | the head's part | open windows, or the position of a source |
//! | .. | the terminal's part | what a sink has staged |

use drizzle_scheduler::{BatchId, PartitionId};

use crate::connectors::ConnectorError;

/// The version of these bytes. They outlive the program that wrote them.
pub const PIECE_VERSION: u8 = 1;

/// Where a state of a partition is on a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Tasks work on it.
    Live,
    /// It moved away, and is kept in case its new owner is lost.
    Copy,
    /// It was loaded ahead of a move, up to the newest checkpoint.
    Ahead,
}

/// Which part of a state goes into a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Whole,
    /// What changed after this batch.
    Since(BatchId),
}

impl Extent {
    /// Everything, where there is nothing that it could build on.
    pub fn after(since: Option<BatchId>) -> Extent {
        since.map_or(Extent::Whole, Extent::Since)
    }

    /// Whether something that changed last in `batch` belongs to it.
    pub fn includes(self, batch: BatchId) -> bool {
        match self {
            Extent::Whole => true,
            Extent::Since(since) => batch > since,
        }
    }
}

/// Bytes of a state, or of the part of it that head or terminal keeps.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The last batch that it includes.
    pub batch: BatchId,
    /// Where it comes from.
    pub origin: Origin,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Where a piece comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A durable checkpoint.
    Checkpoint,
    /// The owner before, who is there and has moved it here.
    Move,
}

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// They do not hold what this stage keeps.
    #[error("a snapshot does not hold what this stage keeps: {0}")]
    Content(&'static str),
    /// A sink could not do what its state asks for.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
}

/// What head and terminal of a stage keep of a partition. What keeps nothing does nothing.
pub trait Keeps {
    /// Appends a piece of the state in that slot, which includes all batches up to the last one that
    /// ran.
    fn freeze(
        &mut self,
        _partition: PartitionId,
        _slot: Slot,
        _extent: Extent,
        _out: &mut Vec<u8>,
    ) {
    }

    /// About how much of the live state a piece of that extent would hold. Only shares of it matter.
    fn weigh(&self, _partition: PartitionId, _extent: Extent) -> u64 {
        0
    }

    /// Applies a piece to the state in that slot, or a bounded part of it, from `from` on, where 0 is its
    /// beginning; says where to go on, if that was not all.
    fn thaw(
        &mut self,
        _partition: PartitionId,
        _slot: Slot,
        piece: &Piece<'_>,
        _from: usize,
    ) -> Result<Option<usize>, StateError> {
        match piece.bytes.is_empty() {
            true => Ok(None),
            false => Err(StateError::Content("it has more than there should be")),
        }
    }

    /// Forgets the state in that slot, as if no batch had ever run.
    fn clear(&mut self, _partition: PartitionId, _slot: Slot) {}

    /// Moves a state from one slot to another, in place of what is there.
    fn shift(&mut self, _partition: PartitionId, _from: Slot, _to: Slot) {}
}

/// Frames the two parts of a piece.
pub(super) fn join(
    head: impl FnOnce(&mut Vec<u8>),
    terminal: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut out = vec![PIECE_VERSION];
    out.extend_from_slice(&[0; 8]);
    let start = out.len();
    head(&mut out);
    let head_len = (out.len() - start) as u64;
    out[1..9].copy_from_slice(&head_len.to_le_bytes());
    terminal(&mut out);
    out
}

/// The two parts of a piece.
pub(super) fn split<'a>(piece: &Piece<'a>) -> Result<(Piece<'a>, Piece<'a>), StateError> {
    let mut reader = PieceReader(piece.bytes);
    if reader.array::<1>()? != [PIECE_VERSION] {
        return Err(StateError::Content("it is of another version of the program"));
    }
    let head_len = reader.u64()?;
    let head = reader.take(usize::try_from(head_len).map_err(|_| SHORT)?)?;
    Ok((Piece { bytes: head, ..*piece }, Piece { bytes: reader.0, ..*piece }))
}

const SHORT: StateError = StateError::Content("it is too short");

/// Takes a piece apart from its front.
pub(super) struct PieceReader<'a>(pub(super) &'a [u8]);

impl<'a> PieceReader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        Ok(self.take(N)?.try_into().expect("so many bytes were taken"))
    }

    pub(super) fn u64(&mut self) -> Result<u64, StateError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }
}
