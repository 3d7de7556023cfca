//! What a sender does: it keeps its stream of lines until a job has acknowledged them, and sends it to whoever
//! asks, from wherever it is asked.
//!
//! Threads: one reads the input, one accepts connections, and two for each of those read and write it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::call::keep_alive;
use super::protocol::{Answer, MOST_BYTES, Request, Requests, lines_header};
use super::store::{Store, There};
use crate::connectors::lines::whole_lines;

/// Connections at the same time; more are hung up on. Each core of a job may have a few.
const MOST_CONNECTIONS: usize = 1024;
/// How much is read from the input at once.
const READ: usize = 256 << 10;

/// How a sender treats its stream.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// With so many bytes that are not acknowledged it stops reading its input.
    pub kept_bytes: u64,
}

/// A sender at work. It ends when this is dropped.
#[derive(Debug)]
pub struct LineServer {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

/// How far a sender is. Offsets count bytes of its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// How often somebody asked for lines.
    pub calls: u64,
    /// How much of the stream was read from the input.
    pub length: u64,
    /// Whether that is all of it.
    pub ended: bool,
    /// What comes before was acknowledged and is forgotten.
    pub oldest: u64,
    /// The last acknowledgement, if there was one.
    pub durable: Option<u64>,
    /// Bytes that are not acknowledged.
    pub kept_bytes: u64,
    /// Why the input cannot be read any more.
    pub failed: Option<String>,
}

impl ServerStatus {
    /// Everything was sent and acknowledged.
    pub fn is_complete(&self) -> bool {
        self.ended && self.durable == Some(self.length)
    }
}

#[derive(Debug)]
struct Shared {
    options: ServerOptions,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    calls: u64,
    /// The largest offset that anybody asked for.
    asked: u64,
    failed: Option<String>,
    /// By the number of the connection.
    connections: BTreeMap<u64, TcpStream>,
    accepted: u64,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has ended the process, or a test.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

impl LineServer {
    /// Sends the lines of `input` to whoever connects to `listener`.
    pub fn start(
        listener: TcpListener,
        input: impl Read + Send + 'static,
        options: ServerOptions,
    ) -> io::Result<LineServer> {
        let address = listener.local_addr()?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { options, state, changed });
        let listener = Arc::new(listener);
        let server = LineServer { shared: shared.clone(), listener: listener.clone(), address };
        start_thread("input", {
            let shared = shared.clone();
            move || {
                let result = read_input(&shared, input);
                shared.change(|state| match result {
                    Ok(()) => state.store.end(),
                    Err(error) => state.failed = Some(error.to_string()),
                });
            }
        })?;
        start_thread("accept", move || accept(&shared, &listener))?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How far it is.
    pub fn status(&self) -> ServerStatus {
        self.shared.lock().status()
    }

    /// Waits until `is_there` holds, for so long at most; how far it is then.
    pub fn wait(
        &self,
        at_most: Duration,
        is_there: impl Fn(&ServerStatus) -> bool,
    ) -> ServerStatus {
        let is_early = |state: &mut State| !is_there(&state.status());
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), at_most, is_early);
        waited.unwrap_or_else(PoisonError::into_inner).0.status()
    }
}

impl Drop for LineServer {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.closed = true;
            // What is closed already needs nothing more.
            state.connections.values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        });
        // It ends the wait of whoever accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

impl State {
    fn status(&self) -> ServerStatus {
        ServerStatus {
            calls: self.calls,
            length: self.store.next(),
            ended: self.store.ended(),
            oldest: self.store.oldest(),
            durable: self.store.acknowledged(),
            kept_bytes: self.store.kept_bytes(),
            failed: self.failed.clone(),
        }
    }
}

fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

/// Reads the input to its end, whole lines at a time, and waits while too much is kept.
fn read_input(shared: &Shared, mut input: impl Read) -> io::Result<()> {
    let mut lines = Vec::new();
    loop {
        let start = lines.len();
        lines.resize(start + READ, 0);
        let length = read(&mut input, &mut lines[start..])?;
        lines.truncate(start + length);
        if length == 0 {
            if !lines.is_empty() {
                push(shared, lines)?;
            }
            return Ok(());
        }
        let first = memchr::memchr(b'\n', &lines[start..]).map(|newline| start + newline + 1);
        if first.unwrap_or(lines.len()) > MOST_BYTES {
            return Err(io::Error::other(format!("a line is longer than {MOST_BYTES} bytes")));
        }
        if let Some(newline) = memchr::memrchr(b'\n', &lines[start..]) {
            let rest = lines.split_off(start + newline + 1);
            if !push(shared, std::mem::replace(&mut lines, rest))? {
                return Ok(());
            }
        }
    }
}

