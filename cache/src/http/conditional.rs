//! Conditional requests, in both directions: a client's condition answered from the store, and ours put to the upstream.

use http::{HeaderMap, HeaderName, header};

use super::{
    age,
    facts::RequestFacts,
    validator::{Comparison, Validators, any_matches, parse_date},
};
use crate::time::Timestamp;

/// What a request's conditions come to against a response that is a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// There is none, or it holds: the response goes out.
    Holds,
    /// The client has it (304).
    NotModified,
    /// What the client wanted to act upon is not what is here (412, or the origin's to say).
    Failed,
}

/// Evaluates the conditions of a GET or HEAD, in the order of RFC 9110 §13.2.2, `If-Range` aside.
///
/// Steps 1 and 2 are an origin server's and a cache may ignore them; a cache that stands in for the origin answers them better
/// where it can. So where one fails against a stored response the origin is to be asked, which may have a newer one.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.4
//# A recipient MUST ignore If-Unmodified-Since if the request contains
//# an If-Match header field
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
//# A recipient MUST ignore If-Modified-Since if the request contains an
//# If-None-Match header field
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.2
//# If a request contains an If-Modified-Since header field and the Last-
//# Modified header field is not present in a stored response, a cache
//# SHOULD use the stored response's Date field value (or, if no Date
//# field is present, the time that the stored response was received) to
//# evaluate the conditional.
///
/// So what was generated after the client's date counts as modified since: nothing says that it was not. `If-Unmodified-Since` is ignored
/// there: nothing says when the response was last modified.
#[must_use]
pub fn evaluate(
    request: &RequestFacts<'_>,
    stored: &HeaderMap,
    response_time: Timestamp,
) -> Condition {
    let tag = stored.get(header::ETAG);
    let modified = age::date(stored, &header::LAST_MODIFIED);
    if request.headers.contains_key(header::IF_MATCH) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1
        //# An origin server MUST use the strong comparison function when
        //# comparing entity tags for If-Match
        let lines = request.headers.get_all(header::IF_MATCH).iter();
        if !any_matches(lines, tag, Comparison::Strong) {
            return Condition::Failed;
        }
    } else if let (Some(limit), Some(modified)) = (
        one_date(request.headers, &header::IF_UNMODIFIED_SINCE),
        modified,
    ) && modified > limit
    {
        return Condition::Failed;
    }
    let is_held = if request.headers.contains_key(header::IF_NONE_MATCH) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2
        //# A recipient MUST use the weak comparison function when comparing
        //# entity tags for If-None-Match
        let lines = request.headers.get_all(header::IF_NONE_MATCH).iter();
        any_matches(lines, tag, Comparison::Weak)
    } else {
        one_date(request.headers, &header::IF_MODIFIED_SINCE).is_some_and(|since| {
            let modified = modified
                .or_else(|| age::date(stored, &header::DATE))
                .unwrap_or(response_time);
            modified <= since
        })
    };
    if is_held {
        Condition::NotModified
    } else {
        Condition::Holds
    }
}

/// A date a request states once.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
//# A recipient MUST ignore the If-Modified-Since header field if the
//# received field value is not a valid HTTP-date, the field value has
//# more than one member, or if the request method is neither GET nor
//# HEAD.
fn one_date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    let mut lines = headers.get_all(name).iter();
    let date = parse_date(lines.next()?)?;
    lines.next().is_none().then_some(date)
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

    fn against(
        request: &[(&'static str, &'static str)],
        stored: &[(&'static str, &'static str)],
        response_time: u64,
    ) -> Condition {
        let facts = RequestFacts {
            method: &Method::GET,
            headers: &map(request),
        };
        evaluate(&facts, &map(stored), Timestamp(response_time))
    }

    #[test]
    fn conditions_are_evaluated_in_their_order_of_precedence() {
        use Condition::{Failed, Holds, NotModified};
        let stored = &[("etag", "\"a\""), ("last-modified", EARLY)];
        const BEFORE: &str = "Sat, 05 Nov 1994 08:49:37 GMT";
        let table: &[(&[(&str, &str)], Condition)] = &[
            (&[], Holds),
            (&[("if-none-match", "\"a\"")], NotModified),
            (&[("if-none-match", "W/\"a\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"b\", \"a\"")], NotModified),
            (
                &[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")],
                NotModified,
            ),
            (
                &[("if-none-match", "\"b\""), ("if-modified-since", LATE)],
                Holds,
            ),
            (
                &[("if-none-match", "\"a\""), ("if-modified-since", BEFORE)],
                NotModified,
            ),
            (&[("if-modified-since", LATE)], NotModified),
            (&[("if-modified-since", EARLY)], NotModified),
            (&[("if-modified-since", BEFORE)], Holds),
            (&[("if-modified-since", "yesterday")], Holds),
            (
                &[("if-modified-since", LATE), ("if-modified-since", LATE)],
                Holds,
            ),
            (&[("if-match", "\"a\"")], Holds),
            (&[("if-match", "*")], Holds),
            (&[("if-match", "\"b\", \"a\"")], Holds),
            (&[("if-match", "W/\"a\"")], Failed),
            (&[("if-match", "\"b\"")], Failed),
            (&[("if-match", "nonsense")], Failed),
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Failed),
            (
                &[("if-match", "\"a\""), ("if-none-match", "\"a\"")],
                NotModified,
            ),
            (
                &[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)],
                Holds,
            ),
            (&[("if-unmodified-since", BEFORE)], Failed),
            (&[("if-unmodified-since", EARLY)], Holds),
            (&[("if-unmodified-since", "yesterday")], Holds),
            (
                &[("if-unmodified-since", LATE), ("if-modified-since", LATE)],
                NotModified,
            ),
            (
                &[("if-unmodified-since", BEFORE), ("if-none-match", "\"a\"")],
                Failed,
            ),
        ];
        for (request, expected) in table {
            assert_eq!(against(request, stored, 0), *expected, "{request:?}");
        }
    }

    #[test]
    fn a_weak_tag_never_satisfies_if_match() {
        for stored in [&[("etag", "W/\"a\"")][..], &[]] {
            assert_eq!(
                against(&[("if-match", "\"a\"")], stored, 0),
                Condition::Failed
            );
            assert_eq!(against(&[("if-match", "*")], stored, 0), Condition::Holds);
        }
    }

    #[test]
    fn without_a_modification_date_the_response_date_counts() {
        let since = &[("if-modified-since", LATE)];
        for (stored, response_time, expected) in [
            (&[("date", EARLY)][..], u64::MAX, Condition::NotModified),
            (&[], 1, Condition::NotModified),
            (&[], u64::MAX, Condition::Holds),
        ] {
            assert_eq!(against(since, stored, response_time), expected);
        }
        assert_eq!(
            against(&[("if-unmodified-since", EARLY)], &[("date", LATE)], 0),
            Condition::Holds
        );
    }
}
