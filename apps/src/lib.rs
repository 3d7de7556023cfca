//! Jobs on the public API of Drizzle, each with a plain sequential oracle.

#![forbid(unsafe_code)]

mod costs;
mod flags;
mod launch;
pub mod size;
pub mod sum;
mod timeline;
pub mod ysb;
