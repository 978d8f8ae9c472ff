//! Connection IDs that name their worker and can be checked without state.
//!
//! ```text
//! byte 0      generation (2 high bits), worker (6 low bits)
//! bytes 1–7   random nonce
//! bytes 8–11  low half of SipHash-2-4 of bytes 0–7 under the generation's key, little-endian
//! ```
//!
//! The kernel steers by byte 0 (see `steering`); a filter in front of us drops spoofed short headers by the tag.
//! `vectors/cid.txt` holds examples for every reader of this layout.
//!
//! The worker is readable by an observer on the path. It says which thread of which machine serves the
//! connection, which the address of a new connection says with the same confidence; the nonce is random, so
//! two IDs of one connection cannot be linked beyond that.

use std::{fmt, hash::Hasher, sync::Arc, time::Duration};

use aws_lc_rs::{hkdf, hmac};
use parking_lot::RwLock;
use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::Rng;
use siphasher::sip::SipHasher24;

/// Length of a connection ID that a server of this crate issues, bytes.
pub const CID_LEN: usize = 12;

/// Bytes that the tag covers.
const HEAD_LEN: usize = 8;

/// Low bits of byte 0.
pub(super) const WORKER_MASK: u8 = 0x3f;

/// The keys under which the workers of one process sign and check connection IDs. Clones share the keys.
///
/// There are two: the current one signs, and the one before it is still accepted, so that keys can change without
/// a break. The same object also holds the secret from which stateless-reset tokens and address-validation tokens
/// are derived, so a token that one worker issued is good on every other.
#[derive(Clone)]
pub struct CidKeys(Arc<Shared>);

struct Shared {
    ring: RwLock<Ring>,
    secret: [u8; 32],
}

#[derive(Clone, Copy)]
struct Ring {
    /// 0..=3, the two high bits of byte 0 of IDs signed now.
    generation: u8,
    current: [u8; 16],
    previous: Option<[u8; 16]>,
}

impl CidKeys {
    /// Fresh random keys: IDs of an earlier process are not recognised.
    pub fn random() -> Self {
        let mut rng = rand::rng();
        let mut secret = [0; 32];
        rng.fill(&mut secret);
        Self::with_secret(0, rng.random(), None, secret)
    }

    /// Given keys, as when a process takes over from another. `generation` counts modulo 4 and belongs to
    /// `current`; `previous` is the key of the generation before.
    ///
    /// The reset and token secret is derived from `current`.
    pub fn new(generation: u8, current: [u8; 16], previous: Option<[u8; 16]>) -> Self {
        let secret = blake3::derive_key(
            "stoq 2026-11 connection id keys: reset and token secret",
            &current,
        );
        Self::with_secret(generation, current, previous, secret)
    }

    fn with_secret(
        generation: u8,
        current: [u8; 16],
        previous: Option<[u8; 16]>,
        secret: [u8; 32],
    ) -> Self {
        let ring = Ring {
            generation: generation & 3,
            current,
            previous,
        };
        Self(Arc::new(Shared {
            ring: RwLock::new(ring),
            secret,
        }))
    }

    /// Makes `key` the current one and keeps the last current one for checking. IDs of the key before that are
    /// no longer recognised; connections that still use one go on, for a live connection's IDs are looked up,
    /// not checked.
    pub fn rotate(&self, key: [u8; 16]) {
        let mut ring = self.0.ring.write();
        *ring = Ring {
            generation: (ring.generation + 1) & 3,
            current: key,
            previous: Some(ring.current),
        };
    }

    /// An ID for `worker` (its 6 low bits) with this nonce, signed by the current key.
    pub fn mint(&self, worker: u8, nonce: [u8; 7]) -> [u8; CID_LEN] {
        let ring = *self.0.ring.read();
        let mut head = [0; HEAD_LEN];
        head[0] = (ring.generation << 6) | (worker & WORKER_MASK);
        head[1..].copy_from_slice(&nonce);
        let mut cid = [0; CID_LEN];
        cid[..HEAD_LEN].copy_from_slice(&head);
        cid[HEAD_LEN..].copy_from_slice(&tag(&ring.current, &head));
        cid
    }

    /// The worker in `cid`, if one of the two keys signed it.
    pub fn check(&self, cid: &[u8]) -> Option<u8> {
        let cid: &[u8; CID_LEN] = cid.try_into().ok()?;
        let (head, signature) = cid.split_first_chunk::<HEAD_LEN>()?;
        let ring = *self.0.ring.read();
        let generation = head[0] >> 6;
        let key = if generation == ring.generation {
            ring.current
        } else if generation == ring.generation.wrapping_sub(1) & 3 {
            ring.previous?
        } else {
            return None;
        };
        // Not in constant time: 32 bits guard a table look-up, not a secret.
        (tag(&key, head) == signature).then_some(head[0] & WORKER_MASK)
    }

    /// The keys by which IDs are good now, each with its generation: for who checks tags before a datagram comes here.
    pub fn by_generation(&self) -> Vec<(u8, [u8; 16])> {
        let ring = *self.0.ring.read();
        let before = ring.generation.wrapping_sub(1) & 3;
        let previous = ring.previous.map(|key| (before, key));
        [(ring.generation, ring.current)]
            .into_iter()
            .chain(previous)
            .collect()
    }

