//! The object exchange: how one node asks another for an HTTP object and gets it chunk by chunk.
//!
//! # Participants
//! The *asker* (an edge) and the *holder* (a shield, or another edge), on a STOQ connection whose certificates name both. Each exchange
//! is one STOQ request with one answer.
//!
//! # Goals
//! * The head arrives, and body bytes flow, while the holder's own upstream is still sending.
//! * Every byte is covered by a chunk id before it is stored, and every object by a commit record.
//! * Chunks the asker named as held do not travel.
//!
//! # Non-goals
//! Authority over what may be asked (roles are checked by the layer below), compression of chunks, patches against old versions.
//!
//! # Exchanges
//! | kind | name | request | answer |
//! |---|---|---|---|
//! | 1 | OBJECT | [`ObjectRequest`], then the request's body as data, if it has one | HEAD, then by its body mode nothing, bare data, or chunk events up to SEALED |
//! | 2 | CHUNKS | [`ChunksRequest`], then any number of MORE | bare data: the chunks' bytes in the order asked, or an error and no byte of the missing one |
//! | 3 | HOLDINGS | [`HoldingsRequest`] | HEAD: [`Holdings`] |
//! | 4 | MANIFESTS | [`ManifestsRequest`] | HEAD: [`Manifests`] |
//! | 5 | VOUCHED | [`ObjectRequest`] of a GET, with no field that may say who asks | HEAD: a [voucher](super::Voucher), then PROFILE, HELD for each chunk, SEALED |
//!
//! A shield answers the first two. An edge answers all but the first, of what it holds itself: it fetches nothing for another, and says nothing of
//! what an object's head was or whether it may still be used, but for what a shield has signed of that.
//!
//! While an asker keeps its side of CHUNKS open it can ask for more, each time with a MORE frame (0x15: count u16, then id and length each); what
//! it asks for comes after what it asked for before. So one exchange keeps a path full, and at most one chunk is cut off when it ends early.
//!
//! # Answers
//! The transport's HEAD comes first, its MESSAGE frames carry the chunk events, and body bytes travel as its DATA frames between
//! them. All integers are big-endian. `str` is a u16 length and that many bytes.
//!
//! | kind | name | payload |
//! |---|---|---|
//! | – | HEAD | version u8, status u16, source u8, body mode u8, cache status `str`, fields: count u16, then name `str`, value `str` each |
//! | 0x11 | PROFILE | profile u8: how the object is cut; first event of a chunked body |
//! | 0x12 | CHUNK | id 32 bytes, length u32: closes the first `length` bytes that no CHUNK has closed yet |
//! | 0x13 | HELD | id 32 bytes, length u32: a chunk the asker said it holds; no bytes came for it |
//! | 0x16 | VOUCHER | a [voucher](super::Voucher), right before SEALED: by it the asker may be believed by others while no shield answers |
//! | 0x14 | SEALED | root 32 bytes, total length u64: the object is whole; without it the body was cut off |
//!
//! An answer that cannot be given, or not to its end, is the transport's ERROR with a [`Code`](super::Code).
//!
//! # Invariant
//! A decoder here accepts exactly what the encoder makes: every length is checked against what is left, and left-over bytes refuse the
//! message.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

pub use super::holdings::{
    Holdings, HoldingsRequest, MANIFESTS_MAX, Manifests, ManifestsRequest, Stored,
};

/// Exchange kind of [`ObjectRequest`].
pub const OBJECT: u16 = 1;
/// Exchange kind of [`ChunksRequest`].
pub const CHUNKS: u16 = 2;

/// Exchange kind of [`HoldingsRequest`].
pub const HOLDINGS: u16 = 3;
/// Exchange kind of [`ManifestsRequest`].
pub const MANIFESTS: u16 = 4;
/// Exchange kind of [`ObjectRequest`] for what a shield has vouched for.
pub const VOUCHED: u16 = 5;

/// Answer frame: the chunk profile.
pub const PROFILE: u16 = 0x11;
/// Answer frame: the end of a chunk.
pub const CHUNK: u16 = 0x12;
/// Answer frame: a chunk the asker holds.
pub const HELD: u16 = 0x13;
/// Answer frame: the commit record.
pub const SEALED: u16 = 0x14;

