//! Chunks that a manifest names and memory does not have.
//!
//! They are read from disk, a run at a time. Where the store no longer has them they are fetched again, by id from an upstream that keeps chunks, else by `Range` with `If-Range` under the strong
//! validator, and verified before a byte of them is used: so the bytes are those of the manifest whatever the
//! upstream did meanwhile. However many readers meet at a hole, one reads or fetches.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::StreamExt;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::{
    content::{ChunkId, ChunkKey, Entry, Manifest},
    engine::CacheRequest,
    http::{
        conditional,
        range::{self, Slice},
    },
    metrics::{Metrics, ServedFrom},
    store::{Read, Store},
    upstream::{BodyError, FetchBody, PieceStream, Source, Upstream},
};

/// One read of the disk, and one refill, is of at most so many bytes of consecutive chunks.
pub(crate) const RUN_BYTES_MAX: u64 = 1 << 20;

/// Runs that readers hold on to until they have passed them: 32 × 1 MiB = 32 MiB. Beyond that a single chunk is read or
/// fetched, which its reader passes on at once.
const RUNS_HELD_MAX: usize = 32;

/// Refills under way at once; the next waits.
const REFILLS_MAX: usize = 64;

/// Where to get an object's bytes again.
#[derive(Debug, Clone)]
pub(crate) struct Refill {
    pub(crate) upstream: Arc<dyn Upstream>,
    /// A request that led to this object; its own conditions and ranges are taken out.
    pub(crate) request: CacheRequest,
    /// The object's strong validator. Without one only an upstream that keeps chunks can help.
    pub(crate) strong: Option<HeaderValue>,
    pub(crate) source: Source,
}

/// The store, and what lies behind it.
pub(crate) struct Depot {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    /// Objects larger than this are kept on disk alone: a fourth of memory.
    pub(crate) ram_object_bytes_max: u64,
    under_way: DashMap<ChunkId, Arc<Pending>>,
    refills: Semaphore,
    held: Arc<Semaphore>,
}

type Pending = OnceCell<Result<Arc<Run>, BodyError>>;

/// Consecutive chunks that were read from disk or fetched again.
pub(crate) struct Run {
    chunks: Vec<Placed>,
    /// `None` where the run is a single chunk that nobody keeps.
    permit: Option<OwnedSemaphorePermit>,
}

/// A chunk, where in the body it starts, and where it was taken from.
#[derive(Clone)]
struct Placed {
    start: u64,
    bytes: Bytes,
    from: ServedFrom,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

impl Run {
    /// The chunk that starts at `offset` of the body.
    fn chunk(&self, offset: u64) -> Option<&Placed> {
        self.chunks.iter().find(|chunk| chunk.start == offset)
    }
}

/// The chunk at an offset of a sealed manifest and those that follow it: where it starts, and the run.
pub(crate) fn run_at(manifest: &Manifest, offset: u64) -> Option<(u64, Vec<Entry>)> {
    let at = manifest.locate(offset)?;
    Some((
        manifest.start_of(at.index)?,
        run(manifest.entries_from(at.index)),
    ))
}

/// The first entries, up to [`RUN_BYTES_MAX`] together; at least one.
pub(crate) fn run(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let mut bytes = 0;
    entries
        .take_while(|entry| {
            let first = bytes == 0;
            bytes += u64::from(entry.len);
            first || bytes <= RUN_BYTES_MAX
        })
        .collect()
}

impl Depot {
    pub(crate) fn new(store: Store, metrics: Arc<Metrics>, ram_object_bytes_max: u64) -> Self {
        Self {
            store,
            metrics,
            ram_object_bytes_max,
            under_way: DashMap::new(),
            refills: Semaphore::new(REFILLS_MAX),
            held: Arc::new(Semaphore::new(RUNS_HELD_MAX)),
        }
    }

