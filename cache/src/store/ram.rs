//! The tier in memory, as the store sees it.

use std::fmt::Debug;

use bytes::Bytes;

use crate::content::ChunkId;

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The chunk is in the tier, or was at once judged less worth keeping than what is there.
    Stored,
    /// The tier held the chunk already; nothing changed. This is a dedupe.
    Present,
    /// The chunk is larger than the tier can ever hold; nothing changed.
    TooLarge,
}

/// Chunks in memory, by name, within a bound.
///
/// The trait is what the choice of an eviction policy may not change. `bytes_used` never exceeds
/// `capacity`, seen from any thread at any time; both include the tier's own bookkeeping.
pub trait RamTier: Send + Sync + Debug {
    /// The chunk, and a use of it in the policy's eyes. No copy.
    fn get(&self, id: &ChunkId) -> Option<Bytes>;

    /// Takes the chunk, evicting others as needed. The bytes are verified by the caller and own
    /// their buffer.
    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted;

    /// Whether the chunk is held; no use of it in the policy's eyes.
    fn contains(&self, id: &ChunkId) -> bool;

    /// Bytes accounted for: chunks and their share of the bookkeeping.
    fn bytes_used(&self) -> u64;

    /// The most bytes that are ever accounted for.
    fn capacity(&self) -> u64;

    /// Chunks held.
    fn len(&self) -> usize;

    /// Whether no chunk is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chunks evicted to make room, since the start.
    fn evicted(&self) -> u64;

    /// Keeps a held chunk from eviction until as many calls of [`unpin`](Self::unpin) follow.
    ///
    /// `false` and no pin where the chunk is not held, the pinned chunks take all they may, a quarter of the capacity, or the tier cannot pin, which is
    /// the default.
    fn pin(&self, id: &ChunkId) -> bool {
        let _ = id;
        false
    }

    /// Takes back one pin. Without effect on a chunk that has none.
    fn unpin(&self, id: &ChunkId) {
        let _ = id;
    }

    /// Bytes of pinned chunks, their bookkeeping included.
    fn bytes_pinned(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
