//! What other nodes may believe of what is stored here, and what of theirs may answer here.
//!
//! Who fetched a response from its origin may put its name to it ([`Vouches`]), and what it wrote is kept with the response. A node that reads it may answer with the response as if it had
//! stored it itself: [`Cache::would_answer`] says when, by this node's own rules and by what was invalidated here.
//!
//! Invariant: nothing that another node had before a URL was invalidated here is used as fresh here, as far as clocks agree within [`CLOCKS_APART`].

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{Cache, CacheRequest, CacheSite, invalidate};
use crate::{
    content::Manifest,
    http::{
        facts::RequestFacts,
        freshness::{self, Freshness, Storable},
        groups::CACHE_GROUPS,
        reuse::{self, Reuse},
    },
    key::CacheKey,
    time::Timestamp,
    upstream::{FetchRequest, Source, VOUCHER_BYTES_MAX},
};

/// How far clocks of two nodes may be apart: 2 s. What another says it had that much after now is not believed, nor that it had it after an invalidation where
/// it was not that much after it.
pub const CLOCKS_APART: Duration = Duration::from_secs(2);

/// URLs whose last invalidation is remembered: 65,536, some 4 MiB. Beyond it all are taken to have been invalidated now.
const FENCES_MAX: usize = 65_536;

/// A response that was fetched from its origin and is stored here.
#[derive(Debug)]
pub struct Fetched<'a> {
    /// The site.
    pub site: &'a CacheSite,
    /// The URL's key.
    pub key: &'a CacheKey,
    /// Its status.
    pub status: StatusCode,
    /// Its fields, `Age` as it is now included.
    pub response: &'a HeaderMap,
    /// The fields of the request that it answered.
    pub request: &'a HeaderMap,
    /// Its body.
    pub manifest: &'a Manifest,
}

/// Puts this node's name to what it fetched from an origin.
pub trait Vouches: Send + Sync + fmt::Debug {
    /// What makes others believe it; `None` where this node may not, or it is nobody else's to have. At most [`VOUCHER_BYTES_MAX`], or it is not kept. Called on the task of the fetch:
    /// must not wait.
    fn vouch(&self, fetched: &Fetched<'_>) -> Option<Bytes>;
}

/// Who vouches here, if anybody; and when what was invalidated.
#[derive(Default)]
pub(super) struct Vouching {
    by: OnceLock<Arc<dyn Vouches>>,
    fences: Fences,
}

impl fmt::Debug for Vouching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vouching").field(&self.by.get()).finish()
    }
}

/// When URLs were last invalidated. Only ever errs towards later.
#[derive(Debug, Default)]
struct Fences {
    at: DashMap<CacheKey, Timestamp>,
    floor: AtomicU64,
}

impl Fences {
    fn raise(&self, key: CacheKey, now: Timestamp) {
        if self.at.len() >= FENCES_MAX && !self.at.contains_key(&key) {
            self.floor.fetch_max(now.0, Ordering::SeqCst);
            self.at.clear();
        }
        self.at.insert(key, now);
    }

    fn of(&self, key: &CacheKey) -> Option<Timestamp> {
        // In this order: what is cleared meanwhile has raised the floor before.
        let own = self.at.get(key).map_or(Timestamp(0), |at| *at);
        let last = own.max(Timestamp(self.floor.load(Ordering::SeqCst)));
        (last.0 > 0).then_some(last)
    }
}

impl Vouching {
    /// The URL was invalidated.
    pub(super) fn invalidated(&self, key: CacheKey, now: Timestamp) {
        self.fences.raise(key, now);
    }
}

impl Cache {
    /// Has somebody vouch from now on for what is fetched from origins: one for the life of the cache, the first that is given.
    pub fn vouched_for_by(&self, vouches: Arc<dyn Vouches>) {
        // A second one is not asked.
        let _ = self.inner.vouching.by.set(vouches);
    }

    /// What is said of a response that came from `via`, for other nodes.
    pub(super) fn vouch(
        &self,
        request: &CacheRequest,
        status: StatusCode,
        headers: &HeaderMap,
        manifest: &Manifest,
        freshness: &Freshness,
        via: Source,
    ) -> Option<Bytes> {
        let by = self.inner.vouching.by.get()?;
        if via != Source::Origin {
            return None;
        }
        let mut response = headers.clone();
        let age = freshness.age_ms(self.now()).div_ceil(1_000);
        response.insert(header::AGE, HeaderValue::from(age));
        let voucher = by.vouch(&Fetched {
            site: &request.site,
            key: &request.key,
            status,
            response: &response,
            request: &request.headers,
            manifest,
        });
        voucher.filter(|voucher| voucher.len() <= VOUCHER_BYTES_MAX)
    }

    /// Whether a response that another node stored, and said `said` to have, may answer a request as one stored here would: it is fresh by this node's rules, for this request,
    /// and nothing of it was invalidated here since. `response` has its `Age` now.
    #[must_use]
    pub fn would_answer(
        &self,
        site: &CacheSite,
        request: &FetchRequest,
        status: StatusCode,
        response: &HeaderMap,
        said: Timestamp,
    ) -> bool {
        let now = self.now();
        if said > now.plus(CLOCKS_APART) {
            return false;
        }
        let fence = self.inner.vouching.fences.of(&request.key);
        if fence.is_some_and(|fence| said <= fence.plus(CLOCKS_APART)) {
            return false;
        }
        if response.contains_key(&CACHE_GROUPS) {
            // Since when it belongs to them counts here from the beginning of all: what was ever invalidated here is not taken.
            let origin =
                invalidate::origin(&site.name, request.scheme.as_str(), &request.authority);
            let marks = &self.inner.marks;
            if marks.is_outdated(marks.membership(&origin, response, 0).as_deref()) {
                return false;
            }
        }
        let facts = RequestFacts {
            method: &request.method,
            headers: &request.headers,
        };
        let policy = &site.policy;
        let asked = crate::http::directives::RequestDirectives::heeded(&request.headers, policy);
        match freshness::storable(&facts, status, response, policy, now, now) {
            Storable::Store(freshness) => {
                matches!(reuse::reuse(&freshness, &asked, now), Reuse::Fresh)
            }
            Storable::Pass(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_is_remembered_and_with_too_many_all_count_as_invalidated() {
        let fences = Fences::default();
        let key = |number: u64| CacheKey::of("s", "https", "a", &number.to_string());
        assert_eq!(fences.of(&key(0)), None);
        fences.raise(key(0), Timestamp(5));
        assert_eq!(fences.of(&key(0)), Some(Timestamp(5)));
        assert_eq!(fences.of(&key(1)), None);
        for number in 1..FENCES_MAX as u64 {
            fences.raise(key(number), Timestamp(6));
        }
        assert_eq!(fences.of(&key(0)), Some(Timestamp(5)));
        fences.raise(key(u64::MAX), Timestamp(7));
        assert_eq!(fences.at.len(), 1, "bounded");
        for number in [0, 1, u64::MAX, u64::MAX - 1] {
            assert_eq!(fences.of(&key(number)), Some(Timestamp(7)), "{number}");
        }
        // One that is there already makes no room.
        fences.raise(key(u64::MAX), Timestamp(9));
        assert_eq!(fences.of(&key(u64::MAX)), Some(Timestamp(9)));
    }
}
