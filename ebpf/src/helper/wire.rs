//! What the edge and its helper say to each other.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket: JSON of at most [`MESSAGE_BYTES_MAX`] bytes,
//! `{"v":1,"id":7,"body":…}`. The edge asks, the helper answers each request once, with the request's `id`, in order.
//! The first request is [`Request::Mandate`]; a second is refused. Types refuse fields and variants they do not know, so
//! two builds that differ do not misunderstand each other; `v` makes that a plain sentence.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    abi::{Event, Reason},
    counters::Counters,
    policy::{Policy, RuleEdit},
    probe::{Finding, Mode, Report},
};

/// The version of all that stands here.
const VERSION: u32 = 1;
/// The largest message. The largest honest one is [`EDITS_MAX`] rules of IPv6, some 90 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Rules in one request.
pub const EDITS_MAX: usize = 1024;
/// Sources in one request.
pub const SOURCES_MAX: usize = 1024;
/// Sampled events in one answer.
pub const EVENTS_MAX: usize = 256;
/// Interfaces, and ports, of a mandate.
const MANDATE_MAX: usize = 64;

/// What the helper may be asked for, told to it once, before the edge reads anything from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mandate {
    /// Interfaces that the program may be attached to, at most 64.
    pub interfaces: BTreeSet<String>,
    /// Ports that a policy may name and sockets may be bound to, at most 64. Port 0 is none.
    pub ports: BTreeSet<u16>,
    /// A directory on a BPF file system, `/sys/fs/bpf/stoq` say, where a program is handed over and taken over; none:
    /// nothing is.
    pub pins: Option<PathBuf>,
}

impl Mandate {
    pub(super) fn is_bounded(&self) -> bool {
        self.interfaces.len() <= MANDATE_MAX && self.ports.len() <= MANDATE_MAX
    }
}

/// Which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Streams; the socket is bound, and does not listen yet.
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) enum Request {
    Mandate(Mandate),
    Probe {
        interface: String,
        wish: Mode,
    },
    Enable {
        interface: String,
        wish: Mode,
        policy: Box<Policy>,
        rules: Vec<RuleEdit>,
        /// Taken back after so many milliseconds unless confirmed; none: confirmed before.
        trial_ms: Option<u64>,
    },
    Confirm {},
    Disable {},
    Apply(Box<Policy>),
    EditRules(Vec<RuleEdit>),
    Beat {
        shed: u32,
    },
    Validate {
        sources: Vec<IpAddr>,
        for_ms: u64,
    },
    /// Sources with the times until which they count, of the machine's monotonic clock.
    CarryOver(Vec<(u64, u64)>),
    Counters {},
    Events {},
    Status {},
    HandOver {
        for_ms: u64,
    },
    Bind {
        protocol: Protocol,
        address: SocketAddr,
        /// Several sockets share the port, one for each worker.
        shared: bool,
        /// An IPv6 socket that takes no IPv4.
        only_v6: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) enum Answer {
    Done {},
    Probed(Box<Report>),
    Enabled(Held),
    Validated {
        refused: usize,
    },
    Counters(Box<Counters>),
    Events(Vec<Sample>),
    Status(Status),
    /// The socket comes along.
    Bound {},
    Refused(Refusal),
}

/// A program that is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The interface.
    pub interface: String,
    /// Where packets are judged.
    pub mode: Mode,
    /// The interface's driver, where there is one to name.
    pub driver: Option<String>,
    /// The program's number in the kernel.
    pub program: u32,
    /// Why a better mode is not had; empty where it is.
    pub passed_over: Vec<Finding>,
}

/// What the helper holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The program, where one is attached.
    pub held: Option<Held>,
    /// Milliseconds left to confirm; none where nothing waits for it.
    pub trial_left_ms: Option<u64>,
    /// The last program was taken back because nobody confirmed it.
    pub rolled_back: bool,
    /// Somebody else took the program off the interface.
    pub lost: bool,
    /// Another process took the program over.
    pub handed_over: bool,
}

