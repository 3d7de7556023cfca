//! Table, events, generator and oracle, each against something simpler.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drizzle::connectors::{JsonLines, LineReader, Lines, MappedFile};
use drizzle::dataflow::{EventTimes, InputCounters, Limit, Source, SourceReader, Stamp};
use drizzle::formats::{Chunk, JsonDecoder, Line};
use drizzle::scheduler::plan::Pacing;
use drizzle::scheduler::{Instant, PartitionId, Watermark};
use proptest::prelude::*;
use serde_json::Value;

use super::event::AdEvent;
use super::generator::{AD_TYPES, EVENT_TYPES, Generator, GeneratorOptions, Rate};
use super::oracle::{Expected, ResultRow};
use super::replay::ad_number;
use super::table::AdTable;

const MS: u64 = 1_000_000;
const START: Instant = Instant(777);
const BASE: u64 = 1_500_000_000_000;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ysb").join(path)
}

// Inputs with known answers.

/// The whole job in one loop: what the folder's answers say, by decoder and table alone.
fn check_answers(folder: &str, out_of_orderness_ms: u64) {
    let table = AdTable::load(&data(&format!("{folder}/ads.json"))).unwrap();
    let input = MappedFile::open(data(&format!("{folder}/events.jsonl"))).unwrap();
    let source = JsonLines::<_, AdEvent<'static>>::new(input);
    let mut reader = source.open().unwrap();
    let limit = Limit { cut: START, bytes: u64::MAX };
    let to = reader.choose(PartitionId(0), 0, &limit).to;

    let mut input = InputCounters::default();
    let mut windows = BTreeMap::<String, u64>::new();
    let [mut filtered, mut unmatched, mut late, mut counted] = [0; 4];
    let judge = |event: &AdEvent<'_>, stamp: &Stamp| {
        let window = stamp.event_time - stamp.event_time % 10_000;
        let is_late = stamp.watermark.0 >= window + 10_000;
        if event.event_type != "view" {
            filtered += 1;
        } else if let Some(campaign) = table.campaign_of(event.ad_id) {
            if is_late {
                late += 1;
            } else {
                counted += 1;
                *windows.entry(format!("{}|{window}", table.name(campaign))).or_default() += 1;
            }
        } else {
            unmatched += 1;
        }
    };
    let mut times = EventTimes::new(out_of_orderness_ms);
    reader.read(PartitionId(0), 0..to, &mut times, &mut input, judge).unwrap();

    let answers = std::fs::read_to_string(data(&format!("{folder}/expected.json"))).unwrap();
    let answers: Value = serde_json::from_str(&answers).unwrap();
    let counters = [
        ("lines", input.lines),
        ("blank", input.blank),
        ("malformed", input.malformed),
        ("ok", input.ok),
        ("filtered", filtered),
        ("unmatched", unmatched),
        ("late", late),
        ("counted", counted),
    ];
    for (name, count) in counters {
        assert_eq!(answers["counters"][name].as_u64().unwrap_or(0), count, "{folder}: {name}");
    }
    let expected: BTreeMap<String, u64> =
        serde_json::from_value(answers["windows"].clone()).unwrap();
    assert_eq!(windows, expected, "{folder}");
}

#[test]
fn decoder_and_table_give_the_known_answers() {
    check_answers("plain", 0);
    check_answers("hostile", 0);
    check_answers("disorder", 3000);
    check_answers("late", 500);
}

// Table.

#[test]
fn campaigns_are_numbered_in_the_order_of_their_ids() {
    let table = AdTable::load(&data("plain/ads.json")).unwrap();
    assert_eq!((table.ads().len(), table.campaign_count()), (1000, 100));
    assert!((1..100).all(|campaign| table.name(campaign - 1) < table.name(campaign)));
    for ad in table.ads() {
        assert_eq!(table.campaign_of(&ad.id), Some(ad.campaign));
    }
    let first = &table.ads()[0].id;
    for stranger in ["", "nope", &first[..35], &format!("{first} "), &format!("{first}\0")] {
        assert_eq!(table.campaign_of(stranger), None);
    }
}