    /// The chunk that starts at `start`, the first of `run`: from the run its reader still holds, from memory, from disk, or fetched again.
    /// `keep`: whether what is read from disk is worth memory.
    ///
    /// Cancel safe: a refill whose caller leaves is taken over by the next that waits for it.
    pub(crate) async fn chunk(
        &self,
        key: &ChunkKey,
        refill: &Refill,
        start: u64,
        run: &[Entry],
        keep: bool,
        held: &mut Option<Arc<Run>>,
    ) -> Result<(Bytes, ServedFrom), BodyError> {
        let Some(first) = run.first() else {
            return Err(BodyError::Gone {
                offset: start,
                reason: "not in the manifest".to_owned(),
            });
        };
        if let Some(held_run) = held {
            if let Some(chunk) = held_run.chunk(start) {
                return Ok((chunk.bytes.clone(), chunk.from));
            }
            *held = None;
        }
        if let Some(bytes) = self.store.get_ram(&first.id) {
            return Ok((bytes, ServedFrom::Ram));
        }
        self.store.metrics().ram_misses.inc();
        let pending = Arc::clone(&self.under_way.entry(first.id).or_default());
        let fetched = pending
            .get_or_init(|| async {
                match self.read(key, start, run, keep).await {
                    Some(read) => Ok(read),
                    None => self.refill(key, refill, start, run).await,
                }
            })
            .await
            .clone();
        self.under_way
            .remove_if(&first.id, |_, known| Arc::ptr_eq(known, &pending));
        let fetched = fetched?;
        // Else the same chunk at another place of the body, or in another body.
        let found = fetched.chunk(start).or_else(|| fetched.chunks.first());
        let Some(Placed { bytes, from, .. }) = found.cloned() else {
            return Err(BodyError::Gone {
                offset: start,
                reason: "the refill was empty".to_owned(),
            });
        };
        // Only the run of this very place can serve what follows.
        if fetched.permit.is_some()
            && fetched
                .chunks
                .first()
                .is_some_and(|chunk| chunk.start == start)
        {
            *held = Some(fetched);
        }
        Ok((bytes, from))
    }

    /// Reads the chunks at the front of `run` that are on disk and not in memory; `None` where the first is not to be had there.
    async fn read(
        &self,
        key: &ChunkKey,
        start: u64,
        run: &[Entry],
        keep: bool,
    ) -> Option<Arc<Run>> {
        let store = &self.store;
        if !run
            .first()
            .is_some_and(|first| store.disk_contains(&first.id))
        {
            return None;
        }
        let permit = Arc::clone(&self.held).try_acquire_owned().ok();
        let length = match &permit {
            None => 1,
            Some(_) => {
                let others = run.iter().skip(1);
                1 + others
                    .take_while(|next| {
                        !store.ram().contains(&next.id) && store.disk_contains(&next.id)
                    })
                    .count()
            }
        };
        let wanted = run.get(..length)?;
        let reads = store.read_run(key, wanted, keep).await;
        let mut at = start;
        let mut chunks = Vec::with_capacity(length);
        for (entry, read) in wanted.iter().zip(reads) {
            let Read::Hit(bytes) = read else { break };
            chunks.push(Placed {
                start: at,
                bytes,
                from: ServedFrom::Disk,
            });
            at += u64::from(entry.len);
        }
        (!chunks.is_empty()).then(|| Arc::new(Run { chunks, permit }))
    }

    /// Fetches the missing chunks at the front of `run`.
    async fn refill(
        &self,
        key: &ChunkKey,
        refill: &Refill,
        start: u64,
        run: &[Entry],
    ) -> Result<Arc<Run>, BodyError> {
        let _turn = self
            .refills
            .acquire()
            .await
            .map_err(|_| BodyError::Shutdown)?;
        let permit = Arc::clone(&self.held).try_acquire_owned().ok();
        let length = match &permit {
            None => 1,
            Some(_) => {
                1 + run
                    .iter()
                    .skip(1)
                    .take_while(|entry| !self.store.contains(&entry.id))
                    .count()
            }
        };
        let wanted = run.get(..length).unwrap_or(run);
        match self.fetch(key, refill, start, wanted).await {
            Ok(chunks) => {
                self.metrics.holes_refilled.inc_by(chunks.len() as u64);
                let mut at = start;
                let mut placed = Vec::with_capacity(chunks.len());
                for (entry, (bytes, source)) in wanted.iter().zip(chunks) {
                    self.store.put(entry.id, bytes.clone());
                    placed.push(Placed {
                        start: at,
                        bytes,
                        from: ServedFrom::Upstream(source),
                    });
                    at += u64::from(entry.len);
                }
                Ok(Arc::new(Run {
                    chunks: placed,
                    permit,
                }))
            }
            Err(error) => {
                self.metrics.holes_lost.inc();
                Err(error)
            }
        }
    }

