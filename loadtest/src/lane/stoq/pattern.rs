//! The bytes of bench exchanges: endless, known to both sides from a seed, and never the same twice at the places
//! where a transport cuts.

use bytes::Bytes;

/// The pattern repeats after so many bytes: a prime just below 1 MiB, so that no two frames, packets or windows of a
/// body hold the same bytes and one in the place of another shows.
const PERIOD: usize = 1_048_573;
/// The block goes on for so long behind its period, so that a slice of up to 64 KiB can begin anywhere.
const BEYOND: usize = 64 * 1024;
/// Domain separation of the block's BLAKE3.
const CONTEXT: &str = "stoq-bench 2026-11-21 exchange pattern v1";

/// The pattern of a seed. 1.1 MiB; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Bytes);

impl Pattern {
    /// About a millisecond of work.
    pub(super) fn of(seed: u64) -> Self {
        let mut block = vec![0; PERIOD + BEYOND];
        let mut output = blake3::Hasher::new_derive_key(CONTEXT)
            .update(&seed.to_be_bytes())
            .finalize_xof();
        output.fill(&mut block[..PERIOD]);
        block.copy_within(..BEYOND, PERIOD);
        Self(block.into())
    }

    /// Bytes from place `at` on, without a copy: as many as stand in one piece, at least 64 KiB, but `most`.
    pub(super) fn slice(&self, at: u64, most: u64) -> Bytes {
        let from = place(at);
        let there = self.0.len() - from;
        let length = usize::try_from(most).map_or(there, |most| most.min(there));
        self.0.slice(from..from + length)
    }

    /// Whether `piece` is what stands from `at` on.
    pub(super) fn is_at(&self, at: u64, mut piece: &[u8]) -> bool {
        let mut from = place(at);
        while !piece.is_empty() {
            let there = (self.0.len() - from).min(piece.len());
            let (now, rest) = piece.split_at(there);
            if *now != self.0[from..from + there] {
                return false;
            }
            from = (from + there) % PERIOD;
            piece = rest;
        }
        true
    }
}

fn place(at: u64) -> usize {
    // Below PERIOD, which fits.
    usize::try_from(at % PERIOD as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `length` bytes from `at`, one by one.
    fn bytes(pattern: &Pattern, at: u64, length: u64) -> Vec<u8> {
        (at..at + length).map(|at| pattern.0[place(at)]).collect()
    }

    #[test]
    fn slices_from_anywhere_are_the_pattern() {
        let pattern = Pattern::of(7);
        let period = PERIOD as u64;
        for at in [0, 1, 65_535, period - 1, period, 3 * period - 70_000] {
            let slice = pattern.slice(at, 64 * 1024);
            assert_eq!(slice.len(), 64 * 1024, "{at}");
            assert_eq!(slice, bytes(&pattern, at, 64 * 1024), "{at}");
        }
        let long = bytes(&pattern, 5, 2 * period + 100_000);
        assert!(pattern.is_at(5, &long));
        assert!(!pattern.is_at(6, &long));
    }

    #[test]
    fn a_changed_a_moved_and_a_zeroed_piece_are_told_from_the_right_one() {
        let (pattern, other) = (Pattern::of(1), Pattern::of(2));
        let mut piece = pattern.slice(1000, 5000).to_vec();
        assert!(pattern.is_at(1000, &piece));
        assert!(!other.is_at(1000, &piece));
        assert!(
            !pattern.is_at(1000 + (1 << 20), &piece),
            "one DATA frame further"
        );
        assert!(!pattern.is_at(0, &[0; 100]));
        piece[4999] ^= 1;
        assert!(!pattern.is_at(1000, &piece));
    }
}
