//! From something stored or filling to a [`Reply`]: the whole, a part, its head, or 304.

use std::sync::Arc;

use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;

use super::{
    Cache, Hit,
    lead::Filling,
    parts::{self, PartReader},
};
use crate::{
    fill::reader::FillReader,
    http::{
        cache_status::{self, CacheStatus, Details},
        conditional::{self, Condition},
        digest::{Algorithm, REPR_DIGEST},
        facts::RequestFacts,
        multipart::Multipart,
        range::{self, RangeSet, Selected, Slice},
    },
    metrics::ServedFrom,
    reply::{Overrides, Reply, ReplyBody, StoredHead},
    time::Timestamp,
    upstream::BodyStream,
};

pub(super) static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// What of a response a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client wants to act upon.
    Failed,
    /// The head alone, with the whole's length.
    Head,
    /// 416: no byte of it lies in the range asked for.
    Unsatisfiable,
    /// 206.
    Part(Slice),
    /// 206 with several parts.
    Parts(Arc<Multipart>),
    /// All of it.
    Whole,
}

impl Shape {
    /// Decides, given the response's head and its length where that is known.
    pub(super) fn of(
        facts: &RequestFacts<'_>,
        head: &StoredHead,
        response_time: Timestamp,
        total: Option<u64>,
    ) -> Self {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.2.1
        //# A server MUST ignore all received preconditions if its response to
        //# the same request without those conditions, prior to processing the
        //# request content, would have been a status code other than a 2xx
        //# (Successful) or 412 (Precondition Failed).
        if head.status.is_success() {
            match conditional::evaluate(facts, &head.headers, response_time) {
                Condition::Holds => {}
                Condition::NotModified => return Self::NotModified,
                Condition::Failed => return Self::Failed,
            }
        }
        if facts.method == Method::HEAD {
            return Self::Head;
        }
        if head.status != StatusCode::OK {
            return Self::Whole;
        }
        // Where the length is not known yet the whole is sent, as a server may for any range.
        let (Some(asked), Some(total)) = (RangeSet::of(facts), total) else {
            return Self::Whole;
        };
        if !range::if_range_holds(facts.headers, &head.headers) {
            return Self::Whole;
        }
        match asked.within(total) {
            Selected::Whole => Self::Whole,
            Selected::Nothing => Self::Unsatisfiable,
            Selected::Parts(parts) => match parts.as_slice() {
                [part] => Self::Part(*part),
                parts => {
                    let content_type = head.headers.get(header::CONTENT_TYPE);
                    let boundary = rand::random();
                    Self::Parts(Arc::new(Multipart::new(
                        parts,
                        total,
                        content_type,
                        boundary,
                    )))
                }
            },
        }
    }

    /// Whether it carries the representation, a part of it, or its head.
    pub(super) fn is_of_representation(&self) -> bool {
        match self {
            Self::Whole | Self::Head | Self::Part(_) | Self::Parts(_) => true,
            Self::NotModified | Self::Failed | Self::Unsatisfiable => false,
        }
    }

    /// The bytes of the body that are read first.
    pub(super) fn slice(&self, total: u64) -> Slice {
        let nothing = Slice { start: 0, end: 0 };
        match self {
            Self::NotModified | Self::Failed | Self::Head | Self::Unsatisfiable => nothing,
            Self::Part(slice) => *slice,
            Self::Parts(parts) => parts.parts().first().map_or(nothing, |part| part.slice),
            Self::Whole => Slice {
                start: 0,
                end: total,
            },
        }
    }

    /// Whether a body that arrives can be read for it in one pass: its parts are in ascending order.
    fn is_ascending(&self) -> bool {
        match self {
            Self::Parts(parts) => parts.parts().is_sorted_by_key(|part| part.slice.start),
            _ => true,
        }
    }

    /// What of a body that still arrives: as [`Shape::of`], but the whole where its parts go back and forth.
    ///
    /// A reader that goes back may find that bytes have left the window and were not stored.
    pub(super) fn of_filling(
        facts: &RequestFacts<'_>,
        head: &StoredHead,
        response_time: Timestamp,
        total: Option<u64>,
    ) -> Self {
        let shape = Self::of(facts, head, response_time, total);
        if shape.is_ascending() {
            shape
        } else {
            Self::Whole
        }
    }

