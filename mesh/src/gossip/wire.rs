//! The messages of chitchat 0.11.2 as bytes: read, so that they can be judged before chitchat sees them, and written again without what was refused.
//!
//! ```text
//! message  = magic u16 = 45139, version u8 = 0, type u8, then by type
//!   0 SYN      digest, cluster text
//!   1 SYN-ACK  digest, delta
//!   2 ACK      delta
//!   3 BAD-CLUSTER
//! digest   = count u16, count × (id, heartbeat u64, last_gc_version u64, max_version u64)
//! id       = node text, generation u64, address
//! address  = 4 | 6, that many bytes ×, port u16
//! text     = length u16, UTF-8
//! delta    = block*, 0                     block = 1, length u16, zstd | 2, length u16, bytes
//! blocks   = op*                           joined, ops may lie across two
//!   0 node     id, last_gc_version u64, from_version_excluded u64
//!   1 value    key text, value text, version u64, status u8
//!   2 maximum  max_version u64
//! ```
//!
//! Little-endian. The version is pinned in the workspace's `Cargo.toml`; a test has chitchat itself read what is written here and the other way round.
//! Everything is bounded by the frame it came in, and decompression by [`DELTA_BYTES_MAX`].

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use chitchat::{ChitchatMessage, Deserializable as _};

const MAGIC: u16 = 45_139;
const VERSION: u8 = 0;
/// Bytes of a delta once its blocks are unpacked. What chitchat makes has at most 64 KiB packed.
pub(super) const DELTA_BYTES_MAX: usize = 512 << 10;
/// What a block can hold.
const BLOCK_BYTES_MAX: usize = u16::MAX as usize;
/// What a block that is written here holds.
const BLOCK_BYTES: usize = 16 << 10;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("cut short")]
    Truncated,
    #[error("{0} is not one")]
    Value(&'static str),
    #[error("more than {DELTA_BYTES_MAX} bytes of values")]
    TooLong,
}

/// A process of a node, as chitchat names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) node: String,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
}

impl Id {
    /// Bytes it takes in a digest.
    pub(super) fn digest_bytes(&self) -> usize {
        let ip = match self.addr {
            SocketAddr::V4(_) => 4,
            SocketAddr::V6(_) => 16,
        };
        2 + self.node.len() + 8 + 1 + ip + 2 + 24
    }
}

/// What a digest has of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) heartbeat: u64,
    pub(super) last_gc_version: u64,
    pub(super) max_version: u64,
}

/// A value of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) version: u64,
    pub(super) status: u8,
}

/// What a delta has of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeDelta {
    pub(super) id: Id,
    pub(super) last_gc_version: u64,
    pub(super) from_version_excluded: u64,
    pub(super) values: Vec<Value>,
    /// Said apart from values.
    pub(super) max_version: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Syn {
        digest: Vec<Entry>,
        cluster: String,
    },
    SynAck {
        digest: Vec<Entry>,
        delta: Vec<NodeDelta>,
    },
    Ack {
        delta: Vec<NodeDelta>,
    },
    BadCluster,
}

impl Message {
    /// Reads a whole message.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut rest = Reader(bytes);
        if rest.u16()? != MAGIC {
            return Err(WireError::Value("the magic number"));
        }
        if rest.u8()? != VERSION {
            return Err(WireError::Value("the version"));
        }
        let message = match rest.u8()? {
            0 => Self::Syn {
                digest: rest.digest()?,
                cluster: rest.text()?,
            },
            1 => Self::SynAck {
                digest: rest.digest()?,
                delta: rest.delta()?,
            },
            2 => Self::Ack {
                delta: rest.delta()?,
            },
            3 => Self::BadCluster,
            _ => return Err(WireError::Value("the type")),
        };
        if rest.0.is_empty() {
            Ok(message)
        } else {
            Err(WireError::Value("the end"))
        }
    }

    /// Writes it, without compression.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.push(VERSION);
        match self {
            Self::Syn { digest, cluster } => {
                out.push(0);
                put_digest(&mut out, digest);
                put_text(&mut out, cluster);
            }
            Self::SynAck { digest, delta } => {
                out.push(1);
                put_digest(&mut out, digest);
                put_delta(&mut out, delta);
            }
            Self::Ack { delta } => {
                out.push(2);
                put_delta(&mut out, delta);
            }
            Self::BadCluster => out.push(3),
        }
        out
    }

    pub(super) fn digest_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match self {
            Self::Syn { digest, .. } | Self::SynAck { digest, .. } => Some(digest),
            Self::Ack { .. } | Self::BadCluster => None,
        }
    }

    pub(super) fn delta_mut(&mut self) -> Option<&mut Vec<NodeDelta>> {
        match self {
            Self::SynAck { delta, .. } | Self::Ack { delta } => Some(delta),
            Self::Syn { .. } | Self::BadCluster => None,
        }
    }
}

