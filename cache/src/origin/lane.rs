//! The connections of one worker to one origin: dialled when needed, kept while in use and for a short while after.
//!
//! HTTP/1.1 connections carry one request at a time and wait in a stack, the last used on top; HTTP/2 connections are
//! shared up to a number of streams. Each is driven by a task of its own on the worker's runtime, which ends when the
//! last handle to the connection is dropped; the client's tracker waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connect::{DialError, Dialed, dial};
use super::endpoint::{Endpoint, OriginSettings};
use super::upload::Upload;

/// How long a reused connection may take to say that it is ready. Its last exchange is over, so this is one turn of
/// its task on this same runtime; longer means the worker is choked, and a new connection costs less than doubt.
const READY_WAIT: Duration = Duration::from_millis(100);

/// HTTP/2 flow control: what one response may have in flight unread, and all of a connection together.
/// 1 MiB × streams is not the bound; 4 MiB per connection is.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of an HTTP/1.1 response read ahead of its reader, and of a request written ahead of the socket.
const H1_BUFFER: usize = 256 * 1024;

/// One worker's connections to one origin.
pub(super) struct Lane {
    pub(super) endpoint: Arc<Endpoint>,
    settings: Arc<OriginSettings>,
    tasks: TaskTracker,
    state: Mutex<LaneState>,
    /// One dial at a time while the origin may turn out to speak HTTP/2, so that a burst shares one connection.
    dialling: Semaphore,
}

#[derive(Default)]
struct LaneState {
    idle: Vec<Idle>,
    shared: Vec<Arc<Shared>>,
    speaks: Speaks,
    sweeping: bool,
    closed: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    #[default]
    Unknown,
    Http1,
    Http2,
}

struct Idle {
    sender: http1::SendRequest<Upload>,
    read_bytes: Arc<AtomicU64>,
    since: Instant,
}

/// An HTTP/2 connection and how many streams are open on it.
struct Shared {
    sender: http2::SendRequest<Upload>,
    read_bytes: Arc<AtomicU64>,
    use_: Mutex<Use>,
}

struct Use {
    streams: usize,
    since: Instant,
}

/// A connection lent to one exchange. Dropping it closes an HTTP/1.1 connection (whatever was left unread on it can
/// be no other response's beginning) and gives up a stream of an HTTP/2 one.
pub(super) struct Lease {
    pub(super) sender: Sender,
    /// It has carried a request before, so it may have died meanwhile.
    pub(super) reused: bool,
    read_bytes: Arc<AtomicU64>,
    lane: Arc<Lane>,
}

pub(super) enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>, StreamSlot),
}

/// One of the streams of a shared connection; the count falls on drop.
pub(super) struct StreamSlot(Arc<Shared>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut used = self.0.use_.lock();
        used.streams = used.streams.saturating_sub(1);
        used.since = Instant::now();
    }
}

impl Lease {
    /// Bytes the connection has received, of all its exchanges.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// Gives the connection back for the next request. Only after the exchange was completed in both directions.
    pub(super) fn give_back(self) {
        if let Sender::Http1(sender) = self.sender {
            self.lane.put(Idle {
                sender,
                read_bytes: self.read_bytes,
                since: Instant::now(),
            });
        }
    }
}

