//! The connection as the HTTP/3 library sees it: the transport's own adapters with a guard on each side.
//!
//! Request streams may be looked at, and kept, before the library hears of them (`express.rs`). What comes in passes a [`Gate`]. What goes out can be watched: the library shows no way to learn that a client has
//! stopped a response it waits for, so an empty DATA frame, which nobody sends, stands for "wait until the client stops
//! this stream, or has acknowledged its end".

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use stoq::h3::Payload;
use stoq::quic::{BiAcceptor, RecvStream, SendStream, WriteError};

use super::express::{Beside, Taken};
use super::gate::{Gate, GateError};

/// Streams that are looked at without letting the runtime's other tasks run: at 2–10 µs each, below half a millisecond.
const LOOKS_MAX: u32 = 32;

/// Looks at a stream before the library does, and may keep it.
pub(super) type Look =
    Box<dyn FnMut(&mut Context<'_>, SendStream, RecvStream) -> Taken + Send + 'static>;

/// An accepted connection, guarded. Server side only: request streams are the peer's.
pub(super) struct Guarded {
    inner: stoq::h3::Connection,
    streams: BiAcceptor,
    look: Look,
    beside: Arc<Beside>,
    held_max: u64,
}

impl Guarded {
    /// `held_max` bounds an encoded field section, bytes. Streams that `beside` admits are shown to `look` first.
    pub(super) fn new(
        connection: stoq::quic::Connection,
        held_max: u64,
        look: Look,
        beside: Arc<Beside>,
    ) -> Self {
        Self {
            streams: connection.bi_acceptor(),
            inner: stoq::h3::Connection::new(connection),
            look,
            beside,
            held_max,
        }
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Opens the streams that are ours.
#[derive(Debug)]
pub(super) struct Openers {
    inner: stoq::h3::OpenStreams,
    held_max: u64,
}

impl quic::Connection<Payload> for Guarded {
    type RecvStream = GatedRecv;
    type OpenStreams = Openers;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<GatedRecv, ConnectionErrorIncoming>> {
        quic::Connection::<Payload>::poll_accept_recv(&mut self.inner, cx).map_ok(|recv| {
            GatedRecv {
                inner: recv,
                gate: Gate::unidirectional(),
            }
        })
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<GuardedBidi, ConnectionErrorIncoming>> {
        for _ in 0..LOOKS_MAX {
            let (send, recv) = ready!(self.streams.poll_accept(cx)).map_err(stoq::h3::closed)?;
            let id = send.id();
            let taken = if self.beside.admits(id) {
                (self.look)(cx, send, recv)
            } else {
                Taken::Left(send, recv, Bytes::new())
            };
            match taken {
                Taken::Done => {}
                Taken::Aside(aside) => {
                    // The connection's loop takes it before it comes back here.
                    self.beside.push(aside);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Taken::Left(send, recv, first) => {
                    self.beside.left(id);
                    let bidi = stoq::h3::BidiStream::accepted(send, recv);
                    return Poll::Ready(Ok(GuardedBidi::resumed(bidi, self.held_max, first)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn opener(&self) -> Openers {
        Openers {
            inner: quic::Connection::<Payload>::opener(&self.inner),
            held_max: self.held_max,
        }
    }
}

impl quic::OpenStreams<Payload> for Guarded {
    type BidiStream = GuardedBidi;
    type SendStream = WatchedSend;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<GuardedBidi, StreamErrorIncoming>> {
        let held_max = self.held_max;
        quic::OpenStreams::<Payload>::poll_open_bidi(&mut self.inner, cx)
            .map_ok(|bidi| GuardedBidi::new(bidi, held_max))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WatchedSend, StreamErrorIncoming>> {
        quic::OpenStreams::<Payload>::poll_open_send(&mut self.inner, cx).map_ok(WatchedSend::new)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Payload>::close(&mut self.inner, code, reason);
    }
}

impl quic::OpenStreams<Payload> for Openers {
    type BidiStream = GuardedBidi;
    type SendStream = WatchedSend;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<GuardedBidi, StreamErrorIncoming>> {
        let held_max = self.held_max;
        quic::OpenStreams::<Payload>::poll_open_bidi(&mut self.inner, cx)
            .map_ok(|bidi| GuardedBidi::new(bidi, held_max))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WatchedSend, StreamErrorIncoming>> {
        quic::OpenStreams::<Payload>::poll_open_send(&mut self.inner, cx).map_ok(WatchedSend::new)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Payload>::close(&mut self.inner, code, reason);
    }
}

/// A request stream.
#[derive(Debug)]
pub(super) struct GuardedBidi {
    send: WatchedSend,
    recv: GatedRecv,
}

impl GuardedBidi {
    fn new(bidi: stoq::h3::BidiStream<Payload>, held_max: u64) -> Self {
        Self::resumed(bidi, held_max, Bytes::new())
    }

    /// A stream of which `first` was read already.
    fn resumed(bidi: stoq::h3::BidiStream<Payload>, held_max: u64, first: Bytes) -> Self {
        let (send, recv) = quic::BidiStream::<Payload>::split(bidi);
        Self {
            send: WatchedSend::new(send),
            recv: GatedRecv {
                inner: recv,
                gate: Gate::resumed(held_max, first),
            },
        }
    }
}

impl quic::BidiStream<Payload> for GuardedBidi {
    type SendStream = WatchedSend;
    type RecvStream = GatedRecv;

    fn split(self) -> (WatchedSend, GatedRecv) {
        (self.send, self.recv)
    }
}

impl quic::SendStream<Payload> for GuardedBidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Payload>>>(
        &mut self,
        data: T,
    ) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for GuardedBidi {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let polled = self.recv.poll_data(cx);
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.1.2
        //# Malformed requests or responses that are detected MUST be treated as a
        //# stream error of type H3_MESSAGE_ERROR.
        if let Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code })) = &polled
            && *error_code == Code::H3_MESSAGE_ERROR.value()
        {
            quic::SendStream::<Payload>::reset(&mut self.send, *error_code);
            quic::RecvStream::stop_sending(&mut self.recv, *error_code);
        }
        polled
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

/// A stream of the client's, gated.
#[derive(Debug)]
pub(super) struct GatedRecv {
    inner: stoq::h3::RecvStream,
    gate: Gate,
}

impl quic::RecvStream for GatedRecv {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if let Some(piece) = self.gate.next_piece().map_err(gate_error)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            match ready!(self.inner.poll_data(cx))? {
                Some(chunk) => self.gate.push(chunk),
                None => return Poll::Ready(self.gate.end().map(|()| None).map_err(gate_error)),
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.inner.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.inner.recv_id()
    }
}

/// Shown to the library as if the client had reset the stream so; the connection's task acts on the code.
fn gate_error(error: GateError) -> StreamErrorIncoming {
    let code = match error {
        GateError::TooLarge { .. } => Code::H3_EXCESSIVE_LOAD,
        GateError::Truncated => Code::H3_FRAME_ERROR,
        GateError::PseudoField => Code::H3_MESSAGE_ERROR,
    };
    StreamErrorIncoming::StreamTerminated {
        error_code: code.value(),
    }
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<u64>, WriteError>> + Send>>;

/// A stream of ours that can be watched.
pub(super) struct WatchedSend {
    inner: stoq::h3::SendStream<Payload>,
    watching: bool,
    /// Made at the first watch: a hit never needs one.
    stopped: Option<Stopped>,
}

impl WatchedSend {
    fn new(inner: stoq::h3::SendStream<Payload>) -> Self {
        Self {
            inner,
            watching: false,
            stopped: None,
        }
    }
}

impl std::fmt::Debug for WatchedSend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedSend")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// The sign for [`WatchedSend`]: an empty DATA frame.
const WATCH: [u8; 2] = [0, 0];

impl quic::SendStream<Payload> for WatchedSend {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if !self.watching {
            return self.inner.poll_ready(cx);
        }
        let inner = &self.inner;
        let stopped = self
            .stopped
            .get_or_insert_with(|| Box::pin(inner.stopped()));
        let outcome = ready!(stopped.as_mut().poll(cx));
        self.watching = false;
        self.stopped = None;
        Poll::Ready(match outcome {
            Ok(None) => Ok(()),
            Ok(Some(error_code)) => Err(StreamErrorIncoming::StreamTerminated { error_code }),
            Err(error) => Err(StreamErrorIncoming::Unknown(Box::new(error))),
        })
    }

    fn send_data<T: Into<WriteBuf<Payload>>>(
        &mut self,
        data: T,
    ) -> Result<(), StreamErrorIncoming> {
        let frame = data.into();
        self.watching = frame.remaining() == WATCH.len() && frame.chunk() == WATCH;
        if self.watching {
            Ok(())
        } else {
            self.inner.send_data(frame)
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.inner.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.inner.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.inner.send_id()
    }
}
