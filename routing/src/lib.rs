//! Who is in the mesh, who holds what, and who is nearest.
//!
//! A core without I/O: what it decides follows from what it is told, time included, so a simulator drives the same code as a node.
//! It knows nothing of HTTP, chunks, certificates or sockets; what it needs of them comes in through small traits
//! ([`Signer`], [`Verifier`]).

pub mod index;

mod node;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod space;
mod trust;
mod view;

pub use node::{Coordinates, Health, NodeState, Position, Zone};
pub use space::{Distance, Key, NodeId};
pub use trust::{Distrust, SIGNATURE_BYTES, Signature, Signer, Verifier};
pub use view::View;
