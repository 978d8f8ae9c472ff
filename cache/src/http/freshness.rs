//! Whether a response may be stored, and how long it is fresh (RFC 9111 §3, §4.2).

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    age, blame, dates, directives::ResponseDirectives, facts::RequestFacts, heuristic,
    policy::SitePolicy, targeted, validator::Validators, vary,
};
use crate::time::Timestamp;

/// How a stored response ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// From its generation, milliseconds.
    pub lifetime_ms: u64,
    /// Its age when it arrived, milliseconds.
    pub initial_age_ms: u64,
    /// When it arrived.
    pub response_time: Timestamp,
    /// How long past its lifetime it may be served while it is refreshed, milliseconds (RFC 5861 §3).
    pub while_revalidate_ms: u64,
    /// How long past its lifetime the response says it may be served in place of an error, milliseconds (RFC 5861 §4).
    pub if_error_ms: Option<u64>,
    /// Whether it may be served stale at all.
    pub stale_allowed: bool,
    /// Whether it never changes while it is fresh (RFC 8246).
    pub immutable: bool,
}

impl Freshness {
    /// Its age at `now`, milliseconds: `resident_time = now - response_time; current_age = corrected_initial_age + resident_time`.
    #[must_use]
    pub fn age_ms(&self, now: Timestamp) -> u64 {
        self.initial_age_ms
            .saturating_add(now.0.saturating_sub(self.response_time.0))
    }

    /// Freshness left at `now`, milliseconds; negative once stale, and 0 is stale.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2
    //# response_is_fresh = (freshness_lifetime > current_age)
    #[must_use]
    pub fn ttl_ms(&self, now: Timestamp) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        signed(self.lifetime_ms).saturating_sub(signed(self.age_ms(now)))
    }

    /// Whether it is fresh at `now`.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.lifetime_ms > self.age_ms(now)
    }

    /// Whether it may be served at `now` while it is refreshed.
    #[must_use]
    pub fn may_serve_while_revalidating(&self, now: Timestamp) -> bool {
        self.is_within(now, self.while_revalidate_ms)
    }

    /// Whether it may stand in at `now` for an upstream that cannot be reached (RFC 9111 §4.2.4), for at most `limit` past its
    /// lifetime, or longer where the response says so.
    //
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.4
    //# A cache MUST NOT generate a stale response unless it is disconnected
    //# or doing so is explicitly permitted by the client or origin server
    #[must_use]
    pub fn may_serve_unreachable(&self, now: Timestamp, limit: Duration) -> bool {
        self.is_fresh(now) || self.is_within(now, self.if_error_ms.unwrap_or(0).max(millis(limit)))
    }

    /// Whether it may stand in at `now` for an answer that says a server failed. `site` is what holds where the response
    /// states no window of its own, `asked` the request's own, in seconds.
    ///
    //= https://www.rfc-editor.org/rfc/rfc5861#section-4
    //# When used as a request Cache-Control extension, its scope of
    //# application is the request it appears in; when used as a response
    //# Cache-Control extension, its scope is any request applicable to the
    //# cached response it occurs in.
    #[must_use]
    pub fn may_serve_on_error(
        &self,
        now: Timestamp,
        site: Option<Duration>,
        asked: Option<u64>,
    ) -> bool {
        let granted = self.if_error_ms.or_else(|| site.map(millis));
        let wanted = asked.map(|seconds| seconds.saturating_mul(1000));
        granted
            .max(wanted)
            .is_some_and(|window_ms| self.is_within(now, window_ms))
    }

    /// Whether it may be served stale, and is no further past its lifetime than that.
    fn is_within(&self, now: Timestamp, window_ms: u64) -> bool {
        self.stale_allowed && self.age_ms(now) < self.lifetime_ms.saturating_add(window_ms)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The statuses that `stale-if-error` speaks of.
///
//= https://www.rfc-editor.org/rfc/rfc5861#section-4
//# In this context, an error is any situation which would result in a
//# 500, 502, 503 or 504 HTTP response status code being returned.
#[must_use]
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Whether a response may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storable {
    /// It may, and ages like this.
    Store(Freshness),
    /// It may not.
    Pass(Reason),
}

/// Why a response is not stored. The first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request was no GET.
    Method,
    /// A status that is not final, that is handled elsewhere, or that must be understood and is not.
    Status,
    /// `no-store`.
    NoStore,
    /// `private`.
    Private,
    /// The request carried `Authorization` and the response does not allow sharing.
    Authorization,
    /// It sets a cookie, which is one user's.
    SetCookie,
    /// `Vary: *`, or more fields than are compared.
    Vary,
    /// It says nothing of its freshness, and nothing else does.
    NoLifetime,
    /// It would have to be validated before each use and has nothing to validate it by.
    NoValidator,
}

/// Statuses understood: those whose meaning for a cache is that of RFC 9110 without further handling. 206 and 304 are handled elsewhere.
fn understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203
            | 204
            | 300
            | 301
            | 302
            | 303
            | 307
            | 308
            | 400
            | 403
            | 404
            | 405
            | 410
            | 414
            | 421
            | 451
            | 500
            | 501
            | 502
            | 503
            | 504
    )
}

