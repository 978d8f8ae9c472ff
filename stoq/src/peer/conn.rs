//! The asking side: a connection to one peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::error::{ExchangeError, PeerError};
use super::exchange::{Exchange, RecvHalf, SendHalf, Shared};
use super::frames::{FrameReader, FrameWriter};
use super::greet::{Greeted, PeerInfo, close, greet};
use super::witness::{Report, Witness};
use crate::hello::RoleRule;
use crate::identity::{ALPN, Identity, SERVER_NAME};
use crate::transport::{
    BiStream, Carrier, ConnectError, ConnectionError, Link, PathStats, Target, Transport,
};
use crate::wire::{CloseCode, Frame, StreamCode};

/// How a peer is dialled, and how long its connection is kept.
#[derive(Debug, Clone)]
pub struct DialConfig {
    /// Which peers are accepted. Default: any node of the cluster.
    pub expect: RoleRule,
    /// Time for the handshake. Default 3 s: a lost first packet is sent again after one.
    pub connect_timeout: Duration,
    /// Time for the hello after it. Default 5 s.
    pub hello_timeout: Duration,
    /// How long an exchange waits for a free stream when the peer's limit is reached. Default 10 s.
    pub stream_timeout: Duration,
    /// After this long without an exchange the connection is closed. Default 30 s.
    pub idle_close: Duration,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            expect: RoleRule::Any,
            connect_timeout: Duration::from_secs(3),
            hello_timeout: Duration::from_secs(5),
            stream_timeout: Duration::from_secs(10),
            idle_close: Duration::from_secs(30),
        }
    }
}

/// A connection to a peer, past its hello. Cheap to clone; closed when the last clone and the last exchange are gone.
#[derive(Debug, Clone)]
pub struct PeerConn(Arc<Inner>);

struct Inner {
    conn: Arc<dyn Link>,
    info: PeerInfo,
    identity: Identity,
    /// From here on somebody's certificate lives on tolerance only, and the connection is to be replaced.
    retire_after: UnixTime,
    stream_timeout: Duration,
    usage: Mutex<Usage>,
    /// Open for as long as the connection: its reset would be a protocol error.
    _control_out: FrameWriter,
    keeper: OnceLock<AbortHandle>,
    witness: OnceLock<Arc<dyn Witness>>,
}

#[derive(Debug)]
struct Usage {
    active: usize,
    last: Instant,
    /// No further exchange is to be started.
    closing: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("info", &self.info)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        close(&*self.conn, CloseCode::Done, "");
    }
}

impl PeerConn {
    /// Dials `addr` and settles who is there.
    ///
    /// Must be called inside the runtime of `transport`; spawns one task, which ends with the connection.
    ///
    /// # Errors
    /// See [`PeerError`]. Dropping the future abandons the attempt.
    pub async fn dial(
        transport: &dyn Transport,
        identity: &Identity,
        addr: SocketAddr,
        config: &DialConfig,
    ) -> Result<Self, PeerError> {
        let verdict = Arc::new(OnceLock::new());
        // The leaf shown below is this one or a later one.
        let own_end = identity
            .leaf_end()
            .map_err(|error| PeerError::Identity(Arc::new(error)))?;
        let tls = identity
            .client_config_telling(ALPN, Some(verdict.clone()))
            .map_err(|error| PeerError::Identity(Arc::new(error)))?;
        let connecting = transport.connect(Target {
            addr,
            server_name: SERVER_NAME,
            tls,
        });
        let connecting = timeout(config.connect_timeout, connecting).await;
        let conn = match connecting {
            Err(_) => {
                return Err(PeerError::Timeout {
                    addr,
                    limit: config.connect_timeout,
                });
            }
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => {
                return Err(match (verdict.get(), error) {
                    (Some(refusal), _) => PeerError::Refused {
                        addr,
                        refusal: refusal.clone(),
                    },
                    (None, ConnectError::Connection(error)) => PeerError::ended(addr, error),
                    (None, source) => PeerError::Connect { addr, source },
                });
            }
        };
        let Greeted {
            info,
            control_in,
            control_out,
        } = greet(&*conn, identity, &config.expect, config.hello_timeout).await?;
        let inner = Arc::new(Inner {
            retire_after: own_end.min(info.identity.not_after),
            conn,
            info,
            identity: identity.clone(),
            stream_timeout: config.stream_timeout,
            usage: Mutex::new(Usage {
                active: 0,
                last: Instant::now(),
                closing: false,
            }),
            _control_out: control_out,
            keeper: OnceLock::new(),
            witness: OnceLock::new(),
        });
        let keeper = tokio::spawn(keep(Arc::downgrade(&inner), control_in, config.idle_close));
        // Set only here, so it is free.
        let _ = inner.keeper.set(keeper.abort_handle());
        Ok(Self(inner))
    }

