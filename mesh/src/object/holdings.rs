//! What one edge asks another about what it holds, and the answers. The exchanges stand at the head of `wire.rs`.

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{CHUNKS_MAX, DecodeError, Reader, VERSION, bad, control, put_str};

/// Manifests in one [`Manifests`]: as many as variants are kept of a URL by default.
pub const MANIFESTS_MAX: usize = 16;

/// "Which of these chunks have you?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldingsRequest {
    /// As in [`ObjectRequest`](super::ObjectRequest).
    pub chunk_key_id: [u8; 16],
    /// The site's name: the dedupe domain to look in.
    pub site: String,
    /// Ids, at most [`CHUNKS_MAX`].
    pub chunks: Vec<[u8; 32]>,
}

/// Which of the chunks asked for are held, in that order. A chunk may be gone when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// One for each chunk asked for. On the wire a bit each, the first in the highest bit of the first byte.
    pub held: Vec<bool>,
}

/// "What have you of this URL?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestsRequest {
    /// CacheKey of the URL.
    pub key: [u8; 32],
    /// As in [`ObjectRequest`](super::ObjectRequest).
    pub chunk_key_id: [u8; 16],
    /// The site's name.
    pub site: String,
}

/// What is stored of a URL: the manifests of its variants, at most [`MANIFESTS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifests {
    /// Each once, in no order.
    pub stored: Vec<Stored>,
}

/// An object that a holder has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Root of its manifest.
    pub root: [u8; 32],
    /// Its length in bytes.
    pub total: u64,
    /// Whether all its chunks are held, as far as was looked.
    pub whole: bool,
}

impl HoldingsRequest {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::Value`] with more than [`CHUNKS_MAX`] chunks.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(32 + self.site.len() + self.chunks.len() * 32);
        out.put_u8(VERSION);
        out.put_slice(&self.chunk_key_id);
        put_str(&mut out, "site", self.site.as_bytes())?;
        out.put_u16(count(self.chunks.len())?);
        self.chunks.iter().for_each(|id| out.put_slice(id));
        control(out)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let chunk_key_id = reader.array("chunk key id")?;
        let site = reader.text("site")?;
        let count = counted(&mut reader)?;
        let chunks = (0..count).map(|_| reader.array("chunk id"));
        let chunks = chunks.collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self {
            chunk_key_id,
            site,
            chunks,
        })
    }
}

impl Holdings {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::Value`] with more than [`CHUNKS_MAX`] chunks.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(3 + self.held.len().div_ceil(8));
        out.put_u8(VERSION);
        out.put_u16(count(self.held.len())?);
        for eight in self.held.chunks(8) {
            let bits = eight.iter().zip((0..8).rev());
            out.put_u8(bits.fold(0, |byte, (held, bit)| byte | (u8::from(*held) << bit)));
        }
        control(out)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let count = counted(&mut reader)?;
        let bytes = reader.take("held chunks", count.div_ceil(8))?;
        reader.end()?;
        let bits = bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte & (1 << bit) != 0));
        let (held, beyond): (Vec<_>, Vec<_>) = bits.enumerate().partition(|(at, _)| *at < count);
        if beyond.iter().any(|(_, set)| *set) {
            return Err(bad("held chunks", "a bit beyond the last"));
        }
        Ok(Self {
            held: held.into_iter().map(|(_, held)| held).collect(),
        })
    }
}

impl ManifestsRequest {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::Value`] when the site's name does not fit its length field.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(64 + self.site.len());
        out.put_u8(VERSION);
        out.put_slice(&self.key);
        out.put_slice(&self.chunk_key_id);
        put_str(&mut out, "site", self.site.as_bytes())?;
        control(out)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let request = Self {
            key: reader.array("key")?,
            chunk_key_id: reader.array("chunk key id")?,
            site: reader.text("site")?,
        };
        reader.end()?;
        Ok(request)
    }
}

impl Manifests {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::Value`] with more than [`MANIFESTS_MAX`], or one that is there twice.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        self.each_once()?;
        let count = u8::try_from(self.stored.len())
            .ok()
            .filter(|count| usize::from(*count) <= MANIFESTS_MAX)
            .ok_or_else(|| bad("manifest count", self.stored.len()))?;
        let mut out = BytesMut::with_capacity(2 + self.stored.len() * 41);
        out.put_u8(VERSION);
        out.put_u8(count);
        for stored in &self.stored {
            out.put_slice(&stored.root);
            out.put_u64(stored.total);
            out.put_u8(u8::from(stored.whole));
        }
        control(out)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let count = usize::from(reader.byte("manifest count")?);
        if count > MANIFESTS_MAX {
            return Err(bad("manifest count", count));
        }
        let mut stored = Vec::with_capacity(count);
        for _ in 0..count {
            stored.push(Stored {
                root: reader.array("root")?,
                total: u64::from_be_bytes(reader.array("total length")?),
                whole: reader.flag("whole")?,
            });
        }
        reader.end()?;
        let manifests = Self { stored };
        manifests.each_once()?;
        Ok(manifests)
    }

    /// Who names one twice would count twice.
    fn each_once(&self) -> Result<(), DecodeError> {
        let roots: HashSet<_> = self.stored.iter().map(|stored| stored.root).collect();
        match roots.len() == self.stored.len() {
            true => Ok(()),
            false => Err(bad(
                "manifests, of which some are the same",
                self.stored.len(),
            )),
        }
    }
}

