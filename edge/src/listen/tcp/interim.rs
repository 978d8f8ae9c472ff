//! Interim responses over HTTP/1.1, which hyper's server cannot send: written between its messages.
//!
//! Whenever hyper has been polled it flushes its stream, once nothing of its own waits to be written. That is where other bytes may go between:
//! every response before is written to its end, and the one under way has no head yet, for its service is what hands the interim head over and
//! waits until it is gone. Where a head begins all the same, what has not begun is dropped: interim responses are optional.
//!
//! Invariant: once a byte of an interim head is written, the rest of it goes before anything else.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::service::InterimHead;

/// The way from the service of a connection's request to the connection's bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Between(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether something is in `waiting`; the stream looks no further where not.
    is_waiting: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// At most one head, for its sender waits until it is gone.
#[derive(Debug, Default)]
struct Waiting {
    bytes: BytesMut,
    /// Some of it is written.
    has_begun: bool,
    sender: Option<Waker>,
}

impl Between {
    /// Waits for an answer and writes the interim heads that come before it.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    //# A proxy MUST forward 1xx responses unless the proxy itself requested
    //# the generation of the 1xx response.
    pub(super) async fn announcing<T>(
        &self,
        mut heads: mpsc::Receiver<InterimHead>,
        mut answering: BoxFuture<'static, T>,
    ) -> T {
        let answer = loop {
            // Both may be cancelled: the answer is kept outside, the queue loses nothing.
            tokio::select! {
                biased;
                answer = &mut answering => break answer,
                Some(head) = heads.recv() => self.send(&head).await,
            }
        };
        // What came just before the answer still goes before it.
        while let Ok(head) = heads.try_recv() {
            self.send(&head).await;
        }
        answer
    }

    /// Hands a head over, and waits until it is written or dropped. A client that takes nothing ends its connection, and this with it.
    async fn send(&self, head: &InterimHead) {
        encode(head, &mut self.0.waiting.lock().bytes);
        self.0.is_waiting.store(true, Ordering::Relaxed);
        let mut was_polled = false;
        poll_fn(|cx| {
            let mut waiting = self.0.waiting.lock();
            if waiting.bytes.is_empty() {
                return Poll::Ready(());
            }
            waiting.sender = Some(cx.waker().clone());
            // hyper flushes after each poll of its own, but for one of them: so there is another.
            if !std::mem::replace(&mut was_polled, true) {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    fn is_waiting(&self) -> bool {
        self.0.is_waiting.load(Ordering::Relaxed)
    }
}

impl Waiting {
    fn clear(&mut self) {
        self.bytes.clear();
        self.has_begun = false;
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }
}

fn encode(head: &InterimHead, out: &mut BytesMut) {
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.put_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).as_bytes());
    for (name, value) in &head.headers {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

/// A connection whose writer is hyper and whose flushes let interim heads in.
#[derive(Debug)]
pub(super) struct Interjecting<T> {
    stream: T,
    between: Between,
}

impl<T: AsyncWrite + Unpin> Interjecting<T> {
    pub(super) fn new(stream: T, between: Between) -> Self {
        Self { stream, between }
    }

    /// Writes what waits.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.between.is_waiting() {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.between.0.waiting.lock();
        while waiting.bytes.has_remaining() {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, &waiting.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.bytes.advance(written);
            waiting.has_begun = true;
        }
        waiting.clear();
        self.between.0.is_waiting.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Makes way for a message of hyper's.
    fn poll_give_way(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.between.is_waiting() {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.between.0.waiting.lock();
        if waiting.has_begun {
            drop(waiting);
            return self.poll_waiting(cx);
        }
        waiting.clear();
        self.between.0.is_waiting.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Interjecting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Interjecting<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_give_way(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_give_way(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_give_way(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn hints() -> InterimHead {
        let mut headers = HeaderMap::new();
        headers.append("link", "</a>; rel=preload".parse().unwrap());
        headers.append("link", "</b>; rel=preload".parse().unwrap());
        InterimHead {
            status: StatusCode::EARLY_HINTS,
            headers,
        }
    }

    const HINTS: &str =
        "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>; rel=preload\r\n\r\n";

    #[tokio::test]
    async fn a_head_goes_out_with_the_next_flush_and_whole_before_what_is_written_then() {
        // A pipe of 10 bytes takes it in pieces.
        let (near, mut far) = tokio::io::duplex(10);
        let between = Between::default();
        let mut stream = Interjecting::new(near, between.clone());
        let reading = tokio::spawn(async move {
            let mut read = String::new();
            far.read_to_string(&mut read).await.unwrap();
            read
        });
        let head = hints();
        let send = between.send(&head);
        let mut send = std::pin::pin!(send);
        assert!(futures_util::poll!(&mut send).is_pending());
        let flush = stream.flush();
        assert!(
            futures_util::poll!(std::pin::pin!(flush)).is_pending(),
            "full"
        );
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        assert!(futures_util::poll!(&mut send).is_ready());
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(
            reading.await.unwrap(),
            format!("{HINTS}HTTP/1.1 200 OK\r\n")
        );
    }

    #[tokio::test]
    async fn what_has_not_begun_when_a_message_is_written_is_dropped() {
        let (near, mut far) = tokio::io::duplex(1000);
        let between = Between::default();
        let mut stream = Interjecting::new(near, between.clone());
        let head = hints();
        let mut send = std::pin::pin!(between.send(&head));
        assert!(futures_util::poll!(&mut send).is_pending());
        stream.write_all(b"response").await.unwrap();
        assert!(futures_util::poll!(&mut send).is_ready());
        stream.flush().await.unwrap();
        drop(stream);
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "response");
    }
}
