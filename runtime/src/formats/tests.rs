//! The meaning of a JSON line: a table of its edges, and agreement with a model elsewhere.

use drizzle_scheduler::Watermark;
use proptest::prelude::*;

use super::{Chunk, Field, FieldKind, Fields, JsonDecoder, JsonRecord, Keep, Line, Malformed};
use crate::dataflow::{EventTimes, InputCounters, Row, Stamp};

#[derive(Debug, PartialEq, Eq)]
struct Event<'a> {
    ad: &'a str,
    time: u64,
}

impl Row for Event<'static> {
    type Of<'a> = Event<'a>;
}

impl JsonRecord for Event<'static> {
    const FIELDS: &'static [Field] = &[
        Field { name: "ad", kind: FieldKind::Text },
        Field { name: "time", kind: FieldKind::UnsignedText },
    ];
    const EVENT_TIME: usize = 1;
    fn from_fields<'a>(fields: &Fields<'a>) -> Event<'a> {
        Event { ad: fields.text(0), time: fields.unsigned(1) }
    }
}

const NO_JSON: Result<(&str, u64), Malformed> = Err(Malformed::NotJson);
const NO_OBJECT: Result<(&str, u64), Malformed> = Err(Malformed::NotAnObject);
const BAD_AD: Result<(&str, u64), Malformed> = Err(Malformed::WrongKind("ad"));
const BAD_TIME: Result<(&str, u64), Malformed> = Err(Malformed::WrongKind("time"));

