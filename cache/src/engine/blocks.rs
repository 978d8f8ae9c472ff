//! Aligned blocks of bodies that are not stored whole.
//!
//! A range that begins far into something unknown would have to wait for every byte before it. Instead the blocks it
//! touches are fetched, each [`BLOCK_BYTES`] long at a multiple of that, and kept as chunks, so that the next range over
//! them moves nothing. What ties the blocks of a body together is its strong validator: each is asked for under it, and
//! an answer under another ends the body. A later fill of the whole takes no notice of them.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::{
    CacheRequest,
    persist::{LEAF_BLOCKS, Leaf, Records},
};
use crate::{
    content::{ChunkId, ChunkKey},
    http::{
        conditional,
        range::{self, Slice},
        validator::EntityTag,
    },
    key::CacheKey,
    metrics::{Metrics, ServedFrom},
    store::{Read, Store},
    upstream::{BodyError, FetchBody, Upstream},
};

/// Bytes of a block, the last of a body may be shorter. A chunk of the store's.
pub(super) const BLOCK_BYTES: u64 = 256 << 10;

/// Consecutive blocks that one fetch asks for, at most: 1 MiB.
const RUN_BLOCKS_MAX: u64 = 4;

/// Runs that readers hold on to until they have passed them: 32 × 1 MiB. Beyond that a fetch asks for one block.
const RUNS_HELD_MAX: usize = 32;

/// Fetches under way at once; the next waits.
const FETCHES_MAX: usize = 64;

/// Blocks whose names are remembered, over all bodies: 16 GiB of bodies at about 250 bytes a name. The least used go.
const NAMES_MAX: u64 = 65_536;

/// Records of names that are read for one answer, at most: 64 × 16 MiB. Of what lies further its reader learns on its way.
const RECALLED_MAX: usize = 64;

const SERIAL_CONTEXT: &str = "stoq 2026-11-21 body by blocks v1";

/// Names in a record.
const GROUP: u64 = LEAF_BLOCKS as u64;

/// A body of which some blocks may be here: a version, told from all others by its validator.
#[derive(Debug)]
pub(super) struct Body {
    /// What tells it apart from every other: made of all that makes it another.
    pub(super) serial: [u8; 16],
    /// Its length in bytes.
    pub(super) total: u64,
    /// Its strong entity tag.
    pub(super) strong: HeaderValue,
}

impl Body {
    /// A version of what is under a URL, by its validator; `variant` is what it varies by.
    pub(super) fn new(key: &CacheKey, total: u64, strong: HeaderValue, variant: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SERIAL_CONTEXT);
        hasher.update(key.as_bytes()).update(&total.to_le_bytes());
        hasher.update(&(variant.len() as u64).to_le_bytes());
        hasher.update(variant).update(strong.as_bytes());
        let mut serial = [0; 16];
        hasher.finalize_xof().fill(&mut serial);
        Self {
            serial,
            total,
            strong,
        }
    }

    /// Whether an answer with these fields is about this version.
    fn is_of(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(header::ETAG);
        let said = said.and_then(|value| EntityTag::parse(value.as_bytes()));
        let held = EntityTag::parse(self.strong.as_bytes());
        said.zip(held)
            .is_some_and(|(said, held)| said.strong_eq(&held))
    }

    /// The bytes of `count` blocks from `first` on.
    fn slice(&self, first: u64, count: u64) -> Slice {
        Slice {
            start: first.saturating_mul(BLOCK_BYTES).min(self.total),
            end: first
                .saturating_add(count)
                .saturating_mul(BLOCK_BYTES)
                .min(self.total),
        }
    }
}

type Place = ([u8; 16], u64);
type Pending = OnceCell<Result<Arc<Run>, BodyError>>;

/// Consecutive blocks that were fetched.
struct Run {
    blocks: Vec<Bytes>,
    /// `None` where it is a single block that nobody keeps.
    permit: Option<OwnedSemaphorePermit>,
}

/// Where blocks are found and fetched.
pub(super) struct Blocks {
    store: Store,
    metrics: Arc<Metrics>,
    /// Which chunk a block of a body is.
    names: moka::sync::Cache<Place, ChunkId>,
    under_way: DashMap<Place, Arc<Pending>>,
    fetches: Semaphore,
    held: Arc<Semaphore>,
    records: Option<Arc<Records>>,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks")
            .field("names", &self.names.entry_count())
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}

