//! What the cache holds, announced and taken back.
//!
//! The cache says what it stores, what is hit and what is invalidated. What it evicts it does not say: [`Announcer::compare`] goes over what is
//! announced now and then, and says how much of each object is still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stoq_cache::content::Manifest;
use stoq_cache::engine::{Cache, Seen, Watcher};
use stoq_cache::key::CacheKey;
use stoq_routing::Key;
use stoq_routing::index::{BUCKETS, Index, Provided, ProviderIndex, Rpc, WHOLE, Worth};

use super::metrics::IndexMetrics;

/// Announced records looked at in one go.
const PAGE: usize = 1_024;

/// Announces what a cache holds.
pub struct Announcer<R> {
    index: Arc<Index<R>>,
    worth: Worth,
    metrics: Arc<IndexMetrics>,
}

impl<R> std::fmt::Debug for Announcer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer")
            .field("worth", &self.worth)
            .finish_non_exhaustive()
    }
}

impl<R: Rpc> Announcer<R> {
    /// Announces in `index` what is worth it.
    #[must_use]
    pub fn new(index: Arc<Index<R>>, worth: Worth, metrics: Arc<IndexMetrics>) -> Self {
        Self {
            index,
            worth,
            metrics,
        }
    }

    fn provide(&self, key: Key, manifest: [u8; 32], fraction: u8) {
        match self.index.provide(key, manifest, fraction) {
            Provided::Taken | Provided::Same => {}
            Provided::Full | Provided::Busy => {
                self.metrics.unannounced.inc();
            }
        }
    }

    fn withdraw(&self, key: &Key) {
        if self.index.withdraw(key) {
            self.metrics.withdrawn.inc();
        }
    }

    /// Goes over all that is announced: what is not held any more is taken back, what is held in part is announced as that. Of what is on disk and
    /// not in memory nothing more is known than that it is there. What is stored in the very moment in which it is looked for may be taken back as well,
    /// and is announced at its next hits.
    ///
    /// Blocks: costs a look at each object in memory and at each chunk of those that are announced. Ends early once `over` is set.
    pub fn compare(&self, cache: &Cache, over: &AtomicBool) {
        cache.stored(|url, variants| {
            let key = Key(*url.as_bytes());
            if over.load(Ordering::Relaxed) {
                return;
            }
            let Some(record) = self.index.held(&key) else {
                return;
            };
            let announced = variants
                .iter()
                .find(|object| *object.manifest.root().as_bytes() == record.manifest);
            // Its site may have been bound to zones since.
            let announced = announced.filter(|object| !object.is_private());
            match announced.map_or(0, |object| fraction(cache, &object.manifest)) {
                0 => self.withdraw(&key),
                fraction => self.provide(key, record.manifest, fraction),
            }
        });
        for bucket in 0..BUCKETS {
            let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
            let mut after = None;
            loop {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let page = self.index.announced(bucket, after.as_ref(), PAGE);
                for record in &page {
                    let url = CacheKey::from_bytes(record.key.0);
                    if !cache.keeps(&url) {
                        self.withdraw(&record.key);
                    }
                }
                match page.last() {
                    Some(last) if page.len() == PAGE => after = Some(last.key),
                    _ => break,
                }
            }
        }
    }
}

/// How much of an object is here, in 255ths: rounded down, but of something never to nothing.
fn fraction(cache: &Cache, manifest: &Manifest) -> u8 {
    let store = cache.store();
    let all = manifest.len();
    let held = manifest.entries_from(0);
    let held = held.filter(|entry| store.contains(&entry.id)).count();
    match (held, held * usize::from(WHOLE) / all.max(1)) {
        (0, _) if all > 0 => 0,
        (_, share) => u8::try_from(share).unwrap_or(WHOLE).max(1),
    }
}

impl<R: Rpc> Watcher for Announcer<R> {
    fn stored(&self, seen: &Seen) {
        let key = Key(*seen.key.as_bytes());
        if self.worth.announces(Some(seen.bytes), seen.hits.into()) {
            self.provide(key, *seen.root.as_bytes(), WHOLE);
        } else {
            // Another version than the one that was worth it.
            self.withdraw(&key);
        }
    }

    fn hit(&self, seen: &Seen) {
        let hits = u64::from(seen.hits);
        // Once when it is worth it, and some times more in case there was no room.
        let is_told = hits >= self.worth.hits_min && hits.is_power_of_two();
        if is_told && self.worth.announces(Some(seen.bytes), hits) {
            self.provide(Key(*seen.key.as_bytes()), *seen.root.as_bytes(), WHOLE);
        }
    }

    fn gone(&self, key: &CacheKey) {
        self.withdraw(&Key(*key.as_bytes()));
    }
}
