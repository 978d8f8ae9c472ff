//! The fuzz targets of `fuzz/` for the transport, on their corpora and on seeded changes of them.

#![expect(clippy::unwrap_used, reason = "a corpus that cannot be read fails")]

/// Takes any bytes.
type Target = fn(&[u8]);

#[expect(
    unreachable_pub,
    reason = "part of a library of its own for the fuzzer"
)]
#[path = "../../fuzz/src/changes.rs"]
mod changes;
#[expect(
    unreachable_pub,
    reason = "part of a library of its own for the fuzzer"
)]
#[path = "../../fuzz/src/transport.rs"]
mod targets;

#[test]
fn corpora_and_changes_of_them_hold_the_claims_of_their_targets() {
    changes::hold(&targets::TARGETS);
}
