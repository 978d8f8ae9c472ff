//! Ranges of objects that are not stored whole, from their [blocks](super::blocks).
//!
//! The first range of an unknown object fetches the block it begins in, and learns from that answer what the object is:
//! its head, length, freshness and validator. Without a strong validator, or where the origin ignores ranges, that is
//! remembered and ranges go straight on. Once stale, an object is confirmed by one conditional request for all its blocks.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};

use super::{
    Cache, CacheRequest, Failure,
    blocks::{BLOCK_BYTES, BlockReader, Body, Way, cut, part, range_of},
    deliver::Shape,
    lead::date,
    marks::Begun,
    partials::{Partial, Probe},
};
use crate::{
    http::{
        cache_status::{self, CacheStatus, Details},
        conditional,
        freshness::{self, Storable},
        hop,
        own::own,
        range::{ByteRange, RangeSet, Slice, Slices},
        reuse::{self, Reuse},
        update,
        validator::Validators,
        vary::Selector,
    },
    metrics::ServedFrom,
    reply::{Overrides, Reply, StoredHead},
    time::Timestamp,
    upstream::{BodyError, FetchResponse, Upstream},
};

/// Versions that are looked at before a request is sent straight on.
const VERSIONS_MAX: u32 = 3;

impl Cache {
    /// The answer to a range from blocks; `None` where the request is to be sent straight on.
    ///
    /// Cancel safe: who waits for the same look at the upstream takes it over.
    pub(super) async fn serve_blocks(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
    ) -> Result<Option<Reply>, Failure> {
        let (partials, marks) = (&self.inner.partials, &self.inner.marks);
        for _ in 0..VERSIONS_MAX {
            let now = self.now();
            if partials
                .refused
                .get(&request.key)
                .is_some_and(|until| now < until)
            {
                return Ok(None);
            }
            let asked_for = request.asked();
            let known = partials.recall(&request.key).await;
            let known = match known {
                Some(known) if !known.selector.matches(&request.headers) => return Ok(None),
                known => known,
            };
            // Found before it is looked at, so that what falls meanwhile is seen to have fallen.
            let generation = marks.generation(&request.key);
            if let Some(known) = &known
                && marks.is_outdated(known.membership.as_deref())
            {
                self.inner.metrics.invalidated_responses.inc();
                partials.invalidate(request.key);
                continue;
            }
            let (partial, asked) = match &known {
                Some(known) if reuse::reuse(&known.freshness, &asked_for, now) == Reuse::Fresh => {
                    (Arc::clone(known), false)
                }
                _ => match self
                    .probed(request, upstream, known.clone(), generation)
                    .await
                {
                    Probe::Blocks(partial) => (partial, true),
                    Probe::Straight => return Ok(None),
                    Probe::Failed(error) => {
                        let limit = request.site.policy.stale_if_unreachable;
                        let stale = known.filter(|known| {
                            error.is_unreachable()
                                && known.freshness.may_serve_unreachable(now, limit)
                        });
                        let Some(stale) = stale else {
                            return Err(error.into());
                        };
                        let reply = self.block_reply(
                            request,
                            upstream,
                            &stale,
                            Some(CacheStatus::StaleUnreachable),
                        );
                        return match reply.await {
                            Ok(reply) => Ok(reply),
                            Err(_) => Err(error.into()),
                        };
                    }
                    Probe::Broken(error) => return Err(Failure::Body(error)),
                },
            };
            if !partial.selector.matches(&request.headers) {
                return Ok(None);
            }
            if asked && marks.is_outdated(partial.membership.as_deref()) {
                // Looked at before one of its groups was invalidated, perhaps by another who came earlier: look again.
                marks.outdate_from(&request.key, generation);
                partials.invalidate(request.key);
                continue;
            }
            let outcome = asked.then_some(CacheStatus::Partial);
            match self.block_reply(request, upstream, &partial, outcome).await {
                Ok(reply) => return Ok(reply),
                Err(BodyError::Gone { .. }) => {
                    // Another version by now: look again.
                    partials.forget(&request.key);
                }
                Err(error) => return Err(Failure::Body(error)),
            }
        }
        Ok(None)
    }