/// Request frame of CHUNKS: more chunks.
pub const MORE: u16 = 0x15;

/// Answer frame: a voucher.
pub const VOUCHER: u16 = 0x16;

/// Version of the messages in this file, the first byte of each request and HEAD.
pub const VERSION: u8 = 1;
/// Chunks in one [`ChunksRequest`]: 1,024 × 36 B = 36 KiB, within a control message.
pub const CHUNKS_MAX: usize = 1024;
/// Header fields in a message; the control message's 64 KiB bound their size.
pub const FIELDS_MAX: usize = 256;

/// Why a message was refused. The peer's fault, always.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before what it announces.
    #[error("message ends early: {wanted} more bytes wanted for {field}")]
    Short {
        /// What was being read.
        field: &'static str,
        /// How many bytes were missing.
        wanted: usize,
    },
    /// Bytes follow the end of the message.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// A newer message than this node knows.
    #[error("message version {0}, this node knows {VERSION}")]
    Version(u8),
    /// A value outside what the message allows.
    #[error("{field} has the value {value}")]
    Value {
        /// Which field.
        field: &'static str,
        /// The value as text.
        value: String,
    },
    /// The message does not fit a control message.
    #[error("message of {0} bytes exceeds a control message")]
    TooLarge(usize),
}

/// How the holder sends the body after HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMode {
    /// No body.
    Empty,
    /// Data frames up to the end of the exchange: something that is not to be stored.
    Plain,
    /// Chunk events up to SEALED.
    Chunked,
}

/// Where the holder had the answer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// The origin was asked for this request.
    Origin,
    /// The holder's store.
    Store,
}

/// "Give me this object as you would answer it."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRequest {
    /// The asker's CacheKey; the holder computes its own from the URL and refuses a difference.
    pub key: [u8; 32],
    /// Fingerprint of the key that names chunks of this site; a difference is refused, since ids would never match.
    pub chunk_key_id: [u8; 16],
    /// The site's name.
    pub site: String,
    /// The method.
    pub method: Method,
    /// Whether the scheme is https.
    pub https: bool,
    /// Host and port.
    pub authority: String,
    /// Path and query.
    pub path_and_query: String,
    /// End-to-end request fields.
    pub headers: HeaderMap,
    /// Root of a manifest the asker holds for this object.
    pub held: Option<[u8; 32]>,
}

/// The response head.
#[derive(Debug, Clone)]
pub struct Head {
    /// Status of the response.
    pub status: StatusCode,
    /// Where it came from.
    pub provenance: Provenance,
    /// How the body follows.
    pub body: BodyMode,
    /// The holder's Cache-Status member, or empty.
    pub cache_status: String,
    /// End-to-end response fields.
    pub headers: HeaderMap,
}

/// "Give me these chunks of that object."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunksRequest {
    /// CacheKey of the object the chunks belong to.
    pub key: [u8; 32],
    /// As in [`ObjectRequest`].
    pub chunk_key_id: [u8; 16],
    /// The site's name: the dedupe domain to look in.
    pub site: String,
    /// Ids and lengths, at most [`CHUNKS_MAX`].
    pub chunks: Vec<([u8; 32], u32)>,
}

impl ObjectRequest {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] or [`DecodeError::Value`] when a part does not fit its length field: too many or too long fields.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(512);
        out.put_u8(VERSION);
        out.put_slice(&self.key);
        out.put_slice(&self.chunk_key_id);
        put_str(&mut out, "site", self.site.as_bytes())?;
        put_str(&mut out, "method", self.method.as_str().as_bytes())?;
        out.put_u8(u8::from(self.https));
        put_str(&mut out, "authority", self.authority.as_bytes())?;
        put_str(&mut out, "path", self.path_and_query.as_bytes())?;
        put_fields(&mut out, &self.headers)?;
        match &self.held {
            Some(root) => {
                out.put_u8(1);
                out.put_slice(root);
            }
            None => out.put_u8(0),
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
        let request = Self {
            key: reader.array("key")?,
            chunk_key_id: reader.array("chunk key id")?,
            site: reader.text("site")?,
            method: {
                let method = reader.string("method")?;
                Method::from_bytes(method).map_err(|_| bad("method", method.escape_ascii()))?
            },
            https: reader.flag("https")?,
            authority: reader.text("authority")?,
            path_and_query: reader.text("path")?,
            headers: reader.fields()?,
            held: if reader.flag("held")? {
                Some(reader.array("held root")?)
            } else {
                None
            },
        };
        reader.end()?;
        Ok(request)
    }
}

