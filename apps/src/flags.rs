//! What a user may choose of any job: its cluster, a worker process, host, IO, polling, lengths of time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use drizzle::host::{DEFAULT_SPIN_NS, Polling};
use drizzle::io::{Choice, HostKind, IoKind};
use serde::{Deserialize, Serialize};

/// A worker process.
#[derive(Debug, Args)]
pub(crate) struct WorkerFlags {
    /// The driver's address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) driver: SocketAddr,
    /// Cores to offer: pinned threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: u16,
    /// Allow an address that other hosts can reach: nodes do not authenticate each other yet.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Started by a driver on this host, which says what there is to say.
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

/// How large the cluster is and how it is scheduled.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterFlags {
    /// Workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) workers: u32,
    /// Cores of each worker.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: u16,
    /// Micro-batches scheduled at once; 1 is a central scheduler.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) group_size: u64,
    /// Write the report as JSON too.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) report: Option<PathBuf>,
    /// Note what happens to the cluster in this file, a line of JSON for each event.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) timeline: Option<PathBuf>,
}

/// What runs the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum HostFlag {
    /// glommio where io_uring is permitted, plain threads elsewhere
    Auto,
    /// A glommio executor on each core
    Glommio,
    /// Plain pinned threads
    Plain,
}

impl HostFlag {
    pub(crate) fn choice(self) -> Choice<HostKind> {
        match self {
            HostFlag::Auto => Choice::Auto,
            HostFlag::Glommio => Choice::Exactly(HostKind::Glommio),
            HostFlag::Plain => Choice::Exactly(HostKind::Plain),
        }
    }

    /// What it is once it was chosen.
    pub(crate) fn chosen(self) -> HostKind {
        match self {
            HostFlag::Glommio => HostKind::Glommio,
            HostFlag::Auto | HostFlag::Plain => HostKind::Plain,
        }
    }

    pub(crate) fn exactly(host: HostKind) -> HostFlag {
        match host {
            HostKind::Glommio => HostFlag::Glommio,
            HostKind::Plain => HostFlag::Plain,
        }
    }
}

/// What does the cores' input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum IoFlag {
    /// io_uring where it is permitted, epoll elsewhere
    Auto,
    /// An own io_uring on each core
    Uring,
    /// Non-blocking system calls
    Epoll,
}

impl IoFlag {
    pub(crate) fn choice(self) -> Choice<IoKind> {
        match self {
            IoFlag::Auto => Choice::Auto,
            IoFlag::Uring => Choice::Exactly(IoKind::Uring),
            IoFlag::Epoll => Choice::Exactly(IoKind::Epoll),
        }
    }

    /// What it is once it was chosen.
    pub(crate) fn chosen(self) -> IoKind {
        match self {
            IoFlag::Uring => IoKind::Uring,
            IoFlag::Auto | IoFlag::Epoll => IoKind::Epoll,
        }
    }

    pub(crate) fn exactly(io: IoKind) -> IoFlag {
        match io {
            IoKind::Uring => IoFlag::Uring,
            IoKind::Epoll => IoFlag::Epoll,
        }
    }
}

/// How an idle core waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum PollFlag {
    /// Never sleeps
    Spin,
    /// Spins for a short while where it has a processor to itself, sleeps elsewhere
    Adaptive,
    /// Sleeps at once
    Block,
}

impl PollFlag {
    pub(crate) fn polling(self) -> Polling {
        match self {
            PollFlag::Spin => Polling::Spin,
            PollFlag::Adaptive => Polling::Adaptive { spin_ns: DEFAULT_SPIN_NS },
            PollFlag::Block => Polling::Block,
        }
    }
}

/// A length of time: `20s`, `10ms`, `500us`, `2m`, `1h`; a bare number means seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span(pub(crate) Duration);

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || "a length of time such as 20s, 10ms, 500us or 2m".to_owned();
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let unit_ns = match unit {
            "" | "s" => 1e9,
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let length_ns = (number * unit_ns).round();
        if !(0.0..=1e18).contains(&length_ns) {
            return Err(wrong());
        }
        Ok(Span(Duration::from_nanos(length_ns as u64)))
    }
}
