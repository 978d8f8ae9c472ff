//! Where the answer to a request is to be had: lookup, then collapse, then fetch, in that order and until one answers.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use http::{Method, StatusCode};

use super::{
    Cache, CacheRequest, Failure, Hit, Lookup,
    deliver::Shape,
    digests,
    freshen::Newer,
    lead::{Filling, Led, Stage},
    serve::filling_shape,
};
use crate::{
    collapse::{FlightKey, Follow, Lead, Seat},
    fill::reader::{FillReader, ObjectReader},
    http::{
        cache_status::{CacheStatus, Details},
        conditional, freshness,
        range::{ByteRange, RangeSet},
        validator::Validators,
    },
    key::CacheKey,
    object::Object,
    reply::Reply,
    upstream::{BodyError, FetchResponse, Source, Upstream},
};

/// Leaders that may be lost, and objects found incomplete, before a request gives up.
const ATTEMPTS_MAX: u32 = 6;

/// A range that starts further than this ahead of what has arrived is fetched on its own.
const RANGE_AHEAD_BYTES_MAX: u64 = 8 << 20;

/// The detail in `Cache-Status` of a stored response whose first bytes were read from disk.
const FROM_DISK: &str = "disk";

/// Where the answer to a request is to be had.
pub(super) enum Answer {
    /// Here it is.
    Ready(Reply),
    /// From the store, read while it is sent; its first bytes are here.
    Stored {
        hit: Hit,
        shape: Shape,
        reader: ObjectReader,
        outcome: CacheStatus,
        details: Details,
    },
    /// From a fill.
    Filling {
        filling: Arc<Filling>,
        reader: FillReader,
        outcome: CacheStatus,
    },
}

/// One request on its way to an answer.
pub(super) struct Ask<'a> {
    cache: &'a Cache,
    request: &'a CacheRequest,
    upstream: &'a Arc<dyn Upstream>,
    /// The whole will leave as chunk events, so a reader is wanted even where all is in RAM.
    events: bool,
    /// What the response's `Vary` makes of this request, once a leader's response has told.
    variant: Option<u64>,
    /// What is stored has holes that nobody fills now: as if nothing were.
    incomplete: bool,
    /// A leader's response said nothing about this request, which waited for another once more.
    regrouped: bool,
}

/// What looking at the store led to.
#[expect(
    clippy::large_enum_variant,
    reason = "one a request, taken apart at once; a box would cost more"
)]
enum Looked {
    Answer(Answer),
    /// The request is to go on as it is: its condition fails against what is stored, and the origin may have newer.
    Straight,
    /// The upstream is to be asked, about `held` where something is.
    Ask {
        held: Option<Hit>,
        outcome: CacheStatus,
    },
}

/// What following led to.
#[expect(
    clippy::large_enum_variant,
    reason = "one a request, taken apart at once; a box would cost more"
)]
enum Followed {
    Answer(Answer),
    /// Ask again: the leader was lost, its fill failed, or its response is for, or about, requests with other fields.
    Again,
    /// Fetch for yourself, at once.
    Alone,
}

impl<'a> Ask<'a> {
    pub(super) fn new(
        cache: &'a Cache,
        request: &'a CacheRequest,
        upstream: &'a Arc<dyn Upstream>,
        events: bool,
    ) -> Self {
        Self {
            cache,
            request,
            upstream,
            events,
            variant: None,
            incomplete: false,
            regrouped: false,
        }
    }

    pub(super) async fn answer(mut self) -> Result<Answer, Failure> {
        for _ in 0..ATTEMPTS_MAX {
            let (held, outcome) = match self.look().await {
                Looked::Answer(answer) => return Ok(answer),
                Looked::Straight => return self.straight(CacheStatus::Bypass, None).await,
                Looked::Ask { held, outcome } => (held, outcome),
            };
            let asked = self.request.asked();
            //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.7
            //# Caches that honor this request directive SHOULD, upon receiving it,
            //# respond with either a stored response consistent with the other
            //# constraints of the request or a 504 (Gateway Timeout) status code.
            if asked.only_if_cached {
                return Err(Failure::OnlyIfCached);
            }
            //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.5
            //# The no-store request directive indicates that a cache MUST NOT store
            //# any part of either this request or any response to it.
            if asked.no_store || self.request.method == Method::HEAD {
                return self.straight(outcome, held).await;
            }
            let generation = self.cache.inner.marks.generation(&self.request.key);
            let variant = self.variant.unwrap_or_else(|| self.known_variant());
            let flight = flight(self.request.key, variant, generation);
            let collapse = &self.cache.inner.collapse;
            if held.is_none() && self.asks_far_ahead() && collapse.peek(&flight).is_none() {
                return self.part().await;
            }
            let found = if self.cache.inner.index.is_uncacheable(
                &self.request.key,
                &self.request.headers,
                self.cache.now(),
            ) {
                self.alone(held, outcome).await?
            } else {
                match collapse.seat(flight) {
                    // Between looking and taking the seat another leader may have finished.
                    Seat::Lead(_) if !self.incomplete && self.is_fresh() => None,
                    Seat::Lead(lead) => self.lead(Some(lead), held, outcome).await?,
                    Seat::Full => self.lead(None, held, outcome).await?,
                    Seat::Follow(follow) => {
                        match self.follow(follow, generation, held.as_ref()).await? {
                            Followed::Answer(answer) => Some(answer),
                            Followed::Again => None,
                            Followed::Alone => self.alone(held, outcome).await?,
                        }
                    }
                }
            };
            if let Some(answer) = found {
                return Ok(answer);
            }
        }
        Err(Failure::Abandoned {
            attempts: ATTEMPTS_MAX,
        })
    }

