//! Frames: what every message between nodes travels in.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `DRZL` |
//! | 4..6 | version | [`WIRE_VERSION`] |
//! | 6..8 | kind | [`FrameKind`] |
//! | 8..12 | head length | at most [`MAX_HEAD`] |
//! | 12..16 | body length | at most [`MAX_BODY`]; 0 in control frames |
//! | 16..20 | checksum | CRC-32C of bytes 0..16 and of the head |
//! | 20..24 | reserved | 0 |
//!
//! The head follows, then the body. The checksum does not cover the body: blocks have their own.

use std::fmt;

use thiserror::Error;

use super::codec::Writer;

/// The version of all that this module and its siblings write. Part of every frame.
pub const WIRE_VERSION: u16 = 9;
/// What a frame begins with.
pub const MAGIC: [u8; 4] = *b"DRZL";
/// Length of what stands before the head, in bytes.
pub const HEADER_LEN: usize = 24;
/// The longest head, in bytes: room for the history and manifests of a job on thousands of cores.
pub const MAX_HEAD: usize = 64 << 20;
/// The longest body, in bytes.
pub const MAX_BODY: usize = 1 << 30;

/// The first bytes of the header, which the checksum covers.
const CHECKED_LEN: usize = 16;
/// A buffer that is lent out has room for so many bytes, or for the rest of its frame.
const RECEIVE_ROOM: usize = 64 << 10;
/// While large bodies go past the decoder, it receives little more than the heads between them: what
/// else comes is copied.
const ROOM_BETWEEN: usize = 4 << 10;
/// A buffer that is too small grows by at least so much: more than it has to have room for, or it
/// would grow again at once.
const MIN_GROWTH: usize = 2 * RECEIVE_ROOM;
/// An empty buffer that is larger than this is given back to the allocator.
const KEPT_CAPACITY: usize = 4 << 20;

/// The family that a frame's message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// The head is a [`ToDriver`](super::ToDriver).
    ToDriver = 1,
    /// The head is a [`ToWorker`](super::ToWorker).
    ToWorker = 2,
    /// The head is a [`DataHead`](super::DataHead).
    Data = 3,
}

impl FrameKind {
    fn from_wire(found: u16) -> Result<FrameKind, FrameError> {
        let known = [FrameKind::ToDriver, FrameKind::ToWorker, FrameKind::Data];
        let kind = known.into_iter().find(|&kind| kind as u16 == found);
        kind.ok_or(FrameError::UnknownKind { found })
    }

    fn max_body(self) -> usize {
        match self {
            FrameKind::ToDriver | FrameKind::ToWorker => 0,
            FrameKind::Data => MAX_BODY,
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FrameKind::ToDriver => "to the driver",
            FrameKind::ToWorker => "to a worker",
            FrameKind::Data => "of data",
        })
    }
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Somebody else's protocol.
    #[error("peer does not speak Drizzle's protocol: its frame begins with \"{}\"", .found.escape_ascii())]
    Magic {
        /// What a frame began with.
        found: [u8; 4],
    },
    /// Another version of the program.
    #[error(
        "peer speaks wire version {peer}, this binary speaks {own}: run the same binary on every node"
    )]
    Version {
        /// The peer's.
        peer: u16,
        /// Ours.
        own: u16,
    },
    /// A number that stands for no [`FrameKind`].
    #[error("peer sent a frame of the unknown kind {found}")]
    UnknownKind {
        /// The number.
        found: u16,
    },
    /// A head that is too long.
    #[error("peer sent a frame with a head of {found} bytes, at most {MAX_HEAD} are allowed")]
    HeadTooLong {
        /// Its length.
        found: u32,
    },
    /// A body that is too long, or that should not be there.
    #[error("peer sent a frame {kind} with a body of {found} bytes, at most {limit} are allowed")]
    BodyTooLong {
        /// The kind of the frame.
        kind: FrameKind,
        /// The body's length.
        found: u32,
        /// The most that is allowed.
        limit: usize,
    },
    /// Reserved bytes that are not 0.
    #[error("peer sent a frame with {found:#010x} where version {WIRE_VERSION} has 0")]
    Reserved {
        /// What they are.
        found: u32,
    },
    /// The frame was damaged on its way.
    #[error("peer sent a frame with checksum {found:#010x}, its bytes have {expected:#010x}")]
    Checksum {
        /// That of the bytes that arrived.
        expected: u32,
        /// The one in the frame.
        found: u32,
    },
    /// The connection ended in the middle of a frame.
    #[error("peer closed the connection {received} bytes into a frame")]
    Unfinished {
        /// How many bytes of the frame had arrived.
        received: usize,
    },
}

