//! Who is in the mesh, who holds what, and who is nearest.
//!
//! A core without I/O: what it decides follows from what it is told, time included, so a simulator drives the same code as a node.
//! It knows nothing of HTTP, chunks, certificates or sockets; what it needs of them comes in through small traits
//! ([`Signer`], [`Verifier`]).

pub mod index;

mod domains;
mod latency;
mod node;
mod placement;
mod rank;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod space;
mod trust;
mod view;

pub use domains::{Shared, Spread, spread};
pub use latency::{BadSample, Geography, Latency, SampleCounts, Source, Vivaldi};
pub use node::{Coordinates, Health, NodeState, Position, Zone};
pub use placement::{Bound, HANDOVER_KEYS_MAX, LOAD_MAX, Placement, Placer, handover};
pub use rank::{
    BadPattern, Candidate, Cut, LARGE, NoSuchPolicy, Parts, Policy, Ranking, RateSource, Residency,
    Row, Verdict, Wish, rank,
};
pub use space::{Distance, Key, NodeId};
pub use trust::{Distrust, SIGNATURE_BYTES, Signature, Signer, Verifier};
pub use view::View;