#[track_caller]
fn check(line: impl AsRef<[u8]>, expected: Result<(&str, u64), Malformed>) {
    let line = line.as_ref();
    let mut decoder = JsonDecoder::<Event<'static>>::new();
    // What the decoder saw before must not shine through.
    decoder.decode(br#"{"ad": "ol\u0064", "time": 77}"#);
    let expected = match expected {
        Ok((ad, time)) => Line::Record(Event { ad, time }),
        Err(reason) => Line::Malformed(reason),
    };
    assert_eq!(decoder.decode(line), expected, "{}", String::from_utf8_lossy(line));
}

#[track_caller]
fn check_time(time: &str, expected: Result<(&str, u64), Malformed>) {
    check(format!(r#"{{"ad": "a", "time": {time}}}"#), expected);
}

#[test]
fn json_white_space_alone_is_blank() {
    let mut decoder = JsonDecoder::<Event<'static>>::new();
    for line in ["", " ", "\t", "\r", " \t\r \r"] {
        assert_eq!(decoder.decode(line.as_bytes()), Line::Blank);
    }
    for line in ["\u{b}", "\u{c}", "\u{a0}", "\0", "\u{feff}"] {
        check(line, NO_JSON);
    }
}

#[test]
fn keys_come_in_any_order_and_spacing() {
    check(r#"{"ad":"a","time":"1"}"#, Ok(("a", 1)));
    check("\t { \"x\" : [ ] ,\r\t\"time\":1 , \"ad\"\n:\"a\" } \r", Ok(("a", 1)));
    check(r#"{"x": {"ad": 1, "time": "no"}, "time": 1, "y": ["ad"], "ad": ""}"#, Ok(("", 1)));
    check(r#"{"AD": 1, "ad ": 2, "a": 3, "time": 1, "ad": "ad"}"#, Ok(("ad", 1)));
}

#[test]
fn escapes_in_keys_and_values_are_resolved() {
    check(r#"{"\u0061d": "a", "t\u0069me": 1}"#, Ok(("a", 1)));
    check(
        r#"{"ad": "\u00e9\n\"\\\/\ud83d\ude00", "time": "\u0031\u0032"}"#,
        Ok(("é\n\"\\/😀", 12)),
    );
    check(r#"{"ad": "b", "\u0061d": "a", "time": 1}"#, Ok(("a", 1)));
    check(r#"{"\u0061d": "\u0062", "ad": "a", "time": 1}"#, Ok(("a", 1)));
    check(r#"{"ad": "a\x", "time": 1}"#, NO_JSON);
    check(r#"{"ad": "a\u12", "time": 1}"#, NO_JSON);
    check("{\"ad\": \"a\tb\", \"time\": 1}", NO_JSON);
    check("{\"ad\": \"a\", \"time\": 1, \"x\": \"a\u{1}b\"}", NO_JSON);
    check("{\"ad\": \"a\u{7f}\", \"time\": 1}", Ok(("a\u{7f}", 1)));
}

#[test]
fn the_last_duplicate_holds_whatever_came_before() {
    check(r#"{"ad": "a", "ad": "b", "time": 1, "time": "2"}"#, Ok(("b", 2)));
    check(r#"{"ad": {"x": [1, {}]}, "time": -1, "ad": "b", "time": "2"}"#, Ok(("b", 2)));
    check(r#"{"ad": [[], [1]], "time": "x", "ad": "b", "time": "2"}"#, Ok(("b", 2)));
    check(r#"{"ad": "b", "time": 2, "ad": null}"#, BAD_AD);
    check(r#"{"ad": "b", "time": 2, "time": true}"#, BAD_TIME);
    check(r#"{"ad": "b", "time": 2, "time": {"time": 1}}"#, BAD_TIME);
}

#[test]
fn only_one_whole_object_is_a_record() {
    for line in ["not json", "{", "}", r#"{"ad": "a", "time": 1"#, "{\"ad\": \"a\", \"time\": 1}}"]
    {
        check(line, NO_JSON);
    }
    for line in ["[]", "1", "\"ad\"", "null", "true", r#"[{"ad": "a", "time": 1}]"#] {
        check(line, NO_OBJECT);
    }
    check(r#"{"ad": "a", "time": 1} {"ad": "a", "time": 1}"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1},"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1, }"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1, 5: 6}"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1, "x": NaN}"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1, "x": 01}"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1, "x": 'y'}"#, NO_JSON);
    check("\u{feff}{\"ad\": \"a\", \"time\": 1}", NO_JSON);
    check("{\"ad\": \"a\", \"time\": 1}\0", NO_JSON);
}

#[test]
fn every_byte_must_be_utf8() {
    check(b"{\"ad\": \"a\xff\", \"time\": 1}", Err(Malformed::NotUtf8));
    check(b"{\"ad\": \"a\", \"time\": 1, \"x\": \"\xc0\x80\"}", Err(Malformed::NotUtf8));
    check(b"{\"ad\": \"a\", \"time\": 1, \"x\": \"\xed\xa0\x80\"}", Err(Malformed::NotUtf8));
    check(b"{\"ad\": \"a\", \"time\": 1} \xe2\x82", Err(Malformed::NotUtf8));
    check("{\"ad\": \"ü\", \"time\": 1}", Ok(("ü", 1)));
}

#[test]
fn declared_fields_are_there_and_of_their_kind() {
    check("{}", Err(Malformed::Missing("ad")));
    check(r#"{"ad": "a"}"#, Err(Malformed::Missing("time")));
    check(r#"{"x": {"ad": "a"}, "time": 1}"#, Err(Malformed::Missing("ad")));
    for ad in ["1", "1.5", "-1", "true", "null", "[]", "[\"a\"]", "{}", "{\"ad\": \"a\"}"] {
        check(format!(r#"{{"ad": {ad}, "time": 1}}"#), BAD_AD);
    }
}

#[test]
fn a_time_is_digits_or_a_non_negative_integer() {
    check_time("0", Ok(("a", 0)));
    check_time("\"0\"", Ok(("a", 0)));
    check_time("\"000123\"", Ok(("a", 123)));
    check_time(&format!("\"{}7\"", "0".repeat(1000)), Ok(("a", 7)));
    check_time("9223372036854775807", Ok(("a", i64::MAX as u64)));
    check_time("\"9223372036854775807\"", Ok(("a", i64::MAX as u64)));
    for time in ["9223372036854775808", "18446744073709551615", "18446744073709551616"] {
        check_time(time, BAD_TIME);
        check_time(&format!("\"{time}\""), BAD_TIME);
    }
    check_time(&format!("\"{}\"", "9".repeat(1000)), BAD_TIME);
    check_time("99999999999999999999999999", BAD_TIME);
    for time in ["-0", "-1", "-0.0", "1.0", "1e3", "1E0", "0.0", "null", "true", "[1]", "{}"] {
        check_time(time, BAD_TIME);
    }
    for text in ["", " 1", "1 ", "+1", "-1", "1.0", "1e3", "0x1", "1_0", "12.5x", "١", "１"] {
        check_time(&format!("\"{text}\""), BAD_TIME);
    }
    check_time("007", NO_JSON);
    check_time("+1", NO_JSON);
    check_time(".5", NO_JSON);
    check_time("1.", NO_JSON);
}

#[test]
fn edges_are_those_of_serde_json() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    check(format!(r#"{{"x": {}, "ad": "a", "time": 1}}"#, deep(100_000)), Ok(("a", 1)));
    check(format!(r#"{{"ad": {}, "ad": "a", "time": 1}}"#, deep(100_000)), Ok(("a", 1)));
    check(r#"{"x": "\ud800", "y": {"\udc00": 1}, "ad": "a", "time": 1}"#, Ok(("a", 1)));
    check(r#"{"x": 1e999, "ad": "a", "time": 1}"#, Ok(("a", 1)));
    check(r#"{"\ud800": 1, "ad": "a", "time": 1}"#, NO_JSON);
    check(r#"{"ad": "\ud800", "time": 1}"#, NO_JSON);
    check(r#"{"ad": "a", "time": 1e999}"#, NO_JSON);
}

#[test]
fn lines_may_be_of_any_length() {
    let long = "x".repeat(3 << 20);
    check(format!(r#"{{"pad": "{long}", "ad": "a", "time": 1}}"#), Ok(("a", 1)));
    check(format!(r#"{{"ad": "{long}", "time": 1}}"#), Ok((&long, 1)));
    check(format!(r#"{{"ad": "\u0078{}", "time": 1}}"#, &long[1..]), Ok((&long, 1)));
}

#[test]
fn values_without_escapes_are_borrowed_from_the_line() {
    let line = br#"{"ad": "abc", "time": 1}"#;
    let mut decoder = JsonDecoder::<Event<'static>>::new();
    let Line::Record(event) = decoder.decode(line) else { panic!("a valid line") };
    assert!(line.as_ptr_range().contains(&event.ad.as_ptr()));
}

#[test]
fn a_predicate_leaves_records_out_and_nothing_else() {
    let mut decoder =
        JsonDecoder::<Event<'static>>::keeping(Some(Keep::equal::<Event<'static>>("ad", "a")));
    let bytes = b"{\"ad\": \"a\", \"time\": 7}\n\n{\"ad\": \"b\", \"time\": 9}\n{\"ad\": \"b\"}\n\
        {\"ad\": \"\\u0061\", \"time\": \"8\"}";
    let (mut times, mut counters) = (EventTimes::new(2), InputCounters::default());
    let (mut kept, mut bad) = (Vec::new(), Vec::new());
    decoder.decode_lines(
        Chunk::new(bytes).later(100),
        &mut times,
        &mut counters,
        |event, stamp| kept.push((event.time, *stamp)),
        |line| bad.push(line.to_vec()),
    );
    let stamp = |event_time, watermark| Stamp { event_time, watermark: Watermark(watermark) };
    assert_eq!(kept, [(107, stamp(107, 0)), (108, stamp(108, 107))]);
    assert_eq!(bad, [br#"{"ad": "b"}"#]);
    assert_eq!(counters, InputCounters { lines: 5, blank: 1, malformed: 1, ok: 3, filtered: 1 });
}

/// The same meaning, from a whole tree: `None` at the edges where a tree differs from a visitor.
fn model(line: &[u8]) -> Option<Line<(String, u64)>> {
    let Ok(text) = std::str::from_utf8(line) else {
        return Some(Line::Malformed(Malformed::NotUtf8));
    };
    if text.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
        return Some(Line::Blank);
    }
    let tree: serde_json::Value = match serde_json::from_str(text) {
        Ok(tree) => tree,
        Err(error) => {
            let edges = ["number out of range", "recursion limit", "surrogate", "hex escape"];
            let is_edge = edges.iter().any(|edge| error.to_string().contains(edge));
            return (!is_edge).then_some(Line::Malformed(Malformed::NotJson));
        }
    };
    let ad = tree["ad"].as_str().map(str::to_owned);
    let time = match &tree["time"] {
        serde_json::Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok()
        }
        value => value.as_u64(),
    };
    let time = time.filter(|&time| time <= i64::MAX as u64);
    Some(match (ad, time) {
        (Some(ad), Some(time)) => Line::Record((ad, time)),
        (_, _) => Line::Malformed(Malformed::NotJson),
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let keys = ["ad", "time", "x", "a\\u0064", "t\\u0069m\\u0065", "adx", "", "\\n", "é"];
    prop::sample::select(keys.to_vec()).prop_map(|key| format!("\"{key}\""))
}

fn any_value() -> impl Strategy<Value = String> {
    let words = [
        "\"a\"",
        "\"\"",
        "\"é\\n\"",
        "\"\\u0041\"",
        "\"12\"",
        "\"007\"",
        "\"-1\"",
        "\"1 \"",
        "null",
        "true",
        "false",
        "0",
        "1",
        "-0",
        "-5",
        "1.0",
        "1e3",
        "9223372036854775807",
        "\"\\u0031\"",
        "9223372036854775808",
        "\"9223372036854775808\"",
        "18446744073709551616",
        "[]",
        "{}",
    ];
    let leaf = prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|v| format!("[{}]", v.join(", "))),
            prop::collection::vec((any_key(), inner), 0..3).prop_map(|v| object(&v, "")),
        ]
    })
}

fn object(entries: &[(String, String)], space: &str) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
    format!("{{{}}}", entries.join(&format!("{space},{space}")))
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let entries = prop::collection::vec((any_key(), any_value()), 0..6);
    let space = prop::sample::select(vec!["", " ", "\t \r"]);
    let wound = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (entries, space, wound).prop_map(|(entries, space, wound)| {
        let mut line = object(&entries, space).into_bytes();
        if let Some((index, byte)) = wound {
            let index = index.index(line.len());
            line[index] = byte;
        }
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_visitor_agrees_with_a_tree(lines in prop::collection::vec(any_line(), 1..4)) {
        let mut decoder = JsonDecoder::<Event<'static>>::new();
        for line in &lines {
            let Some(expected) = model(line) else { continue };
            let text = String::from_utf8_lossy(line);
            match (decoder.decode(line), expected) {
                (Line::Blank, Line::Blank) | (Line::Malformed(_), Line::Malformed(_)) => {}
                (Line::Record(event), Line::Record((ad, time))) => {
                    prop_assert_eq!((event.ad, event.time), (ad.as_str(), time), "{}", text);
                }
                (decoded, expected) => {
                    prop_assert!(false, "{text}: {decoded:?} instead of {expected:?}");
                }
            }
        }
    }

    #[test]
    fn no_bytes_at_all_can_harm_it(line in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut decoder = JsonDecoder::<Event<'static>>::new();
        decoder.decode(&line);
    }
}
