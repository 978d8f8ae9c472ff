//! The hot side of a client: connections on which the same kind of request is made again and again, with as little of the
//! client's own CPU as can be. What a lane does is the protocol; when, how often, and whether the answer was right
//! is its caller's.
//!
//! ```text
//! Dialer ──dial──▶ Conn ──lane──▶ Lane ──exchange(ask, sink)──▶ head and pieces of the answer, to the sink
//! ```

mod content_range;
pub mod h1;
pub mod h2;
pub mod h3;
mod request;
mod sink;
#[cfg(test)]
mod sink_table;
pub mod stoq;
mod tcp;
pub(crate) mod tls;

use std::future::Future;
use std::time::Instant;

pub use self::sink::{Learned, Sink};
use crate::workload::Ask;

/// Makes connections; one for each thread of a run, made inside its runtime.
pub trait Dialer: Send + Sync + 'static {
    /// A connection.
    type Conn: Conn;

    /// Opens connection number `number` (over all threads; chooses the source address). The caller bounds its time.
    ///
    /// # Errors
    /// [`Failure::Connect`] or [`Failure::Handshake`].
    fn dial(&self, number: u32) -> impl Future<Output = Result<Self::Conn, Failure>> + Send;

    /// Datagrams that the kernel dropped at the sockets of this dialer because they were not read in time; 0 for TCP.
    /// `None` where the kernel does not tell of each.
    fn socket_drops(&self) -> Option<u64>;
}

/// A connection.
pub trait Conn: Send + Sync + 'static {
    /// One request at a time.
    type Lane: Lane;

    /// A lane on it. HTTP/1.1 has one a connection.
    fn lane(&self) -> Self::Lane;

    /// How it began.
    fn opened(&self) -> Opened;

    /// Waits until it is closed by whomever, and says why. Cancel safe.
    fn closed(&self) -> impl Future<Output = String> + Send;

    /// Closes it; the peer is told.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// How a connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// When the first packet was about to be sent.
    pub started: Instant,
    /// When requests could be sent.
    pub ready: Instant,
    /// A ticket of an earlier connection was taken by the server. With early data this is known only when the first
    /// answer has come: ask then.
    pub resumed: bool,
    /// The server took what was sent before the handshake's end. Known as late as `resumed`.
    pub early_data: bool,
}

/// Room for one request at a time on a connection.
pub trait Lane: Send + 'static {
    /// Asks, and reads the answer to its end, which is believed only when the protocol's framing says that it is one.
    /// Dropping the future cancels the exchange; the lane may be used again afterwards, or says that it cannot by
    /// failing with [`Failure::Unsent`]. Between two pieces of the body it waits for as long as [`Sink::pace`] says.
    ///
    /// # Errors
    /// What the sink says, or what the connection did.
    fn exchange(
        &mut self,
        ask: &Ask,
        sink: &mut Sink<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why an exchange is no answer. The variants are the error kinds of a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody took the connection.
    #[error("connect: {0}")]
    Connect(String),
    /// TLS or QUIC failed to begin.
    #[error("handshake: {0}")]
    Handshake(String),
    /// The connection ended before the answer did.
    #[error("connection closed: {0}")]
    Closed(String),
    /// The connection is of no use any more, and the server has not acted on this request: nothing was sent (it was closed
    /// between two requests, or an earlier exchange on it was cancelled), or the server said so (GOAWAY). The caller
    /// opens another and asks again; it is no failure of the request until that has gone wrong a few times.
    #[error("connection closed before the request was sent: {0}")]
    Unsent(String),
    /// The server reset the stream, with this code.
    #[error("stream reset with code {0:#x}")]
    Reset(u64),
    /// The body ended before its declared length, or its framing was cut.
    #[error("body cut short or of another length: {got} bytes{}", wanted(*want))]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that were declared or known; `None` where only the framing says that there is more.
        want: Option<u64>,
    },
    /// The bytes are not the object's.
    #[error("wrong body: {0}")]
    Wrong(String),
    /// The status is not one of those that are right.
    #[error("status {0}")]
    Status(u16),
    /// What came is no message of the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The peer says why there is no answer, or not the whole of it: STOQ's ERROR.
    #[error("refused with code {code}: {text}")]
    Refused {
        /// The exchange's number for it.
        code: u32,
        /// The peer's words.
        text: String,
    },
    /// Longer than the plan's timeout.
    #[error("timed out")]
    TimedOut,
}

fn wanted(want: Option<u64>) -> String {
    want.map_or_else(String::new, |want| {
        format!(", {want} were declared or known")
    })
}
