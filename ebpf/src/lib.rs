//! Load shed at the NIC: an XDP program that knows QUIC, a selector of sockets, and a model of both in Rust.
//!
//! The programs are restricted C in `bpf/`; their compiled objects are beside them and in this crate. What they and
//! their loader agree on is [`abi`].

pub mod abi;
