//! What is stored for a request, and the reply to it where nothing needs waiting for. Synchronous: this is the path of
//! a hit, inline on the connection's task.

use std::sync::Arc;

use super::{Cache, Hit, Lookup, digests, index::Variants};
use crate::{
    http::{
        cache_status::{CacheStatus, Details},
        directives::RequestDirectives,
        facts::RequestFacts,
        policy::SitePolicy,
        reuse::{self, Reuse},
    },
    key::CacheKey,
    object::Object,
    reply::{Reply, ReplyBody},
    time::Timestamp,
};

impl Cache {
    /// What memory has for this request. Does not wait or allocate.
    #[must_use]
    pub fn lookup(
        &self,
        key: &CacheKey,
        facts: &RequestFacts<'_>,
        policy: &SitePolicy,
        now: Timestamp,
    ) -> Lookup {
        let Some(variants) = self.inner.index.get(key) else {
            return if self.inner.index.is_uncacheable(key, facts.headers, now) {
                Lookup::HitForMiss
            } else {
                Lookup::Miss
            };
        };
        self.select(key, &variants, facts, policy, now)
    }

    /// As [`Cache::lookup`], among the responses stored under the URL.
    pub(super) fn select(
        &self,
        key: &CacheKey,
        variants: &Variants,
        facts: &RequestFacts<'_>,
        policy: &SitePolicy,
        now: Timestamp,
    ) -> Lookup {
        let Some(object) = variants.select(facts.headers) else {
            return Lookup::VaryMiss;
        };
        let object = self.current(key, object);
        let hit = Hit {
            age_seconds: object.age_seconds(now),
            ttl_seconds: object.ttl_seconds(now),
            object,
        };
        let asked = RequestDirectives::heeded(facts.headers, policy);
        match reuse::reuse(&hit.object.freshness, &asked, now) {
            Reuse::Fresh => Lookup::Fresh(hit),
            Reuse::Stale => Lookup::Stale(hit),
            Reuse::Unwanted => Lookup::Unwanted(hit),
            Reuse::Expired => Lookup::Expired(hit),
        }
    }

    /// The reply to a fresh hit whose bytes are all in RAM, at most [`INLINE_BYTES_MAX`](crate::reply::INLINE_BYTES_MAX) of them: the
    /// whole, a part, the head, 304 or 416. `None` for everything else, which [`Cache::serve`] takes. Never waits, spawns or fails.
    #[must_use]
    pub fn try_hit(
        &self,
        key: &CacheKey,
        facts: &RequestFacts<'_>,
        policy: &SitePolicy,
        now: Timestamp,
    ) -> Option<Reply> {
        let Lookup::Fresh(hit) = self.lookup(key, facts, policy, now) else {
            return None;
        };
        let wanted = digests::wanted(facts, &hit.object);
        if self.lacks_digest(wanted, &hit.object) {
            return None;
        }
        let details = Details::default();
        let reply = self.ready(facts, &hit, CacheStatus::Hit, &details, wanted)?;
        self.inner.index.watch().hit(key, &hit.object, policy);
        let metrics = &self.inner.metrics;
        metrics.requests(CacheStatus::Hit).inc();
        if !matches!(reply.body, ReplyBody::Empty) {
            metrics
                .delivered_bytes
                .inc_by(reply.body.len_hint().unwrap_or(0));
        }
        Some(reply)
    }

    /// A stored response as it stands now.
    pub(super) fn hit(&self, object: Arc<Object>) -> Hit {
        let now = self.now();
        Hit {
            age_seconds: object.age_seconds(now),
            ttl_seconds: object.ttl_seconds(now),
            object,
        }
    }
}
