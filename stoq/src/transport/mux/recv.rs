//! What is received on one stream.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::Violation;
use crate::quic::ReadError;

/// Neighbouring chunks of up to this many bytes together are joined, so that a window of tiny frames is not a queue of as
/// many entries.
const JOIN_BYTES_MAX: usize = 4 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Fin,
    Reset(u64),
}

#[derive(Debug)]
pub(super) struct Receiving {
    chunks: VecDeque<Bytes>,
    received: u64,
    /// Of those, what was read or thrown away.
    read: u64,
    /// What the peer was allowed.
    granted: u64,
    window: u64,
    end: End,
    /// This side wants no more; `Some` while the peer was not told.
    stop: Option<u64>,
    stopped: bool,
    /// Somebody holds the half.
    pub(super) held: bool,
    reader: Option<Waker>,
}

impl Receiving {
    pub(super) fn new(window: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            received: 0,
            read: 0,
            granted: window,
            window,
            end: End::Open,
            stop: None,
            stopped: false,
            held: true,
            reader: None,
        }
    }

    /// Takes what has arrived. Gives the bytes that nobody will read.
    pub(super) fn receive(
        &mut self,
        stream: u64,
        bytes: Bytes,
        fin: bool,
    ) -> Result<u64, Violation> {
        match self.end {
            End::Open => {}
            End::Fin => return Err(Violation::FinalSize(stream)),
            End::Reset(_) => return Err(Violation::StreamState(stream)),
        }
        let len = bytes.len() as u64;
        if self.granted - self.received < len {
            return Err(Violation::FlowControl(stream));
        }
        self.received += len;
        if fin {
            self.end = End::Fin;
        }
        if self.stopped {
            self.read += len;
            return Ok(len);
        }
        self.keep(bytes);
        self.wake();
        Ok(0)
    }

    fn keep(&mut self, bytes: Bytes) {
        match self.chunks.back_mut() {
            _ if bytes.is_empty() => {}
            Some(last) if last.len() + bytes.len() <= JOIN_BYTES_MAX => {
                let before = std::mem::take(last);
                // Unique after the first time: the room grows twofold, so a byte is copied a few times at most.
                let mut joined = before
                    .try_into_mut()
                    .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                joined.extend_from_slice(&bytes);
                *last = joined.freeze();
            }
            Some(_) | None => self.chunks.push_back(bytes),
        }
    }

    /// The peer gave up after `size` bytes. Gives how many of them never came, and how many nobody will read.
    pub(super) fn reset(
        &mut self,
        stream: u64,
        code: u64,
        size: u64,
    ) -> Result<(u64, u64), Violation> {
        match self.end {
            End::Open => {}
            End::Fin if size == self.received => return Ok((0, 0)),
            End::Fin | End::Reset(_) => return Err(Violation::FinalSize(stream)),
        }
        if size < self.received {
            return Err(Violation::FinalSize(stream));
        }
        if size > self.granted {
            return Err(Violation::FlowControl(stream));
        }
        let missing = size - self.received;
        self.received = size;
        self.end = End::Reset(code);
        let unread = self.discard();
        self.wake();
        Ok((missing, unread))
    }

    /// Throws away what was not read; gives how much that is.
    fn discard(&mut self) -> u64 {
        self.chunks.clear();
        let unread = self.received - self.read;
        self.read = self.received;
        unread
    }

    /// The next bytes.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        if self.stopped {
            return Poll::Ready(Err(ReadError::Stopped));
        }
        if let Some(front) = self.chunks.front_mut() {
            let piece = front.split_to(front.len().min(most));
            if front.is_empty() {
                self.chunks.pop_front();
            }
            self.read += piece.len() as u64;
            return Poll::Ready(Ok(Some(piece)));
        }
        match self.end {
            End::Fin => Poll::Ready(Ok(None)),
            End::Reset(code) => Poll::Ready(Err(ReadError::Reset(code))),
            End::Open => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// This side wants no more. Gives how many bytes nobody will read.
    pub(super) fn stop(&mut self, code: u64) -> u64 {
        if std::mem::replace(&mut self.stopped, true) {
            return 0;
        }
        if self.end == End::Open {
            self.stop = Some(code);
        }
        self.discard()
    }

    pub(super) fn take_stop(&mut self) -> Option<u64> {
        self.stop.take().filter(|_| self.end == End::Open)
    }

    /// Whether the peer may be allowed as much more that it is worth a frame.
    pub(super) fn wants_grant(&self) -> bool {
        self.end == End::Open && !self.stopped && self.granted - self.read <= self.window / 2
    }

    pub(super) fn take_grant(&mut self) -> Option<u64> {
        if !self.wants_grant() {
            return None;
        }
        self.granted = self.read + self.window;
        Some(self.granted)
    }

    /// Whether nothing more will come and nothing is left to read.
    pub(super) fn is_ended(&self) -> bool {
        self.end != End::Open && self.chunks.is_empty()
    }

    pub(super) fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
