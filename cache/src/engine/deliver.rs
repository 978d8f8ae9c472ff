//! From something stored or filling to a [`Reply`]: the whole, a part, its head, or 304.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;

use super::{Cache, Hit, lead::Filling};
use crate::{
    content::Manifest,
    fill::reader::FillReader,
    http::{
        cache_status::{self, CacheStatus, Details},
        conditional,
        facts::RequestFacts,
        range::{self, ByteRange, Slice},
    },
    metrics::ServedFrom,
    reply::{INLINE_BYTES_MAX, Overrides, Reply, ReplyBody, StoredHead},
    store::Store,
    time::Timestamp,
    upstream::BodyStream,
};

pub(super) static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What of a response a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// 304: the client has it.
    NotModified,
    /// The head alone, with the whole's length.
    Head,
    /// 416: no byte of it lies in the range asked for.
    Unsatisfiable,
    /// 206.
    Part(Slice),
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
        let is_ok = head.status == StatusCode::OK;
        if is_ok && conditional::not_modified(facts, &head.headers, response_time) {
            return Self::NotModified;
        }
        if facts.method == Method::HEAD {
            return Self::Head;
        }
        if !is_ok {
            return Self::Whole;
        }
        // Where the length is not known yet the whole is sent, as a server may for any range.
        let (Some(asked), Some(total)) = (ByteRange::of(facts), total) else {
            return Self::Whole;
        };
        if !range::if_range_holds(facts.headers, &head.headers) {
            return Self::Whole;
        }
        asked.within(total).map_or(Self::Unsatisfiable, Self::Part)
    }

    /// The bytes of the body that are needed.
    pub(super) fn slice(self, total: u64) -> Slice {
        match self {
            Self::NotModified | Self::Head | Self::Unsatisfiable => Slice { start: 0, end: 0 },
            Self::Part(slice) => slice,
            Self::Whole => Slice {
                start: 0,
                end: total,
            },
        }
    }

    /// A reply of this shape, its body still empty.
    pub(super) fn reply(
        self,
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
            Self::Unsatisfiable => {
                reply.status = Some(StatusCode::RANGE_NOT_SATISFIABLE);
                reply.removed.push(header::CONTENT_TYPE);
                reply
                    .overrides
                    .push((header::CONTENT_LENGTH, HeaderValue::from_static("0")));
                reply.overrides.push((
                    header::CONTENT_RANGE,
                    range::unsatisfied(total.unwrap_or(0)),
                ));
            }
            Self::Part(slice) => {
                reply.status = Some(StatusCode::PARTIAL_CONTENT);
                reply.overrides.push((
                    header::CONTENT_LENGTH,
                    HeaderValue::from(slice.end - slice.start),
                ));
                if let Some(value) = range::content_range(slice, total) {
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
    ) -> Option<Reply> {
        let shape = Self::shape(facts, hit);
        let manifest = &hit.object.manifest;
        let body = in_ram(
            &self.inner.depot.store,
            manifest,
            shape.slice(manifest.total_len()),
        )?;
        let mut reply = self.stored_head(hit, shape, outcome, details);
        reply.body = body;
        let ram = self.inner.metrics.served_bytes(ServedFrom::Ram);
        ram.inc_by(reply.body.len_hint().unwrap_or(0));
        Some(reply)
    }

    /// The head of a reply from the store.
    pub(super) fn stored_head(
        &self,
        hit: &Hit,
        shape: Shape,
        outcome: CacheStatus,
        details: &Details,
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
        shape: Shape,
        mut reader: FillReader,
        outcome: CacheStatus,
        now: Timestamp,
    ) -> Reply {
        let mut reply = self.filling_head(filling, shape, outcome, now);
        match shape {
            Shape::NotModified | Shape::Head | Shape::Unsatisfiable => drop(reader),
            Shape::Part(slice) => {
                reader.narrow(slice);
                reply.body = ReplyBody::Stream(reader.into_stream());
            }
            Shape::Whole => reply.body = ReplyBody::Stream(reader.into_stream()),
        }
        reply
    }

    /// The head of a reply from a fill.
    pub(super) fn filling_head(
        &self,
        filling: &Filling,
        shape: Shape,
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

/// A slice of a body whose chunks are all in RAM now.
fn in_ram(store: &Store, manifest: &Manifest, slice: Slice) -> Option<ReplyBody> {
    let length = slice.end - slice.start;
    if length == 0 {
        return Some(ReplyBody::Empty);
    }
    if length > INLINE_BYTES_MAX {
        return None;
    }
    let first = manifest.locate(slice.start)?;
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut skip = first.within as usize;
    let mut left = usize::try_from(length).ok()?;
    let mut index = first.index;
    loop {
        let mut chunk = store.get_ram(&manifest.entry(index)?.id)?;
        let mut part = chunk.split_off(skip.min(chunk.len()));
        part.truncate(left);
        left -= part.len();
        if left == 0 && chunks.is_empty() {
            return Some(ReplyBody::Bytes(part));
        }
        chunks.push(part);
        if left == 0 {
            return Some(ReplyBody::Chunks(chunks));
        }
        skip = 0;
        index += 1;
    }
}

/// The length a response declares; `None` where it declares none, or none that is a number.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
