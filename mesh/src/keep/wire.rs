//! What is said: URLs to be kept, and what came of it.
//!
//! ```text
//! request = version u8 = 1, time in ms u32, count u16, count × object
//! object  = site str, https u8, authority str, path str, root [32], fields
//! answer  = version u8 = 1, held u16, fetched u16, failed u16, refused u16
//! ```
//!
//! Integers are big-endian, `str` and `fields` are as in the object exchange. A request fits one control message.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use stoq::wire::REQUEST_CONTROL_BYTES_MAX;

use crate::wire::{DecodeError, Reader, VERSION, bad, control, put_fields, put_str};

/// Objects of one request: 64. Beyond that more requests are made, as [`Request::batches`] says.
pub const KEPT_MAX: usize = 64;

/// Bytes of a request before its objects.
const PREFIX_BYTES: usize = 7;

/// A URL to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The site's name.
    pub site: String,
    /// Whether its scheme is https.
    pub https: bool,
    /// Its host and port.
    pub authority: String,
    /// Its path and query.
    pub path_and_query: String,
    /// Root of the manifest of what the asker holds of it.
    pub root: [u8; 32],
    /// Fields of the requests for it that what is stored may vary by.
    pub headers: HeaderMap,
}

impl Object {
    fn put(&self, out: &mut BytesMut) -> Result<(), DecodeError> {
        put_str(out, "site", self.site.as_bytes())?;
        out.put_u8(u8::from(self.https));
        put_str(out, "authority", self.authority.as_bytes())?;
        put_str(out, "path", self.path_and_query.as_bytes())?;
        out.put_slice(&self.root);
        put_fields(out, &self.headers)
    }
}

/// "Keep these."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How long the asker will give them, in milliseconds.
    pub within_ms: u32,
    /// What to keep, the most wanted first; at most [`KEPT_MAX`].
    pub objects: Vec<Object>,
}

/// How many of them are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// Were stored already, and are fresh.
    pub held: u16,
    /// Are stored now.
    pub fetched: u16,
    /// Could not be had, or may not be stored.
    pub failed: u16,
    /// Are of no site that is served there, or there was no room or time.
    pub refused: u16,
}

impl Request {
    /// The message's bytes.
    ///
    /// # Errors
    /// It does not fit a control message.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(4096);
        out.put_u8(VERSION);
        out.put_u32(self.within_ms);
        let count = u16::try_from(self.objects.len()).ok();
        let count = count.filter(|count| usize::from(*count) <= KEPT_MAX);
        out.put_u16(count.ok_or_else(|| bad("object count", self.objects.len()))?);
        for object in &self.objects {
            object.put(&mut out)?;
        }
        control(out)
    }

    /// These objects in as few runs as fit a request each, in their order. One that fits none by itself is a run of
    /// its own, which cannot be [encoded](Self::encode).
    #[must_use]
    pub fn batches(objects: &[Object]) -> Vec<&[Object]> {
        let mut batches = Vec::new();
        let (mut begin, mut bytes) = (0, PREFIX_BYTES);
        for (at, object) in objects.iter().enumerate() {
            let mut out = BytesMut::new();
            let len = match object.put(&mut out) {
                Ok(()) => out.len(),
                Err(_) => REQUEST_CONTROL_BYTES_MAX,
            };
            let is_full = at - begin >= KEPT_MAX || bytes + len > REQUEST_CONTROL_BYTES_MAX;
            if is_full && at > begin {
                batches.extend(objects.get(begin..at));
                (begin, bytes) = (at, PREFIX_BYTES);
            }
            bytes += len;
        }
        batches.extend(objects.get(begin..).filter(|rest| !rest.is_empty()));
        batches
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let within_ms = u32::from_be_bytes(reader.array("time")?);
        let count = usize::from(u16::from_be_bytes(reader.array("object count")?));
        if count > KEPT_MAX {
            return Err(bad("object count", count));
        }
        let mut objects = Vec::new();
        for _ in 0..count {
            objects.push(Object {
                site: reader.text("site")?,
                https: reader.flag("https")?,
                authority: reader.text("authority")?,
                path_and_query: reader.text("path")?,
                root: reader.array("root")?,
                headers: reader.fields()?,
            });
        }
        reader.end()?;
        Ok(Self { within_ms, objects })
    }
}

impl Answer {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9);
        out.put_u8(VERSION);
        for number in [self.held, self.fetched, self.failed, self.refused] {
            out.put_u16(number);
        }
        out.freeze()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let mut number = |field| reader.array(field).map(u16::from_be_bytes);
        let answer = Self {
            held: number("held")?,
            fetched: number("fetched")?,
            failed: number("failed")?,
            refused: number("refused")?,
        };
        reader.end()?;
        Ok(answer)
    }

    /// Objects that are kept there now.
    #[must_use]
    pub fn kept(&self) -> u64 {
        u64::from(self.held) + u64::from(self.fetched)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::ACCEPT_ENCODING;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn object() -> impl Strategy<Value = Object> {
        let texts = ("[a-z.]{0,20}", "[a-z.:]{0,20}", "/[a-z?=/]{0,40}");
        let encoding = prop::option::of("[a-z, ]{1,20}");
        (texts, any::<bool>(), any::<[u8; 32]>(), encoding).prop_map(
            |((site, authority, path_and_query), https, root, encoding)| {
                let encoding = encoding.and_then(|text| HeaderValue::try_from(text).ok());
                Object {
                    site,
                    https,
                    authority,
                    path_and_query,
                    root,
                    headers: encoding
                        .map(|value| (ACCEPT_ENCODING, value))
                        .into_iter()
                        .collect(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(
            within_ms in any::<u32>(),
            objects in vec(object(), 0..10),
            numbers in any::<[u16; 4]>(),
        ) {
            let request = Request { within_ms, objects };
            prop_assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
            let [held, fetched, failed, refused] = numbers;
            let answer = Answer { held, fetched, failed, refused };
            prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }

    #[test]
    fn objects_with_long_urls_go_in_several_requests_in_their_order() {
        let object = |number: usize, bytes| Object {
            site: "site".to_owned(),
            https: true,
            authority: "a.test".to_owned(),
            path_and_query: format!("/{}{number:03}", "x".repeat(bytes)),
            root: [0; 32],
            headers: HeaderMap::new(),
        };
        for (bytes, batches) in [(10, 4), (2_048, 9), (70_000, 256)] {
            let objects: Vec<_> = (0..256).map(|number| object(number, bytes)).collect();
            let made = Request::batches(&objects);
            assert_eq!(made.len(), batches, "URLs of {bytes} bytes");
            assert_eq!(made.concat(), objects);
            for batch in made {
                let request = Request {
                    within_ms: 1,
                    objects: batch.to_vec(),
                };
                assert_eq!(request.encode().is_ok(), bytes < 65_000);
            }
        }
        assert!(Request::batches(&[]).is_empty());
    }

    #[test]
    fn more_than_a_list_holds_is_neither_said_nor_heard() {
        let object = Object {
            site: String::new(),
            https: true,
            authority: String::new(),
            path_and_query: String::new(),
            root: [0; 32],
            headers: HeaderMap::new(),
        };
        let request = Request {
            within_ms: 1,
            objects: vec![object; KEPT_MAX + 1],
        };
        assert!(matches!(request.encode(), Err(DecodeError::Value { .. })));
        assert!(matches!(
            Request::decode(&[VERSION, 0, 0, 0, 1, 0xff, 0xff]),
            Err(DecodeError::Value { .. })
        ));
    }
}