#[test]
fn ads_are_found_by_ids_of_any_length() {
    let id = |length: usize, last: char| format!("{}{last}", "x".repeat(length));
    let ids = (0..70).flat_map(|length| [id(length, 'a'), id(length, 'b')]);
    let pairs: BTreeMap<String, String> = ids.map(|id| (id.clone(), id)).collect();
    let path = std::env::temp_dir().join(format!("drizzle-{}-lengths.json", std::process::id()));
    std::fs::write(&path, serde_json::to_string(&pairs).unwrap()).unwrap();
    let table = AdTable::load(&path);
    std::fs::remove_file(&path).unwrap();
    let table = table.unwrap();
    for id in pairs.keys() {
        let campaign = table.campaign_of(id).map(|campaign| table.name(campaign));
        assert_eq!(campaign, Some(id.as_str()));
        let campaign = table.campaign_of_number(ad_number(id));
        assert_eq!(campaign, table.campaign_of(id));
    }
    for absent in [String::new(), id(7, 'c'), id(8, 'c'), id(70, 'a')] {
        assert_eq!(table.campaign_of(&absent), None, "{absent}");
        assert_eq!(table.campaign_of_number(ad_number(&absent)), None, "{absent}");
    }
}

#[test]
fn the_default_table_depends_on_the_seed_alone() {
    let table = AdTable::generate(1);
    assert_eq!((table.ads().len(), table.campaign_count()), (1000, 100));
    for campaign in 0..100 {
        assert_eq!(table.ads().iter().filter(|ad| ad.campaign == campaign).count(), 10);
        assert_eq!(table.name(campaign).len(), 36);
    }
    assert_eq!(table.fingerprint(), AdTable::generate(1).fingerprint());
    assert_ne!(table.fingerprint(), AdTable::generate(2).fingerprint());
    assert_ne!(table.fingerprint(), AdTable::load(&data("plain/ads.json")).unwrap().fingerprint());
}

