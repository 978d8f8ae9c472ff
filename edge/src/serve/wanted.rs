//! A URL that another edge asks this one to keep, as a request of this one's own.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::header::FORWARDED;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, Method, Version};
use stoq_cache::engine::CacheRequest;
use stoq_mesh::keep::Object;

use super::Shared;
use super::authority::Authority;
use super::forward::Received;
use super::key;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Shared {
    /// The request and the position of its site; `None` where that is not served here, or the URL is none.
    pub(crate) fn wanted(&self, object: &Object) -> Option<(usize, CacheRequest)> {
        let scheme = match object.https {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        };
        let authority = Authority::parse(&object.authority, &scheme)?;
        let place = self.hosts.find(authority.host())?;
        let site = self.sites.get(place)?;
        let path = PathAndQuery::try_from(object.path_and_query.as_str()).ok()?;
        // Of a site that may not be here nothing is kept for others either.
        if *site.name != *object.site || !self.borders.is_home(&site.name) {
            return None;
        }
        let received = Received {
            from: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            version: Version::HTTP_3,
            scheme: &scheme,
            authority: &authority,
            cacheable: true,
        };
        let mut headers = self.forwarder.headers(&object.headers, received);
        // Nobody asked: there is no client to name.
        headers.remove(X_FORWARDED_FOR);
        headers.remove(FORWARDED);
        let target = key::target(site, &path).ok()?;
        // As the request's own key: of what was sent, by the site's rules.
        let key = site.policy.query.key(
            &site.name,
            scheme.as_str(),
            authority.as_str(),
            path.as_str(),
        );
        let authority = authority.as_str().to_owned();
        let request = CacheRequest {
            site: Arc::clone(site),
            key,
            method: Method::GET,
            scheme,
            authority,
            path_and_query: target,
            headers,
        };
        Some((place, request))
    }
}
