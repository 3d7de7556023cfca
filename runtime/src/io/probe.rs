//! What this machine permits, and the choice of host and driver that follows from it.
//!
//! glommio must be asked about before it is started: it ends the process when an opcode that it wants
//! is missing, and every executor fails when the limit of locked memory is below 512 KiB. So its
//! conditions are checked here, as its version 0.9 states them in `sys/uring.rs`.

use std::fmt;
use std::fs;

use io_uring::opcode;

use super::{IoKind, sys, uring};

/// What runs a core's loop on its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostKind {
    /// A task of a glommio executor, beside storage tasks and timers.
    Glommio,
    /// A plain thread.
    Plain,
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostKind::Glommio => "glommio",
            HostKind::Plain => "plain",
        })
    }
}

/// The limit of locked memory, in bytes, that glommio insists on, even where it is not enforced.
const GLOMMIO_LIMIT: u64 = 512 * 1024;

/// Locked memory, in bytes, of one executor (three rings with their registered memory: 234 KiB measured) and
/// of one ring of our own with its buffers and files (40 KiB measured), with room for kernels that take more.
const EXECUTOR_MEMLOCK: u64 = 320 * 1024;
const RING_MEMLOCK: u64 = 48 * 1024;

/// The opcodes without which glommio 0.9 ends the process.
const GLOMMIO_OPCODES: [(u8, &str); 23] = [
    (opcode::Nop::CODE, "nop"),
    (opcode::Readv::CODE, "readv"),
    (opcode::Writev::CODE, "writev"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::ReadFixed::CODE, "read_fixed"),
    (opcode::WriteFixed::CODE, "write_fixed"),
    (opcode::PollAdd::CODE, "poll_add"),
    (opcode::PollRemove::CODE, "poll_remove"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::RecvMsg::CODE, "recvmsg"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::TimeoutRemove::CODE, "timeout_remove"),
    (opcode::Accept::CODE, "accept"),
    (opcode::LinkTimeout::CODE, "link_timeout"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Close::CODE, "close"),
    (opcode::Statx::CODE, "statx"),
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Send::CODE, "send"),
    (opcode::Recv::CODE, "recv"),
];

/// What this machine permits. A reason is half a sentence: why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the ring driver works.
    pub uring: Result<(), String>,
    /// Whether it can hold streams, which is faster and no condition.
    pub holding: Result<(), String>,
    /// Whether glommio finds the operations that it wants.
    pub glommio: Result<(), String>,
    /// The limit of locked memory in bytes, as glommio asks for it.
    pub memlock_limit: u64,
    /// Whether the kernel enforces that limit on this process.
    pub memlock: Memlock,
}

/// Whether the limit of locked memory holds for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// Every ring counts against it.
    Enforced,
    /// The process has `CAP_IPC_LOCK`.
    Exempt,
}

/// An option that may be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// The best that works here.
    Auto,
    /// This one, or an error.
    Exactly(T),
}

/// What will run, and what kept something better from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The host of every core.
    pub host: HostKind,
    /// The driver of every core.
    pub io: IoKind,
    reasons: Vec<String>,
}

impl Chosen {
    /// Host and driver alone, for a table: `glommio, io_uring`.
    pub fn name(&self) -> String {
        let io = match self.io {
            IoKind::Uring => "io_uring",
            IoKind::Epoll => "epoll",
        };
        format!("{}, {io}", self.host)
    }

    /// One line to be said at start.
    pub fn describe(&self) -> String {
        let mut line = format!("host {}, io {}", self.host, self.io);
        if !self.reasons.is_empty() {
            line = format!("{line} ({})", self.reasons.join("; "));
        }
        line
    }
}

impl Capabilities {
    /// Asks the kernel. To be called before any core is started.
    pub fn probe() -> Self {
        let memlock_limit = sys::memlock_limit();
        let memlock = memlock();
        match uring::probe() {
            Ok(uring::Found { opcodes, holding }) => {
                let missing = GLOMMIO_OPCODES.iter().find(|(code, _)| !opcodes.has(*code));
                let glommio = match missing {
                    Some((_, name)) => Err(format!("this kernel's io_uring lacks {name}")),
                    None => Ok(()),
                };
                Capabilities { uring: Ok(()), holding, glommio, memlock_limit, memlock }
            }
            Err(reason) => {
                let refused = || Err(reason.clone());
                let (uring, holding, glommio) = (refused(), refused(), refused());
                Capabilities { uring, holding, glommio, memlock_limit, memlock }
            }
        }
    }