impl Head {
    /// The frame's payload.
    ///
    /// # Errors
    /// As for [`ObjectRequest::encode`].
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(512);
        out.put_u8(VERSION);
        out.put_u16(self.status.as_u16());
        out.put_u8(match self.provenance {
            Provenance::Origin => 0,
            Provenance::Store => 1,
        });
        out.put_u8(match self.body {
            BodyMode::Empty => 0,
            BodyMode::Plain => 1,
            BodyMode::Chunked => 2,
        });
        put_str(&mut out, "cache status", self.cache_status.as_bytes())?;
        put_fields(&mut out, &self.headers)?;
        control(out)
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(payload);
        reader.version()?;
        let status = u16::from_be_bytes(reader.array("status")?);
        let head = Self {
            status: StatusCode::from_u16(status).map_err(|_| bad("status", status))?,
            provenance: match reader.byte("source")? {
                0 => Provenance::Origin,
                1 => Provenance::Store,
                other => return Err(bad("source", other)),
            },
            body: match reader.byte("body mode")? {
                0 => BodyMode::Empty,
                1 => BodyMode::Plain,
                2 => BodyMode::Chunked,
                other => return Err(bad("body mode", other)),
            },
            cache_status: reader.text("cache status")?,
            headers: reader.fields()?,
        };
        reader.end()?;
        Ok(head)
    }
}

impl ChunksRequest {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`DecodeError::Value`] with more than [`CHUNKS_MAX`] chunks.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let mut out = BytesMut::with_capacity(64 + self.chunks.len() * 36);
        out.put_u8(VERSION);
        out.put_slice(&self.key);
        out.put_slice(&self.chunk_key_id);
        put_str(&mut out, "site", self.site.as_bytes())?;
        put_chunks(&mut out, &self.chunks)?;
        control(out)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A [`DecodeError`] that names the field.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(message);
        reader.version()?;
        let key = reader.array("key")?;
        let chunk_key_id = reader.array("chunk key id")?;
        let site = reader.text("site")?;
        let chunks = reader.chunks()?;
        reader.end()?;
        Ok(Self {
            key,
            chunk_key_id,
            site,
            chunks,
        })
    }
}

/// Payload of MORE.
///
/// # Errors
/// [`DecodeError::Value`] with more than [`CHUNKS_MAX`] chunks.
pub fn encode_more(chunks: &[([u8; 32], u32)]) -> Result<Bytes, DecodeError> {
    let mut out = BytesMut::with_capacity(2 + chunks.len() * 36);
    put_chunks(&mut out, chunks)?;
    control(out)
}

/// Reads the payload of MORE.
///
/// # Errors
/// A [`DecodeError`] that names the field.
pub fn decode_more(payload: &[u8]) -> Result<Vec<([u8; 32], u32)>, DecodeError> {
    let mut reader = Reader(payload);
    let chunks = reader.chunks()?;
    reader.end()?;
    Ok(chunks)
}

/// Payload of CHUNK and HELD.
#[must_use]
pub fn encode_chunk(id: &[u8; 32], len: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(36);
    put_chunk(&mut out, id, len);
    out.freeze()
}

/// Reads the payload of CHUNK and HELD.
///
/// # Errors
/// A [`DecodeError`] when it has another length.
pub fn decode_chunk(payload: &[u8]) -> Result<([u8; 32], u32), DecodeError> {
    let mut reader = Reader(payload);
    let chunk = reader.chunk()?;
    reader.end()?;
    Ok(chunk)
}

/// Payload of SEALED.
#[must_use]
pub fn encode_sealed(root: &[u8; 32], total: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(40);
    out.put_slice(root);
    out.put_u64(total);
    out.freeze()
}

