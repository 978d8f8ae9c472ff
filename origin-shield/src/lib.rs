//! The origin shield: one fetch for a whole cluster.
//!
//! Edges ask it over STOQ for what they lack; it collapses their requests, cuts objects into chunks, keeps them, and asks the
//! origin. It speaks no HTTP to clients.

mod cli;
mod shield;
mod source;

pub use cli::main;
pub use shield::{Prepared, Running, Shield, StartError};
