//! Bodies with a seed: any part of them can be made, and checked, without holding the whole.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// `len` incompressible bytes that depend on `seed` alone.
#[must_use]
pub fn random(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

/// The seed of this run: `STOQ_TEST_SEED`, else one from the operating system. Printed, so that a failure can be repeated.
///
/// # Panics
/// When `STOQ_TEST_SEED` is set and no number.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("STOQ_TEST_SEED") {
        Ok(text) => text.parse().expect("STOQ_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("seed {seed} (set STOQ_TEST_SEED to repeat)");
    seed
}

/// Pieces of 64 KiB, `total` bytes in all, each made when asked for; the same `seed` gives the same bytes.
pub fn pieces(seed: u64, total: u64) -> impl Iterator<Item = Bytes> + Send {
    const PIECE: u64 = 64 * 1024;
    (0..total.div_ceil(PIECE)).map(move |index| {
        let len = usize::try_from(PIECE.min(total - index * PIECE)).expect("at most 64 KiB");
        random(seed.wrapping_add(index), len)
    })
}
