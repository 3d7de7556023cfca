//! JSON lines: a record declares the fields that it needs, and is built from them in place.

mod decoder;
mod general;
mod record;

pub use decoder::{Chunk, JsonDecoder, Line, Malformed};
pub use record::{Field, FieldKind, Fields, JsonRecord, Keep};
