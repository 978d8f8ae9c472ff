//! What the cache asks of whoever stands behind it.
//!
//! An origin client, a directory of files, a client of the shield: each is an [`Upstream`], and the engine knows
//! no other thing about them. A request goes down with end-to-end fields only (hop-by-hop ones are dropped and
//! Via, CDN-Loop and the forwarding fields set before it gets here); a response comes back as a head and a body that
//! is still arriving. Bodies are pulled: an upstream that is not polled must not read on.
//!
//! Not here: when to ask, what may be stored, what to do with an error. Errors say whose fault they are; the
//! servers turn them into statuses.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use http::{
    HeaderMap, Method, StatusCode,
    uri::{PathAndQuery, Scheme},
};

use crate::{
    content::{ChunkId, Manifest, ManifestId, Profile, VerifiedChunk},
    key::CacheKey,
};

/// A body as it arrives: whole pieces in order, then the end, or one error and nothing after it.
///
/// The end of the stream means the body is complete; a body that was cut short ends in an error.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// A body as its chunks: see [`ChunkEvent`] for the grammar.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<ChunkEvent, BodyError>> + Send>>;

/// Chunks that were asked for by name, as they arrive: pieces in order, each with who sent it, then the end, or one error and nothing after it.
pub type PieceStream = Pin<Box<dyn Stream<Item = Result<(Bytes, Source), BodyError>> + Send>>;

/// One request to an upstream.
pub struct FetchRequest {
    /// The method; GET or HEAD wherever the answer may be stored.
    pub method: Method,
    /// Scheme of the target URI as the client meant it, not of the connection to the upstream.
    pub scheme: Scheme,
    /// Authority of the target URI, as the client sent it.
    pub authority: String,
    /// Path and query of the target URI.
    pub path_and_query: PathAndQuery,
    /// End-to-end fields only, without `Host`; Via, CDN-Loop and X-Forwarded-For are already set.
    pub headers: HeaderMap,
    /// The request's body, streamed; `None` for none.
    pub body: Option<BodyStream>,
    /// Identity of the site on the wire.
    pub site: Arc<str>,
    /// Key of the URL, which a shield computes again and compares.
    pub key: CacheKey,
    /// A manifest of the same URL that is held already, so that known chunks need not travel.
    pub held: Option<Arc<Manifest>>,
}

impl fmt::Debug for FetchRequest {
    /// Names the request without its fields, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchRequest")
            .field("method", &self.method)
            .field("scheme", &self.scheme)
            .field("authority", &self.authority)
            .field("site", &self.site)
            .field("has_body", &self.body.is_some())
            .finish_non_exhaustive()
    }
}

/// The head of an upstream's answer and its body to come.
pub struct FetchResponse {
    /// A final status; interim responses never get here.
    pub status: StatusCode,
    /// End-to-end fields only.
    pub headers: HeaderMap,
    /// The body.
    pub body: FetchBody,
    /// Which kind of upstream answered.
    pub via: Source,
    /// The `Cache-Status` members that caches nearer the origin wrote, as one field value.
    pub upstream_cache_status: Option<String>,
}

impl fmt::Debug for FetchResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchResponse")
            .field("status", &self.status)
            .field("body", &self.body)
            .field("via", &self.via)
            .finish_non_exhaustive()
    }
}

/// A response's body, in one of the forms upstreams have it.
pub enum FetchBody {
    /// No body follows (204, 304, an answer to HEAD, a declared length of 0).
    Empty,
    /// Bytes in whatever pieces they come; the engine cuts them into chunks.
    Stream(BodyStream),
    /// Chunks somebody else cut, relayed while they grow.
    Chunked(ChunkStream),
}

impl fmt::Debug for FetchBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Stream(_) => "Stream",
            Self::Chunked(_) => "Chunked",
        })
    }
}

/// Told of each interim response (102, 103, …) while a fetch waits for its final head: status and end-to-end fields.
///
/// Called on the task that drives the upstream's connection: it must neither block nor wait. The number of calls and the size of
/// the fields are bounded by the upstream.
pub type OnInterim = Arc<dyn Fn(StatusCode, HeaderMap) + Send + Sync>;

/// Who answered a fetch; the label under which its bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The site's own server or directory.
    Origin,
    /// The shield.
    Shield,
    /// Another edge.
    Peer,
}

/// The longest [`ChunkEvent::Vouched`]: 16 KiB.
pub const VOUCHER_BYTES_MAX: usize = 16 << 10;

