//! Rust text as the rules see it: code apart from comments and literals, tests apart from the rest,
//! functions with their lengths. Reads what rustfmt writes; it is no parser.

use std::ops::Range;

/// One module's text, taken apart.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    /// The text with each byte of comments, strings and chars blanked; offsets and lines agree.
    pub(super) code: String,
    line_starts: Vec<usize>,
    tests: Vec<Range<usize>>,
}

/// A function that has a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
    pub(super) offset: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Source<'a> {
        let code = blank(text);
        let mut line_starts = vec![0];
        line_starts.extend(text.match_indices('\n').map(|(offset, _)| offset + 1));
        let tests = test_regions(&code);
        Source { text, code, line_starts, tests }
    }

    /// The line of a byte, counted from one.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Whether the byte belongs to an item that exists only for tests.
    pub(super) fn in_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|region| region.contains(&offset))
    }

    /// The number of lines that do not belong to tests.
    pub(super) fn lines_without_tests(&self) -> usize {
        let tests = self.tests.iter().map(|region| self.line_span(region)).sum::<usize>();
        self.text.lines().count().saturating_sub(tests)
    }

    /// Where `word` stands in the code, not inside a longer identifier.
    pub(super) fn find(&self, word: &str) -> Vec<usize> {
        find_word(&self.code, word)
    }

    /// The functions that have bodies, nested ones included.
    pub(super) fn functions(&self) -> Vec<Function> {
        self.find("fn").into_iter().filter_map(|offset| self.function(offset)).collect()
    }

    /// The names of modules that are declared for tests only: `#[cfg(test)] mod name;`.
    pub(super) fn test_modules(&self) -> Vec<&str> {
        let declared = self.tests.iter().filter_map(|region| {
            let (_, item) = self.code[region.clone()].rsplit_once("mod ")?;
            item.trim_end().strip_suffix(';')
        });
        declared.map(str::trim).filter(|name| name.chars().all(is_identifier)).collect()
    }

    fn function(&self, offset: usize) -> Option<Function> {
        let rest = self.code[offset + "fn".len()..].trim_start();
        let name: String = rest.chars().take_while(|c| is_identifier(*c)).collect();
        if name.is_empty() {
            return None; // a type such as `fn(u64)`
        }
        let body = item_end(&self.code, offset)?;
        if self.code.as_bytes()[body.end - 1] == b';' {
            return None; // a signature in a trait
        }
        let lines = self.line_span(&(offset..body.end));
        Some(Function { name, line: self.line(offset), lines, offset })
    }

    fn line_span(&self, region: &Range<usize>) -> usize {
        self.line(region.end - 1) + 1 - self.line(region.start)
    }
}

/// Where `word` stands in `text`, not inside a longer identifier.
pub(super) fn find_word(text: &str, word: &str) -> Vec<usize> {
    let joins = |inside: Option<char>, outside: Option<char>| {
        inside.is_some_and(is_identifier) && outside.is_some_and(is_identifier)
    };
    let found = text.match_indices(word).map(|(offset, _)| offset).filter(|offset| {
        let before = text[..*offset].chars().next_back();
        let after = text[offset + word.len()..].chars().next();
        !joins(word.chars().next(), before) && !joins(word.chars().next_back(), after)
    });
    found.collect()
}

pub(super) fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// From `start` to the end of the item that begins there: its `;`, or the brace that closes its body.
fn item_end(code: &str, start: usize) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    let mut in_body = false;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => {
                in_body |= byte == b'{' && depth == 0;
                depth += 1;
            }
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && in_body {
                    return Some(start..at + 1);
                }
            }
            b';' if depth == 0 => return Some(start..at + 1),
            _ => {}
        }
    }
    None
}

/// The items behind `#[test]` and behind a `#[cfg(...)]` that asks for tests.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let mut regions: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[") {
        if regions.last().is_some_and(|region| region.contains(&start)) {
            continue;
        }
        let line = code[start..].lines().next().unwrap_or_default();
        let condition = line.strip_prefix("#[cfg(").unwrap_or_default();
        let for_tests = !find_word(condition, "test").is_empty() && !condition.contains("not(test");
        if line.starts_with("#[test]") || for_tests {
            regions.extend(item_end(code, start));
        }
    }
    regions
}

/// Replaces comments, strings and chars by blanks, byte by byte; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let Some(end) = blanked_end(text, at) else {
            at += 1;
            continue;
        };
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn blanked_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text.as_bytes()[at..];
    let in_word = at > 0 && is_identifier(char::from(text.as_bytes()[at - 1]));
    let length = match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_length(rest),
        [b'"', ..] => string_length(rest),
        [b'r', b'"' | b'#', ..] if !in_word || prefixed(text, at) => raw_string_length(rest)?,
        [b'\'', ..] => char_length(&text[at..])?,
        _ => return None,
    };
    Some(at + length)
}

/// Whether the `r` at `at` belongs to a literal such as `br"..."`.
fn prefixed(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev();
    matches!(before.next(), Some('b' | 'c')) && !before.next().is_some_and(is_identifier)
}

fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// None for a raw identifier such as `r#type`.
fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = 2 + hashes;
    let found = rest[body..].windows(close.len()).position(|window| window == close);
    Some(found.map_or(rest.len(), |position| body + position + close.len()))
}

/// None for a lifetime or a label.
fn char_length(rest: &str) -> Option<usize> {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        characters.next()?; // the escaped character, which may be a quote
        let (end, _) = characters.find(|(_, c)| *c == '\'')?;
        return Some(end + 1);
    }
    match characters.next()? {
        (end, '\'') => Some(end + 1),
        _ => None,
    }
}
