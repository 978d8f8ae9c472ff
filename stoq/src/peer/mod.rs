//! Exchanges between nodes: a request and its answer, each with a body of any length.
//!
//! [`PeerServer`] takes connections from other nodes and hands each request to a [`Handler`]. A [`PeerConn`],
//! dialled or taken from a [`Pool`](crate::pool::Pool), starts exchanges. Both directions of an exchange are the
//! same pair of types: what is said goes into a [`SendHalf`], what is heard comes out of a [`RecvHalf`].
//!
//! Invariants: a message that was not finished is an error to its reader, never an end. Whoever drops a half of an
//! exchange tells the other side. Nothing is read ahead of its reader, so that memory is bounded by
//! the transport's windows ([`TransportConfig`](crate::quic::TransportConfig)), and a slow reader slows its writer.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | time for handshake, hello, first frame of a request | [`ServeConfig`], [`DialConfig`] | closed or reset with its code, counted |
//! | exchanges handled at once on a connection | [`ServeConfig::exchanges`] | the next stream waits |
//! | messages handled at once on a connection | [`ServeConfig::messages`] | the next stream waits |
//! | datagrams that wait | the transport's, in each direction | the oldest are dropped |
//! | a control payload | 64 KiB | refused before it is sent; a protocol error when received |
//! | unread bytes of one exchange | [`TransportConfig::stream_window`](crate::quic::TransportConfig::stream_window) | its writer waits |
//! | unread bytes of all exchanges of a connection | [`TransportConfig::connection_window`](crate::quic::TransportConfig::connection_window) | all its writers wait |
//!
//! The last line means that as many unread exchanges as there are stream windows in the connection window (eight,
//! by default) hold up all others to that peer. Who keeps exchanges unread on purpose gives the endpoint a connection
//! window of that many stream windows.

mod ask;
mod conn;
mod counters;
mod datagrams;
mod early;
mod error;
mod exchange;
mod frames;
mod greet;
mod handler;
mod kinds;
mod serve;
mod server;
mod streaming;
mod told;
mod witness;

pub use ask::Ask;
pub use conn::{DialConfig, PeerConn};
pub use counters::PeerCounters;
pub use datagrams::{DatagramCounters, Datagrams, SendDatagramError};
pub use error::{ExchangeError, PeerError};
pub use exchange::{Exchange, Part, RecvHalf, SendHalf};
pub use greet::PeerInfo;
pub use handler::{Handler, IncomingMessage, IncomingRequest};
pub use kinds::KindRules;
pub use server::{PeerServer, ServeConfig};
pub use streaming::{Feed, Messages};
pub(crate) use witness::Witness;
