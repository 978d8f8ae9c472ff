//! QUIC between machines: identity, pooling, exchanges and honest path statistics.
//!
//! | module | what it is |
//! |---|---|
//! | [`quic`] | the endpoint: sockets, TLS, admission, connections, streams |
//! | [`identity`] | who a node is, and how two nodes prove it to each other |
//! | [`wire`] | the protocol between nodes, as a codec without I/O |
//! | [`hello`] | what two nodes settle first |
//! | [`peer`] | exchanges: asking and answering |
//! | [`pool`] | one connection to each peer |
//! | [`shape`] | how much a node sends, and who goes first |

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod counter;
#[cfg(feature = "h3")]
pub mod h3;
pub mod hello;
pub mod identity;
pub mod peer;
pub mod pool;
pub mod quic;
pub mod shape;
pub mod wire;
