//! Step three: what the request asks for, as the cache names it.
//!
//! Host and port go in canonical, path and query as the site's rules normalise them. Edge and shield both compute the key
//! from the URL; with equal rules they cannot disagree.

use std::borrow::Cow;

use http::uri::{PathAndQuery, Scheme};
use stoq_cache::engine::CacheSite;
use stoq_cache::key::CacheKey;

use super::admit::Admitted;
use super::rescue::Refusal;

/// The key of an admitted request on `site`.
pub(crate) fn key(site: &CacheSite, scheme: &Scheme, admitted: &Admitted<'_>) -> CacheKey {
    site.policy.query.key(
        &site.name,
        scheme.as_str(),
        admitted.authority.as_str(),
        admitted.path_and_query,
    )
}

/// The target as upstreams are asked for it: in the spelling that the key stands for. Were the origin asked for the client's own, one that
/// treats two spellings of a key differently would have one answer served for both. So a target that has no such spelling is refused.
pub(crate) fn target(
    site: &CacheSite,
    path_and_query: &PathAndQuery,
) -> Result<PathAndQuery, Refusal> {
    match site.policy.query.target(path_and_query.as_str()) {
        Cow::Borrowed(same) if same == path_and_query.as_str() => Ok(path_and_query.clone()),
        normal => PathAndQuery::try_from(&*normal)
            .map_err(|_| Refusal::Malformed("the target has no normal form")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::admit::{Bounds, admit};
    use super::super::cdn_loop::CdnId;
    use super::super::sample;
    use stoq_cache::engine::{Cache, CacheConfig};
    use stoq_cache::http::policy::SitePolicy;

    use super::*;

    fn of(request: &str) -> CacheKey {
        let bounds = Bounds {
            header_bytes: 1000,
            body_bytes: 0,
            cdn_id: CdnId::new("own").unwrap(),
        };
        let head = sample::head(request);
        let request = head.view();
        let cache = Cache::new(CacheConfig::new([7; 32]));
        let site = cache.site("a", None, SitePolicy::default());
        key(&site, &Scheme::HTTPS, &admit(&request, &bounds).unwrap())
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
