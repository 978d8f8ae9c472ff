//! The short way of a hit: from the bytes of a request stream to the bytes of its answer within one call, without the
//! HTTP/3 library, a future, or a task.
//!
//! Most requests are one HEADERS frame that has arrived whole, end included, when its stream is accepted. Those that are
//! nothing but a plain GET or HEAD are read here, shown to [`Service::try_hit`], and answered with one write. Everything
//! else goes on to the library as it came, bytes that were looked at included: other methods, bodies, heads in pieces,
//! whatever is malformed or odd, and what is no hit. So there is one judge of what is wrong with a request, and it is
//! not this file.
//!
//! Invariant: what is answered here, the library would have accepted with the same head.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use h3::error::Code;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use parking_lot::Mutex;
use stoq::h3::frame::{self, HEADERS};
use stoq::h3::qpack::{Section, Text};
use stoq::quic::{RecvStream, SendStream};
use stoq_cache::time::Timestamp;

use super::ready::Ready;
use super::request::{Client, Fate, Shared, WATCHED_FROM};
use super::way::Raw;
use crate::listen::exchange::Exchange;
use crate::listen::metrics::BadHead;
use crate::service::{Answer, End, RequestHead, Service};

/// Each field counts so many bytes beyond its name and value (RFC 9114 section 4.2.2).
const FIELD_OVERHEAD: usize = 32;

/// What became of a stream.
pub(super) enum Taken {
    /// It is over.
    Done,
    /// It needs waiting for, or tells something of its connection.
    Aside(Aside),
    /// It is for the library, with the bytes that were read of it.
    Left(SendStream, RecvStream, Bytes),
}

/// What a connection has to do for a stream that the library never sees.
pub(super) enum Aside {
    /// Sends the rest of an answer.
    Answer(BoxFuture<'static, Fate>),
    /// The stream came to nothing.
    Ended(Fate),
}

/// What the short way of a connection and the connection's loop tell each other. Both run on one task.
#[derive(Default)]
pub(super) struct Beside {
    /// At most one for each turn of the loop.
    asides: Mutex<VecDeque<Aside>>,
    order: Mutex<Order>,
}

/// How far request streams have come; numbered 0, 1, 2, ….
#[derive(Debug, Default, Clone, Copy)]
struct Order {
    /// The last that was accepted.
    last: Option<u64>,
    /// The last that the library saw.
    seen: Option<u64>,
    /// Everything goes to the library.
    shut: bool,
}

impl Beside {
    pub(super) fn push(&self, aside: Aside) {
        self.asides.lock().push_back(aside);
    }

    pub(super) fn pop(&self) -> Option<Aside> {
        self.asides.lock().pop_front()
    }

    /// The library is to see every stream from now on. Returns how many came after the last that it knows of.
    //= https://www.rfc-editor.org/rfc/rfc9114#section-5.2
    //# The GOAWAY frame contains an identifier that indicates to the receiver the range of requests or pushes that were
    //# or might be processed in this connection.
    // The library counts from the last stream it saw, which for this must be one at least: see `admits`.
    pub(super) fn shut(&self) -> usize {
        let mut order = self.order.lock();
        order.shut = true;
        let unseen = match (order.last, order.seen) {
            (Some(last), Some(seen)) => last.saturating_sub(seen),
            _ => 0,
        };
        usize::try_from(unseen).unwrap_or(usize::MAX)
    }

    /// Whether a stream may take the short way: not the first of its connection, nor any after the farewell.
    pub(super) fn admits(&self, stream: u64) -> bool {
        let mut order = self.order.lock();
        order.last = order.last.max(Some(stream >> 2));
        !order.shut && order.seen.is_some()
    }

