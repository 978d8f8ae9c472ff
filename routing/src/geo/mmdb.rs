//! Writes small databases in MaxMind's format (version 2.0 of its specification), to test with.

use std::net::IpAddr;

/// A value of the data section.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Map(Vec<(&'static str, Self)>),
    Text(String),
    Double(f64),
    U16(u16),
    U32(u32),
    U64(u64),
    List(Vec<Self>),
}

impl Value {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                head(to, 2, text.len());
                to.extend_from_slice(text.as_bytes());
            }
            Self::Double(value) => {
                head(to, 3, 8);
                to.extend_from_slice(&value.to_be_bytes());
            }
            Self::U16(value) => {
                head(to, 5, 2);
                to.extend_from_slice(&value.to_be_bytes());
            }
            Self::U32(value) => {
                head(to, 6, 4);
                to.extend_from_slice(&value.to_be_bytes());
            }
            Self::U64(value) => {
                head(to, 9, 8);
                to.extend_from_slice(&value.to_be_bytes());
            }
            Self::Map(pairs) => {
                head(to, 7, pairs.len());
                for (key, value) in pairs {
                    Self::Text((*key).to_owned()).write(to);
                    value.write(to);
                }
            }
            Self::List(values) => {
                head(to, 11, values.len());
                values.iter().for_each(|value| value.write(to));
            }
        }
    }
}

/// Type and size: sizes below 285 are all that tests need.
fn head(to: &mut Vec<u8>, kind: u8, size: usize) {
    let (in_head, more) = match u8::try_from(size) {
        Ok(small @ 0..29) => (small, None),
        _ => (29, Some(u8::try_from(size - 29).unwrap())),
    };
    if kind < 8 {
        to.push(kind << 5 | in_head);
    } else {
        to.extend([in_head, kind - 7]);
    }
    to.extend(more);
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Nothing,
    Node(usize),
    /// Where in the data section.
    Record(usize),
}

/// A database to be.
#[derive(Debug)]
pub(super) struct Writer {
    kind: String,
    built: u64,
    nodes: Vec<[Slot; 2]>,
    data: Vec<u8>,
}

impl Writer {
    pub(super) fn new(kind: &str, built: u64) -> Self {
        Self {
            kind: kind.to_owned(),
            built,
            nodes: vec![[Slot::Nothing; 2]],
            data: Vec::new(),
        }
    }

    /// What is known of a network; the networks of one database do not lie in one another.
    pub(super) fn insert(mut self, network: &str, value: &Value) -> Self {
        let network: ipnet::IpNet = network.parse().unwrap();
        // The tree is of IPv6; IPv4 lies below ::/96.
        let (bits, length) = match network.network() {
            IpAddr::V4(address) => (u128::from(u32::from(address)), network.prefix_len() + 96),
            IpAddr::V6(address) => (u128::from(address), network.prefix_len()),
        };
        let record = self.data.len();
        value.write(&mut self.data);
        let mut node = 0;
        for depth in 0..length {
            let bit = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                self.nodes[node][bit] = Slot::Record(record);
                break;
            }
            node = match self.nodes[node][bit] {
                Slot::Node(next) => next,
                Slot::Nothing => {
                    self.nodes.push([Slot::Nothing; 2]);
                    self.nodes[node][bit] = Slot::Node(self.nodes.len() - 1);
                    self.nodes.len() - 1
                }
                Slot::Record(_) => panic!("{network} lies in another network"),
            };
        }
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut file = Vec::new();
        for slot in self.nodes.iter().flatten() {
            let value = match slot {
                Slot::Nothing => count,
                Slot::Node(node) => *node,
                Slot::Record(at) => count + 16 + at,
            };
            assert!(value < 1 << 24, "records of 24 bits");
            file.extend_from_slice(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
        file.extend_from_slice(&[0; 16]);
        file.extend_from_slice(&self.data);
        file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        let text = |text: &str| Value::Text(text.to_owned());
        Value::Map(vec![
            ("binary_format_major_version", Value::U16(2)),
            ("binary_format_minor_version", Value::U16(0)),
            ("build_epoch", Value::U64(self.built)),
            ("database_type", text(&self.kind)),
            ("description", Value::Map(vec![("en", text("for tests"))])),
            ("ip_version", Value::U16(6)),
            ("languages", Value::List(vec![text("en")])),
            ("node_count", Value::U32(u32::try_from(count).unwrap())),
            ("record_size", Value::U16(24)),
        ])
        .write(&mut file);
        file
    }
}

/// A record of a City database.
pub(super) fn city(name: &str, country: &str, latitude: f64, longitude: f64) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    Value::Map(vec![
        (
            "city",
            Value::Map(vec![("names", Value::Map(vec![("en", text(name))]))]),
        ),
        ("continent", Value::Map(vec![("code", text("EU"))])),
        ("country", Value::Map(vec![("iso_code", text(country))])),
        (
            "location",
            Value::Map(vec![
                ("accuracy_radius", Value::U16(20)),
                ("latitude", Value::Double(latitude)),
                ("longitude", Value::Double(longitude)),
            ]),
        ),
    ])
}

/// A record of an ASN database.
pub(super) fn network(number: u32, name: &str) -> Value {
    Value::Map(vec![
        ("autonomous_system_number", Value::U32(number)),
        (
            "autonomous_system_organization",
            Value::Text(name.to_owned()),
        ),
    ])
}

/// A City database with Frankfurt at 192.0.2.0/24 and London at 2001:db8:1::/48.
pub(super) fn places(built: u64) -> Vec<u8> {
    Writer::new("GeoLite2-City", built)
        .insert(
            "192.0.2.0/24",
            &city("Frankfurt am Main", "DE", 50.11, 8.68),
        )
        .insert("2001:db8:1::/48", &city("London", "GB", 51.51, -0.13))
        .finish()
}

/// An ASN database with 64496 at 192.0.2.0/25.
pub(super) fn networks(built: u64) -> Vec<u8> {
    Writer::new("GeoLite2-ASN", built)
        .insert("192.0.2.0/25", &network(64_496, "Example Networks"))
        .finish()
}

#[test]
fn the_files_that_tests_of_other_crates_read_are_these() {
    for (name, bytes) in [("places.mmdb", places(1)), ("networks.mmdb", networks(1))] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(name);
        // STOQ_WRITE_TESTDATA=1 writes them anew.
        if std::env::var_os("STOQ_WRITE_TESTDATA").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}
