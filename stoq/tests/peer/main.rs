//! Nodes that talk to each other over real loopback sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod cluster;
mod early;
mod exchanges;
mod forms;
mod join;
mod pools;
mod refusals;
mod relay;
mod rotation;
mod trust;
mod versions;
