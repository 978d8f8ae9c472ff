//! What can go wrong on a connection or a stream, and whose doing it was.
//!
//! Each enum is owned by this crate; the conversions below are the only place that knows the errors of the QUIC
//! implementation.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn::VarInt;
use thiserror::Error;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer's application closed the connection.
    #[error("closed by the peer with code {code:#x}: {}", String::from_utf8_lossy(.reason))]
    Closed {
        /// The application's code.
        code: u64,
        /// The reason as sent: bytes chosen by the peer, not necessarily text.
        reason: Bytes,
    },
    /// One of the two transports closed the connection: a violated rule, a failed handshake, a refusal.
    #[error("transport error {code:#x} found by {}: {reason}", if *.by_peer { "the peer" } else { "us" })]
    TransportClosed {
        /// A code of RFC 9000 section 20.1; TLS alerts are `0x100 + alert`.
        code: u64,
        /// Explanation, for people.
        reason: String,
        /// `true` if the peer found the error (and so blames us).
        by_peer: bool,
    },
    /// Nothing arrived for the idle timeout.
    #[error("timed out")]
    TimedOut,
    /// The peer no longer knows the connection, as after a restart.
    #[error("stateless reset by the peer")]
    Reset,
    /// Closed by this side.
    #[error("closed locally")]
    LocallyClosed,
    /// No common QUIC version.
    #[error("the peer speaks no QUIC version we know")]
    Version,
    /// No connection IDs left.
    #[error("connection IDs exhausted")]
    Exhausted,
}

impl ConnectionError {
    /// Whether the server turned this connection away at the door (full or draining): another node may take it.
    pub fn is_refused(&self) -> bool {
        //= https://www.rfc-editor.org/rfc/rfc9000#section-20.1
        //# CONNECTION_REFUSED (0x02):  The server refused to accept a new connection.
        matches!(
            self,
            Self::TransportClosed {
                code: 0x02,
                by_peer: true,
                ..
            }
        )
    }
}

impl From<quinn::ConnectionError> for ConnectionError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::VersionMismatch => Self::Version,
            quinn::ConnectionError::TransportError(e) => Self::TransportClosed {
                code: u64::from(e.code),
                reason: e.to_string(),
                by_peer: false,
            },
            quinn::ConnectionError::ConnectionClosed(e) => Self::TransportClosed {
                code: u64::from(e.error_code),
                reason: e.to_string(),
                by_peer: true,
            },
            quinn::ConnectionError::ApplicationClosed(e) => Self::Closed {
                code: e.error_code.into_inner(),
                reason: e.reason,
            },
            quinn::ConnectionError::Reset => Self::Reset,
            quinn::ConnectionError::TimedOut => Self::TimedOut,
            quinn::ConnectionError::LocallyClosed => Self::LocallyClosed,
            quinn::ConnectionError::CidsExhausted => Self::Exhausted,
        }
    }
}

/// Why a connection could not be established.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// This endpoint is closed.
    #[error("the endpoint is closed")]
    EndpointClosed,
    /// The address cannot be reached from this socket: port 0, unspecified, or of the other family.
    #[error("cannot connect to {0} from this socket")]
    Address(SocketAddr),
    /// The server name is neither a DNS name nor an IP address.
    #[error("invalid server name {0:?}")]
    ServerName(String),
    /// The handshake did not finish within [`AdmissionLimits::handshake_timeout`](super::AdmissionLimits).
    #[error("the handshake took longer than allowed")]
    HandshakeTimeout,
    /// The TLS configuration cannot be used for QUIC.
    #[error(transparent)]
    Tls(TlsError),
    /// The operating system says that there is no way to the peer, or nobody there.
    #[error("{message}")]
    Io {
        /// What kind of failure.
        kind: std::io::ErrorKind,
        /// The system's words.
        message: String,
    },
    /// The handshake failed or was refused.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl ConnectError {
    pub(super) fn start(error: quinn::ConnectError) -> Self {
        match error {
            quinn::ConnectError::InvalidServerName(name) => Self::ServerName(name),
            quinn::ConnectError::InvalidRemoteAddress(addr) => Self::Address(addr),
            quinn::ConnectError::CidsExhausted => Self::Connection(ConnectionError::Exhausted),
            quinn::ConnectError::UnsupportedVersion => Self::Connection(ConnectionError::Version),
            // We always give the configuration with the call.
            quinn::ConnectError::EndpointStopping | quinn::ConnectError::NoDefaultClientConfig => {
                Self::EndpointClosed
            }
        }
    }
}

