//! From a [`Reply`] to what goes on the wire, the same for all three protocols: which fields, how long, which bytes.
//!
//! Invariant: what [`Outgoing::body`] yields is exactly as long as the head says, or ends in an error that the
//! protocol must show (a reset stream, a broken connection).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream as _;
use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, DATE, TE, TRAILER};
use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use stoq_cache::reply::{Reply, ReplyBody};
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::{BodyError, BodyStream};

use super::date::http_date;
use super::head::content_length;

/// A response, ready for a protocol's writer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: OutBody,
}

/// Settles the head of an answer to `method` and pairs it with its body.
///
/// `alt_svc` is what this listener says of HTTP/3; an origin's own `Alt-Svc` is about the origin and is dropped.
pub(crate) fn outgoing(
    reply: Reply,
    method: &Method,
    now: Timestamp,
    alt_svc: Option<HeaderValue>,
) -> Outgoing {
    let status = reply.status();
    let mut headers =
        HeaderMap::with_capacity(reply.head.headers.len() + reply.overrides.len() + 2);
    for (name, value) in reply.fields() {
        if !is_connections(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
    //# A recipient with a clock that receives a response message without a Date header field MUST record the time it
    //# was received and append a corresponding Date header field to the message's header section if it is cached or
    //# forwarded downstream.
    headers.entry(DATE).or_insert_with(|| http_date(now));
    if let Some(value) = alt_svc {
        headers.insert(ALT_SVC, value);
    }

    let declared = content_length(&headers).unwrap_or(None);
    let body = if method == Method::HEAD {
        if declared.is_none() {
            headers.remove(CONTENT_LENGTH);
        }
        OutBody::none()
    } else if bodiless(status) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
        //# A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
        //# (Informational) or 204 (No Content).
        headers.remove(CONTENT_LENGTH);
        OutBody::none()
    } else {
        let length = declared.or_else(|| reply.body.len_hint());
        match length {
            Some(length) => headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
            None => headers.remove(CONTENT_LENGTH),
        };
        OutBody::new(reply.body, length)
    };
    Outgoing {
        status,
        headers,
        body,
    }
}

/// Statuses whose responses end with their head.
pub(super) fn bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Fields that describe a connection, not a message.
pub(super) fn is_connections(name: &HeaderName) -> bool {
    //= https://www.rfc-editor.org/rfc/rfc9114#section-4.2
    //# An endpoint MUST NOT generate an HTTP/3 field section containing connection-specific fields; any message
    //# containing connection-specific fields MUST be treated as malformed.
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || *name == TRAILER
        || *name == ALT_SVC
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Why a body could not be sent whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFailure {
    /// Its source failed.
    #[error(transparent)]
    Source(#[from] BodyError),
    /// It ended early.
    #[error("the body ended {missing} bytes before the length its head declares")]
    Short {
        /// Bytes that did not come.
        missing: u64,
    },
    /// It goes on after its declared end.
    #[error("the body is longer than the length its head declares")]
    Long,
}

/// A body and how much of it is still owed.
#[derive(Debug)]
pub(crate) struct OutBody {
    source: Source,
    /// Bytes still to come; `None` if the head declares no length.
    left: Option<u64>,
}

enum Source {
    Done,
    One(Bytes),
    Many(std::vec::IntoIter<Bytes>),
    Stream(BodyStream),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "Done",
            Self::One(_) => "One",
            Self::Many(_) => "Many",
            Self::Stream(_) => "Stream",
        })
    }
}

impl OutBody {
    fn none() -> Self {
        Self {
            source: Source::Done,
            left: Some(0),
        }
    }

    fn new(body: ReplyBody, left: Option<u64>) -> Self {
        let source = match body {
            ReplyBody::Empty => Source::Done,
            ReplyBody::Bytes(bytes) => Source::One(bytes),
            ReplyBody::Chunks(chunks) => Source::Many(chunks.into_iter()),
            ReplyBody::Stream(stream) => Source::Stream(stream),
        };
        Self { source, left }
    }

