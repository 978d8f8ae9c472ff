//! The fetch that a leader runs, for itself and for whoever joins.
//!
//! It is a task of its own: its client may leave, and the task goes on while anyone reads or the store admitted the
//! object. The cache owns the task and awaits it at shutdown.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::oneshot;

use super::{
    Cache, CacheRequest, Failure,
    deliver::declared_length,
    freshen::Newer,
    marks::{Begun, Membership},
};
use crate::{
    collapse::Lead,
    content,
    fill::{
        Fill,
        hole::Refill,
        reader::{Access, FillReader},
        writer::{Declared, Writer},
    },
    http::{
        blame::Reach,
        conditional,
        freshness::{self, Freshness, Storable},
        hop,
        own::own,
        update,
        validator::Validators,
        vary::Selector,
    },
    object::Object,
    reply::StoredHead,
    time::Timestamp,
    upstream::{FetchResponse, Source, Upstream, UpstreamError},
};

/// An error is remembered as uncacheable no longer than this: it releases those who wait now, and the next
/// burst still makes one fetch.
const ERROR_MEMORY: Duration = Duration::from_secs(1);

/// A server error gives what is stored this long before the origin is asked about it again, where it may be served meanwhile. So an origin in
/// trouble gets a request a second for a URL, and a client that can provoke an error delays a refresh by no more.
const ERROR_REST: Duration = Duration::from_secs(1);

/// How far a fetch is, for those who joined it.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Its body arrives: read along.
    Filling(Arc<Filling>),
    /// What was stored still holds.
    Stored(Arc<Object>),
    /// Its response is for its own client alone. Those whom it says something about fetch for themselves, now.
    Alone(Reach),
    /// The upstream answered with this error, and what is stored may stand in for it.
    Error(StatusCode),
    /// There is no response.
    Failed(Failure),
}

/// A storable response whose body arrives.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) fill: Arc<Fill>,
    pub(super) head: Arc<StoredHead>,
    pub(super) freshness: Freshness,
    pub(super) selector: Selector,
    pub(super) declared: Option<u64>,
    pub(super) upstream_cache_status: Option<String>,
    pub(super) access: Access,
    pub(super) membership: Option<Arc<Membership>>,
}

/// What the leader's own client gets.
pub(super) enum Led {
    /// A body that arrives, with a seat at its first byte.
    Filling(Arc<Filling>, FillReader),
    /// The stored response, confirmed.
    Stored(Arc<Object>),
    /// A response that is not stored. `true`: for want of room.
    Through(FetchResponse, bool),
    /// No response.
    Failed(Failure),
}

impl fmt::Debug for Led {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filling(..) => "Filling",
            Self::Stored(_) => "Stored",
            Self::Through(..) => "Through",
            Self::Failed(_) => "Failed",
        })
    }
}

impl Cache {
    /// Starts a fetch. `lead` is the right to let others join; `held` is what is to be validated. The answer comes when the head is known;
    /// nobody need wait for it.
    pub(super) fn start(
        &self,
        lead: Option<Lead<Stage>>,
        held: Option<Arc<Object>>,
        request: CacheRequest,
        upstream: Arc<dyn Upstream>,
    ) -> oneshot::Receiver<Led> {
        let (answer, answered) = oneshot::channel();
        let fetch = Fetch {
            cache: self.clone(),
            lead,
            begun: self.inner.marks.begin(request.key),
            request,
            upstream,
            stored_bytes_max: self.inner.object_bytes_max,
        };
        self.spawn(fetch.run(held, answer));
        answered
    }

    /// Stores a response that was decided to be storable as the answer to `request`, and streams it to its client on the way. One that turns
    /// out longer than `stored_bytes_max` is streamed alone. Nobody joins.
    pub(super) fn take_in(
        &self,
        request: CacheRequest,
        upstream: Arc<dyn Upstream>,
        begun: Begun,
        arrival: Arrival,
        stored_bytes_max: u64,
    ) -> oneshot::Receiver<Led> {
        let (answer, answered) = oneshot::channel();
        let fetch = Fetch {
            cache: self.clone(),
            lead: None,
            begun,
            request,
            upstream,
            stored_bytes_max: stored_bytes_max.min(self.inner.object_bytes_max),
        };
        self.spawn(fetch.fill(arrival, answer));
        answered
    }

    fn spawn(&self, fetch: impl Future<Output = ()> + Send + 'static) {
        let abort = self.inner.abort.clone();
        self.inner.tasks.spawn(async move {
            // Dropping the fetch releases followers and fails readers; both are told.
            let _ = abort.run_until_cancelled(Box::pin(fetch)).await;
        });
    }
}

