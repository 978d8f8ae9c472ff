//! The fuzz targets of `fuzz/` for what nodes read of each other, on their corpora and on seeded changes of them.

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
#[path = "../../fuzz/src/mesh.rs"]
mod targets;

#[test]
fn corpora_and_changes_of_them_hold_the_claims_of_their_targets() {
    changes::hold(&targets::TARGETS);
}
