//! The halves of a stream, as those who use it hold them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::link::Held;
use crate::quic::{ReadError, WriteError};

#[derive(Debug)]
pub(super) struct MuxSend {
    held: Arc<Held>,
    id: u64,
    drop_code: u64,
}

impl MuxSend {
    pub(super) fn new(held: Arc<Held>, id: u64) -> Self {
        Self {
            held,
            id,
            drop_code: 0,
        }
    }
}

impl super::super::SendStream for MuxSend {
    fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        self.held.mux.core.lock().poll_write(self.id, cx, chunks)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.held.mux.core.lock().finish(self.id)
    }

    fn reset(&mut self, code: u64) {
        self.held.mux.core.lock().reset(self.id, code);
    }

    fn set_drop_code(&mut self, code: u64) {
        self.drop_code = code;
    }

    fn stopped(&self) -> BoxFuture<'static, Result<Option<u64>, WriteError>> {
        // Without `held`, which would keep the link open.
        let (mux, id) = (self.held.mux.clone(), self.id);
        Box::pin(poll_fn(move |cx| mux.core.lock().poll_stopped(id, cx)))
    }

    fn set_priority(&self, priority: i32) {
        self.held.mux.core.lock().set_priority(self.id, priority);
    }

    fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for MuxSend {
    fn drop(&mut self) {
        self.held.mux.core.lock().drop_send(self.id, self.drop_code);
    }
}

#[derive(Debug)]
pub(super) struct MuxRecv {
    held: Arc<Held>,
    id: u64,
    drop_code: u64,
}

impl MuxRecv {
    pub(super) fn new(held: Arc<Held>, id: u64) -> Self {
        Self {
            held,
            id,
            drop_code: 0,
        }
    }
}

impl super::super::RecvStream for MuxRecv {
    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        self.held.mux.core.lock().poll_read(self.id, cx, max)
    }

    fn stop(&mut self, code: u64) {
        self.held.mux.core.lock().stop(self.id, code);
    }

    fn set_drop_code(&mut self, code: u64) {
        self.drop_code = code;
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn is_0rtt(&self) -> bool {
        false
    }
}

impl Drop for MuxRecv {
    fn drop(&mut self) {
        self.held.mux.core.lock().drop_recv(self.id, self.drop_code);
    }
}
