//! Lines in chunks mean the same as lines one by one, with whatever instructions they are scanned:
//! records, stamps, counters and malformed lines, in order.

mod compare;
mod lines;

use proptest::prelude::*;

use compare::check;

/// Two of each, so that the second teaches it, in one chunk of whole lines.
fn taught(examples: &[&str], others: &[&str]) -> Vec<u8> {
    let lines = examples.iter().chain(examples).chain(others);
    lines.flat_map(|line| line.bytes().chain([b'\n'])).collect()
}

/// Checks that after two of each of `examples` all `others` mean what they should, and how many of
/// these take the general path.
#[track_caller]
fn check_taught(examples: &[&str], others: &[&str], general_lines: u64) {
    let before = check(&[taught(examples, &[])], None, 0);
    let after = check(&[taught(examples, others)], None, 0);
    assert_eq!(after - before, general_lines, "{others:?}");
}

const PLAIN: &str =
    r#"{"ad": "abc", "kind": "view", "time": "1500000000000", "count": 17, "x": 2.5}"#;

#[test]
fn lines_of_a_known_shape_take_the_fast_path() {
    let others = [
        r#"{"ad": "~ !", "kind": "skip", "time": "1500000000999", "count": 99, "x": 0.0}"#,
        r#"{"ad": "a'}", "kind": "\{[,", "time": "0000000000000", "count": 10, "x": 9.9}"#,
    ];
    let others = [others[0], &others[1].replace('\\', ":")];
    check_taught(&[PLAIN], &others, 0);
    check_taught(&[&format!("{PLAIN}\r")], &[&format!("{}\r", others[0])], 0);
    check_taught(&["{\"ad\":\"\",\"kind\":\"\",\"time\":1,\"count\":2}"], &[], 0);
}

#[test]
fn whatever_differs_from_a_known_shape_takes_the_general_path() {
    let wounds = [
        ("17", "07"),
        ("2.5", "2e5"),
        ("2.5", "2.x"),
        ("abc", "a\"c"),
        ("abc", "a\\c"),
        ("abc", "a\tc"),
        ("\"x\"", "\"y\""),
        ("1500000000000", "15000000000x0"),
        ("1500000000000", "15000000000 0"),
        ("1500000000000", "15000000000/0"),
        ("1500000000000", "15000000000:0"),
        ("\"ad\"", "\"ae\""),
        ("{", "["),
        ("}", " "),
        (", ", " ,"),
        ("count\": 17", "count\":-17"),
    ];
    for (from, to) in wounds {
        check_taught(&[PLAIN], &[&PLAIN.replacen(from, to, 1)], 1);
    }
}

#[test]
fn values_beyond_ascii_have_shapes_too() {
    let umlaut = PLAIN.replace("abc", "für");
    check_taught(&[&umlaut], &[&umlaut.replace("für", "gün"), &umlaut.replace("für", "1234")], 0);
    // The first one widens the shape that is there.
    let narrow = PLAIN.replace("abc", "abcd");
    check_taught(&[&narrow], &[&umlaut, &umlaut.replace("für", "gün"), &narrow], 1);
    let mut bad = taught(&[&umlaut], &[&umlaut]);
    let broken = 2 * (umlaut.len() + 1) + umlaut.find('ü').unwrap();
    bad[broken + 1] = b'x';
    assert_eq!(check(&[bad], None, 0), 3);
}

#[test]
fn keys_beyond_ascii_are_as_good_as_others() {
    let line = PLAIN.replace("\"x\"", "\"größe\"");
    check_taught(&[&line], &[&line.replace("abc", "xyz"), &line.replace("abc", "äz")], 0);
}

#[test]
fn words_of_one_length_are_different_shapes_of_one_place() {
    let [yes, no] = ["true", "null"].map(|word| PLAIN.replace("2.5", word));
    check_taught(&[&yes, &no], &[&yes, &no, &yes], 0);
}

#[test]
fn a_shape_that_is_widened_hides_no_other_of_its_place() {
    let [first, second] = ["true", "null"].map(|word| PLAIN.replace("2.5", word));
    for line in [&first, &second] {
        let wide = line.replace("abc", "aä");
        check_taught(&[&first, &second], &[&wide, &wide, &first, &second], 1);
    }
}