/// Why a response with this status and these directives may not be stored by anyone who shares it.
fn forbidden(status: StatusCode, directives: &ResponseDirectives) -> Option<Reason> {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-3
    //# the response status code is final
    if status.is_informational() || matches!(status.as_u16(), 206 | 304) {
        return Some(Reason::Status);
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-3
    //# if the response status code is 206 or 304, or the must-understand
    //# cache directive (see Section 5.2.2.3) is present: the cache
    //# understands the response status code
    if directives.must_understand && !understood(status) {
        return Some(Reason::Status);
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.3
    //# When a cache that implements the must-understand directive receives a
    //# response that includes it, the cache SHOULD ignore the no-store
    //# directive if it understands and implements the status code's caching
    //# requirements.
    if directives.no_store && !directives.must_understand {
        return Some(Reason::NoStore);
    }
    directives.private.then_some(Reason::Private)
}

/// Decides about a response that just arrived. `headers` are its end-to-end fields.
#[must_use]
pub fn storable(
    request: &RequestFacts<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    policy: &SitePolicy,
    request_time: Timestamp,
    response_time: Timestamp,
) -> Storable {
    let targeted = targeted::select(headers, &policy.cache_control_targets);
    let directives = targeted.unwrap_or_else(|| ResponseDirectives::of(headers));
    if request.method != Method::GET {
        return Storable::Pass(Reason::Method);
    }
    if let Some(reason) = forbidden(status, &directives) {
        return Storable::Pass(reason);
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-3.5
    //# A shared cache MUST NOT use a cached response to a request with an
    //# Authorization header field to satisfy any subsequent
    //# request unless the response contains a Cache-Control field with a
    //# response directive that allows it to be stored by a shared cache
    let shared = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    if request.headers.contains_key(header::AUTHORIZATION) && !shared {
        return Storable::Pass(Reason::Authorization);
    }
    if headers.contains_key(header::SET_COOKIE) {
        return Storable::Pass(Reason::SetCookie);
    }
    if blame::is_about_the_request(status) {
        return Storable::Pass(Reason::Status);
    }
    if blame::is_a_guess_for_one_user(request.headers, headers, &directives) {
        return Storable::Pass(Reason::NoLifetime);
    }
    if vary::nominated(headers).is_none() {
        return Storable::Pass(Reason::Vary);
    }
    let expires = targeted.is_none();
    let Some(lifetime_ms) = explicit_lifetime_ms(&directives, expires, headers, response_time)
        // It is never used without validation, however long it were fresh.
        .or_else(|| directives.no_cache.then_some(0))
        .or_else(|| implicit_lifetime_ms(&directives, status, headers, policy, response_time))
    else {
        return Storable::Pass(Reason::NoLifetime);
    };
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.4
    //# The no-cache response directive, in its unqualified form (without an
    //# argument), indicates that the response MUST NOT be used to satisfy
    //# any other request without forwarding it for validation
    let lifetime_ms = if directives.no_cache { 0 } else { lifetime_ms };
    if lifetime_ms == 0 && Validators::of(headers).is_empty() {
        return Storable::Pass(Reason::NoValidator);
    }
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    Storable::Store(Freshness {
        lifetime_ms,
        initial_age_ms: age::initial_age_ms(headers, request_time, response_time),
        response_time,
        while_revalidate_ms: directives.stale_while_revalidate.map_or(0, ms),
        if_error_ms: directives.stale_if_error.map(ms),
        stale_allowed: !directives.forbids_stale(),
        immutable: directives.immutable,
    })
}

/// Whether a response says itself how long it is fresh (RFC 9111 §4.2.1), in a field that counts at this site.
#[must_use]
pub fn is_explicit(headers: &HeaderMap, policy: &SitePolicy, response_time: Timestamp) -> bool {
    let targeted = targeted::select(headers, &policy.cache_control_targets);
    let expires = targeted.is_none();
    let directives = targeted.unwrap_or_else(|| ResponseDirectives::of(headers));
    explicit_lifetime_ms(&directives, expires, headers, response_time).is_some()
}

/// The lifetime of a response that states none, milliseconds: the site's, else a heuristic one. `None`: it has none.
fn implicit_lifetime_ms(
    directives: &ResponseDirectives,
    status: StatusCode,
    headers: &HeaderMap,
    policy: &SitePolicy,
    response_time: Timestamp,
) -> Option<u64> {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.2
    //# A cache MUST NOT use heuristics to determine freshness when an
    //# explicit expiration time is present in the stored response. Because
    //# of the requirements in Section 3, heuristics can only be used on
    //# responses without explicit freshness whose status codes are defined
    //# as "heuristically cacheable" (e.g., see Section 15.1 of [HTTP]) and on
    //# responses without explicit freshness that have been marked as
    //# explicitly cacheable (e.g., with a public response directive).
    if !directives.public && !heuristic::allows(status) {
        return None;
    }
    match policy.default_ttl {
        Some(ttl) => Some(millis(ttl)),
        None if policy.heuristic => heuristic::lifetime_ms(headers, response_time),
        None => None,
    }
}

/// The lifetime a response states, milliseconds (RFC 9111 §4.2.1): `s-maxage`, else `max-age`, else `Expires` where that counts.
fn explicit_lifetime_ms(
    directives: &ResponseDirectives,
    expires: bool,
    headers: &HeaderMap,
    response_time: Timestamp,
) -> Option<u64> {
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(seconds.saturating_mul(1000));
    }
    if !expires || !headers.contains_key(header::EXPIRES) {
        return None;
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.3
    //# A cache recipient MUST interpret invalid date formats, especially the
    //# value "0", as representing a time in the past (i.e., "already
    //# expired").
    let Some(expires) = dates::of(headers, &header::EXPIRES, response_time) else {
        return Some(0);
    };
    let date = dates::of(headers, &header::DATE, response_time).unwrap_or(response_time);
    Some(expires.0.saturating_sub(date.0))
}

#[cfg(test)]
mod tests;
