//! What those who hold a half of a stream ask of a core.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::{CODE_MAX, Core};
use crate::quic::{ReadError, WriteError};

impl Core {
    pub(in crate::transport::mux) fn poll_write(
        &mut self,
        id: u64,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        let room = self.queued_max.saturating_sub(self.queued);
        let Some(send) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.send.as_mut())
        else {
            return Poll::Ready(Err(WriteError::Finished));
        };
        if let Some(error) = &self.ended {
            return Poll::Ready(Err(error.clone().into()));
        }
        let written = send.poll_write(cx, chunks, room);
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.queued += bytes;
                self.ready_if_so(id);
            }
            Poll::Pending if room == 0 => {
                self.crowded.insert(id);
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
        written
    }

    pub(in crate::transport::mux) fn finish(&mut self, id: u64) -> Result<(), WriteError> {
        let Some(send) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.send.as_mut())
        else {
            return Err(WriteError::Finished);
        };
        if let Some(error) = &self.ended {
            return Err(error.clone().into());
        }
        send.finish()?;
        self.ready_if_so(id);
        Ok(())
    }

    pub(in crate::transport::mux) fn reset(&mut self, id: u64, code: u64) {
        if let Some(send) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.send.as_mut())
        {
            self.queued -= send.reset(code.min(CODE_MAX));
            self.make_room();
            self.urge(id);
        }
    }

    pub(in crate::transport::mux) fn poll_stopped(
        &mut self,
        id: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<u64>, WriteError>> {
        let Some(send) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.send.as_mut())
        else {
            return Poll::Ready(Ok(None));
        };
        match (send.poll_stopped(cx), &self.ended) {
            (Poll::Ready(code), _) => Poll::Ready(Ok(code)),
            (Poll::Pending, Some(error)) => Poll::Ready(Err(error.clone().into())),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    pub(in crate::transport::mux) fn set_priority(&mut self, id: u64, priority: i32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(send) = &mut stream.send
        {
            // Where it waits for its turn with the old priority, it has that turn and then the new one.
            send.priority = priority;
        }
    }

    pub(in crate::transport::mux) fn drop_send(&mut self, id: u64, code: u64) {
        let Some(send) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.send.as_mut())
        else {
            return;
        };
        send.held = false;
        if send.is_open() {
            self.reset(id, code);
        }
        self.tidy(id);
    }

    pub(in crate::transport::mux) fn poll_read(
        &mut self,
        id: u64,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        let Some(recv) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.recv.as_mut())
        else {
            return Poll::Ready(Err(ReadError::Stopped));
        };
        let read = recv.poll_read(cx, most.max(1));
        match (&read, &self.ended) {
            (Poll::Ready(Ok(Some(bytes))), _) => {
                let (len, wants, ended) = (bytes.len() as u64, recv.wants_grant(), recv.is_ended());
                self.forget(len);
                if wants {
                    self.urge(id);
                }
                if ended {
                    self.tidy(id);
                }
            }
            (Poll::Pending, Some(error)) => return Poll::Ready(Err(error.clone().into())),
            (Poll::Pending, None) | (Poll::Ready(_), _) => {}
        }
        read
    }

    pub(in crate::transport::mux) fn stop(&mut self, id: u64, code: u64) {
        if let Some(recv) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.recv.as_mut())
        {
            let unread = recv.stop(code.min(CODE_MAX));
            self.forget(unread);
            self.urge(id);
            self.tidy(id);
        }
    }

    pub(in crate::transport::mux) fn drop_recv(&mut self, id: u64, code: u64) {
        let Some(recv) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.recv.as_mut())
        else {
            return;
        };
        recv.held = false;
        if !recv.is_ended() {
            self.stop(id, code);
        }
        self.tidy(id);
    }
}
