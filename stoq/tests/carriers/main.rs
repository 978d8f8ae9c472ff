//! The carriers behind the seam: a network in memory, TCP, the fallback to it, and pools in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[expect(
    dead_code,
    reason = "the cluster is that of the tests over QUIC, which use more of it"
)]
#[path = "../peer/cluster.rs"]
mod cluster;
mod ends;
mod fallback;
mod memory;
mod pool;
mod tcp;
