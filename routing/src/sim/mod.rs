//! A mesh of 50 to 1,000 edges in virtual time: what lookups cost, what deaths, loss and partitions do to them.
//!
//! It drives the code that a node runs ([`crate`]'s own) and puts the world around it: cities with their real places, round trips
//! between them ([`Matrix`]), messages that take time, are lost or never arrive ([`Wire`]), events in virtual time
//! ([`Queue`]), and plain Kademlia as the yardstick ([`kademlia`]). All of it follows from a seed.
//!
//! `cargo run --release -p stoq-routing --features sim --example simulate` prints the table. The feature `sim` has no part in what a node is built
//! of.

mod cities;
mod draw;
mod earth;
mod edges;
mod figures;
pub mod kademlia;
mod matrix;
mod queue;
mod wire;

pub use cities::{CABLES, CITIES, City, Land};
pub use earth::{Compared, against_measured, round_trips_ms};
pub use edges::Edges;
pub use figures::{Bar, Figure, Section, Times};
pub use matrix::{Matrix, MatrixError, NODES_MAX, Place, Regions};
pub use queue::Queue;
pub use wire::Wire;
