//! Datagrams between nodes: what stands in front of the payload, and that none counts twice.
//!
//! Values without I/O: [`Datagram`] is the codec, [`Sequence`] numbers what is sent, [`ReplayWindow`] judges what
//! arrives. The form and the rules are in the [wire document](crate::wire#datagrams). Not here: sockets, and any promise that a
//! datagram arrives.
//!
//! Invariant: of all datagrams with one sequence number a window admits at most one, whatever order they come in.

mod header;
mod sequence;
mod window;

pub use header::{DATAGRAM_HEADER_BYTES, Datagram, DatagramError};
pub use sequence::Sequence;
pub use window::{NotNew, ReplayWindow, WINDOW};
