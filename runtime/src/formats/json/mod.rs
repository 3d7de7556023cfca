//! JSON lines: a record declares the fields that it needs, and is built from them in place.

mod decoder;
mod general;
mod learn;
mod record;
mod scan;
mod table;

pub use decoder::{Chunk, JsonDecoder, Line, Malformed};
pub use record::{Field, FieldKind, Fields, JsonRecord, Keep};
pub use scan::InstructionSet;