/// One fetch, as its task runs it.
struct Fetch {
    cache: Cache,
    lead: Option<Lead<Stage>>,
    /// Outlives `lead`: a flight is of the generation its URL has while this lives.
    begun: Begun,
    request: CacheRequest,
    upstream: Arc<dyn Upstream>,
    /// A longer body is not stored.
    stored_bytes_max: u64,
}

/// A response on its way into the store.
pub(super) struct Arrival {
    pub(super) response: FetchResponse,
    pub(super) freshness: Freshness,
    pub(super) response_time: Timestamp,
}

impl Fetch {
    async fn run(mut self, mut held: Option<Arc<Object>>, answer: oneshot::Sender<Led>) {
        let (mut response, request_time, response_time) = loop {
            let request_time = self.cache.now();
            let fetched = self.upstream.fetch(self.to_upstream(held.as_deref())).await;
            let response_time = self.cache.now();
            let mut response = match fetched {
                Ok(response) => response,
                Err(error) if held.is_none() && error.is_unreachable() => {
                    return match self.stand_in().await {
                        Some(arrival) => self.fill(arrival, answer).await,
                        None => self.fail(error, answer),
                    };
                }
                Err(error) => return self.fail(error, answer),
            };
            hop::strip(&mut response.headers);
            if response.status == StatusCode::NOT_MODIFIED {
                match held.take() {
                    Some(object) if update::confirms(&response.headers, &object.head.headers) => {
                        let newer = Newer {
                            response: &response,
                            begun: &self.begun,
                            request_time,
                            response_time,
                        };
                        self.confirmed(&object, &newer, answer);
                        return;
                    }
                    // A 304 about something else: ask again, without a condition.
                    Some(_) => continue,
                    None => {
                        return self.fail(
                            UpstreamError::Protocol("304 without a condition".to_owned()),
                            answer,
                        );
                    }
                }
            }
            break (response, request_time, response_time);
        };
        response
            .headers
            .remove(HeaderName::from_static("cache-status"));
        if let (true, Some(object)) = (freshness::is_error(response.status), &held) {
            object.rest(response_time.plus(ERROR_REST));
        }
        if freshness::is_error(response.status)
            && held
                .as_ref()
                .is_some_and(|object| self.request.may_cover(&object.freshness, response_time))
        {
            // Neither stored nor remembered as uncacheable: who joined decides for himself, and who comes next after the rest asks again.
            self.settle(Stage::Error(response.status));
            let _ = answer.send(Led::Through(response, false));
            return;
        }
        let facts = self.request.facts();
        let policy = &self.request.site.policy;
        match freshness::storable(
            &facts,
            response.status,
            &response.headers,
            policy,
            request_time,
            response_time,
        ) {
            Storable::Store(freshness) => {
                self.fill(
                    Arrival {
                        response,
                        freshness,
                        response_time,
                    },
                    answer,
                )
                .await
            }
            Storable::Pass(reason) => {
                if let (false, Some(object)) = (response.status.is_server_error(), held) {
                    // What was stored has been replaced by something that must not be.
                    self.cache.inner.index.remove(self.request.key, &object);
                }
                let reach = Reach::of(reason, response.status, &self.request.headers);
                self.alone(reach, response.status, response_time);
                // Off the table: who is released to ask again finds another leader there, or none.
                self.lead = None;
                let _ = answer.send(Led::Through(response, false));
            }
        }
    }

    /// What others have kept of the object, where it may stand in for an upstream that cannot be reached as what is kept here might. It is stale: nobody who
    /// may say so has said that it still holds, and it may have been invalidated meanwhile.
    async fn stand_in(&self) -> Option<Arrival> {
        let mut headers = self.request.headers.clone();
        conditional::strip(&mut headers);
        let request_time = self.cache.now();
        let mut response = self.upstream.kept(self.request.get(headers)).await?;
        let response_time = self.cache.now();
        hop::strip(&mut response.headers);
        let policy = &self.request.site.policy;
        let storable = freshness::storable(
            &self.request.facts(),
            response.status,
            &response.headers,
            policy,
            request_time,
            response_time,
        );
        let Storable::Store(freshness) = storable else {
            return None;
        };
        let limit = policy.stale_if_unreachable;
        let freshness = Freshness {
            lifetime_ms: freshness.lifetime_ms.min(freshness.age_ms(response_time)),
            ..freshness
        };
        freshness
            .may_serve_unreachable(response_time, limit)
            .then_some(Arrival {
                response,
                freshness,
                response_time,
            })
    }

