//! What a site's operator decides about caching where the response leaves it open.

use std::time::Duration;

use http::HeaderName;

use crate::query::QueryRules;

/// A site's caching policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePolicy {
    /// Lifetime of a response that states none and that nothing forbids to store. Goes before a heuristic one. Default: none.
    pub default_ttl: Option<Duration>,
    /// Whether a response that states no lifetime gets a heuristic one from its `Last-Modified` (RFC 9111 §4.2.2). Default: true.
    /// Without it, and without `default_ttl`, such a response is not stored.
    pub heuristic: bool,
    /// The target list of RFC 9213: fields of a response that go before `Cache-Control` and `Expires`, the first the most.
    /// Default: `CDN-Cache-Control`.
    pub cache_control_targets: Vec<HeaderName>,
    /// Whether `Cache-Control` and `Pragma` of requests are heeded. Default: true. A client can then have any URL validated at the
    /// origin, one fetch at a time for a URL, and with `no-store` fetched past the cache whenever nothing fresh is stored.
    pub client_cache_control: bool,
    /// How long past its lifetime a response that does not say so itself may be served in place of a 500, 502, 503 or 504,
    /// unless it forbids that. Default: none, the error is passed on.
    pub stale_if_error: Option<Duration>,
    /// How long past its lifetime a response may stand in for an upstream that cannot be reached, unless it forbids
    /// that itself. Default: 24 h.
    pub stale_if_unreachable: Duration,
    /// How long a URL that turned out uncacheable is remembered, so that its requests do not queue; after an error at most a second.
    /// Default: 60 s.
    pub hit_for_miss: Duration,
    /// What of the query takes part in the key and reaches upstreams. Default: all of it.
    pub query: QueryRules,
    /// Whether upstreams are sent `Accept-Encoding` in its normal form, so that they see few. Default: no, as the client wrote it.
    pub normal_accept_encoding: bool,
    /// Whether others are told what is stored ([`Cache::watched_by`](crate::engine::Cache::watched_by)). Default: yes.
    pub told: bool,
}

impl Default for SitePolicy {
    fn default() -> Self {
        Self {
            default_ttl: None,
            heuristic: true,
            cache_control_targets: vec![HeaderName::from_static("cdn-cache-control")],
            client_cache_control: true,
            stale_if_error: None,
            stale_if_unreachable: Duration::from_secs(24 * 60 * 60),
            hit_for_miss: Duration::from_secs(60),
            query: QueryRules::default(),
            normal_accept_encoding: false,
            told: true,
        }
    }
}
