//! Unsafe requests and what they make invalid: their target, what its answer says it changed, and groups (RFC 9111 §4.4, RFC 9875).
//!
//! What is invalidated stays stored, to be validated before its next use: the origin may say that it did not change after all, and chunks
//! that are named again need not travel. Fetches under way are kept from storing what they bring ([`marks`](super::marks)).

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::{
    Cache, CacheRequest, CacheSite,
    marks::{Begun, Membership},
};
use crate::{
    http::{
        groups::{self, CACHE_GROUP_INVALIDATION},
        invalidation::{self, Target},
    },
    key::CacheKey,
    object::Object,
    upstream::{FetchRequest, FetchResponse},
};

/// A request that may change something: what is to be known of it when its answer is here.
#[derive(Debug)]
pub(super) struct Change {
    method: Method,
    site: Arc<CacheSite>,
    key: CacheKey,
    target: Target,
}

impl Change {
    /// `None` for a safe method, which costs nothing then.
    pub(super) fn of(site: &Arc<CacheSite>, request: &FetchRequest) -> Option<Self> {
        invalidation::is_unsafe(&request.method).then(|| Self {
            method: request.method.clone(),
            site: Arc::clone(site),
            key: request.key,
            target: Target {
                scheme: request.scheme.as_str().to_owned(),
                authority: request.authority.clone(),
                path_and_query: request.path_and_query.as_str().to_owned(),
            },
        })
    }

    /// Whether a reference in the answer means what was asked for, as the site names it.
    pub(super) fn is_own_target(&self, reference: &str) -> bool {
        let named = self.target.resolve(reference);
        named.is_some_and(|named| self.key_of(&named) == self.key)
    }

    /// The key of a URI of this request's site. By the site's rules, as a request for it would be.
    fn key_of(&self, target: &Target) -> CacheKey {
        self.site.policy.query.key(
            &self.site.name,
            &target.scheme,
            &target.authority,
            &target.path_and_query,
        )
    }
}

/// The name of a URI's origin. Two URIs have the same where keys would not tell their schemes, hosts and ports apart.
pub(super) fn origin(site: &str, scheme: &str, authority: &str) -> CacheKey {
    CacheKey::of(site, scheme, authority, "/")
}

impl Cache {
    /// Makes invalid what the answer to an unsafe request says is. Whether anything was held of it: stored, under way, or a group.
    ///
    /// Where no answer comes, nothing is known and nothing is invalidated. `own` is the mark of the request itself where its answer may be
    /// stored: it is not outdated by that answer.
    pub(super) fn invalidate(
        &self,
        change: &Change,
        response: &FetchResponse,
        own: Option<&mut Begun>,
    ) -> bool {
        if !invalidation::invalidates(&change.method, response.status) {
            return false;
        }
        let metrics = &self.inner.metrics;
        metrics.invalidated_targets.inc();
        let mut any = self.invalidate_url(change.key, own);
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
        //# However, a cache MUST NOT trigger an
        //# invalidation under these conditions if the origin (Section 4.3.1 of
        //# [HTTP]) of the URI to be invalidated differs from that of the target
        //# URI (Section 7.1 of [HTTP]).
        let origin_of =
            |target: &Target| origin(&change.site.name, &target.scheme, &target.authority);
        let own = origin_of(&change.target);
        for named in change.target.named_by(&response.headers) {
            let key = change.key_of(&named);
            if key != change.key && origin_of(&named) == own {
                metrics.invalidated_locations.inc();
                any |= self.invalidate_url(key, None);
            }
        }
        //= https://www.rfc-editor.org/rfc/rfc9875#section-3
        //# The Cache-Group-Invalidation header field MUST be ignored on responses
        //# to requests that have a safe method
        let groups = groups::names(&response.headers, &CACHE_GROUP_INVALIDATION);
        if !groups.is_empty() {
            metrics.invalidated_groups.inc_by(groups.len() as u64);
            self.inner.marks.outdate_groups(&own, &groups);
            any = true;
        }
        any
    }

