//! Who is in the mesh: gossip between the edges of a cluster, by chitchat over STOQ, and the view that comes of it.
//!
//! Each node says where it is and how it fares; the word travels from node to node ([Scuttlebutt], van Renesse et al. 2008), and so does a heartbeat, from which each
//! node concludes who lives (the φ accrual failure detector, Hayashibara et al. 2004). [chitchat] is the engine of that, at a version that lets another transport than its own carry it.
//!
//! | file | what it is |
//! |---|---|
//! | `frame` | a message as it travels, compressed |
//! | `transport` | sends and takes them, bounded |
//! | `wire`, `gate` | what came in, judged: a node's word is what it has signed |
//! | `papers` | whose key is whose |
//! | `room` | how many processes chitchat is told of |
//! | `engine` | chitchat kept running, its nodes made into a view, this node's word kept up |
//! | `living` | for how long a process that is silent counts as alive |
//! | `generation` | which process of a node is the latest |
//! | `places`, `srv`, `mdns` | where to look for others |
//! | `report` | what an operator is told |
//!
//! What holds: a view has only nodes of this cluster that said themselves what it says of them, the latest thing they said, and that are not revoked now. That a node lives is what
//! some member says; see `gate` for what a dishonest one can do with that.
//!
//! [Scuttlebutt]: https://www.cs.cornell.edu/home/rvr/papers/flowgossip.pdf
//! [chitchat]: https://docs.rs/chitchat

mod engine;
mod frame;
mod gate;
mod generation;
mod living;
mod mdns;
mod metrics;
mod papers;
mod places;
pub mod report;
mod room;
mod srv;
#[cfg(test)]
mod tests;
mod transport;
mod wire;

pub use engine::{Gossip, GossipConfig, pool_config};
pub use frame::GOSSIP;
#[doc(hidden)]
pub use frame::reframed;
pub use mdns::Mdns;
#[doc(hidden)]
pub use mdns::heard;
pub use metrics::{GossipMetrics, PassedOver, Reason};
pub use papers::{Papers, node_id};
pub use places::Places;
#[doc(hidden)]
pub use wire::rewritten;
