//! A proxy between a worker and its driver that does to a connection what networks do: it is late, breaks,
//! falls silent in one direction, and flips bits. On command; which bit, a seed says.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;

use crate::cluster::pause;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the worker to its driver.
    ToDriver,
    /// From the driver to the worker.
    ToWorker,
}

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// Each piece is so late.
    Delay(Duration),
    /// What goes that way does not arrive, until that is over.
    Stall(Direction),
    /// One bit of what goes that way next is flipped, by a seed; then nothing is wrong any more.
    Flip(Direction, u64),
}

/// Listens on a port of its own and passes on what comes.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

/// What the threads of a proxy share.
#[derive(Debug)]
struct Network {
    driver: SocketAddr,
    trouble: Mutex<Trouble>,
    /// Connections of earlier numbers are cut.
    cuts: AtomicU64,
    is_over: AtomicBool,
}

/// How often a thread that waits looks whether something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What is read at once.
const PIECE: usize = 16 << 10;

impl Proxy {
    /// Starts one in front of a driver, which need not be there.
    pub(crate) fn start(driver: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot open a proxy")?;
        let address = listener.local_addr()?;
        let network = Arc::new(Network {
            driver,
            trouble: Mutex::new(Trouble::None),
            cuts: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let shared = network.clone();
        start_thread("proxy", move || shared.accept(&listener))?;
        Ok(Proxy { address, network })
    }

    /// Where workers find it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on that is wrong, and nothing else.
    pub(crate) fn set(&self, trouble: Trouble) {
        *self.network.trouble.lock().expect("nobody panics with it") = trouble;
    }

    /// Resets the connections that there are.
    pub(crate) fn reset(&self) {
        self.network.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.is_over.store(true, Ordering::Relaxed);
        self.reset();
        // Whoever accepts has to look once more.
        let _ = TcpStream::connect(self.address);
    }
}

impl Network {
    fn accept(self: &Arc<Network>, listener: &TcpListener) {
        for worker in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            // Without a driver, or without a thread, the worker is hung up on and tries again.
            let Ok(worker) = worker else { continue };
            let Ok(driver) = TcpStream::connect(self.driver) else { continue };
            let _ = self.join(worker, driver);
        }
    }

    fn join(self: &Arc<Network>, worker: TcpStream, driver: TcpStream) -> Result<()> {
        for stream in [&worker, &driver] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK_EVERY))?;
            // Who is cut off is to see a reset.
            set_socket_linger(stream, Some(Duration::ZERO))?;
        }
        let number = self.cuts.load(Ordering::Relaxed);
        let (worker, driver) = (Arc::new(worker), Arc::new(driver));
        let ways = [
            (Direction::ToDriver, worker.clone(), driver.clone()),
            (Direction::ToWorker, driver, worker),
        ];
        for (direction, from, to) in ways {
            let network = self.clone();
            start_thread("pump", move || {
                if network.pump(direction, &from, &to, number).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    let _ = to.shutdown(Shutdown::Both);
                }
            })?;
        }
        Ok(())
    }

    /// Passes on what comes one way until the connection ends or is cut.
    fn pump(
        &self,
        direction: Direction,
        mut from: &TcpStream,
        mut to: &TcpStream,
        number: u64,
    ) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE];
        while self.cuts.load(Ordering::Relaxed) == number {
            let count = match from.read(&mut piece) {
                Ok(0) => return to.shutdown(Shutdown::Write),
                Ok(count) => count,
                Err(error) if is_for_now(error.kind()) => continue,
                Err(error) => return Err(error),
            };
            self.trouble(direction, &mut piece[..count], number);
            if self.cuts.load(Ordering::Relaxed) == number {
                to.write_all(&piece[..count])?;
            }
        }
        Ok(())
    }

    /// Does to a piece what is wrong at the moment.
    fn trouble(&self, way: Direction, piece: &mut [u8], number: u64) {
        let mut trouble = self.trouble.lock().expect("nobody panics with it");
        match *trouble {
            Trouble::Flip(direction, seed) if direction == way => {
                let bit = seed as usize % (piece.len() * 8);
                piece[bit / 8] ^= 1 << (bit % 8);
                *trouble = Trouble::None;
            }
            Trouble::Delay(delay) => {
                drop(trouble);
                pause(delay);
            }
            Trouble::Stall(direction) if direction == way => {
                let stalled = *trouble;
                drop(trouble);
                let is_stalled = || *self.trouble.lock().expect("nobody panics with it") == stalled;
                while is_stalled() && self.cuts.load(Ordering::Relaxed) == number {
                    pause(LOOK_EVERY);
                }
            }
            Trouble::None | Trouble::Flip(..) | Trouble::Stall(_) => {}
        }
    }
}

fn is_for_now(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Nobody joins it: it ends with its connection.
fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).context("cannot start a thread")?;
    Ok(())
}
