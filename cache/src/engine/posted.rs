//! The answer to a POST that a later GET may have (RFC 9110 §9.3.3).
//!
//! The origin has to say both: that what it sends is the representation of the very URL that was posted to, and for how long that is so. Even
//! then only a small answer to a request that names no user is stored. A POST itself is never answered from the store.

use std::sync::Arc;

use http::{Method, StatusCode, header};

use super::{
    Cache, CacheRequest, CacheSite, Failure,
    deliver::{Shape, declared_length},
    invalidate::Change,
    lead::{Arrival, Led},
    marks::Begun,
};
use crate::{
    http::{
        cache_status::CacheStatus,
        conditional,
        freshness::{self, Freshness, Storable},
        hop,
        redirection::REDIRECTIONS,
    },
    reply::Reply,
    time::Timestamp,
    upstream::{FetchRequest, FetchResponse, Upstream},
};

/// The longest answer that is stored; a longer one streams through. Forms and queries sent as POST answer in kilobytes.
const POSTED_BYTES_MAX: u64 = 64 * 1024;

/// A POST whose answer may turn out to be one to a GET too.
#[derive(Debug)]
pub(super) struct Posted {
    /// The GET that its answer would be stored for.
    request: CacheRequest,
    begun: Begun,
    request_time: Timestamp,
}

impl Posted {
    /// The mark of its fetch.
    pub(super) fn begun(&mut self) -> &mut Begun {
        &mut self.begun
    }
}

impl Cache {
    /// Takes note of a request before it is passed on. `None` for one whose answer is not stored, whatever that says.
    ///
    /// Besides other methods these are requests that name a user, those that forbid it, and those that ask the origin for another URL or
    /// method than the request line says: no key holds that.
    pub(super) fn posted(&self, site: &Arc<CacheSite>, request: &FetchRequest) -> Option<Posted> {
        let headers = &request.headers;
        let names_a_user =
            headers.contains_key(header::COOKIE) || headers.contains_key(header::AUTHORIZATION);
        if request.method != Method::POST
            || names_a_user
            || REDIRECTIONS.iter().any(|name| headers.contains_key(name))
        {
            return None;
        }
        let target = site.policy.query.target(request.path_and_query.as_str());
        let mut get = CacheRequest {
            site: Arc::clone(site),
            key: request.key,
            method: Method::GET,
            scheme: request.scheme.clone(),
            authority: request.authority.clone(),
            path_and_query: target.parse().ok()?,
            headers: headers.clone(),
        };
        conditional::strip(&mut get.headers);
        (!get.asked().no_store).then(|| Posted {
            begun: self.inner.marks.begin(get.key),
            request: get,
            request_time: self.now(),
        })
    }

    /// The reply to a POST, stored on its way to the client where it may answer GETs from now on.
    ///
    /// # Errors
    /// When the process goes down meanwhile.
    pub(super) async fn answer_posted(
        &self,
        posted: Posted,
        change: &Change,
        mut response: FetchResponse,
        upstream: Arc<dyn Upstream>,
        outcome: CacheStatus,
    ) -> Result<Reply, Failure> {
        let response_time = self.now();
        hop::strip(&mut response.headers);
        response.headers.remove("cache-status");
        let Some(freshness) = stands_for_get(&posted, change, &response, response_time)
            .filter(|_| !self.inner.tasks.is_closed())
        else {
            let get = &posted.request;
            return Ok(self.through(&get.site, get.key, &upstream, response, outcome));
        };
        let arrival = Arrival {
            response,
            freshness,
            response_time,
        };
        let Posted { request, begun, .. } = posted;
        let (site, key) = (Arc::clone(&request.site), request.key);
        match self
            .take_in(
                request,
                Arc::clone(&upstream),
                begun,
                arrival,
                POSTED_BYTES_MAX,
            )
            .await
        {
            Ok(Led::Filling(filling, reader)) => {
                let now = self.now();
                Ok(self.filling_reply(&filling, &Shape::Whole, reader, outcome, now))
            }
            Ok(Led::Through(response, _)) => {
                Ok(self.through(&site, key, &upstream, response, outcome))
            }
            Ok(Led::Failed(failure)) => Err(failure),
            // Nothing was held, so nothing was confirmed; the task was aborted.
            Ok(Led::Stored(_)) | Err(_) => Err(Failure::Shutdown),
        }
    }
}

/// How the answer ages as one to a GET; `None` where it is none.
fn stands_for_get(
    posted: &Posted,
    change: &Change,
    response: &FetchResponse,
    response_time: Timestamp,
) -> Option<Freshness> {
    let headers = &response.headers;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.3
    //# Responses to POST requests are only cacheable when they include
    //# explicit freshness information (see Section 4.2.1 of [CACHING]) and a
    //# Content-Location header field that has the same value as the POST's
    //# target URI (Section 8.7).
    let mut locations = headers.get_all(header::CONTENT_LOCATION).iter();
    let (location, None) = (locations.next()?.to_str().ok()?, locations.next()) else {
        return None;
    };
    let policy = &posted.request.site.policy;
    let is_small = declared_length(headers).is_none_or(|length| length <= POSTED_BYTES_MAX);
    if response.status != StatusCode::OK
        || !is_small
        || !change.is_own_target(location)
        || !freshness::is_explicit(headers, policy, response_time)
    {
        return None;
    }
    let decision = freshness::storable(
        &posted.request.facts(),
        response.status,
        headers,
        policy,
        posted.request_time,
        response_time,
    );
    match decision {
        Storable::Store(freshness) if freshness.is_fresh(response_time) => Some(freshness),
        Storable::Store(_) | Storable::Pass(_) => None,
    }
}
