//! Frames of the multiplexer, and their bytes.
//!
//! ```text
//!  0         1                   4                   8                                       16
//! ┌─────────┬───────────────────┬───────────────────┬───────────────────────────────────────┬── ─ ─
//! │  type   │         0         │      length       │                 value                 │ payload
//! └─────────┴───────────────────┴───────────────────┴───────────────────────────────────────┴── ─ ─
//! ```
//!
//! All integers are unsigned and big-endian. `value` is a stream's number where a frame is about a stream.
//!
//! | type | name | value | payload |
//! |---|---|---|---|
//! | 0 | `SETTINGS` | 0 | four `u32`: bidirectional streams, unidirectional streams, window of a stream, window of the link; `u8` datagrams |
//! | 1 | `DATA` | stream | bytes |
//! | 2 | `FIN` | stream | bytes, the last |
//! | 3 | `RESET` | stream | `u64` code, `u64` bytes sent before it |
//! | 4 | `STOP` | stream | `u64` code |
//! | 5 | `STREAM_WINDOW` | stream | `u64` bytes of the stream that may be sent in all |
//! | 6 | `WINDOW` | bytes of all streams that may be sent in all | none |
//! | 7 | `STREAMS` | streams that may be opened in all | `u8` 1 if unidirectional ones |
//! | 8 | `DATAGRAM` | 0 | bytes |
//! | 9 | `PING` | any | none; answered by `PONG` with the same value |
//! | 10 | `PONG` | that of the `PING` | none |
//! | 11 | `CLOSE` | code | `u8` 1 if the code is one of RFC 9000 section 20.1, else the application's; words |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::quic::TransportConfig;

/// Bytes of a frame's header.
pub(in crate::transport) const HEADER_BYTES: usize = 16;

/// Most bytes of a payload: what one stream may send before another has its turn, and what a reader must hold.
pub(in crate::transport) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of words in a `CLOSE`.
pub(in crate::transport) const REASON_BYTES_MAX: usize = 1024;

/// What a side allows the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct Limits {
    pub(in crate::transport) bidi_streams: u32,
    pub(in crate::transport) uni_streams: u32,
    pub(in crate::transport) stream_window: u32,
    pub(in crate::transport) window: u32,
    pub(in crate::transport) datagrams: bool,
}

impl Limits {
    /// What holds until the other side's `SETTINGS` are in: enough for a hello. Settings only ever add to it.
    pub(in crate::transport) const INITIAL: Self = Self {
        bidi_streams: 1,
        uni_streams: 0,
        stream_window: 64 * 1024,
        window: 64 * 1024,
        datagrams: false,
    };

    /// What a side with these settings allows.
    pub(in crate::transport) fn of(config: &TransportConfig) -> Self {
        Self {
            bidi_streams: config.max_bidi_streams,
            uni_streams: config.max_uni_streams,
            stream_window: config.stream_window,
            window: config.connection_window,
            datagrams: config.datagrams,
        }
    }

    /// The larger of both, field by field.
    pub(in crate::transport) fn at_least(self, other: Self) -> Self {
        Self {
            bidi_streams: self.bidi_streams.max(other.bidi_streams),
            uni_streams: self.uni_streams.max(other.uni_streams),
            stream_window: self.stream_window.max(other.stream_window),
            window: self.window.max(other.window),
            datagrams: self.datagrams || other.datagrams,
        }
    }
}

/// What two sides of a link say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transport) enum Frame {
    Settings(Limits),
    Data {
        stream: u64,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u64,
        code: u64,
        size: u64,
    },
    Stop {
        stream: u64,
        code: u64,
    },
    StreamWindow {
        stream: u64,
        max: u64,
    },
    Window {
        max: u64,
    },
    Streams {
        uni: bool,
        max: u64,
    },
    Datagram(Bytes),
    Ping(u64),
    Pong(u64),
    Close {
        transport: bool,
        code: u64,
        reason: Bytes,
    },
}

/// Bytes that are no frame. The fault is the peer's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::transport) enum FrameError {
    #[error("unknown frame type {0}")]
    Type(u8),
    #[error("a frame of type {kind} with {len} bytes")]
    Length { kind: u8, len: usize },
}