    /// A stream went to the library.
    pub(super) fn left(&self, stream: u64) {
        let mut order = self.order.lock();
        order.seen = order.seen.max(Some(stream >> 2));
    }
}

/// The short way of one connection.
pub(super) struct Express<S> {
    shared: Arc<Shared<S>>,
    /// For decoded strings.
    scratch: Vec<u8>,
}

impl<S: Service> Express<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self {
            shared,
            scratch: Vec::new(),
        }
    }

    /// Looks at a stream that was just accepted. Waits for nothing.
    pub(super) fn take(
        &mut self,
        cx: &mut task::Context<'_>,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Taken {
        send.set_drop_code(Code::H3_INTERNAL_ERROR.value());
        recv.set_drop_code(Code::H3_NO_ERROR.value());
        let read = match recv.poll_read_chunk(cx, usize::MAX) {
            Poll::Ready(Ok(Some(bytes))) => bytes,
            Poll::Ready(Ok(None)) | Poll::Pending => return Taken::Left(send, recv, Bytes::new()),
            Poll::Ready(Err(_)) => return self.gone(),
        };
        match recv.poll_read_chunk(cx, usize::MAX) {
            Poll::Ready(Ok(None)) => {}
            Poll::Ready(Ok(Some(more))) => {
                let mut both = BytesMut::from(read);
                both.extend_from_slice(&more);
                return Taken::Left(send, recv, both.freeze());
            }
            Poll::Pending => return Taken::Left(send, recv, read),
            Poll::Ready(Err(_)) => return self.gone(),
        }
        let received = Instant::now();
        let Some(head) = whole_frame(&read).and_then(|section| self.head(section, received)) else {
            return Taken::Left(send, recv, read);
        };
        let context = &self.shared.context;
        if context.probe.is_in(&head) {
            return Taken::Left(send, recv, read);
        }
        match context.service.try_hit(&head.view(), Timestamp::now()) {
            Some(answer) => self.answer(cx, send, head, answer),
            None => Taken::Left(send, recv, read),
        }
    }

    fn gone(&self) -> Taken {
        self.shared.context.metrics.bad_head(BadHead::Gone);
        Taken::Aside(Aside::Ended(Fate::BadHead))
    }

    fn answer(
        &self,
        cx: &mut task::Context<'_>,
        send: SendStream,
        head: RequestHead,
        answer: Answer<S::Note>,
    ) -> Taken {
        let mut account = Exchange::new(self.shared.context.clone(), head);
        let short = Ready::of(&answer.reply, &account.head().method)
            .filter(|ready| (ready.len as u64) < WATCHED_FROM);
        let mut way = Raw::new(send);
        let Some(ready) = short else {
            let shared = self.shared.clone();
            return Taken::Aside(Aside::Answer(Box::pin(async move {
                let mut client = Client::new(&mut way, &mut account, &shared);
                client.respond(answer).await;
                Fate::Answered
            })));
        };
        account.answered(answer.note);
        let Ready {
            status,
            frames,
            body,
            len,
        } = ready;
        let mut chunks = Vec::with_capacity(1 + body.len());
        chunks.push(frames);
        chunks.extend(body);
        match way.put_now(cx, &mut chunks) {
            Ok(true) => {
                account.answered_inline();
                account.head_sent(status);
                account.sent(len);
                account.end(if way.finish_now() {
                    End::Complete
                } else {
                    End::ClientLeft
                });
                Taken::Done
            }
            Ok(false) => {
                let shared = self.shared.clone();
                Taken::Aside(Aside::Answer(Box::pin(async move {
                    let mut client = Client::new(&mut way, &mut account, &shared);
                    client.send_rest(status, chunks, len).await;
                    Fate::Answered
                })))
            }
            Err(end) => {
                account.end(end);
                Taken::Done
            }
        }
    }

    /// The head in a field section, if it is of the plain kind.
    fn head(&mut self, section: &[u8], received: Instant) -> Option<RequestHead> {
        let plain = plain_head(
            section,
            self.shared.context.limits.header_bytes as usize,
            &mut self.scratch,
        )?;
        Some(RequestHead {
            method: plain.method,
            scheme: Scheme::HTTPS,
            authority: Some(plain.authority),
            path_and_query: plain.path_and_query,
            headers: plain.headers,
            version: Version::HTTP_3,
            peer: self.shared.peer,
            connection: self.shared.info.clone(),
            received,
        })
    }
}

/// The payload of the one HEADERS frame that `bytes` are.
fn whole_frame(bytes: &[u8]) -> Option<&[u8]> {
    let (kind, len, used) = frame::head(bytes)?;
    let payload = bytes.get(used..)?;
    (kind == HEADERS && len == payload.len() as u64).then_some(payload)
}

#[derive(Debug)]
struct PlainHead {
    method: Method,
    authority: Authority,
    path_and_query: PathAndQuery,
    headers: HeaderMap,
}