/// One step of a chunked body. The stream is `Profile (Bytes | Chunk | Whole | Held)* Vouched? Sealed`; whatever ends otherwise is truncated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkEvent {
    /// How the body is cut. Always first, once.
    Profile(Profile),
    /// The next bytes of the body, relayed at once, before their chunk's end is known. Never empty.
    Bytes(Bytes),
    /// Closes the first `len` bytes that no `Chunk` has closed yet. The receiver hashes them and compares.
    Chunk {
        /// What those bytes must hash to under the receiver's own key.
        id: ChunkId,
        /// Their number.
        len: u32,
    },
    /// A whole chunk that was verified on its way here, from another than who sent the rest. Only where no bytes are open.
    Whole {
        /// The chunk.
        chunk: VerifiedChunk,
        /// Who sent it.
        via: Source,
    },
    /// A whole chunk that the receiver holds already, whether or not it said so: no bytes follow for it. One that it lost meanwhile it asks for by name. Only where no bytes are open.
    Held {
        /// The chunk.
        id: ChunkId,
        /// Its length in bytes.
        len: u32,
    },
    /// By what others may believe that the object is what it is said to be: kept with it, and given to nodes that ask while whoever vouches for it
    /// does not answer. What it says is theirs to know; at most [`VOUCHER_BYTES_MAX`]. Only right before the commit record.
    Vouched(Bytes),
    /// The commit record. Only where no bytes are open; nothing follows.
    Sealed {
        /// Root of the manifest of all chunks above.
        root: ManifestId,
        /// Length of the whole body in bytes.
        total: u64,
    },
}

/// An upstream: origin, directory or shield.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// Sends one request and returns when the final head is here.
    ///
    /// A hole of an object is refilled through this too, with `Range` and `If-Range`. Dropping the future or the
    /// body cancels the exchange.
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>>;

    /// What others have kept of an object for which whoever answers here has vouched, for a request whose [`fetch`](Self::fetch) reached nobody. It was not asked about
    /// now: whether it is too old to be used is the caller's to judge, and fresh it is not. Default: nothing.
    fn kept(&self, request: FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        drop(request);
        Box::pin(std::future::ready(None))
    }

    /// As [`fetch`](Self::fetch), for one who can use interim responses.
    ///
    /// Upstreams that get none, or cannot carry them, leave `interim` uncalled: that is what this does unless it is overridden.
    fn fetch_with_interim(
        &self,
        request: FetchRequest,
        interim: OnInterim,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        drop(interim);
        self.fetch(request)
    }

    /// The bytes of `chunks`, concatenated in that order, for receivers that know their ids and verify them.
    ///
    /// Only upstreams that keep chunks can do this; the others answer [`UpstreamError::Unsupported`].
    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        let _ = (site, key, chunks);
        Box::pin(std::future::ready(Err(UpstreamError::Unsupported)))
    }
}

/// Why an upstream gave no head. Cloneable: one failure answers every request that waited for the fetch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made, or it died before a byte of the answer. Upstream's fault.
    #[error("upstream unreachable: {0}")]
    Unreachable(String),
    /// The upstream took longer than allowed. Upstream's fault.
    #[error("upstream did not answer in time: {0}")]
    Timeout(String),
    /// A limit of this process on requests or connections to upstreams is reached. Our fault.
    #[error("the limit of {limit} connections to upstreams is reached")]
    TooMany {
        /// The limit that was met.
        limit: usize,
    },
    /// What came back is not an answer. Upstream's fault.
    #[error("upstream broke the protocol: {0}")]
    Protocol(String),
    /// The upstream understood and would not: wrong role, unknown site, a key that does not match. Configuration's fault.
    #[error("upstream refused: {reason}")]
    Refused {
        /// The upstream's reason, for the log.
        reason: String,
    },
    /// No shield can be reached and the site does not allow going past it. Upstream's fault.
    #[error("no shield can be reached: {0}")]
    ShieldDown(String),
    /// The request's body failed while it was sent on. Client's fault.
    #[error("request body: {0}")]
    RequestBody(BodyError),
    /// This upstream cannot do what was asked, and never will. Ours: ask another way.
    #[error("not supported by this upstream")]
    Unsupported,
}

impl UpstreamError {
    /// Whether nobody was there to answer, so that a stale copy may stand in (RFC 9111 §4.2.4).
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Timeout(_)
            | Self::ShieldDown(_)
            | Self::TooMany { .. } => true,
            Self::Protocol(_) | Self::Refused { .. } | Self::RequestBody(_) | Self::Unsupported => {
                false
            }
        }
    }
}

/// Why a body ended before its end. Cloneable: every reader of a fill gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The upstream's stream broke. Upstream's fault.
    #[error("upstream body broke: {0}")]
    Upstream(String),
    /// The upstream took longer than allowed over the next piece. Upstream's fault.
    #[error("upstream body stalled: {0}")]
    Timeout(String),
    /// The body is shorter or longer than it was declared to be. Upstream's fault.
    #[error("upstream body has {got} bytes, its head says {declared}")]
    Length {
        /// Bytes that came.
        got: u64,
        /// Bytes that were declared.
        declared: u64,
    },
    /// A chunk does not hash to its id, or a manifest not to its root. Upstream's fault.
    #[error("upstream body does not verify: {0}")]
    Corrupt(String),
    /// Bytes that were needed again are gone and the object has changed or has no strong validator. Nobody's fault.
    #[error("the object's bytes from offset {offset} are no longer to be had: {reason}")]
    Gone {
        /// Where the missing bytes begin.
        offset: u64,
        /// Why they could not be fetched again.
        reason: String,
    },
    /// The client's own body broke while it was sent on. Client's fault.
    #[error("client body broke: {0}")]
    Client(String),
    /// The process is going down. Ours.
    #[error("shutting down")]
    Shutdown,
}
