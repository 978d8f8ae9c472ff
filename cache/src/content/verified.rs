//! A chunk that was checked, as a type: who has one need not hash it again.

use std::fmt;

use bytes::Bytes;

use super::id::{ChunkId, ChunkKey};

/// Bytes that were found to be those of a chunk's name. Only [`ChunkKey::verify`] makes one.
#[derive(Clone)]
pub struct VerifiedChunk {
    id: ChunkId,
    bytes: Bytes,
    under: ChunkKey,
}

impl ChunkKey {
    /// `bytes` as the chunk called `id`, if that is their name under this key. One pass over them.
    ///
    /// The caller owns them in a buffer of their size, since they may be kept.
    #[must_use]
    pub fn verify(&self, id: ChunkId, bytes: Bytes) -> Option<VerifiedChunk> {
        (self.id(&bytes) == id).then(|| VerifiedChunk {
            id,
            bytes,
            under: self.clone(),
        })
    }
}

impl VerifiedChunk {
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> ChunkId {
        self.id
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether it was verified under this key, and not under that of another dedupe domain.
    #[must_use]
    pub fn is_under(&self, key: &ChunkKey) -> bool {
        self.under.is(key)
    }
}

impl fmt::Debug for VerifiedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedChunk")
            .field("id", &self.id)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl PartialEq for VerifiedChunk {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.under.is(&other.under)
    }
}

impl Eq for VerifiedChunk {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_of_the_name_verify_and_only_under_their_key() {
        let key = ChunkKey::derive(&[7; 32], "a.example");
        let other = ChunkKey::derive(&[7; 32], "b.example");
        let bytes = Bytes::from_static(b"bytes");
        let chunk = key.verify(key.id(&bytes), bytes.clone()).unwrap();
        assert!(chunk.is_under(&key) && !chunk.is_under(&other));
        assert_eq!(chunk.bytes(), &bytes);
        assert_eq!(key.verify(other.id(&bytes), bytes), None);
    }
}
