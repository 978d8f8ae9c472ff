//! A request that is none of the cache's business: streamed through both ways, nothing stored, nothing queued.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::HeaderName;
use smallvec::SmallVec;

use super::{Cache, CacheSite, Failure, invalidate::Change, posted::Posted, searches};
use crate::{
    fill::{events, named::Named},
    http::{
        cache_status::{self, CacheStatus, Details},
        hop,
    },
    key::CacheKey,
    metrics::ServedFrom,
    reply::{Reply, ReplyBody, StoredHead},
    upstream::{BodyError, FetchBody, FetchRequest, FetchResponse, Upstream},
};

impl Cache {
    /// Sends a request for a URL of `site` on as it is and streams the answer back. `outcome` says why it is not for the cache; where the
    /// answer to an unsafe request made something stored invalid, the reply says [`CacheStatus::Invalidated`] instead.
    ///
    /// The answer to a POST that says it is what a GET would get is stored on its way (`posted.rs`). Nothing else is.
    ///
    /// Cancel safe: dropping the future or the reply's body cancels the exchange, but for an answer that is being stored.
    ///
    /// # Errors
    /// When the upstream gives no head.
    pub async fn pass(
        &self,
        site: &Arc<CacheSite>,
        request: FetchRequest,
        upstream: Arc<dyn Upstream>,
        outcome: CacheStatus,
    ) -> Result<Reply, Failure> {
        self.inner.metrics.fetches.inc();
        let change = Change::of(site, &request);
        let changes = (!request.method.is_safe()).then(|| searches::path_of(&request));
        if change.is_some() {
            // Before it is sent: between its answer and what that invalidates there must be no wait, in which the client could leave.
            self.recall_changed(&request.key).await;
        }
        let mut posted = self.posted(site, &request);
        let key = request.key;
        let fetched = upstream.fetch(request).await;
        if let Some(path) = &changes {
            self.inner.searches.forget(path);
        }
        match fetched {
            Ok(response) => {
                let mut outcome = outcome;
                if let Some(change) = &change {
                    let own = posted.as_mut().map(Posted::begun);
                    if self.invalidate(change, &response, own) {
                        outcome = CacheStatus::Invalidated;
                    }
                    // Also where nothing was found: the disk may have had no capacity to look.
                    self.outlive().await;
                    if let Some(posted) = posted {
                        let reply = self.answer_posted(posted, change, response, upstream, outcome);
                        return Ok(self.counted(reply.await?));
                    }
                }
                Ok(self.counted(self.through(site, key, &upstream, response, outcome)))
            }
            Err(error) => {
                self.inner.metrics.requests(CacheStatus::Failed).inc();
                Err(error.into())
            }
        }
    }

    /// An upstream's answer about this URL as a reply, unchanged but for this cache's mark.
    pub(super) fn through(
        &self,
        site: &Arc<CacheSite>,
        key: CacheKey,
        upstream: &Arc<dyn Upstream>,
        response: FetchResponse,
        outcome: CacheStatus,
    ) -> Reply {
        let FetchResponse {
            status,
            mut headers,
            body,
            via,
            upstream_cache_status,
        } = response;
        let name = HeaderName::from_static("cache-status");
        hop::strip(&mut headers);
        headers.remove(&name);
        let details = Details {
            forward_status: Some(status.as_u16()),
            ..Details::default()
        };
        let above = upstream_cache_status.as_deref();
        let value = cache_status::field(&self.inner.config.name, above, outcome, &details);
        let body = match body {
            FetchBody::Empty => ReplyBody::Empty,
            FetchBody::Stream(stream) => {
                let metrics = Arc::clone(&self.inner.metrics);
                self.passing(stream.map(move |piece| {
                    let piece = piece?;
                    metrics.fetched_bytes.inc_by(piece.len() as u64);
                    Ok((piece, ServedFrom::Upstream(via)))
                }))
            }
            FetchBody::Chunked(chunks) => {
                // What is here may have been left out, though it is not stored here under this URL.
                let named = Named {
                    depot: Arc::clone(&self.inner.depot),
                    key: site.chunk_key.clone(),
                    site: Arc::clone(&site.name),
                    url: key,
                    upstream: Arc::clone(upstream),
                    source: via,
                };
                self.passing(events::pieces_of(chunks, named))
            }
        };
        Reply {
            head: Arc::new(StoredHead::new(status, headers)),
            status: None,
            overrides: value.map(|value| (name, value)).into_iter().collect(),
            removed: SmallVec::new(),
            body,
            outcome,
        }
    }

    /// A body on its way through, counted.
    fn passing(
        &self,
        pieces: impl Stream<Item = Result<(Bytes, ServedFrom), BodyError>> + Send + 'static,
    ) -> ReplyBody {
        let metrics = Arc::clone(&self.inner.metrics);
        ReplyBody::Stream(Box::pin(pieces.map(move |piece| {
            let (piece, from) = piece?;
            metrics.served_bytes(from).inc_by(piece.len() as u64);
            Ok(piece)
        })))
    }
}
