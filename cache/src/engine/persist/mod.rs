//! What is stored, over a restart: the records of responses and of objects known by blocks on disk, and the marks of what was invalidated.
//!
//! - [`record`] is their form. A record is written whenever what it says changes, under the lock of its entry in memory, so the last
//!   that was written is the last that counted; it is read where memory has none.
//! - [`Loads`] has one load of a record at a time, and none that brings back what was changed meanwhile.
//! - [`journal`] keeps the marks: a record from before the last invalidation of its URL or groups is used only once the upstream says that it
//!   still holds, however the process ended.
//!
//! The disk is a cache as memory is: what it does not take, or loses, is fetched again. A record it would not take anew is forgotten, so that an
//! older one does not stand in its place.

mod bytes;
mod journal;
mod keeper;
mod ledger;
mod loads;
mod metrics;
mod record;

use std::{fmt, sync::Arc};

use ::bytes::Bytes;
use futures_util::future;

use self::record::{RecordError, Seal, Sketch};
pub(super) use self::{
    journal::Recovered,
    keeper::Keeper,
    ledger::Ledger,
    loads::{Loading, Loads},
    record::{BlocksRecord, Common, LEAF_BLOCKS, Leaf, Stamp},
};
pub use self::{
    journal::{Journal, JournalError},
    metrics::PersistMetrics,
};
use super::marks::Marks;
use crate::{
    content::{Entry, Manifest},
    http::invalidation,
    key::CacheKey,
    object::Object,
    store::disk::{DiskRead, DiskTier, Kind, Name, Put},
};

/// Pages of a manifest that are read at once: 8 × 36 KiB.
const PAGES_AT_ONCE: usize = 8;

const BLOCKS_CONTEXT: &str = "stoq 2026-11-21 stored blocks v1";
const LEAF_CONTEXT: &str = "stoq 2026-11-21 stored names of blocks v1";

/// Records on disk.
pub(super) struct Records {
    disk: Arc<dyn DiskTier>,
    seal: Seal,
    marks: Arc<Marks>,
    metrics: PersistMetrics,
}

/// What a record on disk names.
pub(super) enum Named {
    /// Stored responses.
    Responses(Vec<Body>),
    /// An object known by blocks.
    Blocks,
    /// The chunks that some of its blocks are.
    Chunks(Vec<Name>),
    /// Nothing that this build and this cluster understand.
    Unknown,
}

/// What the manifest of a stored response says.
pub(super) struct Body {
    pub(super) bytes: u64,
    /// Its chunks, where they are named in the record itself.
    pub(super) entries: Vec<Entry>,
    /// The pages that name them, where they are not.
    pub(super) pages: Vec<Name>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl Records {
    pub(super) fn new(
        disk: Arc<dyn DiskTier>,
        secret: &[u8; 32],
        marks: Arc<Marks>,
        metrics: PersistMetrics,
    ) -> Self {
        Self {
            disk,
            seal: Seal::new(secret),
            marks,
            metrics,
        }
    }

    /// Whether there is something under this name.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.disk.contains(name)
    }

    /// Forgets what is under this name.
    pub(super) fn forget(&self, name: &Name) {
        if self.disk.contains(name) {
            self.disk.forget(name);
        }
    }

    /// Writes the responses of a URL, the newest first.
    pub(super) fn write(&self, key: &CacheKey, objects: &[Arc<Object>]) {
        let (bytes, left_out) = record::encode(self.marks.stamp(), objects);
        self.metrics.variants_left_out.inc_by(left_out as u64);
        self.put(key.as_bytes(), bytes);
    }

    /// Writes what is known of an object by blocks.
    pub(super) fn write_blocks(&self, key: &CacheKey, blocks: &BlocksRecord) {
        self.put(&blocks_name(key), blocks.encode(self.marks.stamp()));
    }

    /// Writes which chunks some blocks are.
    pub(super) fn write_leaf(&self, serial: &[u8; 16], group: u64, leaf: &Leaf) {
        self.put(&leaf_name(serial, group), Some(record::encode_leaf(leaf)));
    }

    fn put(&self, name: &Name, bytes: Option<Vec<u8>>) {
        let sealed = bytes.and_then(|bytes| self.seal.close(name, bytes));
        let put = sealed.map(|sealed| self.disk.put(Kind::Head, *name, &sealed));
        match put {
            Some(Put::Queued | Put::Present) => {
                self.metrics.records_written.inc();
            }
            Some(Put::Refused(_)) | None => {
                self.metrics.records_refused.inc();
                self.forget(name);
            }
        }
    }

    /// Sees to it that the pages of a large manifest are on disk, before a record names them, and that there is room for the record. Waits while
    /// the disk is busy, up to about a second for that and for each page.
    pub(super) async fn write_pages(&self, manifest: &Manifest) {
        self.disk.room().await;
        if manifest.len() <= record::INLINE_ENTRIES_MAX {
            return;
        }
        for (page, digest) in manifest.pages().zip(manifest.page_digests()) {
            if self.disk.contains(digest) {
                continue;
            }
            self.disk.room().await;
            if let Put::Refused(_) = self.disk.put(Kind::Page, *digest, &page.encode()) {
                self.metrics.records_refused.inc();
                return;
            }
        }
    }

