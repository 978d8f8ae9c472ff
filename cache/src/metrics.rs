//! What the engine counts.
//!
//! Every body byte handed to a client is counted twice, at two places: in `delivered_bytes` where the reply leaves
//! the engine, and in `served_bytes` where it was taken from, by source. So `delivered = ram + disk + shield + origin + peer`
//! is a check on the code, not a definition.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{engine::PersistMetrics, http::cache_status::CacheStatus, upstream::Source};

/// Where a byte that is served was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedFrom {
    /// The store's RAM tier.
    Ram,
    /// The store's tier on disk.
    Disk,
    /// An upstream, on this request or one it was collapsed with.
    Upstream(Source),
}

impl ServedFrom {
    const WORDS: [&'static str; 5] = ["ram", "disk", "origin", "shield", "peer"];

    fn index(self) -> usize {
        match self {
            Self::Ram => 0,
            Self::Disk => 1,
            Self::Upstream(Source::Origin) => 2,
            Self::Upstream(Source::Shield) => 3,
            Self::Upstream(Source::Peer) => 4,
        }
    }
}

/// Counters of one label, looked up once and kept in an array, so that counting is one addition.
#[derive(Debug)]
struct Labelled<T> {
    family: Family<[(&'static str, &'static str); 1], Counter>,
    counters: T,
}

type Outcomes = [Counter; CacheStatus::ALL.len()];
type Sources = [Counter; ServedFrom::WORDS.len()];

impl Default for Labelled<Outcomes> {
    fn default() -> Self {
        let family = Family::default();
        let counters = CacheStatus::ALL
            .map(|status| family.get_or_create_owned(&[("outcome", status.word())]));
        Self { family, counters }
    }
}

impl Default for Labelled<Sources> {
    fn default() -> Self {
        let family = Family::default();
        let counters =
            ServedFrom::WORDS.map(|word| family.get_or_create_owned(&[("source", word)]));
        Self { family, counters }
    }
}

/// The relay histogram, newly made: from 10 µs, each bound twice the one before, to 0.33 s.
#[derive(Debug)]
pub struct RelaySeconds(Histogram);

impl Default for RelaySeconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(10e-6, 2.0, 16)))
    }
}

impl RelaySeconds {
    pub(crate) fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

/// The engine's counters. Each is an atomic; none is looked up by label when it counts.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Labelled<Outcomes>,
    served: Labelled<Sources>,
    /// Body bytes that left the engine in replies. Equals the sum of `served_bytes` over its sources.
    pub delivered_bytes: Counter,
    /// Body bytes that upstreams sent, holes refilled included. Below `delivered_bytes` by what the store and collapsing saved.
    pub fetched_bytes: Counter,
    /// Requests sent to upstreams, whatever came of them.
    pub fetches: Counter,
    /// Fills under way.
    pub fills_open: Gauge,
    /// Fills that ended in a sealed manifest, stored or not.
    pub fills_sealed: Counter,
    /// Fills that ended without one: upstream broke, nobody read on, or shutdown. With `fills_sealed`, all fills.
    pub fills_aborted: Counter,
    /// Storable responses streamed past the cache because the limit of open fills was met.
    pub fills_refused: Counter,
    /// Chunks that were evicted, fetched again and verified.
    pub holes_refilled: Counter,
    /// Chunks that could not be had again; their reader was reset or the object fetched anew.
    pub holes_lost: Counter,
    /// Blocks of objects that are not stored whole, fetched and kept.
    pub blocks_stored: Counter,
    /// URLs remembered as uncacheable.
    pub hit_for_miss_marked: Counter,
    /// Digests made of stored representations for requests that wanted one (RFC 9530).
    pub digests_made: Counter,
    /// Variants that left because their URL had too many; what the bound of the heads evicts is not among them.
    pub variants_dropped: Counter,
    /// Stored responses confirmed by a 304.
    pub revalidated: Counter,
    /// URLs invalidated by non-error answers to unsafe requests for them, whether anything was stored of them or not.
    pub invalidated_targets: Counter,
    /// URLs invalidated because such an answer named them in `Location` or `Content-Location`.
    pub invalidated_locations: Counter,
    /// Groups invalidated because such an answer named them in `Cache-Group-Invalidation`.
    pub invalidated_groups: Counter,
    /// Stored responses that became invalid: those of a URL when it was invalidated, those of a group when they were looked up.
    pub invalidated_responses: Counter,
    /// Responses not stored because their URL was invalidated while they were fetched.
    pub fetches_outdated: Counter,
    /// Stored responses updated by an answer to HEAD.
    pub head_updated: Counter,
    /// Stored responses found to be stale by an answer to HEAD.
    pub head_outdated: Counter,
    /// Leaders that ended without a result, so that a follower took over.
    pub leaders_lost: Counter,
    /// What collapsing adds to a piece of body: from its arrival to the moment at which a reader that waited for it has it
    /// and hands it on. Readers that were behind are not in it: they had something to send already.
    pub relay_seconds: RelaySeconds,
    /// What is stored over a restart.
    pub persist: PersistMetrics,
}

