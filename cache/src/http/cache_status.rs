//! What the cache did with a request, as one word: the `Cache-Status` field (RFC 9211), the access log and the
//! metric's label all come from [`CacheStatus`].

use std::fmt::Write as _;

use http::HeaderValue;

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheStatus {
    /// Answered from the store, fresh.
    Hit,
    /// Answered from the store past its lifetime, while one refresh runs behind.
    StaleRefreshing,
    /// Answered from the store past its lifetime, because the upstream could not be reached.
    StaleUnreachable,
    /// Answered from the store past its lifetime, because the upstream answered with an error.
    StaleError,
    /// Answered from the store past its lifetime without asking: the upstream answered with an error a moment ago.
    StaleResting,
    /// Asked the upstream whether the stored response still holds; it does (304).
    Revalidated,
    /// Stored but no longer fresh; the upstream gave a new response.
    Expired,
    /// Stored and fresh, but the request asked for a fresher or a validated response: the upstream was asked.
    Requested,
    /// Nothing stored under this URL.
    Miss,
    /// Something stored under this URL, but not for a request with these fields.
    VaryMiss,
    /// Waited for, and shares, the fetch of another request.
    Collapsed,
    /// This URL was uncacheable a moment ago: sent on at once, without waiting for others.
    HitForMiss,
    /// Not for the cache: a method it does not handle.
    Method,
    /// Not for the cache: an unsafe method, whose answer made what was held for its target invalid (RFC 9111 §4.4).
    Invalidated,
    /// Not for the cache: the site's rules, or a limit of the cache, sent it past.
    Bypass,
    /// A part too far ahead of what is stored or filling: fetched on its own.
    Partial,
    /// No answer could be had.
    Failed,
    /// Answered without anyone being asked: a request that is refused or misdirected, or wants only what is stored.
    Refused,
}

impl CacheStatus {
    /// Every value, in the order of [`Self::index`].
    pub const ALL: [Self; 18] = [
        Self::Hit,
        Self::StaleRefreshing,
        Self::StaleUnreachable,
        Self::StaleError,
        Self::StaleResting,
        Self::Revalidated,
        Self::Expired,
        Self::Requested,
        Self::Miss,
        Self::VaryMiss,
        Self::Collapsed,
        Self::HitForMiss,
        Self::Method,
        Self::Invalidated,
        Self::Bypass,
        Self::Partial,
        Self::Failed,
        Self::Refused,
    ];

    /// Its place in [`Self::ALL`], for tables of counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word for log and metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::StaleRefreshing => "stale-refreshing",
            Self::StaleUnreachable => "stale-unreachable",
            Self::StaleError => "stale-error",
            Self::StaleResting => "stale-resting",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Requested => "requested",
            Self::Miss => "miss",
            Self::VaryMiss => "vary-miss",
            Self::Collapsed => "collapsed",
            Self::HitForMiss => "hit-for-miss",
            Self::Method => "method",
            Self::Invalidated => "invalidated",
            Self::Bypass => "bypass",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    /// Whether the answer came from the store without waiting for an upstream.
    #[must_use]
    pub fn is_hit(self) -> bool {
        self.handling().0 == "hit"
    }

    /// How RFC 9211 says it: `hit` or a reason to forward, never both (§2.1, §2.2), and a detail where its vocabulary ends.
    fn handling(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Hit => ("hit", None),
            Self::StaleRefreshing => ("hit", Some("stale-refreshing")),
            Self::StaleUnreachable => ("hit", Some("upstream-unreachable")),
            Self::StaleError => ("fwd=stale", Some("stale-if-error")),
            Self::StaleResting => ("hit", Some("stale-if-error")),
            Self::Revalidated | Self::Expired => ("fwd=stale", None),
            Self::Requested => ("fwd=request", None),
            Self::Miss => ("fwd=uri-miss", None),
            Self::VaryMiss => ("fwd=vary-miss", None),
            Self::Collapsed => ("fwd=miss; collapsed", None),
            Self::HitForMiss => ("fwd=bypass", Some("hit-for-miss")),
            Self::Method => ("fwd=method", None),
            Self::Invalidated => ("fwd=method", Some("invalidated")),
            Self::Bypass => ("fwd=bypass", None),
            Self::Partial => ("fwd=partial", None),
            Self::Failed => ("fwd=miss", Some("failed")),
            Self::Refused => ("", Some("refused")),
        }
    }
}

