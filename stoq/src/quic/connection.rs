//! A connection, its streams and datagrams, and what is known of its path.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use quinn::crypto::rustls::HandshakeData;
use rustls_pki_types::CertificateDer;

use super::{
    error::{ConnectionError, DatagramError, wire_code},
    handshake::{Handshake, Seen},
    stream::{RecvStream, SendStream},
};

/// An established connection. Cheap to clone; all clones are one connection.
///
/// When every clone, acceptor, opener and stream is gone it is closed with code 0. A server's connection goes on
/// when the client's address changes.
#[derive(Debug, Clone)]
pub struct Connection(quinn::Connection);

impl Connection {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self(connection)
    }

    /// Opens a bidirectional stream; waits while the peer allows no more. The peer hears of it with the first
    /// bytes sent. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        Ok(both(self.0.open_bi().await?))
    }

    /// Opens a stream to the peer; otherwise as [`open_bi`](Self::open_bi).
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        Ok(SendStream::new(self.0.open_uni().await?))
    }

    /// The next bidirectional stream of the peer. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended and every stream that had arrived was taken.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        Ok(both(self.0.accept_bi().await?))
    }

    /// The next stream from the peer; otherwise as [`accept_bi`](Self::accept_bi).
    ///
    /// # Errors
    /// If the connection has ended and every stream that had arrived was taken.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        Ok(RecvStream::new(self.0.accept_uni().await?))
    }

    /// Like [`accept_bi`](Self::accept_bi), to be polled. Allocates once, not per stream.
    pub fn bi_acceptor(&self) -> BiAcceptor {
        BiAcceptor(Box::pin(stream::unfold(
            self.0.clone(),
            |connection| async move { Some((connection.accept_bi().await, connection)) },
        )))
    }

    /// Like [`accept_uni`](Self::accept_uni), to be polled.
    pub fn uni_acceptor(&self) -> UniAcceptor {
        UniAcceptor(Box::pin(stream::unfold(
            self.0.clone(),
            |connection| async move { Some((connection.accept_uni().await, connection)) },
        )))
    }

    /// Like [`open_bi`](Self::open_bi), to be polled.
    pub fn bi_opener(&self) -> BiOpener {
        BiOpener(Box::pin(stream::unfold(
            self.0.clone(),
            |connection| async move { Some((connection.open_bi().await, connection)) },
        )))
    }

    /// Like [`open_uni`](Self::open_uni), to be polled.
    pub fn uni_opener(&self) -> UniOpener {
        UniOpener(Box::pin(stream::unfold(
            self.0.clone(),
            |connection| async move { Some((connection.open_uni().await, connection)) },
        )))
    }

    /// Queues an unreliable datagram; drops the oldest waiting ones if there is no room.
    ///
    /// # Errors
    /// [`DatagramError`]; the datagram was not queued.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        Ok(self.0.send_datagram(data)?)
    }

    /// The next datagram from the peer. Cancel-safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        Ok(self.0.read_datagram().await?)
    }

    /// The longest datagram the path carries now, bytes; `None` if datagrams are not in use.
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.0.max_datagram_size()
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
        match self.0.handshake_data()?.downcast::<Seen>() {
            Ok(seen) => Some((seen.data, seen.handshake)),
            Err(other) => Some((*other.downcast::<HandshakeData>().ok()?, None)),
        }
    }

    /// The peer's certificates, its own first; `None` if it showed none.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.0
            .peer_identity()?
            .downcast::<Vec<CertificateDer<'static>>>()
            .ok()
            .map(|certs| *certs)
    }

    /// The peer's address now; a client's may change.
    pub fn remote_addr(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// A number that no other open connection of this process has.
    pub fn stable_id(&self) -> usize {
        self.0.stable_id()
    }

    /// Whether this side made the connection.
    pub fn is_client(&self) -> bool {
        self.0.side().is_client()
    }

    /// The state of the path.
    pub fn path(&self) -> PathStats {
        let stats = self.0.stats();
        PathStats {
            rtt: stats.path.rtt,
            rtt_min: stats.path.min_rtt,
            cwnd: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            congestion_events: stats.path.congestion_events,
        }
    }

    /// Closes the connection at once with this application code. What is queued is not sent, and what the peer
    /// has not read may be lost: the side that received last should close. Codes of 2^62 and above are sent as
    /// 2^62 − 1; a reason beyond about 1 KiB is cut.
    pub fn close(&self, code: u64, reason: &[u8]) {
        self.0.close(wire_code(code), reason);
    }

    /// Waits for the end of the connection. Cancel-safe.
    pub async fn closed(&self) -> ConnectionError {
        self.0.closed().await.into()
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.close_reason().map(Into::into)
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
    /// Congestion window, bytes.
    pub cwnd: u64,
    /// Largest UDP payload found to pass, bytes.
    pub mtu: u16,
    /// Packets sent on the current path.
    pub sent_packets: u64,
    /// Packets of those that were declared lost.
    pub lost_packets: u64,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Times the congestion window was cut.
    pub congestion_events: u64,
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
