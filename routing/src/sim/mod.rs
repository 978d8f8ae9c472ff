//! A mesh of 50 to 1,000 edges in virtual time: what lookups cost, what deaths, loss and partitions do to them.
//!
//! It drives the code that a node runs ([`crate`]'s own) and puts the world around it: cities with their real places, round trips
//! between them ([`Matrix`]), messages that take time, are lost or never arrive ([`Wire`]), events in virtual time
//! ([`Queue`]), and plain Kademlia as the yardstick ([`kademlia`]). All of it follows from a seed.
//!
//! `cargo run --release -p stoq-routing --features sim --example simulate` prints the table. The feature `sim` has no part in what a node is built
//! of.

mod bars;
mod churn;
mod cities;
mod draw;
mod earth;
mod edges;
mod figures;
pub mod kademlia;
mod learn;
mod lookups;
mod matrix;
mod mesh;
mod partitions;
mod queue;
mod seals;
mod wire;

pub use bars::{Plan, Yardstick};
pub use churn::{Churn, Churned, churn};
pub use cities::{CABLES, CITIES, City, Land};
pub use earth::{Compared, against_measured, round_trips_ms};
pub use edges::Edges;
pub use figures::{Bar, Figure, Section, Times};
pub use learn::{Learning, estimated, lost_by_choosing_ms};
pub use lookups::{Deaths, Ended, Knowledge, Lookups, Setting, look_up, lookups};
pub use matrix::{Matrix, MatrixError, NODES_MAX, Place, Regions};
pub use mesh::{Mesh, Unsettled};
pub use partitions::{Partitions, partitions};
pub use queue::Queue;
pub use seals::{Seal, Seals};
pub use wire::Wire;

/// The seed of a test: `STOQ_SEED`, else this one. Printed, so that a failure can be seen again.
#[cfg(test)]
fn seed(default: u64) -> u64 {
    let seed = std::env::var("STOQ_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(default);
    println!("STOQ_SEED={seed}");
    seed
}
