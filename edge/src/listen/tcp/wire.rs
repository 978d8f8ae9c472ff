//! A TCP socket with manners: gives up on a client that takes nothing, lets a last answer arrive, and breaks what is broken
//! so that nobody takes it for an end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::listen::Limits;

/// What the layers above say about how the connection is to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    broken: AtomicBool,
    unread: AtomicBool,
    written: AtomicU64,
}

impl Signals {
    /// A response on this connection was cut short: end it with a reset.
    pub(super) fn broken(&self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }

    /// A request's body was not read to its end: more of it may be on its way.
    pub(super) fn unread(&self) {
        self.0.unread.store(true, Ordering::Relaxed);
    }

    /// Bytes the system has taken so far, TLS and framing included.
    pub(super) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    signals: Signals,
    stall_timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    discard: Discard,
}

#[derive(Debug)]
struct Discard {
    bytes_left: u64,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    write_closed: bool,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, limits: &Limits) -> (Self, Signals) {
        let signals = Signals::default();
        let discard = Discard {
            bytes_left: limits.discard_bytes,
            timeout: limits.discard_timeout,
            timer: None,
            write_closed: false,
        };
        let wire = Self {
            stream,
            signals: signals.clone(),
            stall_timeout: limits.stall_timeout,
            stall: None,
            discard,
        };
        (wire, signals)
    }

    /// Passes progress on; without any for too long, an error.
    fn limit(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &polled {
            self.stall = None;
            let taken = taken.as_ref().map_or(0, |bytes| *bytes as u64);
            self.signals.0.written.fetch_add(taken, Ordering::Relaxed);
            return polled;
        }
        let limit = self.stall_timeout;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        self.signals.broken();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client took nothing for too long",
        )))
    }

    /// Reads what still comes, a little: closing a socket with unread bytes resets it, and the reset can overtake the
    /// answer just sent.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    //# To avoid the TCP reset problem, servers typically close a connection in stages.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.discard.timeout;
        let timer = self
            .discard
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0_u8; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let Some(left) = self
                        .discard
                        .bytes_left
                        .checked_sub(buffer.filled().len() as u64)
                    else {
                        return Poll::Ready(());
                    };
                    self.discard.bytes_left = left;
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.signals.0.broken.load(Ordering::Relaxed) {
            // An orderly end is what this connection must not have.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if !self.discard.write_closed {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.discard.write_closed = true;
        }
        if self.signals.0.unread.load(Ordering::Relaxed) {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.signals.0.broken.load(Ordering::Relaxed) {
            // With HTTP/1.0 and without a length the end of the connection is the end of the body: only a reset says that
            // it is not. A zero linger makes the close one.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