/// Each of `others` behind a line that has a shape, so that the scan does not rest.
fn between(example: &str, others: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut chunk = taught(&[example], &[]);
    for line in others {
        chunk.extend(line);
        chunk.push(b'\n');
        chunk.extend(taught(&[], &[example]));
    }
    chunk
}

#[test]
fn any_byte_may_stand_anywhere_in_a_line_of_a_known_shape() {
    for example in [PLAIN, &PLAIN.replace("abc", "aä"), &format!("{PLAIN}\r")] {
        let changes =
            (0..example.len()).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte)));
        let changed = changes.map(|(place, byte)| {
            let mut line = example.as_bytes().to_vec();
            line[place] = byte;
            line
        });
        check(&[between(example, changed)], None, 0);
    }
}

#[test]
fn shapes_are_compared_and_not_their_hashes_alone() {
    // So many that some have the hash of the example, as far as the index looks at it.
    let example = PLAIN.replace("abc", &"a".repeat(200));
    let start = example.find("aaa").unwrap();
    let pairs = (0..200).flat_map(|second| (0..second).map(move |first| (first, second)));
    let changed = pairs.map(|(first, second)| {
        let mut line = example.as_bytes().to_vec();
        (line[start + first], line[start + second]) = (b'"', b'"');
        line
    });
    check(&[between(&example, changed)], None, 0);
}

#[test]
fn declared_fields_may_not_come_twice_or_deep() {
    let twice = PLAIN.replace("\"x\": 2.5", "\"ad\": \"x\"");
    check_taught(&[&twice], &[&twice], 1);
    let nested = PLAIN.replace("2.5", "{\"ad\": 1, \"time\": [\"no\", -0.5e+10]}");
    check_taught(&[&nested], &[&nested.replace("-0", "-7"), &nested], 0);
    let deep = PLAIN.replace("2.5", &format!("{}{}", "[".repeat(9), "]".repeat(9)));
    check_taught(&[&deep], &[&deep], 1);
}

#[test]
fn a_time_has_at_most_16_digits_on_the_fast_path() {
    for (digits, general_lines) in [(1, 0), (8, 0), (9, 0), (16, 0), (17, 1), (19, 1)] {
        for quote in ["", "\""] {
            let time = format!("{quote}{}{quote}", "7".repeat(digits));
            let line = PLAIN.replace("\"1500000000000\"", &time);
            let other = line.replace("77", "98").replace("777", "123").replace("7,", "8,");
            check_taught(&[&line], &[&other], general_lines);
        }
    }
}

#[test]
fn lines_of_all_lengths_have_shapes_up_to_a_kibibyte() {
    for length in (PLAIN.len() + 7..1100).chain([4_000, 70_000]) {
        let pad = length - PLAIN.len() - 7;
        let line = PLAIN.replace("\"x\"", &format!("\"p\":\"{}\",\"x\"", "p".repeat(pad)));
        assert_eq!(line.len(), length);
        let other = line.replace("ppppp", "?!+- ");
        // The last line has no newline after it and is never scanned.
        let mut chunk = taught(&[&line], &[&other, &line]);
        chunk.pop();
        let expected = if length < 1024 { 3 } else { 4 };
        assert_eq!(check(&[chunk], None, 0), expected, "{length}");
    }
}

