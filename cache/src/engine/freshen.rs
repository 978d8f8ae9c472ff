//! A stored response under the fields of a newer one: what a 304 confirms, and what an answer to HEAD describes (RFC 9111 §4.3.4, §4.3.5).

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};

use super::{Cache, CacheRequest, lead, marks::Begun};
use crate::{
    http::{
        facts::RequestFacts,
        freshness::{self, Freshness, Storable},
        hop, update,
        vary::Selector,
    },
    object::Object,
    reply::StoredHead,
    time::Timestamp,
    upstream::FetchResponse,
};

/// A response without content that says something of what is stored.
#[derive(Debug)]
pub(super) struct Newer<'a> {
    pub(super) response: &'a FetchResponse,
    pub(super) begun: &'a Begun,
    pub(super) request_time: Timestamp,
    pub(super) response_time: Timestamp,
}

impl Newer<'_> {
    /// Its end-to-end fields, dated.
    fn headers(&self) -> HeaderMap {
        let mut headers = self.response.headers.clone();
        hop::strip(&mut headers);
        lead::date(&mut headers, self.response_time);
        headers
    }
}

/// A stored response with newer fields.
struct Freshened {
    object: Object,
    /// Whether it may stay stored under them.
    storable: bool,
}

impl Cache {
    /// The held response, confirmed by a 304 to a request that was conditional on it. It replaces the held one, which goes if it may not be
    /// stored under its new fields.
    pub(super) fn confirm(
        &self,
        request: &CacheRequest,
        held: &Arc<Object>,
        newer: &Newer<'_>,
    ) -> Arc<Object> {
        let fields = newer.headers();
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.4
        //# All the stored
        //# responses in the initial set with one of those same strong
        //# validators are identified for update.
        self.inner.index.change(request.key, |other| {
            let shares = !Arc::ptr_eq(other, held)
                && other.selector.matches(&request.headers)
                && update::shares_strong_validator(&fields, &other.head.headers)
                && newer.begun.is_current();
            let freshened = shares.then(|| self.freshened(request, other, &fields, newer))?;
            freshened.storable.then(|| Arc::new(freshened.object))
        });
        let Freshened { object, storable } = self.freshened(request, held, &fields, newer);
        let object = Arc::new(object);
        if storable {
            self.keep_confirmed(request, &object, held, newer.begun);
        } else {
            self.inner.index.remove(request.key, held);
        }
        object
    }

    /// What an answer to HEAD says of what is stored: that it is as described, with these fields, or that it is not.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.5
    //# When a cache makes an inbound HEAD request for a target URI and
    //# receives a 200 (OK) response, the cache SHOULD update or invalidate
    //# each of its stored GET responses that could have been chosen for that
    //# request (see Section 4.1).
    pub(super) fn learn(&self, request: &CacheRequest, newer: &Newer<'_>) {
        if request.method != Method::HEAD || newer.response.status != StatusCode::OK {
            return;
        }
        let fields = newer.headers();
        let metrics = &self.inner.metrics;
        self.inner.index.change(request.key, |stored| {
            if !stored.selector.matches(&request.headers) || !newer.begun.is_current() {
                return None;
            }
            let described = stored.head.status == StatusCode::OK
                && update::describes(&fields, &stored.head.headers, stored.manifest.total_len());
            if !described {
                metrics.head_outdated.inc();
                return Some(Arc::new(stored.aged(Freshness {
                    lifetime_ms: 0,
                    while_revalidate_ms: 0,
                    ..stored.freshness
                })));
            }
            let freshened = self.freshened(request, stored, &fields, newer);
            // What must not be stored changes nothing that is: it may be for one user's eyes.
            freshened.storable.then(|| {
                metrics.head_updated.inc();
                Arc::new(freshened.object)
            })
        });
    }

    /// The held response with these fields in place of its own, judged as the response to a GET that it now is.
    fn freshened(
        &self,
        request: &CacheRequest,
        held: &Object,
        fields: &HeaderMap,
        newer: &Newer<'_>,
    ) -> Freshened {
        let headers = update::updated(&held.head.headers, fields);
        let status = held.head.status;
        // Its age is that of the newer response.
        let mut judged = headers.clone();
        if let Some(age) = fields.get(header::AGE) {
            judged.insert(header::AGE, age.clone());
        }
        let facts = RequestFacts {
            method: &Method::GET,
            headers: &request.headers,
        };
        let decision = freshness::storable(
            &facts,
            status,
            &judged,
            &request.site.policy,
            newer.request_time,
            newer.response_time,
        );
        let selector = Selector::of(&headers, &request.headers).unwrap_or_default();
        let membership = self.membership(request, &headers, newer.begun);
        let (freshness, storable) = match decision {
            Storable::Store(freshness) => (freshness, true),
            Storable::Pass(_) => (
                Freshness {
                    lifetime_ms: 0,
                    if_error_ms: None,
                    stale_allowed: false,
                    ..held.freshness
                },
                false,
            ),
        };
        let via = newer.response.via;
        let voucher = self.vouch(request, status, &headers, &held.manifest, &freshness, via);
        let object = Object::new(
            Arc::new(StoredHead::new(status, headers)),
            Arc::clone(&held.manifest),
            freshness,
            selector,
            via,
            newer.response.upstream_cache_status.clone(),
        )
        .in_groups(membership)
        .after(held)
        // The held one says how the response was when it came, which is older and not wrong.
        .vouched(voucher.or_else(|| held.voucher.clone()));
        Freshened { object, storable }
    }
}
