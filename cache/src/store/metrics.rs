//! What the store counts.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
    },
    registry::{Registry, Unit},
};

use super::ram::RamTier;

/// Counters of a [`Store`](super::Store). Its tiers' sizes are read from them at each scrape.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Reads answered from memory. With `ram_misses`, all reads that were allowed to wait.
    pub ram_hits: Counter,
    /// Bytes handed out by those reads.
    pub ram_hit_bytes: Counter,
    /// Reads for which memory had nothing.
    pub ram_misses: Counter,
    /// Chunks read from disk.
    pub disk_hits: Counter,
    /// Bytes of those chunks.
    pub disk_hit_bytes: Counter,
    /// Reads for which the disk had nothing. With `disk_hits`, `disk_throttled` and `disk_corrupt`, all reads of chunks that went there.
    pub disk_misses: Counter,
    /// Reads for which the disk had no capacity.
    pub disk_throttled: Counter,
    /// Chunks on disk that were not what was put there.
    pub disk_corrupt: Counter,
    /// Chunks the disk did not take.
    pub disk_refused: Counter,
    /// Chunks put that were new. With `deduped_chunks` and `too_large`, all chunks put.
    pub stored_chunks: Counter,
    /// Bytes of those chunks.
    pub stored_bytes: Counter,
    /// Chunks put that a tier held already.
    pub deduped_chunks: Counter,
    /// Bytes of those chunks: what chunking saved.
    pub deduped_bytes: Counter,
    /// Chunks put that are larger than the tier takes; they were not stored.
    pub too_large: Counter,
    /// Chunks of bodies under way that were put and not pinned: the pinned ones took all they may, or the tier cannot pin.
    pub unpinned_chunks: Counter,
}

impl StoreMetrics {
    /// Adds the counters and the sizes of `ram` to a registry, under the prefix `store`.
    pub fn register(&self, registry: &mut Registry, ram: Arc<dyn RamTier>) {
        let registry = registry.sub_registry_with_prefix("store");
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter("ram_hits", "Reads answered from memory", &self.ram_hits);
        counter(
            "ram_hit_bytes",
            "Bytes read from memory",
            &self.ram_hit_bytes,
        );
        counter(
            "ram_misses",
            "Reads memory had nothing for",
            &self.ram_misses,
        );
        counter("disk_hits", "Chunks read from disk", &self.disk_hits);
        counter(
            "disk_hit_bytes",
            "Bytes of chunks read from disk",
            &self.disk_hit_bytes,
        );
        counter(
            "disk_misses",
            "Reads the disk had nothing for",
            &self.disk_misses,
        );
        counter(
            "disk_throttled",
            "Reads the disk had no capacity for",
            &self.disk_throttled,
        );
        counter(
            "disk_corrupt",
            "Chunks found damaged on disk",
            &self.disk_corrupt,
        );
        counter(
            "disk_refused_chunks",
            "Chunks the disk did not take",
            &self.disk_refused,
        );
        counter("stored_chunks", "New chunks stored", &self.stored_chunks);
        counter(
            "stored_bytes",
            "Bytes of new chunks stored",
            &self.stored_bytes,
        );
        counter(
            "deduped_chunks",
            "Chunks that were stored already",
            &self.deduped_chunks,
        );
        counter(
            "deduped_bytes",
            "Bytes of chunks that were stored already",
            &self.deduped_bytes,
        );
        counter(
            "too_large_chunks",
            "Chunks not stored, being larger than the tier takes",
            &self.too_large,
        );
        counter(
            "unpinned_chunks",
            "Chunks of bodies under way stored without a pin",
            &self.unpinned_chunks,
        );
        registry.register_collector(Box::new(Sizes(ram)));
    }

    pub(super) fn ram_hit(&self, len: usize) {
        self.ram_hits.inc();
        self.ram_hit_bytes.inc_by(len as u64);
    }

    pub(super) fn disk_hit(&self, len: usize) {
        self.disk_hits.inc();
        self.disk_hit_bytes.inc_by(len as u64);
    }

    pub(super) fn deduped(&self, len: usize) {
        self.deduped_chunks.inc();
        self.deduped_bytes.inc_by(len as u64);
    }

    pub(super) fn stored(&self, len: usize) {
        self.stored_chunks.inc();
        self.stored_bytes.inc_by(len as u64);
    }
}

#[derive(Debug)]
struct Sizes(Arc<dyn RamTier>);

impl Collector for Sizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ram = &self.0;
        let gauges = [
            (
                "ram_used",
                "Bytes accounted for in memory, bookkeeping included",
                Some(&Unit::Bytes),
                ram.bytes_used(),
            ),
            (
                "ram_capacity",
                "The most bytes ever accounted for in memory",
                Some(&Unit::Bytes),
                ram.capacity(),
            ),
            ("ram_chunks", "Chunks in memory", None, ram.len() as u64),
            (
                "ram_pinned",
                "Bytes in memory of bodies under way, not evicted before their end",
                Some(&Unit::Bytes),
                ram.bytes_pinned(),
            ),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
        }
        let evicted = ConstCounter::new(ram.evicted());
        evicted.encode(encoder.encode_descriptor(
            "ram_evicted_chunks",
            "Chunks evicted from memory to make room",
            None,
            MetricType::Counter,
        )?)
    }
}
