//! Telling somebody else what is stored here, as it changes: whoever announces to other nodes what this one holds.
//!
//! Told is what is stored under a URL and what is taken back; what is evicted is not: chunks leave one by one, and a record that leaves memory may be
//! on disk. Who wants to know looks, with [`Cache::stored`] and [`Cache::keeps`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::Cache;
use crate::{content::ManifestId, http::policy::SitePolicy, key::CacheKey, object::Object};

/// Hits of an object that are counted, and told: the first 8.
pub const HITS_TOLD: u8 = 8;

/// A response that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Under which URL.
    pub key: CacheKey,
    /// Root of its manifest.
    pub root: ManifestId,
    /// Its length.
    pub bytes: u64,
    /// How often it was hit since it came into memory; counted to [`HITS_TOLD`].
    pub hits: u8,
}

/// Is told what is stored. Called on the path of requests, under a lock of the entry it is about: must not wait, and must not ask the cache.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// Stored whole, or found to hold still. Of several variants of a URL the newest counts.
    fn stored(&self, seen: &Seen);

    /// Hit once more: told of the first [`HITS_TOLD`] hits. No lock is held.
    fn hit(&self, seen: &Seen);

    /// Invalidated, or not stored any more.
    fn gone(&self, key: &CacheKey);
}

/// Who watches, if anybody.
#[derive(Default)]
pub(super) struct Watch(OnceLock<Arc<dyn Watcher>>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.get()).finish()
    }
}

fn seen(key: &CacheKey, object: &Object, hits: u8) -> Seen {
    Seen {
        key: *key,
        root: object.manifest.root(),
        bytes: object.manifest.total_len(),
        hits,
    }
}

impl Watch {
    pub(super) fn stored(&self, key: &CacheKey, object: &Object) {
        let Some(watcher) = self.0.get() else {
            return;
        };
        match object.is_told() {
            true => watcher.stored(&seen(key, object, object.hits())),
            // What was told of another variant holds no longer.
            false => watcher.gone(key),
        }
    }

    /// Counts a hit: one look at a counter once the object has been hit often.
    pub(super) fn hit(&self, key: &CacheKey, object: &Object, policy: &SitePolicy) {
        let Some(watcher) = self.0.get() else {
            return;
        };
        // It may have been read from disk, where that is not written.
        object.tell(policy.told);
        if policy.told
            && let Some(hits) = object.hit()
        {
            watcher.hit(&seen(key, object, hits));
        }
    }

    pub(super) fn gone(&self, key: &CacheKey) {
        if let Some(watcher) = self.0.get() {
            watcher.gone(key);
        }
    }
}

impl Cache {
    /// Has somebody watch from now on what is stored: one for the life of the cache, the first that is given.
    pub fn watched_by(&self, watcher: Arc<dyn Watcher>) {
        // A second one is told nothing.
        let _ = self.inner.index.watch().0.set(watcher);
    }

    /// Shows what memory has of each URL, its variants with the newest first. No use of it in the policy's eyes. Costs a pass over all of it.
    pub fn stored(&self, mut see: impl FnMut(&CacheKey, &[Arc<Object>])) {
        self.inner
            .index
            .for_each_url(|key, variants| see(key, variants.all()));
    }

    /// Whether anything is stored of a URL, in memory or on disk. No use of it in the policy's eyes.
    #[must_use]
    pub fn keeps(&self, key: &CacheKey) -> bool {
        let index = &self.inner.index;
        index.holds(key)
            || index
                .records()
                .is_some_and(|records| records.has(key.as_bytes()))
    }
}
