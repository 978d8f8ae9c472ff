//! What is counted of records and marks.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Counters of what is stored over a restart. Cloning gives another handle on the same.
#[derive(Debug, Clone, Default)]
pub struct PersistMetrics {
    /// Records of stored responses, and of objects known by blocks, that the disk took.
    pub records_written: Counter,
    /// Such records it did not take; what it held under their names was forgotten. With `records_written`, all that were to be written.
    pub records_refused: Counter,
    /// Records read back whose seal held.
    pub records_read: Counter,
    /// Records read back whose seal did not hold.
    pub records_damaged: Counter,
    /// Records read back that another build wrote.
    pub records_unknown: Counter,
    /// Responses read back that had been invalidated since they were written, or of which that cannot be told.
    pub read_invalid: Counter,
    /// Responses not used because pages of their manifests are gone.
    pub manifests_incomplete: Counter,
    /// Variants that did not fit into the record of their URL.
    pub variants_left_out: Counter,
    /// Marks of invalidations that are in the file of marks.
    pub marks_written: Counter,
    /// Answers passed on before the mark of what they invalidated was in the file, since it took longer than a second.
    pub marks_late: Counter,
    /// Writes to the file of marks that failed; they are repeated.
    pub marks_failed: Counter,
}

impl PersistMetrics {
    /// Adds the counters to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter(
            "records_written",
            "Records of stored responses written to disk",
            &self.records_written,
        );
        counter(
            "records_refused",
            "Records of stored responses the disk did not take",
            &self.records_refused,
        );
        counter(
            "records_read",
            "Records of stored responses read from disk",
            &self.records_read,
        );
        counter(
            "records_damaged",
            "Records of stored responses whose seal did not hold",
            &self.records_damaged,
        );
        counter(
            "records_unknown",
            "Records of stored responses another build wrote",
            &self.records_unknown,
        );
        counter(
            "read_invalid",
            "Responses read from disk that were invalidated since",
            &self.read_invalid,
        );
        counter(
            "manifests_incomplete",
            "Responses on disk without all pages of their manifest",
            &self.manifests_incomplete,
        );
        counter(
            "variants_left_out",
            "Variants that did not fit into the record of their URL",
            &self.variants_left_out,
        );
        counter(
            "marks_written",
            "Marks of invalidations written to disk",
            &self.marks_written,
        );
        counter(
            "marks_late",
            "Answers passed on before the mark of their invalidation was written",
            &self.marks_late,
        );
        counter(
            "marks_failed",
            "Failed writes to the file of marks",
            &self.marks_failed,
        );
    }
}
