//! What is asked or told, and how it wants to be treated.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::wire::{Frame, Marks, Opening, Urgency};

/// A request, or a message, before it is sent. Its body, if it has one, follows.
///
/// ```
/// # use std::time::Duration;
/// # use stoq::{peer::Ask, wire::Urgency};
/// let ask = Ask::new(7, "which?").within(Duration::from_secs(5)).urgency(Urgency::FIRST).replay_safe();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    kind: u16,
    control: Bytes,
    limit: Option<Duration>,
    marks: Marks,
}

impl Ask {
    /// Of this `kind`, with at most [`REQUEST_CONTROL_BYTES_MAX`](crate::wire::REQUEST_CONTROL_BYTES_MAX) control bytes;
    /// without a time limit, of default urgency, not replay-safe.
    #[must_use]
    pub fn new(kind: u16, control: impl Into<Bytes>) -> Self {
        Self {
            kind,
            control: control.into(),
            limit: None,
            marks: Marks::default(),
        }
    }

    /// Both sides give it up when this is over.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }

    /// Its place among the streams of its connection, in both directions. A peer of version 1 does not hear of it.
    #[must_use]
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.marks.urgency = urgency;
        self
    }

    /// To act on it twice does no harm beyond the work, so it may be sent before the handshake has ended.
    #[must_use]
    pub fn replay_safe(mut self) -> Self {
        self.marks.replay_safe = true;
        self
    }

    pub(super) fn limited(self, limit: Option<Duration>) -> Self {
        Self { limit, ..self }
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// When it is given up, if it is asked now.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.limit.map(|limit| now + limit)
    }

    fn opening(self, deadline: Option<Instant>) -> Opening {
        Opening {
            kind: self.kind,
            time_left: deadline.map(|end| end.saturating_duration_since(Instant::now())),
            marks: self.marks,
            control: self.control,
        }
    }

    pub(super) fn request(self, deadline: Option<Instant>) -> Frame {
        Frame::Request(self.opening(deadline))
    }

    pub(super) fn tell(self, deadline: Option<Instant>) -> Frame {
        Frame::Tell(self.opening(deadline))
    }
}
