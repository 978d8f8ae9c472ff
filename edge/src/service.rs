//! The seam between the listeners and the serve path: what a request is once it has left its protocol, and the
//! two ways to answer it.
//!
//! A listener (HTTP/3, HTTP/2, HTTP/1.1) turns what it reads into a [`RequestHead`] and a [`RequestBody`], asks
//! one [`Service`], writes the [`Reply`] it gets and reports the end of it with [`Service::done`]. No h3, hyper
//! or socket type passes this line, and no policy: statuses, sites, limits on bodies and rates are the
//! service's; framing, timeouts of the wire and connection bounds are the listener's.
//!
//! Invariant: for each head a listener shows to a service there is exactly one call of [`Service::done`], be the
//! answer complete, broken off, or never begun because the client left.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};
use stoq_cache::reply::Reply;
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::{BodyError, BodyStream};
use tokio::sync::mpsc;

/// Interim responses that wait for the client's flow control; the next [`Interim::send`] waits.
/// 4 × a header map: an origin sends one or two (103, 102) a request.
pub const INTERIM_QUEUE: usize = 4;

/// What answers requests, whatever protocol they came by.
///
/// A listener calls [`try_hit`](Self::try_hit) first, on the connection's own task. Only if that gives `None` does
/// it make the request a future of its own with [`serve`](Self::serve).
pub trait Service: Send + Sync + 'static {
    /// What the service wants to remember of a request until its answer has been sent: the access log's record.
    /// Kept by value on the listener's side, so that a hit allocates nothing for it.
    type Note: Send + 'static;

    /// Answers at once from memory, or not at all.
    ///
    /// Synchronous, runs on the connection's task: must neither block nor spawn. `None` for everything that is not
    /// a fresh hit in RAM; it must be free of side effects then, since [`serve`](Self::serve) follows with the same
    /// request. A reply whose body is a stream is allowed, and costs a task.
    fn try_hit(&self, request: &RequestView<'_>, now: Timestamp) -> Option<Answer<Self::Note>>;

    /// Answers everything else: misses, other methods, errors. Never fails: errors are replies too.
    ///
    /// Cancel safety: the future is dropped when the client leaves; [`done`](Self::done) follows with no note.
    /// The listener may poll it once on the connection's task before it moves to a task of its own.
    fn serve(
        self: Arc<Self>,
        head: Arc<RequestHead>,
        body: RequestBody,
        interim: Interim,
    ) -> BoxFuture<'static, Answer<Self::Note>>;

    /// The end of a request: its answer was sent (bytes as the transport took them), or it was broken off.
    ///
    /// `note` is what came with the answer; `None` when the client left before there was one. Called exactly once
    /// for each head, from the connection's task, the request's, or a drop; must not block.
    fn done(&self, request: &RequestView<'_>, note: Option<Self::Note>, sent: &Sent);
}

/// A reply and the service's note on it.
#[derive(Debug)]
pub struct Answer<N> {
    /// What to send.
    pub reply: Reply,
    /// Handed back to [`Service::done`].
    pub note: N,
}

/// Which door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// `listen.https` over UDP: HTTP/3.
    Quic,
    /// `listen.https` over TCP: HTTP/2 or HTTP/1.1 in TLS.
    Tls,
    /// `listen.http`: HTTP/1.1 in the clear.
    Plain,
}

/// What all requests of a connection share.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Unique in the process; for logs.
    pub id: u64,
    /// The edge's own address that was reached.
    pub local: SocketAddr,
    /// The door.
    pub listener: ListenerKind,
    /// The TLS server name the client asked for, lower case; `None` without TLS or SNI.
    pub server_name: Option<Box<str>>,
    /// When the handshake (or, in the clear, the accept) was complete.
    pub opened: Instant,
}

/// A request's head, owned.
///
/// Normalised by the listener: the target is split into its parts, whichever form it had on the wire.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method, unknown ones included.
    pub method: Method,
    /// `https` on the QUIC and TLS listeners, what `listen.http_scheme` says on the plain one; what the client
    /// wrote in the request is not trusted here.
    pub scheme: Scheme,
    /// From `:authority`, the absolute form, or the one valid `Host`; `None` if there was none, or several, or an
    /// invalid one (400 is the answer then). Case and port as the client wrote them.
    pub authority: Option<Authority>,
    /// `/` when the target had none (`CONNECT`), `*` for `OPTIONS *`.
    pub path_and_query: PathAndQuery,
    /// As received, connection-specific fields included; may or may not hold `Host`.
    pub headers: HeaderMap,
    /// The protocol's version on this connection.
    pub version: Version,
    /// The client's address, which it has proven: over QUIC the one from which it shook hands, also where it has moved since.
    pub peer: SocketAddr,
    /// What it shares with its connection's other requests.
    pub connection: Arc<ConnectionInfo>,
    /// When the head was complete; latencies count from here.
    pub received: Instant,
}

impl RequestHead {
    /// The same head, borrowed.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: &self.scheme,
            authority: self.authority.as_ref(),
            path_and_query: &self.path_and_query,
            headers: &self.headers,
            version: self.version,
            peer: self.peer,
            connection: &self.connection,
            received: self.received,
        }
    }
}