/// One packet of many, for the operator's eye.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The [`Reason`]'s word.
    pub reason: String,
    /// Bytes of the whole frame.
    pub frame_bytes: u32,
    /// Where it says it comes from. Port 0 where it ended before it.
    pub source: SocketAddr,
    /// Its destination port.
    pub port: u16,
    /// It came over TCP.
    pub tcp: bool,
    /// To be dropped, but this is a dry run.
    pub spared: bool,
}

impl From<Event> for Sample {
    fn from(event: Event) -> Self {
        /// `IPPROTO_TCP`.
        const TCP: u8 = 6;
        Self {
            at_ns: event.at_ns,
            reason: Reason::from_number(event.reason)
                .map_or("unknown", Reason::word)
                .to_owned(),
            frame_bytes: event.frame_bytes,
            source: SocketAddr::new(event.source(), event.source_port),
            port: event.port,
            tcp: event.protocol == TCP,
            spared: event.spared != 0,
        }
    }
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The request cannot be understood.
    Malformed,
    /// The request is for what the mandate does not have.
    Mandate,
    /// The request comes at the wrong time: something is enabled already, or the mandate was given before.
    Order,
    /// Nothing is enabled, or nothing any more: it was taken back, handed over, or somebody took it away.
    NotEnabled,
    /// The machine does not do it.
    Machine,
}

/// A request that was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{text}")]
pub struct Refusal {
    /// Whose fault.
    pub why: Why,
    /// What is wrong, with the fix where there is one.
    pub text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    v: u32,
    id: u64,
    body: T,
}

/// Why a message was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message of {bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken")]
    Long { bytes: usize },
    #[error("a message of version {version}, this program speaks {VERSION}")]
    Version { version: u32 },
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

pub(super) fn encode<T: Serialize>(id: u64, body: T) -> Result<Vec<u8>, WireError> {
    let bytes = serde_json::to_vec(&Envelope {
        v: VERSION,
        id,
        body,
    })?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::Long { bytes: bytes.len() });
    }
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u64, T), WireError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::Long { bytes: bytes.len() });
    }
    match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(Envelope {
            v: VERSION,
            id,
            body,
        }) => Ok((id, body)),
        Ok(Envelope { v: version, .. }) => Err(WireError::Version { version }),
        Err(error) => Err(match version_of(bytes) {
            Some(version) if version != VERSION => WireError::Version { version },
            _ => WireError::Malformed(error),
        }),
    }
}

/// For the fuzz targets: reads a message of either side and says it again.
///
/// # Errors
/// It is none, in words.
#[doc(hidden)]
pub fn reread(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let _ = id_of(bytes);
    let said = match decode::<Request>(bytes) {
        Ok((id, request)) => encode(id, request),
        Err(_) => {
            let (id, answer) = decode::<Answer>(bytes).map_err(|error| error.to_string())?;
            encode(id, answer)
        }
    };
    said.map_err(|error| error.to_string())
}

/// The version that a message says it has, whatever else it says.
fn version_of(bytes: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Only {
        v: u32,
    }
    Some(serde_json::from_slice::<Only>(bytes).ok()?.v)
}