    /// The request as it goes to the upstream: for the whole, or whether what is held still holds.
    fn to_upstream(&self, held: Option<&Object>) -> crate::upstream::FetchRequest {
        self.cache.inner.metrics.fetches.inc();
        let mut headers = self.request.headers.clone();
        match held {
            Some(object) => {
                conditional::validate(&mut headers, &Validators::of(&object.head.headers))
            }
            None => conditional::strip(&mut headers),
        }
        let mut fetch = self.request.get(headers);
        fetch.held = held.map(|object| Arc::clone(&object.manifest));
        fetch
    }

    fn settle(&self, stage: Stage) {
        if let Some(lead) = &self.lead {
            lead.settle(stage);
        }
    }

    fn fail(&self, error: UpstreamError, answer: oneshot::Sender<Led>) {
        let failure = Failure::Upstream(error);
        self.settle(Stage::Failed(failure.clone()));
        let _ = answer.send(Led::Failed(failure));
    }

    /// Releases followers, those in `reach` to fetch for themselves, and remembers that for the next.
    fn alone(&self, reach: Reach, status: StatusCode, now: Timestamp) {
        let memory = match self.request.site.policy.hit_for_miss {
            _ if reach == Reach::Nobody => Duration::ZERO,
            memory if status.is_client_error() || status.is_server_error() => {
                memory.min(ERROR_MEMORY)
            }
            memory => memory,
        };
        if !memory.is_zero() {
            self.cache
                .inner
                .index
                .mark_uncacheable(self.request.key, reach, now, now.plus(memory));
            self.cache.inner.metrics.hit_for_miss_marked.inc();
        }
        self.settle(Stage::Alone(reach));
    }

    /// What was held still holds: the same manifest under the fields of the 304.
    fn confirmed(&self, held: &Arc<Object>, newer: &Newer<'_>, answer: oneshot::Sender<Led>) {
        self.cache.inner.metrics.revalidated.inc();
        let object = self.cache.confirm(&self.request, held, newer);
        if object.freshness.is_fresh(newer.response_time) {
            self.settle(Stage::Stored(Arc::clone(&object)));
        } else {
            self.alone(Reach::Everyone, object.head.status, newer.response_time);
        }
        let _ = answer.send(Led::Stored(object));
    }

    /// Streams a storable response to its readers and into the store.
    async fn fill(mut self, arrival: Arrival, answer: oneshot::Sender<Led>) {
        let cache = self.cache.clone();
        let inner = &cache.inner;
        let Some(share) = inner.budget.open() else {
            inner.metrics.fills_refused.inc();
            self.settle(Stage::Alone(Reach::Everyone));
            let _ = answer.send(Led::Through(arrival.response, true));
            return;
        };
        let Arrival {
            response,
            freshness,
            response_time,
        } = arrival;
        let FetchResponse {
            status,
            headers,
            body,
            via,
            upstream_cache_status,
        } = response;
        // They stay when the connection's buffer, whose parts they are, is long done with.
        let mut headers = own(&headers);
        headers.remove(header::AGE);
        date(&mut headers, response_time);
        // Storable means that its `Vary` can be compared.
        let selector = Selector::of(&headers, &self.request.headers).unwrap_or_default();
        let declared = self.declared(&headers);
        let stored = declared
            .length
            .is_none_or(|length| length <= declared.stored_bytes_max);
        if stored && status == StatusCode::OK {
            accept_ranges(&mut headers);
        }
        let fill = Fill::new(share, stored);
        inner.fills.add(&fill);
        let access = self.access(&headers, via);
        let membership = cache.membership(&self.request, &headers, &self.begun);
        let filling = Arc::new(Filling {
            fill: Arc::clone(&fill),
            head: Arc::new(StoredHead::new(status, headers)),
            freshness,
            selector,
            declared: declared.length,
            upstream_cache_status,
            access: access.clone(),
            membership,
        });
        let mut writer = Writer::new(Arc::clone(&fill), access.clone(), declared);
        inner.metrics.fills_open.inc();
        let open = OpenFill(&cache);
        // The leader's seat comes first, so that a fill nobody may join is not taken for unread.
        if let Some(reader) = FillReader::new(&fill, access, 0) {
            let _ = answer.send(Led::Filling(Arc::clone(&filling), reader));
        }
        if freshness.is_fresh(response_time) || via == Source::Peer {
            // What stands in does so for all who wait.
            self.settle(Stage::Filling(Arc::clone(&filling)));
        } else {
            // Stale on arrival: of use to its own client, and to be validated by every other.
            self.alone(Reach::Everyone, status, response_time);
        }
        match writer.run(body).await {
            Ok(manifest) => {
                if fill.is_stored() {
                    inner.index.prepare(&self.request.key, &manifest).await;
                    self.commit(&filling, manifest, writer.voucher(), via);
                }
                writer.end();
                inner.metrics.fills_sealed.inc();
                open.done();
                // Off the table: requests find the object from here on.
                self.lead = None;
                if !inner.tasks.is_closed() {
                    writer.drain().await;
                }
            }
            Err(error) => {
                tracing::debug!(key = ?self.request.key, %error, "fill abandoned");
                // Off the table first: who finds the fill failed finds no trace of it when asking again.
                self.lead = None;
                writer.fail(error);
            }
        }
    }

