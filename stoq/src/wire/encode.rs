//! Frames to bytes. The payload is shared, never copied.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::frame::{
    ERROR_TEXT_BYTES_MAX, Frame, FrameType, HEADER_BYTES, Opening, REQUEST_PREFIX_BYTES,
};
use super::versions::{HELLO_VERSION, MESSAGES_SINCE};

/// A frame that the wire cannot carry. The fault is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Too much, or nothing where there must be something.
    #[error("a payload of {len} bytes; this frame carries {min} to {max}")]
    Length {
        /// Bytes of the payload as they would be sent.
        len: usize,
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// The version agreed on does not have this.
    #[error("version {version} has no {what}, which came with version {since}")]
    Version {
        /// Its name in the [wire document](super).
        what: &'static str,
        /// The version agreed on.
        version: u8,
        /// The first that has it.
        since: u8,
    },
}

/// The bytes of a frame of `version`, as two chunks to be written one after the other. The second is the payload
/// as it was given, and may be empty.
///
/// # Errors
/// The payload is longer than its frame may carry, a `DATA` frame has none, or `version` does not have the frame.
pub fn encode(version: u8, frame: &Frame) -> Result<[Bytes; 2], EncodeError> {
    let empty = Bytes::new();
    match frame {
        Frame::Hello(hello) => head(HELLO_VERSION, FrameType::Hello, 0, &hello.encode(), empty),
        Frame::GoAway { grace } => head(
            version,
            FrameType::GoAway,
            0,
            &millis(*grace).to_be_bytes(),
            empty,
        ),
        Frame::Request(opening) => open(version, FrameType::Request, opening),
        Frame::Tell(_) if version < FrameType::Tell.since() => Err(EncodeError::Version {
            what: frame.name(),
            version,
            since: FrameType::Tell.since(),
        }),
        Frame::Tell(opening) => open(version, FrameType::Tell, opening),
        Frame::Head(control) => head(version, FrameType::Head, 0, &[], control.clone()),
        Frame::Message { kind, payload } => {
            head(version, FrameType::Message, *kind, &[], payload.clone())
        }
        Frame::Data(bytes) => head(version, FrameType::Data, 0, &[], bytes.clone()),
        Frame::End => head(version, FrameType::End, 0, &[], empty),
        Frame::Error { code, text } => {
            let mut payload = BytesMut::with_capacity(4 + text.len().min(ERROR_TEXT_BYTES_MAX));
            payload.put_u32(*code);
            payload.put_slice(cut(text).as_bytes());
            head(version, FrameType::Error, 0, &payload, empty)
        }
    }
}

fn open(version: u8, of: FrameType, opening: &Opening) -> Result<[Bytes; 2], EncodeError> {
    // A deadline that is nearly over must not turn into none.
    let left = opening.time_left.map_or(0, |left| millis(left).max(1));
    let flags = if version < MESSAGES_SINCE {
        0
    } else {
        opening.marks.bits()
    };
    let mut prefix = [0; REQUEST_PREFIX_BYTES];
    prefix[..4].copy_from_slice(&left.to_be_bytes());
    prefix[4..].copy_from_slice(&flags.to_be_bytes());
    head(version, of, opening.kind, &prefix, opening.control.clone())
}

fn head(
    version: u8,
    of: FrameType,
    kind: u16,
    prefix: &[u8],
    payload: Bytes,
) -> Result<[Bytes; 2], EncodeError> {
    let len = prefix.len() + payload.len();
    let (min, max) = (of.payload_min(), of.payload_max());
    let on_wire = u32::try_from(len)
        .ok()
        .filter(|_| (min..=max).contains(&len));
    let on_wire = on_wire.ok_or(EncodeError::Length { len, min, max })?;
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + prefix.len());
    bytes.put_u8(version);
    bytes.put_u8(of as u8);
    bytes.put_u16(kind);
    bytes.put_u32(on_wire);
    bytes.put_slice(prefix);
    Ok([bytes.freeze(), payload])
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// The longest head of `text` that fits and ends between two characters.
fn cut(text: &str) -> &str {
    let end = (0..=ERROR_TEXT_BYTES_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