/// Why a read ended before the end of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer abandoned the stream with this code; what was read so far is a fragment.
    #[error("stream reset by the peer with code {0:#x}")]
    Reset(u64),
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The stream is longer than the caller's limit, in bytes.
    #[error("stream longer than {limit} bytes")]
    TooLong {
        /// The limit given to [`RecvStream::read_to_end`](super::RecvStream::read_to_end).
        limit: usize,
    },
    /// The stream was opened in early data, which the server did not take: nothing of it was seen.
    #[error("the server did not take early data")]
    EarlyDataRejected,
    /// The stream was already stopped by this side.
    #[error("stream already stopped")]
    Stopped,
}

impl From<quinn::ReadError> for ReadError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(code.into_inner()),
            quinn::ReadError::ConnectionLost(e) => Self::Connection(e.into()),
            quinn::ReadError::ZeroRttRejected => Self::EarlyDataRejected,
            // Reads are always ordered, so these two are one.
            quinn::ReadError::ClosedStream | quinn::ReadError::IllegalOrderedRead => Self::Stopped,
        }
    }
}

/// Why a write was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The stream was opened in early data, which the server did not take: nothing of it was seen.
    #[error("the server did not take early data")]
    EarlyDataRejected,
    /// The peer asked us to stop, with this code.
    #[error("stopped by the peer with code {0:#x}")]
    Stopped(u64),
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The stream was already finished or reset by this side.
    #[error("stream already finished")]
    Finished,
}

impl From<quinn::WriteError> for WriteError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(code.into_inner()),
            quinn::WriteError::ConnectionLost(e) => Self::Connection(e.into()),
            quinn::WriteError::ZeroRttRejected => Self::EarlyDataRejected,
            quinn::WriteError::ClosedStream => Self::Finished,
        }
    }
}

impl From<quinn::StoppedError> for WriteError {
    fn from(error: quinn::StoppedError) -> Self {
        match error {
            quinn::StoppedError::ConnectionLost(e) => Self::Connection(e.into()),
            quinn::StoppedError::ZeroRttRejected => Self::EarlyDataRejected,
        }
    }
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The peer does not take datagrams, or this side has them off.
    #[error("datagrams are not in use on this connection")]
    Unsupported,
    /// Longer than [`Connection::max_datagram_size`](super::Connection::max_datagram_size).
    #[error("datagram too large for the path")]
    TooLarge,
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl From<quinn::SendDatagramError> for DatagramError {
    fn from(error: quinn::SendDatagramError) -> Self {
        match error {
            quinn::SendDatagramError::UnsupportedByPeer | quinn::SendDatagramError::Disabled => {
                Self::Unsupported
            }
            quinn::SendDatagramError::TooLarge => Self::TooLarge,
            quinn::SendDatagramError::ConnectionLost(e) => Self::Connection(e.into()),
        }
    }
}

/// Why a TLS configuration cannot be used for QUIC.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// QUIC's first packets are always protected by this suite, so its absence makes QUIC impossible.
    #[error(
        "the TLS configuration lacks TLS_AES_128_GCM_SHA256 over TLS 1.3, which QUIC needs for its first packets"
    )]
    NoInitialCipherSuite,
    /// A server without ALPN would accept any protocol and then misread it.
    #[error("the TLS configuration names no ALPN protocol")]
    NoAlpn,
}

/// A code as QUIC can carry it: codes of 2^62 and above become 2^62 − 1.
pub(super) fn wire_code(code: u64) -> VarInt {
    //= https://www.rfc-editor.org/rfc/rfc9000#section-16
    //# The QUIC variable-length integer encoding reserves the two most
    //# significant bits of the first byte to encode the base-2 logarithm of
    //# the integer encoding length in bytes.
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