    /// Whether that many rings of our own can be had, or why not.
    fn permits_uring(&self, cores: usize) -> Result<(), String> {
        self.uring.clone()?;
        self.permits_memory(cores as u64 * RING_MEMLOCK, cores)
    }

    /// Whether that many executors can be had beside the rings of their drivers, or why not.
    fn permits_glommio(&self, io: IoKind, cores: usize) -> Result<(), String> {
        self.glommio.clone()?;
        if self.memlock_limit < GLOMMIO_LIMIT {
            let limit = self.memlock_limit / 1024;
            return Err(format!("ulimit -l is {limit} KiB, but glommio wants 512 KiB"));
        }
        let own = match io {
            IoKind::Uring => RING_MEMLOCK,
            IoKind::Epoll => 0,
        };
        self.permits_memory(cores as u64 * (EXECUTOR_MEMLOCK + own), cores)
    }

    fn permits_memory(&self, wanted: u64, cores: usize) -> Result<(), String> {
        if self.memlock == Memlock::Exempt || wanted <= self.memlock_limit {
            return Ok(());
        }
        let (limit, wanted) = (self.memlock_limit / 1024, wanted.div_ceil(1024));
        let need = format!("but {cores} cores need {wanted} KiB of locked memory");
        Err(format!("ulimit -l is {limit} KiB, {need}"))
    }
}

/// Chooses host and driver for a process with so many cores. Prefers glommio and the ring; what is taken
/// instead, and why, stands in [`Chosen::describe`]. An explicit wish that cannot be fulfilled is an
/// error: one sentence that says what to do.
pub fn choose(
    host: Choice<HostKind>,
    io: Choice<IoKind>,
    capabilities: &Capabilities,
    cores: usize,
) -> Result<Chosen, String> {
    let mut reasons = Vec::new();
    let io_kind = choose_io(io, capabilities, cores, &mut reasons)?;
    let possible = capabilities.permits_glommio(io_kind, cores);
    if io_kind == IoKind::Uring
        && let Err(reason) = &capabilities.holding
    {
        reasons.push(format!("no receiving ahead: {reason}"));
    }
    let host = match (host, possible) {
        (Choice::Exactly(HostKind::Plain), _) => HostKind::Plain,
        (Choice::Exactly(HostKind::Glommio), Ok(())) => HostKind::Glommio,
        (Choice::Exactly(HostKind::Glommio), Err(reason)) => {
            let advice = "permit it, or choose --host plain";
            return Err(format!("--host glommio is not possible: {reason}; {advice}"));
        }
        (Choice::Auto, _) if io == Choice::Exactly(IoKind::Epoll) => {
            reasons.push("no glommio: it uses io_uring, and --io epoll asks for none".to_owned());
            HostKind::Plain
        }
        (Choice::Auto, Ok(())) => HostKind::Glommio,
        (Choice::Auto, Err(_)) if capabilities.uring.is_err() => {
            reasons.push("glommio needs it too".to_owned());
            HostKind::Plain
        }
        (Choice::Auto, Err(reason)) => {
            reasons.push(format!("no glommio: {reason}"));
            HostKind::Plain
        }
    };
    Ok(Chosen { host, io: io_kind, reasons })
}

fn choose_io(
    io: Choice<IoKind>,
    capabilities: &Capabilities,
    cores: usize,
    reasons: &mut Vec<String>,
) -> Result<IoKind, String> {
    match (io, capabilities.permits_uring(cores)) {
        (Choice::Exactly(IoKind::Epoll), _) => Ok(IoKind::Epoll),
        (Choice::Exactly(IoKind::Uring) | Choice::Auto, Ok(())) => Ok(IoKind::Uring),
        (Choice::Exactly(IoKind::Uring), Err(reason)) => {
            let advice = "permit it, or choose --io epoll";
            Err(format!("--io uring is not possible: {reason}; {advice}"))
        }
        (Choice::Auto, Err(reason)) => {
            reasons.push(format!("no uring: {reason}"));
            Ok(IoKind::Epoll)
        }
    }
}

/// Whether this process is exempt from the limit. The capability counts only in the first user
/// namespace, which a rootless container is not in.
fn memlock() -> Memlock {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_first = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if is_first && effective.unwrap_or(0) & CAP_IPC_LOCK != 0 {
        Memlock::Exempt
    } else {
        Memlock::Enforced
    }
}
