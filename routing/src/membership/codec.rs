//! What a node says of itself, as bytes.
//!
//! ```text
//! state  = field*            tags strictly ascending
//! field  = tag u8, length u16, that many bytes
//! ```
//!
//! Numbers are big-endian. A field whose tag is unknown is passed over, so a later version may say more; one that is absent has its default, but for `id`, `name`
//! and `zone`, which must be there. What is read comes from the network: every length is bounded before anything is kept of it, and a number that
//! is not one (NaN), or beyond what it can mean, is refused.
//!
//! Numbers that need no more are rounded: load to 1/10,000, degrees to a millionth, milliseconds to what an `f32` holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::node::{Coordinates, Health, NodeState, Position, Zone};
use crate::space::NodeId;

/// Longest encoded state: 8 KiB, of which purge marks may be half.
pub const STATE_BYTES_MAX: usize = 8 << 10;
/// Longest name, and longest text that names the software, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most addresses, public addresses and public names, each.
pub const PLACES_MAX: usize = 8;
/// Longest public name, bytes (RFC 1035 §2.3.4 less the dots around it).
pub const PUBLIC_NAME_BYTES_MAX: usize = 253;
/// Longest purge marks, bytes.
pub const PURGE_MARKS_BYTES_MAX: usize = 4 << 10;
/// Milliseconds beyond which a coordinate, a height or an error means nothing.
const COORDINATE_MAX: f64 = 60_000.0;

const LOAD_ONE: f64 = 10_000.0;
const DEGREE: f64 = 1_000_000.0;

