//! Statuses that speak of the one request that was sent, and not of the resource it names.
//!
//! A cache key is a URL. What an origin says because of a client's other fields, their size or their bytes, is no answer
//! for the next client, however long the origin calls it fresh: whoever can make an origin refuse a header could
//! otherwise have the refusal served to everyone.

use http::{HeaderMap, StatusCode, header};

use super::directives::ResponseDirectives;

/// Whether `status` is about the request's fields, body, rate or connection. Such a response is never stored.
///
/// 403, 404, 405, 410, 414, 451 and 501 are not here: they speak of the URL or the method, which are the key's.
#[must_use]
pub fn is_about_the_request(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        400 | 407 | 408 | 411 | 412 | 413 | 415 | 416 | 417 | 421 | 425 | 426 | 428 | 429 | 431
    )
}

/// Whether a response to a request with a cookie says nothing of its own freshness.
///
/// The lifetime would then be a guess of the site's or of a heuristic, and a guess does not hold for what may have been made for one
/// user: an origin that answers `/account/x.css` with the account page would give that page to whoever asks next.
#[must_use]
pub fn is_a_guess_for_one_user(
    request: &HeaderMap,
    response: &HeaderMap,
    directives: &ResponseDirectives,
) -> bool {
    request.contains_key(header::COOKIE)
        && directives.max_age.is_none()
        && directives.s_maxage.is_none()
        && !directives.public
        && !directives.no_cache
        && !response.contains_key(header::EXPIRES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::http::facts::RequestFacts;
    use crate::http::freshness::{Reason, Storable, storable};
    use crate::http::policy::SitePolicy;
    use crate::time::Timestamp;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn decide(
        status: u16,
        request: &[(&'static str, &'static str)],
        response: &[(&'static str, &'static str)],
    ) -> Storable {
        let headers = map(request);
        let request = RequestFacts {
            method: &Method::GET,
            headers: &headers,
        };
        let policy = SitePolicy {
            default_ttl: Some(Duration::from_secs(60)),
            ..SitePolicy::default()
        };
        let now = Timestamp(784_111_777_000);
        let status = StatusCode::from_u16(status).unwrap();
        storable(&request, status, &map(response), &policy, now, now)
    }

    #[test]
    fn what_speaks_of_one_request_is_never_stored() {
        for status in [400, 408, 413, 421, 425, 429, 431] {
            assert_eq!(
                decide(status, &[], &[("cache-control", "public, max-age=60")]),
                Storable::Pass(Reason::Status),
                "{status}"
            );
        }
        for status in [403, 404, 405, 410, 414, 451, 501] {
            let stored = decide(status, &[], &[("cache-control", "max-age=60")]);
            assert!(matches!(stored, Storable::Store(_)), "{status}");
        }
    }

    #[test]
    fn a_guessed_lifetime_needs_a_request_without_cookies() {
        let cookie: &[_] = &[("cookie", "session=1")];
        assert_eq!(decide(200, cookie, &[]), Storable::Pass(Reason::NoLifetime));
        assert!(matches!(decide(200, &[], &[]), Storable::Store(_)));
        for stated in [
            ("cache-control", "max-age=60"),
            ("cache-control", "s-maxage=60"),
            ("cache-control", "public"),
            ("expires", "Sun, 06 Nov 1994 09:49:37 GMT"),
        ] {
            let stored = decide(200, cookie, &[stated]);
            assert!(matches!(stored, Storable::Store(_)), "{stated:?}");
        }
    }
}