impl Lane {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        settings: Arc<OriginSettings>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            settings,
            tasks,
            state: Mutex::default(),
            dialling: Semaphore::new(1),
        })
    }

    /// A connection that is open already, if there is one.
    pub(super) async fn reuse(self: &Arc<Self>) -> Option<Lease> {
        if let Some(lease) = self.share() {
            return Some(lease);
        }
        loop {
            let Idle {
                mut sender,
                read_bytes,
                since,
            } = self.state.lock().idle.pop()?;
            if since.elapsed() >= self.settings.idle || sender.is_closed() {
                continue;
            }
            if let Ok(Ok(())) = tokio::time::timeout(READY_WAIT, sender.ready()).await {
                return Some(self.lease(Sender::Http1(sender), read_bytes, true));
            }
        }
    }

    /// A new connection, or a stream of one that another request opened meanwhile.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Lease, DialError> {
        let may_share = self.endpoint.tls.is_some() && self.state.lock().speaks != Speaks::Http1;
        let _turn = if may_share {
            // A waiter's wait is bounded by the dial before it; when that one fails, so many waiters would fail one
            // after the other, so each one's own limit runs from here.
            match tokio::time::timeout(self.settings.connect_timeout, self.dialling.acquire()).await
            {
                Ok(turn) => turn.ok(),
                Err(_) => return Err(DialError::Timeout(self.settings.connect_timeout)),
            }
        } else {
            None
        };
        if let Some(lease) = self.share() {
            return Ok(lease);
        }
        let dialed = dial(&self.endpoint, self.settings.connect_timeout).await?;
        if dialed.h2 {
            self.start_http2(dialed).await
        } else {
            self.start_http1(dialed).await
        }
    }

    async fn start_http1(self: &Arc<Self>, dialed: Dialed) -> Result<Lease, DialError> {
        let read_bytes = dialed.stream.read_bytes();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(H1_BUFFER)
            .max_header_size(self.settings.header_bytes_max)
            .handshake(TokioIo::new(dialed.stream))
            .await
            .map_err(|error| DialError::Unreachable(error.to_string()))?;
        let name = Arc::clone(&self.endpoint.name);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(origin = %name, %error, "connection to origin ended");
            }
        });
        self.state.lock().speaks = Speaks::Http1;
        Ok(self.lease(Sender::Http1(sender), read_bytes, false))
    }

    async fn start_http2(self: &Arc<Self>, dialed: Dialed) -> Result<Lease, DialError> {
        let read_bytes = dialed.stream.read_bytes();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(self.settings.header_bytes_max).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(dialed.stream))
            .await
            .map_err(|error| DialError::Unreachable(error.to_string()))?;
        let name = Arc::clone(&self.endpoint.name);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(origin = %name, %error, "connection to origin ended");
            }
        });
        let used = Mutex::new(Use {
            streams: 1,
            since: Instant::now(),
        });
        let shared = Arc::new(Shared {
            sender: sender.clone(),
            read_bytes: Arc::clone(&read_bytes),
            use_: used,
        });
        {
            let mut state = self.state.lock();
            state.speaks = Speaks::Http2;
            if !state.closed {
                state.shared.push(Arc::clone(&shared));
                self.sweep_later(&mut state);
            }
        }
        Ok(self.lease(Sender::Http2(sender, StreamSlot(shared)), read_bytes, false))
    }

    fn lease(self: &Arc<Self>, sender: Sender, read_bytes: Arc<AtomicU64>, reused: bool) -> Lease {
        Lease {
            sender,
            reused,
            read_bytes,
            lane: Arc::clone(self),
        }
    }

    /// A stream on an HTTP/2 connection that has room.
    fn share(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state.lock();
        state.shared.retain(|shared| !shared.sender.is_closed());
        for shared in &state.shared {
            let mut used = shared.use_.lock();
            if used.streams < self.settings.streams_max {
                used.streams += 1;
                drop(used);
                let slot = StreamSlot(Arc::clone(shared));
                let sender = shared.sender.clone();
                return Some(self.lease(
                    Sender::Http2(sender, slot),
                    Arc::clone(&shared.read_bytes),
                    true,
                ));
            }
        }
        None
    }

    /// No longer shares a connection that failed an exchange: its end may not have been seen yet.
    pub(super) fn forget(&self, lease: &Lease) {
        if let Sender::Http2(_, slot) = &lease.sender {
            self.state
                .lock()
                .shared
                .retain(|shared| !Arc::ptr_eq(shared, &slot.0));
        }
    }

    fn put(self: &Arc<Self>, idle: Idle) {
        let mut state = self.state.lock();
        if state.closed || idle.sender.is_closed() || state.idle.len() >= self.settings.idle_max {
            return;
        }
        state.idle.push(idle);
        self.sweep_later(&mut state);
    }

    /// Starts the task that closes what stays unused, unless it runs. It ends when nothing is left to close.
    fn sweep_later(self: &Arc<Self>, state: &mut LaneState) {
        if state.sweeping {
            return;
        }
        state.sweeping = true;
        let lane = Arc::downgrade(self);
        let idle = self.settings.idle;
        self.tasks.spawn(async move {
            let mut wake = Instant::now() + idle;
            loop {
                tokio::time::sleep_until(wake).await;
                let Some(lane) = lane.upgrade() else { return };
                match lane.sweep(Instant::now()) {
                    Some(next) => wake = next,
                    None => return,
                }
            }
        });
    }

    /// Closes what has been unused for too long; when to look again, `None` if there is nothing left to look after.
    fn sweep(&self, now: Instant) -> Option<Instant> {
        let limit = self.settings.idle;
        let mut state = self.state.lock();
        state
            .idle
            .retain(|idle| now < idle.since + limit && !idle.sender.is_closed());
        let mut next = state.idle.iter().map(|idle| idle.since + limit).min();
        state.shared.retain(|shared| {
            let used = shared.use_.lock();
            let expires = if used.streams > 0 {
                now + limit
            } else {
                used.since + limit
            };
            let keep = now < expires && !shared.sender.is_closed();
            if keep {
                next = Some(next.map_or(expires, |next| next.min(expires)));
            }
            keep
        });
        state.sweeping = next.is_some();
        next
    }

    /// Closes what is unused and keeps nothing from now on; exchanges under way go on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.idle.clear();
        state.shared.clear();
    }
}