#[test]
fn a_predicate_may_be_of_any_length() {
    let texts = ["", "v", "view", "sixteen_letters_", "sixteen_letters_17", "ä"];
    let kinds = ["", "v", "w", "view", "sixteen_letters_", "sixteen_letters_17", "ä", "à"];
    let others = ["sixteen_letters_18", "sixteen_letters-17", "sixteen_letters-", "\\u0076"];
    let lines: Vec<String> =
        kinds.iter().chain(&others).map(|kind| PLAIN.replace("view", kind)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for text in texts {
        let chunk = taught(&lines, &lines);
        let general_lines = check(&[chunk], Some(text), 7);
        assert!(general_lines <= 24, "{general_lines} of 36 lines, for {text}");
    }
}

#[test]
fn event_times_are_moved_but_never_over_the_end() {
    let chunk = taught(&[PLAIN], &[PLAIN]);
    check(&[chunk], None, u64::MAX - 1_500_000_000_000);
    let chunk = taught(&[PLAIN], &[PLAIN]);
    check(&[chunk], None, u64::MAX);
}

/// Lines whose shapes are given by the length of a value.
fn of_shapes(shapes: std::ops::Range<usize>) -> Vec<u8> {
    let line = |pad: usize| {
        PLAIN.replace("abc", &"a".repeat(pad % 150)).replace("2.5", &"5".repeat(pad / 150 + 1))
    };
    shapes.flat_map(|pad| format!("{}\n", line(pad)).into_bytes()).collect()
}

#[test]
fn shapes_that_are_not_used_any_more_make_room() {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    // More than there is room for, then others, and again.
    for _ in 0..40 {
        chunks.push(of_shapes(0..300));
    }
    let crowded = check(&chunks, None, 0);
    assert!(crowded < 40 * 300 * 3 / 4, "{crowded} of {} lines", 40 * 300);
    for _ in 0..200 {
        chunks.push(of_shapes(1000..1100));
    }
    let moved = check(&chunks, None, 0) - crowded;
    assert!(moved < 200 * 100 / 4, "{moved} of {} lines", 200 * 100);
}

#[test]
fn a_drought_ends_soon_after_lines_have_shapes_again() {
    let escaped = PLAIN.replace("abc", "a\\u0062");
    let mut chunk = taught(&[PLAIN], &vec![&*escaped; 1000]);
    assert_eq!(check(&[chunk.clone()], None, 0), 1002);
    chunk.extend(taught(&[], &vec![PLAIN; 1000]));
    let general_lines = check(&[chunk], None, 0) - 1002;
    assert!(general_lines <= 256, "{general_lines}");
}

#[test]
fn short_and_long_lines_may_be_mixed() {
    let long = PLAIN.replace("abc", &"long".repeat(200));
    let longer = PLAIN.replace("abc", &"long".repeat(500));
    let mut chunk = Vec::new();
    for index in 0..1000 {
        let line = match index % 17 {
            3 | 4 => &long,
            11 => &longer,
            _ => PLAIN,
        };
        chunk.extend_from_slice(line.as_bytes());
        chunk.push(b'\n');
    }
    let general_lines = check(&[chunk], None, 0);
    assert!(general_lines < 59 + 10, "{general_lines}");
}

#[test]
fn inputs_of_the_benchmark_mean_the_same() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../apps/tests/data/ysb");
    for name in ["plain", "hostile", "disorder", "late"] {
        let bytes = std::fs::read(format!("{folder}/{name}/events.jsonl")).unwrap();
        let text = |bytes: Vec<u8>, from: &str, to: &str| {
            let parts: Vec<&[u8]> = split_by(&bytes, from.as_bytes());
            parts.join(to.as_bytes())
        };
        // Its fields by the names of this record.
        let bytes = text(bytes, "\"ad_id\"", "\"ad\"");
        let bytes = text(bytes, "\"event_type\"", "\"kind\"");
        let bytes = text(bytes, "\"event_time\"", "\"time\"");
        let bytes = text(bytes, "\"ip_address\": \"1.2.3.4\"", "\"count\": 1");
        let general_lines = check(&[bytes], Some("view"), 0);
        match name {
            "hostile" => assert!(general_lines < 2000, "{general_lines}"),
            _ => assert!(general_lines < 100, "{general_lines}"),
        }
    }
}

fn split_by<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at + separator.len() <= bytes.len() {
        if &bytes[at..at + separator.len()] == separator {
            parts.push(&bytes[start..at]);
            at += separator.len();
            start = at;
        } else {
            at += 1;
        }
    }
    parts.push(&bytes[start..]);
    parts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 3000 }))]

    #[test]
    fn chunks_mean_the_same_as_their_lines(
        chunks in lines::any_chunks(),
        keep in prop::sample::select(vec![None, Some("view"), Some("a kind of its own length"), Some("")]),
        shift_ms in prop::sample::select(vec![0, 1000, u64::MAX]),
    ) {
        check(&chunks, keep, shift_ms);
    }

    #[test]
    fn nor_does_it_matter_for_bytes_without_meaning(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..3),
    ) {
        check(&chunks, None, 0);
    }
}
