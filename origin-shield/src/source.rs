//! What the shield answers to an object exchange: its own look at the URL, then the cache both servers share.
//!
//! One per worker, over that worker's upstreams. Nothing the asker says about identity is believed: site, key and chunk key are computed
//! here and a difference is refused, since trusting another's key would let one edge poison all.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, Method};
use stoq_cache::content::{ChunkId, Manifest, ManifestId};
use stoq_cache::engine::{Cache, CacheRequest, CacheSite, Failure, Lookup, Relay};
use stoq_cache::http::cache_status::CacheStatus;
use stoq_cache::key::normalize;
use stoq_cache::reply::{Reply, ReplyBody};
use stoq_cache::store::Read;
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::{BodyStream, FetchRequest, Upstream};
use stoq_mesh::{
    AnswerBody, ChunksRequest, Code, ObjectAnswer, ObjectRequest, ObjectSource, Provenance,
    Refusal, withhold,
};
use stoq_node::config::Site;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A site as the shield serves it.
#[derive(Debug, Clone)]
pub(crate) struct ShieldSite {
    pub(crate) config: Arc<Site>,
    pub(crate) cache: Arc<CacheSite>,
    pub(crate) upstream: Arc<dyn Upstream>,
}

/// The shield behind its STOQ listener.
pub(crate) struct ShieldSource {
    cache: Cache,
    sites: Vec<ShieldSite>,
}

impl fmt::Debug for ShieldSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShieldSource")
            .field("sites", &self.sites.len())
            .finish_non_exhaustive()
    }
}

impl ShieldSource {
    pub(crate) fn new(cache: Cache, sites: Vec<ShieldSite>) -> Self {
        Self { cache, sites }
    }

    fn site(&self, name: &str, chunk_key_id: [u8; 16]) -> Result<&ShieldSite, Refusal> {
        let site = self.sites.iter().find(|site| &*site.config.name == name);
        let site =
            site.ok_or_else(|| Refusal::new(Code::UnknownSite, format!("no site {name:?} here")))?;
        if *site.cache.chunk_key.key_id().as_bytes() != chunk_key_id {
            let text = format!(
                "chunks of site {name:?} are named under another key here: compare cluster secret and dedupe_domain"
            );
            return Err(Refusal::new(Code::ChunkKeyMismatch, text));
        }
        Ok(site)
    }

    async fn answer(
        &self,
        request: ObjectRequest,
        body: Option<BodyStream>,
    ) -> Result<ObjectAnswer, Refusal> {
        let site = self.site(&request.site, request.chunk_key_id)?;
        let (authority, target) = target(&request, &site.cache)?;
        if site.config.matches(authority.host()).is_none() {
            return Err(Refusal::new(
                Code::UnknownSite,
                format!("{authority} is no host of site {:?}", request.site),
            ));
        }
        let scheme = if request.https {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let key = site.cache.policy.query.key(
            &site.config.name,
            scheme.as_str(),
            authority.as_str(),
            target.as_str(),
        );
        if *key.as_bytes() != request.key {
            let text = format!(
                "key-mismatch: {scheme}://{authority}{target} has another key here: compare `query` and `rule` of site {:?} at edge and shield",
                request.site
            );
            return Err(Refusal::new(Code::KeyMismatch, text));
        }
        let upstream = Arc::clone(&site.upstream);
        let authority = authority.to_string();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let fetch = FetchRequest {
                method: request.method,
                scheme,
                authority,
                path_and_query: target,
                headers: request.headers,
                body,
                site: Arc::clone(&site.cache.name),
                key,
                held: None,
            };
            let reply = self
                .cache
                .pass(&site.cache, fetch, upstream, CacheStatus::Method)
                .await
                .map_err(|failure| refusal(&failure))?;
            return Ok(passed(reply));
        }
        let cached = CacheRequest {
            site: Arc::clone(&site.cache),
            key,
            method: request.method,
            scheme,
            authority,
            path_and_query: target,
            headers: request.headers,
        };
        // Looked up before the fetch, which may replace it.
        let held = request
            .held
            .and_then(|root| self.held(&cached, ManifestId::from_bytes(root)));
        let Relay { reply, events } = self
            .cache
            .relay(cached, request.held.map(ManifestId::from_bytes), upstream)
            .await
            .map_err(|failure| refusal(&failure))?;
        let mut answer = passed(reply);
        if let Some(events) = events {
            answer.body = AnswerBody::Chunked(match held {
                Some(manifest) => withhold(events, &manifest),
                None => events,
            });
        }
        Ok(answer)
    }

