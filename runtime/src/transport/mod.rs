//! How messages travel: framed TCP between processes, mailboxes between the cores of one.

mod connection;
mod control;
mod mesh;
#[cfg(test)]
mod tests;

pub use connection::{Closed, Connection};
pub use control::{ControlMessage, Endpoint, LocalLink};
pub use mesh::{Cargo, CoreMail, Mesh, MeshError, MeshPlace, Parcel};