    /// The body of this shape, from a reader at its first byte.
    pub(super) fn body(&self, reader: impl PartReader) -> ReplyBody {
        match self {
            Self::NotModified | Self::Failed | Self::Head | Self::Unsatisfiable => ReplyBody::Empty,
            Self::Part(_) | Self::Whole => ReplyBody::Stream(parts::rest(reader)),
            Self::Parts(multipart) => {
                ReplyBody::Stream(parts::stream(reader, Arc::clone(multipart)))
            }
        }
    }

    /// A reply of this shape, its body still empty.
    pub(super) fn reply(
        &self,
        head: &Arc<StoredHead>,
        total: Option<u64>,
        overrides: Overrides,
        outcome: CacheStatus,
    ) -> Reply {
        let mut reply = Reply {
            head: Arc::clone(head),
            status: None,
            overrides,
            removed: SmallVec::new(),
            body: ReplyBody::Empty,
            outcome,
        };
        //= https://www.rfc-editor.org/rfc/rfc9530#section-2
        //# The Content-Digest HTTP field can be used in requests and responses to
        //# communicate digests that are calculated using a hashing algorithm
        //# applied to the actual message content
        // Stored, it is of the whole; only the whole has that content.
        if *self != Self::Whole && head.headers.contains_key(&CONTENT_DIGEST) {
            reply.removed.push(CONTENT_DIGEST.clone());
        }
        match self {
            Self::Whole | Self::Head => {}
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.4.5
            //# a sender SHOULD NOT generate representation metadata other
            //# than the above listed fields
            Self::NotModified => {
                reply.status = Some(StatusCode::NOT_MODIFIED);
                reply
                    .removed
                    .extend([header::CONTENT_LENGTH, header::CONTENT_TYPE]);
            }
            Self::Failed => {
                reply.status = Some(StatusCode::PRECONDITION_FAILED);
                empty(&mut reply);
            }
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.17
            //# A server that generates a 416 response to a byte-range request
            //# SHOULD generate a Content-Range header field specifying the current
            //# length of the selected representation
            Self::Unsatisfiable => {
                reply.status = Some(StatusCode::RANGE_NOT_SATISFIABLE);
                empty(&mut reply);
                reply.overrides.push((
                    header::CONTENT_RANGE,
                    range::unsatisfied(total.unwrap_or(0)),
                ));
            }
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
            //# To avoid confusion with single-part responses, a server MUST NOT
            //# generate a Content-Range header field in the HTTP header section of a
            //# multiple part response (this field will be sent in each part
            //# instead).
            Self::Parts(multipart) => {
                reply.status = Some(StatusCode::PARTIAL_CONTENT);
                reply.overrides.push((
                    header::CONTENT_LENGTH,
                    HeaderValue::from(multipart.length()),
                ));
                reply
                    .overrides
                    .push((header::CONTENT_TYPE, multipart.content_type()));
            }
            Self::Part(slice) => {
                reply.status = Some(StatusCode::PARTIAL_CONTENT);
                reply.overrides.push((
                    header::CONTENT_LENGTH,
                    HeaderValue::from(slice.end - slice.start),
                ));
                if let Some(value) = range::content_range(*slice, total) {
                    reply.overrides.push((header::CONTENT_RANGE, value));
                }
            }
        }
        reply
    }
}

impl Cache {
    /// The shape of a stored response's reply.
    pub(super) fn shape(facts: &RequestFacts<'_>, hit: &Hit) -> Shape {
        let object = &hit.object;
        Shape::of(
            facts,
            &object.head,
            object.freshness.response_time,
            Some(object.manifest.total_len()),
        )
    }

    /// The reply to a request whose bytes are all in RAM; `None` where they are not, or are too many.
    pub(super) fn ready(
        &self,
        facts: &RequestFacts<'_>,
        hit: &Hit,
        outcome: CacheStatus,
        details: &Details,
        wanted: Option<Algorithm>,
    ) -> Option<Reply> {
        let shape = Self::shape(facts, hit);
        // Where what is stored is not what the client means, the origin may have what is.
        if shape == Shape::Failed && outcome == CacheStatus::Hit {
            return None;
        }
        let body = parts::in_ram(&self.inner.depot.store, &hit.object.manifest, &shape)?;
        let mut reply = self.stored_head(hit, &shape, outcome, details, wanted);
        reply.body = body;
        let ram = self.inner.metrics.served_bytes(ServedFrom::Ram);
        ram.inc_by(reply.body.len_hint().unwrap_or(0));
        Some(reply)
    }

