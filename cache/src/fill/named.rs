//! Chunks that whoever sends a body names instead of sending, since they are here, or were.
//!
//! An upstream may do so for any request for a whole body: it does not know what becomes of the answer. So who takes chunk events has them resolved here, whether
//! the body is stored or only passed on.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;

use super::{hole::Depot, reader::Access};
use crate::{
    content::{CHUNK_BYTES_MAX, ChunkId, ChunkKey},
    key::CacheKey,
    metrics::ServedFrom,
    store::Read,
    upstream::{BodyError, Source, Upstream},
};

/// The store, and who sends a body.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) depot: Arc<Depot>,
    pub(crate) key: ChunkKey,
    pub(crate) site: Arc<str>,
    pub(crate) url: CacheKey,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) source: Source,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named")
            .field("site", &self.site)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Named {
    /// For a body that is stored.
    pub(crate) fn of(access: &Access) -> Self {
        let refill = &access.refill;
        Self {
            depot: Arc::clone(&access.depot),
            key: access.key.clone(),
            site: Arc::clone(&refill.request.site.name),
            url: refill.request.key,
            upstream: Arc::clone(&refill.upstream),
            source: refill.source,
        }
    }

    /// A chunk the sender knows we hold, or held: from the store, else by name from the sender.
    pub(crate) async fn chunk(
        &self,
        id: ChunkId,
        len: u32,
    ) -> Result<(Bytes, ServedFrom), BodyError> {
        let Depot { store, metrics, .. } = &*self.depot;
        let is_whole = |bytes: &Bytes| bytes.len() == len as usize;
        if let Some(bytes) = store.get_ram(&id).filter(is_whole) {
            return Ok((bytes, ServedFrom::Ram));
        }
        if let Read::Hit(bytes) = store.read(&self.key, &id).await
            && is_whole(&bytes)
        {
            return Ok((bytes, ServedFrom::Disk));
        }
        let asked = self
            .upstream
            .chunks(Arc::clone(&self.site), self.url, vec![(id, len)])
            .await;
        let mut body =
            asked.map_err(|error| BodyError::Upstream(format!("chunk {id}: {error}")))?;
        let mut chunk = Vec::with_capacity((len as usize).min(CHUNK_BYTES_MAX));
        let mut from = ServedFrom::Upstream(self.source);
        while let Some(piece) = body.next().await {
            let (piece, via) = piece?;
            metrics.fetched_bytes.inc_by(piece.len() as u64);
            from = ServedFrom::Upstream(via);
            chunk.extend_from_slice(&piece);
            if chunk.len() > len as usize {
                break;
            }
        }
        if chunk.len() != len as usize || self.key.id(&chunk) != id {
            return Err(BodyError::Corrupt(format!(
                "bytes are not those of chunk {id}"
            )));
        }
        Ok((Bytes::from(chunk), from))
    }
}
