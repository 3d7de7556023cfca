//! The general path: what a line means is defined by this streaming visitor over serde_json, and a
//! faster decoder must agree with it.
//!
//! The whole line is valid UTF-8 and one JSON object with nothing after it; the last
//! of duplicate keys holds, so a value of the wrong type is forgiven where a right one follows. A
//! value that no field asks for is skipped by serde_json's `IgnoredAny`, which allows any nesting
//! and does not pair surrogates; keys of the object and strings of declared fields must pair them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::decoder::Malformed;
use super::record::{Field, FieldKind, Fields};

/// The last values seen of the declared fields.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) values: Box<[Value]>,
    /// Each holds its value where that is `Unescaped`; else only memory for the next one.
    pub(super) unescaped: Box<[String]>,
}

impl Slots {
    pub(super) fn new(fields: &[Field]) -> Slots {
        Slots {
            values: vec![Value::Missing; fields.len()].into(),
            unescaped: vec![String::new(); fields.len()].into(),
        }
    }

    /// What they hold of the line `text`. The event time is moved.
    ///
    /// # Panics
    /// If field `event_time` is no number.
    #[inline]
    pub(super) fn fields<'a>(
        &'a self,
        text: &'a str,
        event_time: usize,
        shift_ms: u64,
    ) -> Fields<'a> {
        let Value::Unsigned(time) = self.values[event_time] else {
            panic!("field {event_time} of the record, its event time, is not declared as a number");
        };
        Fields {
            text,
            values: &self.values,
            unescaped: &self.unescaped,
            event_time: (event_time, time.saturating_add(shift_ms)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Value {
    #[default]
    Missing,
    WrongKind,
    /// Lies in the line as it is, at these bytes.
    InLine {
        start: usize,
        end: usize,
    },
    Unescaped,
    Unsigned(u64),
    /// At most 16 digits that lie in the line at these bytes. Only lines with a shape have it.
    Digits {
        start: usize,
        end: usize,
    },
}

const UNSIGNED_MAX: u64 = i64::MAX as u64;
/// As many digits as `UNSIGNED_MAX` has; a number of so many digits fits into a u64.
const UNSIGNED_DIGITS: usize = 19;

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Fills the slots from a line that is not blank, or says why it cannot.
pub(super) fn decode<'l>(
    line: &'l [u8],
    fields: &'static [Field],
    slots: &mut Slots,
) -> Result<&'l str, Malformed> {
    let text = std::str::from_utf8(line).map_err(|_| Malformed::NotUtf8)?;
    project(text, fields, slots)?;
    Ok(text)
}

fn project(text: &str, fields: &'static [Field], slots: &mut Slots) -> Result<(), Malformed> {
    slots.values.fill(Value::Missing);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_map(ObjectVisitor { text, fields, slots })
        .and_then(|()| deserializer.end())
        .map_err(|error| match error.classify() {
            // The only thing that this visitor refuses by itself is a value that is no object.
            Category::Data => Malformed::NotAnObject,
            Category::Syntax | Category::Eof | Category::Io => Malformed::NotJson,
        })?;
    for (value, field) in slots.values.iter().zip(fields) {
        match value {
            Value::Missing => return Err(Malformed::Missing(field.name)),
            Value::WrongKind => return Err(Malformed::WrongKind(field.name)),
            Value::InLine { .. } | Value::Unescaped => {}
            Value::Unsigned(_) | Value::Digits { .. } => {}
        }
    }
    Ok(())
}

/// Walks over the keys of the line's object.
struct ObjectVisitor<'s> {
    text: &'s str,
    fields: &'static [Field],
    slots: &'s mut Slots,
}

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(KeySeed { fields: self.fields })? {
            match field {
                Some(index) => map.next_value_seed(SlotSeed {
                    text: self.text,
                    kind: self.fields[index].kind,
                    value: &mut self.slots.values[index],
                    unescaped: &mut self.slots.unescaped[index],
                })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Turns a key into the number of the field of that name.
struct KeySeed {
    fields: &'static [Field],
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Option<usize>, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.fields.iter().position(|field| field.name == key))
    }
}

/// Keeps the value of a declared field, whatever it is.
struct SlotSeed<'s> {
    text: &'s str,
    kind: FieldKind,
    value: &'s mut Value,
    unescaped: &'s mut String,
}

impl SlotSeed<'_> {
    fn keep_unsigned(self, value: Option<u64>) {
        *self.value = match (self.kind, value) {
            (FieldKind::UnsignedText, Some(value)) if value <= UNSIGNED_MAX => {
                Value::Unsigned(value)
            }
            (FieldKind::UnsignedText | FieldKind::Text, _) => Value::WrongKind,
        };
    }

    fn keep_wrong_kind(self) {
        *self.value = Value::WrongKind;
    }
}

impl<'de> DeserializeSeed<'de> for SlotSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SlotSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<(), E> {
        match self.kind {
            FieldKind::Text => {
                // Kept as a place, not as a reference, so that slots outlive the line.
                let start = value.as_ptr().addr() - self.text.as_ptr().addr();
                *self.value = Value::InLine { start, end: start + value.len() };
            }
            FieldKind::UnsignedText => self.keep_unsigned(unsigned_from_digits(value)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.kind {
            FieldKind::Text => {
                self.unescaped.clear();
                self.unescaped.push_str(value);
                *self.value = Value::Unescaped;
            }
            FieldKind::UnsignedText => self.keep_unsigned(unsigned_from_digits(value)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.keep_unsigned(Some(value));
        Ok(())
    }

    /// Only negative numbers arrive here.
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.keep_wrong_kind();
        Ok(())
    }

    /// Fractions, exponents, -0 and integers beyond 64 bits.
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.keep_wrong_kind();
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.keep_wrong_kind();
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.keep_wrong_kind();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        self.keep_wrong_kind();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.keep_wrong_kind();
        Ok(())
    }
}

fn unsigned_from_digits(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0').as_bytes();
    if significant.len() > UNSIGNED_DIGITS {
        return None;
    }
    Some(significant.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}
