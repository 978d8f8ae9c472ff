//! Connections over links of known properties: hosts out of network namespaces, shaped and delayed by the lab of
//! `stoq-bench netlab`. They need root; without it each says SKIPPED, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.
//!
//! A few short cells run with the other tests. All of them take a quarter of an hour, and want a quiet machine and an
//! optimised build:
//!
//! ```sh
//! cargo test --release -p integration --test links -- --include-ignored --nocapture
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, also in its own functions"
)]

mod lab;
mod mtu;
mod shaped;
mod transfer;
