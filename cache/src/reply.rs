//! The answer to one request: a shared stored head, a few fields that differ, and a body.
//!
//! No type of an HTTP library's connection appears here, so HTTP/1.1, HTTP/2 and HTTP/3 write the same value, and
//! a writer that pre-encodes header blocks can do so once a head ([`StoredHead::block`]).

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use crate::{http::cache_status::CacheStatus, upstream::BodyStream};

/// Bodies up to this size are handed over at once when all their chunks are in RAM; longer ones are streamed.
///
/// One reply thus holds at most 1 MiB of chunks alive that the store would have evicted.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

/// The head of a stored or passing response: end-to-end fields only, never changed once made.
#[derive(Debug)]
pub struct StoredHead {
    /// The status the upstream gave.
    pub status: StatusCode,
    /// Its end-to-end fields, without `Age` and `Cache-Status`, which each reply carries as overrides.
    pub headers: HeaderMap,
    /// Room for the encoded form of this head, filled by the first writer that wants one. Counted by its author
    /// within the bound of the heads: at most once the head's own size.
    pub block: OnceLock<Bytes>,
}

impl StoredHead {
    /// Freezes a head.
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap) -> Self {
        Self {
            status,
            headers,
            block: OnceLock::new(),
        }
    }

    /// Bytes this head weighs in the bound of the heads: names, values and 96 bytes a field for the table around them.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIELD_OVERHEAD: usize = 96;
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
            .sum();
        size_of::<Self>() + fields
    }
}

/// Fields of one reply that replace the stored ones of the same name, or are added.
pub type Overrides = SmallVec<[(HeaderName, HeaderValue); 4]>;

/// An answer, ready to be written.
#[derive(Debug)]
pub struct Reply {
    /// The shared head.
    pub head: Arc<StoredHead>,
    /// A status in place of the head's: 304, 206 or 416.
    pub status: Option<StatusCode>,
    /// Fields that replace or join the head's. No name twice.
    pub overrides: Overrides,
    /// Fields of the head that this reply leaves out.
    pub removed: SmallVec<[HeaderName; 2]>,
    /// The body. Empty for HEAD, whatever `content-length` says.
    pub body: ReplyBody,
    /// What the cache did: the word for log and metric; the `cache-status` field is already among the overrides.
    pub outcome: CacheStatus,
}

impl Reply {
    /// The status to send.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(self.head.status)
    }

    /// Every field to send: the head's that are neither removed nor overridden, then the overrides.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let kept = self.head.headers.iter().filter(|(name, _)| {
            !self.removed.contains(name)
                && !self
                    .overrides
                    .iter()
                    .any(|(overridden, _)| overridden == *name)
        });
        kept.chain(self.overrides.iter().map(|(name, value)| (name, value)))
    }

    /// The fields to send, as a map.
    #[must_use]
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.head.headers.len() + self.overrides.len());
        for (name, value) in self.fields() {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// Sets a field of this reply alone, in place of any of that name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self
            .overrides
            .iter_mut()
            .find(|(present, _)| *present == name)
        {
            Some(slot) => slot.1 = value,
            None => self.overrides.push((name, value)),
        }
    }
}

/// A body, in the cheapest form it can be had.
pub enum ReplyBody {
    /// No body.
    Empty,
    /// The whole body in one piece.
    Bytes(Bytes),
    /// The whole body, all of it in RAM now, at most [`INLINE_BYTES_MAX`].
    Chunks(Vec<Bytes>),
    /// A body that is read or still arrives while it is written. An error in it must become a reset, never an end.
    Stream(BodyStream),
}

impl ReplyBody {
    /// The body's length in bytes where it is all here; `None` for a stream, whose length, if known, is in `content-length`.
    #[must_use]
    pub fn len_hint(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Chunks(chunks) => Some(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Self::Stream(_) => None,
        }
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Chunks(chunks) => {
                write!(f, "Chunks({} of {:?} bytes)", chunks.len(), self.len_hint())
            }
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
