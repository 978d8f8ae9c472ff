//! A request of another cache: answered like a client's, with the body as chunk events that verify there.

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    Cache, CacheRequest, CacheSite, Failure, answer::Answer, deliver::Shape, digests,
    serve::filling_shape,
};
use crate::{
    content::{ChunkId, Manifest, ManifestId},
    fill::events,
    key::CacheKey,
    reply::Reply,
    store::Read,
    upstream::{ChunkStream, Upstream},
};

/// An answer as a shield relays it: the head, and the body as chunk events.
pub struct Relay {
    /// The head, and the body where there are no events (HEAD, 304, 206, 416, uncacheable).
    pub reply: Reply,
    /// The whole body as it grows; `reply.body` is then empty.
    pub events: Option<ChunkStream>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("reply", &self.reply)
            .field("has_events", &self.events.is_some())
            .finish()
    }
}

impl Cache {
    /// As [`Cache::serve`], with the body of a stored or filling object as chunk events, for another cache.
    ///
    /// `held` is a manifest of the same URL the asker holds. Where it is stored here too, be it of the version about to
    /// be replaced, its chunks are named instead of sent wherever the cut is known before their bytes have left; an unknown one
    /// is ignored. A request for a part, or one whose condition holds, gets a plain reply.
    ///
    /// Bytes that leave as events are counted by their source and not as delivered.
    ///
    /// # Errors
    /// As [`Cache::serve`].
    pub async fn relay(
        &self,
        request: CacheRequest,
        held: Option<ManifestId>,
        upstream: Arc<dyn Upstream>,
    ) -> Result<Relay, Failure> {
        // Before the answer, which may replace what is held.
        let held = match held {
            Some(root) => self.manifest(&request.key, &root).await,
            None => None,
        };
        let held: HashSet<ChunkId> = held
            .iter()
            .flat_map(|manifest| manifest.entries_from(0))
            .map(|entry| entry.id)
            .collect();
        let answer = self.answer(&request, &upstream, true).await?;
        let (reply, events) = match answer {
            Answer::Stored {
                hit,
                shape: Shape::Whole,
                reader,
                outcome,
                details,
            } => {
                let wanted = digests::wanted(&request.facts(), &hit.object);
                let reply = self.stored_head(&hit, &Shape::Whole, outcome, &details, wanted);
                (
                    reply,
                    events::of_object(Arc::clone(&hit.object.manifest), reader, held),
                )
            }
            Answer::Filling {
                filling,
                reader,
                outcome,
            } if filling_shape(&filling, &request) == Shape::Whole => {
                let reply = self.filling_head(&filling, &Shape::Whole, outcome, self.now());
                (reply, events::of_fill(reader, held))
            }
            other => {
                let reply = self.counted(self.render(other, &request));
                return Ok(Relay {
                    reply,
                    events: None,
                });
            }
        };
        self.inner.metrics.requests(reply.outcome).inc();
        Ok(Relay {
            reply,
            events: Some(events),
        })
    }

    /// A chunk of a site by its name, for a cache that has its manifest.
    pub async fn read_chunk(&self, site: &CacheSite, id: &ChunkId) -> Read {
        self.inner.depot.store.read(&site.chunk_key, id).await
    }

    /// The manifests of all that is stored of a URL, be it fresh or stale.
    pub async fn manifests(&self, key: &CacheKey) -> Vec<Arc<Manifest>> {
        let Some(variants) = self.inner.index.recall(key).await else {
            return Vec::new();
        };
        let manifests = variants.all().iter();
        manifests
            .map(|object| Arc::clone(&object.manifest))
            .collect()
    }

    /// What is stored of a URL by whose voucher other nodes may believe it, the newest first, each with that. What was invalidated here is not
    /// given on, whatever its voucher says.
    pub async fn vouched(&self, key: &CacheKey) -> Vec<(Bytes, Arc<Manifest>)> {
        let Some(variants) = self.inner.index.recall(key).await else {
            return Vec::new();
        };
        let good = variants
            .all()
            .iter()
            .filter(|object| object.freshness.lifetime_ms > 0);
        good.filter_map(|object| Some((object.voucher.clone()?, Arc::clone(&object.manifest))))
            .collect()
    }

    /// The manifest of this root among the variants stored of a URL.
    async fn manifest(&self, key: &CacheKey, root: &ManifestId) -> Option<Arc<Manifest>> {
        let variants = self.inner.index.recall(key).await?;
        variants
            .all()
            .iter()
            .find(|object| object.manifest.root() == *root)
            .map(|object| Arc::clone(&object.manifest))
    }
}
