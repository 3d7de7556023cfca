//! The oracle: a plain sequential run over the generator's events, without text, windows or hashes
//! of the engine, and the comparison of its result with the engine's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use drizzle::connectors::Replay;
use serde::Deserialize;

use super::generator::{EventPlan, VIEW};
use super::replay::{AdRecord, Held, ad_number};
use super::table::AdTable;

/// How many differences are told in words.
const TOLD: usize = 5;

/// A result of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResultRow {
    /// Start of the window in milliseconds.
    pub window_start: u64,
    /// Number of the campaign in the table.
    pub campaign: u32,
    /// How many views it had in the window.
    pub count: u64,
}

/// What the job has to find.
#[derive(Clone, Debug)]
pub struct Expected {
    /// All events.
    pub events: u64,
    /// Those that are no views.
    pub filtered: u64,
    /// Views, each in one window.
    pub counted: u64,
    table: Arc<AdTable>,
    /// Views of each campaign, by window start.
    windows: BTreeMap<u64, Vec<u64>>,
}

/// How the engine's results compare with the expected ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Events that were taken from the source.
    pub events: u64,
    /// Windows with at least one view.
    pub windows: u64,
    /// Rows, one for each window and campaign with a view.
    pub results: u64,
    /// Events that are missing from the results.
    pub lost: u64,
    /// Events that the results have too much.
    pub duplicated: u64,
    /// The first few differences.
    pub differences: Vec<String>,
}

/// An event in memory, as the oracle sees it.
struct Judged {
    event_time: u64,
    /// Of a view.
    campaign: Option<u32>,
}

/// What an event in memory says, by a parser that the engine does not use.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    ad_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
}

/// A line that the generator wrote: there is no other in memory.
fn judge_line(line: &[u8], campaigns: &BTreeMap<&str, u32>) -> Judged {
    let event: Event<'_> = serde_json::from_slice(line).expect("the generator writes JSON");
    Judged {
        event_time: event.event_time.parse().expect("the generator writes times"),
        campaign: (event.event_type == "view").then(|| campaigns[&*event.ad_id]),
    }
}

impl Verdict {
    /// Whether the results are exactly the expected ones.
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.differences.is_empty()
    }

    /// Adds that a total must be as expected.
    pub fn require(&mut self, what: &str, expected: u64, found: u64) {
        if expected != found {
            self.differences.push(format!("{what}: {found} instead of {expected}"));
        }
    }
}

impl Expected {
    /// Runs over the first `taken[p]` events of each partition p.
    pub fn run(
        plan: &EventPlan,
        table: &Arc<AdTable>,
        window_ms: NonZeroU64,
        taken: &[u64],
    ) -> Expected {
        let campaigns: Vec<usize> = table.ads().iter().map(|ad| ad.campaign as usize).collect();
        let mut expected = Expected { events: taken.iter().sum(), ..Expected::nothing(table) };
        for (partition, &events) in taken.iter().enumerate() {
            let indexes = (partition as u64..).step_by(taken.len()).take(events as usize);
            if table.standing() > 0 {
                expected.count_standing(plan, window_ms.get(), indexes.clone());
            }
            expected.run_partition(plan, &campaigns, window_ms.get(), indexes);
        }
        expected.filtered = expected.events - expected.counted;
        expected
    }

    /// Runs over what was taken of events in memory: the first `taken[p]` bytes or records of each
    /// partition p, over all passes. What one pass holds is counted once and multiplied.
    pub fn replayed(
        held: &Held,
        table: &Arc<AdTable>,
        window_ms: NonZeroU64,
        taken: &[u64],
    ) -> Expected {
        match held {
            Held::Json(replay) => {
                let campaigns: BTreeMap<&str, u32> =
                    table.ads().iter().map(|ad| (&*ad.id, ad.campaign)).collect();
                let judge = |line: &[u8]| judge_line(line, &campaigns);
                let split = |bytes: &[u8]| -> Vec<Judged> {
                    bytes.split_inclusive(|&byte| byte == b'\n').map(judge).collect()
                };
                Expected::over_passes(replay, split, table, window_ms, taken)
            }
            Held::Binary(replay) => {
                let campaigns: BTreeMap<u64, u32> =
                    table.ads().iter().map(|ad| (ad_number(&ad.id), ad.campaign)).collect();
                let judge = |record: &AdRecord| Judged {
                    event_time: record.event_time,
                    campaign: (record.event_type == VIEW).then(|| campaigns[&record.ad]),
                };
                let split = |records: &[AdRecord]| records.iter().map(judge).collect();
                Expected::over_passes(replay, split, table, window_ms, taken)
            }
        }
    }

    fn over_passes<T>(
        replay: &Replay<T>,
        judge: impl Fn(&[T]) -> Vec<Judged>,
        table: &Arc<AdTable>,
        window_ms: NonZeroU64,
        taken: &[u64],
    ) -> Expected {
        let mut expected = Expected::nothing(table);
        for (items, &taken) in replay.partitions().iter().zip(taken) {
            let whole = taken.checked_div(items.len() as u64).unwrap_or(0);
            let rest = (taken - whole * items.len() as u64) as usize;
            for (first, passes, items) in [(0, whole, &items[..]), (whole, 1, &items[..rest])] {
                let shifts = (first..first + passes).map(|pass| pass * replay.span_ms());
                expected.add_judged(&judge(items), window_ms.get(), shifts);
            }
        }
        expected.filtered = expected.events - expected.counted;
        expected
    }