    /// The manifest the asker says it holds, if it is that of the object held here under the same URL. Another one is no error: all travels then.
    fn held(&self, request: &CacheRequest, root: ManifestId) -> Option<Arc<Manifest>> {
        match self.cache.lookup(
            &request.key,
            &request.facts(),
            &request.site.policy,
            Timestamp::now(),
        ) {
            Lookup::Fresh(hit)
            | Lookup::Stale(hit)
            | Lookup::Unwanted(hit)
            | Lookup::Expired(hit) => Some(&hit.object.manifest)
                .filter(|manifest| manifest.root() == root)
                .map(Arc::clone),
            Lookup::Miss | Lookup::VaryMiss | Lookup::HitForMiss => None,
        }
    }
}

impl ObjectSource for ShieldSource {
    fn object(
        &self,
        request: ObjectRequest,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>> {
        Box::pin(self.answer(request, body))
    }

    fn chunk<'a>(
        &'a self,
        request: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            // The chunk key is the dedupe domain: who names it right may have what lies in it.
            let site = self.site(&request.site, request.chunk_key_id)?;
            let id = ChunkId::from_bytes(id);
            match self.cache.read_chunk(&site.cache, &id).await {
                Read::Hit(bytes) => Ok(Some(bytes)),
                Read::Throttled => Err(Refusal::new(Code::Overloaded, "the store is busy")),
                Read::Miss | Read::Corrupt => Ok(None),
            }
        })
    }
}

/// What the upstream is asked for: the spelling the key stands for, where the answer may be stored. A request that is passed on
/// keeps its query, which may say what to do and not what is meant.
fn target(request: &ObjectRequest, site: &CacheSite) -> Result<(Authority, PathAndQuery), Refusal> {
    let malformed = |what: &str| Refusal::new(Code::Malformed, format!("{what} is not valid"));
    let authority = Authority::from_str(&request.authority).map_err(|_| malformed("authority"))?;
    let target = match request.method {
        Method::GET | Method::HEAD => site.policy.query.target(&request.path_and_query),
        _ => normalize(&request.path_and_query),
    };
    let target = PathAndQuery::from_str(&target).map_err(|_| malformed("path"))?;
    Ok((authority, target))
}

/// A reply in the exchange's terms. The Cache-Status member travels beside the fields, so that the edge can append its own.
fn passed(reply: Reply) -> ObjectAnswer {
    let mut headers = reply.to_headers();
    let cache_status = headers.remove(CACHE_STATUS);
    let cache_status = cache_status
        .and_then(|value| value.to_str().ok().map(str::to_owned))
        .unwrap_or_default();
    ObjectAnswer {
        status: reply.status(),
        headers,
        cache_status,
        provenance: if reply.outcome.is_hit() {
            Provenance::Store
        } else {
            Provenance::Origin
        },
        body: match reply.body {
            ReplyBody::Empty => AnswerBody::Empty,
            ReplyBody::Bytes(bytes) => AnswerBody::Plain(once(vec![bytes])),
            ReplyBody::Chunks(chunks) => AnswerBody::Plain(once(chunks)),
            ReplyBody::Stream(stream) => AnswerBody::Plain(stream),
        },
    }
}

fn once(pieces: Vec<Bytes>) -> BodyStream {
    Box::pin(futures_util::stream::iter(pieces.into_iter().map(Ok)))
}

fn refusal(failure: &Failure) -> Refusal {
    Refusal::new(Code::from(failure), failure.to_string())
}
