//! Takes a valid line apart: which of its bytes may change without a change of its meaning.
//!
//! These are the bytes of string values, which may be any that need no escape, and the digits of
//! numbers. Keys stay as they are, so a line of the same shape has the same duplicates. The line is
//! known to be valid; what this walk does not expect makes it give up, and the line is not learnt.

use super::general::Value;
use super::record::{Field, FieldKind};
use super::scan::{ByteRange, Sketch};

/// How deep a line may be nested to be worth it.
const MOST_DEPTH: u32 = 8;
/// So many digits fit into two words of 8 bytes.
const MOST_DIGITS: usize = 16;

/// Takes `line` apart, whose declared fields the general path has found to be `known`. `None` for a
/// line that is not worth it: with escapes, with a declared field more than once, with a declared
/// number of more than 16 digits, or nested deeply.
pub(super) fn take_apart(line: &str, fields: &[Field], known: &[Value]) -> Option<Sketch> {
    let line = line.as_bytes();
    if line.contains(&b'\\') {
        return None;
    }
    let ranges = line.iter().map(|byte| ByteRange::only(*byte)).collect();
    let sketch = Sketch { ranges, values: vec![Value::Missing; fields.len()] };
    let mut walk = Walk { line, at: 0, fields, sketch };
    walk.spaces();
    walk.object(0)?;
    let values = walk.sketch.values.iter();
    let agrees = values.zip(known).all(|(value, known)| match (*value, *known) {
        (Value::InLine { .. }, known) => *value == known,
        (Value::Digits { start, end }, Value::Unsigned(number)) => {
            std::str::from_utf8(&line[start..end]).is_ok_and(|text| text.parse() == Ok(number))
        }
        (_, _) => false,
    });
    agrees.then_some(walk.sketch)
}

struct Walk<'l> {
    line: &'l [u8],
    at: usize,
    fields: &'l [Field],
    sketch: Sketch,
}

impl Walk<'_> {
    fn object(&mut self, depth: u32) -> Option<()> {
        self.take(b'{')?;
        self.spaces();
        if self.peek()? == b'}' {
            return self.take(b'}');
        }
        loop {
            self.spaces();
            let (start, end) = self.string()?;
            let key = &self.line[start..end];
            let named = |field: &Field| field.name.as_bytes() == key;
            let declared = self.fields.iter().position(named).filter(|_| depth == 0);
            self.spaces();
            self.take(b':')?;
            self.spaces();
            match declared {
                Some(field) => self.declared(field)?,
                None => self.value(depth + 1)?,
            }
            self.spaces();
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, depth: u32) -> Option<()> {
        self.take(b'[')?;
        self.spaces();
        if self.peek()? == b']' {
            return self.take(b']');
        }
        loop {
            self.spaces();
            self.value(depth + 1)?;
            self.spaces();
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A value that no field asks for.
    fn value(&mut self, depth: u32) -> Option<()> {
        if depth > MOST_DEPTH {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let (start, end) = self.string()?;
                self.sketch.ranges[start..end].fill(ByteRange::ASCII);
                Some(())
            }
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => None,
        }
    }

    /// The value of a declared field, which was none before.
    fn declared(&mut self, field: usize) -> Option<()> {
        if self.sketch.values[field] != Value::Missing {
            return None;
        }
        let is_string = self.peek()? == b'"';
        self.sketch.values[field] = match self.fields[field].kind {
            FieldKind::Text => {
                let (start, end) = self.string()?;
                self.sketch.ranges[start..end].fill(ByteRange::ASCII);
                Value::InLine { start, end }
            }
            FieldKind::UnsignedText => {
                let (start, end) = if is_string {
                    let (start, end) = self.string()?;
                    self.sketch.ranges[start..end].fill(ByteRange::DIGIT);
                    (start, end)
                } else {
                    let start = self.at;
                    self.number()?;
                    (start, self.at)
                };
                let digits = &self.line[start..end];
                let plain = digits.iter().all(u8::is_ascii_digit);
                (plain && (1..=MOST_DIGITS).contains(&digits.len())).then_some(())?;
                Value::Digits { start, end }
            }
        };
        Some(())
    }

    /// What lies between two quotes.
    fn string(&mut self) -> Option<(usize, usize)> {
        self.take(b'"')?;
        let start = self.at;
        let length = self.line[start..].iter().position(|byte| *byte == b'"')?;
        self.at = start + length + 1;
        Some((start, start + length))
    }

    /// All digits may change, but no zero may come to lead.
    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        let start = self.at;
        if self.digits() > 1 {
            self.sketch.ranges[start] = ByteRange::DIGIT_BUT_0;
        }
        while let Some(b'.' | b'e' | b'E' | b'+' | b'-') = self.peek() {
            self.at += 1;
            self.digits();
        }
        (self.at > start).then_some(())
    }

    fn digits(&mut self) -> usize {
        let rest = &self.line[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.sketch.ranges[self.at..self.at + count].fill(ByteRange::DIGIT);
        self.at += count;
        count
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        word.iter().try_for_each(|byte| self.take(*byte))
    }

    fn spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }
}
