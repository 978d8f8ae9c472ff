//! What can go wrong between two nodes, and whose doing it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::hello::HelloRefusal;
use crate::identity::{IdentityError, Refusal};
use crate::transport::{ConnectError, ConnectionError, ReadError, WriteError};
use crate::wire::{CloseCode, EncodeError, StreamCode, WireError};

/// Why there is no connection to a peer.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// We refuse the peer for its certificates.
    #[error("{addr}: refused: {refusal}")]
    Refused {
        /// The peer's address.
        addr: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// We refuse the peer for its hello.
    #[error("{addr}: refused: {refusal}")]
    Hello {
        /// The peer's address.
        addr: SocketAddr,
        /// Why.
        refusal: HelloRefusal,
    },
    /// The peer refuses us.
    #[error("{addr} refuses us: {code}: {reason}")]
    RefusedByPeer {
        /// The peer's address.
        addr: SocketAddr,
        /// Why, as its code says.
        code: CloseCode,
        /// Why, in its words.
        reason: String,
    },
    /// The network or the peer did not answer in time.
    #[error("{addr}: no connection within {limit:?}")]
    Timeout {
        /// The peer's address.
        addr: SocketAddr,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection could not be made.
    #[error("{addr}: {source}")]
    Connect {
        /// The peer's address.
        addr: SocketAddr,
        /// Why.
        source: ConnectError,
    },
    /// Our own identity cannot be used.
    #[error(transparent)]
    Identity(Arc<IdentityError>),
}

impl PeerError {
    /// Whether one of the two stands on the other's revocation list.
    pub(crate) const fn is_revocation(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                refusal: Refusal::Revoked { .. },
                ..
            } | Self::RefusedByPeer {
                code: CloseCode::Revoked,
                ..
            }
        )
    }

    /// What a connection's end means while it is being set up.
    pub(super) fn ended(addr: SocketAddr, error: ConnectionError) -> Self {
        match meaning(&error) {
            Some((code, reason)) => Self::RefusedByPeer { addr, code, reason },
            None => Self::Connect {
                addr,
                source: error.into(),
            },
        }
    }
}

/// The code by which the peer ended the connection, if it is one of ours, and its words.
fn meaning(error: &ConnectionError) -> Option<(CloseCode, String)> {
    match error {
        ConnectionError::Closed { code, reason } => Some((
            CloseCode::of(*code)?,
            String::from_utf8_lossy(reason).into_owned(),
        )),
        ConnectionError::TransportClosed {
            code,
            reason,
            by_peer: true,
        } => Some((CloseCode::of_transport(*code)?, reason.clone())),
        ConnectionError::TransportClosed { .. }
        | ConnectionError::TimedOut
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::Version
        | ConnectionError::Exhausted => None,
    }
}

/// Why an exchange did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The other side gave the exchange up: it reset or stopped the stream.
    #[error("given up by the peer: {}", stream_code(*code))]
    Cancelled {
        /// The stream's code; see [`StreamCode`].
        code: u64,
    },
    /// The other side says why its message will never be whole.
    #[error("the peer reports error {code}: {text}")]
    Remote {
        /// The application's number.
        code: u32,
        /// For people; chosen by the peer.
        text: String,
    },
    /// The time for the exchange is over. Both halves were given up.
    #[error("the deadline has passed")]
    Deadline,
    /// The other side broke the protocol.
    #[error("protocol error by the peer: {0}")]
    Protocol(#[from] WireError),
    /// What was to be sent does not fit a frame. The fault is the caller's; nothing was sent.
    #[error(transparent)]
    TooLarge(EncodeError),
    /// The version agreed on with the peer has no such thing. Nothing was sent.
    #[error("the peer's version is too old: {0}")]
    TooOld(EncodeError),
    /// The peer is going away and takes no further exchange; nothing was sent.
    #[error("the peer is draining")]
    Draining,
    /// All streams that the peer allows stayed in use; nothing was sent.
    #[error("no stream became free within {0:?}")]
    NoStream(Duration),
    /// The peer's certificates are no longer valid; nothing was sent.
    #[error("the peer's certificate has expired since the connection was made")]
    Expired,
    /// The peer was put on the revocation list; nothing was sent.
    #[error("the peer has been revoked since the connection was made")]
    Revoked,
    /// The message was finished or given up before, by this side.
    #[error("already finished")]
    Finished,
}

impl ExchangeError {
    /// Whether the peer has certainly seen nothing of the request, so that it can be sent again elsewhere
    /// whatever it asks for.
    #[must_use]
    pub fn not_sent(&self) -> bool {
        matches!(
            self,
            Self::Draining
                | Self::NoStream(_)
                | Self::Expired
                | Self::Revoked
                | Self::TooLarge(_)
                | Self::TooOld(_)
        )
    }
}

impl From<EncodeError> for ExchangeError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Length { .. } => Self::TooLarge(error),
            EncodeError::Version { .. } => Self::TooOld(error),
        }
    }
}

impl From<ReadError> for ExchangeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Cancelled { code },
            ReadError::Connection(error) => Self::Connection(error),
            // What was not taken early is sent anew on other streams; nobody reads from these.
            ReadError::Stopped | ReadError::TooLong { .. } | ReadError::EarlyDataRejected => {
                Self::Finished
            }
        }
    }
}

impl From<WriteError> for ExchangeError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Cancelled { code },
            WriteError::Connection(error) => Self::Connection(error),
            WriteError::Finished | WriteError::EarlyDataRejected => Self::Finished,
        }
    }
}

fn stream_code(code: u64) -> String {
    StreamCode::of(code).map_or_else(|| format!("code {code:#x}"), |known| known.to_string())
}
