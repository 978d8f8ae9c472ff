//! Answers object exchanges from an [`ObjectSource`]: what a shield and an edge put behind their STOQ listeners.
//!
//! Not here: what is stored or fetched. This file decodes, checks the asker's role, relays, and turns failures into codes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use stoq::identity::{Identity, Role};
use stoq::peer::{ExchangeError, Handler, IncomingRequest, Part, PeerInfo, RecvHalf, SendHalf};
use stoq::shape::Class;
use stoq::wire::Urgency;
use stoq_cache::content::{Manifest, ManifestId};
use stoq_cache::upstream::{BodyStream, ChunkEvent, ChunkStream};
use tokio::time::timeout;

use super::body;
use super::code::Code;
use super::voucher::Voucher;
use super::wire::{
    self, BodyMode, ChunksRequest, DecodeError, Head, Holdings, HoldingsRequest, Manifests,
    ManifestsRequest, ObjectRequest, Provenance,
};
use crate::borders::{Borders, Crossing};
use crate::gossip::node_id;
use crate::metrics::{ObjectMetrics, Outcome};

/// How long an answered CHUNKS waits for more to be asked for before it is ended: 60 s. An asker ends it sooner.
const MORE_WAIT: Duration = Duration::from_secs(60);

/// What is stored of an object: a shield's [voucher](super::Voucher), as it came, and the manifest it is about.
pub type WithVoucher = (Bytes, Arc<Manifest>);

/// What stands behind the exchange.
pub trait ObjectSource: Send + Sync + 'static {
    /// The object as this node would answer it now. `body` is the request's, if it has one.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no head to give.
    fn object(
        &self,
        request: ObjectRequest,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>>;

    /// One chunk by its id, verified; `None` when it is not here.
    fn chunk<'a>(
        &'a self,
        request: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>>;

    /// Which of these chunks are here. Default: not said.
    ///
    /// # Errors
    /// A [`Refusal`] when the asker has no business with them.
    fn holdings(&self, request: &HoldingsRequest) -> Result<Holdings, Refusal> {
        let _ = request;
        Err(unsaid())
    }

    /// What is stored here of a URL. Default: not said.
    fn manifests<'a>(
        &'a self,
        request: &'a ManifestsRequest,
    ) -> BoxFuture<'a, Result<Manifests, Refusal>> {
        let _ = request;
        Box::pin(std::future::ready(Err(unsaid())))
    }

    /// What is stored here that answers the request, with its voucher. Default: not said.
    fn vouched<'a>(
        &'a self,
        request: &'a ObjectRequest,
    ) -> BoxFuture<'a, Result<Option<WithVoucher>, Refusal>> {
        let _ = request;
        Box::pin(std::future::ready(Err(unsaid())))
    }
}

fn unsaid() -> Refusal {
    Refusal::new(Code::UnknownKind, "this node does not say what it holds")
}

/// An object on its way out.
pub struct ObjectAnswer {
    /// Status.
    pub status: StatusCode,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// This node's Cache-Status member.
    pub cache_status: String,
    /// Where it came from.
    pub provenance: Provenance,
    /// The body.
    pub body: AnswerBody,
}

impl fmt::Debug for ObjectAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectAnswer")
            .field("status", &self.status)
            .field("provenance", &self.provenance)
            .finish_non_exhaustive()
    }
}

/// A body on its way out.
pub enum AnswerBody {
    /// None.
    Empty,
    /// Bytes that are not to be stored.
    Plain(BodyStream),
    /// A storable body.
    Chunked(ChunkStream),
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Plain(_) => "Plain",
            Self::Chunked(_) => "Chunked",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// The [`Handler`] for a STOQ server.
pub struct ObjectServer {
    source: Arc<dyn ObjectSource>,
    metrics: Arc<ObjectMetrics>,
    vouches_as: Option<Identity>,
    borders: Arc<Borders>,
}

impl fmt::Debug for ObjectServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectServer").finish_non_exhaustive()
    }
}

