//! The seam between what nodes say to each other and what carries it.
//!
//! A [`Transport`] makes and takes [`Link`]s; a link is a connection between two nodes that have shown each other
//! their certificates, with streams, datagrams and a state of its path. [`peer`](crate::peer) and
//! [`pool`](crate::pool) know nothing else of the network, so which carrier is used is chosen at run time:
//!
//! | carrier | what it is | for |
//! |---|---|---|
//! | [`quic::Endpoint`](crate::quic::Endpoint) | QUIC, on the house's own sockets | everything |
//! | [`tcp::Tcp`] | TLS over TCP, streams multiplexed by this crate | networks that do not let UDP through |
//! | [`fallback::Fallback`] | two of them, the second where the first does not get through | who does not know the network |
//! | [`memory::Memory`] | a seeded network in memory, in virtual time | tests |
//!
//! What holds for every carrier: mutual TLS 1.3 with the configurations of
//! [`Identity`](crate::identity::Identity), so whoever is refused, is refused with the same code; a writer waits for its
//! reader, stream by stream and over the whole link; a half that is dropped before its end is an error at the other side,
//! never an end; a link's end has a code and a reason.
//!
//! Streams are read and written by `poll_*` calls that hand over [`Bytes`]: one virtual call, no allocation and no copy for
//! a chunk. Opening a stream allocates three times: the future that waits for it and its two halves.
//!
//! The words for what goes wrong are those of [`quic`](crate::quic), which QUIC's RFC defines and the other carriers can
//! say too.

pub mod fallback;
mod links;
pub mod memory;
mod mux;
mod quic;
pub mod tcp;
mod tls;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;

use crate::quic::TransportConfig;

#[doc(hidden)]
pub use mux::reframe;

pub use crate::quic::{
    ConnectError, ConnectionError, DatagramError, EarlyData, Handshake, HandshakeEnd, PathSnapshot,
    PathStats, ReadError, WriteError,
};

/// What carries a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Carrier {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP, for networks that do not let UDP through.
    Tcp,
    /// A network in this process's memory, for tests.
    Memory,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Memory => "memory",
        })
    }
}

/// Whom to connect to, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The peer's address: of the UDP port for QUIC, of the TCP port of the same number for TCP.
    pub addr: SocketAddr,
    /// The name to ask for; [`SERVER_NAME`](crate::identity::SERVER_NAME) between nodes.
    pub server_name: &'static str,
    /// Certificates, verifier and ALPN. Must speak TLS 1.3 and name at least one ALPN protocol.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Makes and takes links. One object is one place in the network: it is used from the runtime it was made on.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Connects. Waits as long as the carrier's own timeouts allow; wrap it in a timeout to wait less. Dropping the
    /// future abandons the attempt.
    ///
    /// A link is kept alive by its maker: one that carries nothing does not end for that.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the address, the name, the peer or the network was at fault.
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>>;

    /// Connects, and gives the link before the handshake's end where the carrier can and `target` has a ticket that allows
    /// it: what is sent first then travels with the first packets, and can be sent again by whoever saw them. This
    /// version, for carriers that cannot: as [`connect`](Self::connect).
    ///
    /// # Errors
    /// As [`connect`](Self::connect). With early data a handshake that fails later shows on the link.
    fn connect_early(&self, target: Target) -> BoxFuture<'_, Result<EarlyLink, ConnectError>> {
        Box::pin(async move { Ok((self.connect(target).await?, EarlyData::default())) })
    }

    /// The next newcomer that was let in, its handshake under way. `None` once the transport is closed, and always on one
    /// that only connects. Cancel-safe.
    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>>;

    /// Takes no more newcomers from now on; they are refused, each with an answer. Open links go on.
    fn stop_accepting(&self);

    /// The address of this place in the network.
    ///
    /// # Errors
    /// As `getsockname`.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// What it carries and has carried.
    fn stats(&self) -> TransportStats;

    /// Closes every link with this application code and takes no more.
    fn close(&self, code: u64, reason: &[u8]);

    /// Waits until no link is left, those included that still tell their peer of their end.
    fn wait_idle(&self) -> BoxFuture<'_, ()>;
}

/// Counts of one [`Transport`] since it was made. Its own counters say more; these all transports have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TransportStats {
    /// Links in any state, those under way and those that are ending included.
    pub links: u64,
    /// Attempts of this side to connect; each ends in one of the next two, unless it is abandoned.
    pub connects_started: u64,
    /// Those that ended in a link.
    pub connects_completed: u64,
    /// Those that failed.
    pub connects_failed: u64,
}

