//! The asking side: a connection to one peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ask::Ask;
use super::datagrams::Datagrams;
use super::early::First;
use super::error::{ExchangeError, PeerError};
use super::exchange::{Exchange, RecvHalf, SendHalf, Shared};
use super::frames::{FrameReader, FrameWriter};
use super::greet::{Control, Greeted, Manners, PeerInfo, close, distrust};
use super::witness::{Report, Witness};
use crate::hello::RoleRule;
use crate::identity::{ALPN, Identity, Refusal, SERVER_NAME, Term};
use crate::shape::Shaper;
use crate::transport::{
    Carrier, ConnectError, ConnectionError, Handshake, HandshakeEnd, Link, PathSnapshot, PathStats,
    Target, Transport,
};
use crate::wire::{CloseCode, Frame, StreamCode, Versions, WireError, encode};

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
    /// The versions of the wire to speak. Default: all that this crate does.
    pub versions: Versions,
    /// What the bodies of requests wait for before they are sent; see [`ServeConfig::shaper`](super::ServeConfig::shaper).
    pub shaper: Option<Shaper>,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            expect: RoleRule::Any,
            connect_timeout: Duration::from_secs(3),
            hello_timeout: Duration::from_secs(5),
            stream_timeout: Duration::from_secs(10),
            idle_close: Duration::from_secs(30),
            versions: Versions::default(),
            shaper: None,
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
    /// How long the certificates on both sides last.
    term: Term,
    stream_timeout: Duration,
    datagrams: Datagrams,
    shaper: Option<Shaper>,
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
        let own_term = identity
            .term()
            .map_err(|error| PeerError::Identity(Arc::new(error)))?;
        let tls = identity
            .client_config_telling(ALPN, Some((addr, verdict.clone())))
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
            Ok(Err(error)) => return Err(connect_failed(addr, &verdict, error)),
        };
        let manners = Manners {
            identity,
            rule: &config.expect,
            versions: config.versions,
            limit: config.hello_timeout,
        };
        let greeted = manners
            .greet(&*conn, Control::None, &mut HandshakeEnd::default())
            .await?;
        let now = identity.now().unwrap_or(own_term.end);
        let term = own_term.with(&greeted.info.identity, now);
        Ok(Self::start(conn, greeted, identity, config, term))
    }

    /// A peer past its hello, on a connection that may last for this term.
    pub(super) fn start(
        conn: Arc<dyn Link>,
        greeted: Greeted,
        identity: &Identity,
        config: &DialConfig,
        term: Term,
    ) -> Self {
        let Greeted {
            info,
            control_in,
            control_out,
        } = greeted;
        let inner = Arc::new(Inner {
            term,
            datagrams: Datagrams::new(conn.clone(), &info),
            conn: conn.clone(),
            info,
            identity: identity.clone(),
            stream_timeout: config.stream_timeout,
            shaper: config.shaper.clone(),
            usage: Mutex::new(Usage {
                active: 0,
                last: Instant::now(),
                closing: false,
            }),
            _control_out: control_out,
            keeper: OnceLock::new(),
            witness: OnceLock::new(),
        });
        let keeper = tokio::spawn(keep(
            Arc::downgrade(&inner),
            conn,
            control_in,
            config.idle_close,
        ));
        // Set only here, so it is free.
        let _ = inner.keeper.set(keeper.abort_handle());
        Self(inner)
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
        self.ask(Ask::new(kind, control).limited(limit)).await
    }

    /// As [`exchange`](Self::exchange), with all that can be said of a request.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub async fn ask(&self, ask: Ask) -> Result<Exchange, ExchangeError> {
        let inner = &self.0;
        let place = inner.place()?;
        let start = Instant::now();
        let deadline = ask.deadline(start);
        let report = Report::to(inner.witness.get());
        let opened = inner.in_turn(start, deadline, inner.conn.open_bi()).await;
        let (send, recv) = opened.inspect_err(|error| report.failed(error))?;
        let shared = Shared::new(deadline, StreamCode::Cancelled, report, place);
        send.set_priority(ask.marks().urgency.priority());
        let version = inner.info.version;
        let mut send = SendHalf::new(send, version, shared.clone()).shaped(inner.shaper.as_ref());
        let recv = RecvHalf::new(recv, version, shared);
        send.request(&ask.request(deadline)).await?;
        Ok(Exchange { send, recv })
    }

    /// Tells something to which there is no answer. Its body, if it has one, goes into what is returned, which must be finished in
    /// any case. Not ordered among other messages; that it was sent does not say that anybody acted on it.
    ///
    /// # Errors
    /// [`ExchangeError::TooOld`] where the peer speaks version 1; else as [`exchange`](Self::exchange).
    pub async fn tell(&self, message: Ask) -> Result<SendHalf, ExchangeError> {
        let inner = &self.0;
        let place = inner.place()?;
        let start = Instant::now();
        let deadline = message.deadline(start);
        let urgency = message.marks().urgency;
        let frame = message.tell(deadline);
        // Asked before a stream is opened, which a peer of version 1 would take for an offence.
        encode(inner.info.version, &frame)?;
        let report = Report::default();
        let shared = Shared::new(deadline, StreamCode::Cancelled, report, place);
        let send = inner
            .in_turn(start, deadline, inner.conn.open_uni())
            .await?;
        send.set_priority(urgency.priority());
        let mut send =
            SendHalf::new(send, inner.info.version, shared).shaped(inner.shaper.as_ref());
        send.request(&frame).await?;
        Ok(send)
    }

    /// The connection's datagrams.
    #[must_use]
    pub fn datagrams(&self) -> &Datagrams {
        &self.0.datagrams
    }

    /// As [`ask`](Self::ask), of a request that has no body.
    pub(super) async fn ask_whole(&self, ask: Ask) -> Result<RecvHalf, ExchangeError> {
        let Exchange { send, recv } = self.ask(ask).await?;
        match send.finish().await {
            // A peer that has read enough to answer needs no end; what its answer is, the other half tells.
            Ok(()) | Err(ExchangeError::Cancelled { .. }) => Ok(recv),
            Err(error) => Err(error),
        }
    }

    /// Makes an answer of one that began before this connection was ready.
    pub(super) fn adopt(&self, first: First) -> Result<RecvHalf, ExchangeError> {
        let place = self.0.place()?;
        let report = Report::to(self.0.witness.get());
        let shared = Shared::new(first.deadline, StreamCode::Cancelled, report, place);
        Ok(RecvHalf::new(first.recv, first.version, shared))
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

    /// How the connection's handshake began.
    #[must_use]
    pub fn handshake(&self) -> Option<Handshake> {
        self.0.conn.handshake()
    }

    /// The state of the path to it. What the carrier cannot know is 0.
    #[must_use]
    pub fn path(&self) -> PathStats {
        self.0.conn.path()
    }

    /// What is known of the path, where the connection [adapts](crate::quic::TransportConfig::adapt) to it and it was measured:
    /// class, rate, loss. Cheap enough to ask for each request.
    #[must_use]
    pub fn snapshot(&self) -> Option<PathSnapshot> {
        self.0.conn.snapshot()
    }

    /// How many exchanges a large transfer should be spread over now, so that no stream's window holds it back. 1 where that is not
    /// known.
    #[must_use]
    pub fn streams(&self) -> u16 {
        self.0.conn.streams()
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
        if inner.identity.now().is_none_or(|now| now > inner.term.end) {
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

    /// Whether a new connection should take this one's place, long before its certificates end.
    pub(crate) fn is_due(&self) -> bool {
        self.0.term.is_due(&self.0.identity)
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

/// What it means that there is no connection. A refusal of ours is known by its `verdict` alone.
pub(super) fn connect_failed(
    addr: SocketAddr,
    verdict: &OnceLock<Refusal>,
    error: ConnectError,
) -> PeerError {
    match (verdict.get(), error) {
        (Some(refusal), _) => PeerError::Refused {
            addr,
            refusal: refusal.clone(),
        },
        (None, ConnectError::Connection(error)) => PeerError::ended(addr, error),
        (None, source) => PeerError::Connect { addr, source },
    }
}

/// Listens on the control stream, and closes the connection when it is no longer used.
async fn keep(
    inner: Weak<Inner>,
    conn: Arc<dyn Link>,
    mut control: FrameReader,
    idle_close: Duration,
) {
    let mut wake = Instant::now() + idle_close;
    let Some(mut revoked) = inner
        .upgrade()
        .map(|inner| inner.identity.revocations().replaced())
    else {
        return;
    };
    // The list may have been replaced since the peer was checked.
    revoked.mark_changed();
    loop {
        // All may be cancelled: the reader keeps what it has, a stream not taken stays, the timer is set anew.
        let frame = tokio::select! {
            frame = control.next() => Some(frame),
            // Only the client opens streams.
            Ok(_) = conn.accept_uni() => {
                let misplaced = WireError::Unexpected("unidirectional stream");
                Some(Err(ExchangeError::Protocol(misplaced)))
            }
            Ok(_) = conn.accept_bi() => {
                let misplaced = WireError::Unexpected("bidirectional stream");
                Some(Err(ExchangeError::Protocol(misplaced)))
            }
            () = sleep_until(wake) => None,
            // The sender lives as long as the identity.
            _ = revoked.changed() => None,
        };
        let Some(inner) = inner.upgrade() else { return };
        if let Err(refusal) = inner.identity.recheck_revoked(&inner.info.identity) {
            return inner.distrust(&refusal);
        }
        match frame {
            Some(Ok(Some(Frame::GoAway { .. }))) => inner.let_go(CloseCode::Done),
            Some(Err(ExchangeError::Connection(_))) => return,
            Some(_) => {
                inner.usage.lock().closing = true;
                close(
                    &*inner.conn,
                    CloseCode::Protocol,
                    "control stream, or a stream of the server",
                );
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
    /// A place for one more exchange, if there may be one.
    fn place(self: &Arc<Self>) -> Result<Place, ExchangeError> {
        if let Err(refusal) = self.identity.recheck(&self.info.identity) {
            self.distrust(&refusal);
            return Err(match refusal.code() {
                CloseCode::Revoked => ExchangeError::Revoked,
                _ => ExchangeError::Expired,
            });
        }
        Place::take(self).ok_or(ExchangeError::Draining)
    }

    /// Waits for a stream as long as the deadline and the patience of this side allow.
    async fn in_turn<T>(
        &self,
        start: Instant,
        deadline: Option<Instant>,
        stream: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, ExchangeError> {
        let patience = start + self.stream_timeout;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        match timeout_at(until, stream).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err(ExchangeError::NoStream(until - start)),
        }
    }

    /// Closes at once, for the peer is not trusted any more.
    fn distrust(&self, refusal: &Refusal) {
        self.usage.lock().closing = true;
        if self.conn.close_reason().is_none() {
            distrust(&*self.conn, &self.identity, &self.info, refusal);
        }
    }

    /// Starts no further exchange, and closes once none is under way.
    fn let_go(&self, code: CloseCode) {
        let mut usage = self.usage.lock();
        usage.closing = true;
        if usage.active == 0 {
            close(&*self.conn, code, "");
        }
    }
}
