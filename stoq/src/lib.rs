//! QUIC between machines: identity, pooling, exchanges and honest path statistics.
//!
//! | module | what it is |
//! |---|---|
//! | [`transport`] | the seam: what carries links between nodes, chosen at run time |
//! | [`quic`] | the endpoint: sockets, TLS, admission, connections, streams |
//! | [`identity`] | who a node is, and how two nodes prove it to each other |
//! | [`wire`] | the protocol between nodes, as a codec without I/O |
//! | [`hello`] | what two nodes settle first |
//! | [`peer`] | exchanges: asking and answering |
//! | [`path`] | what a path is like, and what follows from it |
//! | [`pool`] | one connection to each peer |

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod counter;
#[cfg(feature = "h3")]
pub mod h3;
pub mod hello;
pub mod identity;
pub mod path;
pub mod peer;
pub mod pool;
pub mod quic;
pub mod transport;
pub mod wire;