    /// The store's answer, or what to ask the upstream.
    async fn look(&mut self) -> Looked {
        let request = self.request;
        let lookup = if self.incomplete {
            Lookup::Miss
        } else {
            let found = self.cache.lookup(
                &request.key,
                &request.facts(),
                &request.site.policy,
                self.cache.now(),
            );
            let found = match found {
                Lookup::Miss | Lookup::HitForMiss => {
                    self.cache.recalled(request).await.unwrap_or(found)
                }
                found => found,
            };
            match found {
                Lookup::Miss | Lookup::VaryMiss | Lookup::Expired(_) => {
                    let equivalent = self.cache.equivalent(request).await;
                    equivalent.map_or(found, Lookup::Fresh)
                }
                Lookup::Fresh(_) | Lookup::Stale(_) | Lookup::Unwanted(_) | Lookup::HitForMiss => {
                    found
                }
            }
        };
        let (hit, status) = match lookup {
            Lookup::Fresh(hit) => (hit, CacheStatus::Hit),
            Lookup::Stale(hit) => {
                self.refresh(&hit);
                (hit, CacheStatus::StaleRefreshing)
            }
            Lookup::Expired(hit) if self.may_rest(&hit) => (hit, CacheStatus::StaleResting),
            Lookup::Expired(hit) => {
                return Looked::Ask {
                    held: Some(hit),
                    outcome: CacheStatus::Expired,
                };
            }
            Lookup::Unwanted(hit) => {
                return Looked::Ask {
                    held: Some(hit),
                    outcome: CacheStatus::Requested,
                };
            }
            Lookup::Miss => {
                return Looked::Ask {
                    held: None,
                    outcome: CacheStatus::Miss,
                };
            }
            Lookup::VaryMiss => {
                return Looked::Ask {
                    held: None,
                    outcome: CacheStatus::VaryMiss,
                };
            }
            Lookup::HitForMiss => {
                return Looked::Ask {
                    held: None,
                    outcome: CacheStatus::HitForMiss,
                };
            }
        };
        if Cache::shape(&request.facts(), &hit) == Shape::Failed {
            return Looked::Straight;
        }
        match self.open(&hit, status).await {
            Ok(answer) => {
                self.cache
                    .inner
                    .index
                    .watch()
                    .hit(&request.key, &hit.object, &request.site.policy);
                Looked::Answer(answer)
            }
            Err(error) => {
                tracing::debug!(key = ?request.key, %error, "stored object is incomplete");
                self.incomplete = true;
                Looked::Ask {
                    held: None,
                    outcome: CacheStatus::Miss,
                }
            }
        }
    }

    /// Fetches for itself alone: what came a moment ago was of no use to others.
    async fn alone(
        &self,
        held: Option<Hit>,
        outcome: CacheStatus,
    ) -> Result<Option<Answer>, Failure> {
        match held {
            Some(held) => self.lead(None, Some(held), outcome).await,
            None if conditional::is_partial_or_conditional(&self.request.headers) => {
                self.straight(CacheStatus::HitForMiss, None).await.map(Some)
            }
            None => self.lead(None, None, CacheStatus::HitForMiss).await,
        }
    }