/// Why an answer stopped midway.
enum Stop {
    /// The asker left, or the connection did: nobody to tell.
    Asker,
    /// There is no more of it: to be told.
    Ours(Refusal),
}

impl From<ExchangeError> for Stop {
    fn from(_: ExchangeError) -> Self {
        Self::Asker
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal)
    }
}

impl ObjectServer {
    /// Answers from `source`.
    #[must_use]
    pub fn new(source: Arc<dyn ObjectSource>, metrics: Arc<ObjectMetrics>) -> Self {
        Self {
            source,
            metrics,
            vouches_as: None,
            borders: Arc::default(),
        }
    }

    /// Of a site whose bytes may not be everywhere only those within are answered.
    #[must_use]
    pub fn within(mut self, borders: Arc<Borders>) -> Self {
        self.borders = borders;
        self
    }

    /// Vouches for what it relays whole, as this node, which must have the role for it.
    #[must_use]
    pub fn vouching(mut self, identity: Identity) -> Self {
        self.vouches_as = Some(identity);
        self
    }

    async fn answer(&self, peer: &PeerInfo, request: IncomingRequest) {
        let IncomingRequest {
            kind,
            control,
            body,
            mut reply,
            marks,
            ..
        } = request;
        if marks.urgency == Urgency::LAST {
            // Nobody waits for it.
            reply.set_class(Class::Replicate);
        }
        let answered = match kind {
            _ if !may_ask(peer) => Err(Refusal::new(
                Code::Role,
                "the certificate has neither the role edge nor shield",
            )
            .into()),
            wire::OBJECT => self.object(peer, &control, body, &mut reply).await,
            wire::CHUNKS => self.chunks(peer, &control, body, &mut reply).await,
            wire::HOLDINGS => self.holdings(peer, &control, &mut reply).await,
            wire::MANIFESTS => self.manifests(peer, &control, &mut reply).await,
            wire::VOUCHED => self.vouched(peer, &control, &mut reply).await,
            other => Err(Refusal::new(
                Code::UnknownKind,
                format!("exchange kind {other} is unknown"),
            )
            .into()),
        };
        let outcome = match answered {
            Ok(()) => reply
                .finish()
                .await
                .map_or(Outcome::AskerLeft, |()| Outcome::Complete),
            Err(Stop::Asker) => Outcome::AskerLeft,
            Err(Stop::Ours(refusal)) => {
                tracing::debug!(peer = %peer.identity.name, code = ?refusal.code, "object exchange refused: {refusal}");
                // A failed abort means that the asker is gone: it sees the stream's end without END, which is an error too.
                drop(reply.abort(refusal.code.number(), &refusal.text).await);
                Outcome::Refused
            }
        };
        self.metrics.answered(kind, outcome);
    }

    /// Whether the bytes of a site may go to this peer.
    fn admit(&self, peer: &PeerInfo, site: &str) -> Result<(), Refusal> {
        let node = node_id(peer.identity.node_id);
        if self.borders.admits(site, &node, Crossing::Give) {
            return Ok(());
        }
        let text = format!(
            "\"{}\" or this node stands outside the zones of site {site:?}, or is not seen in the mesh",
            peer.identity.name
        );
        Err(Refusal::new(Code::Residency, text))
    }

