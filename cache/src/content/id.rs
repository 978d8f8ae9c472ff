//! Names of content: a chunk's keyed hash, the key behind it, and a manifest's root.
//!
//! Chunk names are keyed so that they say nothing to who lacks the cluster's secret: neither which
//! well-known file a node holds, nor, across dedupe domains, that two sites hold the same bytes.

use std::fmt;

/// Domain separation of [`ChunkKey::derive`]. Changing it renames every stored chunk.
const CHUNK_KEY_CONTEXT: &str = "stoq 2026-11-21 chunk id key v1";
/// Domain separation of [`ChunkKey::key_id`].
const KEY_ID_CONTEXT: &str = "stoq 2026-11-21 chunk key id v1";

/// The name of a chunk: BLAKE3 of its bytes under a [`ChunkKey`].
///
/// Equality takes time that depends on the data. That is no leak: an id is public to every holder
/// of the key, and nothing is authorised by knowing one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

/// The name of a manifest: the BLAKE3 root over its pages, profile and length.
///
/// Validators are not part of it: the same bytes under a new `ETag` have the same root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestId([u8; 32]);

macro_rules! id_bytes {
    ($name:ident) => {
        impl $name {
            /// The id with these bytes, for instance from the wire or an index.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// 64 lower-case hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        /// The first eight digits, which is what a log line needs.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                self.0[..4]
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("…)")
            }
        }
    };
}

id_bytes!(ChunkId);
id_bytes!(ManifestId);

/// The key under which the chunks of one dedupe domain are named.
///
/// Two sites share chunks only if they share the domain. 32 bytes; cloning copies them.
#[derive(Clone)]
pub struct ChunkKey([u8; 32]);

/// A public fingerprint of a [`ChunkKey`]: equal ids mean equal chunk names.
///
/// Peers compare it before they speak of chunks, and a store is opened only under the one it was
/// written with. It reveals nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKeyId([u8; 16]);

impl ChunkKey {
    /// The key of the dedupe domain `domain` in the cluster with this secret.
    ///
    /// `domain` is the site's name unless the operator joined sites. The secret has a fixed
    /// length and stands first, so no two pairs give the same key material.
    #[must_use]
    pub fn derive(secret: &[u8; 32], domain: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CHUNK_KEY_CONTEXT);
        hasher.update(secret).update(domain.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The name of a chunk with these bytes.
    #[must_use]
    pub fn id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }

    /// A hasher for a chunk whose bytes arrive in pieces.
    #[must_use]
    pub fn hasher(&self) -> ChunkHasher {
        ChunkHasher(blake3::Hasher::new_keyed(&self.0))
    }

    /// Whether this is the same key.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// The fingerprint peers compare.
    #[must_use]
    pub fn key_id(&self) -> ChunkKeyId {
        let hash = blake3::derive_key(KEY_ID_CONTEXT, &self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        ChunkKeyId(id)
    }
}

/// Shows the fingerprint, never the key.
impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChunkKey").field(&self.key_id()).finish()
    }
}

impl ChunkKeyId {
    /// The fingerprint with these bytes, from the wire or a store's header.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the fingerprint.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ChunkKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkKeyId({self})")
    }
}

/// Names a chunk as its bytes arrive; about 2 KiB of state.
#[derive(Clone)]
pub struct ChunkHasher(blake3::Hasher);

impl ChunkHasher {
    /// Adds bytes; how they are split makes no difference.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The bytes added since the start or the last [`finish`](Self::finish).
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// The name of the bytes added so far; the hasher is then ready for the next chunk.
    #[must_use]
    pub fn finish(&mut self) -> ChunkId {
        let id = ChunkId(*self.0.finalize().as_bytes());
        self.0.reset();
        id
    }
}

impl fmt::Debug for ChunkHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkHasher")
            .field("count", &self.count())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: [u8; 32] = [7; 32];

    #[test]
    fn names_differ_between_domains_and_secrets() {
        let ids = [
            ChunkKey::derive(&SECRET, "a.example").id(b"bytes"),
            ChunkKey::derive(&SECRET, "b.example").id(b"bytes"),
            ChunkKey::derive(&[8; 32], "a.example").id(b"bytes"),
        ];
        assert_ne!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert_ne!(ids[1], ids[2]);
    }

    #[test]
    fn debug_output_never_shows_the_key() {
        let key = ChunkKey::derive(&SECRET, "a.example");
        let hex: String = key.0.iter().map(|b| format!("{b:02x}")).collect();
        assert!(!format!("{key:?}").contains(&hex[..8]));
    }

    // Nodes of different builds must agree on names, so these never change within a version.
    #[test]
    fn names_match_the_golden_vector() {
        let key = ChunkKey::derive(&SECRET, "a.example");
        assert_eq!(key.key_id().to_string(), GOLDEN_KEY_ID);
        assert_eq!(key.id(b"hello").to_string(), GOLDEN_HELLO);
    }
    const GOLDEN_KEY_ID: &str = "8040bee59266bf1fee00ba5702fe478b";
    const GOLDEN_HELLO: &str = "0638fb40f1aca051204705c702b8516644042767075e2e2f537249772208c5de";

    proptest! {
        #[test]
        fn hashing_in_pieces_gives_the_same_name(bytes: Vec<u8>, cut: prop::sample::Index) {
            let key = ChunkKey::derive(&SECRET, "a.example");
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut hasher = key.hasher();
            hasher.update(b"an earlier chunk");
            let _ = hasher.finish();
            hasher.update(head);
            hasher.update(tail);
            prop_assert_eq!(hasher.finish(), key.id(&bytes));
        }
    }
}