    /// Makes all that is held of a URL invalid, every variant. Whether anything was.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9875#section-2.2.1
    //# A cache that invalidates a stored response MAY invalidate any stored
    //# responses that share groups (per Section 2.1) with that response.
    ///
    /// This cache does, and goes no further: what falls with a group takes no other group with it.
    fn invalidate_url(&self, key: CacheKey, own: Option<&mut Begun>) -> bool {
        // First the mark, then what is stored: a fetch that ends in between finds the one or leaves its response to the other.
        let fetching = match own {
            Some(own) => self.inner.marks.outdate_others(own),
            None => self.inner.marks.outdate(&key),
        };
        self.inner.vouching.invalidated(key, self.now());
        let _applying = self.inner.marks.mark_url(key);
        let mut found: Vec<Arc<Object>> = Vec::new();
        self.inner.index.change_all(key, |object| {
            found.push(Arc::clone(object));
            Some(Arc::new(
                object.aged(invalidation::invalid(object.freshness)),
            ))
        });
        self.inner
            .metrics
            .invalidated_responses
            .inc_by(found.len() as u64);
        let part = self.inner.partials.invalidate(key);
        self.inner
            .metrics
            .invalidated_responses
            .inc_by(u64::from(part.is_some()));
        let memberships = || {
            let whole = found.iter().map(|object| &object.membership);
            whole.chain(&part).filter_map(|groups| groups.as_deref())
        };
        if memberships().next().is_some() {
            self.inner.marks.outdate_memberships(memberships());
        }
        fetching || part.is_some() || !found.is_empty()
    }

    /// A stored response as the marks leave it: itself, or invalid where one of its groups was invalidated since it was fetched.
    pub(super) fn current(&self, key: &CacheKey, object: &Arc<Object>) -> Arc<Object> {
        if !self.inner.marks.is_outdated(object.membership.as_deref()) {
            return Arc::clone(object);
        }
        let invalid = Arc::new(
            object
                .aged(invalidation::invalid(object.freshness))
                .in_groups(None),
        );
        self.inner.metrics.invalidated_responses.inc();
        self.inner.index.change(*key, |stored| {
            Arc::ptr_eq(stored, object).then(|| {
                self.inner.index.watch().gone(key);
                Arc::clone(&invalid)
            })
        });
        invalid
    }

    /// Stores a response, unless its URL was invalidated since its fetch began. Whether it did.
    pub(super) fn keep(&self, request: &CacheRequest, object: &Arc<Object>, begun: &Begun) -> bool {
        // What would have answered this request too: what it varies by may not be what the URL varies by now.
        let displaced = |other: &Arc<Object>| other.selector.matches(&request.headers);
        self.keep_for(request, object, displaced, begun)
    }

    /// Stores a confirmed response in the held one's place.
    pub(super) fn keep_confirmed(
        &self,
        request: &CacheRequest,
        object: &Arc<Object>,
        held: &Arc<Object>,
        begun: &Begun,
    ) -> bool {
        self.keep_for(request, object, |other| Arc::ptr_eq(other, held), begun)
    }

    fn keep_for(
        &self,
        request: &CacheRequest,
        object: &Arc<Object>,
        displaced: impl Fn(&Arc<Object>) -> bool,
        begun: &Begun,
    ) -> bool {
        let index = &self.inner.index;
        object.tell(request.site.policy.told);
        let stored = index.insert(request.key, object, displaced, || begun.is_current());
        if stored {
            self.inner.searches.learn(request, &object.head.headers);
        } else {
            self.inner.metrics.fetches_outdated.inc();
        }
        stored
    }

    /// The groups a response to this request belongs to.
    pub(super) fn membership(
        &self,
        request: &CacheRequest,
        headers: &HeaderMap,
        begun: &Begun,
    ) -> Option<Arc<Membership>> {
        // Most responses are in none: the origin's name is only made for those that are.
        headers.get(&groups::CACHE_GROUPS)?;
        let origin = origin(
            &request.site.name,
            request.scheme.as_str(),
            &request.authority,
        );
        self.inner.marks.membership(&origin, headers, begun.at())
    }
}
