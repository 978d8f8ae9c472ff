//! The provider index between real nodes: asked and answered over STOQ, fed by the cache, and asked first by fills.
//!
//! | file | what it is |
//! |---|---|
//! | `rpc` | asks other nodes: one exchange of kind [`INDEX`] each, on a connection that is held to the node's id |
//! | `server` | answers them, and tells the audit of what no honest node says |
//! | `announce` | what the cache holds, announced and taken back |
//! | `holders` | who holds an object, the best first, for [fills](crate::PeerFills) |
//! | `homes` | which edge of the metro is asked for a small object |
//! | `metrics` | what it comes to |
//!
//! What is said and what follows from it is `stoq_routing::index`; nothing here decides more than whom to believe and whom to ask first.

mod announce;
mod holders;
mod homes;
mod metrics;
mod rpc;
mod server;
#[cfg(test)]
mod tests;

pub use announce::Announcer;
pub use holders::{IndexHolders, Neighbourhood, asks_homes};
pub use metrics::IndexMetrics;
pub use rpc::Asker;
pub use server::IndexServer;

/// Kind of the exchange. Request and reply are heads without a body, as `stoq_routing::index` writes them.
pub const INDEX: u16 = 65;
