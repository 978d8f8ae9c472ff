//! What a 304 changes of the stored response it confirms (RFC 9111 §3.2).

use http::{HeaderMap, HeaderName, header};

/// Fields of a 304 that say nothing about the stored response.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-3.2
//# Caches are required to update a stored response's header fields from
//# another (typically newer) response in several situations; for
//# example, see Sections 3.4, 4.3.4, and 4.3.5.
///
/// The exceptions there: the length of content that did not travel, and what the stored bytes depend upon.
static KEPT: [HeaderName; 4] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::AGE,
];

/// The stored fields with those of a 304 in place of their namesakes. Hop-by-hop fields are gone from both already.
#[must_use]
pub fn updated(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut merged = stored.clone();
    for name in fresh.keys().filter(|name| !KEPT.contains(name)) {
        merged.remove(name);
        for value in fresh.get_all(name) {
            merged.append(name.clone(), value.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn fields_of_a_304_replace_all_lines_of_their_name_except_those_of_the_body() {
        let map = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let stored = map(&[
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-length", "5"),
            ("x-kept", "k"),
            ("content-encoding", "br"),
        ]);
        let fresh = map(&[
            ("x-a", "3"),
            ("content-length", "0"),
            ("x-new", "n"),
            ("x-new", "m"),
            ("content-encoding", "gzip"),
        ]);
        let expected = map(&[
            ("x-a", "3"),
            ("content-length", "5"),
            ("x-kept", "k"),
            ("content-encoding", "br"),
            ("x-new", "n"),
            ("x-new", "m"),
        ]);
        assert_eq!(updated(&stored, &fresh), expected);
    }
}
