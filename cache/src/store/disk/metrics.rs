//! What a volume counts.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

use super::{Refused, volume::Volume};

/// What is wrong with a volume, asked when somebody looks: an alarm is on this.
#[derive(Debug)]
pub(super) struct Ailing(pub(super) Arc<Volume>);

impl Collector for Ailing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ailments = self.0.health.ailments();
        let mut family = encoder.encode_descriptor(
            "disk_ailing",
            "1 where a volume does not do this: take writes, answer reads, grow to its size",
            None,
            MetricType::Gauge,
        )?;
        for (what, why) in [
            ("writes", &ailments.writes),
            ("reads", &ailments.reads),
            ("space", &ailments.space),
        ] {
            let gauge = ConstGauge::new(u64::from(why.is_some()));
            gauge.encode(family.encode_family(&[("what", what)])?)?;
        }
        Ok(())
    }
}

/// Counters of a volume.
#[derive(Clone, Debug, Default)]
pub struct DiskMetrics {
    /// Reads that gave a body. With `misses`, `throttled` and `corrupt`, all reads.
    pub hits: Counter,
    /// Bytes of those bodies.
    pub hit_bytes: Counter,
    /// Reads of names that are not here.
    pub misses: Counter,
    /// Reads that were not tried, or given up, for want of capacity.
    pub throttled: Counter,
    /// Records that were not what was written; dropped.
    pub corrupt: Counter,
    /// Reads that the device failed.
    pub read_errors: Counter,
    /// Reads that took too long.
    pub read_timeouts: Counter,
    /// Records taken. With `present_records` and the refused, all that were put.
    pub put_records: Counter,
    /// Bytes of their bodies.
    pub put_bytes: Counter,
    /// Records put that were here already.
    pub present_records: Counter,
    /// Bytes of their bodies: what naming by content saved.
    pub present_bytes: Counter,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    /// Times a putter waited for room.
    pub waits_for_room: Counter,
    /// Bytes written to the device, footers included. Over `put_bytes`, the write amplification.
    pub written_bytes: Counter,
    /// Writes that the device failed.
    pub write_errors: Counter,
    /// Records lost with them.
    pub lost_records: Counter,
    /// Tombstones there was no room for: what they name may come back at the next start.
    pub tombstones_lost: Counter,
    /// Records appended again when their segment was reclaimed.
    pub moved_records: Counter,
    /// Bytes of their bodies.
    pub moved_bytes: Counter,
    /// Records that left to make room.
    pub evicted_records: Counter,
    /// Segments reclaimed.
    pub reclaimed_segments: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Checkpoints that could not be written.
    pub checkpoints_failed: Counter,
    /// Times everything was looked through for damage.
    pub scrubs: Counter,
    /// Bytes of the device there is room for.
    pub allocated_bytes: Gauge,
}

impl DiskMetrics {
    /// Records that were not taken, for this reason.
    #[must_use]
    pub fn refused(&self, why: Refused) -> Counter {
        self.refused.get_or_create_owned(&[("reason", why.word())])
    }

    /// Adds the counters to a registry.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("disk_hits", "Reads that gave a body", &self.hits),
            ("disk_hit_bytes", "Bytes read from disk", &self.hit_bytes),
            (
                "disk_misses",
                "Reads of names that are not on disk",
                &self.misses,
            ),
            (
                "disk_throttled_reads",
                "Reads not tried or given up for want of capacity",
                &self.throttled,
            ),
            (
                "disk_corrupt_records",
                "Records on disk that were not what was written",
                &self.corrupt,
            ),
            (
                "disk_read_errors",
                "Reads that the device failed",
                &self.read_errors,
            ),
            (
                "disk_read_timeouts",
                "Reads that took too long",
                &self.read_timeouts,
            ),
            ("disk_put_records", "Records taken", &self.put_records),
            ("disk_put_bytes", "Bytes of records taken", &self.put_bytes),
            (
                "disk_present_records",
                "Records put that were on disk already",
                &self.present_records,
            ),
            (
                "disk_present_bytes",
                "Bytes of records put that were on disk already",
                &self.present_bytes,
            ),
            (
                "disk_waits_for_room",
                "Times a writer waited for the device",
                &self.waits_for_room,
            ),
            (
                "disk_written_bytes",
                "Bytes written to the device",
                &self.written_bytes,
            ),
            (
                "disk_write_errors",
                "Writes that the device failed",
                &self.write_errors,
            ),
            (
                "disk_lost_records",
                "Records lost with failed writes",
                &self.lost_records,
            ),
            (
                "disk_lost_tombstones",
                "Tombstones there was no room for",
                &self.tombstones_lost,
            ),
            (
                "disk_moved_records",
                "Records kept when their segment was reclaimed",
                &self.moved_records,
            ),
            (
                "disk_moved_bytes",
                "Bytes of records kept when their segment was reclaimed",
                &self.moved_bytes,
            ),
            (
                "disk_evicted_records",
                "Records that left to make room",
                &self.evicted_records,
            ),
            (
                "disk_reclaimed_segments",
                "Segments reclaimed",
                &self.reclaimed_segments,
            ),
            (
                "disk_scrubs",
                "Times everything on disk was looked through for damage",
                &self.scrubs,
            ),
            (
                "disk_checkpoints",
                "Times the index was saved",
                &self.checkpoints,
            ),
            (
                "disk_checkpoint_errors",
                "Times the index could not be saved",
                &self.checkpoints_failed,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "disk_refused_records",
            "Records that were not taken, by reason",
            self.refused.clone(),
        );
        registry.register_with_unit(
            "disk_allocated",
            "Bytes of the device there is room for",
            Unit::Bytes,
            self.allocated_bytes.clone(),
        );
    }
}
