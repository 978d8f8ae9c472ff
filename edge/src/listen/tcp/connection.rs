//! One hyper connection: its limits, its idleness, its end in a drain.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::uri::Scheme;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::head_limit::HeadLimit;
use super::inline::Inline;
use super::interim::{Between, Interjecting};
use super::service::PerConnection;
use super::wire::Signals;
use crate::alt_svc::AltSvc;
use crate::listen::metrics::BadHead;
use crate::listen::{Context, Limits};
use crate::service::{ConnectionInfo, Service};

/// Buffer of a request's head and of what is read ahead, HTTP/1.1; above the bound of heads by this.
const READ_AHEAD: usize = 64 * 1024;
/// What a client may send on a stream, and on a connection, before it is read: 128 streams share the latter.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response bytes buffered on a stream while the client's window is closed: 128 × 256 KiB = 32 MiB a connection.
const H2_SEND_BUFFER: usize = 256 * 1024;
/// A silent HTTP/2 client is asked whether it is there, and given this long to say so.
const H2_PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// What the protocol sends on its own, PINGs and their acknowledgements (40 B each with TLS), is less in any sensible time,
/// and a connection that writes no more than this is as good as still.
const CHATTER: u64 = 4 * 1024;

/// Where a connection stands.
#[derive(Debug)]
pub(super) struct At {
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) peer: SocketAddr,
    pub(super) scheme: Scheme,
    pub(super) alt_svc: Option<Arc<AltSvc>>,
    pub(super) signals: Signals,
}

/// Counts a connection's requests, so that one that is idle, or whose client takes nothing, is known.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Requests and pieces of responses so far.
    progress: AtomicUsize,
    /// Requests not ended.
    open: AtomicUsize,
    /// Those of them that wait for us: for the service's answer, or its body.
    ours: AtomicUsize,
    late_head: AtomicBool,
}

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Underway {
    watch: Arc<Watch>,
    ours: bool,
}

impl Watch {
    pub(super) fn request(self: &Arc<Self>) -> Underway {
        self.progress.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.ours.fetch_add(1, Ordering::Relaxed);
        Underway {
            watch: self.clone(),
            ours: true,
        }
    }

    /// Something while no request is open, and something else after each request.
    pub(super) fn idle(&self) -> Option<usize> {
        (self.open.load(Ordering::Relaxed) == 0).then(|| self.progress.load(Ordering::Relaxed))
    }

    /// A head did not come in time; the connection fails of it.
    pub(super) fn head_is_late(&self) {
        self.late_head.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for too long though nothing waits for us. A response has moved as long as the system
    /// takes bytes of it: what is left of the last ones stands in buffers, when their requests have ended. Cancel safe.
    async fn still(&self, signals: &Signals, limits: &Limits, finishing: bool) -> Still {
        let look = limits.idle_timeout.min(limits.stall_timeout);
        let mut before = self.progress.load(Ordering::Relaxed);
        let mut written_before = signals.written();
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(look).await;
            let (now, written) = (self.progress.load(Ordering::Relaxed), signals.written());
            let waits_for_us = self.ours.load(Ordering::Relaxed) > 0;
            if waits_for_us || now != before || written - written_before > CHATTER {
                (before, written_before, since) = (now, written, Instant::now());
                continue;
            }
            let quiet = since.elapsed();
            // A connection that was asked to finish has what it still holds to lose, like one with a request.
            if finishing || self.open.load(Ordering::Relaxed) > 0 {
                if quiet >= limits.stall_timeout {
                    return Still::Stalled;
                }
            } else if quiet >= limits.idle_timeout {
                return Still::Idle;
            }
        }
    }
}

impl Underway {
    /// Whether it waits for us from now on, or for its client.
    pub(super) fn waits_for_us(&mut self, ours: bool) {
        self.watch.progress.fetch_add(1, Ordering::Relaxed);
        if self.ours != ours {
            self.ours = ours;
            if ours {
                self.watch.ours.fetch_add(1, Ordering::Relaxed);
            } else {
                self.watch.ours.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.waits_for_us(false);
        self.watch.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why nothing moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Still {
    /// No request is open.
    Idle,
    /// One is, or was until the connection was asked to finish, and the client takes nothing.
    Stalled,
}

/// Serves HTTP/1.1 (and 1.0) to the connection's end.
pub(super) async fn http1<S, T>(context: &Arc<Context<S>>, stream: T, at: At)
where
    S: Service,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &context.limits;
    let header_bytes = limits.header_bytes as usize;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Counts the wait for the request too; from the head's first byte on it is `HeadLimit`'s.
        .header_read_timeout(limits.idle_timeout + limits.head_timeout)
        .max_header_size(header_bytes)
        .max_buf_size(header_bytes + READ_AHEAD)
        .auto_date_header(false)
        .keep_alive(true);
    let watch = Arc::<Watch>::default();
    let signals = at.signals.clone();
    let between = Between::default();
    let service = PerConnection {
        context: context.clone(),
        at: Arc::new(at),
        watch: watch.clone(),
        between: Some(between.clone()),
    };
    let stream = HeadLimit::new(stream, watch.clone(), limits.head_timeout);
    let stream = Interjecting::new(stream, between);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    drive(
        context,
        connection,
        |connection| connection.graceful_shutdown(),
        (&watch, &signals),
    )
    .await;
}

/// Serves HTTP/2 to the connection's end.
pub(super) async fn http2<S, T>(context: &Arc<Context<S>>, stream: T, at: At)
where
    S: Service,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &context.limits;
    let inline = Inline::default();
    let mut builder = http2::Builder::new(inline.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.requests_per_connection)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING.0)
        .keep_alive_timeout(H2_PING.1)
        .auto_date_header(false);
    let watch = Arc::<Watch>::default();
    let signals = at.signals.clone();
    // A client that is still reading sends window updates; were the socket closed by then, the reset they meet would cost it what it has not read yet.
    signals.unread();
    let service = PerConnection {
        context: context.clone(),
        at: Arc::new(at),
        watch: watch.clone(),
        between: None,
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    drive(
        context,
        connection,
        |connection| connection.graceful_shutdown(),
        (&watch, &signals),
    )
    .await;
    inline.ended().await;
}

/// Runs a connection to its end; asks it to finish when the drain begins or it is idle, cuts it when the drain ends or
/// its client takes nothing.
async fn drive<S, C>(
    context: &Context<S>,
    connection: C,
    graceful: fn(Pin<&mut C>),
    (watch, signals): (&Watch, &Signals),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut finishing = false;
    loop {
        // Every branch may be cancelled.
        tokio::select! {
            biased;
            () = context.drain.ended() => return,
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    if let Some(reason) = bad_head(&error, watch) {
                        context.metrics.bad_head(reason);
                    }
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = context.drain.begun(), if !finishing => {
                finishing = true;
                graceful(connection.as_mut());
            }
            still = watch.still(signals, &context.limits, finishing) => {
                if still == Still::Stalled {
                    return;
                }
                finishing = true;
                graceful(connection.as_mut());
            }
        }
    }
}

/// Whether a connection ended by a head that came to nothing. HTTP/2's streams do that without hyper saying so.
fn bad_head(error: &hyper::Error, watch: &Watch) -> Option<BadHead> {
    if watch.late_head.load(Ordering::Relaxed) {
        Some(BadHead::Timeout)
    } else if error.is_parse_too_large() {
        Some(BadHead::TooLarge)
    } else if error.is_parse() {
        Some(BadHead::Malformed)
    } else {
        None
    }
}