    /// Asks the upstream for consecutive chunks and verifies them.
    async fn fetch(
        &self,
        key: &ChunkKey,
        refill: &Refill,
        start: u64,
        wanted: &[Entry],
    ) -> Result<Vec<(Bytes, Source)>, BodyError> {
        let gone = |reason: String| BodyError::Gone {
            offset: start,
            reason,
        };
        if refill.source != Source::Origin {
            let names = wanted.iter().map(|entry| (entry.id, entry.len)).collect();
            let site = Arc::clone(&refill.request.site.name);
            self.metrics.fetches.inc();
            let asked = refill
                .upstream
                .chunks(site, refill.request.key, names)
                .await;
            if let Ok(body) = asked
                && let Ok(chunks) = self.cut(key, body, wanted).await
            {
                return Ok(chunks);
            }
        }
        let Some(strong) = &refill.strong else {
            return Err(gone("no strong validator".to_owned()));
        };
        let length: u64 = wanted.iter().map(|entry| u64::from(entry.len)).sum();
        let slice = Slice {
            start,
            end: start + length,
        };
        let mut headers = refill.request.headers.clone();
        conditional::strip(&mut headers);
        let range = HeaderValue::try_from(format!("bytes={}-{}", slice.start, slice.end - 1))
            .map_err(|error| gone(error.to_string()))?;
        headers.insert(header::RANGE, range);
        headers.insert(header::IF_RANGE, strong.clone());
        self.metrics.fetches.inc();
        let fetched = refill.upstream.fetch(refill.request.get(headers)).await;
        // Nobody there is no word on whether the bytes are to be had.
        let response = fetched.map_err(|error| BodyError::Upstream(error.to_string()))?;
        if response.status != StatusCode::PARTIAL_CONTENT {
            return Err(gone(format!(
                "the upstream answered {} to a range under the validator",
                response.status
            )));
        }
        let part = response
            .headers
            .get(header::CONTENT_RANGE)
            .and_then(range::parse_content_range);
        if part.is_none_or(|(part, _)| part != slice) {
            return Err(gone("the upstream sent another range".to_owned()));
        }
        let body = match response.body {
            FetchBody::Stream(body) => body,
            // A part is never said in chunks.
            FetchBody::Chunked(_) | FetchBody::Empty => {
                return Err(gone("the upstream sent no bytes".to_owned()));
            }
        };
        let via = response.via;
        let pieces = body.map(move |piece| piece.map(|bytes| (bytes, via)));
        self.cut(key, Box::pin(pieces), wanted).await
    }

    /// Cuts a body at the lengths of `wanted` and verifies each chunk. A chunk counts as sent by who sent its last piece.
    async fn cut(
        &self,
        key: &ChunkKey,
        mut body: PieceStream,
        wanted: &[Entry],
    ) -> Result<Vec<(Bytes, Source)>, BodyError> {
        let mut chunks = Vec::with_capacity(wanted.len());
        let mut rest = Bytes::new();
        let mut via = Source::Origin;
        for entry in wanted {
            let length = entry.len as usize;
            let mut chunk = Vec::with_capacity(length);
            while chunk.len() < length {
                if rest.is_empty() {
                    let Some(piece) = body.next().await else {
                        return Err(BodyError::Upstream("a refill ended early".to_owned()));
                    };
                    (rest, via) = piece?;
                    self.metrics.fetched_bytes.inc_by(rest.len() as u64);
                    continue;
                }
                chunk.extend_from_slice(&rest.split_to(rest.len().min(length - chunk.len())));
            }
            if key.id(&chunk) != entry.id {
                return Err(BodyError::Corrupt(format!(
                    "chunk {} came back with other bytes",
                    entry.id
                )));
            }
            chunks.push((Bytes::from(chunk), via));
        }
        Ok(chunks)
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot")
            .field("store", &self.store)
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}
