//! An origin that a test scripts: slow, truncating, changing, counting.
//!
//! A real HTTP/1.1 server on a port of its own. What it answers is a closure from the request seen to an [`Answer`];
//! what it was asked is kept, in order, so a test asserts on the origin's own view and not on the edge's claims.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type BodyStream = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>;
type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Script = Arc<dyn Fn(Seen) -> AnswerFuture + Send + Sync>;

/// A request as the origin saw it, its body read whole.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request's method.
    pub method: Method,
    /// The request target: path and query.
    pub uri: Uri,
    /// All request fields.
    pub headers: HeaderMap,
    /// The request body.
    pub body: Bytes,
    /// How many requests for the same path came before this one.
    pub nth: u64,
}

impl Seen {
    /// The value of request field `name`, or "" when it is absent or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

/// What the origin answers. Built like `Answer::ok("body").header("cache-control", "max-age=60")`.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: BodyStream,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// Status `status` without a body.
    ///
    /// # Panics
    /// When `status` is no HTTP status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("a status in 100..=999"),
            headers: HeaderMap::new(),
            body: Box::pin(stream::empty()),
        }
    }

    /// 200 with `body` and its Content-Length.
    #[must_use]
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::status(200).body(body)
    }

    /// Sets the body and its Content-Length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.headers
            .insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        self.body = Box::pin(stream::iter([Ok(Frame::data(body))]));
        self
    }

    /// Sets a body that is produced as it is sent. Without `length` it is chunked. An `Err` item breaks the connection.
    #[must_use]
    pub fn stream(
        mut self,
        length: Option<u64>,
        body: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Self {
        if let Some(length) = length {
            self.headers
                .insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.body = Box::pin(body.map(|item| item.map(Frame::data)));
        self
    }

    /// Sends the first `keep` bytes of `body` under a Content-Length of all of it, then breaks the connection.
    #[must_use]
    pub fn truncated(self, body: impl Into<Bytes>, keep: usize) -> Self {
        let body = body.into();
        let length = body.len() as u64;
        let kept = body.slice(..keep.min(body.len()));
        self.stream(
            Some(length),
            stream::iter([Ok(kept), Err(std::io::Error::other("scripted truncation"))]),
        )
    }

    /// Appends response field `name`.
    ///
    /// # Panics
    /// When name or value is no HTTP field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        self.headers
            .append(name, HeaderValue::from_str(value).expect("a field value"));
        self
    }

    /// `Cache-Control: max-age=<seconds>`.
    #[must_use]
    pub fn fresh(self, seconds: u32) -> Self {
        self.header("cache-control", &format!("max-age={seconds}"))
    }
}

/// A barrier in a script: closed until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn passed(&self) {
        let mut seen = self.0.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _open = seen.wait_for(|open| *open).await;
    }
}

#[derive(Debug, Default)]
struct Ledger {
    seen: Mutex<Requests>,
    body_bytes: AtomicU64,
    /// Requests are counted and not kept.
    forgets: bool,
}

/// What was asked, in order, and how often for each path.
#[derive(Debug, Default)]
struct Requests {
    all: Vec<Seen>,
    of_paths: HashMap<String, u64>,
}

impl Requests {
    /// Counts one more request for a path; how many came before.
    fn count(&mut self, path: &str) -> u64 {
        let count = self.of_paths.entry(path.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

/// A running scripted origin; it stops when dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    ledger: Arc<Ledger>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Starts an origin on a free loopback port that answers each request by `script`.
    ///
    /// # Panics
    /// When no loopback port can be bound.
    pub async fn start<F, A>(script: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Answers every request with this body, which is stale when it comes, and confirms it for an hour to whoever asks.
    pub async fn stale_until_confirmed(whole: Bytes) -> Self {
        Self::start(move |seen| {
            let whole = whole.clone();
            async move {
                let tag = "\"v\"";
                match seen.headers.get("if-none-match") {
                    Some(_) => Answer::status(304).header("etag", tag).fresh(3600),
                    None => Answer::ok(whole)
                        .header("etag", tag)
                        .header("cache-control", "max-age=60")
                        .header("age", "100"),
                }
            }
        })
        .await
    }

    /// As [`Origin::start`], keeping nothing of what it is asked: for a million requests. Each is the first for its path.
    ///
    /// # Panics
    /// When no loopback port can be bound.
    pub async fn forgetful<F, A>(script: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let ledger = Ledger {
            forgets: true,
            ..Ledger::default()
        };
        Self::begin(SocketAddr::from(([127, 0, 0, 1], 0)), script, ledger).await
    }

    /// As [`Origin::start`], on a given address: for an origin that comes back where it was.
    ///
    /// # Panics
    /// When `addr` cannot be bound.
    pub async fn start_on<F, A>(addr: SocketAddr, script: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::begin(addr, script, Ledger::default()).await
    }

    async fn begin<F, A>(addr: SocketAddr, script: F, ledger: Ledger) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.expect("a free loopback port");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let ledger = Arc::new(ledger);
        let script: Script = Arc::new(move |seen| Box::pin(script(seen)));
        let task = tokio::spawn(accept(listener, script, Arc::clone(&ledger)));
        Self { addr, ledger, task }
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL without a trailing slash, as a site's `origins` entry.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All requests so far, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.ledger.seen.lock().all.clone()
    }

    /// How many requests came for `path` (without query).
    #[must_use]
    pub fn requests(&self, path: &str) -> usize {
        let count = self.ledger.seen.lock().of_paths.get(path).copied();
        usize::try_from(count.unwrap_or(0)).expect("a count that fits")
    }

    /// Response body bytes handed to the network so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.ledger.body_bytes.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, script: Script, ledger: Arc<Ledger>) {
    // Owned here, so that dropping the origin ends its connections too.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe: an unaccepted connection stays in the backlog.
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let (script, ledger) = (Arc::clone(&script), Arc::clone(&ledger));
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&script), Arc::clone(&ledger)));
                    // A client that leaves, or a scripted truncation, is what the tests are about.
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    script: Script,
    ledger: Arc<Ledger>,
) -> Result<hyper::Response<StreamBody<BodyStream>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let seen = {
        let mut requests = ledger.seen.lock();
        let nth = if ledger.forgets {
            0
        } else {
            requests.count(head.uri.path())
        };
        let seen = Seen {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body,
            nth,
        };
        if !ledger.forgets {
            requests.all.push(seen.clone());
        }
        seen
    };
    let answer = script(seen).await;
    let counted: BodyStream = Box::pin(answer.body.inspect(move |frame| {
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            ledger
                .body_bytes
                .fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }));
    let mut response = hyper::Response::new(StreamBody::new(counted));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}
