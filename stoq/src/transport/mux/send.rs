//! What is sent on one stream.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame::PAYLOAD_BYTES_MAX;
use crate::quic::WriteError;

/// Bytes of one stream that wait to be sent.
const QUEUE_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may be written.
    Open,
    /// The end follows what is queued.
    Fin,
    /// The reset is to be sent.
    Reset(u64),
    /// `FIN` or `RESET` was sent.
    Sent,
}

#[derive(Debug)]
pub(super) struct Sending {
    queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    sent: u64,
    /// What the peer allows.
    max: u64,
    end: End,
    stopped: Option<u64>,
    pub(super) priority: i32,
    /// Somebody holds the half.
    pub(super) held: bool,
    writer: Option<Waker>,
    watchers: Vec<Waker>,
}

impl Sending {
    pub(super) fn new(max: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            max,
            end: End::Open,
            stopped: None,
            priority: 0,
            held: true,
            writer: None,
            watchers: Vec::new(),
        }
    }

    /// Takes of `chunks` what there is room for, `room` bytes over all streams.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
        room: usize,
    ) -> Poll<Result<usize, WriteError>> {
        if let Some(code) = self.stopped {
            return Poll::Ready(Err(WriteError::Stopped(code)));
        }
        if self.end != End::Open {
            return Poll::Ready(Err(WriteError::Finished));
        }
        if chunks.iter().all(Bytes::is_empty) {
            return Poll::Ready(Ok(0));
        }
        let mut room = room.min(QUEUE_BYTES_MAX.saturating_sub(self.queued));
        if room == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut written = 0;
        for chunk in chunks {
            let piece = chunk.split_to(chunk.len().min(room));
            room -= piece.len();
            written += piece.len();
            if !piece.is_empty() {
                self.queue.push_back(piece);
            }
        }
        self.queued += written;
        Poll::Ready(Ok(written))
    }

    pub(super) fn finish(&mut self) -> Result<(), WriteError> {
        if self.stopped.is_some() {
            return Ok(()); // Nobody wants it, which is no failure of this side.
        }
        if self.end != End::Open {
            return Err(WriteError::Finished);
        }
        self.end = End::Fin;
        Ok(())
    }

    /// Whether a reset is to be sent now. Gives the bytes that need no longer be sent.
    pub(super) fn reset(&mut self, code: u64) -> usize {
        if matches!(self.end, End::Open | End::Fin) {
            self.end = End::Reset(code);
            self.queue.clear();
            return std::mem::take(&mut self.queued);
        }
        0
    }

    pub(super) fn is_open(&self) -> bool {
        self.end == End::Open
    }

    pub(super) fn is_ended(&self) -> bool {
        self.end == End::Sent
    }

    /// The peer wants no more.
    pub(super) fn stop(&mut self, code: u64) -> usize {
        if self.end == End::Sent {
            return 0;
        }
        self.stopped.get_or_insert(code);
        let dropped = self.reset(code);
        self.wake();
        dropped
    }

    pub(super) fn allow(&mut self, max: u64) {
        self.max = self.max.max(max);
    }

    /// Whether there is something that the peer's window of this stream lets out.
    pub(super) fn is_ready(&self) -> bool {
        match self.end {
            End::Open => self.queued > 0 && self.sent < self.max,
            End::Fin => self.queued == 0 || self.sent < self.max,
            End::Reset(_) | End::Sent => false,
        }
    }

    /// The next bytes, at most `credit` of them, and whether they are the last.
    pub(super) fn take(&mut self, credit: u64) -> Option<(Bytes, bool)> {
        if !self.is_ready() {
            return None;
        }
        let credit = usize::try_from(credit.min(self.max - self.sent)).unwrap_or(usize::MAX);
        let most = credit.min(PAYLOAD_BYTES_MAX);
        let bytes = match self.queue.front_mut() {
            None => Bytes::new(),
            Some(_) if most == 0 => return None,
            Some(front) => {
                let piece = front.split_to(front.len().min(most));
                if front.is_empty() {
                    self.queue.pop_front();
                }
                piece
            }
        };
        self.queued -= bytes.len();
        self.sent += bytes.len() as u64;
        let fin = self.end == End::Fin && self.queue.is_empty();
        if fin {
            self.end = End::Sent;
            self.wake();
        } else if self.queued <= QUEUE_BYTES_MAX / 2 {
            self.wake_writer();
        }
        Some((bytes, fin))
    }

    /// The reset to be sent, with the bytes sent before it.
    pub(super) fn take_reset(&mut self) -> Option<(u64, u64)> {
        let End::Reset(code) = self.end else {
            return None;
        };
        self.end = End::Sent;
        self.wake();
        Some((code, self.sent))
    }

    pub(super) fn poll_stopped(&mut self, cx: &Context<'_>) -> Poll<Option<u64>> {
        if let Some(code) = self.stopped {
            return Poll::Ready(Some(code));
        }
        if self.end == End::Sent {
            return Poll::Ready(None);
        }
        if !self
            .watchers
            .iter()
            .any(|known| known.will_wake(cx.waker()))
        {
            self.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    pub(super) fn wake(&mut self) {
        self.wake_writer();
        self.watchers.drain(..).for_each(Waker::wake);
    }
}