impl Frame {
    /// The stream it is about.
    pub(in crate::transport) fn stream(&self) -> Option<u64> {
        match self {
            Self::Data { stream, .. }
            | Self::Reset { stream, .. }
            | Self::Stop { stream, .. }
            | Self::StreamWindow { stream, .. } => Some(*stream),
            Self::Settings(_)
            | Self::Window { .. }
            | Self::Streams { .. }
            | Self::Datagram(_)
            | Self::Ping(_)
            | Self::Pong(_)
            | Self::Close { .. } => None,
        }
    }

    /// Bytes on the wire.
    pub(in crate::transport) fn wire_len(&self) -> usize {
        HEADER_BYTES + self.payload_len()
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Settings(_) => 17,
            Self::Data { bytes, .. } | Self::Datagram(bytes) => bytes.len(),
            Self::Reset { .. } => 16,
            Self::Stop { .. } | Self::StreamWindow { .. } => 8,
            Self::Streams { .. } => 1,
            Self::Window { .. } | Self::Ping(_) | Self::Pong(_) => 0,
            Self::Close { reason, .. } => 1 + reason.len(),
        }
    }

    fn kind_and_value(&self) -> (u8, u64) {
        match self {
            Self::Settings(_) => (0, 0),
            Self::Data { stream, fin, .. } => (if *fin { 2 } else { 1 }, *stream),
            Self::Reset { stream, .. } => (3, *stream),
            Self::Stop { stream, .. } => (4, *stream),
            Self::StreamWindow { stream, .. } => (5, *stream),
            Self::Window { max } => (6, *max),
            Self::Streams { max, .. } => (7, *max),
            Self::Datagram(_) => (8, 0),
            Self::Ping(value) => (9, *value),
            Self::Pong(value) => (10, *value),
            Self::Close { code, .. } => (11, *code),
        }
    }

    /// The frame as bytes: all but the payload of data are put into `head`, that payload is returned to follow them, as it
    /// was given.
    pub(in crate::transport) fn encode(self, head: &mut BytesMut) -> Bytes {
        let (kind, value) = self.kind_and_value();
        head.put_u8(kind);
        head.put_bytes(0, 3);
        // Payloads are at most 64 KiB: what is longer is never queued.
        head.put_u32(u32::try_from(self.payload_len()).unwrap_or(u32::MAX));
        head.put_u64(value);
        match self {
            Self::Data { bytes, .. } | Self::Datagram(bytes) => return bytes,
            Self::Settings(limits) => {
                head.put_u32(limits.bidi_streams);
                head.put_u32(limits.uni_streams);
                head.put_u32(limits.stream_window);
                head.put_u32(limits.window);
                head.put_u8(limits.datagrams.into());
            }
            Self::Reset { code, size, .. } => {
                head.put_u64(code);
                head.put_u64(size);
            }
            Self::Stop { code, .. } => head.put_u64(code),
            Self::StreamWindow { max, .. } => head.put_u64(max),
            Self::Streams { uni, .. } => head.put_u8(uni.into()),
            Self::Window { .. } | Self::Ping(_) | Self::Pong(_) => {}
            Self::Close {
                transport, reason, ..
            } => {
                head.put_u8(transport.into());
                head.put_slice(&reason);
            }
        }
        Bytes::new()
    }

    /// Takes a frame from the front of what has arrived; `None` while it is not all there.
    ///
    /// # Errors
    /// What has arrived is no frame, whatever follows.
    pub(in crate::transport) fn decode(arrived: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(mut header) = arrived.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let kind = header.get_u8();
        header.advance(3);
        let len = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        let value = header.get_u64();
        let fits = match kind {
            0 => len == 17,
            1 | 2 | 8 => len <= PAYLOAD_BYTES_MAX,
            3 => len == 16,
            4 | 5 => len == 8,
            6 | 9 | 10 => len == 0,
            7 => len == 1,
            11 => (1..=1 + REASON_BYTES_MAX).contains(&len),
            _ => return Err(FrameError::Type(kind)),
        };
        if !fits {
            return Err(FrameError::Length { kind, len });
        }
        if arrived.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        arrived.advance(HEADER_BYTES);
        // A slice of what has arrived would keep all of that buffer, which is larger by as much as the peer likes: the windows bound what
        // is unread, and so have to bound its memory.
        let payload = arrived.get(..len).map(Bytes::copy_from_slice);
        arrived.advance(len);
        let mut payload = payload.unwrap_or_default();
        Ok(Some(match kind {
            0 => Self::Settings(Limits {
                bidi_streams: payload.get_u32(),
                uni_streams: payload.get_u32(),
                stream_window: payload.get_u32(),
                window: payload.get_u32(),
                datagrams: payload.get_u8() != 0,
            }),
            1 | 2 => Self::Data {
                stream: value,
                bytes: payload,
                fin: kind == 2,
            },
            3 => Self::Reset {
                stream: value,
                code: payload.get_u64(),
                size: payload.get_u64(),
            },
            4 => Self::Stop {
                stream: value,
                code: payload.get_u64(),
            },
            5 => Self::StreamWindow {
                stream: value,
                max: payload.get_u64(),
            },
            6 => Self::Window { max: value },
            7 => Self::Streams {
                uni: payload.get_u8() != 0,
                max: value,
            },
            8 => Self::Datagram(payload),
            9 => Self::Ping(value),
            10 => Self::Pong(value),
            _ => Self::Close {
                transport: payload.get_u8() != 0,
                code: value,
                reason: payload,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..10_000).prop_map(Bytes::from);
        let words =
            proptest::collection::vec(any::<u8>(), 0..REASON_BYTES_MAX).prop_map(Bytes::from);
        prop_oneof![
            any::<(u32, u32, u32, u32, bool)>().prop_map(
                |(bidi_streams, uni_streams, stream_window, window, datagrams)| {
                    Frame::Settings(Limits {
                        bidi_streams,
                        uni_streams,
                        stream_window,
                        window,
                        datagrams,
                    })
                }
            ),
            (any::<u64>(), bytes.clone(), any::<bool>())
                .prop_map(|(stream, bytes, fin)| Frame::Data { stream, bytes, fin }),
            any::<(u64, u64, u64)>().prop_map(|(stream, code, size)| Frame::Reset {
                stream,
                code,
                size
            }),
            any::<(u64, u64)>().prop_map(|(stream, code)| Frame::Stop { stream, code }),
            any::<(u64, u64)>().prop_map(|(stream, max)| Frame::StreamWindow { stream, max }),
            any::<u64>().prop_map(|max| Frame::Window { max }),
            any::<(bool, u64)>().prop_map(|(uni, max)| Frame::Streams { uni, max }),
            bytes.prop_map(Frame::Datagram),
            any::<u64>().prop_map(Frame::Ping),
            any::<u64>().prop_map(Frame::Pong),
            (any::<bool>(), any::<u64>(), words).prop_map(|(transport, code, reason)| {
                Frame::Close {
                    transport,
                    code,
                    reason,
                }
            }),
        ]
    }

    fn bytes_of(frame: Frame) -> BytesMut {
        let mut head = BytesMut::new();
        let payload = frame.encode(&mut head);
        head.extend_from_slice(&payload);
        head
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_wherever_it_is_cut(frame in frames(), cut in any::<prop::sample::Index>()) {
            let bytes = bytes_of(frame.clone());
            prop_assert_eq!(bytes.len(), frame.wire_len());
            let cut = cut.index(bytes.len());
            let mut arrived = BytesMut::from(&bytes[..cut]);
            prop_assert_eq!(Frame::decode(&mut arrived), Ok(None));
            arrived.extend_from_slice(&bytes[cut..]);
            prop_assert_eq!(Frame::decode(&mut arrived), Ok(Some(frame)));
            prop_assert!(arrived.is_empty());
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut arrived = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut arrived) {}
        }
    }

    #[test]
    fn no_payload_keeps_the_buffer_in_which_it_came() {
        const BUFFER: usize = 64 * 1024;
        for len in [1, 4096, 4097, 20_000, BUFFER - HEADER_BYTES] {
            let frame = Frame::Data {
                stream: 0,
                bytes: vec![7; len].into(),
                fin: false,
            };
            let mut arrived = BytesMut::with_capacity(BUFFER);
            arrived.extend_from_slice(&bytes_of(frame.clone()));
            let kept = Frame::decode(&mut arrived).unwrap().unwrap();
            assert_eq!(kept, frame);
            assert!(arrived.try_reclaim(BUFFER), "{len} bytes keep all of it");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_header() {
        let mut head = BytesMut::new();
        head.put_u32(1 << 24);
        head.put_u32(u32::try_from(PAYLOAD_BYTES_MAX + 1).unwrap());
        head.put_u64(0);
        assert!(matches!(
            Frame::decode(&mut head),
            Err(FrameError::Length { kind: 1, .. })
        ));
        let mut head = BytesMut::from(&[12; HEADER_BYTES][..]);
        assert_eq!(Frame::decode(&mut head), Err(FrameError::Type(12)));
    }
}
