//! Formats: how the bytes of a line become a record.

mod json;
#[cfg(test)]
mod tests;

pub use json::{
    Chunk, Field, FieldKind, Fields, InstructionSet, JsonDecoder, JsonRecord, Keep, Line, Malformed,
};
