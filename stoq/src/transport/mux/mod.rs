//! Streams over a carrier that has none: what QUIC does for its streams, for the carriers that are not QUIC.
//!
//! Both sides hold a [`Core`], a value without I/O and without a clock: what has arrived is handed to it, what is to be sent is
//! asked of it. A driver, which belongs to the carrier, moves frames between two of them; whoever uses the link holds
//! handles. The words and numbers are QUIC's: streams numbered as in RFC 9000 section 2.1, windows for a stream and for
//! the link, `RESET` and `STOP` with codes for either half alone, a `CLOSE` with code and reason.
//!
//! The carrier must lose nothing, and must keep the order of frames that are about the same stream; it need not keep
//! the order of others. Datagrams may be lost.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | streams of the peer that are under way, held, or not accepted yet | [`TransportConfig`](crate::quic::TransportConfig)`::max_bidi_streams`, `max_uni_streams` | the peer waits; a protocol error if it does not |
//! | unread bytes of a stream, of all | `stream_window`, `connection_window` | likewise |
//! | bytes to be sent of a stream | 256 KiB | its writer waits |
//! | bytes to be sent of all streams | `send_window` | all writers wait |
//! | datagrams that wait | 256 KiB in each direction | the oldest is dropped |
//! | frames that answer the peer's | one of a kind for a stream, one `PONG` | the later replaces the earlier |

mod core;
mod frame;
mod link;
mod recv;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

pub(super) use self::core::Mux;
pub(super) use self::frame::{Frame, Limits};
pub(super) use self::link::{Facts, MuxLink};

/// For the fuzz targets: takes a frame from the front of what has arrived, as the carriers do, and says it again; `None` while it is not
/// all there.
///
/// # Errors
/// What has arrived is no frame, in words.
#[doc(hidden)]
pub fn reframe(arrived: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let frame = Frame::decode(arrived).map_err(|error| error.to_string())?;
    Ok(frame.map(|frame| {
        let mut bytes = BytesMut::with_capacity(frame.wire_len());
        let payload = frame.encode(&mut bytes);
        bytes.extend_from_slice(&payload);
        bytes.freeze()
    }))
}

/// How the peer broke the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("stream {0} goes beyond its window")]
    FlowControl(u64),
    #[error("stream {0} is more than were allowed")]
    StreamLimit(u64),
    #[error("a frame about stream {0} that its state does not allow")]
    StreamState(u64),
    #[error("stream {0} does not end where it said")]
    FinalSize(u64),
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
}

impl Violation {
    //= https://www.rfc-editor.org/rfc/rfc9000#section-20.1
    /// The code with which the link is closed.
    pub(super) fn code(&self) -> u64 {
        match self {
            Self::FlowControl(_) => 0x03,
            Self::StreamLimit(_) => 0x04,
            Self::StreamState(_) => 0x05,
            Self::FinalSize(_) => 0x06,
            Self::Frame(_) => 0x07,
        }
    }
}