/// The parameters of a `Cache-Status` member beyond what [`CacheStatus`] itself says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Details {
    /// The status the upstream gave, where it was asked.
    pub forward_status: Option<u16>,
    /// Whether the upstream's response is being stored.
    pub stored: Option<bool>,
    /// Freshness left, in seconds; negative once stale.
    pub ttl_seconds: Option<i64>,
    /// A token in place of the detail that goes with the status by itself.
    pub detail: Option<&'static str>,
}

/// The `Cache-Status` field: what caches nearer the origin wrote, then this cache's member.
///
//= https://www.rfc-editor.org/rfc/rfc9211#section-2
//# The first member represents the cache closest to the origin server,
//# and the last member represents the cache closest to the user
//
/// `cache` names this cache; what a token cannot hold is quoted. A value that no field can hold is left out: `None`.
#[must_use]
pub fn field(
    cache: &str,
    upstream: Option<&str>,
    status: CacheStatus,
    details: &Details,
) -> Option<HeaderValue> {
    let mut value = String::with_capacity(64 + upstream.map_or(0, str::len));
    if let Some(upstream) = upstream {
        value.push_str(upstream);
        value.push_str(", ");
    }
    push_name(&mut value, cache);
    let (handled, detail) = status.handling();
    if !handled.is_empty() {
        value.push_str("; ");
        value.push_str(handled);
    }
    if let Some(forwarded) = details.forward_status {
        let _ = write!(value, "; fwd-status={forwarded}");
    }
    match details.stored {
        Some(true) => value.push_str("; stored"),
        Some(false) => value.push_str("; stored=?0"),
        None => {}
    }
    if let Some(ttl) = details.ttl_seconds {
        let _ = write!(value, "; ttl={ttl}");
    }
    if let Some(detail) = details.detail.or(detail) {
        value.push_str("; detail=");
        value.push_str(detail);
    }
    HeaderValue::try_from(value).ok()
}

/// Writes a name as a token where it is one (RFC 8941 §3.3.4), else as a string.
fn push_name(value: &mut String, name: &str) {
    let token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c));
    if token {
        value.push_str(name);
        return;
    }
    value.push('"');
    for c in name.chars().filter(|c| (' '..='~').contains(c)) {
        if matches!(c, '"' | '\\') {
            value.push('\\');
        }
        value.push(c);
    }
    value.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cache: &str, upstream: Option<&str>, status: CacheStatus, details: Details) -> String {
        field(cache, upstream, status, &details)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn members_read_as_the_rfc_writes_them() {
        let ttl = |ttl| Details {
            ttl_seconds: Some(ttl),
            ..Details::default()
        };
        assert_eq!(
            text("edge-1", None, CacheStatus::Hit, ttl(30)),
            "edge-1; hit; ttl=30"
        );
        let stored = Details {
            forward_status: Some(200),
            stored: Some(true),
            ttl_seconds: Some(60),
            detail: None,
        };
        assert_eq!(
            text("edge-1", Some("shield; hit"), CacheStatus::Miss, stored),
            "shield; hit, edge-1; fwd=uri-miss; fwd-status=200; stored; ttl=60"
        );
        let not = Details {
            stored: Some(false),
            ..Details::default()
        };
        assert_eq!(
            text("e", None, CacheStatus::Collapsed, not),
            "e; fwd=miss; collapsed; stored=?0"
        );
        assert_eq!(
            text("e", None, CacheStatus::Refused, Details::default()),
            "e; detail=refused"
        );
        let why = Details {
            detail: Some("origin-timeout"),
            ..Details::default()
        };
        assert_eq!(
            text("e", None, CacheStatus::Failed, why),
            "e; fwd=miss; detail=origin-timeout"
        );
    }

    #[test]
    fn a_name_that_is_no_token_is_quoted() {
        assert_eq!(
            text("1 \"a\"\n", None, CacheStatus::Hit, Details::default()),
            "\"1 \\\"a\\\"\"; hit"
        );
    }

    #[test]
    fn the_table_of_all_values_is_in_the_order_of_their_index() {
        for (place, status) in CacheStatus::ALL.into_iter().enumerate() {
            assert_eq!(status.index(), place, "{}", status.word());
        }
    }
}
