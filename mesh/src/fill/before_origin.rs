//! The upstream of an edge that fetches from origins itself and knows other edges: what one of them has, by the word of who fetched it, comes from there.
//!
//! There is no shield here to say how an object is now. So another edge's word is used as a cache's answer is: while it is fresh by this edge's own rules, and not where this edge
//! knows of a later invalidation. All else goes to the origin. What the other edges break off the origin goes on with.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use stoq_cache::content::{ChunkId, ChunkKey};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    FetchBody, FetchRequest, FetchResponse, OnInterim, PieceStream, Upstream, UpstreamError,
};

use super::holders;
use super::kept::{Asking, Wanted};
use super::mend::{Rest, mended};
use super::upstream::Peers;
use crate::object::Voucher;

/// Edges that are asked for an object before its origin is, one after the other: 2. Each may cost a round trip, and all together no more than one holder's patience to its first byte.
const ASKED_MAX: usize = 2;

/// Edges that are asked while the origin does not answer: 4.
const ASKED_MAX_ALONE: usize = 4;

/// Whether what another edge stored may answer a request: its status, its fields as they are now, and when (milliseconds since 1970) it was vouched for.
pub type MayAnswer = Arc<dyn Fn(&FetchRequest, StatusCode, &HeaderMap, u64) -> bool + Send + Sync>;

/// An [`Upstream`] over peers and an origin: one worker's, for one site. See [`PeerFills::before`](super::PeerFills::before).
pub struct BeforeOrigin {
    peers: Peers,
    origin: Arc<dyn Upstream>,
    may_answer: MayAnswer,
}

impl fmt::Debug for BeforeOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeOrigin")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl BeforeOrigin {
    pub(super) fn new(peers: Peers, origin: Arc<dyn Upstream>, may_answer: MayAnswer) -> Self {
        Self {
            peers,
            origin,
            may_answer,
        }
    }

    /// What another edge has of what is asked for; nothing where it is not asked for as by one who has nothing.
    fn first(&self, request: &FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        match self.peers.key_of_miss(request) {
            Some(chunk_key) => Box::pin(self.spared(Asking::of(request), chunk_key)),
            None => Box::pin(std::future::ready(None)),
        }
    }

    /// What another edge has and may be used in the origin's place.
    async fn spared(&self, asking: Asking, chunk_key: ChunkKey) -> Option<FetchResponse> {
        let found = self.peers.find(&asking.site, asking.key, &chunk_key).await;
        let patience = self.peers.fills.patience.first;
        let each = match holders::nodes(&found).len() {
            0 | 1 => patience,
            _ => patience / 2,
        };
        let will_do = |voucher: &Voucher, headers: &HeaderMap| {
            let request = asking.request();
            (self.may_answer)(&request, voucher.status, headers, voucher.sent_ms)
        };
        let kept = self
            .peers
            .kept(Wanted {
                asking: &asking,
                chunk_key: &chunk_key,
                found: &found,
                asked_max: ASKED_MAX,
                each,
                will_do: &will_do,
            })
            .await?;
        let metrics = Arc::clone(&self.peers.fills.metrics);
        metrics.spared.inc();
        let mut response = kept.response;
        if let FetchBody::Chunked(events) = response.body {
            let rest = Rest::new(Arc::clone(&self.origin), asking, &response.headers).of(
                kept.manifest,
                chunk_key,
                kept.sealed,
            );
            response.body = FetchBody::Chunked(mended(events, rest, metrics));
        }
        Some(response)
    }
}

impl Upstream for BeforeOrigin {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(async move {
            match self.first(&request).await {
                Some(response) => Ok(response),
                None => self.origin.fetch(request).await,
            }
        })
    }

    fn fetch_with_interim(
        &self,
        request: FetchRequest,
        interim: OnInterim,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(async move {
            match self.first(&request).await {
                Some(response) => Ok(response),
                None => self.origin.fetch_with_interim(request, interim).await,
            }
        })
    }

    fn kept(&self, request: FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        Box::pin(async move {
            let chunk_key = self.peers.key_of_miss(&request)?;
            let kept = self
                .peers
                .stand_in(Asking::of(&request), chunk_key, ASKED_MAX_ALONE);
            Some(kept.await?.response)
        })
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        // An origin knows no chunks; who asked falls back to ranges, which come through `fetch`.
        self.origin.chunks(site, key, chunks)
    }
}
