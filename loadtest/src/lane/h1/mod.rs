//! HTTP/1.1 over TLS or plain TCP, one request at a time on a connection that is kept.
//!
//! Requests are written and responses read by hand over one buffer, without a task beside the lane: pieces of a body go
//! to the [`Sink`] from the buffer they were read into. A body's end is believed only when its framing says it.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | a response's head | 64 KiB, 128 fields | [`Failure::Protocol`] |
//! | interim responses before a final one | 64 | [`Failure::Protocol`] |
//! | the read buffer | grows from 16 KiB to 256 KiB while reads fill it | read on |
//! | a chunk's line; trailers | 4 KiB; 64 KiB | [`Failure::Protocol`] |
//! | the body of an answer with a wrong status | 64 KiB are read, so that the connection can be kept | it is closed |
//!
//! A dropped exchange, and each failure but a status, closes the connection: where the next response would begin can no
//! longer be known.

mod chunked;
mod head;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use self::chunked::{Chunked, Step};
use self::head::{Framing, HEAD_BYTES_MAX, Head};
use super::request::Common;
use super::tcp::{Began, TcpDialer, Wire};
use super::{Conn, Dialer, Failure, Lane, Opened, Sink};
use crate::client::{ClientError, Version};
use crate::plan::Plan;
use crate::workload::{Ask, Verb};

const BUFFER_BYTES: usize = 16 * 1024;
const BUFFER_BYTES_MAX: usize = 256 * 1024;
const INTERIM_MAX: u32 = 64;
/// Of a body nobody wants.
const PASSED_OVER_MAX: u64 = 64 * 1024;
/// How long a close may take to tell the peer.
const CLOSE: Duration = Duration::from_secs(1);

/// Opens connections to the plan's target.
#[derive(Debug)]
pub struct H1Dialer {
    tcp: TcpDialer,
    common: Arc<Common>,
}

impl H1Dialer {
    /// For a thread of the run; each has its own, and resumes its own connections. Looks the target's name up, and
    /// blocks for it.
    ///
    /// # Errors
    /// [`ClientError`]: the plan cannot be carried out over HTTP/1.1, or the name has no address.
    pub fn new(plan: &Plan, _thread: u32) -> Result<Self, ClientError> {
        Ok(Self {
            tcp: TcpDialer::new(plan, Version::Http1)?,
            common: Arc::new(Common::of(plan)?),
        })
    }
}

impl Dialer for H1Dialer {
    type Conn = H1Conn;

    async fn dial(&self, number: u32) -> Result<H1Conn, Failure> {
        let (wire, began) = self.tcp.dial(number).await?;
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::Free(Io {
                wire,
                buffer: Vec::new(),
                start: 0,
                end: 0,
            })),
            changed: AtomicWaker::new(),
        });
        Ok(H1Conn {
            shared,
            common: Arc::clone(&self.common),
            began,
        })
    }

    fn socket_drops(&self) -> Option<u64> {
        Some(0)
    }
}

/// A connection.
pub struct H1Conn {
    shared: Arc<Shared>,
    common: Arc<Common>,
    began: Began,
}

impl std::fmt::Debug for H1Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1Conn")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

struct Shared {
    slot: Mutex<Slot>,
    /// Whoever waits for the connection's end; one at a time.
    changed: AtomicWaker,
}

/// The connection's bytes, when nobody is using them.
enum Slot {
    Free(Io),
    Busy,
    Closed(String),
}

struct Io {
    wire: Wire,
    /// The lane's, while it has the connection.
    buffer: Vec<u8>,
    /// The unread part of it.
    start: usize,
    end: usize,
}

impl Shared {
    fn put(&self, slot: Slot) {
        *self.slot.lock() = slot;
        self.changed.wake();
    }

    /// Looks whether the connection has ended, if no exchange is under way.
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<String> {
        // Registered first: what is put back after the look wakes.
        self.changed.register(cx.waker());
        let mut slot = self.slot.lock();
        let reason = match &mut *slot {
            Slot::Closed(reason) => return Poll::Ready(reason.clone()),
            Slot::Busy => return Poll::Pending,
            Slot::Free(io) => match io.ended(cx) {
                Some(reason) => reason,
                None => return Poll::Pending,
            },
        };
        *slot = Slot::Closed(reason.clone());
        Poll::Ready(reason)
    }
}

impl Conn for H1Conn {
    type Lane = H1Lane;

    fn lane(&self) -> H1Lane {
        H1Lane {
            shared: Arc::clone(&self.shared),
            common: Arc::clone(&self.common),
            out: Vec::new(),
            buffer: Vec::new(),
        }
    }

    fn opened(&self) -> Opened {
        self.began.opened()
    }

