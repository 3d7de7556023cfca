//! How messages travel: framed TCP between processes, with shared memory for the bodies of blocks
//! within a host; mailboxes between the cores of one.

mod connection;
mod control;
mod mesh;
mod sharing;
#[cfg(test)]
mod tests;

pub use connection::{Closed, Connection, is_within_host};
pub use control::{ControlMessage, Endpoint, LocalLink};
pub use mesh::{Cargo, CoreMail, Mesh, MeshError, MeshPlace, Parcel, StateParcel};
pub use sharing::{Loan, Rendezvous, RendezvousName, Sharing, meet, permit_descriptors};
