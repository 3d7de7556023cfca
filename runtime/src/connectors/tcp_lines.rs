//! Lines that a sender offers over TCP, acknowledged to it when no job will ask for them again.
//!
//! A sender listens at an address, which is one source partition, and the job calls it: so any worker can,
//! whichever core has the partition. [`LineServer`] is a sender; another one has to do this:
//!
//! | from | header | meaning |
//! |---|---|---|
//! | job | `durable OFFSET` | everything before it may be forgotten: this is the acknowledgement |
//! | job | `from OFFSET` | send everything from there on; once in a connection, or never |
//! | sender | `lines LENGTH` | so many bytes follow, 1 to 1 MiB of them, which are whole lines |
//! | sender | `end LENGTH` | the stream is so long and no longer |
//! | sender | `gone OFFSET` | what the job asked for was forgotten, only this and later is there |
//!
//! Each header ends with a newline and has one space in it; offsets and lengths count bytes of the stream, in
//! decimal digits. The last line of all may do without its newline. A connection that breaks has ended nothing: the job calls
//! again and asks for what comes next, which is why `end` must be said.
//!
//! The sender keeps what is not acknowledged and answers on any number of connections at once. So what was read can be read
//! again by any core, and a job survives its losses as long as the sender lives. It is acknowledged when the
//! second newest checkpoint covers it, because a job whose newest one is damaged starts from that; where
//! nothing outlives the job's process, as soon as it was read; and all of it when the job ends well.

mod call;
mod feed;
mod protocol;
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use drizzle_scheduler::PartitionId;
use drizzle_scheduler::plan::Pacing;

use super::{ConnectorError, Fingerprint, LineReader, Lines};
use crate::dataflow::{Choice, Limit, Reread};
use crate::formats::Chunk;
use feed::{Feed, Piece, Taken};
pub use server::{LineServer, ServerOptions, ServerStatus};

/// Senders of lines, each with an address of its own.
#[derive(Clone, Debug)]
pub struct TcpLines {
    addresses: Arc<[Arc<str>]>,
}

/// What is wrong with a sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    /// It does not answer.
    #[error("could not be reached for {seconds} s ({reason}): start it, and then the job again")]
    Unreachable {
        /// For how long it was tried.
        seconds: u64,
        /// How the last attempt ended.
        reason: String,
    },
    /// It does not keep to the protocol.
    #[error("is none of lines: {0}")]
    Malformed(String),
    /// It has forgotten what the job needs.
    #[error(
        "has forgotten what is before byte {oldest}, and the job needs it from byte {wanted} on: start \
         a sender that has it"
    )]
    Gone {
        /// What the job asked for.
        wanted: u64,
        /// What the sender has.
        oldest: u64,
    },
    /// It is not the stream that the job began with.
    #[error(
        "says that its stream ends at byte {length}, where the job is at byte {next}: it sends something else than before"
    )]
    OtherEnd {
        /// Where the job is.
        next: u64,
        /// What the sender says.
        length: u64,
    },
    /// This side has no thread for it.
    #[error("cannot be waited for: {0}")]
    NoThread(String),
}

impl TcpLines {
    /// Senders at addresses of the form `HOST:PORT`, which need not be there yet; at least one.
    pub fn new<S: AsRef<str>>(addresses: &[S]) -> Result<TcpLines, ConnectorError> {
        let addresses: Vec<&str> = addresses.iter().map(AsRef::as_ref).collect();
        if addresses.is_empty() {
            return Err(ConnectorError::Other("there is no sender to read from".to_owned()));
        }
        for (index, address) in addresses.iter().enumerate() {
            let parts = address.rsplit_once(':');
            let is_good =
                |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
            if !parts.is_some_and(is_good) {
                return Err(ConnectorError::Other(format!(
                    "{address:?} is no address of a sender: it must be HOST:PORT"
                )));
            }
            if addresses[..index].contains(address) {
                return Err(ConnectorError::Other(format!(
                    "the sender at {address} is named twice: its lines would count twice"
                )));
            }
        }
        Ok(TcpLines { addresses: addresses.into_iter().map(Arc::from).collect() })
    }
}

impl Lines for TcpLines {
    type Reader = TcpLinesReader;

    fn partition_count(&self) -> u32 {
        self.addresses.len() as u32
    }

    fn pacing(&self) -> Pacing {
        Pacing::Clock
    }

    fn reread(&self) -> Reread {
        Reread::FromTheSender
    }

    fn fingerprint(&self) -> u64 {
        let fingerprint = Fingerprint::new("tcp lines").number(self.addresses.len() as u64);
        let addresses = self.addresses.iter();
        addresses.fold(fingerprint, |hash, address| hash.bytes(address.as_bytes())).finish()
    }