    /// Starts an exchange: sends the request of this `kind`, with at most
    /// [`REQUEST_CONTROL_BYTES_MAX`](crate::wire::REQUEST_CONTROL_BYTES_MAX) control bytes. Its body, if it has one,
    /// goes into [`Exchange::send`], which must be finished in any case.
    ///
    /// With a time `limit` both sides give the exchange up when it is over. Without one it may take as long as the
    /// connection lives, which ends when the peer answers nothing for the transport's idle timeout.
    ///
    /// # Errors
    /// See [`ExchangeError`]; [`not_sent`](ExchangeError::not_sent) tells whether another connection may be tried
    /// blindly.
    pub async fn exchange(
        &self,
        kind: u16,
        control: Bytes,
        limit: Option<Duration>,
    ) -> Result<Exchange, ExchangeError> {
        let inner = &self.0;
        if !inner
            .identity
            .now()
            .is_some_and(|now| inner.info.identity.valid_at(now))
        {
            close(&*inner.conn, CloseCode::Expired, "");
            return Err(ExchangeError::Expired);
        }
        let place = Place::take(inner).ok_or(ExchangeError::Draining)?;
        let start = Instant::now();
        let deadline = limit.map(|limit| start + limit);
        let report = Report::to(inner.witness.get());
        let patience = start + inner.stream_timeout;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let opened: Result<BiStream, ExchangeError> =
            match timeout_at(until, inner.conn.open_bi()).await {
                Ok(streams) => streams.map_err(Into::into),
                Err(_) => Err(ExchangeError::NoStream(until - start)),
            };
        let (send, recv) = opened.inspect_err(|error| report.failed(error))?;
        let shared = Shared::new(deadline, StreamCode::Cancelled, report, place);
        let version = inner.info.version;
        let mut send = SendHalf::new(send, version, shared.clone());
        let recv = RecvHalf::new(recv, version, shared);
        let time_left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        send.request(&Frame::Request {
            kind,
            time_left,
            control,
        })
        .await?;
        Ok(Exchange { send, recv })
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.0.info
    }

    /// What carries the connection.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        self.0.conn.carrier()
    }

    /// The state of the path to it. What the carrier cannot know is 0.
    #[must_use]
    pub fn path(&self) -> PathStats {
        self.0.conn.path()
    }

    /// Exchanges under way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.usage.lock().active
    }

    /// Closes the connection at once, exchanges under way included.
    pub fn close(&self) {
        self.0.usage.lock().closing = true;
        close(&*self.0.conn, CloseCode::Done, "");
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) -> ConnectionError {
        self.0.conn.closed().await
    }

    /// Whether an exchange can be started now. If so, the connection will not close for idleness before another
    /// [`DialConfig::idle_close`] has passed.
    pub(crate) fn refresh(&self) -> bool {
        if !self.is_usable() {
            return false;
        }
        self.0.usage.lock().last = Instant::now();
        true
    }

    /// Whether an exchange can be started now. Where a certificate is at its end the connection is let go.
    pub(crate) fn is_usable(&self) -> bool {
        let inner = &self.0;
        if inner
            .identity
            .now()
            .is_none_or(|now| now > inner.retire_after)
        {
            inner.let_go(CloseCode::Done);
        }
        self.is_open()
    }

    /// Who hears from now on whether exchanges are answered. The first call holds.
    pub(crate) fn watched_by(&self, witness: Arc<dyn Witness>) {
        let _ = self.0.witness.set(witness);
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.conn.close_reason().is_some()
    }

    /// Whether the connection lives and takes exchanges.
    pub(crate) fn is_open(&self) -> bool {
        self.0.conn.close_reason().is_none() && !self.0.usage.lock().closing
    }

    /// Starts no further exchange; closes when those under way are done.
    pub(crate) fn retire(&self) {
        self.0.let_go(CloseCode::Done);
    }

    /// When it was last used, if it is not in use.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let usage = self.0.usage.lock();
        (usage.active == 0).then_some(usage.last)
    }
}

/// An exchange's place on its connection.
struct Place(Arc<Inner>);

impl Place {
    fn take(inner: &Arc<Inner>) -> Option<Self> {
        let mut usage = inner.usage.lock();
        if usage.closing {
            return None;
        }
        usage.active += 1;
        Some(Self(inner.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut usage = self.0.usage.lock();
        usage.active = usage.active.saturating_sub(1);
        usage.last = Instant::now();
        if usage.closing && usage.active == 0 {
            close(&*self.0.conn, CloseCode::Done, "");
        }
    }
}

/// Listens on the control stream, and closes the connection when it is no longer used.
async fn keep(inner: Weak<Inner>, mut control: FrameReader, idle_close: Duration) {
    let mut wake = Instant::now() + idle_close;
    loop {
        // Both may be cancelled: the reader keeps what it has, the timer is set anew.
        let frame = tokio::select! {
            frame = control.next() => Some(frame),
            () = sleep_until(wake) => None,
        };
        let Some(inner) = inner.upgrade() else { return };
        match frame {
            Some(Ok(Some(Frame::GoAway { .. }))) => inner.let_go(CloseCode::Done),
            Some(Err(ExchangeError::Connection(_))) => return,
            Some(_) => {
                inner.usage.lock().closing = true;
                close(&*inner.conn, CloseCode::Protocol, "control stream");
                return;
            }
            None => {
                let idle_until = {
                    let usage = inner.usage.lock();
                    let since = if usage.active == 0 {
                        usage.last
                    } else {
                        Instant::now()
                    };
                    since + idle_close
                };
                if idle_until <= Instant::now() {
                    inner.let_go(CloseCode::Idle);
                }
                wake = idle_until.max(Instant::now() + Duration::from_millis(1));
            }
        }
    }
}

impl Inner {
    /// Starts no further exchange, and closes once none is under way.
    fn let_go(&self, code: CloseCode) {
        let mut usage = self.usage.lock();
        usage.closing = true;
        if usage.active == 0 {
            close(&*self.conn, code, "");
        }
    }
}
