//! Objects that are updated while a run goes on, and what an answer must then be.
//!
//! # The body of a version
//! | bytes | what |
//! |---|---|
//! | 16 | `stoq-bench body\n` |
//! | 32 | the object's key: of its path and the run's seed |
//! | 8 | number of the version, from 1, big-endian |
//! | 32 | BLAKE3 of the key, the number and the payload |
//! | the rest | payload, made from key and number |
//!
//! So each body says which version it is, and shows whether it is all of that version: half of one and half of another, or of
//! another object, has another hash.
//!
//! # What is right
//! A version that was acknowledged before a GET began, or a later one that was sent. While nothing was acknowledged
//! also what was there before the run, whatever it is. One PUT is under way at a time; one that failed is never
//! followed by another, for it might still arrive after it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

const MAGIC: &[u8; 16] = b"stoq-bench body\n";
const HEAD_BYTES: usize = 16 + 32 + 8 + 32;
/// Least bytes of a version: its head, and a payload.
pub const VERSION_BYTES_MIN: u64 = 128;
/// Most bytes of a version: each is made in memory.
pub(super) const VERSION_BYTES_MAX: u64 = 64 << 20;

/// What is known of the versions of one object, shared by all threads.
#[derive(Debug)]
pub struct Versions {
    key: [u8; 32],
    length: u64,
    /// The latest that was made to be sent.
    sent: AtomicU64,
    /// The latest the server said it has. 0: none.
    acknowledged: AtomicU64,
    /// From when one is made until it is acknowledged; for ever if it is not.
    under_way: AtomicBool,
}

/// By identity: two that know the same know it of two objects.
impl PartialEq for Versions {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Versions {}

impl Versions {
    pub(super) fn new(path: &str, length: u64, seed: u64) -> Self {
        let mut key = blake3::Hasher::new_derive_key("stoq-bench 2026-11-21 versions v1");
        key.update(&seed.to_le_bytes());
        key.update(path.as_bytes());
        Self {
            key: *key.finalize().as_bytes(),
            length,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            under_way: AtomicBool::new(false),
        }
    }

    /// Bytes of each version.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The body of the next version; `None` while one is under way.
    pub(super) fn next(&self) -> Option<Bytes> {
        if self.under_way.swap(true, Ordering::AcqRel) {
            return None;
        }
        let number = self.sent.fetch_add(1, Ordering::AcqRel) + 1;
        Some(self.body(number))
    }

    fn body(&self, number: u64) -> Bytes {
        let length = usize::try_from(self.length).unwrap_or(HEAD_BYTES);
        let mut payload = vec![0; length.saturating_sub(HEAD_BYTES)];
        let mut source = blake3::Hasher::new_keyed(&self.key);
        source.update(&number.to_be_bytes());
        source.finalize_xof().fill(&mut payload);
        let mut hasher = self.hasher(number);
        hasher.update(&payload);
        let mut body = BytesMut::with_capacity(length);
        body.put_slice(MAGIC);
        body.put_slice(&self.key);
        body.put_u64(number);
        body.put_slice(hasher.finalize().as_bytes());
        body.put_slice(&payload);
        body.freeze()
    }

    fn hasher(&self, number: u64) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.key);
        hasher.update(&number.to_be_bytes());
        hasher
    }

    /// The server has taken the update under way.
    pub(crate) fn acknowledge(&self) {
        // One is under way at a time, so the latest sent is the one.
        let number = self.sent.load(Ordering::Acquire);
        self.acknowledged.fetch_max(number, Ordering::AcqRel);
        self.under_way.store(false, Ordering::Release);
    }

    /// For the answer to a GET that begins now.
    pub(crate) fn expect(&self) -> Body {
        Body {
            floor: self.acknowledged.load(Ordering::Acquire),
            head: Vec::new(),
            hasher: None,
            got: 0,
        }
    }

    /// Reads the number in a head, or says what is wrong with it.
    fn number(&self, head: &[u8]) -> Result<(u64, [u8; 32]), &'static str> {
        let none = "it is no version of any object";
        let rest = head.strip_prefix(MAGIC).ok_or(none)?;
        let (key, rest) = rest.split_first_chunk::<32>().ok_or(none)?;
        let (number, rest) = rest.split_first_chunk::<8>().ok_or(none)?;
        let (hash, _) = rest.split_first_chunk::<32>().ok_or(none)?;
        if *key != self.key {
            return Err("it is a version of another object or of another run");
        }
        Ok((u64::from_be_bytes(*number), *hash))
    }
}

/// An answer, as it comes.
#[derive(Debug)]
pub struct Body {
    /// Acknowledged before it was asked for.
    floor: u64,
    head: Vec<u8>,
    hasher: Option<blake3::Hasher>,
    got: u64,
}

