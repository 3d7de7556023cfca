//! What job and sender say to each other, as bytes: headers that a person can read, and lines.
//!
//! Everything that comes from outside is checked here. A header has at most [`LONGEST_HEADER`] bytes and a
//! message at most [`MOST_BYTES`], whatever it announces.

use std::fmt;

/// The most bytes of one message of lines, and so of a line with its newline.
pub const MOST_BYTES: usize = 1 << 20;
/// The longest header is `durable` with the largest number, and its newline.
const LONGEST_HEADER: usize = 7 + 1 + 20 + 1;

/// What a job says to a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Send everything from this offset on. At most once in a connection.
    From(u64),
    /// Nobody will ask for what is before this offset.
    Durable(u64),
}

/// What a sender says to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Whole lines.
    Lines(Vec<u8>),
    /// That was all: the stream is so long.
    End(u64),
    /// What was asked for is not there any more, only what comes from this offset on.
    Gone(u64),
}

/// What the other side said and may not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0:?} is no header of the protocol of lines")]
    Header(String),
    #[error("it announced {0} bytes of lines, and a message has 1 to {MOST_BYTES}")]
    Length(u64),
    #[error("a message goes on after a line without an end")]
    HalfLine,
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::From(offset) => writeln!(out, "from {offset}"),
            Request::Durable(offset) => writeln!(out, "durable {offset}"),
        }
    }
}

impl Answer {
    /// The header, which is all but for the lines.
    pub(super) fn header(&self) -> String {
        match self {
            Answer::Lines(lines) => lines_header(lines.len()),
            Answer::End(length) => format!("end {length}\n"),
            Answer::Gone(oldest) => format!("gone {oldest}\n"),
        }
    }
}

/// The header of so many bytes of lines.
pub(super) fn lines_header(length: usize) -> String {
    format!("lines {length}\n")
}

/// Requests, taken out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Requests {
    header: Header,
}

impl Requests {
    /// The next request, with what is left of `bytes` behind it; nothing if its end is not there yet.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        let Some((word, number)) = self.header.take(bytes)? else { return Ok(None) };
        match word.as_str() {
            "from" => Ok(Some(Request::From(number))),
            "durable" => Ok(Some(Request::Durable(number))),
            _ => Err(Malformed::Header(format!("{word} {number}"))),
        }
    }
}

/// Answers, taken out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Answers {
    header: Header,
    /// The lines of a message of which some are to come.
    lines: Option<Lines>,
    /// The last message ended within a line: it was the last line of all.
    is_open: bool,
}

/// A message of lines in the making.
#[derive(Debug)]
struct Lines {
    length: usize,
    bytes: Vec<u8>,
}

impl Answers {
    /// The next answer, with what is left of `bytes` behind it; nothing if its end is not there yet.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Answer>, Malformed> {
        if self.lines.is_none() {
            let Some((word, number)) = self.header.take(bytes)? else { return Ok(None) };
            match word.as_str() {
                "lines" => self.lines = Some(self.announced(number)?),
                "end" => return Ok(Some(Answer::End(number))),
                "gone" => return Ok(Some(Answer::Gone(number))),
                _ => return Err(Malformed::Header(format!("{word} {number}"))),
            }
        }
        let Some(Lines { length, bytes: lines }) = &mut self.lines else { return Ok(None) };
        let (here, rest) = bytes.split_at(bytes.len().min(*length - lines.len()));
        lines.extend_from_slice(here);
        *bytes = rest;
        if lines.len() < *length {
            return Ok(None);
        }
        let lines = std::mem::take(lines);
        self.lines = None;
        self.is_open = !lines.ends_with(b"\n");
        Ok(Some(Answer::Lines(lines)))
    }

    fn announced(&self, length: u64) -> Result<Lines, Malformed> {
        let within =
            usize::try_from(length).ok().filter(|length| (1..=MOST_BYTES).contains(length));
        let length = within.ok_or(Malformed::Length(length))?;
        if self.is_open {
            return Err(Malformed::HalfLine);
        }
        Ok(Lines { length, bytes: Vec::with_capacity(length) })
    }
}

/// A header in the making.
#[derive(Debug, Default)]
struct Header(Vec<u8>);

impl Header {
    /// A word and a number, once their newline is there.
    fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<(String, u64)>, Malformed> {
        let most = bytes.len().min(LONGEST_HEADER - self.0.len());
        let end = memchr::memchr(b'\n', &bytes[..most]);
        let (here, rest) = bytes.split_at(end.map_or(most, |end| end + 1));
        self.0.extend_from_slice(here);
        *bytes = rest;
        if end.is_none() && self.0.len() < LONGEST_HEADER {
            return Ok(None);
        }
        let header = std::mem::take(&mut self.0);
        let parsed = end.and_then(|_| parse(&header));
        parsed.map(Some).ok_or_else(|| {
            Malformed::Header(String::from_utf8_lossy(&header).trim_end().to_owned())
        })
    }
}

/// The word and the number of a header with its newline: digits only, so that there is one way to say it.
fn parse(header: &[u8]) -> Option<(String, u64)> {
    let text = std::str::from_utf8(header).ok()?.strip_suffix('\n')?;
    let (word, digits) = text.split_once(' ')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((word.to_owned(), digits.parse().ok().filter(|_| is_number)?))
}