    /// The reply from an object's blocks, its first block at hand. `None`: it is none for blocks.
    async fn block_reply(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
        partial: &Partial,
        outcome: Option<CacheStatus>,
    ) -> Result<Option<Reply>, BodyError> {
        let (facts, body) = (request.facts(), &partial.body);
        let shape = Shape::of(
            &facts,
            &partial.head,
            partial.freshness.response_time,
            Some(body.total),
        );
        let slice = match &shape {
            // The whole of something large is not for blocks, and whether the client means a newer version is the origin's to say.
            Shape::Whole | Shape::Failed => return Ok(None),
            shape => shape.slice(body.total),
        };
        let slices = match &shape {
            Shape::Parts(multipart) => multipart.parts().iter().map(|part| part.slice).collect(),
            _ => Slices::from_elem(slice, 1),
        };
        let blocks = &self.inner.partials.blocks;
        for slice in &slices {
            blocks.recall(body, *slice).await;
        }
        let here = slices
            .iter()
            .all(|slice| slice.start >= slice.end || blocks.has(body, *slice));
        let outcome = outcome.unwrap_or(if here {
            CacheStatus::Hit
        } else {
            CacheStatus::Partial
        });
        let way = Way {
            blocks: Arc::clone(blocks),
            upstream: Arc::clone(upstream),
            request: request.clone(),
            key: request.site.chunk_key.clone(),
            from: ServedFrom::Upstream(partial.source),
        };
        let mut reader = BlockReader::new(way, Arc::clone(body), slice);
        reader.prepare().await?;
        let now = self.now();
        let mut overrides = Overrides::new();
        let age_seconds = partial.freshness.age_ms(now) / 1000;
        overrides.push((header::AGE, HeaderValue::from(age_seconds)));
        let details = Details {
            ttl_seconds: Some(partial.freshness.ttl_ms(now).div_euclid(1000)),
            ..Details::default()
        };
        let name = &self.inner.config.name;
        let upstream_status = partial.upstream_cache_status.as_deref();
        let status = cache_status::field(name, upstream_status, outcome, &details);
        overrides.extend(status.map(|status| (super::deliver::CACHE_STATUS.clone(), status)));
        let mut reply = shape.reply(&partial.head, Some(body.total), overrides, outcome);
        reply.body = shape.body(reader);
        Ok(Some(reply))
    }

    /// Looks at the upstream, or waits for one who does.
    async fn probed(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
        known: Option<Arc<Partial>>,
        generation: u64,
    ) -> Probe {
        let partials = &self.inner.partials;
        let place = (request.key, generation);
        let pending = Arc::clone(&partials.probes.entry(place).or_default());
        let probe = pending
            .get_or_init(|| self.probe(request, upstream, known))
            .await
            .clone();
        partials
            .probes
            .remove_if(&place, |_, under_way| Arc::ptr_eq(under_way, &pending));
        probe
    }

    /// Asks for the block in which the request's range begins, or whether what is known still holds.
    async fn probe(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
        known: Option<Arc<Partial>>,
    ) -> Probe {
        let asked = RangeSet::of(&request.facts());
        let first = asked.as_ref().and_then(|set| set.members().first());
        let first = match (first.copied(), &known) {
            (Some(ByteRange::From { first, .. }), _) => first,
            (Some(range @ ByteRange::Suffix(_)), Some(known)) => range
                .within(known.body.total)
                .map_or(0, |slice| slice.start),
            // Where it begins is known with the length only.
            (Some(ByteRange::Suffix(_)) | None, _) => return Probe::Straight,
        };
        let start = first - first % BLOCK_BYTES;
        let slice = Slice {
            start,
            end: start.saturating_add(BLOCK_BYTES),
        };
        let mut headers = request.headers.clone();
        match &known {
            Some(known) => {
                conditional::validate(&mut headers, &Validators::of(&known.head.headers));
            }
            None => conditional::strip(&mut headers),
        }
        headers.insert(header::RANGE, range_of(slice));
        self.inner.metrics.fetches.inc();
        let begun = self.inner.marks.begin(request.key);
        let request_time = self.now();
        let fetched = upstream.fetch(request.get(headers)).await;
        let response_time = self.now();
        let mut response = match fetched {
            Ok(response) => response,
            Err(error) => return Probe::Failed(error),
        };
        hop::strip(&mut response.headers);
        response.headers.remove(&super::deliver::CACHE_STATUS);
        match (response.status, known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => self.confirmed_blocks(
                request,
                &known,
                &response,
                &begun,
                request_time,
                response_time,
            ),
            (StatusCode::PARTIAL_CONTENT, _) => {
                self.learnt(
                    request,
                    response,
                    slice,
                    &begun,
                    request_time,
                    response_time,
                )
                .await
            }
            // The whole, for whoever asks: it takes no notice of ranges.
            (StatusCode::OK, _) => self.refuse(request),
            _ => Probe::Straight,
        }
    }

