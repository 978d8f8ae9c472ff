//! Where chunks lie: a tier in memory behind a small trait, and the store in front of the tiers.
//!
//! The store is a cache of verified bytes by name. It promises nothing about what it keeps, only
//! that what it gives back are the bytes of that name; every place that holds less than was put
//! there says so in a counter.

pub mod disk;
mod metrics;
mod moka;
mod pins;
mod quick;
mod ram;
mod s3fifo;

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;

pub use self::{
    metrics::StoreMetrics,
    moka::MokaTier,
    pins::Pins,
    quick::QuickTier,
    ram::{Inserted, RamTier},
    s3fifo::S3FifoTier,
};
use crate::content::ChunkId;

/// What a read of the store comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The chunk's bytes, verified.
    Hit(Bytes),
    /// A tier may hold the chunk but has no capacity to read it now: ask elsewhere, and do not
    /// store what comes back again.
    Throttled,
    /// No tier holds the chunk.
    Miss,
    /// A tier held bytes under this name that are not the chunk's. They were dropped and counted;
    /// for the caller it is a miss that is worth a line in the log.
    Corrupt,
}

/// The store of a node: all tiers behind one face. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    ram: Arc<dyn RamTier>,
    metrics: StoreMetrics,
}

impl Store {
    /// A store with this tier in memory and nothing behind it.
    #[must_use]
    pub fn new(ram: Arc<dyn RamTier>) -> Self {
        Self {
            ram,
            metrics: StoreMetrics::default(),
        }
    }

    /// Adds the store's counters and sizes to a registry, under the prefix `store`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, Arc::clone(&self.ram));
    }

    /// The counters.
    #[must_use]
    pub const fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// The chunk, if it is in memory. Never waits; for the path that may not.
    ///
    /// Counts as a use of the chunk. An absent chunk is not counted as a miss, since the caller
    /// comes back with [`read`](Self::read).
    #[must_use]
    pub fn get_ram(&self, id: &ChunkId) -> Option<Bytes> {
        let bytes = self.ram.get(id)?;
        self.metrics.ram_hit(bytes.len());
        Some(bytes)
    }

    /// The chunk from the first tier that has it.
    ///
    /// Cancel safe: nothing is lost by dropping the future. Bytes in memory were verified before
    /// they were put there and are not hashed again.
    #[expect(
        clippy::unused_async,
        reason = "a read that misses memory waits for the disk tier, whose seam this is"
    )]
    pub async fn read(&self, id: &ChunkId) -> Read {
        match self.get_ram(id) {
            Some(bytes) => Read::Hit(bytes),
            None => {
                self.metrics.ram_misses.inc();
                Read::Miss
            }
        }
    }

    /// Keeps a chunk for as long as the tiers' policy finds it worth the room.
    ///
    /// The caller has verified that these are the bytes of `id`, and owns them in a buffer of
    /// their size: a slice of a larger buffer would pin all of it unseen by the bound. A chunk
    /// that no tier takes is counted.
    pub fn put(&self, id: ChunkId, bytes: Bytes) {
        let len = bytes.len();
        match self.ram.insert(id, bytes) {
            Inserted::Stored => self.metrics.stored(len),
            Inserted::Present => {
                self.metrics.deduped_chunks.inc();
                self.metrics.deduped_bytes.inc_by(len as u64);
            }
            Inserted::TooLarge => {
                self.metrics.too_large.inc();
            }
        }
    }

    /// Pins for the chunks of one body under way.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins::new(self.clone())
    }

    /// Whether a tier holds the chunk now. It may be gone at the next read.
    #[must_use]
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.ram.contains(id)
    }

    /// The tier in memory, for its size.
    #[must_use]
    pub fn ram(&self) -> &dyn RamTier {
        &*self.ram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;
    use crate::content::{CHUNK_BYTES_MAX, ChunkKey};

    fn chunk(byte: u8, len: usize) -> (ChunkId, Bytes) {
        let bytes = Bytes::from(vec![byte; len]);
        (ChunkKey::derive(&[0; 32], "test").id(&bytes), bytes)
    }

    #[tokio::test]
    async fn every_put_and_read_is_counted_once() {
        let store = Store::new(Arc::new(QuickTier::new(200_000)));
        let (id, bytes) = chunk(1, 1_000);
        assert_eq!(store.read(&id).await, Read::Miss);
        store.put(id, bytes.clone());
        store.put(id, bytes.clone());
        assert!(store.contains(&id));
        assert_eq!(store.get_ram(&id), Some(bytes.clone()));
        assert_eq!(store.read(&id).await, Read::Hit(bytes));
        let (large, large_bytes) = chunk(2, CHUNK_BYTES_MAX);
        store.put(large, large_bytes);
        assert_eq!(store.read(&large).await, Read::Miss);

        let mut registry = Registry::default();
        store.register(&mut registry);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "store_ram_hits_total 2",
            "store_ram_hit_bytes_total 2000",
            "store_ram_misses_total 2",
            "store_stored_chunks_total 1",
            "store_stored_bytes_total 1000",
            "store_deduped_chunks_total 1",
            "store_deduped_bytes_total 1000",
            "store_too_large_chunks_total 1",
            "store_ram_chunks 1",
            "store_ram_capacity_bytes 200000",
            "store_ram_used_bytes 1256",
            "store_ram_evicted_chunks_total 0",
        ] {
            assert!(page.lines().any(|got| got == line), "{line}\nin\n{page}");
        }
    }
}
