//! Which responses are stored under which URL, and which URLs are known to be uncacheable.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use moka::{ops::compute::Op, sync::Cache};
use prometheus_client::metrics::counter::Counter;

use super::{
    persist::{Loading, Loads, Records},
    watch::Watch,
};
use crate::{
    content::Manifest,
    http::{
        blame::Reach,
        vary::{self, Presented},
    },
    key::CacheKey,
    object::Object,
    time::Timestamp,
};

/// URLs remembered as uncacheable: at about 300 bytes each 20 MiB. The least used are forgotten, and collapse once more.
const UNCACHEABLE_MAX: u64 = 65_536;

/// The longest the end of a body waits for the disk.
const PREPARE_WAIT: Duration = Duration::from_secs(2);

/// The stored responses of one URL, the newest first, at most as many as the index was made for.
#[derive(Debug)]
pub(crate) struct Variants(Vec<Arc<Object>>);

impl Variants {
    /// The newest response that a request with these fields may have.
    pub(crate) fn select(&self, request: &HeaderMap) -> Option<&Arc<Object>> {
        let selectors = self.0.iter().map(|object| &object.selector);
        let place = vary::select(selectors, &mut Presented::new(request))?;
        self.0.get(place)
    }

    /// All of them, the newest first.
    pub(crate) fn all(&self) -> &[Arc<Object>] {
        &self.0
    }

    /// Any of them, the newest: its `Vary` is the best guess at the next response's.
    pub(crate) fn newest(&self) -> Option<&Arc<Object>> {
        self.0.first()
    }
}

/// A URL whose response was not stored a moment ago.
#[derive(Debug, Clone, Copy)]
struct Uncacheable {
    until: Timestamp,
    /// Whose requests that is settled for.
    reach: Reach,
}

/// The index. Bounded in bytes by an estimate of what the heads and manifests weigh. What it evicts is still on disk, where there is one: each
/// change is written there under the lock of its entry.
#[derive(Debug)]
pub(crate) struct Index {
    objects: Cache<CacheKey, Arc<Variants>, ByFirstBytes>,
    records: Option<Arc<Records>>,
    loads: Loads<Arc<Variants>>,
    uncacheable: Cache<CacheKey, Uncacheable, ByFirstBytes>,
    /// Variants of one URL.
    variants_max: usize,
    variants_dropped: Counter,
    watch: Watch,
}