    /// Remembers that there are no blocks to be had.
    fn refuse(&self, request: &CacheRequest) -> Probe {
        let memory = request.site.policy.hit_for_miss;
        self.inner
            .partials
            .refused
            .insert(request.key, self.now().plus(memory));
        self.inner.partials.forget(&request.key);
        Probe::Straight
    }

    /// A 206 with one block: what the object is.
    async fn learnt(
        &self,
        request: &CacheRequest,
        response: FetchResponse,
        asked: Slice,
        begun: &Begun,
        request_time: Timestamp,
        response_time: Timestamp,
    ) -> Probe {
        let partials = &self.inner.partials;
        let Some((slice, total)) = part(&response.headers) else {
            return self.refuse(request);
        };
        let expected = Slice {
            start: asked.start,
            end: asked.end.min(total),
        };
        let mut headers = own(&response.headers);
        let strong = Validators::of(&headers).strong().cloned();
        let strong = strong.filter(|tag| headers.get(header::ETAG) == Some(tag));
        headers.remove(header::CONTENT_RANGE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(total));
        let decision = freshness::storable(
            &request.facts(),
            StatusCode::OK,
            &headers,
            &request.site.policy,
            request_time,
            response_time,
        );
        let (Storable::Store(freshness), Some(strong), true) =
            (decision, strong, slice == expected)
        else {
            return self.refuse(request);
        };
        headers.remove(header::AGE);
        date(&mut headers, response_time);
        let selector = Selector::of(&headers, &request.headers).unwrap_or_default();
        let body = Arc::new(Body::new(
            &request.key,
            total,
            strong,
            &selector.key_of(&request.headers),
        ));
        let bytes = match partials
            .blocks
            .take(response.body, slice.end - slice.start)
            .await
        {
            Ok(bytes) => bytes,
            Err(error) => return Probe::Broken(error),
        };
        for (block, index) in cut(&bytes).zip(slice.start / BLOCK_BYTES..) {
            partials
                .blocks
                .put(&request.site.chunk_key, &body, index, block);
        }
        let membership = self.membership(request, &headers, begun);
        let partial = Arc::new(Partial {
            head: Arc::new(StoredHead::new(StatusCode::OK, headers)),
            freshness,
            selector,
            source: response.via,
            upstream_cache_status: response.upstream_cache_status,
            body,
            membership,
        });
        partials.learn(request.key, &partial, begun);
        Probe::Blocks(partial)
    }

    /// A 304: every block of it still holds.
    fn confirmed_blocks(
        &self,
        request: &CacheRequest,
        known: &Arc<Partial>,
        response: &FetchResponse,
        begun: &Begun,
        request_time: Timestamp,
        response_time: Timestamp,
    ) -> Probe {
        self.inner.metrics.revalidated.inc();
        let mut fresh = response.headers.clone();
        date(&mut fresh, response_time);
        let headers = update::updated(&known.head.headers, &fresh);
        let mut judged = headers.clone();
        if let Some(age) = response.headers.get(header::AGE) {
            judged.insert(header::AGE, age.clone());
        }
        let decision = freshness::storable(
            &request.facts(),
            StatusCode::OK,
            &judged,
            &request.site.policy,
            request_time,
            response_time,
        );
        let Storable::Store(freshness) = decision else {
            return self.refuse(request);
        };
        let selector = Selector::of(&headers, &request.headers).unwrap_or_default();
        let membership = self.membership(request, &headers, begun);
        let partial = Arc::new(Partial {
            head: Arc::new(StoredHead::new(StatusCode::OK, headers)),
            freshness,
            selector,
            source: response.via,
            upstream_cache_status: response.upstream_cache_status.clone(),
            body: Arc::clone(&known.body),
            membership,
        });
        self.inner.partials.learn(request.key, &partial, begun);
        Probe::Blocks(partial)
    }
}
