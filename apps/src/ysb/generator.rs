//! The events of the benchmark: JSON text, each a function of a seed and its number. When they come
//! is the affair of [`drizzle::connectors::Generated`].

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use drizzle::connectors::{
    ConnectorError, EventText, Fingerprint, Generated, GeneratedReader, Lines, Schedule,
};
use drizzle::dataflow::Reread;
use drizzle::scheduler::plan::Pacing;

use super::table::{AdTable, STANDING};

pub use drizzle::connectors::Rate;

/// What happens to ads, all equally often.
pub const EVENT_TYPES: [&str; 3] = ["view", "click", "purchase"];
/// Number of `view` in [`EVENT_TYPES`].
pub const VIEW: u32 = 0;
/// What ads look like, all equally often.
pub const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];

const USERS: u32 = 100;
const PAGES: u32 = 100;
/// Event time at which the first window may start.
const EPOCH_MS: u64 = 1_500_000_000_000;
/// So much later are the views of standing campaigns: no window of others ends then.
pub(super) const STANDING_MS: u64 = 1_000_000_000_000;
/// So many of these come with an event, as long as there are any.
pub const STANDING_AT_ONCE: u64 = 8;

/// What the events depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorOptions {
    /// Two generators of the same seed and table yield the same events.
    pub seed: u64,
    /// How many source partitions share the events.
    pub partitions: NonZeroU32,
    /// How fast they come.
    pub rate: Rate,
    /// For how long, in nanoseconds.
    pub duration_ns: u64,
    /// The first event is at the start of a window of that length.
    pub window_ms: NonZeroU64,
}

/// What an event says, as a pure function of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPlan {
    seed: u64,
    ads: u32,
    standing: u32,
    schedule: Schedule,
}

/// The fields of an event, as numbers into tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFields {
    /// Number of the user.
    pub user: u32,
    /// Number of the page.
    pub page: u32,
    /// Number of the ad in [`AdTable::ads`].
    pub ad: u32,
    /// Number in [`AD_TYPES`].
    pub ad_type: u32,
    /// Number in [`EVENT_TYPES`].
    pub event_type: u32,
    /// The scheduled time in milliseconds.
    pub event_time: u64,
}

impl EventPlan {
    /// Event time of the generator's start.
    pub fn base_ms(&self) -> u64 {
        self.schedule.base_ms()
    }

    /// The standing campaigns that are viewed, once and for all, right after event `index`.
    #[inline]
    pub fn standing(&self, index: u64) -> Range<u32> {
        let all = u64::from(self.standing);
        let first = index.saturating_mul(STANDING_AT_ONCE).min(all);
        first as u32..(first + STANDING_AT_ONCE).min(all) as u32
    }

    /// The event time of all these views.
    pub fn standing_time(&self) -> u64 {
        self.base_ms() + STANDING_MS
    }

    /// When event `index` is scheduled, as event time.
    #[inline]
    pub fn event_time(&self, index: u64) -> u64 {
        self.schedule.event_time(index)
    }

    /// Everything that event `index` says.
    #[inline]
    pub fn fields(&self, index: u64) -> EventFields {
        self.fields_at(index, self.event_time(index))
    }

    #[inline]
    fn fields_at(&self, index: u64, event_time: u64) -> EventFields {
        let what = hash(self.seed, index);
        let who = hash(what, 0);
        EventFields {
            user: pick(who as u32, USERS),
            page: pick((who >> 32) as u32, PAGES),
            ad: pick(what as u32, self.ads),
            ad_type: pick((what >> 32) as u32 & 0xffff_0000, AD_TYPES.len() as u32),
            event_type: pick((what >> 16) as u32 & 0xffff_0000, EVENT_TYPES.len() as u32),
            event_time,
        }
    }
}

/// The generator as a source of lines.
#[derive(Clone, Debug)]
pub struct Generator {
    events: Generated<AdEvents>,
}

