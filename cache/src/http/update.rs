//! Which stored responses a 304 or an answer to HEAD speaks of, and what it changes of them (RFC 9111 §3.2, §4.3.4, §4.3.5).

use http::{HeaderMap, HeaderName, header};

use super::{
    own::own,
    validator::{EntityTag, Validators},
};

/// Fields of a newer response that say nothing about the stored one.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-3.2
//# When doing so, the cache MUST add each header field in the provided
//# response to the stored response, replacing field values that are
//# already present, with the following exceptions:
///
/// Of the exceptions there, `Content-Length` by name; `Content-Encoding` because the stored bytes stay as they were coded when they came;
/// `Content-Range` because it is of the message and not of what is stored. `Age` and `Cache-Status` each reply gets anew.
static KEPT: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::AGE,
    HeaderName::from_static("cache-status"),
];

/// The stored fields with those of a newer response in place of their namesakes, to be kept. Hop-by-hop fields are gone from both already.
#[must_use]
pub fn updated(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut merged = stored.clone();
    let fresh = own(fresh);
    for name in fresh.keys().filter(|name| !KEPT.contains(name)) {
        merged.remove(name);
        for value in fresh.get_all(name) {
            merged.append(name.clone(), value.clone());
        }
    }
    merged
}

/// Whether a 304 to a request that was conditional on `stored` alone speaks of it.
#[must_use]
pub fn confirms(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    let (said, held) = (Validators::of(not_modified), Validators::of(stored));
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.4
    //# If none of the initial set contains at least one of the same strong
    //# validators, then the cache MUST NOT use the new response to update any
    //# stored responses.
    if said.strong().is_some() {
        return shares_strong_validator(not_modified, stored);
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.4
    //# If the new response contains no strong validators but does contain one
    //# or more weak validators, and those validators correspond to one of the
    //# initial set's stored responses, then the most recent of those matching
    //# stored responses is identified for update.
    if let (Some(said), Some(held)) = (said.etag, held.etag) {
        return weak_eq(said.as_bytes(), held.as_bytes());
    }
    match (said.last_modified, held.last_modified) {
        (Some(said), Some(held)) => said == held,
        (Some(_), None) => false,
        // Nothing to tell by: an answer to this one condition is about what it named.
        (None, _) => said.etag.is_none(),
    }
}

/// Whether both carry the same strong entity tag.
#[must_use]
pub fn shares_strong_validator(one: &HeaderMap, other: &HeaderMap) -> bool {
    match (Validators::of(one).strong(), Validators::of(other).strong()) {
        (Some(one), Some(other)) => one.as_bytes().trim_ascii() == other.as_bytes().trim_ascii(),
        (Some(_), None) | (None, _) => false,
    }
}

/// Whether a 200 to HEAD describes the stored response, whose body has `length` bytes.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.5
//# For each of the stored responses that could have been chosen, if the
//# stored response and HEAD response have matching values for any received
//# validator fields (ETag and Last-Modified) and, if the HEAD response has
//# a Content-Length header field, the value of Content-Length matches that
//# of the stored response, the cache SHOULD update the stored response as
//# described below; otherwise, the cache SHOULD consider the stored
//# response to be stale.
#[must_use]
pub fn describes(head: &HeaderMap, stored: &HeaderMap, length: u64) -> bool {
    let same = |name: HeaderName| {
        head.get(&name)
            .is_none_or(|said| stored.get(&name) == Some(said))
    };
    let length = length.to_string();
    same(header::ETAG)
        && same(header::LAST_MODIFIED)
        && head
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .all(|said| said.as_bytes() == length.as_bytes())
}

fn weak_eq(one: &[u8], other: &[u8]) -> bool {
    match (EntityTag::parse(one), EntityTag::parse(other)) {
        (Some(one), Some(other)) => one.weak_eq(&other),
        (Some(_), None) | (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const EARLY: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
    const LATE: &str = "Thu, 02 Jan 2020 00:00:00 GMT";

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn fields_of_a_304_replace_all_lines_of_their_name_except_those_of_the_body() {
        let stored = map(&[
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-length", "5"),
            ("x-kept", "k"),
            ("content-encoding", "br"),
            ("content-type", "text/plain"),
        ]);
        let fresh = map(&[
            ("x-a", "3"),
            ("content-length", "0"),
            ("x-new", "n"),
            ("x-new", "m"),
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-1/2"),
            ("content-type", "text/html"),
            ("age", "7"),
        ]);
        let expected = map(&[
            ("x-a", "3"),
            ("content-length", "5"),
            ("x-kept", "k"),
            ("content-encoding", "br"),
            ("content-type", "text/html"),
            ("x-new", "n"),
            ("x-new", "m"),
        ]);
        assert_eq!(updated(&stored, &fresh), expected);
    }

    #[test]
    fn a_304_speaks_of_what_shares_its_strongest_validator() {
        for (said, held, wanted) in [
            (map(&[("etag", "\"a\"")]), map(&[("etag", "\"a\"")]), true),
            (map(&[("etag", "\"a\"")]), map(&[("etag", "\"b\"")]), false),
            (
                map(&[("etag", "\"a\"")]),
                map(&[("etag", "W/\"a\"")]),
                false,
            ),
            (map(&[("etag", "W/\"a\"")]), map(&[("etag", "\"a\"")]), true),
            (
                map(&[("etag", "W/\"a\"")]),
                map(&[("etag", "W/\"b\"")]),
                false,
            ),
            (
                map(&[("etag", "\"a\"")]),
                map(&[("last-modified", EARLY)]),
                false,
            ),
            (
                map(&[("etag", "\"a\""), ("last-modified", LATE)]),
                map(&[("etag", "\"a\""), ("last-modified", EARLY)]),
                true,
            ),
            (
                map(&[("last-modified", EARLY)]),
                map(&[("etag", "\"a\""), ("last-modified", EARLY)]),
                true,
            ),
            (
                map(&[("last-modified", LATE)]),
                map(&[("last-modified", EARLY)]),
                false,
            ),
            (
                map(&[("last-modified", LATE)]),
                map(&[("etag", "\"a\"")]),
                false,
            ),
            (
                map(&[("etag", "W/\"a\""), ("last-modified", EARLY)]),
                map(&[("last-modified", EARLY)]),
                true,
            ),
            (map(&[]), map(&[("etag", "\"a\"")]), true),
            (map(&[]), map(&[("last-modified", EARLY)]), true),
        ] {
            assert_eq!(confirms(&said, &held), wanted, "{said:?} of {held:?}");
        }
    }

    #[test]
    fn a_head_describes_what_has_its_validators_and_length() {
        let stored = map(&[("etag", "\"a\""), ("last-modified", EARLY)]);
        for (head, wanted) in [
            (map(&[]), true),
            (map(&[("content-length", "5")]), true),
            (map(&[("content-length", "6")]), false),
            (map(&[("content-length", "5"), ("etag", "\"a\"")]), true),
            (map(&[("content-length", "5"), ("etag", "\"b\"")]), false),
            (map(&[("etag", "W/\"a\"")]), false),
            (map(&[("last-modified", EARLY)]), true),
            (map(&[("last-modified", LATE)]), false),
        ] {
            assert_eq!(describes(&head, &stored, 5), wanted, "{head:?}");
        }
        assert!(!describes(&stored, &map(&[]), 5));
    }

    /// Fields as plain lists of values, which is all that §3.2 speaks of.
    type Model = BTreeMap<&'static str, Vec<u8>>;

    fn fields() -> impl Strategy<Value = Model> {
        let names = prop::sample::select(vec![
            "x-a",
            "x-b",
            "cache-control",
            "content-type",
            "etag",
            "date",
            "content-length",
            "content-encoding",
            "content-range",
            "age",
        ]);
        prop::collection::btree_map(names, prop::collection::vec(b'a'..=b'e', 1..3), 0..8)
    }

    fn headers(model: &Model) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in model {
            for value in values {
                headers.append(*name, HeaderValue::from_bytes(&[*value]).unwrap());
            }
        }
        headers
    }

    proptest! {
        #[test]
        fn after_any_sequence_of_304s_each_field_is_the_last_one_said(
            stored in fields(),
            sequence in prop::collection::vec(fields(), 0..8),
        ) {
            let fixed = ["content-length", "content-encoding", "content-range", "age"];
            let (mut real, mut model) = (headers(&stored), stored);
            for said in &sequence {
                real = updated(&real, &headers(said));
                for (name, values) in said.iter().filter(|(name, _)| !fixed.contains(name)) {
                    model.insert(name, values.clone());
                }
            }
            prop_assert_eq!(real, headers(&model));
        }
    }
}
