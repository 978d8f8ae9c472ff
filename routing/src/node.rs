//! What a node says of itself to all others.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::NodeId;

/// Where a node stands in the operator's terms. A node publishes its own and the others use only that.
///
/// As text `region-metro`, such as `eu-fra` or `us-east-nyc`: the first `-` ends the region. Each part has 1 to 32 letters a–z, digits and `_`, the
/// metro `-` as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone {
    /// The larger: a continent or a part of one, "eu". At most 32 bytes.
    pub region: String,
    /// The smaller: what a millisecond or two of round trip hold together, "fra". At most 32 bytes.
    pub metro: String,
}

impl Zone {
    /// Longest region and longest metro, bytes.
    pub const PART_BYTES_MAX: usize = 32;

    /// The zone of nodes that say nothing of theirs: all of them together.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            region: "world".to_owned(),
            metro: "any".to_owned(),
        }
    }

    /// Whether both parts are as they have to be.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let part = |text: &str, dash: bool| {
            let plain = |byte: u8| {
                byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || byte == b'_'
                    || (dash && byte == b'-')
            };
            (1..=Self::PART_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
        };
        part(&self.region, false) && part(&self.metro, true)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.region, self.metro)
    }
}

/// A text that is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no zone (write region-metro, such as \"eu-fra\": letters a-z, digits and _, at most 32 each)"
)]
pub struct ZoneError(String);

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let error = || ZoneError(text.chars().take(80).collect());
        let (region, metro) = text.split_once('-').ok_or_else(error)?;
        let zone = Self {
            region: region.to_owned(),
            metro: metro.to_owned(),
        };
        zone.is_plain().then_some(zone).ok_or_else(error)
    }
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

impl Health {
    /// As tables and JSON have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Degraded => "degraded",
            Self::Ill => "ill",
        }
    }
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
    /// Whether it serves as a shield: it is seen by others, and has no part in what edges do for each other. It only takes work from itself by saying so; what a node may do its certificate says.
    pub is_shield: bool,
    /// Its version, for people.
    pub software: String,
    /// The version of what it publishes.
    pub schema: u32,
    /// How far it has applied purges: opaque here, at most 4 KiB.
    pub purge_marks: Vec<u8>,
}

impl NodeState {
    /// The version of what is published that this code speaks.
    pub const SCHEMA: u32 = 1;

    /// A node that says no more than who it is and where.
    #[must_use]
    pub fn new(id: NodeId, name: impl Into<String>, zone: Zone) -> Self {
        Self {
            id,
            name: name.into(),
            addresses: Vec::new(),
            public_names: Vec::new(),
            public_addresses: Vec::new(),
            zone,
            position: None,
            coordinates: None,
            asn: None,
            load: 0.0,
            capacity: 0,
            health: Health::Well,
            draining: false,
            is_shield: false,
            software: String::new(),
            schema: Self::SCHEMA,
            purge_marks: Vec::new(),
        }
    }
}

impl NodeState {
    /// Whether other edges may leave work to it: it is an edge that serves and stays.
    #[must_use]
    pub fn shares_work(&self) -> bool {
        !self.is_shield && !self.draining && self.health != Health::Ill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_region_and_a_metro() {
        for (text, region, metro) in [("eu-fra", "eu", "fra"), ("us-east-nyc", "us", "east-nyc")] {
            let zone: Zone = text.parse().unwrap();
            assert_eq!((&*zone.region, &*zone.metro), (region, metro));
            assert_eq!(zone.to_string(), text);
        }
        let long = format!("eu-{}", "a".repeat(33));
        for text in [
            "",
            "eu",
            "eu-",
            "-fra",
            "EU-fra",
            "eu fra-x",
            "eu-fr\u{e4}",
            &long,
        ] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
        assert!(Zone::unknown().is_plain());
    }
}