impl Generator {
    /// A generator of events about the ads of `table`.
    pub fn new(options: GeneratorOptions, table: &AdTable) -> Result<Generator> {
        ensure!(!table.ads().is_empty(), "the table of ads is empty, so there are no events");
        let base_ms = EPOCH_MS.checked_next_multiple_of(options.window_ms.get());
        let base_ms = base_ms.context("the window is too long")?;
        let schedule =
            Schedule::new(options.rate, options.partitions, options.duration_ns, base_ms)?;
        let events = AdEvents {
            plan: EventPlan {
                seed: options.seed,
                ads: table.ads().len() as u32,
                standing: table.standing(),
                schedule,
            },
            pieces: Pieces::new(options.seed, table)?,
            table: table.fingerprint(),
        };
        Ok(Generator { events: Generated::new(schedule, events) })
    }

    /// The same events, from a source whose watermarks follow from them.
    pub fn deriving_watermarks(self) -> Generator {
        Generator { events: self.events.deriving_watermarks() }
    }

    /// What each event says.
    pub fn plan(&self) -> EventPlan {
        self.events.events().plan
    }

    /// About how long a line is, in bytes.
    pub fn mean_bytes(&self) -> u64 {
        self.events.events().mean_bytes()
    }

    /// How many events there will be; `None` where the machine decides.
    pub fn total(&self) -> Option<u64> {
        self.events.schedule().total()
    }
}

impl Lines for Generator {
    type Reader = GeneratedReader<AdEvents>;

    fn partition_count(&self) -> u32 {
        self.events.partition_count()
    }

    fn pacing(&self) -> Pacing {
        self.events.pacing()
    }

    fn reread(&self) -> Reread {
        self.events.reread()
    }

    fn fingerprint(&self) -> u64 {
        self.events.fingerprint()
    }

    fn open(&self) -> Result<Self::Reader, ConnectorError> {
        self.events.open()
    }
}

/// The text of the benchmark's events.
#[derive(Debug)]
pub struct AdEvents {
    plan: EventPlan,
    pieces: Pieces,
    /// Fingerprint of the table.
    table: u64,
}

impl EventText for AdEvents {
    type Scratch = TimeText;

    fn mean_bytes(&self) -> u64 {
        self.pieces.mean_bytes
    }

    fn fingerprint(&self) -> u64 {
        Fingerprint::new("ad events").number(self.plan.seed).number(self.table).finish()
    }

    fn write(&self, index: u64, event_time: u64, time: &mut TimeText, lines: &mut Vec<u8>) {
        let fields = self.plan.fields_at(index, event_time);
        self.pieces.write(&fields, time.of(event_time), lines);
        let standing = self.plan.standing(index);
        if !standing.is_empty() {
            self.pieces.write_standing(standing, self.plan.standing_time(), lines);
        }
    }
}

/// The text of events, cut where it depends on a field; each piece ends where the next may begin.
#[derive(Debug)]
struct Pieces {
    users: Vec<Piece>,
    pages: Vec<Piece>,
    ads: Vec<Piece>,
    /// By ad type and event type.
    types: Vec<Piece>,
    /// About how long a line is.
    mean_bytes: u64,
}

const TAIL: &str = r#"", "ip_address": "1.2.3.4"}"#;

