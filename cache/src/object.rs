//! A stored response: its frozen head, the manifest of its body, and what decides whether it may be used.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::HeaderValue;

use crate::{
    content::Manifest,
    engine::{HITS_TOLD, Membership},
    http::{
        cache_status::{self, CacheStatus, Details},
        freshness::Freshness,
        vary::Selector,
    },
    reply::StoredHead,
    time::Timestamp,
    upstream::Source,
};

/// One stored response, complete and sealed. Never changed; a revalidation makes a new one with the same manifest.
#[derive(Debug)]
pub struct Object {
    /// Its head, with `content-length`.
    pub head: Arc<StoredHead>,
    /// Its body, by reference. A chunk it names may have been evicted.
    pub manifest: Arc<Manifest>,
    /// How it ages.
    pub freshness: Freshness,
    /// Which requests it answers.
    pub selector: Selector,
    /// Who sent it.
    pub source: Source,
    /// What caches nearer the origin wrote into `Cache-Status`.
    pub upstream_cache_status: Option<String>,
    /// The cache groups it belongs to (RFC 9875).
    pub(crate) membership: Option<Arc<Membership>>,
    /// By what other nodes may believe it.
    pub(crate) voucher: Option<Bytes>,
    /// The fields that change once a second, as they were last written.
    marks: ArcSwapOption<Marks>,
    /// Until when the upstream is not asked about it while it may be served in place of an error, milliseconds.
    rests_until: AtomicU64,
    /// How often it was hit, as far as that is counted.
    hits: AtomicU8,
    /// Whether its site has others told of it: [`TOLD`], [`PRIVATE`], or 0 where that is not known, as of what was read from disk.
    told: AtomicU8,
}

const TOLD: u8 = 1;
const PRIVATE: u8 = 2;

/// `Age` and `Cache-Status` of a hit in one second.
#[derive(Debug)]
pub(crate) struct Marks {
    age_seconds: u64,
    ttl_seconds: i64,
    pub(crate) age: HeaderValue,
    pub(crate) cache_status: Option<HeaderValue>,
}

impl Object {
    /// A new object.
    #[must_use]
    pub fn new(
        head: Arc<StoredHead>,
        manifest: Arc<Manifest>,
        freshness: Freshness,
        selector: Selector,
        source: Source,
        upstream_cache_status: Option<String>,
    ) -> Self {
        Self {
            head,
            manifest,
            freshness,
            selector,
            source,
            upstream_cache_status,
            membership: None,
            voucher: None,
            marks: ArcSwapOption::empty(),
            rests_until: AtomicU64::new(0),
            hits: AtomicU8::new(0),
            told: AtomicU8::new(0),
        }
    }

    /// The object as the successor of another of the same content, whose hits are its own.
    #[must_use]
    pub(crate) fn after(self, before: &Self) -> Self {
        self.hits.store(before.hits(), Ordering::Relaxed);
        self
    }

    /// Notes whether others are told of it.
    pub(crate) fn tell(&self, told: bool) {
        let told = if told { TOLD } else { PRIVATE };
        // Hits of many threads end here, and what is not written stays in all their caches.
        if self.told.load(Ordering::Relaxed) != told {
            self.told.store(told, Ordering::Relaxed);
        }
    }

    /// Whether others are told of it. Not before that is known.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed) == TOLD
    }

    /// Whether it is known that others are not to be told of it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.told.load(Ordering::Relaxed) == PRIVATE
    }

    /// How often it was hit, as far as that is counted.
    pub(crate) fn hits(&self) -> u8 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Counts a hit. Gives their number for as long as they are counted: to [`HITS_TOLD`], and one or two further where threads meet.
    pub(crate) fn hit(&self) -> Option<u8> {
        if self.hits() >= HITS_TOLD {
            return None;
        }
        Some(self.hits.fetch_add(1, Ordering::Relaxed).saturating_add(1))
    }

    /// The object as a member of cache groups.
    #[must_use]
    pub(crate) fn in_groups(mut self, membership: Option<Arc<Membership>>) -> Self {
        self.membership = membership;
        self
    }

    /// The object with what came along by which other nodes may believe it.
    #[must_use]
    pub(crate) fn vouched(mut self, voucher: Option<Bytes>) -> Self {
        self.voucher = voucher;
        self
    }

    /// The same response, ageing otherwise.
    #[must_use]
    pub(crate) fn aged(&self, freshness: Freshness) -> Self {
        Self {
            head: Arc::clone(&self.head),
            manifest: Arc::clone(&self.manifest),
            freshness,
            selector: self.selector.clone(),
            source: self.source,
            upstream_cache_status: self.upstream_cache_status.clone(),
            membership: self.membership.clone(),
            voucher: self.voucher.clone(),
            marks: ArcSwapOption::empty(),
            rests_until: AtomicU64::new(0),
            hits: AtomicU8::new(self.hits()),
            told: AtomicU8::new(self.told.load(Ordering::Relaxed)),
        }
    }

    /// The upstream answered with an error when it was asked about this response: it is left in peace until then.
    pub(crate) fn rest(&self, until: Timestamp) {
        self.rests_until.store(until.0, Ordering::Relaxed);
    }

    /// Whether the upstream is left in peace at `now`.
    pub(crate) fn is_resting(&self, now: Timestamp) -> bool {
        now.0 < self.rests_until.load(Ordering::Relaxed)
    }

    /// Its age at `now`, in seconds.
    #[must_use]
    pub fn age_seconds(&self, now: Timestamp) -> u64 {
        self.freshness.age_ms(now) / 1000
    }

    /// Freshness left at `now`, in seconds, rounded down.
    #[must_use]
    pub fn ttl_seconds(&self, now: Timestamp) -> i64 {
        self.freshness.ttl_ms(now).div_euclid(1000)
    }

    /// Bytes it weighs in the bound of the heads: head and encoded block, 44 bytes a chunk of manifest, and its own parts.
    #[must_use]
    pub fn weight(&self) -> usize {
        const MANIFEST_ENTRY: usize = 44;
        size_of::<Self>()
            + 256
            + 2 * self.head.weight()
            + MANIFEST_ENTRY * self.manifest.len()
            + self.selector.weight()
            + self.membership.as_ref().map_or(0, |groups| groups.weight())
            + self.voucher.as_ref().map_or(0, Bytes::len)
    }

    /// The fields of a hit; written anew once a second and shared by all hits in it.
    pub(crate) fn marks(&self, cache: &str, age_seconds: u64, ttl_seconds: i64) -> Arc<Marks> {
        let current = self.marks.load();
        if let Some(marks) = &*current
            && marks.age_seconds == age_seconds
            && marks.ttl_seconds == ttl_seconds
        {
            return Arc::clone(marks);
        }
        let details = Details {
            ttl_seconds: Some(ttl_seconds),
            ..Details::default()
        };
        let upstream = self.upstream_cache_status.as_deref();
        let marks = Arc::new(Marks {
            age_seconds,
            ttl_seconds,
            age: HeaderValue::from(age_seconds),
            cache_status: cache_status::field(cache, upstream, CacheStatus::Hit, &details),
        });
        self.marks.store(Some(Arc::clone(&marks)));
        marks
    }
}
