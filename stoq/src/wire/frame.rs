//! The frames as values.

use std::time::Duration;

use bytes::Bytes;

use super::hello::Hello;
use super::marks::Marks;
use super::versions::MESSAGES_SINCE;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// Longest payload of any frame but `DATA`: 64 KiB. A receiver holds at most one of them a stream.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Longest payload of a `DATA` frame: 1 MiB. It is passed on piece by piece, so it costs a receiver nothing.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a `REQUEST` or `TELL` payload before the application's.
pub(super) const REQUEST_PREFIX_BYTES: usize = 8;

/// Most control bytes of a request, or of a message that is told: 64 KiB less the eight bytes for deadline and flags.
pub const REQUEST_CONTROL_BYTES_MAX: usize = CONTROL_BYTES_MAX - REQUEST_PREFIX_BYTES;

/// Longest text of an `ERROR` frame: 1 KiB. Longer texts are cut when sent.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// The type byte of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FrameType {
    Hello = 1,
    GoAway = 2,
    Request = 3,
    Head = 4,
    Message = 5,
    Data = 6,
    End = 7,
    Error = 8,
    Tell = 9,
}

impl FrameType {
    pub(super) fn of(byte: u8, version: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::GoAway,
            Self::Request,
            Self::Head,
            Self::Message,
            Self::Data,
            Self::End,
            Self::Error,
            Self::Tell,
        ]
        .into_iter()
        .find(|known| *known as u8 == byte && known.since() <= version)
    }

    /// The first version that has it.
    pub(super) fn since(self) -> u8 {
        match self {
            Self::Tell => MESSAGES_SINCE,
            Self::Hello
            | Self::GoAway
            | Self::Request
            | Self::Head
            | Self::Message
            | Self::Data
            | Self::End
            | Self::Error => 1,
        }
    }

    pub(super) fn payload_max(self) -> usize {
        match self {
            Self::Data => DATA_BYTES_MAX,
            Self::End => 0,
            Self::GoAway => 4,
            Self::Error => 4 + ERROR_TEXT_BYTES_MAX,
            Self::Hello | Self::Request | Self::Tell | Self::Head | Self::Message => {
                CONTROL_BYTES_MAX
            }
        }
    }

    pub(super) fn payload_min(self) -> usize {
        match self {
            Self::Data => 1,
            Self::GoAway | Self::Error => 4,
            Self::Request | Self::Tell => REQUEST_PREFIX_BYTES,
            Self::Hello => super::hello::FIXED_BYTES,
            Self::End | Self::Head | Self::Message => 0,
        }
    }

    /// Whether the kind field is the application's.
    pub(super) fn has_kind(self) -> bool {
        matches!(self, Self::Request | Self::Tell | Self::Message)
    }
}

/// What a `REQUEST` or a `TELL` says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The application's number for what is asked or told.
    pub kind: u16,
    /// What is left until the sender gives up; whole milliseconds, `None` = it waits as long as it takes.
    pub time_left: Option<Duration>,
    /// How it wants to be treated. Not carried by version 1.
    pub marks: Marks,
    /// The application's bytes, at most [`REQUEST_CONTROL_BYTES_MAX`].
    pub control: Bytes,
}

/// A frame. A `DATA` frame may come out of the [`Decoder`](super::Decoder) in several pieces, each a [`Frame::Data`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// The first frame of each side on the control stream.
    Hello(Hello),
    /// No further exchange, please.
    GoAway {
        /// What exchanges under way are still given; whole milliseconds, at most 2³²−1.
        grace: Duration,
    },
    /// Opens an exchange.
    Request(Opening),
    /// Opens a message on a stream of its own, to which there is no answer. Not in version 1.
    Tell(Opening),
    /// The head of a message.
    Head(Bytes),
    /// A control message within a body.
    Message {
        /// The application's number for what it is.
        kind: u16,
        /// The application's bytes, at most [`CONTROL_BYTES_MAX`].
        payload: Bytes,
    },
    /// Body bytes, never empty.
    Data(Bytes),
    /// The message is whole.
    End,
    /// The message will never be whole.
    Error {
        /// The application's number for the cause.
        code: u32,
        /// For people; at most [`ERROR_TEXT_BYTES_MAX`].
        text: String,
    },
}

impl Frame {
    /// Its name in the [wire document](super).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::GoAway { .. } => "GOAWAY",
            Self::Request(_) => "REQUEST",
            Self::Tell(_) => "TELL",
            Self::Head(_) => "HEAD",
            Self::Message { .. } => "MESSAGE",
            Self::Data(_) => "DATA",
            Self::End => "END",
            Self::Error { .. } => "ERROR",
        }
    }
}
