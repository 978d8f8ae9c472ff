//! How a node that stores nothing asks for objects: the names under which it must ask, made from what each node of the
//! cluster knows. An edge has them from its configured sites instead.

use http::{HeaderMap, Method};
use stoq_cache::content::ChunkKey;
use stoq_cache::key::CacheKey;

use super::wire::ObjectRequest;

/// A site as its objects are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteNames {
    site: String,
    chunk_key_id: [u8; 16],
}

impl SiteNames {
    /// The names of the site called `site` in the cluster with this secret. `dedupe_domain` is the site's own unless
    /// the operator joined sites.
    #[must_use]
    pub fn new(cluster_secret: &[u8; 32], site: &str, dedupe_domain: Option<&str>) -> Self {
        let key = ChunkKey::derive(cluster_secret, dedupe_domain.unwrap_or(site));
        Self {
            site: site.to_owned(),
            chunk_key_id: *key.key_id().as_bytes(),
        }
    }

    /// The request for a URL of the site by someone who holds nothing of it. `authority` is `host` or `host:port`.
    #[must_use]
    pub fn request(
        &self,
        method: Method,
        https: bool,
        authority: &str,
        path_and_query: &str,
        headers: HeaderMap,
    ) -> ObjectRequest {
        let scheme = if https { "https" } else { "http" };
        ObjectRequest {
            key: *CacheKey::of(&self.site, scheme, authority, path_and_query).as_bytes(),
            chunk_key_id: self.chunk_key_id,
            site: self.site.clone(),
            method,
            https,
            authority: authority.to_owned(),
            path_and_query: path_and_query.to_owned(),
            headers,
            held: None,
        }
    }
}