impl Blocks {
    pub(super) fn new(store: Store, metrics: Arc<Metrics>, records: Option<Arc<Records>>) -> Self {
        Self {
            store,
            metrics,
            names: moka::sync::Cache::new(NAMES_MAX),
            under_way: DashMap::new(),
            fetches: Semaphore::new(FETCHES_MAX),
            held: Arc::new(Semaphore::new(RUNS_HELD_MAX)),
            records,
        }
    }

    /// Keeps a block.
    pub(super) fn put(&self, key: &ChunkKey, body: &Body, index: u64, bytes: Bytes) {
        let id = key.id(&bytes);
        self.store.put(id, bytes);
        self.names.insert((body.serial, index), id);
        self.metrics.blocks_stored.inc();
        if let Some(records) = &self.records {
            let group = index / GROUP;
            let mut leaf: Leaf = [None; LEAF_BLOCKS];
            for (name, index) in leaf.iter_mut().zip(group * GROUP..) {
                *name = self
                    .names
                    .get(&(body.serial, index))
                    .map(|id| *id.as_bytes());
            }
            records.write_leaf(&body.serial, group, &leaf);
        }
    }

    /// Shows the name of every block that memory knows.
    pub(super) fn for_each_name(&self, mut see: impl FnMut(&ChunkId)) {
        for (_, id) in &self.names {
            see(&id);
        }
    }

    /// Reads the names of the blocks of a slice from disk, where memory lacks any. Cancel safe.
    pub(super) async fn recall(&self, body: &Body, slice: Slice) {
        if self.records.is_none() || slice.start >= slice.end {
            return;
        }
        let last = (slice.end - 1) / BLOCK_BYTES;
        let first = slice.start / BLOCK_BYTES;
        for group in (first / GROUP..=last / GROUP).take(RECALLED_MAX) {
            let wanted = first.max(group * GROUP)..=last.min((group + 1) * GROUP - 1);
            let mut wanted = wanted.map(|index| (body.serial, index));
            if !wanted.all(|place| self.names.contains_key(&place)) {
                self.recall_group(body, group).await;
            }
        }
    }

    /// The name of a block, in memory or on disk.
    async fn name(&self, body: &Body, index: u64) -> Option<ChunkId> {
        let place = (body.serial, index);
        if self.names.get(&place).is_none() {
            self.recall_group(body, index / GROUP).await;
        }
        self.names.get(&place)
    }

    async fn recall_group(&self, body: &Body, group: u64) {
        let Some(records) = &self.records else { return };
        let Some(leaf) = records.load_leaf(&body.serial, group).await else {
            return;
        };
        for (name, index) in leaf.into_iter().zip(group * GROUP..) {
            let Some(name) = name else { continue };
            // Not over one that was put meanwhile.
            let entry = self.names.entry((body.serial, index));
            entry.or_insert_with(|| ChunkId::from_bytes(name));
        }
    }

    /// Whether every block of a slice is here now.
    pub(super) fn has(&self, body: &Body, slice: Slice) -> bool {
        let last = slice.end.saturating_sub(1) / BLOCK_BYTES;
        (slice.start / BLOCK_BYTES..=last).all(|index| self.knows(body, index))
    }

    fn knows(&self, body: &Body, index: u64) -> bool {
        let name = self.names.get(&(body.serial, index));
        name.is_some_and(|id| self.store.contains(&id))
    }

