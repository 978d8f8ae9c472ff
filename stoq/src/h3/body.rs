//! Body types, and how a payload gets past `h3` without being copied.
//!
//! `h3` wraps a body in a frame whose payload it shows only as slices, through `Buf`. The slice of a [`Payload`]
//! belongs to a `Bytes`, which could be handed on as it is if one could get at it. So [`Payload::chunk`] also
//! leaves a clone of its `Bytes` in a slot of this thread, if the slot was opened; [`Body::take_payload`] opens the slot,
//! asks the frame for a slice, and looks whether something was left. All within one call, so nothing else runs
//! in between.

use std::cell::RefCell;

use bytes::{Buf, Bytes};
use h3::quic::WriteBuf;

/// What the streams of this module can carry as body.
pub trait Body: Buf + Sized {
    /// Takes the payload out of `frame`, whose head was advanced over, without copying; `None` leaves the frame
    /// as it was, to be copied.
    fn take_payload(frame: &mut WriteBuf<Self>) -> Option<Taken> {
        let _ = frame;
        None
    }
}

/// A payload that was taken out of its frame.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its bytes.
    pub bytes: Bytes,
    /// They are frames already: the head that `h3` made for them is to be left out.
    pub framed: bool,
}

/// Copied once on its way down.
impl Body for Bytes {}

/// A body that is not copied on its way down: use it as the buffer type of `h3` connections that send large
/// bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    framed: bool,
}

impl Payload {
    /// Bytes that go onto the stream as they are, without the DATA frame that `h3` would put around them: whole HTTP/3 frames, or parts of one that
    /// are sent one after the other. What makes them answers for their being so; an empty one is sent as an empty DATA frame.
    #[must_use]
    pub fn framed(bytes: Bytes) -> Self {
        let framed = !bytes.is_empty();
        Self { bytes, framed }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self {
            bytes,
            framed: false,
        }
    }
}

impl From<Payload> for Bytes {
    fn from(payload: Payload) -> Self {
        payload.bytes
    }
}

enum Slot {
    Shut,
    Open,
    Full(Taken),
}

thread_local! {
    static SLOT: RefCell<Slot> = const { RefCell::new(Slot::Shut) };
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        SLOT.with_borrow_mut(|slot| {
            if matches!(slot, Slot::Open) {
                *slot = Slot::Full(Taken {
                    bytes: self.bytes.clone(),
                    framed: self.framed,
                });
            }
        });
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.bytes.copy_to_bytes(count)
    }
}

impl Body for Payload {
    fn take_payload(frame: &mut WriteBuf<Self>) -> Option<Taken> {
        SLOT.set(Slot::Open);
        let shown = frame.chunk().len();
        let Slot::Full(taken) = SLOT.replace(Slot::Shut) else {
            // The frame is of another kind (headers): its payload is not ours.
            return None;
        };
        if taken.bytes.len() != shown || shown != frame.remaining() {
            return None;
        }
        frame.advance(shown);
        Some(taken)
    }
}
