//! A connection, its streams and datagrams, and what is known of its path.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use quinn::crypto::rustls::HandshakeData;
use rustls_pki_types::CertificateDer;

use super::{
    adapt::{Adapting, PathSnapshot, Shared, Windows},
    congestion::Meter,
    error::{ConnectionError, DatagramError, wire_code},
    handshake::{Handshake, Seen},
    prefix::PrefixPlace,
    stream::{RecvStream, SendStream},
};
use crate::path::Controller;

/// An established connection. Cheap to clone; all clones are one connection.
///
/// When every clone, acceptor, opener and stream is gone it is closed with code 0. A server's connection goes on
/// when the client's address changes.
#[derive(Debug, Clone)]
pub struct Connection {
    quinn: quinn::Connection,
    adapting: Option<Arc<Adapting>>,
    /// Of a server where connections are counted by prefix.
    _place: Option<Arc<PrefixPlace>>,
}

impl Connection {
    /// One that adapts where it has `windows` to begin with. Must be called inside a runtime.
    pub(super) fn new(
        quinn: quinn::Connection,
        windows: Option<&Windows>,
        shared: &Shared,
    ) -> Self {
        let adapting = windows.map(|windows| Adapting::start(quinn.clone(), windows, shared));
        Self {
            quinn,
            adapting,
            _place: None,
        }
    }

    /// The same, in its place among its prefix's.
    pub(super) fn in_place(self, place: Option<PrefixPlace>) -> Self {
        Self {
            _place: place.map(Arc::new),
            ..self
        }
    }

    /// Something is about to be moved.
    fn stir(&self) {
        if let Some(adapting) = &self.adapting {
            adapting.stir();
        }
    }

    /// Opens a bidirectional stream; waits while the peer allows no more. The peer hears of it with the first
    /// bytes sent. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.stir();
        Ok(both(self.quinn.open_bi().await?))
    }

    /// Opens a stream to the peer; otherwise as [`open_bi`](Self::open_bi).
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        self.stir();
        Ok(SendStream::new(self.quinn.open_uni().await?))
    }

    /// The next bidirectional stream of the peer. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended and every stream that had arrived was taken.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let streams = self.quinn.accept_bi().await?;
        self.stir();
        Ok(both(streams))
    }

    /// The next stream from the peer; otherwise as [`accept_bi`](Self::accept_bi).
    ///
    /// # Errors
    /// If the connection has ended and every stream that had arrived was taken.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let stream = self.quinn.accept_uni().await?;
        self.stir();
        Ok(RecvStream::new(stream))
    }

    /// Like [`accept_bi`](Self::accept_bi), to be polled. Allocates once, not per stream.
    pub fn bi_acceptor(&self) -> BiAcceptor {
        BiAcceptor(Box::pin(stream::unfold(
            self.clone(),
            |connection| async move {
                let stream = connection.quinn.accept_bi().await;
                connection.stir();
                Some((stream, connection))
            },
        )))
    }

    /// Like [`accept_uni`](Self::accept_uni), to be polled.
    pub fn uni_acceptor(&self) -> UniAcceptor {
        UniAcceptor(Box::pin(stream::unfold(
            self.clone(),
            |connection| async move {
                let stream = connection.quinn.accept_uni().await;
                connection.stir();
                Some((stream, connection))
            },
        )))
    }

    /// Like [`open_bi`](Self::open_bi), to be polled.
    pub fn bi_opener(&self) -> BiOpener {
        BiOpener(Box::pin(stream::unfold(
            self.clone(),
            |connection| async move {
                let stream = connection.quinn.open_bi().await;
                connection.stir();
                Some((stream, connection))
            },
        )))
    }

    /// Like [`open_uni`](Self::open_uni), to be polled.
    pub fn uni_opener(&self) -> UniOpener {
        UniOpener(Box::pin(stream::unfold(
            self.clone(),
            |connection| async move {
                let stream = connection.quinn.open_uni().await;
                connection.stir();
                Some((stream, connection))
            },
        )))
    }

    /// Queues an unreliable datagram; drops the oldest waiting ones if there is no room.
    ///
    /// # Errors
    /// [`DatagramError`]; the datagram was not queued.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        Ok(self.quinn.send_datagram(data)?)
    }

    /// The next datagram from the peer. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        Ok(self.quinn.read_datagram().await?)
    }

    /// The longest datagram the path carries now, bytes; `None` if datagrams are not in use.
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.quinn.max_datagram_size()
    }

    /// The application protocol both sides agreed on.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.handshake_data()?.0.protocol
    }

    /// The name the client asked for (SNI). On the client's side `None`.
    pub fn server_name(&self) -> Option<String> {
        self.handshake_data()?.0.server_name
    }

    /// How the handshake of a connection that this side made began. `None` before its end, and on the server's side.
    pub fn handshake(&self) -> Option<Handshake> {
        self.handshake_data()?.1
    }

    fn handshake_data(&self) -> Option<(HandshakeData, Option<Handshake>)> {
        match self.quinn.handshake_data()?.downcast::<Seen>() {
            Ok(seen) => Some((seen.data, seen.handshake)),
            Err(other) => Some((*other.downcast::<HandshakeData>().ok()?, None)),
        }
    }

    /// The peer's certificates, its own first; `None` if it showed none.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.quinn
            .peer_identity()?
            .downcast::<Vec<CertificateDer<'static>>>()
            .ok()
            .map(|certs| *certs)
    }

    /// Where the peer's last packets came from. A client's may change, and is not proven then: on the server's side anybody who has a
    /// connection can have any address stand here for a while (RFC 9000, section 9.3). [`Connecting::remote_addr`](super::Connecting::remote_addr) is
    /// proven once the handshake has ended.
    pub fn remote_addr(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// A number that no other open connection of this process has.
    pub fn stable_id(&self) -> usize {
        self.quinn.stable_id()
    }

    /// Whether this side made the connection.
    pub fn is_client(&self) -> bool {
        self.quinn.side().is_client()
    }

    /// The state of the path.
    pub fn path(&self) -> PathStats {
        PathStats::measure(&self.quinn).0
    }

    /// What a connection that [adapts](super::TransportConfig::adapt) knows of its path, as of its last sample: cheap enough to ask
    /// for each request. `None` if it does not adapt.
    pub fn snapshot(&self) -> Option<PathSnapshot> {
        self.adapting.as_ref()?.snapshot()
    }

    /// How many streams a large transfer should use at once now, so that no stream's window holds it back. 1 where that is not known:
    /// if the connection does not adapt, or its path was not measured yet.
    pub fn streams(&self) -> u16 {
        let streams = self.adapting.as_ref().and_then(|it| it.streams());
        streams.unwrap_or(1)
    }

    /// Closes the connection at once with this application code. What is queued is not sent, and what the peer
    /// has not read may be lost: the side that received last should close. Codes of 2^62 and above are sent as
    /// 2^62 − 1; a reason beyond about 1 KiB is cut.
    pub fn close(&self, code: u64, reason: &[u8]) {
        self.quinn.close(wire_code(code), reason);
    }

    /// Waits for the end of the connection. Cancel-safe.
    pub async fn closed(&self) -> ConnectionError {
        self.quinn.closed().await.into()
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.quinn.close_reason().map(Into::into)
    }
}