    /// Notices the server's close when no exchange is under way, else when that has failed. One may wait at a time.
    async fn closed(&self) -> String {
        poll_fn(|cx| self.shared.poll_closed(cx)).await
    }

    async fn close(self) {
        let slot = std::mem::replace(
            &mut *self.shared.slot.lock(),
            Slot::Closed("by this side".to_owned()),
        );
        if let Slot::Free(mut io) = slot {
            // A peer that does not take the last bytes must not hold a run up.
            drop(tokio::time::timeout(CLOSE, io.wire.shutdown()).await);
        }
    }
}

/// The one lane of a connection. A second one, while an exchange is under way on the first, fails.
pub struct H1Lane {
    shared: Arc<Shared>,
    common: Arc<Common>,
    out: Vec<u8>,
    /// Lent to the connection for an exchange: those that only stand open have none.
    buffer: Vec<u8>,
}

impl std::fmt::Debug for H1Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1Lane").finish_non_exhaustive()
    }
}

/// The connection while an exchange has it. Dropped without [`give_back`](Self::give_back), it is closed.
struct Held<'a> {
    shared: &'a Shared,
    io: Option<Io>,
    reason: &'static str,
}

impl<'a> Held<'a> {
    fn take(shared: &'a Shared) -> Result<Self, Failure> {
        let mut slot = shared.slot.lock();
        match std::mem::replace(&mut *slot, Slot::Busy) {
            Slot::Free(io) => Ok(Self {
                shared,
                io: Some(io),
                reason: "an exchange was given up",
            }),
            Slot::Busy => Err(Failure::Protocol(
                "HTTP/1.1 carries one request at a time".to_owned(),
            )),
            Slot::Closed(reason) => {
                *slot = Slot::Closed(reason.clone());
                Err(Failure::Unsent(reason))
            }
        }
    }