    /// Fetches, alone or for others too. `None`: what came is of no use, ask again.
    async fn lead(
        &self,
        lead: Option<Lead<Stage>>,
        held: Option<Hit>,
        outcome: CacheStatus,
    ) -> Result<Option<Answer>, Failure> {
        let inner = &self.cache.inner;
        if inner.tasks.is_closed() {
            return Err(Failure::Shutdown);
        }
        // What could not be delivered if it were confirmed is not asked about.
        let validated = held
            .as_ref()
            .filter(|hit| self.is_deliverable(&hit.object))
            .map(|hit| Arc::clone(&hit.object));
        let led = self
            .cache
            .start(
                lead,
                validated,
                self.request.clone(),
                Arc::clone(self.upstream),
            )
            .await;
        match led {
            Ok(Led::Filling(filling, reader)) => Ok(Some(Answer::Filling {
                filling,
                reader,
                outcome,
            })),
            Ok(Led::Stored(object)) => {
                let outcome = match outcome {
                    CacheStatus::Requested => CacheStatus::Requested,
                    _ => CacheStatus::Revalidated,
                };
                let details = Details {
                    forward_status: Some(304),
                    ..Details::default()
                };
                // A hole found now was there before: the object is forgotten, and fetched whole.
                let hit = self.cache.hit(object);
                Ok(self.open_with(&hit, outcome, details).await.ok())
            }
            Ok(Led::Through(response, refused)) => {
                if let Some(covered) = self.cover(response.status, held.as_ref()).await {
                    return Ok(Some(covered));
                }
                let outcome = if refused {
                    CacheStatus::Bypass
                } else {
                    outcome
                };
                Ok(Some(Answer::Ready(self.through(response, outcome))))
            }
            Ok(Led::Failed(failure)) => self.stand_in(failure, held.as_ref()).await.map(Some),
            // The task ended without a word: aborted, or it panicked.
            Err(_) if inner.abort.is_cancelled() => Err(Failure::Shutdown),
            Err(_) => {
                inner.metrics.leaders_lost.inc();
                Ok(None)
            }
        }
    }

    /// Waits for another's fetch, and joins it if its response is for this request too.
    async fn follow(
        &mut self,
        follow: Follow<Stage>,
        generation: u64,
        held: Option<&Hit>,
    ) -> Result<Followed, Failure> {
        let Some(stage) = follow.settled().await else {
            if self.cache.inner.abort.is_cancelled() {
                return Err(Failure::Shutdown);
            }
            return Ok(Followed::Again);
        };
        let (selector, membership) = match &stage {
            Stage::Alone(reach) => {
                // Once, lest a URL that refuses everybody make a queue of them.
                let again = !reach.includes(&self.request.headers)
                    && !std::mem::replace(&mut self.regrouped, true);
                return Ok(if again {
                    Followed::Again
                } else {
                    Followed::Alone
                });
            }
            Stage::Error(status) => {
                let covered = self.cover(*status, held).await;
                return Ok(covered.map_or(Followed::Alone, Followed::Answer));
            }
            Stage::Failed(failure) => {
                return self
                    .stand_in(failure.clone(), held)
                    .await
                    .map(Followed::Answer);
            }
            Stage::Stored(object) => (&object.selector, &object.membership),
            Stage::Filling(filling) => (&filling.selector, &filling.membership),
        };
        let marks = &self.cache.inner.marks;
        if marks.is_outdated(membership.as_deref()) {
            // Asked for before one of its groups was invalidated. This request may have come after that: it goes with those that did.
            marks.outdate_from(&self.request.key, generation);
            return Ok(Followed::Again);
        }
        if !selector.matches(&self.request.headers) {
            let variant = hash(&selector.key_of(&self.request.headers));
            // Told apart already, and still not the same: two sets of fields with one hash.
            let known = self.variant.replace(variant) == Some(variant);
            return Ok(if known {
                Followed::Alone
            } else {
                Followed::Again
            });
        }
        match stage {
            Stage::Stored(object) => {
                let opened = self
                    .open(&self.cache.hit(object), CacheStatus::Collapsed)
                    .await;
                Ok(opened.map_or(Followed::Again, Followed::Answer))
            }
            Stage::Filling(filling) => self.join(filling).await,
            Stage::Alone(_) | Stage::Error(_) | Stage::Failed(_) => Ok(Followed::Alone),
        }
    }