/// For the fuzz targets: reads a message and writes it again, as the gate does with one of which it refuses nothing. Panics where chitchat would
/// not read that, unless it says what the gate would have left out.
///
/// # Errors
/// It is none, in words.
#[doc(hidden)]
pub fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut message = Message::read(bytes).map_err(|error| error.to_string())?;
    let written = message.write();
    let mut seen = HashSet::new();
    let is_sound = |node: &NodeDelta| {
        let versions = node.values.iter().map(|value| value.version);
        let versions = std::iter::once(0).chain(versions);
        seen.insert(node.id.clone())
            && versions.is_sorted_by(|one, next| one < next)
            && node.values.iter().all(|value| value.status == 0)
    };
    let delta = message.delta_mut().map_or(&[][..], |delta| delta);
    if delta.iter().all(is_sound) {
        let theirs = ChitchatMessage::deserialize(&mut &written[..]);
        assert!(theirs.is_ok(), "{theirs:?}");
    }
    Ok(written)
}

/// What was read is of that length already, and nothing is written that was not read.
fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length(text.len()));
    out.extend_from_slice(text.as_bytes());
}

fn put_id(out: &mut Vec<u8>, id: &Id) {
    put_text(out, &id.node);
    out.extend_from_slice(&id.generation.to_le_bytes());
    match id.addr.ip() {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
    out.extend_from_slice(&id.addr.port().to_le_bytes());
}

fn put_digest(out: &mut Vec<u8>, digest: &[Entry]) {
    out.extend_from_slice(&length(digest.len()));
    for entry in digest {
        put_id(out, &entry.id);
        for number in [entry.heartbeat, entry.last_gc_version, entry.max_version] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

fn put_delta(out: &mut Vec<u8>, delta: &[NodeDelta]) {
    let mut ops = Vec::new();
    for node in delta {
        ops.push(0);
        put_id(&mut ops, &node.id);
        ops.extend_from_slice(&node.last_gc_version.to_le_bytes());
        ops.extend_from_slice(&node.from_version_excluded.to_le_bytes());
        for value in &node.values {
            ops.push(1);
            put_text(&mut ops, &value.key);
            put_text(&mut ops, &value.value);
            ops.extend_from_slice(&value.version.to_le_bytes());
            ops.push(value.status);
        }
        if let Some(max_version) = node.max_version {
            ops.push(2);
            ops.extend_from_slice(&max_version.to_le_bytes());
        }
    }
    for block in ops.chunks(BLOCK_BYTES) {
        out.push(2);
        out.extend_from_slice(&length(block.len()));
        out.extend_from_slice(block);
    }
    out.push(0);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, WireError> {
        let length = usize::from(self.u16()?);
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::Value("a text"))?;
        Ok(text.to_owned())
    }

    fn id(&mut self) -> Result<Id, WireError> {
        let (node, generation) = (self.text()?, self.u64()?);
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(WireError::Value("an address")),
        };
        Ok(Id {
            node,
            generation,
            addr: SocketAddr::new(ip, self.u16()?),
        })
    }

    fn digest(&mut self) -> Result<Vec<Entry>, WireError> {
        let count = self.u16()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry {
                id: self.id()?,
                heartbeat: self.u64()?,
                last_gc_version: self.u64()?,
                max_version: self.u64()?,
            });
        }
        Ok(entries)
    }

    fn delta(&mut self) -> Result<Vec<NodeDelta>, WireError> {
        let ops = self.blocks()?;
        let mut ops = Reader(&ops);
        let mut nodes: Vec<NodeDelta> = Vec::new();
        while !ops.0.is_empty() {
            match ops.u8()? {
                0 => nodes.push(NodeDelta {
                    id: ops.id()?,
                    last_gc_version: ops.u64()?,
                    from_version_excluded: ops.u64()?,
                    values: Vec::new(),
                    max_version: None,
                }),
                1 => {
                    let value = Value {
                        key: ops.text()?,
                        value: ops.text()?,
                        version: ops.u64()?,
                        status: ops.u8()?,
                    };
                    let node = nodes
                        .last_mut()
                        .ok_or(WireError::Value("a value's place"))?;
                    node.values.push(value);
                }
                2 => {
                    let max_version = ops.u64()?;
                    let node = nodes
                        .last_mut()
                        .ok_or(WireError::Value("a maximum's place"))?;
                    node.max_version = Some(max_version);
                }
                _ => return Err(WireError::Value("an operation")),
            }
        }
        Ok(nodes)
    }

    fn blocks(&mut self) -> Result<Vec<u8>, WireError> {
        let mut joined = Vec::new();
        loop {
            match self.u8()? {
                0 => return Ok(joined),
                1 => {
                    let length = usize::from(self.u16()?);
                    let block = zstd::bulk::decompress(self.take(length)?, BLOCK_BYTES_MAX)
                        .map_err(|_| WireError::Value("a packed block"))?;
                    joined.extend_from_slice(&block);
                }
                2 => {
                    let length = usize::from(self.u16()?);
                    joined.extend_from_slice(self.take(length)?);
                }
                _ => return Err(WireError::Value("a block")),
            }
            if joined.len() > DELTA_BYTES_MAX {
                return Err(WireError::TooLong);
            }
        }
    }
}