/// A request's head, borrowed: what the inline path sees. Fields as in [`RequestHead`].
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The scheme the request counts as.
    pub scheme: &'a Scheme,
    /// The host asked for, if there was exactly one valid.
    pub authority: Option<&'a Authority>,
    /// The target's path and query.
    pub path_and_query: &'a PathAndQuery,
    /// The fields as received.
    pub headers: &'a HeaderMap,
    /// The protocol's version.
    pub version: Version,
    /// The client's address.
    pub peer: SocketAddr,
    /// The connection.
    pub connection: &'a ConnectionInfo,
    /// When the head was complete.
    pub received: Instant,
}

/// A request's body: a stream of chunks that reads from the client only as fast as it is polled.
///
/// Errors (reset, early end, more or fewer bytes than `Content-Length`) come as items; after one the stream is
/// over. No limit of size is applied here: that is the service's, which drops the body when it has had enough. A
/// dropped body is read to its end by the listener for a little while, then refused (RFC 9114 4.1: H3_NO_ERROR).
pub struct RequestBody {
    declared: Option<u64>,
    stream: Option<BodyStream>,
}

impl RequestBody {
    /// No body at all.
    pub const fn empty() -> Self {
        Self {
            declared: None,
            stream: None,
        }
    }

    /// A body that arrives as `stream`; `declared` is its `Content-Length`, if it has one.
    pub fn new(declared: Option<u64>, stream: BodyStream) -> Self {
        Self {
            declared,
            stream: Some(stream),
        }
    }

    /// Whether it is known that no byte will come.
    pub fn is_empty(&self) -> bool {
        self.stream.is_none()
    }

    /// The length its head declared, in bytes; the listener checks that it is kept.
    pub fn declared_len(&self) -> Option<u64> {
        self.declared
    }

    /// The bare stream, for a request that goes upstream; `None` if there is no body.
    pub fn into_stream(self) -> Option<BodyStream> {
        self.stream
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(None);
        };
        let item = std::task::ready!(stream.as_mut().poll_next(cx));
        if !matches!(item, Some(Ok(_))) {
            self.stream = None;
        }
        Poll::Ready(item)
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("declared", &self.declared)
            .field("empty", &self.is_empty())
            .finish()
    }
}

/// An interim response: a 1xx status and its fields.
#[derive(Debug, Clone)]
pub struct InterimHead {
    /// 102 or 103; 100 is the listener's own, 101 does not exist beyond HTTP/1.1.
    pub status: StatusCode,
    /// Its end-to-end fields.
    pub headers: HeaderMap,
}

/// Sends interim responses before the answer, where the listener can: over HTTP/3 and HTTP/1.1; over HTTP/2 hyper's server leaves no way.
#[derive(Debug)]
pub struct Interim {
    queue: Option<mpsc::Sender<InterimHead>>,
}

impl Interim {
    /// A client that cannot receive them: every send is refused.
    pub const fn unsupported() -> Self {
        Self { queue: None }
    }

    /// A pair of the sender and what the listener reads; holds at most [`INTERIM_QUEUE`].
    pub fn channel() -> (Self, mpsc::Receiver<InterimHead>) {
        let (queue, heads) = mpsc::channel(INTERIM_QUEUE);
        (Self { queue: Some(queue) }, heads)
    }

    /// Whether a send can reach the client; lets a service spare itself the work.
    pub fn is_supported(&self) -> bool {
        self.queue.is_some()
    }

    /// Sends one; waits while [`INTERIM_QUEUE`] wait already. `false` when it cannot be delivered, which is no
    /// error: interim responses are optional.
    pub async fn send(&self, head: InterimHead) -> bool {
        match &self.queue {
            Some(queue) if head.status.is_informational() => queue.send(head).await.is_ok(),
            _ => false,
        }
    }

    /// Sends one if [`INTERIM_QUEUE`] has room, without waiting. `false` when it cannot be delivered.
    pub fn offer(&self, head: InterimHead) -> bool {
        match &self.queue {
            Some(queue) if head.status.is_informational() => queue.try_send(head).is_ok(),
            _ => false,
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Everything was handed to the transport, the end of the stream included.
    Complete,
    /// The client reset the stream, asked to stop, or its connection is gone.
    ClientLeft,
    /// The reply's body failed or had another length than its head said: the stream was reset (HTTP/1.1: the
    /// connection broken).
    BodyFailed,
    /// The client took nothing for too long, or the drain's deadline passed.
    TimedOut,
    /// The service failed without a reply: its future panicked.
    Failed,
}

/// What was sent: the listener's half of the access-log record.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The final status written; `None` if no head went out.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body that the transport took; framing and head not counted.
    pub body_bytes: u64,
    /// Bytes of the request's body that were read.
    pub request_body_bytes: u64,
    /// From the complete request head to the response head handed to the transport.
    pub head_after: Option<Duration>,
    /// From the complete request head to the end.
    pub total: Duration,
    /// How it ended.
    pub end: End,
    /// Whether the request was answered on its connection's task, without one of its own.
    pub inline: bool,
}
