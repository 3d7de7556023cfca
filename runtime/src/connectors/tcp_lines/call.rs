//! A connection from a job to a sender, as the thread sees it that waits for it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::Duration;

use super::SenderError;
use super::protocol::{Answer, Answers, MOST_BYTES, Malformed, Request};
use crate::clock::monotonic_now;

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a read waits, so that whoever waits can look at what else there is to do.
const TICK: Duration = Duration::from_millis(50);
/// What is not taken by the other side for so long breaks the connection.
const WRITE: Duration = Duration::from_secs(1);
/// How long reading a range again may take. A core waits for it, and one that does not answer for 3 s is
/// taken for lost.
const FETCH_NS: u64 = 2_000_000_000;
/// How often it is tried within that time.
const FETCH_TRIES: usize = 3;
/// How much is read at once.
const READ: usize = 64 << 10;

/// Why a connection is of no use any more.
#[derive(Debug)]
pub(super) enum Broken {
    /// It may work later.
    Connection(String),
    /// It will not.
    Sender(SenderError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Connection(error.to_string())
    }
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Broken {
        Broken::Sender(SenderError::Malformed(malformed.to_string()))
    }
}

/// See the module's text.
pub(super) struct Call {
    stream: TcpStream,
    buffer: Box<[u8]>,
    answers: Answers,
    /// The offset of what comes next.
    next: u64,
}

impl Call {
    /// Connects.
    pub(super) fn open(address: &str) -> Result<Call, Broken> {
        let stream = connect(address)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(WRITE))?;
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        let buffer = vec![0; READ].into_boxed_slice();
        Ok(Call { stream, buffer, answers: Answers::default(), next: 0 })
    }

    /// Asks for what comes from `from` on.
    pub(super) fn ask(&mut self, from: u64) -> Result<(), Broken> {
        self.next = from;
        self.say(Request::From(from))
    }

    pub(super) fn acknowledge(&mut self, offset: u64) -> Result<(), Broken> {
        self.say(Request::Durable(offset))
    }

    fn say(&mut self, request: Request) -> Result<(), Broken> {
        Ok(self.stream.write_all(request.to_string().as_bytes())?)
    }

    /// Waits a little for what the sender says, and appends it, checked, to `news`.
    pub(super) fn listen(&mut self, news: &mut Vec<Answer>) -> Result<(), Broken> {
        let Some(length) = self.read()? else { return Ok(()) };
        if length == 0 {
            return Err(Broken::Connection("it has closed the connection".to_owned()));
        }
        let mut bytes = &self.buffer[..length];
        while let Some(answer) = self.answers.take(&mut bytes)? {
            match &answer {
                Answer::Lines(lines) => self.next += lines.len() as u64,
                &Answer::Gone(oldest) => {
                    let wanted = self.next;
                    return Err(Broken::Sender(SenderError::Gone { wanted, oldest }));
                }
                &Answer::End(length) if length != self.next => {
                    let next = self.next;
                    return Err(Broken::Sender(SenderError::OtherEnd { next, length }));
                }
                Answer::End(_) => {}
            }
            news.push(answer);
        }
        Ok(())
    }

    /// Says that nothing more will be said, and waits until the sender has closed its side too: what was
    /// said last would be lost if this side went away with something unread.
    pub(super) fn hang_up(&mut self, deadline_ns: u64) -> Result<(), Broken> {
        self.stream.shutdown(std::net::Shutdown::Write)?;
        while self.read()? != Some(0) {
            if monotonic_now() >= deadline_ns {
                return Err(Broken::Connection("it does not hang up".to_owned()));
            }
        }
        Ok(())
    }

    /// How many bytes came; nothing if there was none for a while.
    fn read(&mut self) -> io::Result<Option<usize>> {
        match self.stream.read(&mut self.buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// Reads a range that was read before, in a connection of its own.
pub(super) fn fetch(address: &str, range: Range<u64>) -> Result<Vec<u8>, SenderError> {
    let deadline_ns = monotonic_now() + FETCH_NS;
    for _ in 1..FETCH_TRIES {
        match try_fetch(address, range.clone(), deadline_ns) {
            Err(Broken::Connection(_)) => {}
            Ok(lines) => return Ok(lines),
            Err(Broken::Sender(error)) => return Err(error),
        }
    }
    try_fetch(address, range, deadline_ns).map_err(|broken| match broken {
        Broken::Connection(reason) => {
            SenderError::Unreachable { seconds: FETCH_NS / 1_000_000_000, reason }
        }
        Broken::Sender(error) => error,
    })
}

fn try_fetch(address: &str, range: Range<u64>, deadline_ns: u64) -> Result<Vec<u8>, Broken> {
    let length = range.end - range.start;
    let mut bytes = Vec::with_capacity(length.min(4 * MOST_BYTES as u64) as usize);
    let mut call = Call::open(address)?;
    call.ask(range.start)?;
    let mut news = Vec::new();
    while (bytes.len() as u64) < length {
        if monotonic_now() >= deadline_ns {
            return Err(Broken::Connection("it takes too long".to_owned()));
        }
        call.listen(&mut news)?;
        for answer in news.drain(..) {
            match answer {
                Answer::Lines(lines) => bytes.extend_from_slice(&lines),
                Answer::End(end) if end < range.end => {
                    let next = range.end;
                    return Err(Broken::Sender(SenderError::OtherEnd { next, length: end }));
                }
                Answer::End(_) | Answer::Gone(_) => {}
            }
        }
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let deadline_ns = monotonic_now() + CONNECT.as_nanos() as u64;
    let mut failed = io::Error::other("its name has no address");
    for address in address.to_socket_addrs()? {
        let left_ns = deadline_ns.saturating_sub(monotonic_now());
        if left_ns == 0 {
            break;
        }
        match TcpStream::connect_timeout(&address, Duration::from_nanos(left_ns)) {
            // Where nobody listens, a port may be given to the very socket that calls it.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                failed = ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A sender may have nothing to say for hours, and a job neither; that the other's host is gone must be noticed
/// all the same.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 4)?)
}