/// Reads a field section that is a GET or HEAD without anything about it that would have to be judged. `None` is no
/// judgement either: the library will read it again.
fn plain_head(section: &[u8], bytes_max: usize, scratch: &mut Vec<u8>) -> Option<PlainHead> {
    if section.len() > bytes_max {
        return None;
    }
    let mut section = Section::new(section).ok()?;
    let (mut method, mut https, mut authority, mut path) = (None, false, None, None);
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    while let Some(line) = section.next_line().ok()? {
        let name = match line.name {
            Text::Static(name) => Name::of(name.as_bytes())?,
            name @ (Text::Plain(_) | Text::Coded(_)) => Name::of(name.bytes(scratch).ok()?)?,
        };
        let value = line.value.bytes(scratch).ok()?;
        bytes += name.len() + value.len() + FIELD_OVERHEAD;
        if bytes > bytes_max {
            return None;
        }
        let name = match name {
            Name::Field(name) => name,
            //= https://www.rfc-editor.org/rfc/rfc9114#section-4.3
            //# All pseudo-header fields MUST appear in the header section before regular header fields.
            _ if !headers.is_empty() => return None,
            Name::Method if method.is_none() => {
                method = Some(match value {
                    b"GET" => Method::GET,
                    b"HEAD" => Method::HEAD,
                    _ => return None,
                });
                continue;
            }
            Name::Scheme if !https && value == b"https" => {
                https = true;
                continue;
            }
            Name::Authority if authority.is_none() => {
                authority = Some(Authority::try_from(value).ok().filter(|authority| {
                    !authority.host().is_empty() && !authority.as_str().contains('@')
                })?);
                continue;
            }
            Name::Path if path.is_none() && value.first() == Some(&b'/') => {
                path = Some(PathAndQuery::try_from(value).ok()?);
                continue;
            }
            Name::Method | Name::Scheme | Name::Authority | Name::Path => return None,
        };
        if is_odd(&name) {
            return None;
        }
        headers.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    if !https {
        return None;
    }
    Some(PlainHead {
        method: method?,
        authority: authority?,
        path_and_query: path?,
        headers,
    })
}

/// Fields of a request that says more than "give me this".
fn is_odd(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || *name == EXPECT
        || *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Field(HeaderName),
}

impl Name {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            // Upper case is refused, as RFC 9114 section 4.2 wants it; so is any other pseudo-header field.
            name => Self::Field(HeaderName::from_lowercase(name).ok()?),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Method | Self::Scheme => 7,
            Self::Authority => 10,
            Self::Path => 5,
            Self::Field(name) => name.as_str().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stoq::h3::qpack;

    use super::*;

    const PLAIN: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/x?y"),
    ];

    fn section(lines: &[(&str, &str)]) -> Vec<u8> {
        qpack::section(lines.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    fn read(lines: &[(&str, &str)]) -> Option<PlainHead> {
        plain_head(&section(lines), 4096, &mut Vec::new())
    }

    #[test]
    fn a_plain_head_is_read() {
        let lines = [&PLAIN[..], &[("accept", "*/*"), ("cookie", "a=b")]].concat();
        let head = read(&lines).unwrap();
        assert_eq!(head.method, Method::GET);
        assert_eq!(head.authority, "a.test");
        assert_eq!(head.path_and_query, "/x?y");
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers["cookie"], "a=b");
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_the_library() {
        let with = |extra: &[(&'static str, &'static str)]| [&PLAIN[..], extra].concat();
        let mut cases = vec![
            with(&[("content-length", "0")]),
            with(&[("te", "trailers")]),
            with(&[("host", "a.test")]),
            with(&[("connection", "close")]),
            with(&[("expect", "100-continue")]),
            with(&[("Accept", "x")]),
            with(&[("a b", "x")]),
            with(&[("x", "a\nb")]),
            with(&[("accept", "x"), (":path", "/")]),
            with(&[(":path", "/")]),
            with(&[(":protocol", "websocket")]),
            with(&[(":status", "200")]),
        ];
        for place in 0..PLAIN.len() {
            let mut missing = PLAIN.to_vec();
            missing.remove(place);
            cases.push(missing);
        }
        for (place, value) in [
            (0, "POST"),
            (0, "get"),
            (1, "http"),
            (2, ""),
            (2, "me@a.test"),
            (2, "a b"),
            (3, "*"),
            (3, ""),
            (3, "x"),
        ] {
            let mut other = PLAIN.to_vec();
            other[place].1 = value;
            cases.push(other);
        }
        for lines in cases {
            assert!(read(&lines).is_none(), "{lines:?}");
        }
    }

    #[test]
    fn a_head_above_the_limit_is_left_to_the_library() {
        let section = section(&PLAIN);
        let size: usize = PLAIN
            .iter()
            .map(|(name, value)| name.len() + value.len() + FIELD_OVERHEAD)
            .sum();
        let mut scratch = Vec::new();
        assert!(plain_head(&section, size, &mut scratch).is_some());
        assert!(plain_head(&section, size - 1, &mut scratch).is_none());
    }

    #[test]
    fn only_one_whole_headers_frame_counts() {
        assert_eq!(whole_frame(&[1, 2, 7, 8]), Some(&[7, 8][..]));
        for bytes in [&[1, 2, 7][..], &[1, 2, 7, 8, 9], &[0, 2, 7, 8], &[1], &[]] {
            assert_eq!(whole_frame(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_first_stream_goes_to_the_library_and_a_farewell_counts_the_others() {
        let beside = Beside::default();
        assert!(!beside.admits(0));
        beside.left(0);
        assert!(beside.admits(4) && beside.admits(8));
        beside.left(8);
        assert!(beside.admits(12) && beside.admits(16));
        assert_eq!(beside.shut(), 2);
        assert!(!beside.admits(20));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(bytes: Vec<u8>) {
            let _ = plain_head(&bytes, 4096, &mut Vec::new());
        }
    }
}
