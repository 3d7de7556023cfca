//! Chunks of JSON lines mean the same as their lines one by one. The first byte says how the others
//! are used: as lines, which are decoded three times, so that the second time teaches their shapes;
//! or as an example, which is learnt, and changes to it.

#![no_main]

#[path = "../../../runtime/tests/json/compare.rs"]
mod compare;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let keep = [None, Some("view"), Some(""), Some("a kind of its own length")];
    let keep = keep[usize::from(choice & 3)];
    let shift_ms = if choice & 4 == 0 { 0 } else { u64::MAX - 1_500_000_000_000 };
    let chunk = if choice & 8 == 0 { three_times(bytes) } else { changed(bytes) };
    let chunks = match choice & 16 {
        0 => vec![chunk],
        _ => halves(&chunk),
    };
    compare::check(&chunks, keep, shift_ms);
});

fn three_times(lines: &[u8]) -> Vec<u8> {
    [lines, lines, lines].join(&b'\n')
}

/// The example, up to the first newline, twice; then it with bytes replaced or inserted, as each four
/// of the bytes behind it say.
fn changed(bytes: &[u8]) -> Vec<u8> {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let example = parts.next().unwrap_or_default();
    let mut chunk = [example, example, b""].join(&b'\n');
    let mut line = example.to_vec();
    for change in parts.next().unwrap_or_default().chunks_exact(4) {
        let [low, high, how, byte] = [change[0], change[1], change[2], change[3]];
        let place = usize::from(u16::from_le_bytes([low, high])) % (line.len() + 1);
        if how & 1 == 0 {
            line.clear();
            line.extend_from_slice(example);
        }
        let place = place.min(line.len());
        match line.get_mut(place) {
            Some(old) if how & 2 == 0 => *old = byte,
            Some(_) | None => line.insert(place, byte),
        }
        chunk.extend_from_slice(&line);
        chunk.push(b'\n');
    }
    chunk
}

/// Two chunks, cut after a newline.
fn halves(chunk: &[u8]) -> Vec<Vec<u8>> {
    let middle = chunk.len() / 2;
    let newline = chunk[middle..].iter().position(|byte| *byte == b'\n');
    let (first, second) = chunk.split_at(newline.map_or(chunk.len(), |at| middle + at + 1));
    vec![first.to_vec(), second.to_vec()]
}
