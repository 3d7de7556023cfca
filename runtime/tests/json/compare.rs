//! Decodes chunks with all instruction sets and line by line, and compares what comes of it.

use std::cell::RefCell;

use drizzle::dataflow::{EventTimes, InputCounters, Row, Stamp};
use drizzle::formats::{
    Chunk, Field, FieldKind, Fields, InstructionSet, JsonDecoder, JsonRecord, Keep, Line,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event<'a> {
    ad: &'a str,
    kind: &'a str,
    time: u64,
    count: u64,
}

impl Row for Event<'static> {
    type Of<'a> = Event<'a>;
}

impl JsonRecord for Event<'static> {
    const FIELDS: &'static [Field] = &[
        Field { name: "ad", kind: FieldKind::Text },
        Field { name: "kind", kind: FieldKind::Text },
        Field { name: "time", kind: FieldKind::UnsignedText },
        Field { name: "count", kind: FieldKind::UnsignedText },
    ];
    const EVENT_TIME: usize = 2;
    fn from_fields<'a>(fields: &Fields<'a>) -> Event<'a> {
        Event {
            ad: fields.text(0),
            kind: fields.text(1),
            time: fields.unsigned(2),
            count: fields.unsigned(3),
        }
    }
}

/// What became of a line, in the order in which it was told.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Record { ad: String, kind: String, time: u64, count: u64, stamp: Stamp },
    Malformed(Vec<u8>),
}

impl Outcome {
    fn record(event: &Event<'_>, stamp: &Stamp) -> Outcome {
        let Event { ad, kind, time, count } = event.clone();
        Outcome::Record { ad: ad.to_owned(), kind: kind.to_owned(), time, count, stamp: *stamp }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Outcomes {
    outcomes: Vec<Outcome>,
    counters: InputCounters,
    times: EventTimes,
}

/// Every line by itself, on the general path.
fn one_by_one(chunks: &[Vec<u8>], keep: Option<&str>, shift_ms: u64) -> Outcomes {
    let mut decoder = JsonDecoder::<Event<'static>>::new();
    let mut counters = InputCounters::default();
    let mut times = EventTimes::new(10);
    let mut outcomes = Vec::new();
    for line in chunks.iter().flat_map(|chunk| lines_of(chunk)) {
        counters.lines += 1;
        match decoder.decode(line) {
            Line::Blank => counters.blank += 1,
            Line::Malformed(_) => {
                counters.malformed += 1;
                outcomes.push(Outcome::Malformed(line.to_vec()));
            }
            Line::Record(mut event) => {
                counters.ok += 1;
                event.time = event.time.saturating_add(shift_ms);
                let stamp = times.stamp(event.time);
                match keep {
                    Some(kind) if event.kind != kind => counters.filtered += 1,
                    Some(_) | None => outcomes.push(Outcome::record(&event, &stamp)),
                }
            }
        }
    }
    Outcomes { outcomes, counters, times }
}

fn lines_of(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ended = chunk.strip_suffix(b"\n").or(if chunk.is_empty() { None } else { Some(chunk) });
    ended.into_iter().flat_map(|chunk| chunk.split(|byte| *byte == b'\n'))
}

fn decoder_with(set: InstructionSet, keep: Option<&str>) -> JsonDecoder<Event<'static>> {
    let keep = keep.map(|text| Keep::equal::<Event<'static>>("kind", text));
    JsonDecoder::keeping(keep).with_instructions(set)
}

fn in_chunks(
    decoder: &mut JsonDecoder<Event<'static>>,
    chunks: &[Vec<u8>],
    shift_ms: u64,
) -> Outcomes {
    let mut counters = InputCounters::default();
    let mut times = EventTimes::new(10);
    let outcomes = RefCell::new(Vec::new());
    for (number, bytes) in chunks.iter().enumerate() {
        // Exactly as long as it is, so that reading beyond it would be noticed by sanitizers; or with
        // something behind it that must not matter.
        let behind = r#""}, 7\"#.repeat(if number % 2 == 0 { 0 } else { 300 });
        let memory: Box<[u8]> = [bytes, behind.as_bytes()].concat().into();
        decoder.decode_lines(
            Chunk::start_of(&memory, bytes.len()).later(shift_ms),
            &mut times,
            &mut counters,
            |event, stamp| outcomes.borrow_mut().push(Outcome::record(event, stamp)),
            |line| outcomes.borrow_mut().push(Outcome::Malformed(line.to_vec())),
        );
    }
    Outcomes { outcomes: outcomes.into_inner(), counters, times }
}

fn sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL.into_iter().filter(|set| set.is_available())
}

/// Returns how many lines took the general path, with the best instructions.
#[track_caller]
pub fn check(chunks: &[Vec<u8>], keep: Option<&str>, shift_ms: u64) -> u64 {
    let expected = one_by_one(chunks, keep, shift_ms);
    let mut general_lines = Vec::new();
    for set in sets() {
        let mut decoder = decoder_with(set, keep);
        let decoded = in_chunks(&mut decoder, chunks, shift_ms);
        for (decoded, expected) in decoded.outcomes.iter().zip(&expected.outcomes) {
            assert_eq!(decoded, expected, "{set:?}");
        }
        assert!(decoded == expected, "{set:?}: {:?}, {:?}", decoded.counters, expected.counters);
        general_lines.push(decoder.general_lines());
    }
    assert!(general_lines.iter().all(|lines| *lines == general_lines[0]), "{general_lines:?}");
    general_lines[0]
}
