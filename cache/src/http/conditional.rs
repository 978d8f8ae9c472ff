//! Conditional requests, in both directions: a client's condition answered from the store, and ours put to the upstream.

use http::{HeaderMap, HeaderName, header};

use super::{
    age,
    facts::RequestFacts,
    validator::{Validators, any_matches, parse_date},
};
use crate::time::Timestamp;

/// Whether a stored 200 may be answered as 304 to this request.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
//# A recipient MUST ignore If-Modified-Since if the request contains an
//# If-None-Match header field
///
/// Where the response has no `Last-Modified`, its `Date` stands in, else the time it arrived (RFC 9111 §4.3.2).
#[must_use]
pub fn not_modified(
    request: &RequestFacts<'_>,
    stored: &HeaderMap,
    response_time: Timestamp,
) -> bool {
    if request.headers.contains_key(header::IF_NONE_MATCH) {
        return any_matches(
            request.headers.get_all(header::IF_NONE_MATCH).iter(),
            stored.get(header::ETAG),
        );
    }
    let Some(since) = request
        .headers
        .get(header::IF_MODIFIED_SINCE)
        .and_then(parse_date)
    else {
        return false;
    };
    let modified = age::date(stored, &header::LAST_MODIFIED)
        .or_else(|| age::date(stored, &header::DATE))
        .unwrap_or(response_time);
    modified <= since
}

/// Fields that make a request conditional or partial; none of them goes along when the whole is fetched.
static CONDITIONS: [HeaderName; 6] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// Whether a request asks for something other than the whole, whatever it is.
#[must_use]
pub fn is_partial_or_conditional(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Makes a request one for the whole, whatever the client's condition or range was.
pub fn strip(headers: &mut HeaderMap) {
    for name in &CONDITIONS {
        headers.remove(name);
    }
}

/// Makes a request one that asks whether a stored response still holds (RFC 9111 §4.3.1).
pub fn validate(headers: &mut HeaderMap, stored: &Validators<'_>) {
    strip(headers);
    if let Some(etag) = stored.etag {
        headers.insert(header::IF_NONE_MATCH, etag.clone());
    }
    if let Some(last_modified) = stored.last_modified {
        headers.insert(header::IF_MODIFIED_SINCE, last_modified.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;

    const EARLY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATE: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn if_none_match_goes_before_if_modified_since() {
        let stored = map(&[("etag", "\"a\""), ("last-modified", EARLY)]);
        for (request, expected) in [
            (map(&[("if-none-match", "\"a\"")]), true),
            (map(&[("if-none-match", "W/\"a\"")]), true),
            (map(&[("if-none-match", "*")]), true),
            (
                map(&[("if-none-match", "\"b\""), ("if-modified-since", LATE)]),
                false,
            ),
            (map(&[("if-modified-since", LATE)]), true),
            (map(&[("if-modified-since", EARLY)]), true),
            (map(&[("if-modified-since", "yesterday")]), false),
            (map(&[]), false),
        ] {
            let facts = RequestFacts {
                method: &Method::GET,
                headers: &request,
            };
            assert_eq!(
                not_modified(&facts, &stored, Timestamp(0)),
                expected,
                "{request:?}"
            );
        }
    }

    #[test]
    fn without_a_modification_date_the_response_date_counts() {
        let request = map(&[("if-modified-since", LATE)]);
        let facts = RequestFacts {
            method: &Method::GET,
            headers: &request,
        };
        assert!(not_modified(
            &facts,
            &map(&[("date", EARLY)]),
            Timestamp(u64::MAX)
        ));
        assert!(not_modified(&facts, &map(&[]), Timestamp(1)));
        assert!(!not_modified(&facts, &map(&[]), Timestamp(u64::MAX)));
    }
}
