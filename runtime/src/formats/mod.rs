//! Formats: how the bytes of a line become a record.

mod json;
#[cfg(test)]
mod tests;

pub use json::{Field, FieldKind, Fields, JsonDecoder, JsonRecord, Line, Malformed};
