//! Jobs on the public API of Drizzle, each with a plain sequential oracle.

#![forbid(unsafe_code)]

pub mod size;
pub mod ysb;
