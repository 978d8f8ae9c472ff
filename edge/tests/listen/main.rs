//! The listeners over real sockets, in front of a service that does what its paths say.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]
mod alt_svc;
mod bodies;
mod bounds;
mod client;
mod drain;
mod express;
mod requests;
mod rig;
mod scripted;
mod slow;
