//! How fast lines become records, on one core, and what that could be at best.
//!
//! The lines are those of the benchmark, all different; its predicate is applied by the parser. Every
//! answer is compared with that of the general path, line by line.

use std::hint::black_box;
use std::num::{NonZeroU32, NonZeroU64};

use anyhow::{Context, Result, ensure};
use drizzle::clock::monotonic_now;
use drizzle::connectors::{LineReader, Lines};
use drizzle::dataflow::{EventTimes, InputCounters};
use drizzle::formats::{Chunk, InstructionSet, JsonDecoder, Keep, Line};
use drizzle::scheduler::PartitionId;
use drizzle_apps::ysb::event::AdEvent;
use drizzle_apps::ysb::generator::{Generator, GeneratorOptions, Rate};
use drizzle_apps::ysb::table::AdTable;

const SEED: u64 = 1;
/// Bytes that are decoded at a time, as by a source.
const CHUNK_BYTES: usize = 1 << 20;
/// Lines of all kinds that parsers are afraid of.
const HOSTILE: &[u8] = include_bytes!("../../apps/tests/data/ysb/hostile/events.jsonl");
/// So often, to make a measurable amount of them.
const HOSTILE_COPIES: usize = 20;

/// A way to go through lines, and how fast that was.
#[derive(Debug)]
pub(crate) struct Way {
    /// Its name in the report.
    pub(crate) key: &'static str,
    /// What it does.
    pub(crate) what: &'static str,
    /// Million lines a second, one for each round.
    pub(crate) rates: Vec<f64>,
    run: Runner,
}

