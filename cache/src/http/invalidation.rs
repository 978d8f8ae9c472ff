//! What an unsafe request makes invalid (RFC 9111 §4.4). Pure: methods, statuses and references in, decisions out.

use http::{HeaderMap, Method, StatusCode, header};

use super::freshness::Freshness;

/// Whether a request with this method may change what it is about.
///
/// Safe are the methods registered as such (RFC 9110 §16.1.1); any other, unknown ones included, is not.
#[must_use]
pub fn is_unsafe(method: &Method) -> bool {
    !(method.is_safe() || matches!(method.as_str(), "PROPFIND" | "QUERY" | "REPORT" | "SEARCH"))
}

/// Whether this final answer to an unsafe request invalidates what is stored of its target.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
//# A cache MUST invalidate the target URI (Section 7.1 of [HTTP]) when
//# it receives a non-error status code in response to an unsafe request
//# method (including methods whose safety is unknown).
#[must_use]
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
    //# A "non-error response" is one with a 2xx (Successful) or 3xx
    //# (Redirection) status code.
    is_unsafe(method) && (status.is_success() || status.is_redirection())
}

/// A stored response that is to be validated before each use, whatever it says of its freshness.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
//# "Invalidate" means that the cache will either remove all stored
//# responses whose target URI matches the given URI or mark them as
//# "invalid" and in need of a mandatory validation before they can be
//# sent in response to a subsequent request.
#[must_use]
pub fn invalid(freshness: Freshness) -> Freshness {
    Freshness {
        lifetime_ms: 0,
        while_revalidate_ms: 0,
        if_error_ms: None,
        stale_allowed: false,
        ..freshness
    }
}

/// A URI a request may have: scheme and authority as they were written, and path with query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The scheme.
    pub scheme: String,
    /// Host, and port where one is given.
    pub authority: String,
    /// Path and query; may be empty after an authority.
    pub path_and_query: String,
}

impl Target {
    /// The URIs that `Content-Location` and `Location` of an answer to a request for this one name, at most one each.
    ///
    /// What is no reference to a URI with an authority is left out. Whether they are of this target's origin is for the caller to see:
    /// others must not be invalidated.
    pub fn named_by(&self, response: &HeaderMap) -> impl Iterator<Item = Self> {
        [header::CONTENT_LOCATION, header::LOCATION]
            .into_iter()
            .filter_map(|name| self.resolve(response.get(name)?.to_str().ok()?))
    }

    /// What a reference means here (RFC 3986 §5.2.2). Dot segments are left to the key, which removes them.
    #[must_use]
    pub fn resolve(&self, reference: &str) -> Option<Self> {
        let reference = reference.trim();
        let reference = reference
            .split_once('#')
            .map_or(reference, |(before, _)| before);
        let (scheme, rest) = match reference.find([':', '/', '?']) {
            Some(at) if reference[at..].starts_with(':') => {
                let scheme = &reference[..at];
                let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
                // A scheme without an authority names nothing that is asked for over HTTP.
                if !named || !reference[at + 1..].starts_with("//") {
                    return None;
                }
                (scheme, &reference[at + 1..])
            }
            _ => (self.scheme.as_str(), reference),
        };
        if let Some(rest) = rest.strip_prefix("//") {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            // User information is not part of an origin, and nobody writes it here in good faith.
            if authority.is_empty() || authority.contains('@') {
                return None;
            }
            return Some(Self {
                scheme: scheme.to_owned(),
                authority: authority.to_owned(),
                path_and_query: path.to_owned(),
            });
        }
        let base = self
            .path_and_query
            .split_once('?')
            .map_or(self.path_and_query.as_str(), |(path, _)| path);
        let path_and_query = if rest.is_empty() {
            self.path_and_query.clone()
        } else if rest.starts_with('/') {
            rest.to_owned()
        } else if rest.starts_with('?') {
            format!("{base}{rest}")
        } else {
            let folder = base.rfind('/').map_or("/", |at| &base[..=at]);
            format!("{folder}{rest}")
        };
        Some(Self {
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            path_and_query,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn unsafe_and_unknown_methods_invalidate_unless_they_fail() {
        for (method, status, wanted) in [
            ("POST", 200, true),
            ("PUT", 201, true),
            ("DELETE", 204, true),
            ("PATCH", 303, true),
            ("M-SEARCH", 200, true),
            ("get", 200, true),
            ("POST", 400, false),
            ("POST", 404, false),
            ("POST", 500, false),
            ("POST", 999, false),
            ("GET", 200, false),
            ("HEAD", 200, false),
            ("OPTIONS", 200, false),
            ("TRACE", 200, false),
            ("QUERY", 200, false),
            ("PROPFIND", 207, false),
        ] {
            let method_ = Method::from_bytes(method.as_bytes()).unwrap();
            let status_ = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                invalidates(&method_, status_),
                wanted,
                "{method} answered {status}"
            );
        }
    }

    fn base() -> Target {
        Target {
            scheme: "https".to_owned(),
            authority: "a.test".to_owned(),
            path_and_query: "/x/y?q=1".to_owned(),
        }
    }

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        for (reference, wanted) in [
            ("/z", Some("https a.test /z")),
            ("z?r", Some("https a.test /x/z?r")),
            ("../z", Some("https a.test /x/../z")),
            ("?r", Some("https a.test /x/y?r")),
            ("", Some("https a.test /x/y?q=1")),
            ("#f", Some("https a.test /x/y?q=1")),
            (" /z#f ", Some("https a.test /z")),
            ("//b.test/z", Some("https b.test /z")),
            ("HTTP://b.test:81?r", Some("HTTP b.test:81 ?r")),
            ("https://b.test", Some("https b.test ")),
            ("z/a:b", Some("https a.test /x/z/a:b")),
            ("?a:b", Some("https a.test /x/y?a:b")),
            ("mailto:a@b.test", None),
            ("https:/z", None),
            ("1a://b.test/", None),
            ("//", None),
            ("https://u@a.test/z", None),
        ] {
            let resolved = base()
                .resolve(reference)
                .map(|t| format!("{} {} {}", t.scheme, t.authority, t.path_and_query));
            assert_eq!(resolved.as_deref(), wanted, "{reference:?}");
        }
    }

    #[test]
    fn an_answer_names_the_targets_of_both_fields() {
        let mut headers = HeaderMap::new();
        assert_eq!(base().named_by(&headers).count(), 0);
        headers.insert(header::LOCATION, HeaderValue::from_static("/l"));
        headers.insert(header::CONTENT_LOCATION, HeaderValue::from_static("c"));
        let named: Vec<_> = base()
            .named_by(&headers)
            .map(|target| target.path_and_query)
            .collect();
        assert_eq!(named, ["/x/c", "/l"]);
    }

    proptest::proptest! {
        #[test]
        fn no_reference_panics(reference in ".{0,40}") {
            drop(base().resolve(&reference));
        }
    }
}
