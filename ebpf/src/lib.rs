//! Load shed at the NIC: an XDP program that knows QUIC, and a selector of sockets.
//!
//! The programs are restricted C in `bpf/`; their compiled objects are beside them and in [`object`]. What they and
//! their loader agree on is [`abi`].

pub mod abi;
pub mod object;