impl Metrics {
    /// Requests that ended in this outcome.
    #[must_use]
    pub fn requests(&self, outcome: CacheStatus) -> &Counter {
        &self.requests.counters[outcome.index()]
    }

    /// Body bytes served that were taken from here.
    #[must_use]
    pub fn served_bytes(&self, from: ServedFrom) -> &Counter {
        &self.served.counters[from.index()]
    }

    /// Adds the counters to a registry, under the prefix `cache`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cache");

        registry.register(
            "requests",
            "Requests by what the cache did",
            self.requests.family.clone(),
        );
        registry.register(
            "served_bytes",
            "Body bytes served, by where they were taken from",
            self.served.family.clone(),
        );
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone())
        };
        counter(
            "delivered_bytes",
            "Body bytes that left in replies",
            &self.delivered_bytes,
        );
        counter(
            "fetched_bytes",
            "Body bytes that upstreams sent",
            &self.fetched_bytes,
        );
        counter("fetches", "Requests sent to upstreams", &self.fetches);
        counter("fills_sealed", "Fills that completed", &self.fills_sealed);
        counter(
            "fills_aborted",
            "Fills that did not complete",
            &self.fills_aborted,
        );
        counter(
            "fills_refused",
            "Responses not filled because too many fills were open",
            &self.fills_refused,
        );
        counter(
            "holes_refilled",
            "Evicted chunks fetched again",
            &self.holes_refilled,
        );
        counter(
            "holes_lost",
            "Evicted chunks that could not be had again",
            &self.holes_lost,
        );
        counter(
            "blocks_stored",
            "Blocks of objects that are not stored whole",
            &self.blocks_stored,
        );
        counter(
            "hit_for_miss_marked",
            "URLs remembered as uncacheable",
            &self.hit_for_miss_marked,
        );
        counter(
            "digests_made",
            "Digests made of stored representations for requests that wanted one",
            &self.digests_made,
        );
        counter(
            "variants_dropped",
            "Variants that left because their URL had too many",
            &self.variants_dropped,
        );
        counter(
            "revalidated",
            "Stored responses confirmed by a 304",
            &self.revalidated,
        );
        counter(
            "leaders_lost",
            "Fetches abandoned before a result",
            &self.leaders_lost,
        );
        counter(
            "invalidated_targets",
            "URLs invalidated by unsafe requests",
            &self.invalidated_targets,
        );
        counter(
            "invalidated_locations",
            "URLs invalidated because an answer to an unsafe request named them",
            &self.invalidated_locations,
        );
        counter(
            "invalidated_groups",
            "Cache groups invalidated by answers to unsafe requests",
            &self.invalidated_groups,
        );
        counter(
            "invalidated_responses",
            "Stored responses that became invalid",
            &self.invalidated_responses,
        );
        counter(
            "fetches_outdated",
            "Responses not stored because their URL was invalidated meanwhile",
            &self.fetches_outdated,
        );
        counter(
            "head_updated",
            "Stored responses updated by an answer to HEAD",
            &self.head_updated,
        );
        counter(
            "head_outdated",
            "Stored responses found stale by an answer to HEAD",
            &self.head_outdated,
        );
        registry.register("fills_open", "Fills under way", self.fills_open.clone());
        registry.register(
            "fill_relay_seconds",
            "From a piece's arrival to a reader that waited for it",
            self.relay_seconds.0.clone(),
        );
        self.persist.register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_exported() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.requests(CacheStatus::Collapsed).inc_by(3);
        metrics
            .served_bytes(ServedFrom::Upstream(Source::Shield))
            .inc_by(5);
        metrics.fills_open.set(2);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "cache_requests_total{outcome=\"collapsed\"} 3",
            "cache_requests_total{outcome=\"hit\"} 0",
            "cache_served_bytes_total{source=\"shield\"} 5",
            "cache_served_bytes_total{source=\"ram\"} 0",
            "cache_fills_open 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
