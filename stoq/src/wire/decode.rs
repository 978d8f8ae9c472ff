//! Bytes to frames, in whatever pieces they come.
//!
//! Invariant: between two calls the decoder holds at most one header and one control payload (64 KiB), which
//! grows only as bytes arrive: an announced length alone costs nothing.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::frame::{Frame, FrameType, HEADER_BYTES, Opening, REQUEST_PREFIX_BYTES};
use super::hello::Hello;
use super::marks::Marks;
use super::versions::{HELLO_VERSION, MESSAGES_SINCE};

/// Bytes that are not the protocol. The fault is the peer's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame of another version than agreed.
    #[error("frame of version {found}, agreed is {agreed}")]
    Version {
        /// In the header.
        found: u8,
        /// In the hello.
        agreed: u8,
    },
    /// A type this version does not have.
    #[error("frame of unknown type {0}")]
    Type(u8),
    /// A length its type does not allow.
    #[error("frame of type {of} announces {len} bytes; {min} to {max} are allowed")]
    Length {
        /// The type.
        of: u8,
        /// In the header.
        len: usize,
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// A kind in a frame that has none.
    #[error("frame of type {of} has kind {kind}, which must be 0 there")]
    Kind {
        /// The type.
        of: u8,
        /// In the header.
        kind: u16,
    },
    /// A hello whose parts do not fit its length.
    #[error("hello malformed: {0}")]
    Hello(&'static str),
    /// The text of an error is not UTF-8.
    #[error("error text is not UTF-8")]
    Text,
    /// Bytes after `END` or `ERROR`.
    #[error("bytes after the end of the message")]
    AfterEnd,
    /// A frame that has no place here.
    #[error("unexpected {0} frame")]
    Unexpected(&'static str),
    /// The stream ended inside a message.
    #[error("the stream ended before the message did")]
    Truncated,
}

#[derive(Debug)]
enum State {
    Header,
    Control {
        of: FrameType,
        kind: u16,
        left: usize,
    },
    Data {
        left: usize,
    },
    Ended,
}

/// Turns the chunks of one direction of one stream into frames. Knows no socket and no clock.
///
/// A body byte is never copied: it comes out as a slice of the chunk it came in with. A control payload is copied
/// only if it straddles chunks.
#[derive(Debug)]
pub struct Decoder {
    version: u8,
    state: State,
    /// The part seen of a header or a control payload.
    partial: BytesMut,
}

impl Decoder {
    /// For a stream on which frames of `version` are agreed.
    #[must_use]
    pub fn new(version: u8) -> Self {
        Self {
            version,
            state: State::Header,
            partial: BytesMut::new(),
        }
    }

    /// Takes one frame off the front of `input`, or all of `input` if it does not complete one (`None`). Call it
    /// until `None`, then with the next chunk.
    ///
    /// # Errors
    /// The bytes break the protocol. The stream is then of no further use, and more calls have no defined result
    /// beyond not panicking.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, WireError> {
        loop {
            match self.state {
                State::Ended if input.is_empty() => return Ok(None),
                State::Ended => return Err(WireError::AfterEnd),
                State::Header => match self.gather(input, HEADER_BYTES) {
                    Some(header) => self.state = self.open(header)?,
                    None => return Ok(None),
                },
                State::Data { .. } if input.is_empty() => return Ok(None),
                State::Data { left } => {
                    let piece = input.split_to(left.min(input.len()));
                    let left = left - piece.len();
                    self.state = if left == 0 {
                        State::Header
                    } else {
                        State::Data { left }
                    };
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Control { of, kind, left } => {
                    let Some(payload) = self.gather(input, left) else {
                        return Ok(None);
                    };
                    let frame = control(self.version, of, kind, payload)?;
                    let ends = matches!(frame, Frame::End | Frame::Error { .. });
                    self.state = if ends { State::Ended } else { State::Header };
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// To be asked when the stream has ended.
    ///
    /// # Errors
    /// The message has not.
    pub fn finish(&self) -> Result<(), WireError> {
        if self.is_ended() {
            Ok(())
        } else {
            Err(WireError::Truncated)
        }
    }

    /// Whether `END` or `ERROR` was seen.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// The next `want` bytes: a slice of `input` if they are all there, else collected over several calls.
    fn gather(&mut self, input: &mut Bytes, want: usize) -> Option<Bytes> {
        if self.partial.is_empty() && input.len() >= want {
            return Some(input.split_to(want));
        }
        let piece = input.split_to(want.saturating_sub(self.partial.len()).min(input.len()));
        self.partial.extend_from_slice(&piece);
        (self.partial.len() == want).then(|| self.partial.split().freeze())
    }

    fn open(&self, mut header: Bytes) -> Result<State, WireError> {
        let (version, of, kind) = (header.get_u8(), header.get_u8(), header.get_u16());
        let len = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        let known = FrameType::of(of, self.version).ok_or(WireError::Type(of))?;
        let agreed = if known == FrameType::Hello {
            HELLO_VERSION
        } else {
            self.version
        };
        if version != agreed {
            return Err(WireError::Version {
                found: version,
                agreed,
            });
        }
        let (min, max) = (known.payload_min(), known.payload_max());
        if !(min..=max).contains(&len) {
            return Err(WireError::Length { of, len, min, max });
        }
        if kind != 0 && !known.has_kind() {
            return Err(WireError::Kind { of, kind });
        }
        Ok(match known {
            FrameType::Data => State::Data { left: len },
            of => State::Control {
                of,
                kind,
                left: len,
            },
        })
    }
}

/// The length was checked against the type's bounds when the header was read.
fn control(version: u8, of: FrameType, kind: u16, mut payload: Bytes) -> Result<Frame, WireError> {
    let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| WireError::Truncated);
    match of {
        FrameType::Hello => Hello::decode(payload).map(Frame::Hello),
        FrameType::GoAway => Ok(Frame::GoAway {
            grace: Duration::from_millis(number(&mut payload)?.into()),
        }),
        FrameType::Request | FrameType::Tell => {
            let millis = number(&mut payload)?;
            let flags = number(&mut payload)?;
            let opening = Opening {
                kind,
                time_left: (millis != 0).then(|| Duration::from_millis(millis.into())),
                // Version 1 says that the flags are ignored, whatever they are.
                marks: if version < MESSAGES_SINCE {
                    Marks::default()
                } else {
                    Marks::of(flags)
                },
                control: payload,
            };
            Ok(if of == FrameType::Tell {
                Frame::Tell(opening)
            } else {
                Frame::Request(opening)
            })
        }
        FrameType::Head => Ok(Frame::Head(payload)),
        FrameType::Message => Ok(Frame::Message { kind, payload }),
        FrameType::End => Ok(Frame::End),
        FrameType::Error => {
            let code = number(&mut payload)?;
            let text = String::from_utf8(payload.into()).map_err(|_| WireError::Text)?;
            Ok(Frame::Error { code, text })
        }
        FrameType::Data => Err(WireError::Unexpected("DATA")),
    }
}

const _: () = assert!(REQUEST_PREFIX_BYTES == 8, "a request's prefix is two u32");