fn count(chunks: usize) -> Result<u16, DecodeError> {
    u16::try_from(chunks)
        .ok()
        .filter(|count| usize::from(*count) <= CHUNKS_MAX)
        .ok_or_else(|| bad("chunk count", chunks))
}

fn counted(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let count = usize::from(u16::from_be_bytes(reader.array("chunk count")?));
    if count > CHUNKS_MAX {
        return Err(bad("chunk count", count));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded_and_to_nothing_longer(
            chunk_key_id: [u8; 16], key: [u8; 32], site in "[a-z.]{0,20}",
            chunks in prop::collection::vec(any::<([u8; 32], bool)>(), 0..100),
            stored in prop::collection::vec(any::<([u8; 32], u64, bool)>(), 0..=MANIFESTS_MAX),
        ) {
            let (ids, held): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
            let asked = HoldingsRequest { chunk_key_id, site: site.clone(), chunks: ids };
            let bytes = asked.encode().unwrap();
            prop_assert_eq!(HoldingsRequest::decode(&bytes).unwrap(), asked);
            prop_assert!(HoldingsRequest::decode(&[&bytes[..], &[0]].concat()).is_err());

            let answer = Holdings { held };
            let bytes = answer.encode().unwrap();
            prop_assert_eq!(Holdings::decode(&bytes).unwrap(), answer);
            prop_assert!(Holdings::decode(&[&bytes[..], &[0]].concat()).is_err());

            let asked = ManifestsRequest { key, chunk_key_id, site };
            let bytes = asked.encode().unwrap();
            prop_assert_eq!(ManifestsRequest::decode(&bytes).unwrap(), asked);
            prop_assert!(ManifestsRequest::decode(&[&bytes[..], &[0]].concat()).is_err());

            let stored = stored.into_iter().map(|(root, total, whole)| Stored { root, total, whole });
            let answer = Manifests { stored: stored.collect() };
            let bytes = answer.encode().unwrap();
            prop_assert_eq!(Manifests::decode(&bytes).unwrap(), answer);
            prop_assert!(Manifests::decode(&[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = HoldingsRequest::decode(&bytes);
            let _ = Holdings::decode(&bytes);
            let _ = ManifestsRequest::decode(&bytes);
            let _ = Manifests::decode(&bytes);
        }
    }

    #[test]
    fn holdings_have_one_encoding() {
        let bytes = Holdings {
            held: vec![true, false, true],
        }
        .encode()
        .unwrap();
        assert_eq!(&bytes[..], [VERSION, 0, 3, 0b1010_0000]);
        let beyond = Holdings::decode(&[VERSION, 0, 3, 0b1011_0000]);
        assert!(beyond.is_err(), "a bit beyond the last");
    }

    #[test]
    fn a_manifest_is_named_once() {
        let stored = |root| Stored {
            root: [root; 32],
            total: 1,
            whole: true,
        };
        let encoded = |roots: &[u8]| {
            let stored = roots.iter().map(|root| stored(*root)).collect();
            Manifests { stored }.encode()
        };
        let good = encoded(&[1, 2]).unwrap();
        assert!(Manifests::decode(&good).is_ok());
        assert!(encoded(&[1, 2, 1]).is_err());
        // The second as the first: 41 bytes each.
        let mut twice = good.to_vec();
        twice.copy_within(2..43, 43);
        assert!(Manifests::decode(&twice).is_err());
    }

    #[test]
    fn as_many_ids_as_allowed_fit_a_control_message() {
        let request = HoldingsRequest {
            chunk_key_id: [0; 16],
            site: "s".repeat(255),
            chunks: vec![[0; 32]; CHUNKS_MAX],
        };
        assert!(request.encode().is_ok());
    }
}
