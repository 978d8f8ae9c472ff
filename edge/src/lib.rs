//! The edge server: HTTP/3, HTTP/2 and HTTP/1.1 in front of a chunked cache.
//!
//! [`Edge::start`] runs one in this process; the binary `stoq-edge` is a command line around it.

pub mod alt_svc;
mod certificates;
pub mod cli;
mod edge;
mod index;
mod keep;
pub mod listen;
mod mesh;
mod peers;
mod prepared;
mod serve;
pub mod service;
mod state;
mod steering;
pub mod tls;
mod worker;
mod xdp;

pub use certificates::DevTls;
pub use edge::{Bound, Edge, Running};
pub use prepared::{Prepared, StartError};
pub use state::StateError;
