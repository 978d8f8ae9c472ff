//! Answers object exchanges from an [`ObjectSource`]: what a shield (later any edge) puts behind its STOQ listener.
//!
//! Not here: what is stored or fetched. This file decodes, checks the asker's role, relays, and turns failures into codes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use stoq::identity::Role;
use stoq::peer::{ExchangeError, Handler, IncomingRequest, PeerInfo, SendHalf};
use stoq_cache::upstream::{BodyStream, ChunkEvent, ChunkStream};

use super::body;
use super::code::Code;
use super::wire::{self, BodyMode, ChunksRequest, Head, ObjectRequest, Provenance};
use crate::metrics::{ObjectMetrics, Outcome};

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
        Self { source, metrics }
    }

    async fn answer(&self, peer: &PeerInfo, request: IncomingRequest) {
        let IncomingRequest {
            kind,
            control,
            body,
            mut reply,
            ..
        } = request;
        let answered = match kind {
            _ if !may_ask(peer) => Err(Refusal::new(
                Code::Role,
                "the certificate has neither the role edge nor shield",
            )
            .into()),
            wire::OBJECT => self.object(&control, body, &mut reply).await,
            wire::CHUNKS => self.chunks(&control, &mut reply).await,
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

    async fn object(
        &self,
        control: &[u8],
        body: stoq::peer::RecvHalf,
        reply: &mut SendHalf,
    ) -> Result<(), Stop> {
        let request = ObjectRequest::decode(control)
            .map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        let bodiless = matches!(request.method, http::Method::GET | http::Method::HEAD);
        let body = (!bodiless).then(|| body::plain(body, None));
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
        let head = head
            .encode()
            .map_err(|error| Refusal::new(Code::Protocol, format!("response head: {error}")))?;
        reply.head(head).await?;
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
            ChunkEvent::Held { id, len } => {
                self.metrics.held_bytes.inc_by(u64::from(len));
                reply
                    .frame(wire::HELD, wire::encode_chunk(id.as_bytes(), len))
                    .await
            }
            ChunkEvent::Sealed { root, total } => {
                reply
                    .frame(wire::SEALED, wire::encode_sealed(root.as_bytes(), total))
                    .await
            }
        }
    }

    async fn chunks(&self, control: &[u8], reply: &mut SendHalf) -> Result<(), Stop> {
        let request = ChunksRequest::decode(control)
            .map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        for (id, len) in &request.chunks {
            match self.source.chunk(&request, *id).await? {
                Some(chunk) if chunk.len() as u64 == u64::from(*len) => {
                    self.metrics.body_bytes.inc_by(u64::from(*len));
                    reply.data(chunk).await?;
                }
                Some(chunk) => {
                    let text = format!("a chunk of {} bytes was asked for with {len}", chunk.len());
                    return Err(Refusal::new(Code::Malformed, text).into());
                }
                None => {
                    return Err(
                        Refusal::new(Code::ChunkMissing, "a chunk is not here any more").into(),
                    );
                }
            }
        }
        Ok(())
    }
}

fn may_ask(peer: &PeerInfo) -> bool {
    peer.identity.has(&Role::Edge) || peer.identity.has(&Role::Shield)
}

impl Handler for ObjectServer {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(self.answer(peer, request))
    }
}
