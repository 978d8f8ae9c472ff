//! Cutting a body into chunks while it arrives.
//!
//! The chunker holds what it was given, as it was given, until the cut is known; then it copies the
//! chunk's bytes once, into a buffer of exactly their number. So a chunk in a store pins no receive
//! buffer, and the cuts depend on the bytes alone, never on how they were split on the way.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::{
    cut,
    profile::{Cuts, Profile},
};

/// Pieces shorter than this are gathered before they are queued, so the queue has a bound.
const GATHER_BYTES: usize = 512;

/// Cuts one body into chunks.
///
/// Push pieces, taking chunks after each until there is none; then [`finish`](Self::finish) and
/// take the rest. The chunks concatenate to the pieces.
///
/// Memory: the pieces not yet given out as chunks are held, and pin the buffers they are slices
/// of. If chunks are taken after each push that is less than [`Profile::chunk_bytes_max`] bytes, in at most
/// `chunk_bytes_max / 256` pieces, and the last piece pushed. Each byte is copied once; bytes of
/// pieces under 512 bytes twice.
#[derive(Debug)]
pub struct Chunker {
    cuts: Cuts,
    /// Not empty, in order. Before them nothing, after them `gathered`.
    pieces: VecDeque<Bytes>,
    /// Short pieces that came last. Shorter than `GATHER_BYTES`.
    gathered: Vec<u8>,
    /// Bytes in `pieces` and `gathered`.
    pending: usize,
    finished: bool,
}