    /// Takes a seat at another's fill.
    async fn join(&self, filling: Arc<Filling>) -> Result<Followed, Failure> {
        let (start, last) = match filling_shape(&filling, self.request) {
            Shape::Part(slice) => (slice.start, slice.start),
            Shape::Parts(multipart) => {
                let starts = multipart.parts().iter().map(|part| part.slice.start);
                (starts.clone().min().unwrap_or(0), starts.max().unwrap_or(0))
            }
            Shape::NotModified
            | Shape::Failed
            | Shape::Head
            | Shape::Unsatisfiable
            | Shape::Whole => (0, 0),
        };
        if last
            > filling
                .fill
                .received()
                .saturating_add(RANGE_AHEAD_BYTES_MAX)
        {
            return self.part().await.map(Followed::Answer);
        }
        // Holes are refilled through the reader's own upstream: the leader's belongs to the leader's worker.
        let strong = filling.access.refill.strong.clone();
        let access = self.cache.access(
            self.request,
            self.upstream,
            strong,
            filling.access.refill.source,
        );
        match FillReader::new(&filling.fill, access, start) {
            Some(reader) => Ok(Followed::Answer(Answer::Filling {
                filling,
                reader,
                outcome: CacheStatus::Collapsed,
            })),
            // It failed, and is off the table by now.
            None if filling.fill.is_stored() => Ok(Followed::Again),
            // Its first bytes are gone and were not stored.
            None => Ok(Followed::Alone),
        }
    }

    /// The stored response in place of an upstream that cannot be reached, where that is allowed; else the failure.
    async fn stand_in(&self, failure: Failure, held: Option<&Hit>) -> Result<Answer, Failure> {
        let (Failure::Upstream(error), Some(hit)) = (&failure, held) else {
            return Err(failure);
        };
        let limit = self.request.site.policy.stale_if_unreachable;
        if !error.is_unreachable()
            || !hit
                .object
                .freshness
                .may_serve_unreachable(self.cache.now(), limit)
        {
            return Err(failure);
        }
        let hit = self.cache.hit(Arc::clone(&hit.object));
        self.open(&hit, CacheStatus::StaleUnreachable)
            .await
            .map_err(|_| failure)
    }

    /// The stored response in place of an error of the upstream, where response, site or request permit it (RFC 5861 §4).
    async fn cover(&self, status: StatusCode, held: Option<&Hit>) -> Option<Answer> {
        let hit = held.filter(|hit| {
            freshness::is_error(status)
                && self
                    .request
                    .may_cover(&hit.object.freshness, self.cache.now())
        })?;
        let details = Details {
            forward_status: Some(status.as_u16()),
            ..Details::default()
        };
        let hit = self.cache.hit(Arc::clone(&hit.object));
        self.open_with(&hit, CacheStatus::StaleError, details)
            .await
            .ok()
    }

    /// Whether a stale response answers without the upstream being asked, which had an error for an answer a moment ago and would be covered
    /// for again. Not for a request that asks for something fresher.
    fn may_rest(&self, hit: &Hit) -> bool {
        let now = self.cache.now();
        let asked = self.request.asked();
        hit.object.is_resting(now)
            && !asked.no_cache
            && asked.max_age.is_none()
            && asked.min_fresh.is_none()
            && self.request.may_cover(&hit.object.freshness, now)
    }

    /// Makes a stored response ready to send: its first bytes are here when this returns.
    async fn open(&self, hit: &Hit, outcome: CacheStatus) -> Result<Answer, BodyError> {
        self.open_with(hit, outcome, Details::default()).await
    }

    /// As [`Self::open`], with more to say of what the cache did.
    async fn open_with(
        &self,
        hit: &Hit,
        outcome: CacheStatus,
        details: Details,
    ) -> Result<Answer, BodyError> {
        let facts = self.request.facts();
        let shape = Cache::shape(&facts, hit);
        let wanted = digests::wanted(&facts, &hit.object);
        if shape.is_of_representation() {
            self.cache
                .prepare_digest(&self.request.site.chunk_key, wanted, &hit.object)
                .await;
        }
        let as_events = self.events && shape == Shape::Whole;
        if !as_events && let Some(reply) = self.cache.ready(&facts, hit, outcome, &details, wanted)
        {
            return Ok(Answer::Ready(reply));
        }
        let object = &hit.object;
        if !self.is_deliverable(object) {
            self.cache.inner.index.remove(self.request.key, object);
            return Err(BodyError::Gone {
                offset: 0,
                reason: "no way to refill its holes".to_owned(),
            });
        }
        let strong = Validators::of(&object.head.headers).strong().cloned();
        let access = self
            .cache
            .access(self.request, self.upstream, strong, object.source);
        let slice = shape.slice(object.manifest.total_len());
        let (cache, key, gone) = (self.cache.clone(), self.request.key, Arc::clone(object));
        let forget = move || cache.inner.index.remove(key, &gone);
        let mut reader = ObjectReader::new(Arc::clone(&object.manifest), access, slice, forget);
        reader.prepare().await?;
        let details = Details {
            detail: details
                .detail
                .or_else(|| reader.is_from_disk().then_some(FROM_DISK)),
            ..details
        };
        Ok(Answer::Stored {
            hit: hit.clone(),
            shape,
            reader,
            outcome,
            details,
        })
    }

