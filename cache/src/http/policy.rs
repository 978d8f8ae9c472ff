//! What a site's operator decides about caching where the response leaves it open.

use std::time::Duration;

use crate::query::QueryRules;

/// A site's caching policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePolicy {
    /// Lifetime of a response that states none and that nothing forbids to store. Default: none, such a response is not stored.
    pub default_ttl: Option<Duration>,
    /// How long past its lifetime a response may stand in for an upstream that cannot be reached, unless it forbids
    /// that itself. Default: 24 h.
    pub stale_if_unreachable: Duration,
    /// How a URL that turned out uncacheable is remembered, so that its requests do not queue. Default: 60 s.
    pub hit_for_miss: Duration,
    /// What of the query takes part in the key and reaches upstreams. Default: all of it.
    pub query: QueryRules,
    /// Whether upstreams are sent `Accept-Encoding` in its normal form, so that they see few. Default: no, as the client wrote it.
    pub normal_accept_encoding: bool,
}

impl Default for SitePolicy {
    fn default() -> Self {
        Self {
            default_ttl: None,
            stale_if_unreachable: Duration::from_secs(24 * 60 * 60),
            hit_for_miss: Duration::from_secs(60),
            query: QueryRules::default(),
            normal_accept_encoding: false,
        }
    }
}