    async fn object(
        &self,
        peer: &PeerInfo,
        control: &[u8],
        body: RecvHalf,
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let request = ObjectRequest::decode(control).map_err(|error| malformed(&error))?;
        self.admit(peer, &request.site)?;
        let bodiless = matches!(request.method, Method::GET | Method::HEAD);
        let body = (!bodiless).then(|| body::plain(body, None));
        let asked = self.asked(&request);
        let answer = self.source.object(request, body).await?;
        let mode = match &answer.body {
            AnswerBody::Empty => BodyMode::Empty,
            AnswerBody::Plain(_) => BodyMode::Plain,
            AnswerBody::Chunked(_) => BodyMode::Chunked,
        };
        let head = Head {
            status: answer.status,
            provenance: answer.provenance,
            body: mode,
            cache_status: answer.cache_status,
            headers: answer.headers,
        };
        let encoded = head
            .encode()
            .map_err(|error| Refusal::new(Code::Protocol, format!("response head: {error}")))?;
        reply.head(encoded).await?;
        match answer.body {
            AnswerBody::Empty => Ok(()),
            AnswerBody::Plain(mut body) => {
                while let Some(piece) = body.next().await {
                    let piece =
                        piece.map_err(|error| Refusal::new(Code::Body, error.to_string()))?;
                    self.metrics.body_bytes.inc_by(piece.len() as u64);
                    reply.data(piece).await?;
                }
                Ok(())
            }
            AnswerBody::Chunked(mut events) => {
                while let Some(event) = events.next().await {
                    let event =
                        event.map_err(|error| Refusal::new(Code::Body, error.to_string()))?;
                    if let ChunkEvent::Sealed { root, total } = &event
                        && let Some(voucher) = self.voucher(&asked, &head, *root, *total)
                    {
                        reply.frame(wire::VOUCHER, voucher).await?;
                    }
                    self.relay(event, reply).await?;
                }
                Ok(())
            }
        }
    }

    async fn relay(&self, event: ChunkEvent, reply: &mut SendHalf) -> Result<(), ExchangeError> {
        match event {
            ChunkEvent::Profile(profile) => {
                reply
                    .frame(wire::PROFILE, Bytes::copy_from_slice(&[profile.code()]))
                    .await
            }
            ChunkEvent::Bytes(bytes) => {
                self.metrics.body_bytes.inc_by(bytes.len() as u64);
                reply.data(bytes).await
            }
            ChunkEvent::Chunk { id, len } => {
                reply
                    .frame(wire::CHUNK, wire::encode_chunk(id.as_bytes(), len))
                    .await
            }
            ChunkEvent::Whole { chunk, .. } => {
                let len = u32::try_from(chunk.bytes().len()).unwrap_or(u32::MAX);
                self.metrics.body_bytes.inc_by(u64::from(len));
                reply.data(chunk.bytes().clone()).await?;
                let named = wire::encode_chunk(chunk.id().as_bytes(), len);
                reply.frame(wire::CHUNK, named).await
            }
            ChunkEvent::Held { id, len } => {
                self.metrics.held_bytes.inc_by(u64::from(len));
                reply
                    .frame(wire::HELD, wire::encode_chunk(id.as_bytes(), len))
                    .await
            }
            // Whoever relays here vouches itself, or not at all.
            ChunkEvent::Vouched(_) => Ok(()),
            ChunkEvent::Sealed { root, total } => {
                reply
                    .frame(wire::SEALED, wire::encode_sealed(root.as_bytes(), total))
                    .await
            }
        }
    }

    /// What a voucher says of a request; nothing where none is made.
    fn asked(&self, request: &ObjectRequest) -> Option<Voucher> {
        let is_plain =
            request.method == Method::GET && !request.headers.contains_key(header::RANGE);
        (self.vouches_as.is_some() && is_plain).then(|| Voucher {
            key: request.key,
            chunk_key_id: request.chunk_key_id,
            site: request.site.clone(),
            status: StatusCode::OK,
            root: ManifestId::from_bytes([0; 32]),
            total: 0,
            sent_ms: 0,
            response: HeaderMap::new(),
            request: request.headers.clone(),
        })
    }

    /// The voucher of an answer; `None` where it is nobody else's to have, or too long.
    fn voucher(
        &self,
        asked: &Option<Voucher>,
        head: &Head,
        root: ManifestId,
        total: u64,
    ) -> Option<Bytes> {
        let (identity, asked) = (self.vouches_as.as_ref()?, asked.as_ref()?);
        let now = identity.now()?.as_secs().checked_mul(1_000)?;
        let voucher = Voucher {
            status: head.status,
            root,
            total,
            sent_ms: now,
            request: Voucher::selecting(&head.headers, &asked.request)?,
            response: head.headers.clone(),
            ..asked.clone()
        };
        let sealed = voucher.seal(identity);
        sealed
            .inspect_err(|error| tracing::debug!(%error, "an object goes without a voucher"))
            .ok()
    }

