//! A request's own view of its site's upstream: interim responses to its fetches go to its client.
//!
//! Only who leads a fetch hears them; those who follow, and hits, get none. They are dropped where a shield answers: the exchange
//! between nodes has no message for them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use stoq_cache::content::ChunkId;
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    FetchRequest, FetchResponse, OnInterim, PieceStream, Upstream, UpstreamError,
};

use crate::service::{Interim, InterimHead};

/// `upstream`, its interim responses handed to `interim` where its client can take any.
pub(super) fn announcing(upstream: &Arc<dyn Upstream>, interim: Interim) -> Arc<dyn Upstream> {
    if !interim.is_supported() {
        return Arc::clone(upstream);
    }
    Arc::new(Announcing {
        upstream: Arc::clone(upstream),
        interim: Arc::new(interim),
    })
}

#[derive(Debug)]
struct Announcing {
    upstream: Arc<dyn Upstream>,
    interim: Arc<Interim>,
}

impl Upstream for Announcing {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let interim = Arc::clone(&self.interim);
        let listener: OnInterim = Arc::new(move |status, headers| {
            // A full queue, or a client that has its answer already: interim responses are optional.
            let _delivered = interim.offer(InterimHead { status, headers });
        });
        self.upstream.fetch_with_interim(request, listener)
    }

    fn kept(&self, request: FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        self.upstream.kept(request)
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        self.upstream.chunks(site, key, chunks)
    }
}