/// The number of the request that a message is, whatever else it says; for the answer that it was not understood.
pub(super) fn id_of(bytes: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Only {
        id: u64,
    }
    serde_json::from_slice::<Only>(bytes).map_or(0, |only| only.id)
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.held, self.trial_left_ms) {
            (None, _) if self.rolled_back => f.write_str("off: nobody confirmed it"),
            (None, _) if self.handed_over => f.write_str("off: handed over"),
            (None, _) if self.lost => f.write_str("off: somebody took the program away"),
            (None, _) => f.write_str("off"),
            (Some(held), None) => write!(f, "{} on {}", held.mode, held.interface),
            (Some(held), Some(left)) => write!(
                f,
                "{} on {}, taken back in {} s unless confirmed",
                held.mode,
                held.interface,
                left.div_ceil(1000)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Treatment;

    fn requests() -> Vec<Request> {
        let wide: RuleEdit = (
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128"
                .parse()
                .unwrap(),
            Some(Treatment::Profile(255)),
        );
        vec![
            Request::Mandate(Mandate {
                interfaces: ["eth0".to_owned()].into(),
                ports: [443].into(),
                pins: Some("/sys/fs/bpf/stoq".into()),
            }),
            Request::Probe {
                interface: "eth0".to_owned(),
                wish: Mode::Native,
            },
            Request::Enable {
                interface: "eth0".to_owned(),
                wish: Mode::Generic,
                policy: Box::new(Policy {
                    hash_key: [u64::MAX; 2],
                    cid_keys: (0..4).map(|generation| (generation, [255; 16])).collect(),
                    ..Policy::default()
                }),
                rules: vec![wide; EDITS_MAX],
                trial_ms: Some(60_000),
            },
            Request::Confirm {},
            Request::Disable {},
            Request::EditRules(vec![wide; EDITS_MAX]),
            Request::Beat { shed: 65_536 },
            Request::Validate {
                sources: vec![
                    "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
                    SOURCES_MAX
                ],
                for_ms: u64::MAX,
            },
            Request::Counters {},
            Request::Events {},
            Request::Status {},
            Request::HandOver { for_ms: 1 },
            Request::Bind {
                protocol: Protocol::Udp,
                address: "[::]:443".parse().unwrap(),
                shared: true,
                only_v6: false,
            },
        ]
    }

    #[test]
    fn the_largest_honest_requests_fit_and_come_back_as_they_were() {
        for request in requests() {
            let bytes = encode(7, &request).unwrap();
            assert_eq!(decode::<Request>(&bytes).unwrap(), (7, request));
        }
    }

    #[test]
    fn the_largest_honest_answer_fits() {
        let sample = Sample {
            at_ns: u64::MAX,
            reason: "pass_retransmission".to_owned(),
            frame_bytes: u32::MAX,
            source: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
                .parse()
                .unwrap(),
            port: 65_535,
            tcp: false,
            spared: false,
        };
        encode(u64::MAX, Answer::Events(vec![sample; EVENTS_MAX])).unwrap();
    }

    #[test]
    fn another_version_is_said_to_be_one() {
        let text = br#"{"v":2,"id":9,"body":{"shake-hands":{}}}"#;
        let error = decode::<Request>(text).unwrap_err();
        assert!(matches!(error, WireError::Version { version: 2 }));
        assert_eq!(id_of(text), 9);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            r#"{"v":1,"id":1,"body":{"beat":{"shed":1,"more":2}}}"#,
            r#"{"v":1,"id":1,"body":{"beat":{"shed":-1}}}"#,
            r#"{"v":1,"id":1,"body":{"exec":"sh"}}"#,
            r#"{"v":1,"id":1,"body":{"beat":{}}}"#,
            r#"{"v":1,"id":1,"body":{"beat":{"shed":1}},"more":1}"#,
            r#"{"v":1,"id":1,"body":{"bind":{"protocol":"raw","address":"0.0.0.0:1","shared":false,"only_v6":false}}}"#,
            "",
        ] {
            assert!(decode::<Request>(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(MESSAGE_BYTES_MAX);
        assert!(decode::<Request>(deep.as_bytes()).is_err());
        let long = " ".repeat(MESSAGE_BYTES_MAX + 1);
        assert!(matches!(
            decode::<Request>(long.as_bytes()),
            Err(WireError::Long { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
            let _ = id_of(&bytes);
        }

        #[test]
        fn no_damaged_request_makes_the_decoder_panic(which in 0_usize..13, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(1, &requests()[which]).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode::<Request>(&bytes);
        }
    }
}
