//! An edge under a flood: two hosts with a veth pair between them, the edge as a process on one, its clients and 200,000 spoofed Initials
//! a second on the other. What clients get of it with nothing, with the limiter at the sockets, and with the program at the
//! interface.
//!
//! They need root and `stoq-edge` beside the tests; without either each says SKIPPED, and fails with
//! `STOQ_REQUIRE_PRIVILEGED=1`. Small ones that assert facts and no figures run with the other tests. The table wants a quiet machine
//! and an optimised build, and takes three minutes:
//!
//! ```sh
//! cargo build --release -p stoq-edge
//! cargo test --release -p integration --test flood -- --ignored --nocapture
//! ```
//!
//! # What is compared with what
//!
//! Generator, edge and clients share the processors, so goodput at full speed would say how much of them the generator takes,
//! not what the flood does to clients. Therefore downloads are paced by their clients, well below what the edge can serve, and
//! the question is whether each gets the rate it asks for. Goodput is compared with two runs of the same edge: one without a flood,
//! and one in which the same frames are sent at the same rate to a port on which nobody listens, which costs the generator and
//! the kernel's way to that port and nothing else. The edge starts anew for each run. A newcomer is in when its handshake
//! is complete and a small object has come within three seconds; one that is known came from its address before, one
//! that is unknown never did.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, also in its own functions"
)]

mod clients;
mod edge;
#[path = "../../../ebpf/tests/kit/frame.rs"]
#[expect(
    dead_code,
    reason = "the frames of another suite, of which a few are sent here"
)]
mod frame;
#[path = "../../../ebpf/tests/kit/generator.rs"]
mod generator;
mod lab;
mod moving;
mod spoofer;
mod table;
