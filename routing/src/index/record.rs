//! What is said of who holds what: records, and what answers carry.

use std::net::SocketAddr;

use crate::{Key, NodeId};

/// Providers in one answer. Who needs more asks again later.
pub const PROVIDERS_MAX: usize = 16;

/// Nodes in one answer that are closer to the key.
pub const CLOSER_MAX: usize = 8;

/// Addresses of one node in an answer, as many as a node publishes.
pub const ADDRESSES_MAX: usize = 8;

/// Buckets that a holder's records at an owner fall into, each with a digest of its own.
pub const BUCKETS: usize = 256;

/// What a holder says of one object it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The object.
    pub key: Key,
    /// Which version of it.
    pub manifest: [u8; 32],
    /// How much of it, in 255ths, rounded down but never to nothing: 255 is all of it.
    pub fraction: u8,
    /// Counts up with each change of the holder's word, across objects: about the unix milliseconds of the change.
    pub generation: u64,
}

/// The [`Record::fraction`] of an object that is held whole.
pub const WHOLE: u8 = 255;

impl Record {
    /// What the record adds to its bucket's digest. Digests are sums, so records come and go in any order; zero is an empty bucket.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("stoq-routing index record digest v1");
        hasher.update(&self.key.0);
        hasher.update(&self.manifest);
        hasher.update(&[self.fraction]);
        hasher.update(&self.generation.to_be_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }
}

/// The bucket a key's records are in: its last byte. Its first bits would not do, since those the keys of one owner share.
#[must_use]
pub fn bucket(key: &Key) -> u8 {
    let [.., last] = key.0;
    last
}

/// Digests of all buckets.
pub type Digests = [u64; BUCKETS];

/// One number for all buckets: equal where they are, whatever the number of records.
#[must_use]
pub fn root(digests: &Digests) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("stoq-routing index root digest v1");
    for digest in digests {
        hasher.update(&digest.to_be_bytes());
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// A node and where it may be reached, as another node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The node. Who connects holds it to its certificate, so a wrong address costs a failed connection and no more.
    pub id: NodeId,
    /// Where it takes connections from other nodes; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
}

/// A node that holds an object, as an owner of its key says. A hint: what is fetched from it is verified as anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The node that holds it.
    pub holder: NodeId,
    /// Where to reach it, for a seeker that may not see it; empty where the view has it. At most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Which version it holds.
    pub manifest: [u8; 32],
    /// How much of it, in 255ths.
    pub fraction: u8,
    /// The greater of two of the same holder is the newer.
    pub generation: u64,
}

/// What a node that is asked for a key's providers answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Who holds it; at most [`PROVIDERS_MAX`].
    pub providers: Vec<Provider>,
    /// Nodes closer to the key than the one that answers, where the seeker asked for them; at most [`CLOSER_MAX`].
    pub closer: Vec<Contact>,
}

/// Which objects are announced: large ones, for which a fetch from far hurts, and those that were asked for again. Small ones are placed, not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worth {
    /// Bytes from which on an object is announced at once; default 1 MiB.
    pub bytes_min: u64,
    /// Hits from which on any object is; default 2.
    pub hits_min: u64,
}

impl Default for Worth {
    fn default() -> Self {
        Self {
            bytes_min: 1 << 20,
            hits_min: 2,
        }
    }
}

impl Worth {
    /// Whether an object of so many bytes (None: not known yet) that was hit so often is announced.
    #[must_use]
    pub fn announces(&self, bytes: Option<u64>, hits: u64) -> bool {
        bytes.is_some_and(|bytes| bytes >= self.bytes_min) || hits >= self.hits_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_digest_depends_on_all_of_it() {
        let record = Record {
            key: Key([1; 32]),
            manifest: [2; 32],
            fraction: WHOLE,
            generation: 7,
        };
        let others = [
            Record {
                key: Key([3; 32]),
                ..record
            },
            Record {
                manifest: [3; 32],
                ..record
            },
            Record {
                fraction: 1,
                ..record
            },
            Record {
                generation: 8,
                ..record
            },
        ];
        for other in others {
            assert_ne!(other.digest(), record.digest(), "{other:?}");
        }
    }

    #[test]
    fn large_objects_and_those_hit_twice_are_announced() {
        let worth = Worth::default();
        for (bytes, hits, expected) in [
            (Some(1 << 20), 0, true),
            (Some((1 << 20) - 1), 1, false),
            (Some(1), 2, true),
            (None, 1, false),
            (None, 2, true),
        ] {
            assert_eq!(worth.announces(bytes, hits), expected, "{bytes:?} {hits}");
        }
    }
}