    /// Fetches consecutive blocks under the validator, and keeps them.
    async fn fetch(
        &self,
        way: &Way,
        body: &Body,
        first: u64,
        count: u64,
    ) -> Result<Vec<Bytes>, BodyError> {
        let slice = body.slice(first, count);
        let gone = |reason: String| BodyError::Gone {
            offset: slice.start,
            reason,
        };
        let mut headers = way.request.headers.clone();
        conditional::strip(&mut headers);
        headers.insert(header::RANGE, range_of(slice));
        headers.insert(header::IF_RANGE, body.strong.clone());
        self.metrics.fetches.inc();
        let response = way.upstream.fetch(way.request.get(headers)).await;
        let response = response.map_err(|error| BodyError::Upstream(error.to_string()))?;
        if response.status != StatusCode::PARTIAL_CONTENT || !body.is_of(&response.headers) {
            return Err(gone(format!(
                "the upstream answered {} about another version",
                response.status
            )));
        }
        if part(&response.headers) != Some((slice, body.total)) {
            return Err(gone("the upstream sent another range".to_owned()));
        }
        let bytes = self.take(response.body, slice.end - slice.start).await?;
        Ok(cut(&bytes)
            .zip(first..)
            .map(|(block, index)| {
                self.put(&way.key, body, index, block.clone());
                block
            })
            .collect())
    }

    /// All of a body of known length, at most a run of it.
    pub(super) async fn take(&self, body: FetchBody, length: u64) -> Result<Bytes, BodyError> {
        let mut stream = match body {
            FetchBody::Stream(stream) => stream,
            // A part is never said in chunks.
            FetchBody::Chunked(_) | FetchBody::Empty => Box::pin(stream::empty()),
        };
        let wrong = |got: u64| BodyError::Length {
            got,
            declared: length,
        };
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            self.metrics.fetched_bytes.inc_by(piece.len() as u64);
            if (bytes.len() + piece.len()) as u64 > length {
                return Err(wrong((bytes.len() + piece.len()) as u64));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 == length {
            Ok(bytes.freeze())
        } else {
            Err(wrong(bytes.len() as u64))
        }
    }
}

/// `Range` for a slice, which is not empty.
pub(super) fn range_of(slice: Slice) -> HeaderValue {
    let last = slice.end.saturating_sub(1);
    HeaderValue::try_from(format!("bytes={}-{last}", slice.start))
        .unwrap_or_else(|_| HeaderValue::from_static("bytes=0-0"))
}

/// The slice and the whole length that a 206 states; `None` where it has no single part of known place.
pub(super) fn part(headers: &HeaderMap) -> Option<(Slice, u64)> {
    let (slice, total) = headers
        .get(header::CONTENT_RANGE)
        .and_then(range::parse_content_range)?;
    Some((slice, total?))
}

/// Blocks of bytes that begin at one. Each owns its memory, so that none keeps the others alive.
pub(super) fn cut(bytes: &[u8]) -> impl Iterator<Item = Bytes> {
    let size = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let blocks: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    blocks.into_iter()
}

/// How a reader asks for what is not here.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) blocks: Arc<Blocks>,
    pub(super) upstream: Arc<dyn Upstream>,
    /// The request that is answered; its own conditions and range are taken out.
    pub(super) request: CacheRequest,
    pub(super) key: ChunkKey,
    pub(super) from: ServedFrom,
}

/// Reads a slice of a body block by block.
pub(super) struct BlockReader {
    way: Way,
    body: Arc<Body>,
    slice: Slice,
    /// The run under way: its first block and its blocks.
    run: Option<(u64, Arc<Run>)>,
    /// The block that was read before the head was sent.
    ahead: Option<(Bytes, ServedFrom)>,
    failed: bool,
}

impl BlockReader {
    pub(super) fn new(way: Way, body: Arc<Body>, slice: Slice) -> Self {
        Self {
            way,
            body,
            slice,
            run: None,
            ahead: None,
            failed: false,
        }
    }