impl Chunker {
    /// A chunker for one body.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            cuts: profile.cuts(),
            pieces: VecDeque::new(),
            gathered: Vec::new(),
            pending: 0,
            finished: false,
        }
    }

    /// Adds the next bytes of the body. Empty pieces change nothing.
    ///
    /// # Panics
    /// After [`finish`](Self::finish): the cuts already given out would be wrong.
    pub fn push(&mut self, piece: Bytes) {
        assert!(!self.finished, "a finished body gets no more bytes");
        self.pending += piece.len();
        if piece.len() < GATHER_BYTES {
            self.gathered.extend_from_slice(&piece);
            if self.gathered.len() >= GATHER_BYTES {
                self.queue_gathered();
            }
        } else {
            self.queue_gathered();
            self.pieces.push_back(piece);
        }
    }

    /// Says that the body is complete: [`next_chunk`](Self::next_chunk) then gives the rest.
    pub fn finish(&mut self) {
        self.queue_gathered();
        self.finished = true;
    }

    /// The next chunk, in a buffer of its own of exactly its size; `None` until more bytes are
    /// pushed or, after [`finish`](Self::finish), for good. Never empty.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let decided = match self.cuts {
            Cuts::Every { len } => len,
            Cuts::Content { max, .. } => max,
        };
        if self.pending == 0 || (self.pending < decided && !self.finished) {
            return None;
        }
        self.queue_gathered();
        let len = match self.cuts {
            Cuts::Every { len } => len.min(self.pending),
            Cuts::Content { min, max } => {
                cut::first_cut(self.pieces.iter(), self.pending, min, max)
            }
        };
        Some(self.take(len))
    }

    /// Bytes pushed and not yet given out.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.pending
    }

    fn queue_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces
                .push_back(Bytes::from(std::mem::take(&mut self.gathered)));
        }
    }

    /// Copies the first `len` pending bytes out. The one copy of the chunker.
    fn take(&mut self, len: usize) -> Bytes {
        self.pending -= len;
        let mut chunk = Vec::with_capacity(len);
        while let Some(piece) = self.pieces.front_mut() {
            let part = piece.len().min(len - chunk.len());
            chunk.extend_from_slice(&piece[..part]);
            if part < piece.len() {
                piece.advance(part);
                break;
            }
            self.pieces.pop_front();
            if chunk.len() == len {
                break;
            }
        }
        debug_assert_eq!((chunk.len(), chunk.capacity()), (len, len));
        Bytes::from(chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::ChunkKey;

    const PROFILES: [Profile; 4] = [
        Profile::Single,
        Profile::Fine,
        Profile::Coarse,
        Profile::Fixed,
    ];

    /// Chunks of `bytes` pushed in pieces of the given lengths, over and over.
    fn chunks(profile: Profile, bytes: &Bytes, pieces: &[usize]) -> Vec<Bytes> {
        let mut chunker = Chunker::new(profile);
        let mut out = Vec::new();
        let mut rest = bytes.clone();
        let mut lengths = pieces.iter().cycle();
        while !rest.is_empty() {
            let len = lengths
                .next()
                .map_or(rest.len(), |&len| len.min(rest.len()));
            chunker.push(rest.split_to(len));
            out.extend(std::iter::from_fn(|| chunker.next_chunk()));
            assert!(chunker.pending_bytes() < profile.chunk_bytes_max());
        }
        chunker.finish();
        out.extend(std::iter::from_fn(|| chunker.next_chunk()));
        assert_eq!(chunker.pending_bytes(), 0);
        out
    }

    /// Bytes of a seed, which any implementation can make again: `next = next × 6364136223846793005
    /// + 1442695040888963407` modulo 2⁶⁴, the highest byte of each.
    fn noise(seed: u64, len: usize) -> Bytes {
        let mut next = seed;
        (0..len)
            .map(|_| {
                next = next
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                next.to_be_bytes()[0]
            })
            .collect()
    }

    /// The rule of `cut` in its plainest form, over the whole object at once.
    fn cuts_by_the_rule(bytes: &[u8], min: usize, max: usize) -> Vec<usize> {
        let value = |end: usize| {
            let window: [u8; 4] = bytes[end - 4..end].try_into().unwrap();
            u32::from_le_bytes(window)
                .wrapping_mul(0x915f_77f5)
                .wrapping_add(0x3463_6463)
        };
        let (mut lens, mut start) = (Vec::new(), 0);
        while start < bytes.len() {
            let left = bytes.len() - start;
            let len = if left <= min {
                left
            } else {
                (min..=max.min(left))
                    .min_by_key(|len| value(start + len))
                    .unwrap()
            };
            lens.push(len);
            start += len;
        }
        lens
    }

    fn lens(chunks: &[Bytes]) -> Vec<usize> {
        chunks.iter().map(Bytes::len).collect()
    }

    /// Bodies that are noise, one repeated byte, or short words, as texts are.
    fn body() -> impl Strategy<Value = Bytes> {
        let len = 0..300_000usize;
        prop_oneof![
            (any::<u64>(), len.clone()).prop_map(|(seed, len)| noise(seed, len)),
            (any::<u8>(), len.clone()).prop_map(|(byte, len)| vec![byte; len].into()),
            (any::<u64>(), len).prop_map(|(seed, len)| {
                let letters = noise(seed, len);
                letters
                    .iter()
                    .map(|byte| b"etao n"[usize::from(byte % 6)])
                    .collect()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cuts_do_not_depend_on_how_the_body_is_split(
            body in body(),
            pieces in prop::collection::vec(
                prop_oneof![1..4usize, 1..600usize, 1_000..2_000usize, 1..100_000usize], 1..8
            ),
        ) {
            for profile in PROFILES {
                let whole = chunks(profile, &body, &[]);
                prop_assert_eq!(&chunks(profile, &body, &pieces), &whole);
                prop_assert_eq!(whole.concat(), body.to_vec());
            }
        }

        #[test]
        fn content_defined_cuts_are_those_of_the_rule(
            body in body(), pieces in prop::collection::vec(1..5_000usize, 1..8)
        ) {
            let fine = lens(&chunks(Profile::Fine, &body, &pieces));
            prop_assert_eq!(fine, cuts_by_the_rule(&body, 8 * 1024, 24 * 1024));
            let coarse = lens(&chunks(Profile::Coarse, &body, &[]));
            prop_assert_eq!(coarse, cuts_by_the_rule(&body, 32 * 1024, 96 * 1024));
        }

        #[test]
        fn chunks_own_buffers_of_exactly_their_size(
            body in body(), piece in 1..100_000usize
        ) {
            for profile in PROFILES {
                for chunk in chunks(profile, &body, &[piece]) {
                    let len = chunk.len();
                    let own = chunk.try_into_mut();
                    prop_assert_eq!(own.map(|own| own.capacity()), Ok(len));
                    prop_assert!(0 < len && len <= profile.chunk_bytes_max());
                }
            }
        }

        #[test]
        fn an_insertion_changes_few_chunks(seed: u64, at: prop::sample::Index, byte: u8) {
            let old = noise(seed, 1 << 20);
            let mut new = old.to_vec();
            new.insert(at.index(old.len()), byte);
            let key = ChunkKey::derive(&[0; 32], "test");
            let held: Vec<_> = chunks(Profile::Fine, &old, &[]).iter().map(|c| key.id(c)).collect();
            let missing = chunks(Profile::Fine, &new.into(), &[])
                .iter()
                .filter(|chunk| !held.contains(&key.id(chunk)))
                .count();
            prop_assert!(missing <= 8, "{} of {} chunks", missing, held.len());
        }
    }

    // The cuts are a protocol. If this fails, so do dedupe and delta between two builds: restore the
    // cuts, or raise `PROFILE_VERSION`.
    #[test]
    fn cuts_match_the_golden_vector() {
        let body = noise(1, 200_000);
        assert_eq!(lens(&chunks(Profile::Fine, &body, &[])), GOLDEN_FINE);
        assert_eq!(lens(&chunks(Profile::Coarse, &body, &[])), GOLDEN_COARSE);
        let equal = Bytes::from(vec![0; 50_000]);
        assert_eq!(
            lens(&chunks(Profile::Fine, &equal, &[])),
            [8192, 8192, 8192, 8192, 8192, 8192, 848],
            "the earliest of equal windows"
        );
    }
    const GOLDEN_FINE: &[usize] = &[
        23319, 16716, 10559, 24094, 23358, 16225, 17924, 10517, 13913, 11162, 22577, 8287, 1349,
    ];
    const GOLDEN_COARSE: &[usize] = &[98046, 44666, 47652, 9636];

    #[test]
    fn fixed_chunks_are_addressable_by_offset() {
        let lens = lens(&chunks(Profile::Fixed, &noise(2, 600_000), &[7_000]));
        assert_eq!(lens, [262_144, 262_144, 75_712]);
    }

    #[test]
    fn a_body_longer_than_declared_keeps_the_bound_of_single() {
        let lens = lens(&chunks(Profile::Single, &noise(3, 20_000), &[1_000]));
        assert_eq!(lens, [16_384, 3_616]);
    }

    #[test]
    fn an_empty_body_has_no_chunk() {
        for profile in PROFILES {
            assert!(chunks(profile, &Bytes::new(), &[]).is_empty());
        }
    }

    #[test]
    fn tiny_pieces_are_held_in_a_bounded_queue() {
        let mut chunker = Chunker::new(Profile::Coarse);
        for _ in 0..90_000 {
            chunker.push(Bytes::from_static(b"x"));
            assert!(chunker.next_chunk().is_none());
        }
        assert!(chunker.pieces.len() <= 96 * 1024 / GATHER_BYTES);
    }

    #[test]
    fn chunks_do_not_keep_the_buffers_they_came_in() {
        let body = noise(4, 100_000);
        let mut chunker = Chunker::new(Profile::Fine);
        chunker.push(body.clone());
        chunker.finish();
        let kept: Vec<_> = std::iter::from_fn(|| chunker.next_chunk()).collect();
        assert!(body.is_unique(), "{} chunks", kept.len());
    }
}
