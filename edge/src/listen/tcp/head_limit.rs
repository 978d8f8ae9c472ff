//! How long an HTTP/1.1 request's head may take from its first byte.
//!
//! hyper has one timer for a connection's waiting and for the head that ends it; a limit on heads alone stands here,
//! between it and the bytes. It costs a timer only once a head has come in part.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::connection::Watch;

/// A connection whose reads fail once a head is late.
#[derive(Debug)]
pub(super) struct HeadLimit<T> {
    stream: T,
    watch: Arc<Watch>,
    limit: Duration,
    /// The idle state in which the head's first byte came.
    began: Option<usize>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> HeadLimit<T> {
    pub(super) fn new(stream: T, watch: Arc<Watch>, limit: Duration) -> Self {
        Self {
            stream,
            watch,
            limit,
            began: None,
            timer: None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeadLimit<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let idle = this.watch.idle();
        if this.began != idle {
            // What had begun has become a request.
            this.began = None;
            this.timer = None;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() {
            if buf.filled().len() > before {
                this.began = idle;
            }
            return polled;
        }
        if this.began.is_none() {
            return Poll::Pending;
        }
        let limit = this.limit;
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| {
            this.watch.head_is_late();
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the request's head took too long",
            ))
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HeadLimit<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
