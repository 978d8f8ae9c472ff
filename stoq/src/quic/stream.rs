//! The two halves of a stream.
//!
//! Dropping a half before its end is an abort, never an end: a writer that is dropped unfinished resets the
//! stream, so no peer takes a fragment for the whole.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;

use super::error::{ReadError, WriteError, wire_code};

/// The writing half of a stream. Dropped before [`finish`](Self::finish), it is reset.
#[derive(Debug)]
pub struct SendStream {
    quinn: quinn::SendStream,
    /// Finished or reset: nothing is to be done on drop.
    ended: bool,
    drop_code: u64,
}

impl SendStream {
    pub(super) fn new(quinn: quinn::SendStream) -> Self {
        Self {
            quinn,
            ended: false,
            drop_code: 0,
        }
    }

    /// Writes some of `chunks` without copying, as much as the windows allow, and waits while they allow nothing.
    /// Returns the bytes written; written chunks are left empty, a chunk written in part keeps its rest.
    /// Cancel-safe: a dropped future has written nothing.
    ///
    /// # Errors
    /// If the peer stopped the stream, the connection ended, or the stream was finished.
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll_write_chunks(cx, chunks)).await
    }

    /// Writes all of `chunks` without copying. Not cancel-safe: a dropped future may have written a part, which
    /// shows in `chunks`.
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub async fn write_all_chunks(&mut self, mut chunks: &mut [Bytes]) -> Result<(), WriteError> {
        loop {
            let written = chunks.iter().take_while(|chunk| chunk.is_empty()).count();
            chunks = chunks.get_mut(written..).unwrap_or_default();
            if chunks.is_empty() {
                return Ok(());
            }
            self.write_chunks(chunks).await?;
        }
    }

    /// Copies all of `data` into the stream. Not cancel-safe.
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), WriteError> {
        Ok(self.quinn.write_all(data).await?)
    }

    /// Copies some of `data` into the stream; see [`write_chunks`](Self::write_chunks).
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        Pin::new(&mut self.quinn)
            .poll_write(cx, data)
            .map_err(Into::into)
    }

    /// [`write_chunks`](Self::write_chunks), polled.
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        // The future keeps nothing between polls: it writes, or leaves this task's waker with the stream.
        let written = ready!(pin!(self.quinn.write_chunks(chunks)).poll(cx))?;
        Poll::Ready(Ok(written.bytes))
    }

    /// Ends the stream: the peer will read what was written and then the end.
    ///
    /// # Errors
    /// [`WriteError::Finished`] if it was finished or reset before.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        self.ended = true;
        self.quinn.finish().map_err(|_| WriteError::Finished)
    }

    /// Abandons the stream with this application code: the peer sees an error, not an end. Nothing happens if it
    /// had ended.
    pub fn reset(&mut self, code: u64) {
        self.ended = true;
        // Fails only if the stream was finished and acknowledged, or reset: nothing is left to abandon.
        let _ = self.quinn.reset(wire_code(code));
    }

    /// The code with which a dropped unfinished stream is reset. Default 0.
    pub fn set_drop_code(&mut self, code: u64) {
        self.drop_code = code;
    }

    /// Waits until the peer stops the stream (`Some` with its code), or has acknowledged all of a finished stream
    /// (`None`). Cancel-safe. The future borrows nothing, so it can be raced against whoever owns the stream.
    ///
    /// # Errors
    /// If the connection ended.
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<u64>, WriteError>> + Send + Sync + 'static {
        let stopped = self.quinn.stopped();
        async move { Ok(stopped.await?.map(quinn::VarInt::into_inner)) }
    }

    /// Data of streams with a higher priority is sent first. Default 0. Few different values are best. Nothing
    /// happens if the stream has ended.
    pub fn set_priority(&self, priority: i32) {
        let _ = self.quinn.set_priority(priority);
    }

    /// The stream's number, as on the wire.
    pub fn id(&self) -> u64 {
        quinn::VarInt::from(self.quinn.id()).into_inner()
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(self.drop_code);
        }
    }
}

/// The reading half of a stream. Dropped before its end was reached, it asks the peer to stop.
#[derive(Debug)]
pub struct RecvStream {
    quinn: quinn::RecvStream,
    /// End, error or stop: nothing more will be read.
    ended: bool,
    drop_code: u64,
}

impl RecvStream {
    pub(super) fn new(quinn: quinn::RecvStream) -> Self {
        Self {
            quinn,
            ended: false,
            drop_code: 0,
        }
    }

    /// The next bytes, at most `max`, without copying; `None` at the end of the stream. Where chunks begin and end
    /// means nothing. Cancel-safe.
    ///
    /// # Errors
    /// If the peer reset the stream, the connection ended, or the stream was stopped. After an error what was
    /// read is a fragment.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.poll_read_chunk(cx, max)).await
    }

    /// [`read_chunk`](Self::read_chunk), polled.
    ///
    /// # Errors
    /// As [`read_chunk`](Self::read_chunk).
    pub fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        // The future keeps nothing between polls: it reads, or leaves this task's waker with the stream.
        let result = ready!(pin!(self.quinn.read_chunk(max, true)).poll(cx));
        self.ended |= !matches!(result, Ok(Some(_)));
        Poll::Ready(match result {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(error) => Err(error.into()),
        })
    }

    /// Reads to the end. Not cancel-safe.
    ///
    /// # Errors
    /// [`ReadError::TooLong`] beyond `limit` bytes, after which the stream is stopped; otherwise as
    /// [`read_chunk`](Self::read_chunk).
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.read_chunk(usize::MAX).await? {
            if chunk.len() > limit - body.len() {
                self.stop(self.drop_code);
                return Err(ReadError::TooLong { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Asks the peer to stop sending, with this application code; what has arrived is discarded. Nothing happens
    /// if the stream has ended.
    pub fn stop(&mut self, code: u64) {
        self.ended = true;
        let _ = self.quinn.stop(wire_code(code));
    }

    /// The code with which the peer of a dropped unread stream is asked to stop. Default 0.
    pub fn set_drop_code(&mut self, code: u64) {
        self.drop_code = code;
    }

    /// The stream's number, as on the wire.
    pub fn id(&self) -> u64 {
        quinn::VarInt::from(self.quinn.id()).into_inner()
    }

    /// Whether this stream was opened in early data, which an attacker can replay.
    pub fn is_0rtt(&self) -> bool {
        self.quinn.is_0rtt()
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A reader who has all bytes he expects often does not ask for the end. If the end is already here, to
        // take it is enough; telling the peer to stop would make it count a success as a failure.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(None) | Err(_)) = self.poll_read_chunk(&mut cx, 1) {
            return;
        }
        self.stop(self.drop_code);
    }
}