#[derive(Debug)]
enum Runner {
    Newlines,
    FixedOffsets,
    Projection(Box<JsonDecoder<AdEvent<'static>>>),
    GeneralPath(Box<JsonDecoder<AdEvent<'static>>>),
    HostileProjection(Box<JsonDecoder<AdEvent<'static>>>),
    HostileGeneralPath(Box<JsonDecoder<AdEvent<'static>>>),
}

/// What lines add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answer {
    lines: u64,
    /// Records that the predicate keeps, and the sum of their event times.
    kept: u64,
    times: u64,
}

/// The lines, with what they add up to.
pub(crate) struct Input {
    plain: Vec<u8>,
    hostile: Vec<u8>,
    plain_answer: Answer,
    hostile_answer: Answer,
}

impl Input {
    /// About so many bytes of lines of the benchmark, and some hostile ones.
    pub(crate) fn new(bytes: u64) -> Result<Input> {
        let plain = generate(bytes)?;
        let hostile = HOSTILE.repeat(HOSTILE_COPIES);
        let mut decoder = JsonDecoder::new();
        let plain_answer = general_path(&mut decoder, &plain);
        let hostile_answer = general_path(&mut decoder, &hostile);
        Ok(Input { plain, hostile, plain_answer, hostile_answer })
    }
}

/// All ways, with every instruction set that this processor has; the best one comes first.
pub(crate) fn ways() -> Vec<Way> {
    let way = |key, what, run| Way { key, what, rates: Vec::new(), run };
    let decoder = |set| {
        let keep = Keep::equal::<AdEvent<'static>>("event_type", "view");
        Box::new(JsonDecoder::keeping(Some(keep)).with_instructions(set))
    };
    let best = InstructionSet::best();
    let mut ways = vec![
        way("newline_scan_meps_per_core", "newlines counted", Runner::Newlines),
        way("fixed_offset_meps_per_core", "fixed offsets, nothing checked", Runner::FixedOffsets),
        way("json_projection_meps_per_core", "projection", Runner::Projection(decoder(best))),
    ];
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        let (key, what) = match set {
            InstructionSet::Avx512 => ("json_projection_avx512_meps", "projection, AVX-512"),
            InstructionSet::Avx2 => ("json_projection_avx2_meps", "projection, AVX2"),
            InstructionSet::Portable => ("json_projection_portable_meps", "projection, portable"),
        };
        if set != best {
            ways.push(way(key, what, Runner::Projection(decoder(set))));
        }
    }
    ways.extend([
        way("general_path_meps", "general path alone", Runner::GeneralPath(decoder(best))),
        way(
            "hostile_projection_meps",
            "projection, hostile lines",
            Runner::HostileProjection(decoder(best)),
        ),
        way(
            "hostile_general_path_meps",
            "general path alone, hostile lines",
            Runner::HostileGeneralPath(decoder(best)),
        ),
    ]);
    ways
}

impl Way {
    /// Goes through the lines once and remembers how fast.
    pub(crate) fn run(&mut self, input: &Input) -> Result<f64> {
        let start = monotonic_now();
        let (answer, expected) = match &mut self.run {
            Runner::Newlines => {
                let newlines = memchr::memchr_iter(b'\n', black_box(&input.plain)).count() as u64;
                (Answer { lines: newlines, ..input.plain_answer }, input.plain_answer)
            }
            Runner::FixedOffsets => (fixed_offsets(black_box(&input.plain)), input.plain_answer),
            Runner::Projection(decoder) => (project(decoder, &input.plain), input.plain_answer),
            Runner::GeneralPath(decoder) => {
                (general_path(decoder, &input.plain), input.plain_answer)
            }
            Runner::HostileProjection(decoder) => {
                (project(decoder, &input.hostile), input.hostile_answer)
            }
            Runner::HostileGeneralPath(decoder) => {
                (general_path(decoder, &input.hostile), input.hostile_answer)
            }
        };
        let rate = answer.lines as f64 * 1e3 / (monotonic_now() - start) as f64;
        ensure!(answer == expected, "{}: {answer:?} instead of {expected:?}", self.what);
        self.rates.push(rate);
        Ok(rate)
    }
}

fn generate(bytes: u64) -> Result<Vec<u8>> {
    let table = AdTable::generate(SEED);
    let options = |rate| GeneratorOptions {
        seed: SEED,
        partitions: NonZeroU32::MIN,
        rate,
        duration_ns: 10_000_000_000,
        window_ms: NonZeroU64::MIN.saturating_add(9_999),
    };
    let line_bytes = Generator::new(options(Rate::Max), &table)?.mean_bytes() + 1;
    let per_second = NonZeroU64::new(bytes / line_bytes / 10).context("too few bytes for lines")?;
    let generator = Generator::new(options(Rate::PerSecond(per_second)), &table)?;
    let total = generator.total().context("the rate is given")?;
    let mut lines = Vec::with_capacity(usize::try_from(total * (line_bytes + 1))?);
    let each = |chunk: Chunk<'_>| lines.extend_from_slice(chunk.lines());
    generator.open()?.read_chunks(PartitionId(0), 0..total, each)?;
    Ok(lines)
}

/// Chunks of whole lines.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let start = CHUNK_BYTES.min(rest.len());
        let end = memchr::memchr(b'\n', &rest[start..]).map_or(rest.len(), |end| start + end + 1);
        let (chunk, after) = rest.split_at(end);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn project(decoder: &mut JsonDecoder<AdEvent<'static>>, bytes: &[u8]) -> Answer {
    let mut times = EventTimes::new(0);
    let mut counters = InputCounters::default();
    let mut answer = Answer::default();
    for bytes in chunks(bytes) {
        decoder.decode_lines(
            Chunk::new(bytes),
            &mut times,
            &mut counters,
            |event, stamp| {
                black_box(event);
                answer.kept += 1;
                answer.times = answer.times.wrapping_add(stamp.event_time);
            },
            |line| {
                black_box(line);
            },
        );
    }
    Answer { lines: counters.lines, ..answer }
}

/// Every line by itself.
fn general_path(decoder: &mut JsonDecoder<AdEvent<'static>>, bytes: &[u8]) -> Answer {
    let mut answer = Answer::default();
    let mut rest = bytes;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        answer.lines += 1;
        if let Line::Record(event) = decoder.decode(&rest[..end])
            && event.event_type == "view"
        {
            answer.kept += 1;
            answer.times = answer.times.wrapping_add(event.event_time);
        }
        rest = &rest[end + 1..];
    }
    answer
}

/// What a program does that knows these lines and trusts them: it looks at a few bytes of each.
fn fixed_offsets(bytes: &[u8]) -> Answer {
    /// Where the texts and digits that vary in length begin, if those before were empty.
    const AD_TYPE: usize =
        r#"{"user_id": "", "page_id": "", "ad_id": "", "ad_type": ""#.len() + 3 * 36;
    const EVENT_TYPE: usize = AD_TYPE + r#"", "event_type": ""#.len();
    const TIME: usize = EVENT_TYPE + r#"", "event_time": ""#.len();
    const END: usize = TIME + r#"1500000000000", "ip_address": "1.2.3.4"}"#.len();
    let mut answer = Answer::default();
    let mut at = 0;
    while let Some(line) = bytes.get(at..at + END) {
        // The third letter tells them all apart.
        let ad_type = match line[AD_TYPE + 2] {
            b'n' => "banner".len(),
            b'o' => "sponsored-search".len(),
            b'd' => "modal".len(),
            b'i' => "mail".len(),
            _ => "mobile".len(),
        };
        let event_type = match line[EVENT_TYPE + ad_type] {
            b'v' => "view".len(),
            b'c' => "click".len(),
            _ => "purchase".len(),
        };
        let start = at + TIME + ad_type + event_type;
        let digits = &bytes[start..start + 13];
        let time = digits.iter().fold(0, |time, digit| time * 10 + u64::from(digit - b'0'));
        let is_view = event_type == "view".len();
        answer.lines += 1;
        answer.kept += u64::from(is_view);
        answer.times = answer.times.wrapping_add(if is_view { time } else { 0 });
        at += END + ad_type + event_type + 1;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::{Input, ways};

    #[test]
    fn all_ways_lead_to_the_same_answer() {
        let input = Input::new(1 << 20).unwrap();
        for way in &mut ways() {
            way.run(&input).unwrap();
            assert_eq!(way.rates.len(), 1);
        }
    }
}