impl Body {
    /// The next bytes.
    pub(crate) fn take(&mut self, versions: &Versions, mut piece: &[u8]) {
        self.got = self.got.saturating_add(piece.len() as u64);
        if self.hasher.is_none() {
            let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(piece.len());
            let (first, rest) = piece.split_at(missing);
            self.head.extend_from_slice(first);
            piece = rest;
            if self.head.len() == HEAD_BYTES {
                let number = versions.number(&self.head).map_or(0, |(number, _)| number);
                self.hasher = Some(versions.hasher(number));
            }
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
    }

    /// The end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn end(self, versions: &Versions) -> Result<(), String> {
        let floor = self.floor;
        let (number, hash) = match versions.number(&self.head) {
            Ok(read) => read,
            // What was there before the run is anything.
            Err(_) if floor == 0 => return Ok(()),
            Err(why) => return Err(format!("{why}, version {floor} was acknowledged")),
        };
        let whole = self
            .hasher
            .is_some_and(|hasher| hasher.finalize().as_bytes() == &hash);
        if !whole || self.got != versions.length {
            return Err(format!(
                "{} bytes that begin like version {number} and are not all of it",
                self.got
            ));
        }
        let sent = versions.sent.load(Ordering::Acquire);
        if number > sent {
            return Err(format!("version {number}, which was never sent"));
        }
        if number < floor {
            return Err(format!(
                "version {number}, and {floor} was acknowledged before it was asked for"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(versions: &Versions, body: Body, bytes: &[u8]) -> Result<(), String> {
        let mut body = body;
        for piece in bytes.chunks(61) {
            body.take(versions, piece);
        }
        body.end(versions)
    }

    #[test]
    fn an_answer_may_be_what_was_acknowledged_or_later_and_never_older() {
        let versions = Versions::new("/x", 1000, 1);
        let before = versions.expect();
        assert_eq!(judge(&versions, before, b"whatever"), Ok(()));
        let first = versions.next().unwrap();
        assert_eq!(first.len(), 1000);
        assert!(versions.next().is_none(), "one at a time");
        let during = versions.expect();
        versions.acknowledge();
        let second = versions.next().unwrap();
        // Sent and not acknowledged: old and new are right, and so is what was there when it was asked for.
        assert_eq!(judge(&versions, versions.expect(), &first), Ok(()));
        assert_eq!(judge(&versions, versions.expect(), &second), Ok(()));
        assert_eq!(judge(&versions, during, b"whatever"), Ok(()));
        let asked_before = versions.expect();
        versions.acknowledge();
        assert_eq!(judge(&versions, asked_before, &first), Ok(()));
        let stale = judge(&versions, versions.expect(), &first).unwrap_err();
        assert!(stale.contains("version 1, and 2"), "{stale}");
        assert!(judge(&versions, versions.expect(), &[0; 1000]).is_err());
        assert!(judge(&versions, versions.expect(), b"").is_err());
    }

    #[test]
    fn a_version_nobody_sent_or_of_another_object_is_wrong() {
        let (one, two) = (Versions::new("/x", 500, 1), Versions::new("/y", 500, 1));
        for versions in [&one, &two] {
            versions.next().unwrap();
            versions.acknowledge();
        }
        let never = judge(&one, one.expect(), &one.body(2)).unwrap_err();
        assert!(never.contains("never sent"), "{never}");
        let other = judge(&one, one.expect(), &two.body(1)).unwrap_err();
        assert!(other.contains("another object"), "{other}");
    }

    proptest! {
        #[test]
        fn a_body_with_any_byte_changed_or_of_two_versions_is_wrong(
            length in VERSION_BYTES_MIN..5_000, place: prop::sample::Index, cut: prop::sample::Index,
            flip in 1..=255_u8,
        ) {
            let versions = Versions::new("/x", length, 7);
            let first = versions.next().unwrap();
            versions.acknowledge();
            let second = versions.next().unwrap();
            versions.acknowledge();
            prop_assert_eq!(judge(&versions, versions.expect(), &second), Ok(()));
            let mut flipped = second.to_vec();
            flipped[place.index(second.len())] ^= flip;
            prop_assert!(judge(&versions, versions.expect(), &flipped).is_err());
            let cut = cut.index(second.len() - HEAD_BYTES) + HEAD_BYTES;
            prop_assert!(judge(&versions, versions.expect(), &second[..cut]).is_err());
            let mixed = [&second[..cut], &first[cut..]].concat();
            prop_assert!(judge(&versions, versions.expect(), &mixed).is_err());
        }
    }
}
