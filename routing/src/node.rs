//! What a node says of itself to all others.

use std::net::{IpAddr, SocketAddr};

use crate::NodeId;

/// Where a node stands in the operator's terms. A node publishes its own and the others use only that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone {
    /// The larger: a continent or a part of one, "eu". At most 32 bytes.
    pub region: String,
    /// The smaller: what a millisecond or two of round trip hold together, "fra". At most 32 bytes.
    pub metro: String,
}

/// A place on the globe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
}

/// Vivaldi coordinates (Dabek et al. 2004): the round trip between two nodes is about the distance of their vectors plus both heights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates {
    /// Milliseconds along each axis.
    pub vector: [f64; 3],
    /// Milliseconds of the way to the network's core and back.
    pub height: f64,
    /// How wrong estimates from these are, relatively: 0 for never, 1 and above for not to be trusted.
    pub error: f64,
}

/// How a node is, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// It serves.
    #[default]
    Well,
    /// It serves, but something of it does not work (a disk that is off, say): asked last.
    Degraded,
    /// It does not serve.
    Ill,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Its identity.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where it takes connections from other nodes, in the order it prefers; at most 8.
    pub addresses: Vec<SocketAddr>,
    /// Host names clients reach it under; at most 8.
    pub public_names: Vec<String>,
    /// Addresses clients reach it at; at most 8.
    pub public_addresses: Vec<IpAddr>,
    /// Where it stands.
    pub zone: Zone,
    /// Where it is on the globe, where it knows that.
    pub position: Option<Position>,
    /// Where it is by round trips, once it has measured some.
    pub coordinates: Option<Coordinates>,
    /// The number of the network it is in, where it knows that: a domain of failure.
    pub asn: Option<u32>,
    /// The part of its capacity that is taken, 0 to 1.
    pub load: f64,
    /// Bytes a second that it can give to others.
    pub capacity: u64,
    /// How it is.
    pub health: Health,
    /// Whether it is being emptied: nothing new is asked of it.
    pub draining: bool,
    /// Its version, for people.
    pub software: String,
    /// The version of what it publishes.
    pub schema: u32,
    /// How far it has applied purges: opaque here, at most 4 KiB.
    pub purge_marks: Vec<u8>,
}