/// Why bytes are no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// They end within a field, or a field within its content.
    #[error("cut short")]
    Truncated,
    /// More than is allowed.
    #[error("{what}: {got}, at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many, or how long.
        got: usize,
        /// The bound.
        max: usize,
    },
    /// Fields out of order, or one twice.
    #[error("field {0} stands where it may not")]
    Order(u8),
    /// A field that must be there is not.
    #[error("no {0}")]
    Missing(&'static str),
    /// A field's content cannot be.
    #[error("{0} is not one")]
    Value(&'static str),
}

mod tag {
    pub(super) const ID: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const ADDRESSES: u8 = 3;
    pub(super) const PUBLIC_NAMES: u8 = 4;
    pub(super) const PUBLIC_ADDRESSES: u8 = 5;
    pub(super) const ZONE: u8 = 6;
    pub(super) const POSITION: u8 = 7;
    pub(super) const COORDINATES: u8 = 8;
    pub(super) const ASN: u8 = 9;
    pub(super) const LOAD: u8 = 10;
    pub(super) const CAPACITY: u8 = 11;
    pub(super) const HEALTH: u8 = 12;
    pub(super) const DRAINING: u8 = 13;
    pub(super) const SOFTWARE: u8 = 14;
    pub(super) const SCHEMA: u8 = 15;
    pub(super) const PURGE_MARKS: u8 = 16;
    pub(super) const SHIELD: u8 = 17;
}

/// Writes a state.
///
/// # Errors
/// It says more than is allowed, or what is no number: nobody would read it.
pub fn encode(state: &NodeState) -> Result<Vec<u8>, StateError> {
    let mut out = Vec::with_capacity(256);
    let mut field = |tag: u8, bytes: &[u8]| -> Result<(), StateError> {
        let length = u16::try_from(bytes.len()).map_err(|_| StateError::TooMany {
            what: "bytes of a field",
            got: bytes.len(),
            max: usize::from(u16::MAX),
        })?;
        out.push(tag);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bytes);
        Ok(())
    };
    field(tag::ID, &state.id.0)?;
    field(tag::NAME, state.name.as_bytes())?;
    if !state.addresses.is_empty() {
        let mut bytes = Vec::new();
        for addr in &state.addresses {
            put_ip(&mut bytes, addr.ip());
            bytes.extend_from_slice(&addr.port().to_be_bytes());
        }
        field(tag::ADDRESSES, &bytes)?;
    }
    if !state.public_names.is_empty() {
        let mut bytes = Vec::new();
        for name in &state.public_names {
            put_text(&mut bytes, name)?;
        }
        field(tag::PUBLIC_NAMES, &bytes)?;
    }
    if !state.public_addresses.is_empty() {
        let mut bytes = Vec::new();
        for ip in &state.public_addresses {
            put_ip(&mut bytes, *ip);
        }
        field(tag::PUBLIC_ADDRESSES, &bytes)?;
    }
    let mut zone = Vec::new();
    put_text(&mut zone, &state.zone.region)?;
    put_text(&mut zone, &state.zone.metro)?;
    field(tag::ZONE, &zone)?;
    if let Some(position) = state.position {
        let latitude = micro_degrees(position.latitude, 90.0)?;
        let longitude = micro_degrees(position.longitude, 180.0)?;
        field(
            tag::POSITION,
            &[latitude.to_be_bytes(), longitude.to_be_bytes()].concat(),
        )?;
    }
    if let Some(coordinates) = state.coordinates {
        let Coordinates {
            vector: [x, y, z],
            height,
            error,
        } = coordinates;
        let mut bytes = Vec::with_capacity(20);
        for number in [x, y, z, height, error] {
            bytes.extend_from_slice(&milliseconds(number)?.to_be_bytes());
        }
        field(tag::COORDINATES, &bytes)?;
    }
    if let Some(asn) = state.asn {
        field(tag::ASN, &asn.to_be_bytes())?;
    }
    if !(0.0..=1.0).contains(&state.load) {
        return Err(StateError::Value("load"));
    }
    field(tag::LOAD, &part(state.load).to_be_bytes())?;
    field(tag::CAPACITY, &state.capacity.to_be_bytes())?;
    let health = match state.health {
        Health::Well => 0u8,
        Health::Degraded => 1,
        Health::Ill => 2,
    };
    field(tag::HEALTH, &[health])?;
    if state.draining {
        field(tag::DRAINING, &[])?;
    }
    field(tag::SOFTWARE, state.software.as_bytes())?;
    field(tag::SCHEMA, &state.schema.to_be_bytes())?;
    if !state.purge_marks.is_empty() {
        field(tag::PURGE_MARKS, &state.purge_marks)?;
    }
    if state.is_shield {
        field(tag::SHIELD, &[])?;
    }
    // What it allows is stated once, by who reads.
    decode(&out)?;
    Ok(out)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 1 was asked for before, so the product is 0 to 10,000"
)]
fn part(load: f64) -> u16 {
    (load * LOAD_ONE).round() as u16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "at most 180,000,000, which an i32 holds"
)]
fn micro_degrees(degrees: f64, max: f64) -> Result<i32, StateError> {
    if !(-max..=max).contains(&degrees) {
        return Err(StateError::Value("position"));
    }
    Ok((degrees * DEGREE).round() as i32)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a coordinate needs no more than an f32 holds"
)]
fn milliseconds(number: f64) -> Result<f32, StateError> {
    if !(-COORDINATE_MAX..=COORDINATE_MAX).contains(&number) {
        return Err(StateError::Value("coordinates"));
    }
    Ok(number as f32)
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), StateError> {
    let length = u8::try_from(text.len()).map_err(|_| StateError::TooMany {
        what: "bytes of a name",
        got: text.len(),
        max: PUBLIC_NAME_BYTES_MAX,
    })?;
    out.push(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Whose state it is, without a look at the rest: the first field.
pub(super) fn id(bytes: &[u8]) -> Result<NodeId, StateError> {
    let mut rest = Reader(bytes);
    if (rest.byte()?, rest.number_u16()?) != (tag::ID, 32) {
        return Err(StateError::Missing("id"));
    }
    Ok(NodeId(rest.array()?))
}

/// Reads a state.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<NodeState, StateError> {
    at_most("bytes of a state", bytes.len(), STATE_BYTES_MAX)?;
    let mut rest = Reader(bytes);
    let mut last = 0;
    let (mut id, mut name, mut zone) = (None, None, None);
    let mut state = NodeState::new(NodeId([0; 32]), String::new(), Zone::unknown());
    state.schema = 0;
    while !rest.0.is_empty() {
        let tag = rest.byte()?;
        let length = usize::from(rest.number_u16()?);
        let mut field = Reader(rest.take(length)?);
        if tag <= last {
            return Err(StateError::Order(tag));
        }
        last = tag;
        match tag {
            tag::ID => id = Some(NodeId(field.array()?)),
            tag::NAME => name = Some(field.text("name")?),
            tag::ADDRESSES => {
                state.addresses = field.places("addresses", |field| {
                    let ip = field.ip()?;
                    Ok(SocketAddr::new(ip, field.number_u16()?))
                })?;
                let usable = |addr: &SocketAddr| addr.port() != 0 && !addr.ip().is_unspecified();
                if !state.addresses.iter().all(usable) {
                    return Err(StateError::Value("an address"));
                }
            }
            tag::PUBLIC_NAMES => {
                state.public_names = field.places("public names", Reader::host)?;
            }
            tag::PUBLIC_ADDRESSES => {
                state.public_addresses = field.places("public addresses", Reader::ip)?;
            }
            tag::ZONE => {
                let (region, metro) = (field.short_text()?, field.short_text()?);
                let found = Zone { region, metro };
                if !found.is_plain() {
                    return Err(StateError::Value("zone"));
                }
                zone = Some(found);
            }
            tag::POSITION => state.position = Some(field.position()?),
            tag::COORDINATES => state.coordinates = Some(field.coordinates()?),
            tag::ASN => state.asn = Some(u32::from_be_bytes(field.array()?)),
            tag::LOAD => {
                state.load = f64::from(field.number_u16()?) / LOAD_ONE;
                if state.load > 1.0 {
                    return Err(StateError::Value("load"));
                }
            }
            tag::CAPACITY => state.capacity = u64::from_be_bytes(field.array()?),
            tag::HEALTH => {
                state.health = match field.byte()? {
                    0 => Health::Well,
                    1 => Health::Degraded,
                    // A later version may know worse.
                    _ => Health::Ill,
                }
            }
            tag::DRAINING => state.draining = true,
            tag::SHIELD => state.is_shield = true,
            tag::SOFTWARE => state.software = field.text("software")?,
            tag::SCHEMA => state.schema = u32::from_be_bytes(field.array()?),
            tag::PURGE_MARKS => {
                at_most("bytes of purge marks", field.0.len(), PURGE_MARKS_BYTES_MAX)?;
                state.purge_marks = field.0.to_vec();
                field.0 = &[];
            }
            _ => field.0 = &[],
        }
        if !field.0.is_empty() {
            return Err(StateError::TooMany {
                what: "bytes after a field's content",
                got: field.0.len(),
                max: 0,
            });
        }
    }
    state.id = id.ok_or(StateError::Missing("id"))?;
    state.name = name.ok_or(StateError::Missing("name"))?;
    state.zone = zone.ok_or(StateError::Missing("zone"))?;
    Ok(state)
}

fn at_most(what: &'static str, got: usize, max: usize) -> Result<(), StateError> {
    if got > max {
        return Err(StateError::TooMany { what, got, max });
    }
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(StateError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(StateError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, StateError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn number_u16(&mut self) -> Result<u16, StateError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// The rest, visible ASCII and spaces: it is shown to people.
    fn text(&mut self, what: &'static str) -> Result<String, StateError> {
        let bytes = std::mem::take(&mut self.0);
        at_most("bytes of a name", bytes.len(), NAME_BYTES_MAX)?;
        shown(bytes).ok_or(StateError::Value(what))
    }

    fn short_text(&mut self) -> Result<String, StateError> {
        let length = usize::from(self.byte()?);
        shown(self.take(length)?).ok_or(StateError::Value("a name"))
    }

    fn host(&mut self) -> Result<String, StateError> {
        let host = self.short_text()?;
        at_most("bytes of a name", host.len(), PUBLIC_NAME_BYTES_MAX)?;
        if host.is_empty() || host.contains(' ') {
            return Err(StateError::Value("a public name"));
        }
        Ok(host)
    }

    fn ip(&mut self) -> Result<IpAddr, StateError> {
        match self.byte()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(StateError::Value("an address")),
        }
    }

    fn places<T>(
        &mut self,
        what: &'static str,
        mut next: impl FnMut(&mut Self) -> Result<T, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let mut found = Vec::new();
        while !self.0.is_empty() {
            at_most(what, found.len() + 1, PLACES_MAX)?;
            found.push(next(self)?);
        }
        Ok(found)
    }

    fn position(&mut self) -> Result<Position, StateError> {
        let mut degrees = |max: f64| {
            let degrees = f64::from(i32::from_be_bytes(self.array()?)) / DEGREE;
            if degrees.abs() > max {
                return Err(StateError::Value("position"));
            }
            Ok(degrees)
        };
        Ok(Position {
            latitude: degrees(90.0)?,
            longitude: degrees(180.0)?,
        })
    }

    fn coordinates(&mut self) -> Result<Coordinates, StateError> {
        let mut number = || {
            let number = f64::from(f32::from_be_bytes(self.array()?));
            // No comparison holds of NaN.
            if !(-COORDINATE_MAX..=COORDINATE_MAX).contains(&number) {
                return Err(StateError::Value("coordinates"));
            }
            Ok(number)
        };
        let coordinates = Coordinates {
            vector: [number()?, number()?, number()?],
            height: number()?,
            error: number()?,
        };
        if coordinates.height < 0.0 || coordinates.error < 0.0 {
            return Err(StateError::Value("coordinates"));
        }
        Ok(coordinates)
    }
}

fn shown(bytes: &[u8]) -> Option<String> {
    let plain = bytes
        .iter()
        .all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let text = std::str::from_utf8(bytes).ok()?;
    plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_state()(
            id in any::<[u8; 32]>(),
            (name, software) in ("[a-z0-9.-]{1,64}", "[ -~]{0,64}"),
            addresses in prop::collection::vec((any::<IpAddr>(), 1u16..), 0..=PLACES_MAX),
            public_names in prop::collection::vec("[a-z0-9.-]{1,253}", 0..=PLACES_MAX),
            public_addresses in prop::collection::vec(any::<IpAddr>(), 0..=PLACES_MAX),
            (region, metro) in ("[a-z0-9_]{1,32}", "[a-z0-9_-]{1,32}"),
            position in prop::option::of((-90_000_000i32..=90_000_000, -180_000_000i32..=180_000_000)),
            coordinates in prop::option::of((prop::array::uniform3(-60_000f32..60_000.0), 0f32..60_000.0, 0f32..10.0)),
            (asn, load, capacity) in (any::<Option<u32>>(), 0u16..=10_000, any::<u64>()),
            (health, draining, is_shield, schema) in (0u8..3, any::<bool>(), any::<bool>(), any::<u32>()),
            purge_marks in prop::collection::vec(any::<u8>(), 0..300),
        ) -> NodeState {
            NodeState {
                id: NodeId(id),
                name,
                addresses: addresses
                    .into_iter()
                    .filter(|(ip, _)| !ip.is_unspecified())
                    .map(SocketAddr::from)
                    .collect(),
                public_names,
                public_addresses,
                zone: Zone { region, metro },
                position: position.map(|(latitude, longitude)| Position {
                    latitude: f64::from(latitude) / DEGREE,
                    longitude: f64::from(longitude) / DEGREE,
                }),
                coordinates: coordinates.map(|(vector, height, error)| Coordinates {
                    vector: vector.map(f64::from),
                    height: f64::from(height),
                    error: f64::from(error),
                }),
                asn,
                load: f64::from(load) / LOAD_ONE,
                capacity,
                health: [Health::Well, Health::Degraded, Health::Ill][usize::from(health)],
                draining,
                is_shield,
                software,
                schema,
                purge_marks,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(state in any_state()) {
            prop_assert_eq!(decode(&encode(&state).unwrap()), Ok(state));
        }

        #[test]
        fn bytes_from_anybody_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_changed_state_is_read_or_refused_and_a_cut_one_is_never_whole(
            state in any_state(), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let whole = encode(&state).unwrap();
            let at = at.index(whole.len());
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            if let Ok(read) = decode(&changed) {
                prop_assert!(encode(&read).is_ok());
            }
            prop_assert_ne!(decode(&whole[..at]), Ok(state));
        }
    }

    fn plain() -> NodeState {
        NodeState::new(NodeId([7; 32]), "n", Zone::unknown())
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let mut bytes = encode(&plain()).unwrap();
        bytes.extend([200, 0, 3, 1, 2, 3]);
        assert_eq!(decode(&bytes), Ok(plain()));
        bytes.extend([200, 0, 0]);
        assert_eq!(decode(&bytes), Err(StateError::Order(200)));
    }

    #[test]
    fn what_cannot_be_is_neither_written_nor_read() {
        let wrong = |change: fn(&mut NodeState)| {
            let mut state = plain();
            change(&mut state);
            assert!(encode(&state).is_err(), "{state:?}");
        };
        wrong(|state| state.load = f64::NAN);
        wrong(|state| state.load = 1.1);
        wrong(|state| state.name = "\u{1b}[2J".to_owned());
        wrong(|state| state.name = "x".repeat(65));
        wrong(|state| state.zone.region = "eu-west".to_owned());
        wrong(|state| state.addresses = vec!["0.0.0.0:1".parse().unwrap()]);
        wrong(|state| state.addresses = vec!["10.0.0.1:0".parse().unwrap()]);
        wrong(|state| state.addresses = vec!["10.0.0.1:1".parse().unwrap(); 9]);
        wrong(|state| state.purge_marks = vec![0; 4097]);
        wrong(|state| {
            state.position = Some(Position {
                latitude: 91.0,
                longitude: 0.0,
            });
        });
        wrong(|state| {
            state.coordinates = Some(Coordinates {
                vector: [0.0, f64::INFINITY, 0.0],
                height: 1.0,
                error: 1.0,
            });
        });
    }

    #[test]
    fn the_largest_state_fits() {
        let mut state = plain();
        state.name = "n".repeat(NAME_BYTES_MAX);
        state.software = "s".repeat(NAME_BYTES_MAX);
        state.addresses = vec!["[2001:db8::1]:7443".parse().unwrap(); PLACES_MAX];
        state.public_names = vec!["p".repeat(PUBLIC_NAME_BYTES_MAX); PLACES_MAX];
        state.public_addresses = vec!["2001:db8::1".parse().unwrap(); PLACES_MAX];
        state.purge_marks = vec![1; PURGE_MARKS_BYTES_MAX];
        assert_eq!(decode(&encode(&state).unwrap()), Ok(state));
    }
}