#[test]
fn a_table_that_cannot_be_read_is_said_in_one_sentence() {
    let said = |path: &Path| format!("{:#}", AdTable::load(path).unwrap_err());
    let missing = data("missing.json");
    assert_eq!(
        said(&missing),
        format!(
            "cannot read the table of ads {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let readme = data("README.md");
    let start = format!("{} is not a JSON object of ad ids and campaign ids: ", readme.display());
    assert!(said(&readme).starts_with(&start), "{}", said(&readme));
}

// Generator.

fn options(partitions: u32, rate: Rate, duration_ms: u64) -> GeneratorOptions {
    GeneratorOptions {
        seed: 42,
        partitions: NonZeroU32::new(partitions).unwrap(),
        rate,
        duration_ns: duration_ms * MS,
        window_ms: NonZeroU64::new(1000).unwrap(),
    }
}

fn per_second(rate: u64) -> Rate {
    Rate::PerSecond(NonZeroU64::new(rate).unwrap())
}

fn generator(partitions: u32, rate: Rate, duration_ms: u64) -> Generator {
    Generator::new(options(partitions, rate, duration_ms), &AdTable::generate(42)).unwrap()
}

fn limit(elapsed_ns: u64, bytes: u64) -> Limit {
    Limit { cut: START.after(elapsed_ns), bytes }
}

fn lines_of(generator: &Generator, partition: u32, offsets: std::ops::Range<u64>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = generator.open().unwrap();
    let each = |chunk: Chunk<'_>| {
        lines.extend(std::str::from_utf8(chunk.lines()).unwrap().lines().map(str::to_owned));
    };
    reader.read_chunks(PartitionId(partition), offsets, each).unwrap();
    lines
}

#[test]
fn lines_have_exactly_the_bytes_of_the_benchmark() {
    let line = &lines_of(&generator(1, per_second(1000), 1000), 0, 7..8)[0];
    let mut rest = line.as_str();
    for (before, length) in
        [(r#"{"user_id": ""#, 36), (r#"", "page_id": ""#, 36), (r#"", "ad_id": ""#, 36)]
    {
        rest = rest.strip_prefix(before).unwrap();
        let (uuid, after) = rest.split_at(length);
        assert!(looks_like(uuid), "{uuid}");
        rest = after;
    }
    let rest = rest.strip_prefix(r#"", "ad_type": ""#).unwrap();
    let (ad_type, rest) = rest.split_once(r#"", "event_type": ""#).unwrap();
    let (event_type, rest) = rest.split_once(r#"", "event_time": ""#).unwrap();
    assert!(AD_TYPES.contains(&ad_type) && EVENT_TYPES.contains(&event_type));
    assert_eq!(rest, r#"1500000000007", "ip_address": "1.2.3.4"}"#);
}

fn looks_like(uuid: &str) -> bool {
    uuid.char_indices().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-',
        14 => c == '4',
        19 => c == 'a',
        _ => matches!(c, '0'..='9' | 'a'..='f'),
    })
}

#[test]
fn lines_say_what_the_plan_says() {
    let table = AdTable::load(&data("plain/ads.json")).unwrap();
    let generator = Generator::new(options(3, per_second(30_000), 10_000), &table).unwrap();
    let mut decoder = JsonDecoder::<AdEvent<'static>>::new();
    for partition in 0..3 {
        let lines = lines_of(&generator, partition, 500..900);
        for (offset, line) in (500..).zip(&lines) {
            let fields = generator.plan().fields(offset * 3 + u64::from(partition));
            let tree: Value = serde_json::from_str(line).unwrap();
            assert_eq!(tree["ad_id"], *table.ads()[fields.ad as usize].id);
            assert_eq!(tree["ad_type"], AD_TYPES[fields.ad_type as usize]);
            assert_eq!(tree["event_type"], EVENT_TYPES[fields.event_type as usize]);
            assert_eq!(tree["event_time"], fields.event_time.to_string());
            let Line::Record(event) = decoder.decode(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(event.ad_id, tree["ad_id"]);
            assert_eq!(event.event_type, tree["event_type"]);
            assert_eq!(event.event_time, fields.event_time);
        }
    }
}

#[test]
fn ids_of_a_foreign_table_are_escaped() {
    let path = std::env::temp_dir().join(format!("drizzle-ads-{}.json", std::process::id()));
    std::fs::write(&path, r#"{"a\"\\\u0001": "c"}"#).unwrap();
    let table = AdTable::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let generator = Generator::new(options(1, Rate::Max, 1), &table).unwrap();
    let tree: Value = serde_json::from_str(&lines_of(&generator, 0, 0..1)[0]).unwrap();
    assert_eq!(tree["ad_id"], "a\"\\\u{1}");
}

#[test]
fn everything_is_picked_about_equally_often() {
    let plan = generator(1, per_second(1000), 1000).plan();
    let (mut users, mut pages, mut ads) = (vec![0; 100], vec![0; 100], vec![0; 1000]);
    let (mut ad_types, mut event_types) = (vec![0; 5], vec![0; 3]);
    for event in (0..300_000).map(|index| plan.fields(index)) {
        users[event.user as usize] += 1;
        pages[event.page as usize] += 1;
        ads[event.ad as usize] += 1;
        ad_types[event.ad_type as usize] += 1;
        event_types[event.event_type as usize] += 1;
    }
    for counts in [users, pages, ads, ad_types, event_types] {
        let mean = 300_000 / counts.len();
        let is_near = |&count: &usize| count.abs_diff(mean).pow(2) < 30 * mean;
        assert!(counts.iter().all(is_near), "{counts:?}");
    }
}

#[test]
fn the_first_event_is_at_the_start_of_a_window() {
    for window_ms in [1, 7, 1000, 10_000, 86_400_000] {
        let window_ms = NonZeroU64::new(window_ms).unwrap();
        let options = GeneratorOptions { window_ms, ..options(2, Rate::Max, 1000) };
        let plan = Generator::new(options, &AdTable::generate(1)).unwrap().plan();
        assert_eq!(plan.event_time(0), plan.base_ms());
        assert_eq!(plan.base_ms() % window_ms, 0);
        assert!(plan.base_ms() >= BASE && plan.base_ms() - BASE < window_ms.get());
    }
}

#[test]
fn impossible_options_are_refused() {
    let table = AdTable::generate(1);
    let refused = |rate, duration_ns| {
        let options = GeneratorOptions { duration_ns, ..options(1, rate, 0) };
        Generator::new(options, &table).unwrap_err().to_string()
    };
    assert!(refused(per_second(u64::MAX), u64::MAX).contains("more than can be numbered"));
    let long = GeneratorOptions { window_ms: NonZeroU64::MAX, ..options(1, Rate::Max, 1) };
    assert!(Generator::new(long, &table).is_err(), "no window starts after its base");
}

#[test]
fn nothing_is_due_before_the_start_is_known() {
    let mut reader = generator(1, per_second(1000), 1000).open().unwrap();
    let choice = reader.choose(PartitionId(0), 0, &limit(500 * MS, u64::MAX));
    assert_eq!((choice.to, choice.ended, choice.asserted), (0, false, None));
    reader.start(START);
    reader.start(Instant(1));
    assert_eq!(reader.choose(PartitionId(0), 0, &limit(500 * MS, u64::MAX)).to, 500);

    // The source of records hands it on.
    let generator = generator(1, per_second(1000), 1000);
    let mut reader = JsonLines::<_, AdEvent<'static>>::new(generator).open().unwrap();
    reader.start(START);
    assert_eq!(reader.choose(PartitionId(0), 0, &limit(500 * MS, u64::MAX)).to, 500);
}

#[test]
fn a_cut_takes_what_was_scheduled_before_it() {
    let generator = generator(2, per_second(1000), 1000);
    assert_eq!((generator.pacing(), generator.total()), (Pacing::Clock, Some(1000)));
    let mut reader = generator.open().unwrap();
    reader.start(START);
    let mut check = |partition, from, cut_ns, bytes, to, asserted, ended| {
        let choice = reader.choose(PartitionId(partition), from, &limit(cut_ns, bytes));
        assert_eq!((choice.to, choice.ended), (to, ended));
        assert_eq!(choice.asserted, Some(Watermark(BASE + asserted)));
    };
    let all = u64::MAX;
    // Events 0, 2, 4 at 0, 2, 4 ms.
    check(0, 0, 0, all, 0, 0, false);
    check(0, 0, 1, all, 1, 0, false);
    check(0, 0, 4 * MS, all, 2, 4, false);
    check(0, 0, 4 * MS + 1, all, 3, 4, false);
    check(1, 0, MS, all, 0, 1, false);
    check(1, 0, MS + 1, all, 1, 1, false);
    // Too much for one batch: the next event bounds what is known.
    check(0, 0, 100 * MS, 2600, 10, 20, false);
    check(0, 10, 100 * MS, 1, 11, 22, false);
    // A cut before what was taken takes nothing back.
    check(0, 30, 10 * MS, all, 30, 10, false);
    // The last event is at 999 ms; the window it is in lasts until 1000.
    check(1, 400, 1000 * MS - 1, all, 500, 999, false);
    check(1, 500, 1000 * MS, all, 500, 1000, true);
    check(0, 400, 5000 * MS, all, 500, 5000, true);
    check(0, 400, 5000 * MS, 2600, 410, 820, false);
}

#[test]
fn without_a_rate_everything_is_due_until_the_duration_is_over() {
    let generator = generator(2, Rate::Max, 1000);
    assert_eq!((generator.pacing(), generator.total()), (Pacing::Unpaced, None));
    let mut reader = generator.open().unwrap();
    reader.start(START);
    let choice = reader.choose(PartitionId(1), 0, &limit(0, 26_000_000));
    assert!((100_000..=105_000).contains(&choice.to), "{}", choice.to);
    // Ten million a second, shared by two: offset n is at n / 5000 ms.
    assert_eq!(choice.asserted, Some(Watermark(BASE + choice.to / 5000)));
    assert!(!choice.ended);
    let choice = reader.choose(PartitionId(1), 7, &limit(1000 * MS, 1 << 20));
    assert_eq!((choice.to, choice.ended), (7, true));
}

proptest! {
    #[test]
    fn batches_cover_each_event_once_and_watermarks_hold(
        partitions in 1u32..5,
        rate in prop_oneof![1u64..50, 900u64..1100, 10_000u64..200_000],
        duration_ms in 1u64..60,
        cuts in prop::collection::vec((0u64..80_000_000, 0u64..30_000), 0..12),
    ) {
        let generator = generator(partitions, per_second(rate), duration_ms);
        let plan = generator.plan();
        let mut reader = generator.open().unwrap();
        reader.start(START);
        let mut cuts = cuts;
        cuts.sort_unstable();
        cuts.push((duration_ms * MS, u64::MAX));
        let mut taken = vec![0; partitions as usize];
        for (elapsed_ns, bytes) in cuts {
            for (partition, from) in (0..).map(PartitionId).zip(&mut taken) {
                let choice = reader.choose(partition, *from, &limit(elapsed_ns, bytes));
                let index = |offset| offset * u64::from(partitions) + u64::from(partition.0);
                for offset in *from..choice.to {
                    let scheduled = u128::from(index(offset)) * 1_000_000_000 / u128::from(rate);
                    prop_assert!(scheduled < u128::from(elapsed_ns), "taken before its time");
                }
                let Watermark(asserted) = choice.asserted.unwrap();
                let next = plan.event_time(index(choice.to));
                let is_last = generator.total().is_some_and(|total| index(choice.to) >= total);
                prop_assert!(asserted <= next || is_last, "{asserted} passes {next}");
                *from = choice.to;
            }
        }
        prop_assert_eq!(taken.iter().sum::<u64>(), generator.total().unwrap());
    }
}

// Oracle.

fn table() -> Arc<AdTable> {
    Arc::new(AdTable::generate(42))
}

fn expected(taken: &[u64]) -> Expected {
    let plan = generator(taken.len() as u32, per_second(1000), 1000).plan();
    Expected::run(&plan, &table(), NonZeroU64::new(1000).unwrap(), taken)
}

#[test]
fn the_oracle_counts_what_the_lines_say() {
    let (table, taken) = (table(), [2500, 1700]);
    let generator = generator(2, per_second(1000), 10_000);
    let mut counts = BTreeMap::<(u64, u32), u64>::new();
    for (partition, events) in (0..).zip(taken) {
        for line in lines_of(&generator, partition, 0..events) {
            let tree: Value = serde_json::from_str(&line).unwrap();
            if tree["event_type"] == "view" {
                let time: u64 = tree["event_time"].as_str().unwrap().parse().unwrap();
                let campaign = table.campaign_of(tree["ad_id"].as_str().unwrap()).unwrap();
                *counts.entry((time / 1000 * 1000, campaign)).or_default() += 1;
            }
        }
    }
    let expected = expected(&taken);
    let row = |row: ResultRow| ((row.window_start, row.campaign), row.count);
    assert_eq!(expected.rows().map(row).collect::<BTreeMap<_, _>>(), counts);
    assert_eq!(expected.events, 4200);
    assert_eq!(expected.counted, counts.values().sum::<u64>());
    assert_eq!(expected.filtered, 4200 - expected.counted);
}

#[test]
fn equal_results_hold_in_any_order() {
    let expected = expected(&[2500, 2500]);
    let mut rows: Vec<ResultRow> = expected.rows().collect();
    rows.reverse();
    let verdict = expected.compare(rows.iter().copied());
    assert!(verdict.holds(), "{verdict:?}");
    assert_eq!((verdict.windows, verdict.results), (5, rows.len() as u64));
}

#[test]
fn every_difference_is_counted_in_events() {
    let expected = expected(&[5000]);
    let rows: Vec<ResultRow> = expected.rows().collect();
    let (first, second) = (rows[0], rows[1]);
    let check = |rows: Vec<ResultRow>, lost, duplicated, difference: &str| {
        let verdict = expected.compare(rows);
        assert!(!verdict.holds());
        assert_eq!((verdict.lost, verdict.duplicated), (lost, duplicated));
        assert!(verdict.differences[0].contains(difference), "{:?}", verdict.differences);
    };
    let changed = |row: ResultRow| {
        let mut rows = rows.clone();
        rows[0] = row;
        rows
    };
    let added = |row: ResultRow| [rows.clone(), vec![row]].concat();
    let counted = |count| ResultRow { count, ..first };

    check(rows[1..].to_vec(), first.count, 0, "no row instead of");
    check(changed(counted(first.count - 1)), 1, 0, "instead of");
    check(changed(counted(first.count + 2)), 0, 2, "instead of");
    check(added(second), 0, second.count, "a second row");
    // Two halves of a row are not that row.
    let halves = [changed(counted(first.count - 1)), vec![counted(1)]].concat();
    check(halves, 1, 1, "instead of");
    check(added(ResultRow { window_start: 5, ..first }), 0, first.count, "instead of 0");
    check(added(ResultRow { campaign: 100, ..first }), 0, first.count, "an unknown campaign");
    check(added(ResultRow { window_start: 5, campaign: 0, count: 0 }), 0, 0, "0 instead of 0");
    assert_eq!(expected.compare([]).lost, expected.counted);
    assert_eq!(expected.compare([]).differences.len(), 5);
}