    /// Where the bytes it hands out are counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.way.blocks.metrics
    }

    /// Goes to another slice.
    pub(super) fn narrow(&mut self, slice: Slice) {
        self.slice = slice;
        self.ahead = None;
    }

    /// Makes sure that the first block is here, so that a version that is gone shows before the head is sent.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) async fn prepare(&mut self) -> Result<(), BodyError> {
        if self.slice.start < self.slice.end {
            self.ahead = Some(self.block().await?);
        }
        Ok(())
    }

    /// The next bytes; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        if self.failed || self.slice.start >= self.slice.end {
            return None;
        }
        let read = match self.ahead.take() {
            Some(ahead) => Ok(ahead),
            None => self.block().await,
        };
        let (bytes, from) = match read {
            Ok(read) => read,
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        };
        let skip = self.slice.start % BLOCK_BYTES;
        let mut bytes = bytes.slice(usize::try_from(skip).unwrap_or(0).min(bytes.len())..);
        let left = self.slice.end - self.slice.start;
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            self.failed = true;
            return Some(Err(BodyError::Gone {
                offset: self.slice.start,
                reason: "a block was shorter than its place".to_owned(),
            }));
        }
        self.slice.start += bytes.len() as u64;
        let metrics = &self.way.blocks.metrics;
        metrics.served_bytes(from).inc_by(bytes.len() as u64);
        Some(Ok(bytes))
    }

    /// The block that holds the next byte.
    async fn block(&mut self) -> Result<(Bytes, ServedFrom), BodyError> {
        let index = self.slice.start / BLOCK_BYTES;
        if let Some((first, run)) = &self.run {
            let within = index
                .checked_sub(*first)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(bytes) = within.and_then(|at| run.blocks.get(at)) {
                return Ok((bytes.clone(), self.way.from));
            }
            self.run = None;
        }
        let blocks = &self.way.blocks;
        let place = (self.body.serial, index);
        if let Some(id) = blocks.name(&self.body, index).await {
            if let Some(bytes) = blocks.store.get_ram(&id) {
                return Ok((bytes, ServedFrom::Ram));
            }
            blocks.store.metrics().ram_misses.inc();
            if let Read::Hit(bytes) = blocks.store.read_disk(&self.way.key, &id, true).await {
                return Ok((bytes, ServedFrom::Disk));
            }
        }
        let pending = Arc::clone(&blocks.under_way.entry(place).or_default());
        let fetched = pending.get_or_init(|| self.fetch(index)).await.clone();
        blocks
            .under_way
            .remove_if(&place, |_, known| Arc::ptr_eq(known, &pending));
        let run = fetched?;
        let Some(bytes) = run.blocks.first().cloned() else {
            return Err(BodyError::Gone {
                offset: self.slice.start,
                reason: "the fetch was empty".to_owned(),
            });
        };
        if run.permit.is_some() {
            self.run = Some((index, run));
        }
        Ok((bytes, self.way.from))
    }

    /// Fetches the block and those after it that are wanted and not here.
    async fn fetch(&self, index: u64) -> Result<Arc<Run>, BodyError> {
        let blocks = &self.way.blocks;
        let _turn = blocks
            .fetches
            .acquire()
            .await
            .map_err(|_| BodyError::Shutdown)?;
        let permit = Arc::clone(&blocks.held).try_acquire_owned().ok();
        let last = self.slice.end.saturating_sub(1) / BLOCK_BYTES;
        let most = if permit.is_some() { RUN_BLOCKS_MAX } else { 1 };
        let count = 1
            + (index + 1..=last)
                .take(usize::try_from(most - 1).unwrap_or(0))
                .take_while(|next| !blocks.knows(&self.body, *next))
                .count() as u64;
        let fetched = blocks.fetch(&self.way, &self.body, index, count).await?;
        Ok(Arc::new(Run {
            blocks: fetched,
            permit,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_at_multiples_of_their_size_and_the_last_is_short() {
        let body = Body {
            serial: [0; 16],
            total: 2 * BLOCK_BYTES + 5,
            strong: HeaderValue::from_static("\"a\""),
        };
        assert_eq!(body.slice(1, 1).start, BLOCK_BYTES);
        assert_eq!(body.slice(1, 4).end, body.total);
        let bytes = Bytes::from(vec![7; usize::try_from(body.total).unwrap()]);
        let lengths: Vec<usize> = cut(&bytes).map(|block| block.len()).collect();
        assert_eq!(lengths, [262_144, 262_144, 5]);
    }

    #[test]
    fn only_the_same_strong_tag_is_the_same_version() {
        let body = Body {
            serial: [0; 16],
            total: 1,
            strong: HeaderValue::from_static("\"a\""),
        };
        for (tag, same) in [("\"a\"", true), ("W/\"a\"", false), ("\"b\"", false)] {
            let headers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static(tag))]);
            assert_eq!(body.is_of(&headers), same, "{tag}");
        }
        assert!(!body.is_of(&HeaderMap::new()));
    }
}
