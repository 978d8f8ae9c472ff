//! Whether a response may be stored, and how long it is fresh (RFC 9111 §3, §4.2).

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    age, blame, directives::ResponseDirectives, facts::RequestFacts, policy::SitePolicy,
    validator::Validators, vary,
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
    /// Whether it may be served stale at all.
    pub stale_allowed: bool,
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
        self.stale_allowed
            && self.age_ms(now) < self.lifetime_ms.saturating_add(self.while_revalidate_ms)
    }

    /// Whether it may stand in at `now` for an upstream that cannot be reached (RFC 9111 §4.2.4), for at most `limit` past its lifetime.
    #[must_use]
    pub fn may_serve_unreachable(&self, now: Timestamp, limit: Duration) -> bool {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.stale_allowed && self.age_ms(now) < self.lifetime_ms.saturating_add(limit_ms)
    }
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
    /// Not a status this cache understands.
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
    /// It says nothing of its freshness and the site has no `default_ttl`.
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

/// Statuses to which a site's `default_ttl` applies: those cacheable by default (RFC 9110 §15.1).
fn cacheable_by_default(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
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
    let directives = ResponseDirectives::of(headers);
    if request.method != Method::GET {
        return Storable::Pass(Reason::Method);
    }
    if !understood(status) {
        return Storable::Pass(Reason::Status);
    }
    if directives.no_store {
        return Storable::Pass(Reason::NoStore);
    }
    if directives.private {
        return Storable::Pass(Reason::Private);
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
    let lifetime_ms = match explicit_lifetime_ms(&directives, headers, response_time) {
        Some(lifetime) => lifetime,
        None if directives.no_cache => 0,
        None => match policy.default_ttl {
            Some(ttl) if cacheable_by_default(status) => {
                u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
            }
            _ => return Storable::Pass(Reason::NoLifetime),
        },
    };
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.4
    //# The no-cache response directive, in its unqualified form (without an
    //# argument), indicates that the response MUST NOT be used to satisfy
    //# any other request without forwarding it for validation
    let lifetime_ms = if directives.no_cache { 0 } else { lifetime_ms };
    if lifetime_ms == 0 && Validators::of(headers).is_empty() {
        return Storable::Pass(Reason::NoValidator);
    }
    Storable::Store(Freshness {
        lifetime_ms,
        initial_age_ms: age::initial_age_ms(headers, request_time, response_time),
        response_time,
        while_revalidate_ms: directives
            .stale_while_revalidate
            .unwrap_or(0)
            .saturating_mul(1000),
        stale_allowed: !directives.forbids_stale(),
    })
}

/// The lifetime a response states, milliseconds (RFC 9111 §4.2.1): `s-maxage`, else `max-age`, else `Expires`.
fn explicit_lifetime_ms(
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    response_time: Timestamp,
) -> Option<u64> {
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(seconds.saturating_mul(1000));
    }
    if !headers.contains_key(header::EXPIRES) {
        return None;
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.3
    //# A cache recipient MUST interpret invalid date formats, especially the
    //# value "0", as representing a time in the past (i.e., "already
    //# expired").
    let Some(expires) = age::date(headers, &header::EXPIRES) else {
        return Some(0);
    };
    let date = age::date(headers, &header::DATE).unwrap_or(response_time);
    Some(expires.0.saturating_sub(date.0))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
    fn only_understood_statuses_are_stored() {
        const FRESH: (&str, &str) = ("cache-control", "max-age=60");
        for status in [201, 206, 299, 304, 304, 401, 418, 499, 599] {
            assert_eq!(
                decide(status, &[], &[FRESH]),
                Storable::Pass(Reason::Status),
                "{status}"
            );
        }
        assert_eq!(lifetime_seconds(decide(404, &[], &[FRESH])), Some(60));
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
}
