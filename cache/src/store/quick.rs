//! The tier in memory over `quick_cache`: S3-FIFO-like eviction, sharded, bounded in bytes.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};
use smallvec::SmallVec;

use super::ram::{Inserted, RamTier};
use crate::content::ChunkId;

/// What a held chunk costs beside its bytes, at most:
///
/// | bytes | for |
/// |---|---|
/// | 160 | slot: key 32, `Bytes` 32, state and links 16; twice that, as the slots' vector doubles |
/// | 12 | hash table: 5 bytes, at worst 7/16 full |
/// | 32 | the allocation that shares a buffer once it was cloned |
/// | 32 | allocator headers and rounding of the two |
///
/// and 20 in hand. 1.6 % of a 16 KiB chunk.
pub(super) const ENTRY_OVERHEAD_BYTES: u64 = 256;

/// What a key costs that is remembered after its chunk was evicted: its slot and table entry.
const GHOST_BYTES: u64 = 172;
/// The tier plans for chunks of this size; smaller ones only mean that fewer evicted keys, in
/// proportion, are remembered.
const PLANNED_CHUNK_BYTES: u64 = 16 * 1024;
/// Evicted keys remembered, for each chunk planned for.
const GHOSTS_PER_CHUNK: f64 = 0.5;
/// A shard is not smaller than this, so that the largest chunk is a small part of one.
const SHARD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// More shards than this gain nothing on the machines a node runs on.
const SHARDS_MAX: u64 = 64;

/// A [`RamTier`] whose eviction resists scans: a chunk read once does not push out one read often.
///
/// The bound: chunk bytes plus 256 for each never exceed the capacity less
/// the room for remembered keys (1/192 of it), in any shard at any time. Room is made before a
/// chunk goes in. Chunks that readers still hold when they are evicted live until they let go;
/// that is the readers' bound, not this one.
///
/// The account is of what is held now; slots that many small chunks needed stay allocated when fewer large ones take their place. It pins nothing.
pub struct QuickTier {
    cache: Cache<ChunkId, Bytes, ByBytes, DefaultHashBuilder, Evictions>,
    capacity: u64,
    largest: u64,
    evicted: AtomicU64,
}

impl QuickTier {
    /// A tier that accounts for at most `capacity` bytes. Nothing is allocated ahead.
    ///
    /// Capacities from 8 MiB up take every chunk. A smaller one takes those up to about 31/32 of it.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let planned = capacity / PLANNED_CHUNK_BYTES;
        let for_chunks = capacity - planned.div_ceil(2) * GHOST_BYTES;
        // `quick_cache` rounds the number of shards up to a power of two and each shard's part up
        // to a byte; both are rounded down here so that the sum stays within the capacity.
        let wanted = (for_chunks / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shards = 1 << wanted.ilog2();
        let shard_bytes = for_chunks / shards;
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).expect("at most SHARDS_MAX"))
            .weight_capacity(shard_bytes * shards)
            // At least 32 a shard, or `quick_cache` merges shards.
            .estimated_items_capacity(
                usize::try_from(planned.max(32 * shards)).unwrap_or(usize::MAX),
            )
            .ghost_allocation(GHOSTS_PER_CHUNK)
            .build()
            .expect("both capacities are set");
        Self {
            cache: Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), Evictions),
            capacity,
            // `quick_cache` takes what fits the hot part of a shard, 97 %.
            largest: shard_bytes / 32 * 31,
            evicted: AtomicU64::new(0),
        }
    }
}

impl RamTier for QuickTier {
    fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.cache.get(id)
    }

    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted {
        if weight(&bytes) > self.largest {
            return Inserted::TooLarge;
        }
        if self.cache.contains_key(&id) {
            return Inserted::Present;
        }
        let mut evicted = Evicted::new();
        self.cache.insert_with_lifecycle(id, bytes, &mut evicted);
        // Another thread may have put the same chunk in since: its copy comes back here, and is
        // no eviction.
        let others = evicted.iter().filter(|(other, _)| *other != id).count();
        self.evicted.fetch_add(others as u64, Ordering::Relaxed);
        Inserted::Stored
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.cache.contains_key(id)
    }

    fn bytes_used(&self) -> u64 {
        self.cache.weight()
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for QuickTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuickTier")
            .field("capacity", &self.capacity)
            .field("bytes_used", &self.bytes_used())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn weight(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<ChunkId, Bytes> for ByBytes {
    fn weight(&self, _: &ChunkId, bytes: &Bytes) -> u64 {
        weight(bytes)
    }
}

/// What one insertion pushed out; dropped by the caller, after the shard's lock.
type Evicted = SmallVec<[(ChunkId, Bytes); 4]>;

#[derive(Clone, Debug)]
struct Evictions;

impl Lifecycle<ChunkId, Bytes> for Evictions {
    type RequestState = Evicted;

    fn on_evict(&self, evicted: &mut Evicted, id: ChunkId, bytes: Bytes) {
        evicted.push((id, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::CHUNK_BYTES_MAX;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn nearly_all_of_the_capacity_is_for_chunks() {
        for capacity in [8 * MIB, 9 * MIB, 100 * MIB, 256 * MIB, 1 << 40] {
            let tier = QuickTier::new(capacity);
            assert!(tier.largest >= CHUNK_BYTES_MAX as u64 + ENTRY_OVERHEAD_BYTES);
            assert!(tier.cache.capacity() <= capacity);
            assert!(tier.cache.capacity() >= capacity / 100 * 98);
        }
    }
}