/// A newcomer whose handshake is under way.
pub trait Incoming: fmt::Debug + Send {
    /// Its address; over QUIC not proven before the handshake ends.
    fn remote_addr(&self) -> SocketAddr;

    /// Waits for the end of the handshake, which the transport bounds in time. Dropping the future abandons it.
    ///
    /// # Errors
    /// What the handshake failed of.
    fn establish(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Link>, ConnectError>>;

    /// The link before the end of its handshake, where the carrier can; else, as this version does, after it. Until the
    /// end is reached, what is read may be a recording of what the peer once sent.
    ///
    /// # Errors
    /// As [`establish`](Self::establish), of what is waited for here.
    fn establish_early(self: Box<Self>) -> BoxFuture<'static, Result<UnprovenLink, ConnectError>> {
        let establishing = self.establish();
        Box::pin(async move { Ok((establishing.await?, HandshakeEnd::default())) })
    }
}

/// A link of this side that may be before its handshake's end, and what becomes of what was sent by then.
pub type EarlyLink = (Arc<dyn Link>, EarlyData);

/// A newcomer's link that may be before its handshake's end, and that end.
pub type UnprovenLink = (Arc<dyn Link>, HandshakeEnd);

/// Both halves of a bidirectional stream.
pub type BiStream = (Box<dyn SendStream>, Box<dyn RecvStream>);

/// An established connection between two nodes. When it and all its streams are gone, it is closed with code 0.
pub trait Link: fmt::Debug + Send + Sync {
    /// Opens a bidirectional stream; waits while the peer allows no more. The peer hears of it with the first bytes sent.
    /// Cancel-safe.
    ///
    /// # Errors
    /// If the link has ended.
    fn open_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>>;

    /// Opens a stream to the peer; otherwise as [`open_bi`](Self::open_bi).
    ///
    /// # Errors
    /// If the link has ended.
    fn open_uni(&self) -> BoxFuture<'_, Result<Box<dyn SendStream>, ConnectionError>>;

    /// The next bidirectional stream of the peer, in the order in which they were opened. Cancel-safe.
    ///
    /// # Errors
    /// If the link has ended and every stream that had arrived was taken.
    fn accept_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>>;

    /// The next stream from the peer; otherwise as [`accept_bi`](Self::accept_bi).
    ///
    /// # Errors
    /// As [`accept_bi`](Self::accept_bi).
    fn accept_uni(&self) -> BoxFuture<'_, Result<Box<dyn RecvStream>, ConnectionError>>;

    /// Queues a datagram; drops the oldest waiting ones if there is no room. Over QUIC it may be lost.
    ///
    /// # Errors
    /// [`DatagramError`]; the datagram was not queued.
    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError>;

    /// The next datagram from the peer. Cancel-safe.
    ///
    /// # Errors
    /// If the link has ended.
    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>>;

    /// The longest datagram that can be sent now, bytes; `None` if datagrams are not in use, or it is not known yet whether the peer
    /// takes them.
    fn max_datagram_size(&self) -> Option<usize>;

    /// Whether this side takes datagrams, unless it is known that the peer does not. Known as soon as the link is.
    fn takes_datagrams(&self) -> bool;

    /// The application protocol both sides agreed on.
    fn alpn(&self) -> Option<Vec<u8>>;

    /// The peer's certificates, its own first; `None` if it showed none.
    fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>>;

    /// How the handshake of a link that this side made began. `None` before its end, and on the other side.
    fn handshake(&self) -> Option<Handshake>;

    /// The peer's address now; over QUIC a client's may change.
    fn remote_addr(&self) -> SocketAddr;

    /// Whether this side made the link.
    fn is_client(&self) -> bool;

    /// What carries it.
    fn carrier(&self) -> Carrier;

    /// The state of the path. What a carrier cannot know is 0.
    fn path(&self) -> PathStats;

    /// What is known of the path, where the link adapts to it and it was measured. `None`, as this version says, for links that do
    /// not.
    fn snapshot(&self) -> Option<PathSnapshot> {
        None
    }

    /// How many streams a large transfer should use at once, so that no stream's window holds it back. 1, as this version says, where
    /// that is not known.
    fn streams(&self) -> u16 {
        1
    }

    /// Closes the link at once with this application code. What is queued is not sent, and what the peer has not read
    /// may be lost: the side that received last should close. Codes of 2^62 and above are sent as 2^62 − 1; a reason
    /// beyond about 1 KiB is cut.
    fn close(&self, code: u64, reason: &[u8]);