    /// Adds events once for each shift of their times.
    fn add_judged(
        &mut self,
        events: &[Judged],
        window_ms: u64,
        shifts: impl Iterator<Item = u64> + Clone,
    ) {
        let passes = shifts.clone().count() as u64;
        self.events += events.len() as u64 * passes;
        let campaign_count = self.table.campaign_count() as usize;
        let mut windows = BTreeMap::<u64, Vec<u64>>::new();
        for event in events {
            let Some(campaign) = event.campaign else { continue };
            let window_start = event.event_time - event.event_time % window_ms;
            let counts = windows.entry(window_start).or_insert_with(|| vec![0; campaign_count]);
            counts[campaign as usize] += 1;
            self.counted += passes;
        }
        for (shift, (window_start, counts)) in
            shifts.flat_map(|shift| windows.iter().map(move |window| (shift, window)))
        {
            let sums = self.windows.entry(window_start + shift).or_default();
            sums.resize(campaign_count, 0);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    fn nothing(table: &Arc<AdTable>) -> Expected {
        Expected {
            events: 0,
            filtered: 0,
            counted: 0,
            table: Arc::clone(table),
            windows: BTreeMap::new(),
        }
    }

    /// Compares `rows`, in any order, with what is expected.
    pub fn compare(&self, rows: impl IntoIterator<Item = ResultRow>) -> Verdict {
        let mut verdict = Verdict {
            events: self.events,
            windows: self.windows.len() as u64,
            results: self.rows().count() as u64,
            lost: 0,
            duplicated: 0,
            differences: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for row in rows {
            let expected = self.count(row.window_start, row.campaign);
            if !seen.insert((row.window_start, row.campaign)) {
                verdict.duplicated += row.count;
                verdict.tell(|| format!("{}: a second row of {}", self.place(row), row.count));
            } else if row.count != expected || expected == 0 {
                verdict.lost += expected.saturating_sub(row.count);
                verdict.duplicated += row.count.saturating_sub(expected);
                let place = self.place(row);
                verdict.tell(|| format!("{place}: {} instead of {expected}", row.count));
            }
        }
        for row in self.rows().filter(|row| !seen.contains(&(row.window_start, row.campaign))) {
            verdict.lost += row.count;
            verdict.tell(|| format!("{}: no row instead of {}", self.place(row), row.count));
        }
        verdict
    }

    /// The expected rows, by window and campaign.
    pub fn rows(&self) -> impl Iterator<Item = ResultRow> + '_ {
        self.windows.iter().flat_map(|(&window_start, counts)| {
            (0..)
                .zip(counts)
                .filter(|&(_, &count)| count > 0)
                .map(move |(campaign, &count)| ResultRow { window_start, campaign, count })
        })
    }

    fn run_partition(
        &mut self,
        plan: &EventPlan,
        campaigns: &[usize],
        window_ms: u64,
        indexes: impl Iterator<Item = u64>,
    ) {
        let campaign_count = self.table.campaign_count() as usize;
        let mut window_start = 0;
        let mut counts: &mut Vec<u64> = &mut Vec::new();
        for index in indexes {
            let event = plan.fields(index);
            if event.event_type != VIEW {
                continue;
            }
            // Event times of a partition only rise, so the window changes seldom.
            if counts.is_empty() || event.event_time - window_start >= window_ms {
                window_start = event.event_time - event.event_time % window_ms;
                counts = self.windows.entry(window_start).or_default();
                counts.resize(campaign_count, 0);
            }
            counts[campaigns[event.ad as usize]] += 1;
            self.counted += 1;
        }
    }

    /// Adds the views of standing campaigns that come with these events.
    fn count_standing(
        &mut self,
        plan: &EventPlan,
        window_ms: u64,
        indexes: impl Iterator<Item = u64>,
    ) {
        let campaign_count = self.table.campaign_count();
        let window_start = plan.standing_time() - plan.standing_time() % window_ms;
        let counts = self.windows.entry(window_start).or_default();
        counts.resize((campaign_count + self.table.standing()) as usize, 0);
        for campaign in indexes
            .map_while(|index| Some(plan.standing(index)).filter(|s| !s.is_empty()))
            .flatten()
        {
            counts[(campaign_count + campaign) as usize] += 1;
            self.counted += 1;
            self.events += 1;
        }
    }

    fn count(&self, window_start: u64, campaign: u32) -> u64 {
        let counts = self.windows.get(&window_start);
        counts.and_then(|counts| counts.get(campaign as usize)).copied().unwrap_or(0)
    }

    fn place(&self, row: ResultRow) -> String {
        let campaign = if row.campaign < self.table.campaign_count() {
            self.table.name(row.campaign)
        } else {
            "an unknown campaign"
        };
        format!("window {} of {campaign}", row.window_start)
    }
}

impl Verdict {
    fn tell(&mut self, difference: impl FnOnce() -> String) {
        if self.differences.len() < TOLD {
            self.differences.push(difference());
        }
    }
}
