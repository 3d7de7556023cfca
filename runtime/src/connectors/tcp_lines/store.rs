//! What a sender keeps: the part of its stream that is not acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;

/// See the module's text. Offsets count bytes of the stream.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Whole lines, each with its offset.
    pieces: VecDeque<(u64, Arc<[u8]>)>,
    /// Everything before is forgotten.
    oldest: u64,
    next: u64,
    ended: bool,
    durable: Option<u64>,
}

/// What there is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    /// These lines, but for the first bytes of them.
    Lines(Arc<[u8]>, usize),
    /// Nothing yet.
    NotYet,
    /// Nothing, for ever: the stream is so long.
    End(u64),
    /// What was there is forgotten, up to this offset.
    Gone(u64),
}

impl Store {
    /// Appends whole lines, or the last line of all.
    pub(super) fn push(&mut self, lines: Vec<u8>) {
        let offset = self.next;
        self.next += lines.len() as u64;
        self.pieces.push_back((offset, lines.into()));
        self.forget();
    }

    /// Nothing comes any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// What is before `offset` need not be kept, even if it is yet to come: a sender that was started again
    /// begins at its beginning.
    pub(super) fn durable(&mut self, offset: u64) {
        self.durable = self.durable.max(Some(offset));
        self.oldest = self.oldest.max(offset);
        self.forget();
    }

    fn forget(&mut self) {
        while let Some((offset, lines)) = self.pieces.front()
            && offset + lines.len() as u64 <= self.oldest
        {
            self.pieces.pop_front();
        }
    }

    pub(super) fn at(&self, offset: u64) -> There {
        if offset < self.oldest {
            return There::Gone(self.oldest);
        }
        if offset >= self.next {
            return if self.ended { There::End(self.next) } else { There::NotYet };
        }
        let behind = self.pieces.partition_point(|(begin, _)| *begin <= offset);
        let (begin, lines) = &self.pieces[behind - 1];
        There::Lines(lines.clone(), (offset - begin) as usize)
    }

    /// How much is not acknowledged. In memory there may be more, by less than what was pushed at once.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.next.saturating_sub(self.oldest)
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// How long the stream is, so far.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// What was acknowledged last, if anything was.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.durable
    }
}
