//! Step three: what the request asks for, as the cache names it.
//!
//! Host and port go in canonical, path and query as `CacheKey` normalises them, so that edge and shield, which both
//! compute the key from the URL, cannot disagree.

use std::borrow::Cow;

use http::uri::{PathAndQuery, Scheme};
use stoq_cache::key::{CacheKey, normalize};

use super::admit::Admitted;

/// The key of an admitted request on the site called `site`.
pub(crate) fn key(site: &str, scheme: &Scheme, admitted: &Admitted<'_>) -> CacheKey {
    CacheKey::of(
        site,
        scheme.as_str(),
        admitted.authority.as_str(),
        admitted.path_and_query,
    )
}

/// The target as upstreams are asked for it: in the spelling that the key stands for. Were the origin asked for the client's own, one that
/// treats two spellings of a key differently would have one answer served for both.
pub(crate) fn target(path_and_query: &PathAndQuery) -> PathAndQuery {
    match normalize(path_and_query.as_str()) {
        Cow::Borrowed(_) => path_and_query.clone(),
        Cow::Owned(normal) => {
            PathAndQuery::try_from(normal).unwrap_or_else(|_| path_and_query.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::admit::{Bounds, admit};
    use super::super::cdn_loop::CdnId;
    use super::super::sample;
    use super::*;

    fn of(request: &str) -> CacheKey {
        let bounds = Bounds {
            header_bytes: 1000,
            body_bytes: 0,
            cdn_id: CdnId::new("own").unwrap(),
        };
        let head = sample::head(request);
        let request = head.view();
        key("a", &Scheme::HTTPS, &admit(&request, &bounds).unwrap())
    }

    #[test]
    fn every_protocol_names_one_object_alike() {
        let want = of("GET https://a.test/p?q 3");
        for request in [
            "GET /p?q 1.1\nhost: A.test:443",
            "HEAD https://a.test./p?q 2",
            "GET http://a.test/p?q 1.1\nhost: b",
        ] {
            assert_eq!(of(request), want, "{request}");
        }
    }

    #[test]
    fn another_port_path_or_query_is_another_object() {
        let one = of("GET https://a.test/p?q 3");
        for request in [
            "GET https://a.test:8443/p?q 3",
            "GET https://b.test/p?q 3",
            "GET https://a.test/P?q 3",
            "GET https://a.test/p?Q 3",
            "GET https://a.test/p 3",
        ] {
            assert_ne!(of(request), one, "{request}");
        }
    }
}