    fn give_back(mut self) {
        if let Some(io) = self.io.take() {
            self.shared.put(Slot::Free(io));
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.io.take().is_some() {
            self.shared.put(Slot::Closed(self.reason.to_owned()));
        }
    }
}

impl Lane for H1Lane {
    async fn exchange(&mut self, ask: &Ask, sink: &mut Sink<'_>) -> Result<(), Failure> {
        self.out.clear();
        head::write(&self.common, ask, &mut self.out)?;
        let mut held = Held::take(&self.shared)?;
        let Some(io) = &mut held.io else {
            return Err(Failure::Unsent("by this side".to_owned()));
        };
        // A server may close whenever no request is under way: then it has not seen this one.
        if let Some(reason) = poll_fn(|cx| Poll::Ready(io.ended(cx))).await {
            return Err(Failure::Unsent(reason));
        }
        io.buffer = std::mem::take(&mut self.buffer);
        let sent = io.send(&self.out, ask).await;
        let head = match (io.head(&ask.verb, sink).await, sent) {
            (Ok(head), _) => head,
            // An answer explains a request that could not be sent; without one, that is what happened.
            (Err(Failure::Closed(_)), Err(error)) => {
                return Err(Failure::Closed(format!("sending: {error}")));
            }
            (Err(failure), _) => return Err(failure),
        };
        if !head.keeps {
            held.reason = "the server's answer was its last";
        }
        let status = match sink.head(head.status, head.declared) {
            Ok(()) => {
                io.body(head.framing, Some(sink)).await?;
                Ok(())
            }
            // Passed over, so that the connection can be kept.
            Err(failure @ Failure::Status(_)) if head.keeps => {
                if io.body(head.framing, None).await != Ok(true) || !io.unread().is_empty() {
                    return Err(failure);
                }
                Err(failure)
            }
            Err(failure) => return Err(failure),
        };
        let behind = io.unread().len();
        if behind > 0 {
            return Err(Failure::Protocol(format!(
                "{behind} bytes behind the end of the answer"
            )));
        }
        self.buffer = std::mem::take(&mut io.buffer);
        (io.start, io.end) = (0, 0);
        if head.keeps {
            held.give_back();
        }
        status?;
        sink.end()
    }
}

impl Io {
    /// Why the connection cannot be used again, looking at it between two requests; wakes when there is more to see.
    fn ended(&mut self, cx: &mut Context<'_>) -> Option<String> {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.wire).poll_read(cx, &mut byte) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) if byte.filled().is_empty() => {
                Some("by the server, between requests".to_owned())
            }
            Poll::Ready(Ok(())) => Some("the server sent what nobody asked for".to_owned()),
            Poll::Ready(Err(error)) => Some(error.to_string()),
        }
    }

    async fn send(&mut self, head: &[u8], ask: &Ask) -> std::io::Result<()> {
        self.wire.write_all(head).await?;
        if let Verb::Put(body) = &ask.verb {
            self.wire.write_all(body).await?;
        }
        self.wire.flush().await
    }

    /// Reads more behind what is unread, which must not fill the buffer at its bound; `false` at the connection's end.
    async fn more(&mut self) -> std::io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                self.grow();
            }
        }
        let Some(room) = self.buffer.get_mut(self.end..) else {
            return Ok(false);
        };
        let asked = room.len();
        let got = self.wire.read(room).await?;
        self.end += got;
        if got == asked && self.start == 0 {
            self.grow();
        }
        Ok(got > 0)
    }

    fn grow(&mut self) {
        let bytes = (self.buffer.len() * 2).clamp(BUFFER_BYTES, BUFFER_BYTES_MAX);
        self.buffer.resize(bytes, 0);
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads the final response's head.
    async fn head(&mut self, verb: &Verb, sink: &mut Sink<'_>) -> Result<Head, Failure> {
        let mut interim = 0;
        let mut looked = 0;
        loop {
            // A head ends with a line feed: without a new one there is nothing to parse again.
            let unread = self.unread();
            let new = unread.get(looked..).unwrap_or_default();
            let head = if new.contains(&b'\n') {
                head::read(unread, verb, sink)?
            } else {
                None
            };
            looked = unread.len();
            if let Some(head) = head {
                self.start += head.bytes;
                match head.status {
                    101 => {
                        return Err(Failure::Protocol(
                            "101 Switching Protocols, which nobody asked for".to_owned(),
                        ));
                    }
                    100..=199 if interim < INTERIM_MAX => {
                        interim += 1;
                        looked = 0;
                        continue;
                    }
                    100..=199 => {
                        return Err(Failure::Protocol(
                            "interim responses without end".to_owned(),
                        ));
                    }
                    _ => return Ok(head),
                }
            }
            if looked >= HEAD_BYTES_MAX {
                return Err(Failure::Protocol("a head above 64 KiB".to_owned()));
            }
            match self.more().await {
                Ok(true) => {}
                Ok(false) if looked == 0 => {
                    return Err(Failure::Closed("before an answer".to_owned()));
                }
                Ok(false) => return Err(Failure::Closed("within a response's head".to_owned())),
                Err(error) => return Err(Failure::Closed(error.to_string())),
            }
        }
    }

    /// Reads the body to its end, into `sink` or nowhere; `false` if it was given up because nobody wants so much.
    async fn body(
        &mut self,
        framing: Framing,
        mut sink: Option<&mut Sink<'_>>,
    ) -> Result<bool, Failure> {
        let mut got = 0u64;
        let mut chunked = Chunked::new();
        loop {
            // What of the unread bytes is the body's.
            let unread = self.unread();
            let (skip, take, ended) = match framing {
                Framing::Empty => return Ok(true),
                Framing::Length(length) => {
                    let left = length - got;
                    let take =
                        usize::try_from(left).map_or(unread.len(), |left| left.min(unread.len()));
                    (0, take, take as u64 == left)
                }
                Framing::Close => (0, unread.len(), false),
                Framing::Chunked => match chunked.step(unread)? {
                    Step::More(skip) => (skip, 0, false),
                    Step::Body { skip, take } => (skip, take, false),
                    Step::End(skip) => (skip, 0, true),
                },
            };
            if take > 0 {
                let piece = unread.get(skip..skip + take).unwrap_or_default();
                if let Some(sink) = &mut sink {
                    sink.body(piece)?;
                }
            }
            got += take as u64;
            self.start += skip + take;
            if ended {
                return Ok(true);
            }
            if sink.is_none() && got > PASSED_OVER_MAX {
                return Ok(false);
            }
            if let Some(ahead) = sink.as_ref().and_then(|sink| sink.pace()) {
                tokio::time::sleep(ahead).await;
            }
            if self.start < self.end {
                continue;
            }
            let cut = |want| Failure::Truncated { got, want };
            match (self.more().await, framing) {
                (Ok(true), _) => {}
                (Ok(false), Framing::Close) => return Ok(true),
                (Ok(false), Framing::Length(length)) => return Err(cut(Some(length))),
                (Ok(false), _) => return Err(cut(chunked.lacks().map(|left| got + left))),
                // A reset, or TLS that ends without saying so: for each framing the same as too few bytes.
                (Err(error), Framing::Close | Framing::Empty) => {
                    return Err(Failure::Closed(error.to_string()));
                }
                (Err(_), Framing::Length(length)) => return Err(cut(Some(length))),
                (Err(_), Framing::Chunked) => {
                    return Err(cut(chunked.lacks().map(|left| got + left)));
                }
            }
        }
    }
}
