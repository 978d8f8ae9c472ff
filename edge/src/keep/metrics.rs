//! What keeping counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Of both sides.
#[derive(Debug, Default)]
pub(crate) struct KeepMetrics {
    /// Objects that other edges were asked to keep; each ends in one of the next two.
    pub(super) offered: Counter,
    /// Of those, that they keep.
    pub(super) given: Counter,
    /// Of those, that they do not, or did not say, or were not told of since too many waited.
    pub(super) left: Counter,
    /// Objects that others asked this edge to keep; each ends in one of the next four.
    pub(super) asked: Counter,
    /// Of those, that were here and fresh.
    pub(super) held: Counter,
    /// Of those, that were fetched.
    pub(super) fetched: Counter,
    /// Of those, that could not be had in time, may not be stored, or were not waited for any more.
    pub(super) failed: Counter,
    /// Of those, of no site that is served here, or with no room.
    pub(super) refused: Counter,
}

impl KeepMetrics {
    /// Names the counters in `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("keep");
        for (name, help, counter) in [
            (
                "offered",
                "Objects that other edges were asked to keep",
                &self.offered,
            ),
            (
                "given",
                "Objects that other edges keep since they were asked to",
                &self.given,
            ),
            (
                "left",
                "Objects that other edges were asked to keep and do not",
                &self.left,
            ),
            (
                "asked",
                "Objects that other edges asked this one to keep",
                &self.asked,
            ),
            (
                "held",
                "Objects it was asked to keep that were here",
                &self.held,
            ),
            (
                "fetched",
                "Objects it was asked to keep that were fetched",
                &self.fetched,
            ),
            (
                "failed",
                "Objects it was asked to keep that could not be had or stored",
                &self.failed,
            ),
            (
                "refused",
                "Objects it was asked to keep and would not",
                &self.refused,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
