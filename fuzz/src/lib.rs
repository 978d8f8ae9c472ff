//! What is fuzzed: each target takes any bytes, and holds a decoder to what is said of it. A broken claim is a panic.
//!
//! Run by libFuzzer (`fuzz_targets/`), and in the test suites on the corpora and on changes of them (`tests/fuzzing.rs` of the crates whose decoders
//! they are), which needs no nightly compiler.

pub mod mesh;
pub mod nic;
pub mod transport;

/// Takes any bytes.
pub type Target = fn(&[u8]);
