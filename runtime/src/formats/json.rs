//! JSON lines: a record declares the fields that it needs, and is built from them in place.
//!
//! What a line means is defined by this streaming visitor over serde_json; a faster decoder must
//! agree with it. The whole line is valid UTF-8 and one JSON object with nothing after it; the last
//! of duplicate keys holds, so a value of the wrong type is forgiven where a right one follows. A
//! value that no field asks for is skipped by serde_json's `IgnoredAny`, which allows any nesting
//! and does not pair surrogates; keys of the object and strings of declared fields must pair them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::dataflow::Row;

/// A record that is made from fields of a JSON object.
///
/// ```
/// use drizzle::dataflow::Row;
/// use drizzle::formats::{Field, FieldKind, Fields, JsonDecoder, JsonRecord, Line};
///
/// struct Click<'a> { page: &'a str, time: u64 }
/// impl Row for Click<'static> { type Of<'a> = Click<'a>; }
/// impl JsonRecord for Click<'static> {
///     const FIELDS: &'static [Field] = &[
///         Field { name: "page", kind: FieldKind::Text },
///         Field { name: "time", kind: FieldKind::UnsignedText },
///     ];
///     fn from_fields<'a>(fields: &Fields<'a>) -> Click<'a> {
///         Click { page: fields.text(0), time: fields.unsigned(1) }
///     }
///     fn event_time(record: &Click<'_>) -> u64 { record.time }
/// }
///
/// let mut decoder = JsonDecoder::<Click<'static>>::new();
/// let Line::Record(click) = decoder.decode(br#"{"time": "12", "page": "/a"}"#) else { panic!() };
/// assert_eq!((click.page, click.time), ("/a", 12));
/// ```
pub trait JsonRecord: Row {
    /// What it needs. A line in which one of them is missing or of another kind is malformed.
    const FIELDS: &'static [Field];

    /// Builds it; `fields` are numbered as in [`FIELDS`](JsonRecord::FIELDS).
    fn from_fields<'a>(fields: &Fields<'a>) -> Self::Of<'a>;

    /// Its event time in milliseconds.
    fn event_time(record: &Self::Of<'_>) -> u64;
}

/// A field that a record needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its key in the object.
    pub name: &'static str,
    /// What its value must be.
    pub kind: FieldKind,
}

/// What the value of a field must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A string.
    Text,
    /// A non-negative integer of at most 2^63 - 1: a number, or a string of ASCII digits.
    UnsignedText,
}

/// The values of a record's fields, all there and all of the right kind.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    text: &'a str,
    slots: &'a [Slot],
}

impl<'a> Fields<'a> {
    /// The value of a field of kind `Text`, without its escapes. Panics for one of another kind.
    #[inline]
    pub fn text(&self, field: usize) -> &'a str {
        let slot = &self.slots[field];
        match slot.value {
            Value::InLine { start, end } => &self.text[start..end],
            Value::Unescaped => &slot.unescaped,
            Value::Missing | Value::WrongKind | Value::Unsigned(_) => {
                panic!("field {field} of the record is not declared as text")
            }
        }
    }

    /// The value of a field of kind `UnsignedText`. Panics for one of another kind.
    #[inline]
    pub fn unsigned(&self, field: usize) -> u64 {
        match self.slots[field].value {
            Value::Unsigned(value) => value,
            Value::Missing | Value::WrongKind | Value::InLine { .. } | Value::Unescaped => {
                panic!("field {field} of the record is not declared as a number")
            }
        }
    }
}

/// What a line turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<T> {
    /// JSON white space only, or nothing.
    Blank,
    /// No valid record.
    Malformed(Malformed),
    /// A record.
    Record(T),
}

/// Why a line is no valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not valid UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// The text is not valid JSON, or something follows the object.
    #[error("not valid JSON")]
    NotJson,
    /// The text begins another JSON value than an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A declared field is not there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A declared field is of another kind or out of range.
    #[error("field {0} is of the wrong kind")]
    WrongKind(&'static str),
}

/// Decodes lines one by one. It keeps its memory from line to line.
#[derive(Debug)]
pub struct JsonDecoder<R> {
    slots: Vec<Slot>,
    record: PhantomData<fn() -> R>,
}

impl<R: JsonRecord> JsonDecoder<R> {
    /// A decoder for records of type `R`.
    #[expect(clippy::new_without_default, reason = "a decoder is made in one way, by name")]
    pub fn new() -> JsonDecoder<R> {
        let slots = R::FIELDS.iter().map(|_| Slot::default()).collect();
        JsonDecoder { slots, record: PhantomData }
    }

    /// Decodes a line, given without the newline that ends it.
    #[inline]
    pub fn decode<'a>(&'a mut self, line: &'a [u8]) -> Line<R::Of<'a>> {
        if is_blank(line) {
            return Line::Blank;
        }
        let Ok(text) = std::str::from_utf8(line) else {
            return Line::Malformed(Malformed::NotUtf8);
        };
        if let Err(reason) = project(text, R::FIELDS, &mut self.slots) {
            return Line::Malformed(reason);
        }
        Line::Record(R::from_fields(&Fields { text, slots: &self.slots }))
    }
}

/// The last value seen of one declared field.
#[derive(Debug, Default)]
struct Slot {
    value: Value,
    /// Holds the value where it is `Unescaped`; else only memory for the next one.
    unescaped: String,
}

#[derive(Clone, Copy, Debug, Default)]
enum Value {
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
}

const UNSIGNED_MAX: u64 = i64::MAX as u64;
/// As many digits as `UNSIGNED_MAX` has; a number of so many digits fits into a u64.
const UNSIGNED_DIGITS: usize = 19;

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Fills one slot per field from the object in `text`, or says why it cannot.
fn project(text: &str, fields: &'static [Field], slots: &mut [Slot]) -> Result<(), Malformed> {
    for slot in &mut *slots {
        slot.value = Value::Missing;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_map(ObjectVisitor { text, fields, slots })
        .and_then(|()| deserializer.end())
        .map_err(|error| match error.classify() {
            // The only thing that this visitor refuses by itself is a value that is no object.
            Category::Data => Malformed::NotAnObject,
            Category::Syntax | Category::Eof | Category::Io => Malformed::NotJson,
        })?;
    for (slot, field) in slots.iter().zip(fields) {
        match slot.value {
            Value::Missing => return Err(Malformed::Missing(field.name)),
            Value::WrongKind => return Err(Malformed::WrongKind(field.name)),
            Value::InLine { .. } | Value::Unescaped | Value::Unsigned(_) => {}
        }
    }
    Ok(())
}

/// Walks over the keys of the line's object.
struct ObjectVisitor<'s> {
    text: &'s str,
    fields: &'static [Field],
    slots: &'s mut [Slot],
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
                    slot: &mut self.slots[index],
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
    slot: &'s mut Slot,
}

impl SlotSeed<'_> {
    fn keep_unsigned(self, value: Option<u64>) {
        self.slot.value = match (self.kind, value) {
            (FieldKind::UnsignedText, Some(value)) if value <= UNSIGNED_MAX => {
                Value::Unsigned(value)
            }
            (FieldKind::UnsignedText | FieldKind::Text, _) => Value::WrongKind,
        };
    }

    fn keep_wrong_kind(self) {
        self.slot.value = Value::WrongKind;
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
                self.slot.value = Value::InLine { start, end: start + value.len() };
            }
            FieldKind::UnsignedText => self.keep_unsigned(unsigned_from_digits(value)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.kind {
            FieldKind::Text => {
                self.slot.unescaped.clear();
                self.slot.unescaped.push_str(value);
                self.slot.value = Value::Unescaped;
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