fn both((send, recv): (quinn::SendStream, quinn::RecvStream)) -> (SendStream, RecvStream) {
    (SendStream::new(send), RecvStream::new(recv))
}

/// What is known of a connection's path. Counts are since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PathStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The least round-trip time seen.
    pub rtt_min: Duration,
    /// How much successive round trips differ, smoothed. Zero before the second acknowledgement of two packets or more.
    pub jitter: Duration,
    /// Congestion window, bytes.
    pub cwnd: u64,
    /// Who decides about it.
    pub controller: Controller,
    /// Largest UDP payload found to pass, bytes.
    pub mtu: u16,
    /// Probes for larger packets that were sent.
    pub mtu_probes: u64,
    /// Probes of those that were lost; they do not count as lost packets.
    pub mtu_probes_lost: u64,
    /// Times that packets of the size found passed no longer, and 1200 was returned to.
    pub mtu_shrunk: u64,
    /// Packets sent on the current path.
    pub sent_packets: u64,
    /// Packets of those that were declared lost.
    pub lost_packets: u64,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of those known to have arrived on the current path.
    pub acked_bytes: u64,
    /// UDP datagrams received.
    pub received_datagrams: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Times the congestion window was cut.
    pub congestion_events: u64,
}

impl PathStats {
    pub(super) fn measure(quinn: &quinn::Connection) -> (Self, Meter) {
        let stats = quinn.stats();
        let meter = Meter::of(quinn.congestion_state()).unwrap_or_default();
        let path = Self {
            rtt: stats.path.rtt,
            rtt_min: stats.path.min_rtt,
            jitter: meter.jitter,
            cwnd: stats.path.cwnd,
            controller: meter.controller,
            mtu: stats.path.current_mtu,
            mtu_probes: stats.path.sent_plpmtud_probes,
            mtu_probes_lost: stats.path.lost_plpmtud_probes,
            mtu_shrunk: stats.path.black_holes_detected,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            acked_bytes: meter.acked,
            received_datagrams: stats.udp_rx.datagrams,
            received_bytes: stats.udp_rx.bytes,
            congestion_events: stats.path.congestion_events,
        };
        (path, meter)
    }
}

type Streams<T> = Pin<Box<dyn Stream<Item = Result<T, quinn::ConnectionError>> + Send + Sync>>;
type BothHalves = (quinn::SendStream, quinn::RecvStream);

/// The stream never ends: after the connection has ended it yields its error again and again.
fn poll_streams<T>(
    streams: &mut Streams<T>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, ConnectionError>> {
    streams.as_mut().poll_next(cx).map(|item| match item {
        Some(result) => result.map_err(Into::into),
        None => Err(ConnectionError::LocallyClosed),
    })
}

/// Takes the peer's bidirectional streams, polled; see [`Connection::bi_acceptor`].
pub struct BiAcceptor(Streams<BothHalves>);

impl BiAcceptor {
    /// The next stream; wakes the last task that polled.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, RecvStream), ConnectionError>> {
        poll_streams(&mut self.0, cx).map_ok(both)
    }
}

/// Takes the peer's unidirectional streams, polled; see [`Connection::uni_acceptor`].
pub struct UniAcceptor(Streams<quinn::RecvStream>);

impl UniAcceptor {
    /// The next stream; wakes the last task that polled.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionError>> {
        poll_streams(&mut self.0, cx).map_ok(RecvStream::new)
    }
}

/// Opens bidirectional streams, polled; see [`Connection::bi_opener`].
pub struct BiOpener(Streams<BothHalves>);

impl BiOpener {
    /// A new stream; wakes the last task that polled.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, RecvStream), ConnectionError>> {
        poll_streams(&mut self.0, cx).map_ok(both)
    }
}

/// Opens unidirectional streams, polled; see [`Connection::uni_opener`].
pub struct UniOpener(Streams<quinn::SendStream>);

impl UniOpener {
    /// A new stream; wakes the last task that polled.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, ConnectionError>> {
        poll_streams(&mut self.0, cx).map_ok(SendStream::new)
    }
}

macro_rules! opaque_debug {
    ($($name:ident),+) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })+
    };
}

opaque_debug!(BiAcceptor, UniAcceptor, BiOpener, UniOpener);
