//! Who is in the mesh, who holds what, and who is nearest.
//!
//! A core without I/O: what it decides follows from what it is told, time included, so a simulator drives the same code as a node.
//! It knows nothing of HTTP, chunks, certificates or sockets; what it needs of them comes in through small traits
//! ([`Signer`], [`Verifier`]).

pub mod discovery;
mod domains;
mod geo;
pub mod index;
mod latency;
pub mod membership;
mod node;
mod placement;
mod rank;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod space;
mod trust;
mod view;

pub use domains::{Shared, Spread, spread};
pub use geo::{
    BadDatabase, BadGeoFile, Database, Geo, GeoFiles, GeoNews, GeoPaths, Kind, MeasuredZone, Place,
    measure_zone,
};
pub use latency::{BadSample, Geography, Latency, SampleCounts, Source, Vivaldi};
pub use membership::Membership;
pub use node::{Coordinates, Health, NodeState, Position, Zone, ZoneError};
pub use placement::{Bound, HANDOVER_KEYS_MAX, LOAD_MAX, Placement, Placer, handover, rendezvous};
pub use rank::{
    BadPattern, Candidate, Cut, LARGE, NoSuchPolicy, Parts, Policy, Ranking, RateSource, Residency,
    Row, Table, Verdict, Wish, rank,
};
pub use space::{Distance, Key, NodeId};
pub use trust::{Distrust, SIGNATURE_BYTES, Signature, Signer, Verifier};
pub use view::View;
