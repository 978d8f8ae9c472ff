//! An answer's body as it comes off an exchange: bare bytes, or chunk events.
//!
//! Invariant: a stream made here ends without an error only after the transport's END, and a chunked one only after its SEALED.

use std::pin::Pin;

use futures_util::{Stream, stream};
use stoq::peer::{ExchangeError, Part, RecvHalf};
use stoq_cache::content::{ChunkId, ManifestId, Profile};
use stoq_cache::upstream::{BodyError, BodyStream, ChunkEvent};

use super::code::Code;
use super::wire::{self, DecodeError};

/// Whatever must live as long as the body: the task that sends the request's body, say. Dropped with it.
pub(super) type Companion = Option<Box<dyn Send>>;

/// Chunk events, and if they end early whether that is a matter of the node they came from.
pub(super) type EventStream = Pin<Box<dyn Stream<Item = Result<ChunkEvent, Broken>> + Send>>;

/// Why a body ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) error: BodyError,
    /// The node is gone or going, and another may have the rest. Where it says that the body broke on its way to it, asking elsewhere would only have the origin asked again.
    pub(super) is_gone: bool,
}

impl From<BodyError> for Broken {
    fn from(error: BodyError) -> Self {
        Self {
            error,
            is_gone: false,
        }
    }
}

/// The bytes of a plain body. Reads from the peer only as fast as it is polled.
pub(super) fn plain(recv: RecvHalf, companion: Companion) -> BodyStream {
    Box::pin(stream::try_unfold(
        (recv, companion),
        |(mut recv, companion)| async move {
            match recv.next().await.map_err(|error| broken(error).error)? {
                Some(Part::Data(bytes)) => Ok(Some((bytes, (recv, companion)))),
                Some(Part::Head(_) | Part::Frame { .. }) => Err(BodyError::Upstream(
                    "a frame that is no body data".to_owned(),
                )),
                None => Ok(None),
            }
        },
    ))
}

/// The events of a chunked body.
pub(super) fn chunked(recv: RecvHalf, companion: Companion) -> EventStream {
    Box::pin(stream::try_unfold(
        (recv, companion, false),
        |(mut recv, companion, sealed)| async move {
            match (recv.next().await.map_err(broken)?, sealed) {
                (Some(part), false) => {
                    let event = event(part)?;
                    let sealed = matches!(event, ChunkEvent::Sealed { .. });
                    Ok(Some((event, (recv, companion, sealed))))
                }
                (Some(_), true) => {
                    Err(BodyError::Upstream("frames after the commit record".to_owned()).into())
                }
                (None, true) => Ok(None),
                (None, false) => Err(BodyError::Upstream(
                    "the body ends without its commit record".to_owned(),
                )
                .into()),
            }
        },
    ))
}

fn event(part: Part) -> Result<ChunkEvent, BodyError> {
    let (kind, payload) = match part {
        Part::Data(bytes) => return Ok(ChunkEvent::Bytes(bytes)),
        Part::Frame { kind, payload } => (kind, payload),
        Part::Head(_) => return Err(BodyError::Upstream("a second head".to_owned())),
    };
    match kind {
        wire::PROFILE => match payload.as_ref() {
            [code] => Profile::from_code(*code)
                .map(ChunkEvent::Profile)
                .ok_or_else(|| BodyError::Upstream(format!("chunk profile {code} is unknown"))),
            other => Err(BodyError::Upstream(format!(
                "a chunk profile of {} bytes",
                other.len()
            ))),
        },
        wire::CHUNK => wire::decode_chunk(&payload)
            .map(|(id, len)| ChunkEvent::Chunk {
                id: ChunkId::from_bytes(id),
                len,
            })
            .map_err(|error| malformed(&error)),
        wire::HELD => wire::decode_chunk(&payload)
            .map(|(id, len)| ChunkEvent::Held {
                id: ChunkId::from_bytes(id),
                len,
            })
            .map_err(|error| malformed(&error)),
        wire::VOUCHER => Ok(ChunkEvent::Vouched(payload)),
        wire::SEALED => wire::decode_sealed(&payload)
            .map(|(root, total)| ChunkEvent::Sealed {
                root: ManifestId::from_bytes(root),
                total,
            })
            .map_err(|error| malformed(&error)),
        other => Err(BodyError::Upstream(format!(
            "a frame of the unknown kind {other:#x}"
        ))),
    }
}

fn malformed(error: &DecodeError) -> BodyError {
    BodyError::Upstream(error.to_string())
}

fn broken(error: ExchangeError) -> Broken {
    let is_gone = match &error {
        ExchangeError::Remote { code, .. } => {
            matches!(Code::of(*code), Code::Shutdown | Code::Overloaded)
        }
        ExchangeError::Connection(_) | ExchangeError::Cancelled { .. } => true,
        _ => false,
    };
    let error = match error {
        ExchangeError::Deadline => BodyError::Timeout(error.to_string()),
        other => BodyError::Upstream(other.to_string()),
    };
    Broken { error, is_gone }
}