    pub(super) fn generator(&self, worker: u8) -> Generator {
        Generator {
            keys: self.clone(),
            worker,
        }
    }

    /// The key of stateless-reset tokens.
    pub(super) fn reset_key(&self) -> hmac::Key {
        let key = blake3::derive_key("stoq 2026-11 stateless reset", &self.0.secret);
        hmac::Key::new(hmac::HMAC_SHA256, &key)
    }

    /// The key of Retry and NEW_TOKEN tokens.
    pub(super) fn token_key(&self) -> hkdf::Prk {
        let key = blake3::derive_key("stoq 2026-11 address validation token", &self.0.secret);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&key)
    }
}

impl fmt::Debug for CidKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CidKeys")
            .field("generation", &self.0.ring.read().generation)
            .finish_non_exhaustive()
    }
}

fn tag(key: &[u8; 16], head: &[u8; HEAD_LEN]) -> [u8; CID_LEN - HEAD_LEN] {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(head);
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    [a, b, c, d]
}

/// Issues the IDs of one worker.
pub(super) struct Generator {
    keys: CidKeys,
    worker: u8,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.keys.mint(self.worker, rand::rng().random()))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), quinn_proto::InvalidCid> {
        self.keys
            .check(cid)
            .map(|_| ())
            .ok_or(quinn_proto::InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One line per example: worker, generation, key, nonce, ID, all but the first two in hex.
    const VECTORS: &str = include_str!("../../vectors/cid.txt");

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        assert_eq!(text.len(), 2 * N, "{text}");
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn vectors_hold() {
        let lines = VECTORS
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut count = 0;
        for line in lines {
            let fields: Vec<&str> = line.split(' ').collect();
            let [worker, generation, key, nonce, cid] = fields[..] else {
                panic!("{line}")
            };
            let worker: u8 = worker.parse().unwrap();
            let keys = CidKeys::new(generation.parse().unwrap(), hex(key), None);
            let minted = keys.mint(worker, hex(nonce));
            assert_eq!(minted, hex::<CID_LEN>(cid), "{line}: got {minted:02x?}");
            assert_eq!(keys.check(&minted), Some(worker), "{line}");
            count += 1;
        }
        assert!(count >= 8, "{count} vectors");
    }

    /// The function itself, against the table its authors published.
    #[test]
    fn tag_is_the_low_half_of_siphash_2_4() {
        // Key 00..0f, message 00..07: SipHash-2-4 reference output 0x93f5f5799a932462.
        let key = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let head = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(tag(&key, &head), [0x62, 0x24, 0x93, 0x9a]);
    }

    proptest! {
        #[test]
        fn minted_ids_check_and_name_their_worker(
            generation: u8, key: [u8; 16], worker in 0u8..64, nonce: [u8; 7],
        ) {
            let keys = CidKeys::new(generation, key, None);
            let cid = keys.mint(worker, nonce);
            prop_assert_eq!(keys.check(&cid), Some(worker));
            prop_assert_eq!(cid[0], ((generation & 3) << 6) | worker);
            prop_assert_eq!(&cid[1..8], &nonce[..]);
        }

        #[test]
        fn a_changed_bit_is_noticed(key: [u8; 16], worker in 0u8..64, nonce: [u8; 7], bit in 0usize..96) {
            let keys = CidKeys::new(0, key, None);
            let mut cid = keys.mint(worker, nonce);
            cid[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(keys.check(&cid), None);
        }

        #[test]
        fn other_lengths_are_foreign(bytes in proptest::collection::vec(any::<u8>(), 0..21)) {
            prop_assume!(bytes.len() != CID_LEN);
            prop_assert_eq!(CidKeys::new(0, [0; 16], None).check(&bytes), None);
        }

        #[test]
        fn an_id_outlives_one_rotation_and_not_two(
            generation in 0u8..4, keys: [[u8; 16]; 3], worker in 0u8..64, nonce: [u8; 7],
        ) {
            prop_assume!(keys[0] != keys[1] && keys[1] != keys[2]);
            let ring = CidKeys::new(generation, keys[0], None);
            let cid = ring.mint(worker, nonce);
            ring.rotate(keys[1]);
            prop_assert_eq!(ring.check(&cid), Some(worker));
            let known = ring.by_generation();
            prop_assert_eq!(&known, &vec![((generation + 1) & 3, keys[1]), (generation, keys[0])]);
            let newer = ring.mint(worker, nonce);
            ring.rotate(keys[2]);
            prop_assert_eq!(ring.check(&cid), None);
            prop_assert_eq!(ring.check(&newer), Some(worker));
        }
    }

    #[test]
    fn generator_issues_ids_of_its_worker_that_validate_on_every_worker() {
        let keys = CidKeys::random();
        let mut generator = keys.generator(17);
        let cid = generator.generate_cid();
        assert_eq!(cid.len(), generator.cid_len());
        assert!(keys.generator(3).validate(&cid).is_ok());
        assert_eq!(keys.check(&cid), Some(17));
        assert!(CidKeys::random().generator(17).validate(&cid).is_err());
    }
}