/// Appends a frame without its body, which is to follow it: the header, and the head that
/// `write_head` writes.
///
/// # Panics
///
/// If head or body are longer than a receiver accepts.
pub fn append_frame(
    kind: FrameKind,
    body_len: usize,
    out: &mut Vec<u8>,
    write_head: impl FnOnce(&mut Writer<'_>),
) {
    let limit = kind.max_body();
    assert!(
        body_len <= limit,
        "a body of {body_len} bytes, but a frame {kind} has at most {limit}"
    );
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    write_head(&mut Writer::new(out));
    let (header, head) = out[start..].split_at_mut(HEADER_LEN);
    assert!(head.len() <= MAX_HEAD, "a head of {} bytes, at most {MAX_HEAD} fit", head.len());
    header[0..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    header[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    header[8..12].copy_from_slice(&(head.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(body_len as u32).to_le_bytes());
    let checksum = checksum(&header[..CHECKED_LEN], head);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
}

/// A frame as it lies in the decoder's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the head holds.
    pub kind: FrameKind,
    /// The message.
    pub head: &'a [u8],
    /// The bytes of a block; without any alignment, and not covered by the frame's checksum.
    pub body: &'a [u8],
}

/// A frame's head, whose body may still be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead<'a> {
    /// What the head holds.
    pub kind: FrameKind,
    /// The message.
    pub head: &'a [u8],
    /// How long the body is, in bytes.
    pub body_len: usize,
}

/// Finds the frames in the bytes of one connection.
///
/// Bytes come in by [`push`](Self::push), or without a copy by [`lend`](Self::lend) and
/// [`give_back`](Self::give_back). The first bad frame ends it: from then on there is only its error.
///
/// Frames come out whole, by [`next_frame`](Self::next_frame), or head first, by
/// [`next_head`](Self::next_head): then the body comes out piece by piece, or goes past the decoder.
///
/// Its memory grows with what has arrived, never with what a header announces. Bytes are moved when
/// at least as many have been consumed, or when the buffer grows by a factor.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the first byte lies that belongs to no frame given out.
    start: usize,
    /// Header of the frame at `start`, once it and its head were found good.
    header: Option<Header>,
    /// Whether the last body, or most of it, came past the decoder.
    between: bool,
    /// Bytes of a body whose head was given out, that were not.
    body_left: usize,
    /// Length of that frame.
    frame_len: usize,
    /// The buffer's length when it was lent out, while it is.
    lent: Option<usize>,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// At the beginning of a connection.
    pub fn new() -> FrameDecoder {
        FrameDecoder::default()
    }

    /// Takes bytes that have arrived. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(self.lent.is_none(), "the buffer is lent out");
        if self.failed.is_none() {
            self.make_room(bytes.len());
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// How many bytes should be received into the buffer at most.
    pub fn room(&self) -> usize {
        if self.between { ROOM_BETWEEN } else { usize::MAX }
    }

    /// The buffer, with room to receive into behind its length. What it holds must stay.
    pub fn lend(&mut self) -> Vec<u8> {
        assert!(self.lent.is_none(), "the buffer is lent out");
        let needed = match self.missing() {
            0 => RECEIVE_ROOM,
            missing => missing.min(RECEIVE_ROOM),
        };
        self.make_room(needed);
        self.lent = Some(self.buffer.len());
        std::mem::take(&mut self.buffer)
    }

    /// Takes the buffer back, with the bytes that were appended to it.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        let lent = self.lent.take().expect("only a lent buffer is given back");
        assert!(buffer.len() >= lent, "{} of {lent} bytes were given back", buffer.len());
        if self.failed.is_none() {
            self.buffer = buffer;
        }
    }

    /// The next frame, if all of it has arrived. It stays in the buffer until more bytes come in.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(header) = self.at_a_header()? else {
            return Ok(None);
        };
        let length = header.frame_len();
        if self.pending() < length {
            return Ok(None);
        }
        let frame = &self.buffer[self.start..][..length];
        self.start += length;
        self.header = None;
        let (head, body) = frame[HEADER_LEN..].split_at(header.head_len);
        Ok(Some(Frame { kind: header.kind, head, body }))
    }

    /// The head of the next frame, if all of it has arrived; its body is to be taken next. It stays in
    /// the buffer until more bytes come in.
    pub fn next_head(&mut self) -> Result<Option<FrameHead<'_>>, FrameError> {
        let Some(header) = self.at_a_header()? else {
            return Ok(None);
        };
        let Header { kind, head_len, body_len } = header;
        let head = &self.buffer[self.start + HEADER_LEN..][..head_len];
        self.start += HEADER_LEN + head_len;
        self.header = None;
        (self.body_left, self.frame_len) = (body_len, header.frame_len());
        self.between &= body_len >= ROOM_BETWEEN;
        Ok(Some(FrameHead { kind, head, body_len }))
    }

    /// At most so many bytes of the body that have arrived, which are then taken.
    pub fn take_body(&mut self, limit: usize) -> &[u8] {
        assert!(self.lent.is_none(), "the buffer is lent out");
        let count = limit.min(self.body_left).min(self.pending());
        let start = self.start;
        self.start += count;
        self.body_left -= count;
        &self.buffer[start..][..count]
    }

    /// Takes note of bytes of the body that came past the decoder.
    ///
    /// # Panics
    ///
    /// If earlier ones are still here, or the body has not so many.
    pub fn body_came_elsewhere(&mut self, count: usize) {
        assert!(self.pending() == 0, "bytes that came before are taken first");
        self.body_left = self.body_left.checked_sub(count).expect("a body has so many bytes");
        self.between = true;
    }

    /// The header at which the decoder stands.
    fn at_a_header(&mut self) -> Result<Option<Header>, FrameError> {
        assert!(self.lent.is_none(), "the buffer is lent out");
        assert!(self.body_left == 0, "a body is taken before the next frame");
        self.checked_header()
    }

    /// That the connection may end here: all its frames were good, and the last one is complete. To
    /// be asked when [`next_frame`](Self::next_frame) has no more: it does not look at what is left.
    pub fn end(&self) -> Result<(), FrameError> {
        assert!(self.lent.is_none(), "the buffer is lent out");
        if let Some(error) = self.failed {
            return Err(error);
        }
        let begun = if self.body_left > 0 { self.frame_len - self.body_left } else { 0 };
        match begun + self.pending() {
            0 => Ok(()),
            received => Err(FrameError::Unfinished { received }),
        }
    }

    /// How many bytes belong to no frame given out.
    fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// How many bytes the frame at `start` lacks; 0 if that is not known, or none.
    fn missing(&self) -> usize {
        self.header.map_or(0, |header| header.frame_len().saturating_sub(self.pending()))
    }

    fn checked_header(&mut self) -> Result<Option<Header>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.header.is_none() {
            let bytes = &self.buffer[self.start..];
            self.header = Header::check(bytes).inspect_err(|&error| {
                self.failed = Some(error);
                self.buffer = Vec::new();
                self.start = 0;
            })?;
        }
        Ok(self.header)
    }

    /// Sees to it that `needed` bytes fit behind the buffer's length.
    fn make_room(&mut self, needed: usize) {
        if self.pending() == 0 {
            self.start = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_CAPACITY {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.capacity() - self.buffer.len() >= needed {
            return;
        }
        let pending = self.pending();
        let must_grow = self.buffer.capacity() - pending < needed;
        if must_grow || pending <= self.start {
            self.buffer.copy_within(self.start.., 0);
            self.buffer.truncate(pending);
            self.start = 0;
        }
        if self.buffer.capacity() - self.buffer.len() < needed {
            // A large frame gets exactly its length in the end, so that nothing behind it must move.
            let more = match self.missing() {
                0 => pending,
                missing => missing.min(2 * pending),
            };
            self.buffer.reserve_exact(more.max(MIN_GROWTH).max(needed));
        }
    }
}

/// What the header of a good frame says.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: FrameKind,
    head_len: usize,
    body_len: usize,
}

