//! A request's body over HTTP/3: pulled from the stream only as it is polled, its length checked.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::Stream;
use h3::error::Code;
use h3::server::RequestStream;
use parking_lot::Mutex;
use stoq::h3::Payload;
use stoq_cache::upstream::BodyError;
use tokio::time::Sleep;

use super::guard::GatedRecv;

pub(super) type Recv = RequestStream<GatedRecv, Payload>;

/// Where a body leaves its stream when the service drops it early, so that the rest can be read or refused.
#[derive(Default)]
pub(super) struct Leftover {
    pub(super) recv: Option<Recv>,
    /// The client broke the body: early end, reset, another length than declared.
    pub(super) broken: Option<Code>,
}

/// The stream of a request's body.
pub(super) struct Incoming {
    recv: Option<Recv>,
    /// What had arrived with the head.
    first: Option<Bytes>,
    declared: Option<u64>,
    read: u64,
    counted: Arc<AtomicU64>,
    stall: Option<Pin<Box<Sleep>>>,
    stall_timeout: Duration,
    leftover: Weak<Mutex<Leftover>>,
}

impl Incoming {
    pub(super) fn new(
        recv: Recv,
        first: Option<Bytes>,
        declared: Option<u64>,
        stall_timeout: Duration,
        leftover: &Arc<Mutex<Leftover>>,
        counted: Arc<AtomicU64>,
    ) -> Self {
        let leftover = Arc::downgrade(leftover);
        Self {
            recv: Some(recv),
            first,
            declared,
            read: 0,
            counted,
            stall: None,
            stall_timeout,
            leftover,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, (Code, String)>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(None);
        };
        match recv.poll_recv_data(cx) {
            Poll::Ready(Ok(Some(mut piece))) => {
                let bytes = piece.copy_to_bytes(piece.remaining());
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Err(error)) => {
                let code = if is_frame_error(&error) {
                    Code::H3_FRAME_ERROR
                } else {
                    Code::H3_REQUEST_INCOMPLETE
                };
                Poll::Ready(Some(Err((code, error.to_string()))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Counts what came, and compares it with what was declared.
    /// A difference makes the request malformed (RFC 9114 4.1.2), which is a stream error.
    fn check(
        &mut self,
        item: Option<Result<Bytes, (Code, String)>>,
    ) -> Option<Result<Bytes, (Code, String)>> {
        match item {
            Some(Ok(bytes)) => {
                self.read += bytes.len() as u64;
                self.counted.store(self.read, Ordering::Relaxed);
                match self.declared {
                    Some(declared) if self.read > declared => Some(Err((
                        Code::H3_MESSAGE_ERROR,
                        format!("more than the declared {declared} bytes"),
                    ))),
                    _ => Some(Ok(bytes)),
                }
            }
            None => match self.declared {
                Some(declared) if self.read < declared => {
                    let read = self.read;
                    Some(Err((
                        Code::H3_MESSAGE_ERROR,
                        format!("{read} bytes of the declared {declared}"),
                    )))
                }
                _ => None,
            },
            error => error,
        }
    }

    fn leave(&mut self, broken: Option<Code>, ended: bool) {
        let recv = self.recv.take();
        self.first = None;
        if let Some(leftover) = self.leftover.upgrade() {
            let mut leftover = leftover.lock();
            leftover.broken = leftover.broken.or(broken);
            leftover.recv = recv.filter(|_| !ended && broken.is_none());
        }
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.recv.is_none() {
            return Poll::Ready(None);
        }
        let Poll::Ready(item) = self.poll_bytes(cx) else {
            let limit = self.stall_timeout;
            let stall = self
                .stall
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if stall.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.leave(Some(Code::H3_REQUEST_CANCELLED), false);
            return Poll::Ready(Some(Err(BodyError::Client(format!(
                "no byte for {limit:?}"
            )))));
        };
        self.stall = None;
        Poll::Ready(match self.check(item) {
            Some(Ok(bytes)) => Some(Ok(bytes)),
            Some(Err((code, reason))) => {
                self.leave(Some(code), false);
                Some(Err(BodyError::Client(reason)))
            }
            None => {
                self.leave(None, true);
                None
            }
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.recv.is_some() {
            self.leave(None, false);
        }
    }
}

/// Whether the gate found a frame cut short, which ends the connection.
pub(super) fn is_frame_error(error: &h3::error::StreamError) -> bool {
    matches!(error, h3::error::StreamError::RemoteTerminate { code, .. } if *code == Code::H3_FRAME_ERROR)
}