    /// A range far ahead of all that is here: from blocks, or on its own.
    async fn part(&self) -> Result<Answer, Failure> {
        match self.cache.serve_blocks(self.request, self.upstream).await? {
            Some(reply) => Ok(Answer::Ready(reply)),
            None => self.straight(CacheStatus::Partial, None).await,
        }
    }

    /// Sends the request on as the client wrote it and stores nothing of the answer's body.
    ///
    /// A HEAD that what is stored does not answer goes on as HEAD: nobody asked for the content, which may be large. What its answer says of
    /// what is stored is kept.
    async fn straight(&self, outcome: CacheStatus, held: Option<Hit>) -> Result<Answer, Failure> {
        self.cache.inner.metrics.fetches.inc();
        let begun = self.cache.inner.marks.begin(self.request.key);
        let request_time = self.cache.now();
        match self.upstream.fetch(self.request.as_sent()).await {
            Ok(response) => {
                let status = response.status;
                self.cache.learn(
                    self.request,
                    &Newer {
                        response: &response,
                        begun: &begun,
                        request_time,
                        response_time: self.cache.now(),
                    },
                );
                match self.cover(status, held.as_ref()).await {
                    Some(covered) => Ok(covered),
                    None => Ok(Answer::Ready(self.through(response, outcome))),
                }
            }
            Err(error) => self.stand_in(Failure::Upstream(error), held.as_ref()).await,
        }
    }

    /// The upstream's answer, passed on.
    fn through(&self, response: FetchResponse, outcome: CacheStatus) -> Reply {
        let (site, key) = (&self.request.site, self.request.key);
        self.cache
            .through(site, key, self.upstream, response, outcome)
    }

    /// Starts a refresh of a stale response, unless one runs. Nobody waits for it. What it brings is stored, so a request that
    /// forbids that starts none.
    fn refresh(&self, hit: &Hit) {
        let asked = self.request.asked();
        let is_unwanted = asked.no_store || asked.only_if_cached;
        if self.cache.inner.tasks.is_closed()
            || is_unwanted
            || hit.object.is_resting(self.cache.now())
        {
            return;
        }
        let generation = self.cache.inner.marks.generation(&self.request.key);
        let flight = flight(self.request.key, self.known_variant(), generation);
        if let Seat::Lead(lead) = self.cache.inner.collapse.seat(flight) {
            let held = self
                .is_deliverable(&hit.object)
                .then(|| Arc::clone(&hit.object));
            drop(self.cache.start(
                Some(lead),
                held,
                self.request.clone(),
                Arc::clone(self.upstream),
            ));
        }
    }

    /// Whether each byte of an object is here or may be had again under its name.
    fn is_deliverable(&self, object: &Object) -> bool {
        let store = &self.cache.inner.depot.store;
        object.source != Source::Origin
            || Validators::of(&object.head.headers).strong().is_some()
            || object
                .manifest
                .entries_from(0)
                .all(|entry| store.contains(&entry.id))
    }

    /// Whether a fresh response is stored now.
    fn is_fresh(&self) -> bool {
        let request = self.request;
        let found = self.cache.lookup(
            &request.key,
            &request.facts(),
            &request.site.policy,
            self.cache.now(),
        );
        matches!(found, Lookup::Fresh(_))
    }

    /// What this request's fields come to under the `Vary` its URL had last; 0 where it had none.
    fn known_variant(&self) -> u64 {
        let variants = self.cache.inner.index.get(&self.request.key);
        let newest = variants.as_ref().and_then(|variants| variants.newest());
        newest
            .filter(|object| !object.selector.is_empty())
            .map_or(0, |object| {
                hash(&object.selector.key_of(&self.request.headers))
            })
    }

    /// Whether the request wants a range of something unknown that may lie far behind its first byte.
    fn asks_far_ahead(&self) -> bool {
        RangeSet::of(&self.request.facts()).is_some_and(|set| {
            set.members().iter().any(|range| match range {
                ByteRange::From { first, .. } => *first > RANGE_AHEAD_BYTES_MAX,
                ByteRange::Suffix(_) => true,
            })
        })
    }
}

/// What may be fetched together: requests from before an invalidation and from after it never are.
fn flight(key: CacheKey, variant: u64, generation: u64) -> FlightKey {
    (key, variant ^ generation)
}

/// Never 0, which means that no `Vary` is known.
fn hash(fields: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish().max(1)
}
