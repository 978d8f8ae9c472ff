//! Connections over links of known properties: hosts out of network namespaces, shaped and delayed by the lab of
//! `stoq-bench netlab`. They need root; without it each says SKIPPED, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.
//!
//! A few short cells run with the other tests. `STOQ_LINKS=full` runs all of them, which takes a quarter of an hour and
//! wants a quiet machine and an optimised build:
//!
//! ```sh
//! STOQ_LINKS=full cargo test --release -p integration --test links -- --nocapture
//! ```

mod lab;
mod mtu;
mod shaped;
mod transfer;
