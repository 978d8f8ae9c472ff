//! The mesh as processes: the shipped programs on hosts of their own, which network namespaces are, and between them what [`switch`] lets pass. They need root; without it each says
//! SKIPPED, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.
//!
//! The programs are those built beside the tests. What takes minutes is ignored unless asked for:
//!
//! ```sh
//! cargo build -p stoq-edge -p stoq-origin-shield
//! cargo test -p integration --test mesh -- --include-ignored --nocapture
//! ```
//!
//! With `--features sim` lookups are laid beside what the simulator foretells. Rates are judged where neither the switch nor the machine made them; where they did, that is said.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, also in its own functions"
)]

mod clock;
mod fills;
#[cfg(feature = "sim")]
mod lookups;
mod mdns;
mod members;
mod network;
mod nodes;
mod peer;
mod refusals;
mod restarts;
mod switch;
