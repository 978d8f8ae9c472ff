//! Whom a response speaks to: the one request that was sent, those like it, or everybody who asks for the URL.
//!
//! A cache key is a URL. What an origin says because of a client's other fields, their size or their bytes, is no answer
//! for the next client, however long the origin calls it fresh: whoever can make an origin refuse a header could
//! otherwise have the refusal served to everyone. Nor does it say that the URL is uncacheable: whoever can have that remembered
//! could send a crowd to the origin that one fetch would have served.

use http::{HeaderMap, StatusCode, header};

use super::{directives::ResponseDirectives, freshness::Reason};

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

/// For whom it is settled that a URL's response is not stored, once one was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everybody.
    Everyone,
    /// Requests with `Authorization`.
    WithAuthorization,
    /// Requests with a cookie.
    WithCookie,
    /// The request that was sent, and no other.
    Nobody,
}

impl Reach {
    /// What a response that is not stored for this reason says about other requests than the one that brought it.
    ///
    /// The widest is chosen only where nothing in the request can be the cause.
    #[must_use]
    pub fn of(reason: Reason, status: StatusCode, request: &HeaderMap) -> Self {
        match reason {
            _ if is_about_the_request(status) => Self::Nobody,
            Reason::Authorization => Self::WithAuthorization,
            Reason::NoLifetime if request.contains_key(header::COOKIE) => Self::WithCookie,
            Reason::Method
            | Reason::Status
            | Reason::NoStore
            | Reason::Private
            | Reason::SetCookie
            | Reason::Vary
            | Reason::NoLifetime
            | Reason::NoValidator => Self::Everyone,
        }
    }

    /// Whether a request is among them.
    #[must_use]
    pub fn includes(self, request: &HeaderMap) -> bool {
        match self {
            Self::Everyone => true,
            Self::WithAuthorization => request.contains_key(header::AUTHORIZATION),
            Self::WithCookie => request.contains_key(header::COOKIE),
            Self::Nobody => false,
        }
    }
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
    fn what_a_request_may_have_caused_is_not_said_of_others() {
        const NONE: &[(&str, &str)] = &[];
        let cookie: &[_] = &[("cookie", "session=1")];
        let authorized: &[_] = &[("authorization", "Basic eA==")];
        for (reason, status, request, reach) in [
            (Reason::Status, 400, NONE, Reach::Nobody),
            (Reason::NoStore, 431, NONE, Reach::Nobody),
            (Reason::NoStore, 200, cookie, Reach::Everyone),
            (Reason::Private, 200, authorized, Reach::Everyone),
            (
                Reason::Authorization,
                200,
                authorized,
                Reach::WithAuthorization,
            ),
            (Reason::NoLifetime, 200, cookie, Reach::WithCookie),
            (Reason::NoLifetime, 200, NONE, Reach::Everyone),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                Reach::of(reason, status, &map(request)),
                reach,
                "{reason:?} {status} {request:?}"
            );
        }
        assert!(Reach::Everyone.includes(&map(NONE)) && !Reach::Nobody.includes(&map(cookie)));
        assert!(Reach::WithCookie.includes(&map(cookie)));
        assert!(!Reach::WithCookie.includes(&map(authorized)));
        assert!(Reach::WithAuthorization.includes(&map(authorized)));
        assert!(!Reach::WithAuthorization.includes(&map(cookie)));
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
