//! What a record declares: the fields that it needs, and how it is built from them.

use super::general::Value;
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
///     const EVENT_TIME: usize = 1;
///     fn from_fields<'a>(fields: &Fields<'a>) -> Click<'a> {
///         Click { page: fields.text(0), time: fields.unsigned(1) }
///     }
/// }
///
/// let mut decoder = JsonDecoder::<Click<'static>>::new();
/// let Line::Record(click) = decoder.decode(br#"{"time": "12", "page": "/a"}"#) else { panic!() };
/// assert_eq!((click.page, click.time), ("/a", 12));
/// ```
pub trait JsonRecord: Row {
    /// What it needs. A line in which one of them is missing or of another kind is malformed.
    const FIELDS: &'static [Field];

    /// The number of the field, of kind `UnsignedText`, that is its event time in milliseconds.
    const EVENT_TIME: usize;

    /// Builds it; `fields` are numbered as in [`FIELDS`](JsonRecord::FIELDS).
    fn from_fields<'a>(fields: &Fields<'a>) -> Self::Of<'a>;
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
    pub(super) text: &'a str,
    pub(super) values: &'a [Value],
    /// For each field, its text if that is not in the line as it is; none at all if no text is.
    pub(super) unescaped: &'a [String],
    /// The event time and the number of its field, whose value is not looked at.
    pub(super) event_time: (usize, u64),
}

impl<'a> Fields<'a> {
    /// The value of a field of kind `Text`, without its escapes. Panics for one of another kind.
    #[inline]
    pub fn text(&self, field: usize) -> &'a str {
        match self.values[field] {
            Value::InLine { start, end } => &self.text[start..end],
            Value::Unescaped => &self.unescaped[field],
            Value::Missing | Value::WrongKind | Value::Unsigned(_) | Value::Digits { .. } => {
                panic!("field {field} of the record is not declared as text")
            }
        }
    }

    /// The value of a field of kind `UnsignedText`. Panics for one of another kind.
    #[inline]
    pub fn unsigned(&self, field: usize) -> u64 {
        if field == self.event_time.0 {
            return self.event_time.1;
        }
        match self.values[field] {
            Value::Unsigned(value) => value,
            Value::Digits { start, end } => {
                let digits = self.text[start..end].bytes();
                digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
            }
            Value::Missing | Value::WrongKind | Value::InLine { .. } | Value::Unescaped => {
                panic!("field {field} of the record is not declared as a number")
            }
        }
    }
}

/// A predicate on a field of kind `Text`, which the parser applies where it finds the field. It saves
/// the record and everything behind it, never the validation of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    field: usize,
    text: Box<str>,
}

impl Keep {
    /// Keeps the records of type `R` whose field of that name is exactly `text`.
    ///
    /// # Panics
    /// If `R` has no such field of kind `Text`.
    pub fn equal<R: JsonRecord>(field: &str, text: &str) -> Keep {
        let wanted = |declared: &Field| declared.name == field && declared.kind == FieldKind::Text;
        let field = R::FIELDS.iter().position(wanted);
        Keep {
            field: field.expect("a predicate is about a declared text field"),
            text: text.into(),
        }
    }

    /// The number of the field.
    pub fn field(&self) -> usize {
        self.field
    }

    /// What it must be.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it keeps a record.
    #[inline]
    pub(super) fn keeps(&self, fields: &Fields<'_>) -> bool {
        fields.text(self.field) == &*self.text
    }
}
