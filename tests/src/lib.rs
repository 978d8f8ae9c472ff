//! Whole clusters on real sockets: a scripted origin, edges and a shield started in this process, clients of each HTTP
//! version. The scenarios themselves are in `tests/`, each named for its claim.

pub mod body;
pub mod cluster;
pub mod origin;
pub mod tools;

pub use cluster::{Cluster, EdgeNode, Running, ShieldNode, metric_in, until};
pub use origin::{Answer, Gate, Origin, Seen};
pub use stoq_loadtest::{Client, Payload, Version};