fn read(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Keeps lines once there is room; whether anybody wants more.
fn push(shared: &Shared, lines: Vec<u8>) -> io::Result<bool> {
    let mut state = shared.lock();
    let most = shared.options.kept_bytes;
    while state.store.kept_bytes() >= most && !state.closed {
        // It would wait for us, and we for it.
        if state.asked > state.store.next() {
            return Err(io::Error::other(format!(
                "a job goes on from byte {}, has acknowledged nothing after byte {}, and {most} bytes are \
                 all that may be kept: keep more",
                state.asked,
                state.store.oldest()
            )));
        }
        state = shared.wait(state);
    }
    state.store.push(lines);
    shared.changed.notify_all();
    Ok(!state.closed)
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.lock().closed {
            return;
        }
        // Whoever did not get through calls again.
        let Ok((stream, _)) = accepted else { continue };
        drop(serve(shared, stream));
    }
}

/// Starts the threads of a connection.
fn serve(shared: &Arc<Shared>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
    let number = shared.change(|state| {
        let is_full = state.connections.len() >= MOST_CONNECTIONS || state.closed;
        state.accepted += 1;
        (!is_full).then(|| {
            state.connections.insert(state.accepted, stream);
            state.accepted
        })
    });
    let Some(number) = number else { return Ok(()) };
    let shared = shared.clone();
    let hang_up = shared.clone();
    let started = start_thread("requests", move || {
        // A bad request, or a connection that breaks: whoever is there calls again.
        drop(answer(&shared, number, reading, writing));
        shared.change(|state| state.hang_up(number));
    });
    if started.is_err() {
        hang_up.change(|state| state.hang_up(number));
    }
    started
}

impl State {
    /// Ends a connection, whose writer notices.
    fn hang_up(&mut self, number: u64) {
        if let Some(stream) = self.connections.remove(&number) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// Reads the requests of a connection until it is closed.
fn answer(
    shared: &Arc<Shared>,
    number: u64,
    mut reading: TcpStream,
    writing: TcpStream,
) -> io::Result<()> {
    let mut requests = Requests::default();
    let mut writing = Some(writing);
    let mut buffer = [0; 4096];
    loop {
        let length = read(&mut reading, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..length];
        while let Some(request) = requests.take(&mut bytes).map_err(io::Error::other)? {
            match request {
                Request::Durable(offset) => shared.change(|state| state.store.durable(offset)),
                Request::From(offset) => {
                    let once = || io::Error::other("it asks twice in one connection");
                    let writing = writing.take().ok_or_else(once)?;
                    let shared = shared.clone();
                    shared.change(|state| {
                        state.calls += 1;
                        state.asked = state.asked.max(offset);
                    });
                    start_thread("answers", move || {
                        drop(send(&shared, number, writing, offset));
                    })?;
                }
            }
        }
    }
}

/// Sends everything from `offset` on, until the connection is closed or there is no more.
fn send(shared: &Shared, number: u64, mut stream: TcpStream, mut offset: u64) -> io::Result<()> {
    loop {
        let mut state = shared.lock();
        let there = loop {
            if !state.connections.contains_key(&number) || state.closed {
                return Ok(());
            }
            match state.store.at(offset) {
                There::NotYet => state = shared.wait(state),
                there => break there,
            }
        };
        drop(state);
        match there {
            There::Lines(lines, skip) => {
                // No line is longer than a message.
                let length = whole_lines(&lines[skip..], MOST_BYTES as u64);
                stream.write_all(lines_header(length).as_bytes())?;
                stream.write_all(&lines[skip..skip + length])?;
                offset += length as u64;
            }
            There::End(length) => return stream.write_all(Answer::End(length).header().as_bytes()),
            There::Gone(oldest) => {
                return stream.write_all(Answer::Gone(oldest).header().as_bytes());
            }
            There::NotYet => unreachable!("it was waited for"),
        }
    }
}
