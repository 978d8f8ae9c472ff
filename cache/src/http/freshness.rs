//! Whether a response may be stored, and how long it is fresh (RFC 9111 §3, §4.2).

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    age, dates, directives::ResponseDirectives, facts::RequestFacts, heuristic, policy::SitePolicy,
    targeted, validator::Validators, vary,
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
    //# When used as a response Cache-Control extension, its scope of
    //# applicability is that of the response
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
//# In this context, an error is any situation that would result in a
//# 500, 502, 503, or 504 HTTP response status code being returned.
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
    //# as heuristically cacheable (e.g., see Section 15.1 of [HTTP]) and on
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
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn decide(
        status: u16,
        request: &[(&'static str, &'static str)],
        response: &[(&'static str, &'static str)],
    ) -> Storable {
        decide_with(&SitePolicy::default(), status, request, response)
    }

    fn decide_with(
        policy: &SitePolicy,
        status: u16,
        request: &[(&'static str, &'static str)],
        response: &[(&'static str, &'static str)],
    ) -> Storable {
        let map = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let facts_headers = map(request);
        let facts = RequestFacts {
            method: &Method::GET,
            headers: &facts_headers,
        };
        storable(
            &facts,
            StatusCode::from_u16(status).unwrap(),
            &map(response),
            policy,
            NOW,
            NOW,
        )
    }

    fn lifetime_seconds(decision: Storable) -> Option<u64> {
        match decision {
            Storable::Store(freshness) => Some(freshness.lifetime_ms / 1000),
            Storable::Pass(_) => None,
        }
    }

    #[test]
    fn the_lifetime_is_the_most_specific_statement() {
        const EXPIRES: (&str, &str) = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        const ETAG: (&str, &str) = ("etag", "\"a\"");
        for (fields, seconds) in [
            (
                vec![("cache-control", "max-age=5, s-maxage=9"), EXPIRES],
                Some(9),
            ),
            (vec![("cache-control", "max-age=5"), EXPIRES], Some(5)),
            (vec![EXPIRES], Some(60)),
            (
                vec![("date", "Sun, 06 Nov 1994 08:49:57 GMT"), EXPIRES],
                Some(40),
            ),
            (vec![("expires", "0"), ETAG], Some(0)),
            (vec![("expires", "0")], None),
            (
                vec![("cache-control", "no-cache, max-age=5"), ETAG],
                Some(0),
            ),
            (vec![ETAG], None),
            (vec![], None),
        ] {
            assert_eq!(
                lifetime_seconds(decide(200, &[], &fields)),
                seconds,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn what_is_one_users_is_never_stored() {
        let pass =
            |request: &[(&'static str, &'static str)],
             response: &[(&'static str, &'static str)]| decide(200, request, response);
        const FRESH: (&str, &str) = ("cache-control", "max-age=60");
        const AUTH: (&str, &str) = ("authorization", "Basic eA==");
        assert_eq!(
            pass(&[], &[("cache-control", "max-age=60, private")]),
            Storable::Pass(Reason::Private)
        );
        assert_eq!(
            pass(&[], &[("cache-control", "max-age=60, No-Store")]),
            Storable::Pass(Reason::NoStore)
        );
        assert_eq!(
            pass(&[], &[FRESH, ("set-cookie", "a=b")]),
            Storable::Pass(Reason::SetCookie)
        );
        assert_eq!(
            pass(&[AUTH], &[FRESH]),
            Storable::Pass(Reason::Authorization)
        );
        assert_eq!(
            pass(&[], &[FRESH, ("vary", "accept, *")]),
            Storable::Pass(Reason::Vary)
        );
        for allowed in [
            "public, max-age=60",
            "s-maxage=60",
            "must-revalidate, max-age=60",
        ] {
            assert_eq!(
                lifetime_seconds(decide(200, &[AUTH], &[("cache-control", allowed)])),
                Some(60),
                "{allowed}"
            );
        }
    }

    #[test]
    fn any_final_status_with_a_lifetime_is_stored_and_206_and_304_are_not() {
        const FRESH: (&str, &str) = ("cache-control", "max-age=60");
        for status in [200, 201, 299, 404, 418, 499, 503, 599, 999] {
            assert_eq!(
                lifetime_seconds(decide(status, &[], &[FRESH])),
                Some(60),
                "{status}"
            );
            assert_eq!(
                decide(status, &[], &[]),
                Storable::Pass(Reason::NoLifetime),
                "{status}"
            );
        }
        for status in [100, 103, 206, 304] {
            assert_eq!(
                decide(status, &[], &[FRESH]),
                Storable::Pass(Reason::Status),
                "{status}"
            );
        }
    }

    #[test]
    fn must_understand_overrides_no_store_where_the_status_is_understood_and_forbids_storing_elsewhere()
     {
        const BOTH: (&str, &str) = ("cache-control", "max-age=60, no-store, must-understand");
        const ALONE: (&str, &str) = ("cache-control", "max-age=60, must-understand");
        for field in [BOTH, ALONE] {
            assert_eq!(lifetime_seconds(decide(200, &[], &[field])), Some(60));
            for status in [201, 299, 599] {
                assert_eq!(
                    decide(status, &[], &[field]),
                    Storable::Pass(Reason::Status),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn a_response_without_a_lifetime_gets_a_heuristic_one_where_that_is_allowed() {
        const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT");
        const PUBLIC: (&str, &str) = ("cache-control", "public");
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(
                lifetime_seconds(decide(status, &[], &[MODIFIED])),
                Some(360),
                "{status}"
            );
        }
        for status in [201, 202, 302, 403, 502, 503, 504, 599] {
            assert_eq!(
                decide(status, &[], &[MODIFIED]),
                Storable::Pass(Reason::NoLifetime),
                "{status}"
            );
            assert_eq!(
                lifetime_seconds(decide(status, &[], &[MODIFIED, PUBLIC])),
                Some(360)
            );
        }
        assert_eq!(
            decide(200, &[], &[PUBLIC]),
            Storable::Pass(Reason::NoLifetime)
        );
        for explicit in [
            ("cache-control", "max-age=5"),
            ("expires", "Sun, 06 Nov 1994 08:49:42 GMT"),
        ] {
            assert_eq!(
                lifetime_seconds(decide(200, &[], &[MODIFIED, explicit])),
                Some(5)
            );
        }
        let off = SitePolicy {
            heuristic: false,
            ..SitePolicy::default()
        };
        assert_eq!(
            decide_with(&off, 200, &[], &[MODIFIED]),
            Storable::Pass(Reason::NoLifetime)
        );
    }

    #[test]
    fn a_targeted_field_speaks_in_place_of_cache_control_and_expires() {
        const CDN: &str = "cdn-cache-control";
        const EXPIRES: (&str, &str) = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        const NO_STORE: (&str, &str) = ("cache-control", "no-store");
        const LONG: (&str, &str) = ("cache-control", "max-age=3600");
        for (fields, expected) in [
            (vec![(CDN, "max-age=7")], Some(7)),
            (vec![(CDN, "max-age=7"), NO_STORE], Some(7)),
            (vec![(CDN, "max-age=7"), LONG, EXPIRES], Some(7)),
            (vec![(CDN, "foo"), LONG, EXPIRES], None),
            (vec![(CDN, "max-age=\"7\""), LONG, EXPIRES], None),
            (vec![(CDN, "no-store"), LONG], None),
            (vec![(CDN, "private"), LONG], None),
            (vec![(CDN, ""), LONG], Some(3600)),
            (vec![(CDN, "max-age=7, &"), LONG], Some(3600)),
            (vec![(CDN, "max-age=7, &"), NO_STORE], None),
        ] {
            assert_eq!(
                lifetime_seconds(decide(200, &[], &fields)),
                expected,
                "{fields:?}"
            );
        }
        let untargeted = SitePolicy {
            cache_control_targets: Vec::new(),
            ..SitePolicy::default()
        };
        assert_eq!(
            lifetime_seconds(decide_with(
                &untargeted,
                200,
                &[],
                &[(CDN, "max-age=7"), LONG]
            )),
            Some(3600)
        );
    }

    #[test]
    fn an_error_is_covered_by_what_response_site_or_request_permits() {
        let stored = |line: &'static str| match decide(200, &[], &[("cache-control", line)]) {
            Storable::Store(freshness) => freshness,
            Storable::Pass(reason) => panic!("{reason:?}"),
        };
        let site = Some(Duration::from_secs(30));
        for (line, site, asked, last) in [
            ("max-age=10, stale-if-error=20", None, None, Some(29)),
            // What the response says goes before the site's rule.
            ("max-age=10, stale-if-error=20", site, None, Some(29)),
            ("max-age=10, stale-if-error=20", None, Some(60), Some(69)),
            ("max-age=10", site, None, Some(39)),
            ("max-age=10", None, Some(5), Some(14)),
            ("max-age=10", None, None, None),
            (
                "max-age=10, stale-if-error=20, must-revalidate",
                site,
                Some(60),
                None,
            ),
            ("s-maxage=10, stale-if-error=20", site, None, None),
        ] {
            let freshness = stored(line);
            let may = |seconds: u64| {
                freshness.may_serve_on_error(NOW.plus(Duration::from_secs(seconds)), site, asked)
            };
            match last {
                Some(last) => assert!(may(last) && !may(last + 1), "{line} {site:?} {asked:?}"),
                None => assert!(!may(10), "{line} {site:?} {asked:?}"),
            }
        }
        assert!(
            stored("max-age=10, stale-if-error=99")
                .may_serve_unreachable(NOW.plus(Duration::from_secs(100)), Duration::from_secs(1))
        );
    }

    #[test]
    fn the_sites_default_applies_where_the_response_is_silent() {
        let policy = SitePolicy {
            default_ttl: Some(Duration::from_secs(7)),
            ..SitePolicy::default()
        };
        assert_eq!(
            lifetime_seconds(decide_with(&policy, 200, &[], &[])),
            Some(7)
        );
        assert_eq!(
            lifetime_seconds(decide_with(
                &policy,
                200,
                &[],
                &[("cache-control", "max-age=1")]
            )),
            Some(1)
        );
        assert_eq!(lifetime_seconds(decide_with(&policy, 503, &[], &[])), None);
        assert_eq!(
            lifetime_seconds(decide_with(
                &policy,
                200,
                &[],
                &[("last-modified", "Sat, 05 Nov 1994 08:49:37 GMT")]
            )),
            Some(7),
            "the operator's rule goes before a guess"
        );
    }

    #[test]
    fn a_response_ages_and_its_stale_windows_end() {
        let Storable::Store(freshness) = decide(
            200,
            &[],
            &[
                ("cache-control", "max-age=10, stale-while-revalidate=5"),
                ("age", "4"),
            ],
        ) else {
            panic!("storable")
        };
        let at = |seconds: u64| NOW.plus(Duration::from_secs(seconds));
        assert!(freshness.is_fresh(at(5)) && !freshness.is_fresh(at(6)));
        assert!(
            freshness.may_serve_while_revalidating(at(10))
                && !freshness.may_serve_while_revalidating(at(11))
        );
        assert!(freshness.may_serve_unreachable(at(65), Duration::from_secs(60)));
        assert!(!freshness.may_serve_unreachable(at(66), Duration::from_secs(60)));
        for forbidding in [
            "max-age=1, must-revalidate",
            "max-age=1, proxy-revalidate",
            "s-maxage=1",
        ] {
            let Storable::Store(freshness) = decide(200, &[], &[("cache-control", forbidding)])
            else {
                panic!("storable")
            };
            assert!(
                !freshness.may_serve_unreachable(at(2), Duration::from_secs(60)),
                "{forbidding}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_bytes_and_no_times_panic_or_make_an_age_negative(
            fields in proptest::collection::vec(
                (
                    prop_oneof![
                        Just("cache-control"), Just("cdn-cache-control"), Just("expires"), Just("date"),
                        Just("age"), Just("last-modified"), Just("vary"), Just("etag"),
                    ],
                    prop_oneof![
                        proptest::collection::vec(any::<u8>(), 0..40),
                        "(max-age|s-maxage|stale-if-error|stale-while-revalidate)=\"?[0-9]{0,25}\"?".prop_map(String::into_bytes),
                        "[0-9]{0,25}".prop_map(String::into_bytes),
                        "Sun, [0-9]{2} (Nov|Feb) [0-9]{4} [0-2][0-9]:[0-9]{2}:[0-9]{2} GMT".prop_map(String::into_bytes),
                    ],
                ),
                0..8,
            ),
            status in 100_u16..1000,
            request_time: u64,
            response_time: u64,
            now: u64,
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(name, value);
                }
            }
            let request = HeaderMap::new();
            let facts = RequestFacts { method: &Method::GET, headers: &request };
            let (request_time, response_time, now) = (Timestamp(request_time), Timestamp(response_time), Timestamp(now));
            let status = StatusCode::from_u16(status).unwrap();
            let decision = storable(&facts, status, &headers, &SitePolicy::default(), request_time, response_time);
            if let Storable::Store(freshness) = decision {
                let _ = freshness.ttl_ms(now);
                prop_assert!(freshness.age_ms(now) >= freshness.initial_age_ms);
                prop_assert!(freshness.age_ms(now.plus(Duration::from_secs(1))) >= freshness.age_ms(now));
                if freshness.is_fresh(now) {
                    prop_assert!(freshness.may_serve_unreachable(now, Duration::ZERO));
                }
            }
        }
    }
}
