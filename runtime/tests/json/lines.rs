//! Lines of a few layouts with few lengths, so that shapes come back, and wounds of many kinds.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Chunks of whole lines, the last of a chunk perhaps without its newline. They are a few lines again
/// and again, many of them wounded: most wounds hit a shape that is known.
pub fn any_chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let examples = prop::collection::vec(valid_line(), 1..5);
    let chunk = (prop::collection::vec(any_line(), 0..120), any::<bool>());
    (examples, prop::collection::vec(chunk, 1..4)).prop_map(|(examples, chunks)| {
        let whole = |(lines, ended): (Vec<AnyLine>, bool)| {
            let lines: Vec<Vec<u8>> = lines.iter().map(|line| line.from(&examples)).collect();
            let mut bytes = lines.join(&b'\n');
            if ended && !lines.is_empty() {
                bytes.push(b'\n');
            }
            bytes
        };
        chunks.into_iter().map(whole).collect()
    })
}

#[derive(Clone, Debug)]
enum AnyLine {
    Example(Index, Vec<Wound>),
    Other(Vec<u8>),
}

impl AnyLine {
    fn from(&self, examples: &[Vec<u8>]) -> Vec<u8> {
        match self {
            AnyLine::Example(index, wounds) => {
                wounds.iter().fold(index.get(examples).clone(), |line, wound| wound.inflict(line))
            }
            AnyLine::Other(line) => line.clone(),
        }
    }
}

fn any_line() -> impl Strategy<Value = AnyLine> {
    let strange = select(vec![&b""[..], b" ", b"\t\r", b"{}", b"[1]", b"not json", b"\xff"]);
    let wounds = prop::collection::vec(any_wound(), 1..3);
    prop_oneof![
        6 => any::<Index>().prop_map(|index| AnyLine::Example(index, Vec::new())),
        6 => (any::<Index>(), wounds).prop_map(|(index, wounds)| AnyLine::Example(index, wounds)),
        1 => valid_line().prop_map(AnyLine::Other),
        1 => strange.prop_map(|line| AnyLine::Other(line.to_vec())),
    ]
}

fn valid_line() -> impl Strategy<Value = Vec<u8>> {
    let layout = select(LAYOUTS.to_vec());
    let text =
        select(vec!["", "abc", "xyz", "a, b", "{\"a\"}", "für", "\u{20ac}", "0123456789abcdef"]);
    let kind =
        select(vec!["view", "skip", "a kind of its own length", "a kind of its own lengte", ""]);
    let time = select(vec![
        "1500000000000",
        "1500000000007",
        "1499999999999",
        "12",
        "0",
        "9999999999999999",
        "10000000000000000",
        "9223372036854775807",
        "9223372036854775808",
    ]);
    let number =
        select(vec!["0", "7", "12", "99", "-0", "-31", "1.5", "0.25", "1e3", "-2.50E-07", "1e999"]);
    let pad = select(vec![0, 1, 31, 180, 260, 500, 700, 1500]);
    (layout, text, kind, time, number, pad).prop_map(|(layout, text, kind, time, number, pad)| {
        let line = layout
            .replace("TEXT", &text.replace('"', "'"))
            .replace("KIND", kind)
            .replace("TIME", time)
            .replace("NUMBER", number)
            .replace("PAD", &"p".repeat(pad));
        line.into_bytes()
    })
}

const LAYOUTS: [&str; 8] = [
    r#"{"user": "TEXT", "ad": "abc", "kind": "KIND", "time": "TIME", "count": "17"}"#,
    r#"{"time":TIME,"count":17,"kind":"KIND","ad":"TEXT","price":NUMBER,"ok":true}"#,
    r#"{"time":TIME,"count":42,"kind":"KIND","ad":"TEXT","price":NUMBER,"ok":null}"#,
    r#"{"ad": "TEXT", "kind": "KIND", "count": 1, "time": "TIME", "größe": {"ad": [NUMBER, "TEXT"]}}"#,
    "{\"ad\"\t:\t\"TEXT\" ,\r\"kind\": \"KIND\", \"time\": TIME, \"count\": \"007\" } \r",
    r#"{"pad": "PAD", "ad": "TEXT", "time": "TIME", "count": 5, "kind": "KIND"}"#,
    r#"{"ad":"","kind":"","time":1,"count":2}"#,
    r#"{"ad": "a\u0062", "kind": "KIND", "time": "TIME", "count": 3, "x": "\"TEXT\""}"#,
];

/// A change to a line that may or may not make it invalid.
#[derive(Clone, Debug)]
enum Wound {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index),
    Truncate(Index),
    Double(Index),
    Digit(Index, u8),
}

fn any_wound() -> impl Strategy<Value = Wound> {
    let bytes = select(vec![
        &b"\""[..],
        b"\\",
        b"\n",
        b"\r",
        b"\t",
        b"\0",
        b"\x1f",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3\xa4",
        b"\xf0\x9f\x98\x80",
        b",",
        b":",
        b"{",
        b"}",
        b"[",
        b"]",
        b" ",
        b"0",
        b"00",
        b"-",
        b".",
        b"e",
        b"\"ad\": \"dup\", ",
        b"\"time\": 5, ",
        b"\"count\":1,",
        b"null",
        b"\\u0061",
        b"\\ud800",
        b"\xef\xbb\xbf",
        b"\r\n",
    ]);
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Wound::Replace(at, byte)),
        (any::<Index>(), bytes.clone()).prop_map(|(at, bytes)| Wound::Replace(at, bytes[0])),
        (any::<Index>(), bytes).prop_map(|(at, bytes)| Wound::Insert(at, bytes.to_vec())),
        any::<Index>().prop_map(Wound::Remove),
        any::<Index>().prop_map(Wound::Truncate),
        any::<Index>().prop_map(Wound::Double),
        (any::<Index>(), b'/'..=b':').prop_map(|(at, byte)| Wound::Digit(at, byte)),
    ]
}

impl Wound {
    fn inflict(&self, mut line: Vec<u8>) -> Vec<u8> {
        let at = |index: &Index, line: &[u8]| index.index(line.len() + 1).min(line.len());
        match self {
            Wound::Replace(index, byte) => {
                let at = at(index, &line);
                if let Some(place) = line.get_mut(at) {
                    *place = *byte;
                }
            }
            Wound::Insert(index, bytes) => {
                let at = at(index, &line);
                line.splice(at..at, bytes.iter().copied());
            }
            Wound::Remove(index) => {
                let at = at(index, &line);
                if at < line.len() {
                    line.remove(at);
                }
            }
            Wound::Truncate(index) => line.truncate(at(index, &line)),
            Wound::Double(index) => {
                // A member once more, or part of one.
                let at = at(index, &line);
                let from = line[..at].iter().rposition(|byte| *byte == b',').unwrap_or(0);
                let copy = line[from..at].to_vec();
                line.splice(at..at, copy);
            }
            Wound::Digit(index, byte) => {
                let digits: Vec<usize> =
                    (0..line.len()).filter(|at| line[*at].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    line[digits[index.index(digits.len())]] = *byte;
                }
            }
        }
        line
    }
}