    /// Lets requests find the complete object. Its chunks are in the store by now.
    fn commit(
        &self,
        filling: &Filling,
        manifest: Arc<content::Manifest>,
        voucher: Option<Bytes>,
        via: Source,
    ) {
        let mut headers = filling.head.headers.clone();
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(manifest.total_len()),
        );
        let voucher = voucher.or_else(|| {
            let (status, freshness) = (filling.head.status, &filling.freshness);
            self.cache
                .vouch(&self.request, status, &headers, &manifest, freshness, via)
        });
        let object = Object::new(
            Arc::new(StoredHead::new(filling.head.status, headers)),
            manifest,
            filling.freshness,
            filling.selector.clone(),
            via,
            filling.upstream_cache_status.clone(),
        )
        .in_groups(filling.membership.clone())
        .vouched(voucher);
        if !self
            .cache
            .keep(&self.request, &Arc::new(object), &self.begun)
        {
            return;
        }
        // What is here whole needs no blocks.
        self.cache.inner.partials.forget(&self.request.key);
        if !filling.freshness.is_fresh(self.cache.now()) && via != Source::Peer {
            // Stored for validation only: requests must not queue for it.
            let now = self.cache.now();
            let until = now.plus(self.request.site.policy.hit_for_miss);
            self.cache
                .inner
                .index
                .mark_uncacheable(self.request.key, Reach::Everyone, now, until);
        }
    }

    fn declared(&self, headers: &HeaderMap) -> Declared {
        let bytes = |name: HeaderName| headers.get(name).map(|value| value.as_bytes().to_vec());
        Declared {
            length: declared_length(headers),
            content_type: bytes(header::CONTENT_TYPE),
            content_encoding: bytes(header::CONTENT_ENCODING),
            validators: content::Validators {
                etag: headers.get(header::ETAG).cloned(),
                last_modified: headers.get(header::LAST_MODIFIED).cloned(),
            },
            stored_bytes_max: self.stored_bytes_max,
            ram_bytes_max: self.cache.inner.depot.ram_object_bytes_max,
        }
    }

    fn access(&self, headers: &HeaderMap, source: Source) -> Access {
        self.cache.access(
            &self.request,
            &self.upstream,
            Validators::of(headers).strong().cloned(),
            source,
        )
    }
}

impl Cache {
    /// The way to chunks, those that are gone included.
    pub(super) fn access(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
        strong: Option<HeaderValue>,
        source: Source,
    ) -> Access {
        Access {
            depot: Arc::clone(&self.inner.depot),
            key: request.site.chunk_key.clone(),
            refill: Arc::new(Refill {
                upstream: Arc::clone(upstream),
                request: request.clone(),
                strong,
                source,
            }),
        }
    }
}

/// Counts a fill as open, and as aborted unless it is said to be done.
struct OpenFill<'a>(&'a Cache);

impl OpenFill<'_> {
    fn done(self) {
        self.0.inner.metrics.fills_open.dec();
        std::mem::forget(self);
    }
}

impl Drop for OpenFill<'_> {
    fn drop(&mut self) {
        self.0.inner.metrics.fills_open.dec();
        self.0.inner.metrics.fills_aborted.inc();
    }
}

/// Says of a response that is being stored that parts of it can be had, unless it says something of that itself.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-14.3
//# For example, a server that supports byte-range requests (Section
//# 14.1.2) can send the field
//# Accept-Ranges: bytes
fn accept_ranges(headers: &mut HeaderMap) {
    if let header::Entry::Vacant(free) = headers.entry(header::ACCEPT_RANGES) {
        free.insert(HeaderValue::from_static("bytes"));
    }
}

/// Gives a response without a date the time it arrived.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
//# A recipient with a clock that receives a response message without a
//# Date header field MUST record the time it was received and append a
//# corresponding Date header field to the message's header section if
//# it is cached or forwarded downstream.
pub(super) fn date(headers: &mut HeaderMap, response_time: Timestamp) {
    if !headers.contains_key(header::DATE) {
        let date = httpdate::fmt_http_date(response_time.into());
        headers.extend(
            HeaderValue::try_from(date)
                .ok()
                .map(|date| (header::DATE, date)),
        );
    }
}