    /// Waits for the end of the link. Cancel-safe.
    fn closed(&self) -> BoxFuture<'_, ConnectionError>;

    /// Why the link ended, if it has.
    fn close_reason(&self) -> Option<ConnectionError>;
}

/// The writing half of a stream. Dropped before [`finish`](Self::finish), it is reset.
pub trait SendStream: fmt::Debug + Send + Sync {
    /// Writes some of `chunks` without copying, as much as the windows allow. Ready with the bytes written; written
    /// chunks are left empty, a chunk written in part keeps its rest. Pending has written nothing.
    ///
    /// # Errors
    /// If the peer stopped the stream, the link ended, or the stream was finished.
    fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>>;

    /// Ends the stream: the peer will read what was written and then the end.
    ///
    /// # Errors
    /// [`WriteError::Finished`] if it was finished or reset before.
    fn finish(&mut self) -> Result<(), WriteError>;

    /// Abandons the stream with this application code: the peer sees an error, not an end. Nothing happens if it had
    /// ended.
    fn reset(&mut self, code: u64);

    /// The code with which a dropped unfinished stream is reset. Default 0.
    fn set_drop_code(&mut self, code: u64);

    /// Waits until the peer stops the stream (`Some` with its code), or all of a finished stream has arrived (`None`;
    /// over TCP already when it was handed to the system). The future borrows nothing, so it can be raced against whoever
    /// owns the stream. Cancel-safe.
    fn stopped(&self) -> BoxFuture<'static, Result<Option<u64>, WriteError>>;

    /// Data of streams with a higher priority is sent first. Default 0. Few different values are best. Nothing happens
    /// if the stream has ended.
    fn set_priority(&self, priority: i32);

    /// The stream's number on its link.
    fn id(&self) -> u64;
}

/// The reading half of a stream. Dropped before its end was reached, it asks the peer to stop.
pub trait RecvStream: fmt::Debug + Send + Sync {
    /// The next bytes, at most `max`, without copying; `None` at the end of the stream. Where chunks begin and end
    /// means nothing.
    ///
    /// # Errors
    /// If the peer reset the stream, the link ended, or the stream was stopped. After an error what was read is a
    /// fragment.
    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>>;

    /// Asks the peer to stop sending, with this application code; what has arrived is discarded. Nothing happens if
    /// the stream has ended.
    fn stop(&mut self, code: u64);

    /// The code with which the peer of a dropped unread stream is asked to stop. Default 0.
    fn set_drop_code(&mut self, code: u64);

    /// The stream's number on its link.
    fn id(&self) -> u64;

    /// Whether the stream was opened in early data, which an attacker can replay.
    fn is_0rtt(&self) -> bool;
}

impl dyn SendStream {
    /// Writes all of `chunks` without copying. Not cancel-safe: a dropped future may have written a part, which shows
    /// in `chunks`.
    ///
    /// # Errors
    /// As [`poll_write_chunks`](SendStream::poll_write_chunks).
    pub async fn write_all_chunks(&mut self, mut chunks: &mut [Bytes]) -> Result<(), WriteError> {
        loop {
            let written = chunks.iter().take_while(|chunk| chunk.is_empty()).count();
            chunks = chunks.get_mut(written..).unwrap_or_default();
            if chunks.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| self.poll_write_chunks(cx, chunks)).await?;
        }
    }
}

impl dyn RecvStream {
    /// [`poll_read_chunk`](RecvStream::poll_read_chunk), awaited. Cancel-safe.
    ///
    /// # Errors
    /// As [`poll_read_chunk`](RecvStream::poll_read_chunk).
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.poll_read_chunk(cx, max)).await
    }
}

/// The idle timeout of a carrier that keeps it itself. No longer than can be counted.
fn idle_timeout(config: &TransportConfig) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    config.idle_timeout.min(YEAR)
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>> {
        (**self).connect(target)
    }

    fn connect_early(&self, target: Target) -> BoxFuture<'_, Result<EarlyLink, ConnectError>> {
        (**self).connect_early(target)
    }

    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>> {
        (**self).accept()
    }

    fn stop_accepting(&self) {
        (**self).stop_accepting();
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        (**self).local_addr()
    }

    fn stats(&self) -> TransportStats {
        (**self).stats()
    }

    fn close(&self, code: u64, reason: &[u8]) {
        (**self).close(code, reason);
    }

    fn wait_idle(&self) -> BoxFuture<'_, ()> {
        (**self).wait_idle()
    }
}