    /// What a record that lies on disk names, without reading anything else.
    pub(super) fn look(&self, name: &Name, sealed: &[u8]) -> Named {
        let Some(bytes) = self.seal.open(name, sealed) else {
            return Named::Unknown;
        };
        if let Ok((_, sketches)) = record::decode(bytes) {
            return Named::Responses(sketches.into_iter().map(Sketch::named).collect());
        }
        if BlocksRecord::decode(bytes).is_ok() {
            return Named::Blocks;
        }
        record::decode_leaf(bytes).map_or(Named::Unknown, |leaf| {
            Named::Chunks(leaf.into_iter().flatten().collect())
        })
    }

    /// The record under a name, if its seal holds.
    async fn read(&self, name: &Name) -> Option<Bytes> {
        let check = |bytes: &[u8]| self.seal.open(name, bytes).is_some();
        match self.disk.read(Kind::Head, name, &check).await {
            DiskRead::Hit(bytes) => {
                self.metrics.records_read.inc();
                let len = self.seal.open(name, &bytes)?.len();
                Some(bytes.slice(..len))
            }
            DiskRead::Corrupt => {
                self.metrics.records_damaged.inc();
                None
            }
            DiskRead::Miss | DiskRead::Throttled => None,
        }
    }

    /// The responses stored under a URL as the marks leave them, the newest first; those whose manifests are not whole any more are left out.
    pub(super) async fn load(&self, key: &CacheKey) -> Vec<Arc<Object>> {
        let Some(bytes) = self.read(key.as_bytes()).await else {
            return Vec::new();
        };
        let Some((stamp, sketches)) = self.understood(key, record::decode(&bytes)) else {
            return Vec::new();
        };
        let mut objects = Vec::with_capacity(sketches.len());
        for sketch in sketches {
            let Some(object) = self.complete(key, sketch).await else {
                continue;
            };
            let object = if self.marks.is_past(stamp, key) {
                self.metrics.read_invalid.inc();
                let freshness = invalidation::invalid(object.freshness);
                object.aged(freshness).in_groups(None)
            } else {
                object
            };
            objects.push(Arc::new(object));
        }
        objects
    }

    async fn complete(&self, key: &CacheKey, sketch: Sketch) -> Option<Object> {
        let digests = sketch.pages().to_vec();
        let mut pages = Vec::with_capacity(digests.len());
        for some in digests.chunks(PAGES_AT_ONCE) {
            let reads = some.iter().map(|digest| self.page(digest));
            for page in future::join_all(reads).await {
                let Some(page) = page else {
                    self.metrics.manifests_incomplete.inc();
                    return None;
                };
                pages.push(page);
            }
        }
        self.understood(key, sketch.finish(&pages))
    }

    async fn page(&self, digest: &[u8; 32]) -> Option<Bytes> {
        let check = |bytes: &[u8]| blake3::hash(bytes) == blake3::Hash::from_bytes(*digest);
        match self.disk.read(Kind::Page, digest, &check).await {
            DiskRead::Hit(bytes) => Some(bytes),
            DiskRead::Miss | DiskRead::Throttled | DiskRead::Corrupt => None,
        }
    }

    /// What is known of an object by blocks, as the marks leave it.
    pub(super) async fn load_blocks(&self, key: &CacheKey) -> Option<BlocksRecord> {
        let bytes = self.read(&blocks_name(key)).await?;
        let (stamp, mut record) = self.understood(key, BlocksRecord::decode(&bytes))?;
        if self.marks.is_past(stamp, key) {
            self.metrics.read_invalid.inc();
            record.common.freshness = invalidation::invalid(record.common.freshness);
            record.common.membership = None;
        }
        Some(record)
    }

    /// Which chunks some blocks are.
    pub(super) async fn load_leaf(&self, serial: &[u8; 16], group: u64) -> Option<Leaf> {
        let name = leaf_name(serial, group);
        if !self.has(&name) {
            return None;
        }
        let bytes = self.read(&name).await?;
        record::decode_leaf(&bytes).ok()
    }

    /// Forgets what an earlier process stored under a URL, where that is from before the URL's last invalidation.
    async fn settle(&self, key: &CacheKey) {
        for name in [*key.as_bytes(), blocks_name(key)] {
            if !self.has(&name) {
                continue;
            }
            let stamp = self.read(&name).await.map(|bytes| record::stamp(&bytes));
            let is_current = matches!(stamp, Some(Ok(stamp)) if !self.marks.is_past(stamp, key));
            if !is_current {
                self.forget(&name);
            }
        }
    }

    /// A record that an older or newer build wrote is as good as none.
    fn understood<T>(&self, key: &CacheKey, decoded: Result<T, RecordError>) -> Option<T> {
        decoded
            .inspect_err(|error| {
                self.metrics.records_unknown.inc();
                tracing::debug!(?key, %error, "a stored record is not used");
            })
            .ok()
    }
}

/// Where an object known by blocks lies.
pub(super) fn blocks_name(key: &CacheKey) -> Name {
    let mut hasher = blake3::Hasher::new_derive_key(BLOCKS_CONTEXT);
    hasher.update(key.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Where the names of some of its blocks lie.
fn leaf_name(serial: &[u8; 16], group: u64) -> Name {
    let mut hasher = blake3::Hasher::new_derive_key(LEAF_CONTEXT);
    hasher.update(serial).update(&group.to_le_bytes());
    *hasher.finalize().as_bytes()
}
