//! What the edge gives to other nodes: chunks it holds, of sites it serves. It fetches nothing for them, and what is said of an object, by a shield or by who fetched it
//! (which may be this edge), it passes on as it was written then.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use stoq_cache::content::{ChunkId, Manifest};
use stoq_cache::engine::CacheSite;
use stoq_cache::key::CacheKey;
use stoq_cache::store::Read;
use stoq_cache::upstream::BodyStream;
use stoq_mesh::{
    ChunksRequest, Code, Holdings, HoldingsRequest, Manifests, ManifestsRequest, ObjectAnswer,
    ObjectRequest, ObjectSource, Refusal, Stored, Voucher, WithVoucher, wire,
};

use crate::serve::Shared;

/// Chunks of an object that are looked for before it is said to be whole: 8,192, some milliseconds. A longer object is not said to be, and whoever
/// wants it asks by chunk.
const LOOKED_MAX: usize = 8_192;

/// The edge's store, behind its STOQ listener.
pub(crate) struct EdgeSource {
    shared: Arc<Shared>,
}

impl fmt::Debug for EdgeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeSource").finish_non_exhaustive()
    }
}

impl EdgeSource {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A site that is served here, and whose chunks have the names that the asker knows them by.
    fn site(&self, name: &str, chunk_key_id: [u8; 16]) -> Result<&CacheSite, Refusal> {
        let site = self.shared.sites.iter().find(|site| &*site.name == name);
        let site =
            site.ok_or_else(|| Refusal::new(Code::UnknownSite, format!("no site {name:?} here")))?;
        if *site.chunk_key.key_id().as_bytes() != chunk_key_id {
            let text = format!(
                "chunks of site {name:?} are named under another key here: compare cluster secret and dedupe_domain"
            );
            return Err(Refusal::new(Code::ChunkKeyMismatch, text));
        }
        Ok(site)
    }

    fn is_whole(&self, manifest: &Manifest) -> bool {
        let store = self.shared.cache.store();
        manifest.len() <= LOOKED_MAX
            && manifest
                .entries_from(0)
                .all(|entry| store.contains(&entry.id))
    }
}

impl ObjectSource for EdgeSource {
    fn object(
        &self,
        _: ObjectRequest,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>> {
        let refusal = Refusal::new(Code::UnknownKind, "an edge gives chunks, and no objects");
        Box::pin(std::future::ready(Err(refusal)))
    }

    fn chunk<'a>(
        &'a self,
        request: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            let site = self.site(&request.site, request.chunk_key_id)?;
            let id = ChunkId::from_bytes(id);
            match self.shared.cache.read_chunk(site, &id).await {
                Read::Hit(bytes) => Ok(Some(bytes)),
                Read::Throttled => Err(Refusal::new(Code::Overloaded, "the store is busy")),
                Read::Miss | Read::Corrupt => Ok(None),
            }
        })
    }

    fn holdings(&self, request: &HoldingsRequest) -> Result<Holdings, Refusal> {
        self.site(&request.site, request.chunk_key_id)?;
        let store = self.shared.cache.store();
        let chunks = request.chunks.iter();
        let held = chunks.map(|id| store.contains(&ChunkId::from_bytes(*id)));
        Ok(Holdings {
            held: held.collect(),
        })
    }

    fn vouched<'a>(
        &'a self,
        request: &'a ObjectRequest,
    ) -> BoxFuture<'a, Result<Option<WithVoucher>, Refusal>> {
        Box::pin(async move {
            self.site(&request.site, request.chunk_key_id)?;
            let key = CacheKey::from_bytes(request.key);
            let stored = self.shared.cache.vouched(&key).await;
            let fits = |voucher: &Bytes| {
                Voucher::peek(voucher).is_ok_and(|said| said.answers(&request.headers))
            };
            Ok(stored.into_iter().find(|(voucher, _)| fits(voucher)))
        })
    }

    fn manifests<'a>(
        &'a self,
        request: &'a ManifestsRequest,
    ) -> BoxFuture<'a, Result<Manifests, Refusal>> {
        Box::pin(async move {
            self.site(&request.site, request.chunk_key_id)?;
            let key = CacheKey::from_bytes(request.key);
            let manifests = self.shared.cache.manifests(&key).await;
            let mut stored: Vec<Stored> = Vec::new();
            for manifest in manifests {
                let root = *manifest.root().as_bytes();
                // Variants may have the same body.
                let is_new = stored.iter().all(|known| known.root != root);
                if is_new && stored.len() < wire::MANIFESTS_MAX {
                    stored.push(Stored {
                        root,
                        total: manifest.total_len(),
                        whole: self.is_whole(&manifest),
                    });
                }
            }
            Ok(Manifests { stored })
        })
    }
}
