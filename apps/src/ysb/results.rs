//! The results of the job as bytes: lines of JSON for files, fixed rows for the driver.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use drizzle::connectors::{ConnectorError, UpsertLog};
use drizzle::dataflow::WindowResult;
use drizzle::scheduler::Instant;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::oracle::ResultRow;
use super::table::AdTable;

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    campaign_id: &'a str,
    window_start: u64,
    count: u64,
}

/// Appends results as lines: `{"campaign_id": "...", "window_start": 1500000000000, "count": 7}`.
pub fn encode_json(
    table: Arc<AdTable>,
) -> impl Fn(&WindowResult<u32, u64>, &mut Vec<u8>) + Clone + Send + Sync + 'static {
    move |result, out| {
        let WindowResult { key, window_start, value: count, .. } = *result;
        let line = Line { campaign_id: table.name(key), window_start, count };
        let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Spaced);
        line.serialize(&mut serializer).expect("a line is written to memory");
    }
}

/// One line with a space after each colon and comma, as the benchmark writes its events.
struct Spaced;

impl Formatter for Spaced {
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Bytes of a row that the driver collects.
const ROW_BYTES: usize = 28;

/// Appends a result as a row, with the time at which it was handed to the sink.
pub fn encode_row(result: &WindowResult<u32, u64>, now: Instant, out: &mut Vec<u8>) {
    out.extend_from_slice(&result.window_start.to_le_bytes());
    out.extend_from_slice(&result.key.to_le_bytes());
    out.extend_from_slice(&result.value.to_le_bytes());
    out.extend_from_slice(&now.0.to_le_bytes());
}

/// A result by its key, which is window and campaign, and its value.
pub fn encode_upsert(result: &WindowResult<u32, u64>, key: &mut Vec<u8>, value: &mut Vec<u8>) {
    key.extend_from_slice(&result.window_start.to_le_bytes());
    key.extend_from_slice(&result.key.to_le_bytes());
    value.extend_from_slice(&result.value.to_le_bytes());
}

/// What an upsert log holds.
pub fn read_upserts(log: &UpsertLog) -> Result<Vec<TimedRow>, ConnectorError> {
    let rows = log.read()?.into_iter().map(|(key, upserted)| {
        let (window_start, rest) = take(&key);
        let (campaign, _) = take(rest);
        let (count, _) = take(&upserted.value);
        let row = ResultRow {
            window_start: u64::from_le_bytes(window_start),
            campaign: u32::from_le_bytes(campaign),
            count: u64::from_le_bytes(count),
        };
        TimedRow { row, at: upserted.at }
    });
    Ok(rows.collect())
}

/// Results as the driver collects them: of each window and campaign the last one, and when it was first
/// there. A worker that takes a lost one's place shows results once more.
#[derive(Clone, Debug, Default)]
pub struct Collected(BTreeMap<(u64, u32), (u64, Instant)>);

impl Collected {
    /// Takes a row in.
    pub fn add(&mut self, timed: &TimedRow) {
        let TimedRow { row: ResultRow { window_start, campaign, count }, at } = *timed;
        let known = self.0.entry((window_start, campaign)).or_insert((count, at));
        if known.0 != count {
            *known = (count, at);
        }
    }

    /// All rows, in order.
    pub fn rows(&self) -> Vec<TimedRow> {
        let rows = self.0.iter().map(|(&(window_start, campaign), &(count, at))| TimedRow {
            row: ResultRow { window_start, campaign, count },
            at,
        });
        rows.collect()
    }
}

/// A row as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedRow {
    /// The result.
    pub row: ResultRow,
    /// When it was handed to the sink, in the driver's time.
    pub at: Instant,
}

/// Reads rows; bytes that are no whole row are ignored, since only `encode_row` writes them.
pub fn decode_rows(rows: &[u8]) -> impl Iterator<Item = TimedRow> + '_ {
    rows.chunks_exact(ROW_BYTES).map(|bytes| {
        let (window_start, rest) = take(bytes);
        let (campaign, rest) = take(rest);
        let (count, rest) = take(rest);
        let (at, _) = take(rest);
        TimedRow {
            row: ResultRow {
                window_start: u64::from_le_bytes(window_start),
                campaign: u32::from_le_bytes(campaign),
                count: u64::from_le_bytes(count),
            },
            at: Instant(u64::from_le_bytes(at)),
        }
    })
}

fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (first, rest) = bytes.split_first_chunk().expect("a row has a fixed length");
    (*first, rest)
}
