//! The only QUIC endpoint of the house: sockets, TLS, connection IDs, admission, connections and streams.
//!
//! A server process opens one [`SocketGroup`] per address and hands one [`WorkerSocket`] to each of its
//! workers; every worker builds its own [`Endpoint`] on its own current-thread runtime. The kernel steers each
//! datagram to the worker named in its connection ID, so a connection stays on one thread for life, also when
//! the client's address changes. A client needs only [`Endpoint::client`].
//!
//! What it is not: it knows neither HTTP nor STOQ. Protocols are ALPN values on one kind of [`Connection`].
//!
//! No type of the QUIC implementation below appears in this API: streams carry [`Bytes`](bytes::Bytes), codes
//! are `u64`, errors are enums of this module. `rustls` is the house's vocabulary for TLS and is allowed in
//! [`TlsServer`] and [`TlsClient`]. So the driver underneath can be replaced without touching a caller.
//!
//! ```no_run
//! # use std::io;
//! use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, Steering, TlsServer};
//!
//! # fn start(tls: TlsServer) -> io::Result<()> {
//! let group = SocketGroup::bind("[::1]:8443".parse().unwrap(), 4, &SocketOptions::default())?;
//! if let Steering::SingleSocket { reason } = group.steering() {
//!     eprintln!("one worker serves every QUIC connection: {reason}");
//! }
//! let mut config = EndpointConfig::new(CidKeys::random());
//! config.server = Some(tls);
//! // On worker 2, inside its runtime:
//! if let Some(socket) = group.take(2) {
//!     let endpoint = Endpoint::new(socket, config)?;
//!     tokio::spawn(async move {
//!         while let Some(connecting) = endpoint.accept().await {
//!             tokio::spawn(async move {
//!                 let connection = connecting.establish().await?;
//!                 let (mut send, mut recv) = connection.accept_bi().await?;
//!                 // …
//!                 # Ok::<_, stoq::quic::ConnectError>(())
//!             });
//!         }
//!     });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections of an endpoint | [`AdmissionLimits::max_connections`] | refused, counted |
//! | connections of an IPv4 address or IPv6 /64, of an endpoint or of several together | [`AdmissionLimits::max_per_prefix`], [`EndpointConfig::prefixes`] | Retry from half of it on, then refused; counted |
//! | handshakes in progress | [`AdmissionLimits::retry_above`], [`AdmissionLimits::max_handshakes`] | Retry, then refused; counted |
//! | time of a handshake | [`AdmissionLimits::handshake_timeout`] | closed, counted |
//! | streams, bytes in flight | [`TransportConfig`] | the peer waits (flow control) |
//! | receive buffer of an endpoint | 32 × 64 KiB, about 2.1 MB (twice that above an `mtu_max` of 32,767) | the kernel's socket buffer, then loss |

mod adapt;
mod admission;
mod cid;
mod congestion;
mod connection;
mod counters;
mod drops;
mod early;
mod endpoint;
mod error;
mod handshake;
mod prefix;
mod screen;
mod socket;
mod steering;
mod stream;
mod tls;
mod transport;
mod udp;

pub use crate::counter::Counter;
pub use adapt::PathSnapshot;
pub use admission::AdmissionLimits;
pub use cid::{CID_LEN, CidKeys};
pub use connection::{BiAcceptor, BiOpener, Connection, PathStats, UniAcceptor, UniOpener};
pub use counters::Counters;
pub use early::HandshakeEnd;
pub use endpoint::{Connecting, EarlyData, Endpoint, EndpointConfig};
pub use error::{ConnectError, ConnectionError, DatagramError, ReadError, TlsError, WriteError};
pub use handshake::Handshake;
pub use prefix::{PrefixPlace, Prefixes};
pub use screen::{Alarm, Screen};
pub use socket::{SocketGroup, SocketOptions, Steering, WorkerSocket};
pub use stream::{RecvStream, SendStream};
pub use tls::{TlsClient, TlsServer};
pub use transport::TransportConfig;