/// Reads the payload of SEALED.
///
/// # Errors
/// A [`DecodeError`] when it has another length.
pub fn decode_sealed(payload: &[u8]) -> Result<([u8; 32], u64), DecodeError> {
    let mut reader = Reader(payload);
    let sealed = (
        reader.array("root")?,
        u64::from_be_bytes(reader.array("total length")?),
    );
    reader.end()?;
    Ok(sealed)
}

pub(crate) fn bad(field: &'static str, value: impl std::fmt::Display) -> DecodeError {
    DecodeError::Value {
        field,
        value: value.to_string(),
    }
}

pub(crate) fn control(out: BytesMut) -> Result<Bytes, DecodeError> {
    if out.len() > stoq::wire::REQUEST_CONTROL_BYTES_MAX {
        return Err(DecodeError::TooLarge(out.len()));
    }
    Ok(out.freeze())
}

pub(crate) fn put_str(
    out: &mut BytesMut,
    field: &'static str,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    out.put_u16(
        u16::try_from(bytes.len())
            .map_err(|_| bad(field, format_args!("{} bytes", bytes.len())))?,
    );
    out.put_slice(bytes);
    Ok(())
}

pub(crate) fn put_fields(out: &mut BytesMut, fields: &HeaderMap) -> Result<(), DecodeError> {
    let count = u16::try_from(fields.len())
        .ok()
        .filter(|n| usize::from(*n) <= FIELDS_MAX);
    out.put_u16(count.ok_or_else(|| bad("field count", fields.len()))?);
    for (name, value) in fields {
        put_str(out, "field name", name.as_str().as_bytes())?;
        put_str(out, "field value", value.as_bytes())?;
    }
    Ok(())
}

fn put_chunks(out: &mut BytesMut, chunks: &[([u8; 32], u32)]) -> Result<(), DecodeError> {
    let count = u16::try_from(chunks.len())
        .ok()
        .filter(|n| usize::from(*n) <= CHUNKS_MAX);
    out.put_u16(count.ok_or_else(|| bad("chunk count", chunks.len()))?);
    for (id, len) in chunks {
        put_chunk(out, id, *len);
    }
    Ok(())
}

fn put_chunk(out: &mut BytesMut, id: &[u8; 32], len: u32) {
    out.put_slice(id);
    out.put_u32(len);
}