    /// Whether the end was reached and it was the right one: no poll is needed to know it.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.source, Source::Done) && matches!(self.left, None | Some(0))
    }

    /// Bytes still owed, where the head declares them.
    pub(crate) fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next piece, never empty; `None` at the right end. After an error or the end there is nothing more.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyFailure>>> {
        loop {
            let piece = match &mut self.source {
                Source::Done => None,
                Source::One(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.source = Source::Done;
                    Some(Ok(bytes))
                }
                Source::Many(chunks) => chunks.next().map(Ok),
                Source::Stream(stream) => ready!(Pin::new(stream).poll_next(cx)),
            };
            return Poll::Ready(match piece {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => Some(self.count(bytes)),
                Some(Err(error)) => {
                    self.source = Source::Done;
                    self.left = None;
                    Some(Err(error.into()))
                }
                None => {
                    self.source = Source::Done;
                    match self.left.take() {
                        None | Some(0) => None,
                        Some(missing) => Some(Err(BodyFailure::Short { missing })),
                    }
                }
            });
        }
    }

    fn count(&mut self, bytes: Bytes) -> Result<Bytes, BodyFailure> {
        if let Some(left) = self.left {
            let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                self.source = Source::Done;
                self.left = None;
                return Err(BodyFailure::Long);
            };
            self.left = Some(rest);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::testing::{reply, stream_of};
    use std::task::Waker;

    fn send(reply: Reply, method: &Method) -> (Outgoing, Vec<Result<Bytes, BodyFailure>>) {
        let mut out = outgoing(reply, method, Timestamp(0), None);
        let mut pieces = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(piece)) = out.body.poll_piece(&mut cx) {
            pieces.push(piece);
        }
        assert!(
            matches!(out.body.poll_piece(&mut cx), Poll::Ready(None)),
            "fused"
        );
        (out, pieces)
    }

    fn length(out: &Outgoing) -> Option<&str> {
        out.headers
            .get(CONTENT_LENGTH)
            .map(|value| value.to_str().unwrap())
    }

    #[test]
    fn connection_fields_and_the_origins_alt_svc_never_pass_and_date_always_does() {
        let fields = [
            ("connection", "close, x-hop"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("alt-svc", "h3=\":443\""),
            ("etag", "\"v1\""),
        ];
        let (out, _) = send(
            reply(200, &fields, ReplyBody::Bytes("hello".into())),
            &Method::GET,
        );
        let mut names: Vec<_> = out.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "date", "etag"]);

        let dated = [("date", "Thu, 01 Jan 1970 00:00:09 GMT")];
        let (out, _) = send(reply(200, &dated, ReplyBody::Empty), &Method::GET);
        assert_eq!(
            out.headers[DATE], dated[0].1,
            "a stored response keeps its origin's date"
        );
    }

    #[test]
    fn the_length_is_declared_where_it_is_known() {
        for (method, status, declared, body, expected, sent) in [
            (
                Method::GET,
                200,
                None,
                ReplyBody::Bytes("hello".into()),
                Some("5"),
                5,
            ),
            (
                Method::GET,
                200,
                None,
                ReplyBody::Chunks(vec!["he".into(), "llo".into()]),
                Some("5"),
                5,
            ),
            (Method::GET, 200, None, ReplyBody::Empty, Some("0"), 0),
            (
                Method::GET,
                200,
                Some("5"),
                stream_of(["hel", "lo"]),
                Some("5"),
                5,
            ),
            (Method::GET, 200, None, stream_of(["hel", "lo"]), None, 5),
            (Method::HEAD, 200, Some("5"), ReplyBody::Empty, Some("5"), 0),
            (Method::HEAD, 200, None, ReplyBody::Empty, None, 0),
            (
                Method::HEAD,
                200,
                Some("5"),
                ReplyBody::Bytes("hello".into()),
                Some("5"),
                0,
            ),
            (Method::GET, 204, Some("5"), ReplyBody::Empty, None, 0),
            (
                Method::GET,
                304,
                Some("5"),
                ReplyBody::Bytes("hello".into()),
                None,
                0,
            ),
            (
                Method::GET,
                200,
                Some("5, 6"),
                stream_of(["hel", "lo"]),
                None,
                5,
            ),
        ] {
            let fields: Vec<_> = declared
                .map(|length| ("content-length", length))
                .into_iter()
                .collect();
            let what = format!("{method} {status} {declared:?} {body:?}");
            let (out, pieces) = send(reply(status, &fields, body), &method);
            assert_eq!(length(&out), expected, "{what}");
            let total: usize = pieces
                .iter()
                .map(|piece| piece.as_ref().unwrap().len())
                .sum();
            assert_eq!(total, sent, "{what}");
        }
    }

    #[test]
    fn a_body_of_another_length_than_declared_ends_in_an_error() {
        for (declared, body, failure) in [
            (
                "6",
                stream_of(["hel", "lo"]),
                BodyFailure::Short { missing: 1 },
            ),
            (
                "6",
                ReplyBody::Bytes("hello".into()),
                BodyFailure::Short { missing: 1 },
            ),
            ("6", ReplyBody::Empty, BodyFailure::Short { missing: 6 }),
            ("4", stream_of(["hel", "lo"]), BodyFailure::Long),
            (
                "4",
                ReplyBody::Chunks(vec!["hel".into(), "lo".into()]),
                BodyFailure::Long,
            ),
        ] {
            let (_, pieces) = send(
                reply(200, &[("content-length", declared)], body),
                &Method::GET,
            );
            assert_eq!(pieces.last().unwrap().as_ref().unwrap_err(), &failure);
        }
    }
}