impl Index {
    /// Of `heads_bytes`, with at most `variants_max` variants of a URL. Those that leave for newer ones are counted in `variants_dropped`.
    /// `records` are what is on disk.
    pub(crate) fn new(
        heads_bytes: u64,
        variants_max: usize,
        variants_dropped: Counter,
        records: Option<Arc<Records>>,
    ) -> Self {
        /// The index's own cost of an entry (measured for this cache: 291 bytes).
        const ENTRY_OVERHEAD: usize = 291;
        let objects = Cache::builder()
            .max_capacity(heads_bytes)
            .weigher(|_, variants: &Arc<Variants>| {
                let weight: usize = variants.0.iter().map(|object| object.weight()).sum();
                u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .build_with_hasher(ByFirstBytes);
        let uncacheable = Cache::builder()
            .max_capacity(UNCACHEABLE_MAX)
            .build_with_hasher(ByFirstBytes);
        Self {
            objects,
            records,
            loads: Loads::default(),
            uncacheable,
            variants_max: variants_max.max(1),
            variants_dropped,
            watch: Watch::default(),
        }
    }

    /// Who is told what is stored.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What memory has of a URL.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Arc<Variants>> {
        self.objects.get(key)
    }

    /// Whether memory has anything of a URL; no use of it in the policy's eyes.
    pub(crate) fn holds(&self, key: &CacheKey) -> bool {
        self.objects.contains_key(key)
    }

    /// The records on disk.
    pub(crate) fn records(&self) -> Option<&Arc<Records>> {
        self.records.as_ref()
    }

    /// Shows every response that memory has.
    pub(crate) fn for_each(&self, mut see: impl FnMut(&Arc<Object>)) {
        for (_, variants) in &self.objects {
            variants.0.iter().for_each(&mut see);
        }
    }

    /// Shows what memory has, URL by URL.
    pub(crate) fn for_each_url(&self, mut see: impl FnMut(&CacheKey, &Variants)) {
        for (key, variants) in &self.objects {
            see(&key, &variants);
        }
    }

    /// What is stored of a URL, read from disk where memory has nothing. Cancel safe.
    pub(crate) async fn recall(&self, key: &CacheKey) -> Option<Arc<Variants>> {
        if let Some(variants) = self.get(key) {
            return Some(variants);
        }
        let records = self.records.as_ref()?;
        let name = key.as_bytes();
        if !records.has(name) {
            return None;
        }
        let load = |loading: Arc<_>| async move { self.load(records, key, &loading).await };
        self.loads.find(name, || self.get(key), load).await
    }

    /// Reads a URL's record into memory, unless it is changed meanwhile.
    async fn load(
        &self,
        records: &Records,
        key: &CacheKey,
        loading: &Loading<Arc<Variants>>,
    ) -> Option<Arc<Variants>> {
        let mut objects = records.load(key).await;
        objects.truncate(self.variants_max);
        if objects.is_empty() {
            return None;
        }
        loading.settle(&self.objects, *key, Arc::new(Variants(objects)))
    }

    /// Before a response is stored: sees to it that the pages of its manifest are on disk, and that the other variants of its URL are in
    /// memory, since they are written together. For at most two seconds, since readers wait for the end of the body. Cancel safe.
    pub(crate) async fn prepare(&self, key: &CacheKey, manifest: &Manifest) {
        if let Some(records) = &self.records {
            let prepared = async {
                records.write_pages(manifest).await;
                self.recall(key).await;
            };
            // Without its pages the response does not come back, and is fetched again.
            let _ = tokio::time::timeout(PREPARE_WAIT, prepared).await;
        }
    }

    /// Puts an entry, in memory and on disk. Called under its lock.
    fn put(&self, key: &CacheKey, objects: Vec<Arc<Object>>) -> Op<Arc<Variants>> {
        if let Some(records) = &self.records {
            self.loads.outdate(key.as_bytes());
            records.write(key, &objects);
        }
        Op::Put(Arc::new(Variants(objects)))
    }

    /// Forgets an entry on disk. Called under its lock.
    fn forget(&self, key: &CacheKey) {
        if let Some(records) = &self.records {
            self.loads.outdate(key.as_bytes());
            records.forget(key.as_bytes());
        }
    }

    /// Stores a response in place of those that answer the same requests, and of those that `displaced` names. The oldest variant
    /// leaves where there are too many. Not if it is outdated by now: `current` is asked while nobody else changes what is stored
    /// under this URL. Whether it was stored.
    pub(crate) fn insert(
        &self,
        key: CacheKey,
        object: &Arc<Object>,
        displaced: impl Fn(&Arc<Object>) -> bool,
        current: impl Fn() -> bool,
    ) -> bool {
        let mut stored = false;
        let mut dropped = 0;
        self.objects.entry(key).and_compute_with(|present| {
            if !current() {
                return Op::Nop;
            }
            stored = true;
            let mut variants = Vec::with_capacity(1);
            variants.push(Arc::clone(object));
            if let Some(present) = present {
                let others = present.into_value();
                variants.extend(
                    others
                        .0
                        .iter()
                        .filter(|other| other.selector != object.selector && !displaced(other))
                        .cloned(),
                );
                dropped = variants.len().saturating_sub(self.variants_max) as u64;
                variants.truncate(self.variants_max);
            }
            self.watch.stored(&key, object);
            self.put(&key, variants)
        });
        self.variants_dropped.inc_by(dropped);
        if stored {
            self.uncacheable.invalidate(&key);
        }
        stored
    }

    /// Puts something else in a stored response's place, where `change` gives it.
    pub(crate) fn change(
        &self,
        key: CacheKey,
        change: impl FnMut(&Arc<Object>) -> Option<Arc<Object>>,
    ) {
        self.change_or(key, change, || {});
    }

    /// As [`Index::change`], for what invalidates; what is on disk alone, and so is not shown to `change`, is forgotten.
    pub(crate) fn change_all(
        &self,
        key: CacheKey,
        mut change: impl FnMut(&Arc<Object>) -> Option<Arc<Object>>,
    ) {
        let change = |object: &_| {
            self.watch.gone(&key);
            change(object)
        };
        self.change_or(key, change, || {
            self.watch.gone(&key);
            self.forget(&key);
        });
    }

    fn change_or(
        &self,
        key: CacheKey,
        mut change: impl FnMut(&Arc<Object>) -> Option<Arc<Object>>,
        absent: impl FnOnce(),
    ) {
        self.objects.entry(key).and_compute_with(|present| {
            let Some(present) = present else {
                absent();
                return Op::Nop;
            };
            let variants = present.into_value();
            let mut changed = false;
            let objects = variants.0.iter().map(|object| match change(object) {
                Some(other) => {
                    changed = true;
                    other
                }
                None => Arc::clone(object),
            });
            let objects = objects.collect();
            if changed {
                self.put(&key, objects)
            } else {
                Op::Nop
            }
        });
    }

    /// Forgets this response, if it is still the one stored; where nothing is in memory, all that is on disk of its URL.
    pub(crate) fn remove(&self, key: CacheKey, object: &Arc<Object>) {
        self.objects.entry(key).and_compute_with(|present| {
            let Some(present) = present else {
                self.forget(&key);
                self.watch.gone(&key);
                return Op::Nop;
            };
            let variants = present.into_value();
            let kept: Vec<_> = variants
                .0
                .iter()
                .filter(|other| !Arc::ptr_eq(other, object))
                .cloned()
                .collect();
            match kept.len() {
                0 => {
                    self.forget(&key);
                    self.watch.gone(&key);
                    Op::Remove
                }
                all if all == variants.0.len() => Op::Nop,
                _ => {
                    if let Some(newest) = kept.first() {
                        self.watch.stored(&key, newest);
                    }
                    self.put(&key, kept)
                }
            }
        });
    }

    /// Remembers a URL as uncacheable from `now` until `until`, for requests in `reach`. What is known for everyone stays known for as long.
    pub(crate) fn mark_uncacheable(
        &self,
        key: CacheKey,
        reach: Reach,
        now: Timestamp,
        until: Timestamp,
    ) {
        let known = self.uncacheable.get(&key);
        let is_narrower = reach != Reach::Everyone
            && known.is_some_and(|known| known.reach == Reach::Everyone && now < known.until);
        if !is_narrower {
            self.uncacheable.insert(key, Uncacheable { until, reach });
        }
    }

    /// Whether a URL was found uncacheable for a request with these fields and that still counts.
    pub(crate) fn is_uncacheable(
        &self,
        key: &CacheKey,
        request: &HeaderMap,
        now: Timestamp,
    ) -> bool {
        self.uncacheable
            .get(key)
            .is_some_and(|known| now < known.until && known.reach.includes(request))
    }
}

/// Keys are hashes already: the first eight bytes serve.
#[derive(Debug, Clone, Copy, Default)]
struct ByFirstBytes;

#[derive(Debug, Default)]
struct FirstBytes(u64);

impl BuildHasher for ByFirstBytes {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes::default()
    }
}

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
