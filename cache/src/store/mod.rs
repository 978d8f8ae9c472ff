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

use self::disk::{DiskRead, DiskTier, Kind, Put};
pub use self::{
    metrics::StoreMetrics,
    moka::MokaTier,
    pins::Pins,
    quick::QuickTier,
    ram::{Inserted, RamTier},
    s3fifo::S3FifoTier,
};
use crate::content::{ChunkId, ChunkKey, Entry};

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
    disk: Option<Arc<dyn DiskTier>>,
    metrics: StoreMetrics,
}

impl Store {
    /// A store with this tier in memory and nothing behind it.
    #[must_use]
    pub fn new(ram: Arc<dyn RamTier>) -> Self {
        Self {
            ram,
            disk: None,
            metrics: StoreMetrics::default(),
        }
    }

    /// A store with this tier in memory and this one behind it.
    #[must_use]
    pub fn with_disk(ram: Arc<dyn RamTier>, disk: Arc<dyn DiskTier>) -> Self {
        Self {
            disk: Some(disk),
            ..Self::new(ram)
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
    /// they were put there and are not hashed again; those from disk are, under `key`.
    pub async fn read(&self, key: &ChunkKey, id: &ChunkId) -> Read {
        if let Some(bytes) = self.get_ram(id) {
            return Read::Hit(bytes);
        }
        self.metrics.ram_misses.inc();
        self.read_disk(key, id, true).await
    }

    /// The chunk from the tier on disk; `keep` it in memory too. Cancel safe.
    pub(crate) async fn read_disk(&self, key: &ChunkKey, id: &ChunkId, keep: bool) -> Read {
        let Some(disk) = &self.disk else {
            return Read::Miss;
        };
        let check = |bytes: &[u8]| key.id(bytes) == *id;
        let read = disk.read(Kind::Chunk, id.as_bytes(), &check).await;
        self.counted(*id, read, keep)
    }

    /// Consecutive chunks of an object from the tier on disk, of at most 1 MiB together, in one go. Cancel safe.
    pub(crate) async fn read_run(&self, key: &ChunkKey, run: &[Entry], keep: bool) -> Vec<Read> {
        let Some(disk) = &self.disk else {
            return vec![Read::Miss; run.len()];
        };
        let names: Vec<_> = run.iter().map(|entry| *entry.id.as_bytes()).collect();
        let check = |place: usize, bytes: &[u8]| {
            run.get(place)
                .is_some_and(|entry| key.id(bytes) == entry.id)
        };
        let reads = disk.read_run(&names, &check).await;
        run.iter()
            .zip(reads)
            .map(|(entry, read)| self.counted(entry.id, read, keep))
            .collect()
    }

    /// Counts a read of the tier on disk.
    fn counted(&self, id: ChunkId, read: DiskRead, keep: bool) -> Read {
        match read {
            DiskRead::Hit(bytes) => {
                self.metrics.disk_hit(bytes.len());
                if keep {
                    self.ram.insert(id, bytes.clone());
                }
                Read::Hit(bytes)
            }
            DiskRead::Miss => {
                self.metrics.disk_misses.inc();
                Read::Miss
            }
            DiskRead::Throttled => {
                self.metrics.disk_throttled.inc();
                Read::Throttled
            }
            DiskRead::Corrupt => {
                self.metrics.disk_corrupt.inc();
                tracing::warn!(%id, "a chunk on disk was damaged; it was dropped");
                Read::Corrupt
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
        let on_disk = self.disk.as_ref().map(|disk| {
            let put = disk.put(Kind::Chunk, *id.as_bytes(), &bytes);
            self.refused(put);
            put
        });
        match (self.ram.insert(id, bytes), on_disk) {
            (Inserted::Present, _) | (_, Some(Put::Present)) => self.metrics.deduped(len),
            (Inserted::Stored, _) | (_, Some(Put::Queued)) => self.metrics.stored(len),
            (Inserted::TooLarge, Some(Put::Refused(_)) | None) => {
                self.metrics.too_large.inc();
            }
        }
    }

    /// Keeps a chunk on disk alone. Whether it is there.
    pub(crate) fn put_on_disk(&self, id: ChunkId, bytes: &[u8]) -> bool {
        let Some(disk) = &self.disk else {
            return false;
        };
        let put = disk.put(Kind::Chunk, *id.as_bytes(), bytes);
        match put {
            Put::Queued => self.metrics.stored(bytes.len()),
            Put::Present => self.metrics.deduped(bytes.len()),
            Put::Refused(_) => self.refused(put),
        }
        !matches!(put, Put::Refused(_))
    }

    fn refused(&self, put: Put) {
        if let Put::Refused(_) = put {
            self.metrics.disk_refused.inc();
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
        self.ram.contains(id) || self.disk_contains(id)
    }

    /// Whether the tier on disk holds the chunk now.
    #[must_use]
    pub fn disk_contains(&self, id: &ChunkId) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| disk.contains(id.as_bytes()))
    }

    /// The tier on disk, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Arc<dyn DiskTier>> {
        self.disk.as_ref()
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
        let key = ChunkKey::derive(&[0; 32], "test");
        let (id, bytes) = chunk(1, 1_000);
        assert_eq!(store.read(&key, &id).await, Read::Miss);
        store.put(id, bytes.clone());
        store.put(id, bytes.clone());
        assert!(store.contains(&id));
        assert_eq!(store.get_ram(&id), Some(bytes.clone()));
        assert_eq!(store.read(&key, &id).await, Read::Hit(bytes));
        let (large, large_bytes) = chunk(2, CHUNK_BYTES_MAX);
        store.put(large, large_bytes);
        assert_eq!(store.read(&key, &large).await, Read::Miss);

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