/// Reads from the front of a message; every step is checked against what is left.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(
        &mut self,
        field: &'static str,
        len: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((front, rest)) = self.0.split_at_checked(len) else {
            return Err(DecodeError::Short {
                field,
                wanted: len - self.0.len(),
            });
        };
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(bad(field, other)),
        }
    }

    pub(crate) fn version(&mut self) -> Result<(), DecodeError> {
        match self.byte("version")? {
            VERSION => Ok(()),
            other => Err(DecodeError::Version(other)),
        }
    }

    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = u16::from_be_bytes(self.array(field)?);
        self.take(field, usize::from(len))
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let bytes = self.string(field)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| bad(field, bytes.escape_ascii()))
    }

    pub(crate) fn fields(&mut self) -> Result<HeaderMap, DecodeError> {
        let count = usize::from(u16::from_be_bytes(self.array("field count")?));
        if count > FIELDS_MAX {
            return Err(bad("field count", count));
        }
        let mut fields = HeaderMap::with_capacity(count);
        for _ in 0..count {
            let name = self.string("field name")?;
            let name =
                HeaderName::from_bytes(name).map_err(|_| bad("field name", name.escape_ascii()))?;
            let value = self.string("field value")?;
            let value = HeaderValue::from_bytes(value)
                .map_err(|_| bad("field value", value.escape_ascii()))?;
            fields.append(name, value);
        }
        Ok(fields)
    }

    fn chunks(&mut self) -> Result<Vec<([u8; 32], u32)>, DecodeError> {
        let count = usize::from(u16::from_be_bytes(self.array("chunk count")?));
        if count > CHUNKS_MAX {
            return Err(bad("chunk count", count));
        }
        (0..count).map(|_| self.chunk()).collect()
    }

    fn chunk(&mut self) -> Result<([u8; 32], u32), DecodeError> {
        Ok((
            self.array("chunk id")?,
            u32::from_be_bytes(self.array("chunk length")?),
        ))
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.0.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = HeaderMap> {
        prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[ -~]{0,40}"), 0..8).prop_map(|pairs| {
            pairs
                .into_iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_bytes(name.as_bytes()).unwrap(),
                        HeaderValue::from_str(&value).unwrap(),
                    )
                })
                .collect()
        })
    }

    fn request() -> impl Strategy<Value = ObjectRequest> {
        (
            any::<[u8; 32]>(),
            any::<[u8; 16]>(),
            "[a-z.]{0,20}",
            any::<bool>(),
            "/[!-~]{0,40}",
            headers(),
            any::<Option<[u8; 32]>>(),
        )
            .prop_map(
                |(key, chunk_key_id, site, https, path_and_query, headers, held)| ObjectRequest {
                    key,
                    chunk_key_id,
                    authority: site.clone(),
                    site,
                    method: if https { Method::GET } else { Method::HEAD },
                    https,
                    path_and_query,
                    headers,
                    held,
                },
            )
    }

    proptest! {
        #[test]
        fn object_request_decodes_to_what_was_encoded(request in request()) {
            prop_assert_eq!(ObjectRequest::decode(&request.encode().unwrap()).unwrap(), request);
        }

        #[test]
        fn every_prefix_and_every_extension_of_a_request_is_refused(request in request(), cut in any::<prop::sample::Index>()) {
            let bytes = request.encode().unwrap();
            prop_assert!(ObjectRequest::decode(&bytes[..cut.index(bytes.len())]).is_err());
            let longer = [&bytes[..], &[0]].concat();
            prop_assert_eq!(ObjectRequest::decode(&longer), Err(DecodeError::Trailing(1)));
        }

        #[test]
        fn chunks_request_decodes_to_what_was_encoded(
            key: [u8; 32], chunk_key_id: [u8; 16], site in "[a-z]{0,9}", chunks in prop::collection::vec(any::<([u8; 32], u32)>(), 0..50),
        ) {
            let request = ChunksRequest { key, chunk_key_id, site, chunks };
            prop_assert_eq!(&ChunksRequest::decode(&request.encode().unwrap()).unwrap(), &request);
            prop_assert_eq!(decode_more(&encode_more(&request.chunks).unwrap()).unwrap(), request.chunks);
        }

        #[test]
        fn head_decodes_to_what_was_encoded(status in 100u16..1000, store: bool, mode in 0..3, cache_status in "[a-z;=]{0,30}", headers in headers()) {
            let head = Head {
                status: StatusCode::from_u16(status).unwrap(),
                provenance: if store { Provenance::Store } else { Provenance::Origin },
                body: [BodyMode::Empty, BodyMode::Plain, BodyMode::Chunked][usize::try_from(mode).unwrap()],
                cache_status,
                headers,
            };
            let read = Head::decode(&head.encode().unwrap()).unwrap();
            prop_assert_eq!((read.status, read.provenance, read.body), (head.status, head.provenance, head.body));
            prop_assert_eq!((read.cache_status, read.headers), (head.cache_status, head.headers));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ObjectRequest::decode(&bytes);
            let _ = ChunksRequest::decode(&bytes);
            let _ = Head::decode(&bytes);
            let _ = decode_more(&bytes);
            let _ = decode_chunk(&bytes);
            let _ = decode_sealed(&bytes);
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_number() {
        assert_eq!(ObjectRequest::decode(&[9]), Err(DecodeError::Version(9)));
    }

    #[test]
    fn more_chunks_than_a_control_message_holds_are_refused_on_both_sides() {
        let request = ChunksRequest {
            key: [0; 32],
            chunk_key_id: [0; 16],
            site: String::new(),
            chunks: vec![([0; 32], 0); CHUNKS_MAX + 1],
        };
        assert!(matches!(
            request.encode(),
            Err(DecodeError::Value {
                field: "chunk count",
                ..
            })
        ));
        let full = ChunksRequest {
            chunks: vec![([0; 32], 0); CHUNKS_MAX],
            ..request
        };
        assert!(full.encode().unwrap().len() <= stoq::wire::REQUEST_CONTROL_BYTES_MAX);
    }
}