impl Pieces {
    fn new(seed: u64, table: &AdTable) -> Result<Pieces> {
        let ids = |kind: u64, count: u32| {
            (0..u64::from(count)).map(move |n| uuid(hash(hash(seed, kind), n)))
        };
        let ad_type = |ad_type: &&str| format!(r#", "ad_type": "{ad_type}", "event_type": ""#);
        let typed = |start: String| {
            EVENT_TYPES
                .map(|event_type| Piece::new(&format!(r#"{start}{event_type}", "event_time": ""#)))
        };
        let mut ads = Vec::new();
        for ad in table.ads() {
            // With quotes and, in a foreign table, perhaps escapes.
            let id = serde_json::to_string(&ad.id).context("an ad id is no JSON string")?;
            ads.push(Piece::new(&format!(r#"", "ad_id": {id}"#)));
        }
        let users = ids(3, USERS).map(|id| Piece::new(&format!(r#"{{"user_id": "{id}"#))).collect();
        let pages =
            ids(4, PAGES).map(|id| Piece::new(&format!(r#"", "page_id": "{id}"#))).collect();
        let types = AD_TYPES.iter().map(ad_type).flat_map(typed).collect();
        let mut pieces = Pieces { users, pages, ads, types, mean_bytes: 0 };
        let parts = [&pieces.users, &pieces.pages, &pieces.ads, &pieces.types];
        let variable: u64 = parts.iter().map(|part| mean_length(part)).sum();
        pieces.mean_bytes = variable + (TimeText::DIGITS + TAIL.len()) as u64;
        Ok(pieces)
    }

    #[inline]
    fn write(&self, fields: &EventFields, end: &Piece, lines: &mut Vec<u8>) {
        let types = fields.ad_type as usize * EVENT_TYPES.len() + fields.event_type as usize;
        self.users[fields.user as usize].append_to(lines);
        self.pages[fields.page as usize].append_to(lines);
        self.ads[fields.ad as usize].append_to(lines);
        self.types[types].append_to(lines);
        end.append_to(lines);
    }
}

impl Pieces {
    /// Appends a line for each of these campaigns' ads.
    #[cold]
    fn write_standing(&self, campaigns: Range<u32>, time: u64, lines: &mut Vec<u8>) {
        let end = TimeText::end(time);
        for campaign in campaigns {
            lines.push(b'\n');
            self.users[0].append_to(lines);
            self.pages[0].append_to(lines);
            Piece::new(&format!(r#"", "ad_id": "{STANDING}{campaign}""#)).append_to(lines);
            self.types[VIEW as usize].append_to(lines);
            end.append_to(lines);
        }
    }
}

fn mean_length(pieces: &[Piece]) -> u64 {
    let total: usize = pieces.iter().map(|piece| piece.length).sum();
    (total / pieces.len()) as u64
}

/// A piece of text that is appended as a copy of fixed length, which needs no call and no loop, and
/// then cut to its own.
#[derive(Debug)]
struct Piece {
    /// Its first bytes, then zeros.
    head: [u8; Piece::HEAD],
    length: usize,
    /// The whole of it, where it is longer than that.
    long: Box<[u8]>,
}

impl Piece {
    const HEAD: usize = 96;

    fn new(text: &str) -> Piece {
        let bytes = text.as_bytes();
        let mut head = [0; Piece::HEAD];
        match head.get_mut(..bytes.len()) {
            Some(start) => {
                start.copy_from_slice(bytes);
                Piece { head, length: bytes.len(), long: Box::default() }
            }
            None => Piece { head, length: bytes.len(), long: bytes.into() },
        }
    }

    #[inline]
    fn append_to(&self, lines: &mut Vec<u8>) {
        if self.length <= Piece::HEAD {
            let length = lines.len() + self.length;
            lines.extend_from_slice(&self.head);
            lines.truncate(length);
        } else {
            lines.extend_from_slice(&self.long);
        }
    }
}

/// The last event time and how a line ends with it: neighbours mostly share it.
#[derive(Debug)]
pub struct TimeText {
    time: u64,
    end: Piece,
}

impl Default for TimeText {
    fn default() -> TimeText {
        TimeText { time: 0, end: TimeText::end(0) }
    }
}

impl TimeText {
    /// How many digits a time of our centuries has.
    const DIGITS: usize = 13;

    #[inline]
    fn of(&mut self, time: u64) -> &Piece {
        if self.time != time {
            self.time = time;
            self.end = TimeText::end(time);
        }
        &self.end
    }

    #[inline(never)]
    fn end(time: u64) -> Piece {
        Piece::new(&format!("{time}{TAIL}"))
    }
}

/// A hash of a seed and a counter: the finish of splitmix64, twice where both vary freely.
#[inline]
pub(super) fn hash(seed: u64, counter: u64) -> u64 {
    let mut z = seed ^ counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An id that looks like a random UUID.
pub(super) fn uuid(from: u64) -> String {
    let bits = u128::from(hash(from, 0)) << 64 | u128::from(hash(from, 1));
    let digits = format!("{bits:032x}");
    let (a, b, c, d, e) =
        (&digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..]);
    format!("{a}-{b}-4{c}-a{d}-{e}")
}

/// A number below `count`, from 32 random bits.
#[inline]
fn pick(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}
