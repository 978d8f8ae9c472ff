//! QUIC between machines: identity, pooling, exchanges and honest path statistics.
//!
//! | module | what it is |
//! |---|---|
//! | [`transport`] | the seam: what carries links between nodes, chosen at run time |
//! | [`quic`] | the endpoint: sockets, TLS, admission, connections, streams |
//! | [`identity`] | who a node is, and how two nodes prove it to each other |
//! | [`join`] | how a node without papers gets them, for a one-time token |
//! | [`wire`] | the protocol between nodes, as a codec without I/O |
//! | [`datagram`] | their header, and that none counts twice |
//! | [`early`] | resumption, and what may be said before the handshake's end |
//! | [`hello`] | what two nodes settle first |
//! | [`peer`] | exchanges: asking and answering |
//! | [`path`] | what a path is like, and what follows from it |
//! | [`pool`] | one connection to each peer |
//! | [`shape`] | how much a node sends, and who goes first |

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod counter;
pub mod datagram;
pub mod early;
#[cfg(feature = "h3")]
pub mod h3;
pub mod hello;
pub mod identity;
pub mod join;
pub mod path;
pub mod peer;
pub mod pool;
pub mod quic;
pub mod shape;
pub mod transport;
pub mod wire;