    fn open(&self) -> Result<TcpLinesReader, ConnectorError> {
        let addresses = self.addresses.clone();
        let (feeds, taken, notices) = (BTreeMap::new(), None, VecDeque::new());
        Ok(TcpLinesReader { addresses, feeds, taken, broken: None, notices })
    }
}

/// Senders of lines as one core reads them.
#[derive(Debug)]
pub struct TcpLinesReader {
    addresses: Arc<[Arc<str>]>,
    /// Of the partitions that are here.
    feeds: BTreeMap<PartitionId, Feed>,
    /// What was chosen last: the read that follows gets it.
    taken: Option<(PartitionId, Range<u64>, Vec<Piece>)>,
    /// What `choose` met and could not say; the read that follows says it.
    broken: Option<ConnectorError>,
    /// What feeds had to say that are gone.
    notices: VecDeque<String>,
}

impl TcpLinesReader {
    /// Takes what is there of a partition, from a feed that stands at `from`.
    fn take(
        &mut self,
        partition: PartitionId,
        from: u64,
        limit: u64,
    ) -> Result<Taken, SenderError> {
        if self.feeds.get(&partition).and_then(Feed::next) != Some(from) {
            self.start(partition, Some(from))?;
        }
        let feed = self.feeds.get_mut(&partition).expect("it was just started");
        feed.take(limit)
    }

    /// Starts a feed in place of the one before, whose acknowledgements it sends.
    fn start(&mut self, partition: PartitionId, from: Option<u64>) -> Result<(), SenderError> {
        let before = self.feeds.remove(&partition);
        let durable = before.as_ref().and_then(Feed::durable);
        let address = self.addresses[partition.index()].clone();
        let feed = Feed::start(address, from, durable);
        let feed = feed.map_err(|error| SenderError::NoThread(error.to_string()))?;
        self.feeds.insert(partition, feed);
        Ok(())
    }

    fn failed(&self, partition: PartitionId, source: SenderError) -> ConnectorError {
        let address = self.addresses[partition.index()].to_string();
        ConnectorError::Sender { address, source }
    }
}

impl LineReader for TcpLinesReader {
    fn first_offset(&self, _: PartitionId) -> u64 {
        0
    }

    fn choose(&mut self, partition: PartitionId, from: u64, limit: &Limit) -> Choice {
        self.taken = None;
        match self.take(partition, from, limit.bytes) {
            Ok(Taken { pieces, length, ended }) => {
                let to = from + length;
                self.taken = Some((partition, from..to, pieces));
                Choice { to, ended, asserted: None }
            }
            Err(error) => {
                self.broken = Some(self.failed(partition, error));
                Choice { to: from + 1, ended: false, asserted: None }
            }
        }
    }

    /// What was chosen last is here. Anything else is read again, for a worker that was lost: that is fetched from the
    /// sender, and the core waits for it, two seconds at most. It has nothing better to do with this batch.
    fn read_chunks<F: FnMut(Chunk<'_>)>(
        &mut self,
        partition: PartitionId,
        range: Range<u64>,
        mut each: F,
    ) -> Result<(), ConnectorError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if let Some((of, chosen, pieces)) = &self.taken
            && (*of, chosen) == (partition, &range)
        {
            pieces.iter().for_each(|piece| each(Chunk::start_of(piece.memory(), piece.len())));
            return Ok(());
        }
        let lines = call::fetch(&self.addresses[partition.index()], range);
        let lines = lines.map_err(|error| self.failed(partition, error))?;
        each(Chunk::start_of(&lines, lines.len()));
        Ok(())
    }

    fn durable(&mut self, partition: PartitionId, offset: u64) {
        // A partition that had ended before it came here has no feed yet.
        if !self.feeds.contains_key(&partition)
            && let Err(error) = self.start(partition, None)
        {
            let error = self.failed(partition, error);
            self.notices.push_back(error.to_string());
        }
        if let Some(feed) = self.feeds.get(&partition) {
            feed.acknowledge(offset);
        }
    }

    fn leave(&mut self, partition: PartitionId) {
        self.feeds.remove(&partition);
    }

    fn notice(&mut self) -> Option<String> {
        let news = self.feeds.values().find_map(Feed::notice);
        news.or_else(|| self.notices.pop_front())
    }

    fn close(&mut self) {
        self.feeds.values().for_each(Feed::finish);
        while let Some((_, feed)) = self.feeds.pop_first() {
            feed.join();
        }
    }
}