impl Header {
    /// The header at the front of `bytes`, once it and the head are there. What is wrong is said
    /// in the order of the bytes, so it does not depend on how they arrive.
    fn check(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(&found) = bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        if found != MAGIC {
            return Err(FrameError::Magic { found });
        }
        let Some(version) = bytes.get(4..6) else {
            return Ok(None);
        };
        let peer = u16::from_le_bytes([version[0], version[1]]);
        if peer != WIRE_VERSION {
            return Err(FrameError::Version { peer, own: WIRE_VERSION });
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let fields = Header::fields(header)?;
        let Some(head) = bytes.get(HEADER_LEN..HEADER_LEN + fields.head_len) else {
            return Ok(None);
        };
        let (expected, found) = (checksum(&header[..CHECKED_LEN], head), number(header, 16));
        if found != expected {
            return Err(FrameError::Checksum { expected, found });
        }
        Ok(Some(fields))
    }

    fn fields(header: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let kind = FrameKind::from_wire(u16::from_le_bytes([header[6], header[7]]))?;
        let (head_len, body_len, reserved) =
            (number(header, 8), number(header, 12), number(header, 20));
        if head_len as usize > MAX_HEAD {
            return Err(FrameError::HeadTooLong { found: head_len });
        }
        let limit = kind.max_body();
        if body_len as usize > limit {
            return Err(FrameError::BodyTooLong { kind, found: body_len, limit });
        }
        if reserved != 0 {
            return Err(FrameError::Reserved { found: reserved });
        }
        Ok(Header { kind, head_len: head_len as usize, body_len: body_len as usize })
    }

    fn frame_len(self) -> usize {
        HEADER_LEN + self.head_len + self.body_len
    }
}

fn number(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn checksum(header: &[u8], head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), head)
}
