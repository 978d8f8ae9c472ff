//! A response that is all here, as its frames: what a hit becomes without a header map in between.
//!
//! Only the plain case: a stored head as it stands plus fields of this reply, and a body of the length that head declares. Everything else (304, 206, streams, a
//! head without a date) takes the general way of `listen/response.rs`, which says the same things.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, DATE};
use http::{Method, StatusCode};
use smallvec::SmallVec;
use stoq_cache::reply::{Reply, ReplyBody};

use super::qpack;
use crate::listen::response::{bodiless, is_connections};

/// Bodies up to this size are copied behind their head: one buffer costs less than two.
const GATHER_MAX: usize = 4 * 1024;
/// A head whose fields may exceed what a client takes goes the way on which the client's own limit is looked at (names and values, bytes).
const LINES_MAX: usize = 8 * 1024;

/// Frames to be written as they are.
pub(super) struct Ready {
    pub(super) status: StatusCode,
    /// The HEADERS frame, the head of the DATA frame, and a short body.
    pub(super) frames: Bytes,
    /// A longer body.
    pub(super) body: SmallVec<[Bytes; 4]>,
    /// Bytes of the body, wherever it is.
    pub(super) len: usize,
}

impl Ready {
    /// The frames of `reply`, if it is of the plain kind.
    pub(super) fn of(reply: &Reply, method: &Method) -> Option<Self> {
        let head = &reply.head;
        if reply.status.is_some()
            || !reply.removed.is_empty()
            || bodiless(head.status)
            || !head.headers.contains_key(DATE)
        {
            return None;
        }
        let declared = head
            .headers
            .get(CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse::<usize>()
            .ok()?;
        let pieces: SmallVec<[&Bytes; 4]> = match &reply.body {
            ReplyBody::Empty => SmallVec::new(),
            ReplyBody::Bytes(bytes) => SmallVec::from_iter([bytes]),
            ReplyBody::Chunks(chunks) => chunks.iter().collect(),
            ReplyBody::Stream(_) => return None,
        };
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if *method == Method::HEAD {
            if len != 0 {
                return None;
            }
        } else if len != declared {
            return None;
        }
        // An override takes the place of a stored field, which the stored lines would still have.
        if reply
            .overrides
            .iter()
            .any(|(name, _)| head.headers.contains_key(name))
        {
            return None;
        }
        let stored = qpack::stored_lines(head, is_connections);
        let mut own = BytesMut::with_capacity(128);
        for (name, value) in reply
            .overrides
            .iter()
            .filter(|(name, _)| !is_connections(name))
        {
            qpack::put_field(&mut own, name, value);
        }
        if stored.len() + own.len() > LINES_MAX {
            return None;
        }
        let gathered = if len <= GATHER_MAX { len } else { 0 };
        let mut frames = BytesMut::with_capacity(stored.len() + own.len() + gathered + 32);
        qpack::put_headers_frame(&mut frames, stored, &own);
        let mut body = SmallVec::new();
        if len > 0 {
            qpack::put_data_head(&mut frames, len as u64);
            if gathered > 0 {
                pieces.iter().for_each(|piece| frames.put_slice(piece));
            } else {
                body.extend(
                    pieces
                        .into_iter()
                        .filter(|piece| !piece.is_empty())
                        .cloned(),
                );
            }
        }
        Some(Self {
            status: head.status,
            frames: frames.freeze(),
            body,
            len,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use stoq_cache::http::cache_status::CacheStatus;
    use stoq_cache::reply::StoredHead;

    use super::*;

    fn reply(body: ReplyBody, length: &'static str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("now"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        Reply {
            head: Arc::new(StoredHead::new(StatusCode::OK, headers)),
            status: None,
            overrides: SmallVec::from_iter([(
                HeaderName::from_static("age"),
                HeaderValue::from_static("1"),
            )]),
            removed: SmallVec::new(),
            body,
            outcome: CacheStatus::Hit,
        }
    }

    #[test]
    fn a_short_body_stands_behind_its_head_and_a_long_one_is_not_copied() {
        let short = Ready::of(
            &reply(ReplyBody::Bytes(Bytes::from_static(b"abc")), "3"),
            &Method::GET,
        )
        .unwrap();
        assert!(short.frames.ends_with(&[&[0, 3][..], b"abc"].concat()) && short.body.is_empty());
        let long = Bytes::from(vec![1; 5000]);
        let ready =
            Ready::of(&reply(ReplyBody::Bytes(long.clone()), "5000"), &Method::GET).unwrap();
        assert_eq!((ready.body[0].as_ptr(), ready.len), (long.as_ptr(), 5000));
    }

    #[test]
    fn what_is_not_plain_takes_the_general_way() {
        let bytes = || ReplyBody::Bytes(Bytes::from_static(b"abc"));
        let other_length = reply(bytes(), "4");
        let partial = Reply {
            status: Some(StatusCode::PARTIAL_CONTENT),
            ..reply(bytes(), "3")
        };
        let overridden = {
            let mut reply = reply(bytes(), "3");
            reply.set(CONTENT_LENGTH, HeaderValue::from_static("3"));
            reply
        };
        let stream = reply(
            ReplyBody::Stream(Box::pin(futures_util::stream::empty())),
            "3",
        );
        for reply in [other_length, partial, overridden, stream] {
            assert!(Ready::of(&reply, &Method::GET).is_none(), "{reply:?}");
        }
    }

    #[test]
    fn head_has_no_data_frame() {
        let ready = Ready::of(&reply(ReplyBody::Empty, "3"), &Method::HEAD).unwrap();
        let get = Ready::of(
            &reply(ReplyBody::Bytes(Bytes::from_static(b"abc")), "3"),
            &Method::GET,
        )
        .unwrap();
        assert_eq!(ready.frames.len() + 5, get.frames.len());
    }
}