    /// The head of a reply from the store, with the digest that is wanted if it is known.
    pub(super) fn stored_head(
        &self,
        hit: &Hit,
        shape: &Shape,
        outcome: CacheStatus,
        details: &Details,
        wanted: Option<Algorithm>,
    ) -> Reply {
        let object = &hit.object;
        let name = &self.inner.config.name;
        let mut overrides = Overrides::new();
        let marks = object.marks(name, hit.age_seconds, hit.ttl_seconds);
        overrides.push((header::AGE, marks.age.clone()));
        let status = if outcome == CacheStatus::Hit && *details == Details::default() {
            marks.cache_status.clone()
        } else {
            let details = Details {
                ttl_seconds: Some(hit.ttl_seconds),
                ..*details
            };
            cache_status::field(
                name,
                object.upstream_cache_status.as_deref(),
                outcome,
                &details,
            )
        };
        overrides.extend(status.map(|status| (CACHE_STATUS.clone(), status)));
        overrides.extend(self.digest_field(wanted, object, shape));
        shape.reply(
            &object.head,
            Some(object.manifest.total_len()),
            overrides,
            outcome,
        )
    }

    /// The reply to a request that reads from a fill.
    pub(super) fn filling_reply(
        &self,
        filling: &Filling,
        shape: &Shape,
        mut reader: FillReader,
        outcome: CacheStatus,
        now: Timestamp,
    ) -> Reply {
        let mut reply = self.filling_head(filling, shape, outcome, now);
        if let Shape::Part(_) | Shape::Parts(_) = shape {
            reader.narrow(shape.slice(0));
        }
        reply.body = shape.body(reader);
        reply
    }

    /// The head of a reply from a fill.
    pub(super) fn filling_head(
        &self,
        filling: &Filling,
        shape: &Shape,
        outcome: CacheStatus,
        now: Timestamp,
    ) -> Reply {
        let freshness = &filling.freshness;
        let mut overrides = Overrides::new();
        let age_seconds = freshness.age_ms(now) / 1000;
        if age_seconds > 0 {
            overrides.push((header::AGE, HeaderValue::from(age_seconds)));
        }
        let details = Details {
            forward_status: (outcome != CacheStatus::Collapsed)
                .then_some(filling.head.status.as_u16()),
            stored: Some(filling.fill.is_stored()),
            ttl_seconds: Some(freshness.ttl_ms(now).div_euclid(1000)),
            detail: None,
        };
        let upstream = filling.upstream_cache_status.as_deref();
        let status = cache_status::field(&self.inner.config.name, upstream, outcome, &details);
        overrides.extend(status.map(|status| (CACHE_STATUS.clone(), status)));
        shape.reply(&filling.head, filling.declared, overrides, outcome)
    }

    /// Counts a reply and the bytes that leave in it.
    pub(super) fn counted(&self, mut reply: Reply) -> Reply {
        let metrics = &self.inner.metrics;
        metrics.requests(reply.outcome).inc();
        reply.body = match reply.body {
            ReplyBody::Stream(stream) => {
                let metrics = Arc::clone(metrics);
                let counted: BodyStream = Box::pin(stream.inspect(move |piece| {
                    if let Ok(piece) = piece {
                        metrics.delivered_bytes.inc_by(piece.len() as u64);
                    }
                }));
                ReplyBody::Stream(counted)
            }
            body => {
                metrics.delivered_bytes.inc_by(body.len_hint().unwrap_or(0));
                body
            }
        };
        reply
    }
}

/// Makes a reply one without content, whose fields would speak of some.
fn empty(reply: &mut Reply) {
    reply.removed.extend([
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        REPR_DIGEST.clone(),
    ]);
    reply
        .overrides
        .push((header::CONTENT_LENGTH, HeaderValue::from_static("0")));
}

/// The length a response declares; `None` where it declares none, or none that is a number.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