    /// What is stored here that a shield has vouched for: its names, no chunks.
    async fn vouched(
        &self,
        peer: &PeerInfo,
        control: &[u8],
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let request = ObjectRequest::decode(control).map_err(|error| malformed(&error))?;
        self.admit(peer, &request.site)?;
        let Some((voucher, manifest)) = self.source.vouched(&request).await? else {
            let text = "nothing is stored here for which anybody vouches";
            return Err(Refusal::new(Code::NotHeld, text).into());
        };
        reply.head(voucher).await?;
        let profile = Bytes::copy_from_slice(&[manifest.profile().code()]);
        reply.frame(wire::PROFILE, profile).await?;
        for entry in manifest.entries_from(0) {
            let named = wire::encode_chunk(entry.id.as_bytes(), entry.len);
            reply.frame(wire::HELD, named).await?;
        }
        let sealed = wire::encode_sealed(manifest.root().as_bytes(), manifest.total_len());
        Ok(reply.frame(wire::SEALED, sealed).await?)
    }

    /// Sends what is asked for, and then whatever more is, until the asker has done.
    async fn chunks(
        &self,
        peer: &PeerInfo,
        control: &[u8],
        mut body: RecvHalf,
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let mut request = ChunksRequest::decode(control).map_err(|error| malformed(&error))?;
        loop {
            self.admit(peer, &request.site)?;
            for (id, len) in &request.chunks {
                match self.source.chunk(&request, *id).await? {
                    Some(chunk) if chunk.len() as u64 == u64::from(*len) => {
                        self.metrics.body_bytes.inc_by(u64::from(*len));
                        reply.data(chunk).await?;
                    }
                    Some(chunk) => {
                        let text =
                            format!("a chunk of {} bytes was asked for with {len}", chunk.len());
                        return Err(Refusal::new(Code::Malformed, text).into());
                    }
                    None => {
                        let text = "a chunk is not here any more";
                        return Err(Refusal::new(Code::ChunkMissing, text).into());
                    }
                }
            }
            request.chunks = match timeout(MORE_WAIT, body.next()).await {
                Err(_) | Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(Part::Frame { kind, payload }))) if kind == wire::MORE => {
                    wire::decode_more(&payload).map_err(|error| malformed(&error))?
                }
                Ok(Ok(Some(_))) => {
                    let text = "something else than more chunks to ask for";
                    return Err(Refusal::new(Code::Malformed, text).into());
                }
                Ok(Err(error)) => return Err(error.into()),
            };
        }
    }

    async fn holdings(
        &self,
        peer: &PeerInfo,
        control: &[u8],
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let request = HoldingsRequest::decode(control).map_err(|error| malformed(&error))?;
        self.admit(peer, &request.site)?;
        let answer = self.source.holdings(&request)?.encode();
        let answer = answer.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        Ok(reply.head(answer).await?)
    }

    async fn manifests(
        &self,
        peer: &PeerInfo,
        control: &[u8],
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let request = ManifestsRequest::decode(control).map_err(|error| malformed(&error))?;
        self.admit(peer, &request.site)?;
        let answer = self.source.manifests(&request).await?.encode();
        let answer = answer.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        Ok(reply.head(answer).await?)
    }
}

fn malformed(error: &DecodeError) -> Refusal {
    Refusal::new(Code::Malformed, error.to_string())
}

fn may_ask(peer: &PeerInfo) -> bool {
    peer.identity.has(&Role::Edge) || peer.identity.has(&Role::Shield)
}

impl Handler for ObjectServer {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(self.answer(peer, request))
    }
}
